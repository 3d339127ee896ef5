"use strict";
// Reads the document, fills the page and connects its parts. A live page is filled again with each newer document:
// drawing, choices and steps stay.

const MAX_TILES = 1024;
let run, // the document
  network = null, // the trained one
  sample = null, // images whose error is measured
  bench = null,
  confusion = null;
const steps = { at: [], losses: [] }; // the losses of steps, at fractional epochs; of a live run
const beside = { runs: [], picks: new Picks() }; // other runs, grey in the curves unless picked
const drawn = new Map(); // title -> chart

function head() {
  if (run.network === null) return facts([]);
  const { sizes, activation, objective, parameters, fixed, dtype } = run.network;
  const shown = sizes.length > 10 ? [...sizes.slice(0, 5), "…", ...sizes.slice(-2)] : sizes;
  const units = [sizes.length > 2 && `${activation} units`, objective.replaceAll("_", " ")].filter(Boolean).join(", ");
  byId("form").textContent = `${shown.join(" – ")}, ${units}, trained on ${run.dataset}`;
  const known = [];
  const fact = (name, value, note = "") => known.push([name, value, note]);
  const { checkpoint, evaluation } = run;
  if (run.run) {
    const { validation_error, best_epoch, train_error, epochs, max_epochs, state, seconds } = run.run;
    if (validation_error !== null) fact("Validation error", percent(validation_error), `best; epoch ${best_epoch}`);
    else if (train_error !== null) fact("Training error", percent(train_error), `running mean of epoch ${epochs}`);
    test();
    fact("Epochs", `${count(epochs)}`, epochs === max_epochs ? state : `of ${count(max_epochs)}, ${state}`);
    const speeds = run.epochs.map((epoch) => epoch.examples_per_second);
    const speed = speeds.reduce((total, each) => total + each, 0) / speeds.length;
    if (epochs) fact("Training time", duration(seconds), `${count(Math.round(speed))} images a second`);
  } else test();
  fact("Network", shown.join(" – "), units);
  fact("Data set", run.dataset);
  fact("Parameters", count(parameters), fixed ? `${count(fixed)} stay 0; ${dtype}` : dtype);
  fact("Checkpoint", checkpoint.name, `of epoch ${count(checkpoint.epoch)}`);
  facts(known);
  byId("fallback").hidden = run.fallback_from === null;
  byId("fallback").textContent =
    `Trained on ${run.dataset}, as ${run.fallback_from} was not available: ` +
    `these are not ${run.fallback_from} results.`;

  // The evaluation on the test set that this page shows, else the run's own.
  function test() {
    const found = evaluation && evaluation.split === "test" ? evaluation : run.test;
    if (found) fact("Test error", percent(found.error), `${count(found.errors)} of ${count(found.examples)} images`);
  }
}

function facts(known) {
  byId("summary").replaceChildren(
    ...known.map(([name, value, note]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, value), element("dd", { class: "small" }, note)),
    ),
  );
}

function curves() {
  const { epochs } = run;
  byId("no-curves").hidden = epochs.length > 0 || steps.at.length > 0;
  byId("no-curves").textContent = run.run
    ? "The run has no metrics."
    : "The checkpoint is in no run directory, so there are no learning curves.";
  byId("epochs-details").hidden = epochs.length === 0;
  if (epochs.length === 0 && steps.at.length === 0) return;
  const at = epochs.map(({ epoch }) => epoch);
  const of = (key) => epochs.map((record) => record[key]);
  const best = run.run.best_epoch;
  const byLayer = (key, few) => {
    const wanted = few.length > 4 ? [0, 1, few.length - 2, few.length - 1] : few.map((_, l) => l);
    return wanted.map((l) => ({ name: `layer ${l + 1}`, values: epochs.map((record) => record[key][l]) }));
  };
  const pair = (what) => [
    { name: "validation", values: of(`validation_${what}`) },
    { name: "training", values: of(`train_${what}`) },
  ];
  // The curves of other runs, drawn below; picked ones have a colour and a letter.
  const others = (what) =>
    beside.runs
      .filter(({ curve }) => curve.epoch.length)
      .map(({ name, curve }) => ({
        name: beside.picks.letter(name),
        values: curve[`validation_${what}`].some((value) => value !== null) ? curve[`validation_${what}`] : curve[`train_${what}`],
        at: curve.epoch,
        style: beside.picks.style(name),
        quiet: !beside.picks.has(name),
      }));
  const step = steps.at.length ? [{ name: "steps", values: steps.losses, at: steps.at, style: "steps" }] : [];
  const charts = [
    epochs.length && { title: "Error", series: [...others("error"), ...pair("error")], format: asShare, best },
    { title: "Loss", series: [...others("loss"), ...step, ...(epochs.length ? pair("loss") : [])], format: asValue, best },
  ];
  if (epochs.length) {
    const norms = byLayer("gradient_norm", Array(epochs[0].gradient_norm.length).fill());
    charts.push({ title: "Gradient norm of each epoch's last full batch", series: norms, format: asValue });
  }
  if (epochs.length && epochs[0].saturation && epochs[0].saturation.length) {
    const series = byLayer("saturation", epochs[0].saturation);
    charts.push({ title: "Saturated hidden units, |z| > 4.6", series, format: asShare, linear: true });
  }
  for (const chart of charts.filter(Boolean)) {
    const log = !chart.linear && overMagnitudes(chart.series);
    const options = { ...chart, title: chart.title + (log ? ", log scale" : ""), epochs: at, log };
    if (drawn.has(chart.title)) drawn.get(chart.title).redraw(options);
    else drawn.set(chart.title, lineChart(options));
  }
  const wanted = charts.filter(Boolean).map(({ title }) => drawn.get(title));
  if (wanted.some((figure, n) => byId("charts").children[n] !== figure)) byId("charts").replaceChildren(...wanted);
  if (epochs.length === 0) return;
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

// The images in the page, of which the first ones, with labels, are the sample whose error is measured; null if none.
function sampleOf({ evaluation, network }, imageBytes) {
  if (evaluation === null) return null;
  const [rows, columns] = network.image_shape;
  const size = rows * columns;
  const all = decompress(bytesOf(imageBytes), evaluation.images.length * size);
  const labels = evaluation.images.slice(0, evaluation.sample).map(([, label]) => label);
  return { name: evaluation.split, all, size, labels };
}

function images() {
  const { evaluation } = run;
  byId("evaluation-body").hidden = evaluation === null;
  byId("no-images").hidden = evaluation !== null;
  byId("no-images").textContent = run.no_images ?? "";
  if (evaluation === null) return;
  const { examples, errors, error, interval, loss, calibration_error, split, dataset } = evaluation;
  const range = `${percent(error)} (${percent(interval.low)} to ${percent(interval.high)}, 95 % interval)`;
  const calibrated = calibration_error === null ? "" : `; expected calibration error ${percent(calibration_error)}`;
  const { multi_label } = evaluation;
  const labels = multi_label
    ? ` (an image counts as an error unless all its labels are right; label error ${percent(multi_label.label_error)}, micro F1 ${percent(multi_label.micro_f1)}, macro F1 ${percent(multi_label.macro_f1)})`
    : "";
  const found = `${plural(errors, "error")}, ${range}; loss ${loss.toPrecision(4)}${calibrated}${labels}`;
  byId("evaluation").textContent = unbroken(`${count(examples)} ${split} images of ${dataset}: ${found}.`);
  const { size } = sample;
  const pixelsOf = (position) => sample.all.subarray(position * size, (position + 1) * size);
  const show = (position) => bench.show(pixelsOf(position), evaluation.images[position][1]);
  const open = (position) => {
    show(position);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    byId("draw").scrollIntoView({ behavior: still ? "auto" : "smooth" });
    byId("sheet").focus({ preventScroll: true });
  };
  const { image_shape, probabilities } = run.network;
  confusion = new Confusion(evaluation, image_shape, probabilities, pixelsOf, bench && open, confusion && confusion.chosen);
  if (bench && evaluation.images.length) {
    byId("example").hidden = false;
    byId("example").onclick = () => {
      // All images, mistakes too, in a mixed order: 7919 is a prime.
      turn = (turn + 7919) % evaluation.images.length;
      show(turn);
    };
  }
  const scores = ({ precision, recall, f1 }) => [precision, recall, f1].map((share) => percent(share));
  const wrong = evaluation.multi_label?.label_errors;
  const rowOf = (each) => [run.network.class_names[each.label], count(each.examples), ...scores(each), ...(wrong ? [percent(wrong[each.label])] : [])];
  const heads = ["class", "images", "precision", "recall", "F1", ...(wrong ? ["label error"] : [])];
  table("classes", heads, evaluation.per_class.map(rowOf));
}

let turn = 0; // index of the example
let mosaic = null; // paints the weights in the available width

function weights() {
  byId("weights").hidden = network === null;
  if (network === null) return;
  const hidden = network.sizes.length > 2;
  const all = network.sizes[1];
  const units = Math.min(all, MAX_TILES);
  const some = `each of ${units < all ? `the first ${count(units)} of ` : ""}${plural(all, "hidden unit")}`;
  byId("weights-note").textContent = "Blue weights are positive, orange ones negative: ink on blue raises z, on orange it lowers z.";
  const ofOutputs = all > 1 ? `Weights of each class, from 0 to ${all - 1}` : "Weights of the output unit";
  byId("weights-summary").textContent = hidden ? `Weights of ${some}` : ofOutputs;
  const canvas = byId("mosaic");
  const each = hidden ? "hidden unit" : "output unit";
  canvas.setAttribute("aria-label", `${plural(units, "image")} of first-layer weights, one for each ${each}.`);
  const longest = Math.max(...network.image_shape);
  const zoom = Math.max(1, Math.min(units > 64 ? 1 : 3, Math.round((units > 64 ? 28 : 84) / longest)));
  const scale = weightScale(network.W[0]);
  let width = 0;
  const first = mosaic === null;
  mosaic = () => {
    const available = byId("mosaic-box").clientWidth;
    if (available === width || !available) return;
    paintMosaic(canvas, network, units, (width = available), zoom, scale);
  };
  if (first) new ResizeObserver(() => mosaic()).observe(byId("mosaic-box"));
  else mosaic();
}

function origin() {
  byId("config").textContent = run.config;
  const list = (id, entries) => {
    byId(`${id}-title`).hidden = entries.length === 0;
    byId(id).replaceChildren(...entries.flatMap(([key, value]) => [element("dt", {}, key), element("dd", {}, String(value))]));
  };
  const { manifest } = run;
  const resumed = manifest ? manifest.resumed.map(({ epoch }) => ["resumed", `after epoch ${epoch}`]) : [];
  const began = manifest ? [["started", manifest.started], ...Object.entries(manifest.environment)] : [];
  list("environment", [...began, ...resumed]);
  list("hashes", manifest ? Object.entries(manifest.data.hashes) : []);
}

// The formulas of the board, in the notation of mlpcli/model/network.py.
function formulas({ sizes, objective, probabilities, image_shape, preprocessing, single_output, class_names }) {
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
  const single = probabilities
    ? `p is the probability of ${class_names[1]}, and 1 − p that of ${class_names[0]}.`
    : "p is no probability: the class whose number is nearest to it is predicted.";
  const several = probabilities
    ? (notes[objective] ?? "")
    : "These outputs are scores, not probabilities: only which is the largest counts.";
  byId("outputs-note").textContent = single_output ? single : several;
  byId("invitation").textContent = run.board.normalise ? "Draw a digit" : "Draw here";
}

// Fills the page with a document, or a newer one. Weights and images are in base64; "" if there are none.
function fill(doc, weightBytes, imageBytes) {
  run = doc;
  CLASS_NAMES.splice(0, CLASS_NAMES.length, ...(run.network?.class_names ?? []));
  byId("run").hidden = byId("images").hidden = run.network === null;
  head();
  curves();
  renew(weightBytes, imageBytes);
  images();
  origin();
}

// Sets the weights, the first or newer ones of the same network, and the document's images.
function renew(weightBytes, imageBytes) {
  const vector = weightBytes ? Network.vectorOf(run.network, bytesOf(weightBytes)) : null;
  if (imageBytes) sample = sampleOf(run, imageBytes);
  if (vector && network) network.vector.set(vector);
  else network = vector && new Network(run.network, vector);
  const drawable = run.board.why_not === null;
  byId("no-board").hidden = drawable;
  byId("no-board").textContent = run.board.why_not ?? "";
  byId("bench").hidden = !drawable;
  if (bench) bench.renew(sample);
  else if (drawable) {
    formulas(run.network);
    bench = new Bench(network, run.board.normalise, announce, sample);
  }
  weights();
}

theme();
fill(JSON.parse(byId("document").textContent), byId("weight-bytes").textContent, byId("image-bytes").textContent);
neuron();
