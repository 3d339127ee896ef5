"use strict";
// The hidden layers, unit by unit, and one unit with its incoming and outgoing weights. Without hidden layers the units
// are those of the output.

const MAX_LAYERS = 6; // of more, the first three and the last three are shown
const ONE_COLUMN = 3; // more layers are in two columns
const RATIOS = [2, 5, 10]; // width to height of a layer, so that one, two or three take the same height
const MAX_OUTGOING = 12; // shown as bars

class Layers {
  constructor(network) {
    this.network = network;
    const { sizes, activation } = network;
    this.depth = sizes.length - 1;
    const { written } = ACTIVATIONS[activation];
    // The quantities of the units of layer l: name, values, and the value of full colour (if not the largest).
    const hidden = [
      { name: "a", of: (l) => this.forward.a[l - 1], full: activation === "relu" ? null : 1 },
      { name: "da", of: (l) => this.backward.da[l - 1], back: true },
      { name: written("a"), of: (l) => this.backward.slope[l - 1], full: ACTIVATIONS[activation].steepest },
      { name: "dz", of: (l) => this.backward.dz[l - 1], back: true },
    ];
    this.output = [{ name: "z", of: (l) => this.forward.z[l - 1] }, hidden[3]];
    this.quantities = this.depth > 1 ? hidden : this.output;
    this.quantity = this.quantities[0];
    this.hovered = this.pinned = null; // [layer, unit]
    this._choices();
    const hiddenLayers = Array.from({ length: this.depth - 1 }, (_, index) => index + 1);
    const end = MAX_LAYERS / 2;
    const some = this.depth - 1 > MAX_LAYERS ? [...hiddenLayers.slice(0, end), ...hiddenLayers.slice(-end)] : hiddenLayers;
    this.graph = new Graph(network, some, (picked, pinned) => this._pick(picked, pinned));
    const shown = some.length ? some : [1];
    this.dense = shown.length > ONE_COLUMN;
    byId("layers").classList.toggle("two", this.dense);
    this.layers = shown.map((l) => this._layer(l, shown.length));
    if (this.depth - 1 > some.length) {
      const rest = plural(this.depth - 1 - some.length, "more hidden layer");
      byId("layers").append(element("p", { class: "small" }, `${rest}, computed but not shown.`));
    }
  }

  _choices() {
    const radios = this.quantities.map((quantity, n) => {
      const radio = element("input", { type: "radio", name: "quantity", value: n, checked: n === 0 });
      radio.addEventListener("change", () => {
        this.quantity = quantity;
        this._paint();
      });
      return element("label", {}, radio, element("span", { class: "maths" }, quantity.name));
    });
    byId("quantity").append(...radios);
  }

  // Makes the canvas of layer l, one of `layers`.
  _layer(l, layers) {
    const { sizes, activation, objective } = this.network;
    const units = sizes[l];
    const canvas = element("canvas");
    const kind = this.depth > 1 ? `Hidden layer ${l}: ${plural(units, "unit")}` : plural(units, "output unit");
    canvas.setAttribute("aria-label", `${kind}. Arrow keys choose one, Escape the one with the largest gradient`);
    const [n, below] = [subscript(l), l > 1 ? `a${subscript(l - 1)}` : "x"];
    const z = `${below} W${n} + b${n}`;
    const hidden = this.depth > 1;
    const formula = !hidden ? `z = ${z}` : this.dense ? `a${n}` : `a${n} = ${activation}(${z})`;
    const note = element("span");
    byId("layers").append(
      element("figure", {}, element("figcaption", {}, element("span", { class: "maths" }, formula), note), canvas),
    );
    const pick = (unit, pinned) => this._pick(unit < 0 ? null : [l, unit], pinned);
    const describe = (unit) => (unit < 0 ? "no unit chosen" : `unit ${unit}, ${this._numbers(l, unit)}`);
    const [side, gap] = units <= 4096 ? [12, 3] : [2, 0];
    const ratio = this.dense ? RATIOS[Math.ceil(layers / 2) - 1] / 2 : RATIOS[layers - 1];
    const grid = new Grid(canvas, units, gridColumns(units, ratio), { side, gap, describe, pick });
    canvas.style.maxWidth = `${clamp(1.3 * canvas.width, 40, 480)}px`; // a few units do not fill the page
    return { l, grid, note };
  }

  _pick(picked, pinned) {
    if (pinned) this.pinned = picked;
    this.hovered = picked;
    this._paint();
  }

  show({ network, forward, backward }) {
    Object.assign(this, { network, forward, backward });
    this._paint();
  }

  // The unit to show: the one pointed at, or chosen, or the one of the first layer with the largest gradient.
  _picked() {
    if (this.hovered ?? this.pinned) return this.hovered ?? this.pinned;
    if (!this.backward) return null;
    const sizes = this.backward.dz[0].map(Math.abs);
    return [1, Math.max(0, sizes.indexOf(largest(sizes)))];
  }

  _paint() {
    const picked = this._picked();
    for (const { l, grid, note } of this.layers) {
      const values = this.forward && this.quantity.of(l);
      const full = values && (this.quantity.full ?? largestSize(values));
      grid.picked = picked && picked[0] === l ? picked[1] : -1;
      grid.paint(values && Array.from(values, (each) => each / full));
      const stalls = values ? this._stalls(l) : "";
      const colour = values && !(this.dense && stalls) ? [`full colour: ${number(full)}`] : [];
      note.textContent = values ? [...colour, stalls].filter(Boolean).join(", ") : plural(grid.cells, "unit");
    }
    const { network, forward, backward, quantity } = this;
    const wanted = [this.hovered, this.pinned].filter(Boolean);
    this.graph.show({ network, forward, backward, quantity, picked: wanted[0] ?? null, wanted });
    this._unit(picked);
  }

  // The median of f'(z) and the fraction of saturated units, as text.
  _stalls(l) {
    const { activation } = this.network;
    if (this.depth === 1 || this.quantity !== this.quantities[2]) return "";
    const { saturated, saturation } = ACTIVATIONS[activation];
    const slopes = Array.from(this.backward.slope[l - 1]).sort((one, other) => one - other);
    const flat = this.forward.z[l - 1].filter(saturated).length / slopes.length;
    const half = slopes.length >> 1;
    const median = slopes.length % 2 ? slopes[half] : (slopes[half - 1] + slopes[half]) / 2;
    return [`median ${number(median)}`, `${percent(flat, 0)} ${saturation[0]}`, ...(this.dense ? [] : [saturation[1]])].join(", ");
  }

  _numbers(l, unit) {
    if (!this.forward) return "";
    const shown = [`z = ${number(this.forward.z[l - 1][unit])}`];
    for (const { name, of } of l < this.depth ? this.quantities : this.output) if (name !== "z") shown.push(`${name} = ${number(of(l)[unit])}`);
    return shown.join(", ");
  }

  _unit(picked) {
    byId("unit").classList.toggle("empty", !picked);
    const [l, unit] = picked ?? [1, -1];
    const { network, forward, backward } = this;
    const layer = this.depth > 2 ? ` of layer ${l}` : "";
    const hidden = l < this.depth;
    const largest = this.hovered || this.pinned ? "" : ", whose gradient is the largest";
    const what = hidden ? `Unit ${unit}${layer}${largest}` : network.outputName(unit) + (network.outputs > 1 ? largest : "");
    byId("unit-title").textContent = picked ? what : "A unit";
    byId("unit-numbers").textContent = picked ? unbroken(this._numbers(l, unit)) : "";
    const [n, below] = [subscript(l), l > 1 ? `a${subscript(l - 1)}` : "x"];
    byId("incoming-note").textContent = `column of W${n}`;
    const local = network.M[l - 1] ? `M${n} ⊙ ` : "";
    byId("gradient-note").textContent = `dW${n} = ${local}${below}ᵀ dz${n}`;
    const shape = this._shape(l - 1);
    const incoming = picked ? network.incoming(l, unit) : [];
    const dz = backward && picked ? backward.dz[l - 1][unit] : 0;
    const gradient = forward && picked ? forward.inputs[l - 1].map((each, i) => network.connected(l, i, unit) * each * dz) : [];
    paintSigned(byId("incoming"), incoming, ...shape, weightScale(network.W[l - 1]));
    paintSigned(byId("gradient"), gradient, ...shape, largestSize(gradient));
    const outgoing = picked && l < this.depth ? network.outgoing(l, unit) : [];
    const bars = outgoing.length <= MAX_OUTGOING && l === this.depth - 1;
    byId("outgoing").hidden = l >= this.depth;
    byId("outgoing-note").textContent = `row of W${subscript(l + 1)}${bars ? `, to the ${network.single_output ? "output" : "classes"}` : ""}`;
    byId("outgoing-bars").hidden = !bars;
    byId("outgoing-picture").hidden = bars;
    if (bars) this._bars(outgoing, (k) => network.outputText(k));
    else paintSigned(byId("outgoing-picture"), outgoing, ...this._shape(l + 1, RATIOS[2]), largestSize(outgoing));
  }

  // Rows and columns of a picture with a number for each unit of layer l, or for each pixel.
  _shape(l, ratio = 2) {
    if (l === 0) return this.network.image_shape;
    const units = this.network.sizes[Math.min(l, this.depth)];
    const columns = gridColumns(units, ratio);
    return [Math.ceil(units / columns), columns];
  }

  _bars(values, nameOf) {
    const most = largestSize(values);
    const bars = Array.from(values, (value, k) => {
      const bar = element("span", { class: value < 0 ? "bar negative" : "bar" });
      const size = (50 * Math.abs(value)) / most;
      bar.style.height = `${size}%`;
      bar.style.top = `${value < 0 ? 50 : 50 - size}%`;
      const track = element("span", { class: "track", "aria-hidden": "true" }, bar);
      return element("li", {}, element("span", { class: "name", title: nameOf(k) }, nameOf(k)), track, element("span", {}, number(value, 2)));
    });
    byId("outgoing-bars").replaceChildren(...bars);
  }
}
