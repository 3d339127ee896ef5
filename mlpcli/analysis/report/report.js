"use strict";
// Joins it all: reads the document, fills the page, and lets the parts know each other.

const run = JSON.parse(byId("document").textContent);
CLASS_NAMES.push(...run.network.class_names);
const MOST_TILES = 1024;

// Light or dark: as the system says, until the button is pressed.
function theme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = byId("theme");
  let chosen = null;
  const apply = () => {
    const dark = chosen ?? system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light mode" : "Dark mode";
  };
  system.addEventListener("change", apply);
  button.addEventListener("click", () => {
    chosen = !(chosen ?? system.matches);
    apply();
  });
  apply();
}

// Says `text` to who listens instead of looking; only the last thing said within half a second.
let speaking = 0;
function announce(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => (byId("status").textContent = text), 500);
}

function head() {
  const { sizes, activation, objective, parameters, dtype } = run.network;
  const shown = sizes.length > 10 ? [...sizes.slice(0, 5), "…", ...sizes.slice(-2)] : sizes;
  const units = [sizes.length > 2 && `${activation} units`, objective.replaceAll("_", " ")].filter(Boolean).join(", ");
  byId("form").textContent = `${shown.join(" – ")}, ${units}, trained on ${run.dataset}`;
  const facts = [];
  const fact = (name, value, note = "") => facts.push([name, value, note]);
  const { checkpoint, look } = run;
  if (run.run) {
    const { validation_error, best_epoch, train_error, epochs, max_epochs, state, seconds } = run.run;
    if (validation_error !== null) fact("Validation error", percent(validation_error), `best, of epoch ${best_epoch}`);
    else if (train_error !== null) fact("Training error", percent(train_error), `running mean of epoch ${epochs}`);
    test();
    fact("Epochs", `${count(epochs)}`, epochs === max_epochs ? state : `of ${count(max_epochs)}, ${state}`);
    const speeds = run.epochs.map((epoch) => epoch.examples_per_second);
    const speed = speeds.reduce((total, each) => total + each, 0) / speeds.length;
    if (epochs) fact("Training time", duration(seconds), `${count(Math.round(speed))} images a second`);
  } else test();
  fact("Network", shown.join(" – "), units);
  fact("Data set", run.dataset);
  fact("Parameters", count(parameters), dtype);
  fact("Checkpoint", checkpoint.name, `of epoch ${count(checkpoint.epoch)}`);
  byId("summary").append(
    ...facts.map(([name, value, note]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value), element("dd", { class: "small" }, note)),
    ),
  );
  byId("fallback").hidden = run.fallback_from === null;
  byId("fallback").textContent =
    `Trained on ${run.dataset}, as ${run.fallback_from} could not be had: these are no ${run.fallback_from} results.`;

  // The look at the test set that this page is made of, else the run's own.
  function test() {
    const found = look && look.split === "test" ? look : run.test;
    if (found) fact("Test error", percent(found.error), `${count(found.errors)} of ${count(found.examples)} images`);
  }
}

function curves() {
  const { epochs } = run;
  byId("no-curves").hidden = epochs.length > 0;
  byId("no-curves").textContent = run.run
    ? "The run has no metrics."
    : "The checkpoint lies in no run, so how it was learnt is not known.";
  byId("epochs-details").hidden = epochs.length === 0;
  if (epochs.length === 0) return;
  const at = epochs.map(({ epoch }) => epoch);
  const of = (key) => epochs.map((record) => record[key]);
  // A tick has as many digits as it needs, a value as many as mean something.
  const share = (value, tick) => (tick ? `${Number((100 * value).toPrecision(6))} %` : percent(value));
  const value = (each, tick) => (tick ? String(Number(each.toPrecision(6))) : each.toPrecision(3));
  const best = run.run.best_epoch;
  const layers = Array(epochs[0].gradient_norm.length).fill();
  const byLayer = (key, few) => {
    const wanted = few.length > 4 ? [0, 1, few.length - 2, few.length - 1] : few.map((_, l) => l);
    return wanted.map((l) => ({ name: `layer ${l + 1}`, values: epochs.map((record) => record[key][l]) }));
  };
  const pair = (what) => [
    { name: "validation", values: of(`validation_${what}`) },
    { name: "training", values: of(`train_${what}`) },
  ];
  // A logarithm is for what falls over magnitudes, and never to 0.
  const overMagnitudes = (series) => {
    const known = series.flatMap(({ values }) => values.filter((value) => value !== null));
    return Math.min(...known) > 0 && Math.max(...known) >= 5 * Math.min(...known);
  };
  const charts = [
    { title: "Error", series: pair("error"), format: share, best },
    { title: "Loss", series: pair("loss"), format: value, best },
    { title: "Gradient norm of each epoch's last full batch", series: byLayer("gradient_norm", layers), format: value },
  ];
  if (epochs[0].saturation && epochs[0].saturation.length) {
    const series = byLayer("saturation", epochs[0].saturation);
    charts.push({ title: "Saturated hidden units, |z| > 4.6", series, format: share, linear: true });
  }
  for (const chart of charts) {
    const log = !chart.linear && overMagnitudes(chart.series);
    const title = chart.title + (log ? ", log scale" : "");
    byId("charts").append(lineChart({ ...chart, title, epochs: at, log }));
  }
  const scores = ["train_loss", "train_error", "validation_loss", "validation_error"];
  const columns = ["epoch", "learning_rate", ...scores, "seconds"];
  const shown = (key, value) => {
    if (value === null) return "–";
    if (key === "epoch") return count(value);
    return key.endsWith("error") ? percent(value) : value.toPrecision(4);
  };
  const heads = columns.map((key) => key.replaceAll("_", " "));
  table("epochs", heads, epochs.map((record) => columns.map((key) => shown(key, record[key]))));
}

function table(id, heads, rows) {
  const line = (name, attributes, texts) => element("tr", {}, ...texts.map((text) => element(name, attributes, text)));
  byId(id).append(
    element("thead", {}, line("th", { scope: "col" }, heads)),
    element("tbody", {}, ...rows.map((row) => line("td", {}, row))),
  );
}

// The images in the page, and the sample of them whose error is measured while one teaches the network; null if none.
function stockOf({ look, network }) {
  if (look === null) return null;
  const [rows, columns] = network.image_shape;
  const size = rows * columns;
  const all = spread(bytesOf(byId("image-bytes").textContent), look.images.length * size);
  const labels = look.images.slice(0, look.sample).map(([, label]) => label);
  return { name: look.split, all, size, labels };
}

function images(bench, stock) {
  const { look } = run;
  byId("look-body").hidden = look === null;
  byId("no-images").hidden = look !== null;
  byId("no-images").textContent = run.no_images ?? "";
  if (look === null) return;
  const { examples, errors, error, interval, loss, calibration_error, split, dataset } = look;
  const range = `${percent(error)} (${percent(interval.low)} to ${percent(interval.high)}, 95 % interval)`;
  const calibrated = calibration_error === null ? "" : `; expected calibration error ${percent(calibration_error)}`;
  const { multi_label } = look;
  const labels = multi_label
    ? ` (an image whose labels are not all right is one; label error ${percent(multi_label.label_error)}, micro F1 ${percent(multi_label.micro_f1)}, macro F1 ${percent(multi_label.macro_f1)})`
    : "";
  const found = `${plural(errors, "error")}, ${range}; loss ${loss.toPrecision(4)}${calibrated}${labels}`;
  byId("look").textContent = `${count(examples)} ${split} images of ${dataset}: ${found}.`;
  const { size } = stock;
  const pixelsOf = (position) => stock.all.subarray(position * size, (position + 1) * size);
  const show = (position) => bench.show(pixelsOf(position), look.images[position][1]);
  const open = (position) => {
    show(position);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    byId("draw").scrollIntoView({ behavior: still ? "auto" : "smooth" });
    byId("sheet").focus({ preventScroll: true });
  };
  new Confusion(look, run.network.image_shape, run.network.probabilities, pixelsOf, bench && open);
  if (bench && look.images.length) {
    let turn = 0;
    byId("example").hidden = false;
    byId("example").addEventListener("click", () => {
      // One after the other, mistakes and all, in an order that mixes them: 7919 is a prime.
      turn = (turn + 7919) % look.images.length;
      show(turn);
    });
  }
  const scores = ({ precision, recall, f1 }) => [precision, recall, f1].map((share) => percent(share));
  const wrong = look.multi_label?.label_errors;
  const rowOf = (each) => [run.network.class_names[each.label], count(each.examples), ...scores(each), ...(wrong ? [percent(wrong[each.label])] : [])];
  const heads = ["class", "images", "precision", "recall", "F1", ...(wrong ? ["label error"] : [])];
  table("classes", heads, look.per_class.map(rowOf));
}

function weights(network) {
  byId("weights").hidden = network === null;
  if (network === null) return;
  const hidden = network.sizes.length > 2;
  const all = network.sizes[1];
  const units = Math.min(all, MOST_TILES);
  const some = `each of ${units < all ? `the first ${count(units)} of ` : ""}${plural(all, "hidden unit")}`;
  byId("weights-note").textContent = "Where ink falls on blue it raises the weighted input, on orange it lowers it.";
  byId("weights-summary").textContent = hidden ? `Of ${some}` : `Of each class, from 0 to ${all - 1}`;
  const canvas = byId("mosaic");
  const each = hidden ? "hidden unit" : "class";
  canvas.setAttribute("aria-label", `${count(units)} images of first-layer weights, one a ${each}.`);
  const longest = Math.max(...network.image_shape);
  const zoom = Math.max(1, Math.min(units > 64 ? 1 : 3, Math.round((units > 64 ? 28 : 84) / longest)));
  const scale = weightScale(network.W[0]);
  let width = 0;
  new ResizeObserver(() => {
    const room = byId("mosaic-box").clientWidth;
    if (room === width || !room) return;
    paintMosaic(canvas, network, units, (width = room), zoom, scale);
  }).observe(byId("mosaic-box"));
}

function origin() {
  byId("config").textContent = run.config;
  const list = (id, entries) => {
    byId(`${id}-title`).hidden = entries.length === 0;
    byId(id).append(...entries.flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, String(value))]));
  };
  const { manifest } = run;
  const resumed = manifest ? manifest.resumed.map(({ epoch }) => ["resumed", `after epoch ${epoch}`]) : [];
  const began = manifest ? [["started", manifest.started], ...Object.entries(manifest.environment)] : [];
  list("environment", [...began, ...resumed]);
  list("hashes", manifest ? Object.entries(manifest.data.hashes) : []);
}

// The formulas of the board, in the notation of mlpcli/model/network.py.
function formulas({ sizes, objective, probabilities, image_shape, preprocessing }) {
  const [L, [rows, columns]] = [sizes.length - 1, image_shape];
  const below = L > 1 ? `a${subscript(L - 1)}` : "x";
  const z = `${below} W${subscript(L)} + b${subscript(L)}`;
  const made = preprocessing ? `, ${preprocessing}ed` : "";
  byId("seen-note").textContent = `x: ${rows} × ${columns} pixels${made}`;
  byId("output-formula").textContent = `p = ${OBJECTIVES[objective].written.p(z)}`;
  const notes = {
    sigmoid_cross_entropy: "Each output is a probability of its own: they need not sum to 100 %.",
    sigmoid_quadratic: "Each output is a probability of its own: they need not sum to 100 %.",
  };
  byId("outputs-note").textContent = probabilities
    ? (notes[objective] ?? "")
    : "These outputs are scores, not probabilities: only which is the largest counts.";
  byId("invitation").textContent = run.board.normalise ? "Draw a digit" : "Draw here";
}

theme();
head();
curves();
const weightBytes = byId("weight-bytes").textContent;
const network = weightBytes ? Network.of(run.network, bytesOf(weightBytes)) : null;
const drawable = run.board.why_not === null;
byId("no-board").hidden = drawable;
byId("no-board").textContent = run.board.why_not ?? "";
byId("bench").hidden = !drawable;
if (drawable) formulas(run.network);
const stock = stockOf(run);
const bench = drawable ? new Bench(network, run.board.normalise, announce, stock) : null;
images(bench, stock);
weights(network);
neuron();
origin();
