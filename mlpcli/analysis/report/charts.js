"use strict";
// Lines over epochs, as SVG. A chart is drawn anew when its room changes, so that its words keep their size.

const MARGIN = { top: 12, right: 92, bottom: 30, left: 56 };

// `series` is a list of { name, values }, a value an epoch of `epochs`, null where there is none; `format` makes a
// value text, a tick's where its second argument is true; `log` asks for a log scale, which takes positive
// values only; `best` is the epoch to mark; `unit` is what the numbers of the axis count.
function lineChart({ title, epochs, series, format, log = false, best = null, unit = "epoch" }) {
  const drawn = series.filter(({ values }) => values.some((value) => value !== null));
  const readout = element("span", { class: "readout" });
  const picture = element("div");
  const caption = element("figcaption", {}, element("b", {}, title), readout);
  const figure = element("figure", { class: "chart" }, caption, picture);
  const summary = drawn.map(({ name, values }) => {
    const known = values.filter((value) => value !== null);
    return `${name} from ${format(known[0])} to ${format(known[known.length - 1])}`;
  });
  const label = `${title}, ${unit}s ${epochs[0]} to ${epochs[epochs.length - 1]}: ${summary.join("; ")}.`;
  const rest = best === null ? "" : `best ${unit} ${best}`;
  readout.textContent = rest;
  let width = 0;
  new ResizeObserver(() => {
    if (picture.clientWidth === width || !picture.clientWidth) return;
    width = picture.clientWidth;
    picture.replaceChildren(plot(width, label));
  }).observe(picture);
  return figure;

  function plot(width, label) {
    const height = clamp(width * 0.52, 190, 270);
    const [left, right, bottom] = [MARGIN.left, width - MARGIN.right, height - MARGIN.bottom];
    const all = drawn.flatMap(({ values }) => values.filter((value) => value !== null));
    const axis = log ? logAxis(all) : linearAxis(all);
    const [first, last] = [epochs[0], epochs[epochs.length - 1]];
    const x = (epoch) => left + (first === last ? 0.5 : (epoch - first) / (last - first)) * (right - left);
    const y = (value) => bottom - axis.share(value) * (bottom - MARGIN.top);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    for (const tick of axis.ticks) {
      root.append(
        svg("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
        svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, format(tick, true)),
      );
    }
    for (const epoch of epochTicks(first, last)) {
      root.append(svg("text", { x: x(epoch), y: height - 10, "text-anchor": "middle" }, count(epoch)));
    }
    root.append(svg("text", { x: left - 16, y: height - 10, "text-anchor": "end" }, unit));
    const upright = (at) => svg("line", { class: "rule", x1: at, x2: at, y1: MARGIN.top, y2: bottom });
    if (best !== null) root.append(upright(x(best)));
    drawn.forEach(({ values }, i) => {
      const known = values.map((value, at) => [value, epochs[at]]).filter(([value]) => value !== null);
      const points = known.map(([value, epoch]) => [x(epoch).toFixed(1), y(value).toFixed(1)]);
      root.append(svg("path", { class: `s${i % 4}`, d: `M${points.map((point) => point.join(" ")).join("L")}` }));
      const r = points.length === 1 ? 4 : 2.2;
      if (points.length >= 32) return;
      root.append(...points.map(([cx, cy]) => svg("circle", { class: `s${i % 4}`, cx, cy, r })));
    });
    root.append(...names(right, y));
    const rule = upright(left);
    rule.setAttribute("visibility", "hidden");
    root.append(rule);
    root.addEventListener("pointermove", (event) => {
      const place = root.getBoundingClientRect();
      const at = nearest(epochs.map(x), ((event.clientX - place.left) / place.width) * width);
      for (const side of ["x1", "x2"]) rule.setAttribute(side, x(epochs[at]));
      rule.setAttribute("visibility", "visible");
      const values = drawn.map(({ name, values }) => `${name} ${values[at] === null ? "–" : format(values[at])}`);
      readout.textContent = `${unit} ${epochs[at]}: ${values.join(", ")}`;
    });
    root.addEventListener("pointerleave", () => {
      rule.setAttribute("visibility", "hidden");
      readout.textContent = rest;
    });
    return root;
  }

  // Names stand at the ends of their lines, pushed apart where those meet.
  function names(right, y) {
    const last = (values) => values.reduce((before, value) => (value === null ? before : value), null);
    const ends = drawn.map(({ name, values }, i) => ({ name, i, at: y(last(values)) + 4 })).sort((a, b) => a.at - b.at);
    return ends.map((end, n) => {
      if (n) end.at = Math.max(end.at, ends[n - 1].at + 15);
      return svg("text", { class: `label s${end.i % 4}`, x: right + 8, y: end.at }, end.name);
    });
  }
}

function linearAxis(values) {
  const top = Math.max(...values) || 1;
  const rough = top / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((nice) => nice * power).find((nice) => nice >= rough);
  const most = Math.ceil(top / step);
  const ticks = Array.from({ length: most + 1 }, (_, i) => i * step);
  return { ticks, share: (value) => value / (most * step) };
}

function logAxis(values) {
  const [low, high] = [Math.log10(Math.min(...values)), Math.log10(Math.max(...values))];
  const room = Math.max(0.05 * (high - low), 0.1);
  const [from, to] = [low - room, high + room];
  const decades = [];
  for (let power = Math.floor(from); power <= Math.ceil(to); power++) decades.push(power);
  // 1, 2, 5 within a decade or two; else whole decades, and of many only some.
  const every = Math.ceil((to - from) / 6);
  const within = to - from < 1.8 ? [1, 2, 5] : [1];
  const ticks = decades
    .filter((power) => power % every === 0)
    .flatMap((power) => within.map((nice) => Number(`${nice}e${power}`)))
    .filter((tick) => Math.log10(tick) >= from && Math.log10(tick) <= to);
  return { ticks, share: (value) => (value > 0 ? (Math.log10(value) - from) / (to - from) : 0) };
}

// A handful of whole epochs, the first and the last among them.
function epochTicks(first, last) {
  const span = last - first;
  if (span === 0) return [first];
  const power = 10 ** Math.floor(Math.log10(Math.max(span / 5, 1)));
  const step = [1, 2, 5, 10].map((nice) => nice * power).find((nice) => nice >= span / 6);
  const ticks = [first];
  for (let epoch = Math.ceil((first + 1) / step) * step; epoch < last; epoch += step) {
    if (epoch - first >= step / 2 && last - epoch >= step / 2) ticks.push(epoch);
  }
  return [...ticks, last];
}

function nearest(places, wanted) {
  return places.reduce((best, place, i) => (Math.abs(place - wanted) < Math.abs(places[best] - wanted) ? i : best), 0);
}
