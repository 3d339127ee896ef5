"use strict";
// A run's page, live: the curves grow, the board and the matrix use the newest network, and other runs can be compared.

const MAX_CHANGING = 12;
const FADE = 0.5; // factor of a unit's earlier changes at each newer network

byId("curves").parentElement.insertBefore(byId("curves"), byId("draw")); // what changes comes first
const line = new StateLine();
const changing = { before: null, size: null }; // the first layer's weights, and the size of each unit's change

listen(
  {
    progress,
    run: (part) => refill({ ...run, ...part }),
    contents: ({ document: doc, weights: weightBytes, images: imageBytes }) => {
      fill({ ...doc, ...newer(doc) }, weightBytes, imageBytes);
      byId("evaluation").append(` By the network of epoch ${count(doc.checkpoint.epoch)}.`);
      change();
    },
    weights: ({ checkpoint, weights: weightBytes }) => {
      if (run.network === null) return; // the whole document follows
      run.checkpoint = checkpoint;
      head();
      renew(weightBytes, "");
      change();
    },
    others: (others) => {
      beside.runs = others;
      besideList();
      curves();
    },
  },
  (over) => line.gone(over),
);

function progress(now) {
  const { state, resumed, epochs, max_epochs, along, speed, left, points } = now;
  const done = state === "running" ? Math.max(along ?? 0, epochs ?? 0) : (epochs ?? 0);
  const parts = [`epoch ${state === "running" ? Math.min(Math.floor(done) + 1, max_epochs ?? Infinity) : done} of ${max_epochs ?? "?"}`];
  if (resumed !== null) parts.push(resumed ? `resumed after epoch ${resumed}` : "restarted");
  if (speed) parts.push(`${count(Math.round(speed))} images a second`);
  if (left !== null && state === "running") parts.push(`${duration(Math.round(left))} left`);
  const words = {
    finished: `after ${plural(epochs ?? 0, "epoch")}`,
    interrupted: `after ${plural(epochs ?? 0, "epoch")}: the process that trained it was stopped or killed`,
    diverged: `after ${plural(epochs ?? 0, "epoch")}: the loss was no longer a finite number`,
    damaged: "its files are damaged; mlpcli runs show says which",
    removed: "the run was removed or moved; the page shows its last state",
  };
  const file = epochs ? ["The same page as a file: ", command(now.report)] : []; // a report needs a checkpoint
  const hints = {
    interrupted: ["To resume: ", command(now.resume), ...(file.length ? [". ", ...file] : [])],
    finished: file,
    diverged: file,
  };
  line.again = now.watch;
  line.show(state, words[state] ?? parts.join(" · "), done, max_epochs, hints[state] ?? []);
  [steps.at, steps.losses] = points ?? [[], []];
  curves();
}

// What the run has recorded since the document was made.
function newer(doc) {
  const behind = run.epochs.length > doc.epochs.length && run.epochs[0]?.seconds === doc.epochs[0]?.seconds;
  return behind ? { run: run.run, epochs: run.epochs, test: run.test, manifest: run.manifest } : {};
}

// A document of the same network, images and weights.
function refill(doc) {
  run = doc;
  head();
  curves();
  origin();
}

// The list of other runs. A picked one has a colour and a letter in the curves.
function besideList() {
  const { runs, picks } = beside;
  byId("beside").hidden = runs.length === 0;
  byId("beside-summary").textContent = `${plural(runs.length, "other run")} in the folder, grey in the curves`;
  const focused = document.activeElement?.dataset?.run;
  const items = runs.map(({ name, link, state, validation_error }) => {
    const box = element("input", { type: "checkbox", "aria-label": `colour ${name}`, "data-run": name });
    box.checked = picks.has(name);
    box.addEventListener("change", () => {
      if (box.checked) box.checked = picks.pick(name);
      else picks.drop(name);
      besideList();
      curves();
    });
    const letter = element("span", { class: `letter ${picks.style(name)}` }, picks.letter(name));
    const found = validation_error === null ? state : `${percent(validation_error)}, ${state}`;
    // The page of one run of many has a path of its own.
    const up = location.pathname.includes("/run/") ? `../../${link}` : link;
    const to = element("a", { href: up }, name);
    return element("li", {}, element("label", { class: "check" }, box, letter), to, element("span", { class: "small" }, found));
  });
  byId("beside-runs").replaceChildren(...items);
  if (focused) byId("beside-runs").querySelector(`[data-run="${CSS.escape(focused)}"]`)?.focus();
}

// Shows the first layer's units whose weights have changed most, each as an image of its weights.
function change() {
  if (!network) return;
  const W = network.W[0];
  const [D, H] = network.sizes;
  if (changing.before?.length === W.length) {
    const moved = new Float64Array(H);
    for (let i = 0; i < D; i++) for (let j = 0; j < H; j++) moved[j] += (W[i * H + j] - changing.before[i * H + j]) ** 2;
    const sizes = moved.map(Math.sqrt);
    if (sizes.every((size) => size === 0)) return;
    changing.size = changing.size?.length === H ? changing.size.map((old, j) => FADE * old + sizes[j]) : sizes;
  }
  changing.before = W.slice();
  if (!changing.size) return;
  const units = [...changing.size.keys()].sort((one, other) => changing.size[other] - changing.size[one]);
  const most = units.slice(0, MAX_CHANGING).sort((one, other) => one - other);
  const kind = network.sizes.length > 2 || network.single_output ? "unit" : "class";
  byId("changing-box").hidden = false;
  byId("changing-title").textContent = `Units whose weights change most`;
  const scale = weightScale(W);
  const tiles = most.map((j) => {
    const canvas = element("canvas", { role: "img", "aria-label": `Incoming weights of ${kind} ${j}` });
    paintSigned(canvas, network.incoming(1, j), ...network.image_shape, scale);
    return element("li", { class: "small" }, canvas, `${kind} ${j}`);
  });
  byId("changing").replaceChildren(...tiles);
}
