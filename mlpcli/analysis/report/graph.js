"use strict";
// The network as a graph: the image, the units of each hidden layer that contribute most, and the outputs. The colour
// and width of a line show what it carries: weight times activation in the forward pass, the weight's gradient in the
// backward pass.

const MAX_NODES = 10; // of a hidden layer
const MAX_OUTPUT_NODES = 12;
const GRAPH_HEIGHT = 176;
const NODE = 6; // radius
const MAX_NAME_LENGTH = 12; // characters

function shortened(name) {
  const letters = [...name];
  return letters.length > MAX_NAME_LENGTH ? `${letters.slice(0, MAX_NAME_LENGTH - 1).join("")}…` : name;
}

class Graph {
  // `layers` are the hidden layers to show; `pick(picked, pinned)` is called with [layer, unit], or null.
  constructor(network, layers, pick) {
    Object.assign(this, { pick });
    this.depth = network.sizes.length - 1;
    this.svg = byId("graph-lines");
    this.svg.setAttribute("height", GRAPH_HEIGHT);
    const lines = svg("g");
    const nodes = svg("g");
    this.svg.append(lines, nodes);
    this.columns = [...layers, this.depth].map((l, c, all) => {
      const most = Math.min(l < this.depth ? MAX_NODES : MAX_OUTPUT_NODES, network.sizes[l]);
      const column = { l, units: [], nodes: Array.from({ length: most }, () => this._node(l)), lines: [] };
      const below = c === 0 ? 1 : l === all[c - 1] + 1 ? Math.min(MAX_NODES, network.sizes[all[c - 1]]) : 0;
      column.lines = Array.from({ length: most }, () => Array.from({ length: below }, () => svg("line")));
      column.gap = below === 0 ? svg("text", { class: "gap", "text-anchor": "middle" }, "…") : null;
      lines.append(...column.lines.flat());
      nodes.append(...column.nodes.map(({ node }) => node), ...(column.gap ? [column.gap] : []));
      return column;
    });
    this.svg.addEventListener("keydown", (event) => this._key(event));
    this.svg.addEventListener("pointerleave", () => this.pick(null, false));
    new ResizeObserver(() => this._paint()).observe(this.svg);
  }

  _node(l) {
    const value = svg("circle", { r: NODE });
    const label = l === this.depth ? svg("text", { x: NODE + 6, y: 4 }) : null;
    const [hit, ground] = [svg("circle", { r: 8.5, class: "hit" }), svg("circle", { r: NODE, class: "ground" })];
    const node = svg("g", { role: "button", tabindex: -1 }, hit, ground, value, ...(label ? [label] : []));
    const found = { node, value, label, unit: -1 };
    const pick = (pinned) => this.pick([l, found.unit], pinned);
    node.addEventListener("pointerenter", (event) => event.pointerType !== "touch" && pick(false));
    node.addEventListener("click", () => pick(true));
    node.addEventListener("focus", () => pick(false));
    node.addEventListener("blur", () => this.pick(null, false));
    return found;
  }

  // `quantity` is what the units show, `picked` the unit whose paths are shown, or null; `wanted` units always have a
  // node.
  show(state) {
    this.state = state;
    this._paint();
  }

  _paint() {
    if (!this.state) return;
    const width = this.svg.clientWidth;
    if (!width) return;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${GRAPH_HEIGHT}`);
    const { network, forward, backward, quantity, picked } = this.state;
    this.back = Boolean(forward && quantity.back);
    for (const column of this.columns) column.units = this._units(column);
    const names = this.columns.at(-1).units.map((k) => shortened(network.outputText(k)));
    const labelWidth = Math.min(0.45 * width, 14 + 7 * Math.max(...names.map((name) => name.length)));
    const right = width - labelWidth - NODE;
    const left = Math.min(right, 70);
    this.columns.forEach((column, c) => {
      const last = this.columns.length - 1;
      column.x = last ? left + ((right - left) * c) / last : right;
      column.y = (n) => (GRAPH_HEIGHT * (n + 0.5)) / column.nodes.length;
      const values = this._values(column.l);
      const full = values && (column.l < this.depth ? quantity.full : network.probabilities && !this.back ? 1 : null);
      column.nodes.forEach((each, n) => {
        const unit = (each.unit = column.units[n]);
        const value = values ? values[unit] / (full ?? largestSize(values)) : 0;
        const transform = `translate(${column.x.toFixed(1)} ${column.y(n).toFixed(1)})`;
        dress(each.node, { transform, "aria-label": this._label(column.l, unit) }, []);
        const predicted = column.l === this.depth && forward && !network.single_output && hasClass(forward.predicted, unit);
        const chosen = picked && picked[0] === column.l && picked[1] === unit;
        each.node.setAttribute("class", ["node", predicted && "first", chosen && "chosen"].filter(Boolean).join(" "));
        each.node.setAttribute("aria-pressed", String(Boolean(chosen)));
        each.value.setAttribute("class", value < 0 ? "negative" : "positive");
        each.value.setAttribute("fill-opacity", Number.isFinite(value) ? Math.min(1, Math.abs(value)).toFixed(3) : 0);
        if (each.label) each.label.textContent = names[n];
      });
      if (column.gap) dress(column.gap, { x: (column.x + this.columns[c - 1].x) / 2, y: GRAPH_HEIGHT / 2 }, []);
    });
    const all = this.columns.flatMap(({ nodes }) => nodes.map(({ node }) => node));
    const current = all.find((node) => node.getAttribute("aria-pressed") === "true");
    for (const node of all) node.setAttribute("tabindex", node === (current ?? all[0]) ? 0 : -1);
    this.columns.forEach((column, c) => this._lines(column, this.columns[c - 1]));
    this.svg.classList.toggle("chosen", Boolean(current));
    this._image(current ? picked : null);
    this._note();
  }

  // The units of a column, in order: of a hidden layer those with the largest |a| times the norm of their row of W, and
  // those pointed at or chosen; of many outputs the largest.
  _units({ l, nodes }) {
    const { network, forward, wanted } = this.state;
    const units = [...Array(network.sizes[l]).keys()];
    if (units.length <= nodes.length) return units;
    const size =
      l === this.depth
        ? (k) => (forward ? forward.z[l - 1][k] : -k)
        : (j) => norm(network.outgoing(l, j)) * (forward ? Math.abs(forward.a[l - 1][j]) : 1);
    const sizes = units.map(size);
    for (const [layer, unit] of wanted) if (layer === l) sizes[unit] = Infinity;
    const most = units.sort((one, other) => sizes[other] - sizes[one] || one - other).slice(0, nodes.length);
    return most.sort((one, other) => one - other);
  }

  // The values of layer l's nodes; of the output p, or dz in the backward pass.
  _values(l) {
    const { forward, backward, quantity } = this.state;
    if (!forward) return null;
    if (l < this.depth) return quantity.of(l);
    return this.back ? backward.dz[l - 1] : forward.p;
  }

  _label(l, unit) {
    const values = this._values(l);
    const output = this.back ? "dz" : this.state.network.probabilities ? "probability" : "score";
    const name = l < this.depth ? this.state.quantity.name : output;
    const what = l < this.depth ? `Layer ${l}, unit ${unit}` : this.state.network.outputName(unit);
    return values ? `${what}: ${name} ${number(values[unit])}` : what;
  }

  // The value of the line from unit i of the layer below (null: from the image) to unit j of layer l.
  _carried(l, i, j) {
    const { network, forward, backward } = this.state;
    if (i === null) {
      const { inputs, z } = forward ?? {};
      if (!forward) return norm(network.incoming(l, j));
      if (!this.back) return z[0][j] - network.b[0][j];
      return norm(inputs[0].map((each, at) => network.connected(1, at, j) * each)) * backward.dz[0][j];
    }
    const w = network.W[l - 1][i * network.sizes[l] + j];
    if (!forward) return w;
    return forward.inputs[l - 1][i] * (this.back ? network.connected(l, i, j) * backward.dz[l - 1][j] : w);
  }

  _lines(column, before) {
    const { picked, forward } = this.state;
    const first = before === undefined;
    const from = first ? [null] : before.units;
    const carried = column.units.map((j) => column.lines[0].map((_, i) => this._carried(column.l, from[i], j)));
    const most = largestSize(carried.flat().filter(Number.isFinite));
    const is = (l, unit) => picked && picked[0] === l && picked[1] === unit;
    column.lines.forEach((lines, n) =>
      lines.forEach((line, i) => {
        const value = carried[n][i];
        const size = Number.isFinite(value) ? Math.abs(value) / most : 0;
        const on = is(column.l, column.units[n]) || (!first && is(before.l, before.units[i]));
        const middle = GRAPH_HEIGHT / 2;
        const start = first ? [0, middle + 0.3 * (column.y(n) - middle)] : [before.x + NODE, before.y(i)];
        const place = { x1: start[0], y1: start[1], x2: column.x - NODE, y2: column.y(n) };
        for (const [key, each] of Object.entries(place)) line.setAttribute(key, each.toFixed(1));
        line.setAttribute("class", `${value < 0 ? "negative" : "positive"}${on ? " on" : ""}`);
        line.setAttribute("stroke-width", (0.5 + 3 * size).toFixed(2));
        line.setAttribute("stroke-opacity", (0.12 + 0.88 * size).toFixed(3));
      }),
    );
  }

  // Draws the image; if a unit of layer 1 is picked, each pixel times its weight, or the gradient of that weight.
  _image(picked) {
    const { network, forward, backward } = this.state;
    const canvas = byId("graph-image");
    const [rows, columns] = network.image_shape;
    const direct = forward && picked && picked[0] === 1;
    canvas.classList.toggle("ink", !direct);
    const [x, unit] = [forward?.inputs[0], picked?.[1]];
    const ink = x ? x.map((each) => 255 * each) : new Uint8Array(rows * columns);
    if (!direct) return paintInk(canvas, ink, rows, columns);
    const weights = network.incoming(1, unit);
    const values = x.map((each, i) => each * (this.back ? network.connected(1, i, unit) * backward.dz[0][unit] : weights[i]));
    paintSigned(canvas, values, rows, columns, largestSize(values));
  }

  _note() {
    const { network, forward } = this.state;
    const carried = !forward ? "weight" : this.back ? "dC/dW" : "weight × activation";
    const cut = this.columns.filter(({ l, nodes }) => nodes.length < network.sizes[l]);
    const some = cut.length ? "; units with the largest contributions" : "";
    byId("graph-note").textContent = `Line: ${carried}${some}`;
  }

  _key(event) {
    const c = this.columns.findIndex(({ nodes }) => nodes.some(({ node }) => node === event.target));
    if (c < 0) return;
    const { nodes, l } = this.columns[c];
    const n = nodes.findIndex(({ node }) => node === event.target);
    const place = (n + 0.5) / nodes.length;
    const nearest = (column) => column?.nodes[Math.floor(place * column.nodes.length)];
    const wanted = {
      ArrowUp: () => nodes[n - 1],
      ArrowDown: () => nodes[n + 1],
      ArrowLeft: () => nearest(this.columns[c - 1]),
      ArrowRight: () => nearest(this.columns[c + 1]),
      Home: () => nodes[0],
      End: () => nodes.at(-1),
      Enter: () => this.pick([l, nodes[n].unit], true),
      " ": () => this.pick([l, nodes[n].unit], true),
      Escape: () => this.pick(null, true),
    }[event.key];
    if (!wanted) return;
    event.preventDefault();
    wanted()?.node.focus();
  }
}
