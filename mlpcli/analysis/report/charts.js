"use strict";
// Line charts over epochs, and dot charts, as SVG. A chart is redrawn when its width changes, so its text keeps its
// size.

const MARGIN = { top: 12, right: 92, bottom: 30, left: 56 };

// Draws `plot(width)` in `picture`, again after each change of its width in pixels. Returns a function that redraws it.
function fitted(picture, plot) {
  let width = 0;
  const draw = () => width && picture.replaceChildren(plot(width));
  new ResizeObserver(() => {
    if (picture.clientWidth === width || !picture.clientWidth) return;
    width = picture.clientWidth;
    draw();
  }).observe(picture);
  return draw;
}

// `series` is a list of { name, values }, with a value, or null, for each of `epochs`, or for each position in its own
// `at`. It may have a `style`, the class of its line, a `band` of [lows, highs], and `quiet`: then it has no label and
// is not in the readout. `format(value, tick)` returns a value, or a tick, as text; `log` asks for a log scale, for
// positive values only; `best` is the epoch to mark; `unit` is the unit of the x axis, and `along` formats its values
// if they are not counts. `figure.redraw(options)` draws the chart with other options.
function lineChart(first) {
  const readout = element("span", { class: "readout" });
  const picture = element("div");
  const heading = element("b");
  const figure = element("figure", { class: "chart" }, element("figcaption", {}, heading, readout), picture);
  let title, epochs, format, log, best, unit, along, drawn, label, rest;
  let pointed = null; // the x of the pointer, as a fraction of the width
  figure.redraw = (options) => {
    ({ title, epochs, format, log = false, best = null, unit = "epoch", along = null } = options);
    drawn = options.series
      .map((each, i) => ({ style: `s${i % 4}`, at: epochs, ...each }))
      .filter(({ values }) => values.some((value) => value !== null));
    const summary = drawn
      .filter(({ quiet }) => !quiet)
      .map(({ name, values }) => {
        const known = values.filter((value) => value !== null);
        return `${name} from ${format(known[0])} to ${format(known[known.length - 1])}`;
      });
    const [from, to] = ends();
    const textAt = (at) => (along ? along(at) : String(at));
    label = `${title}, ${unit}s ${textAt(from)} to ${textAt(to)}: ${summary.slice(0, 8).join("; ")}.`;
    heading.textContent = title;
    rest = best === null ? "" : `best ${unit} ${best}`;
    readout.textContent = rest;
    draw();
  };
  const draw = fitted(picture, plot);
  figure.redraw(first);
  return figure;

  // The first and the last position on the x axis.
  function ends() {
    const places = drawn.flatMap(({ at }) => [at[0], at[at.length - 1]]);
    return [Math.min(...places), Math.max(...places)];
  }

  function plot(width) {
    const height = clamp(width * 0.52, 190, 270);
    const [left, right, bottom] = [MARGIN.left, width - MARGIN.right, height - MARGIN.bottom];
    const all = drawn.flatMap(({ values, band }) => [values, ...(band ?? [])].flat().filter((value) => value !== null));
    const axis = log ? logAxis(all) : linearAxis(all);
    const [first, last] = ends();
    const x = (epoch) => left + (first === last ? 0.5 : (epoch - first) / (last - first)) * (right - left);
    const y = (value) => bottom - axis.share(value) * (bottom - MARGIN.top);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    for (const tick of axis.ticks) {
      root.append(
        svg("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
        svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, format(tick, true)),
      );
    }
    for (const epoch of along ? placeTicks(first, last) : epochTicks(first, last)) {
      const text = along ? along(epoch) : count(epoch);
      root.append(svg("text", { x: x(epoch), y: height - 10, "text-anchor": "middle" }, text));
    }
    root.append(svg("text", { x: left - 16, y: height - 10, "text-anchor": "end" }, unit));
    const upright = (at) => svg("line", { class: "rule", x1: at, x2: at, y1: MARGIN.top, y2: bottom });
    if (best !== null) root.append(upright(x(best)));
    for (const { values, at, style, band } of drawn) {
      const place = (value, n) => (value === null ? null : [x(at[n]).toFixed(1), y(value).toFixed(1)]);
      const points = values.map(place).filter((point) => point !== null);
      const line = (some) => some.map((point) => point.join(" ")).join("L");
      if (band) {
        const [lows, highs] = band.map((edge) => edge.map(place).filter((point) => point !== null));
        root.append(svg("path", { class: `band ${style}`, d: `M${line(lows)}L${line(highs.reverse())}Z` }));
      }
      root.append(svg("path", { class: style, d: `M${line(points)}` }));
      const r = points.length === 1 ? 4 : 2.2;
      if (points.length >= 32) continue;
      root.append(...points.map(([cx, cy]) => svg("circle", { class: style, cx, cy, r })));
    }
    root.append(...names(right, y, height - 2));
    const rule = upright(left);
    root.append(rule);
    const listed = drawn.filter(({ quiet }) => !quiet);
    const point = () => {
      rule.setAttribute("visibility", pointed === null ? "hidden" : "visible");
      readout.textContent = rest;
      if (pointed === null) return;
      const wanted = pointed * width;
      const nearby = listed.map(({ at }) => at[nearest(at.map(x), wanted)]);
      const epoch = nearby[nearest(nearby.map(x), wanted)];
      for (const side of ["x1", "x2"]) rule.setAttribute(side, x(epoch));
      const values = listed.map(({ name, values, at }) => {
        const value = values[nearest(at, epoch)];
        return `${name} ${value === null || value === undefined ? "–" : format(value)}`;
      });
      readout.textContent = `${unit} ${along ? along(epoch) : Number(epoch.toFixed(2))}: ${values.join(", ")}`;
    };
    root.addEventListener("pointermove", (event) => {
      const place = root.getBoundingClientRect();
      pointed = (event.clientX - place.left) / place.width;
      point();
    });
    root.addEventListener("pointerleave", () => {
      pointed = null;
      point();
    });
    point();
    return root;
  }

  // Labels at the ends of the lines, moved apart where they overlap, and none below `lowest`.
  function names(right, y, lowest) {
    const last = (values) => values.reduce((before, value) => (value === null ? before : value), null);
    const named = drawn.filter(({ quiet }) => !quiet);
    const ends = named.map(({ name, style, values }) => ({ name, style, at: y(last(values)) + 4 }));
    ends.sort((a, b) => a.at - b.at);
    ends.forEach((end, n) => n && (end.at = Math.max(end.at, ends[n - 1].at + 15)));
    [...ends].reverse().reduce((below, end) => (end.at = Math.min(end.at, below - 15)), lowest + 15);
    return ends.map((end) => svg("text", { class: `label ${end.style}`, x: right + 8, y: end.at }, end.name));
  }
}

// A chart of `dots` { name, x, y, style }. `format` is for y and `along` for x; `log` and `logX` ask for log scales;
// `places` are the categories of the x axis, if x are indices of these.
function dotChart({ title, dots, format, along = String, unit, log = false, logX = false, places = null }) {
  const picture = element("div");
  const readout = element("span", { class: "readout" });
  const figure = element("figure", { class: "chart" });
  figure.append(element("figcaption", {}, element("b", {}, title), readout), picture);
  fitted(picture, plot);
  return figure;

  function plot(width) {
    const height = clamp(width * 0.6, 180, 240);
    const [left, right, bottom] = [MARGIN.left, width - 24, height - MARGIN.bottom - 14];
    const [xs, ys] = [dots.map(({ x }) => x), dots.map(({ y }) => y)];
    const down = log ? logAxis(ys) : linearAxis(ys);
    const across = places
      ? { ticks: places.map((_, n) => n), share: (n) => (n + 0.5) / places.length }
      : logX
        ? logAxis(xs)
        : spanAxis(xs);
    const x = (value) => left + across.share(value) * (right - left);
    const y = (value) => bottom - down.share(value) * (bottom - MARGIN.top);
    const said = dots.slice(0, 12).map((dot) => `${dot.name}: ${places ? places[dot.x] : along(dot.x)}, ${format(dot.y)}`);
    const label = `${title}: ${plural(dots.length, "dot")}. ${said.join("; ")}.`;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    for (const tick of down.ticks) {
      root.append(
        svg("line", { class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick) }),
        svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, format(tick, true)),
      );
    }
    const maxLength = (right - left) / across.ticks.length / 6.5; // characters
    for (const tick of across.ticks) {
      const text = places ? places[tick] : along(tick);
      const short = text.length > maxLength && places ? `${text.slice(0, Math.max(1, maxLength - 1))}…` : text;
      root.append(svg("text", { x: x(tick), y: height - 26, "text-anchor": "middle" }, short));
    }
    root.append(svg("text", { x: (left + right) / 2, y: height - 6, "text-anchor": "middle" }, unit));
    // Grey dots first, so that none hides a picked one.
    const drawn = [...dots].sort((one, other) => (other.style === "other") - (one.style === "other"));
    for (const dot of drawn) {
      const words = `${dot.name}: ${places ? places[dot.x] : along(dot.x)}, ${format(dot.y)}`;
      const circle = svg("circle", { class: dot.style, cx: x(dot.x), cy: y(dot.y), r: 5 }, svg("title", {}, words));
      circle.addEventListener("pointerenter", () => (readout.textContent = words));
      circle.addEventListener("pointerleave", () => (readout.textContent = ""));
      root.append(circle);
    }
    return root;
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
  const margin = Math.max(0.05 * (high - low), 0.1);
  const [from, to] = [low - margin, high + margin];
  const decades = [];
  for (let power = Math.floor(from); power <= Math.ceil(to); power++) decades.push(power);
  // 1, 2 and 5 within a decade or two; else whole decades, and only some of many.
  const every = Math.ceil((to - from) / 6);
  const within = to - from < 1.8 ? [1, 2, 5] : [1];
  const ticks = decades
    .filter((power) => power % every === 0)
    .flatMap((power) => within.map((nice) => Number(`${nice}e${power}`)))
    .filter((tick) => Math.log10(tick) >= from && Math.log10(tick) <= to);
  return { ticks, share: (value) => (value > 0 ? (Math.log10(value) - from) / (to - from) : 0) };
}

// A few whole epochs with the first and the last; round numbers if an end is no integer.
function epochTicks(first, last) {
  if (!Number.isInteger(first) || !Number.isInteger(last)) return placeTicks(first, last);
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

// A few round numbers between `first` and `last`.
function placeTicks(first, last) {
  if (first === last) return [first];
  const rough = (last - first) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((nice) => nice * power).find((nice) => nice >= rough);
  const ticks = [];
  for (let n = Math.ceil(first / step); n * step <= last; n++) ticks.push(Number((n * step).toPrecision(12)));
  return ticks;
}

// An axis from the minimum to the maximum of `values`, with a margin at both ends.
function spanAxis(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return { ticks: placeTicks(low, high), share: (value) => (value - low + margin) / (high - low + 2 * margin) };
}
