"use strict";
// The board: strokes by mouse, finger, pen or keyboard, and what the network makes of them while they are drawn.

const MOST_LAYERS = 6; // of hidden units that are shown
const MOST_BARS = 12; // of outputs

class Board {
  // `network` is a Network with image_shape; `normalise` says whether drawings are centred and scaled at first.
  constructor(network, normalise, announce) {
    this.network = network;
    this.announce = announce;
    [this.rows, this.columns] = network.image_shape;
    this.sheet = new Sheet(this.rows, this.columns);
    this.strokes = []; // each a list of points [x, y] of the sheet
    this.example = null; // { pixels, label } of an image of the data, shown instead of a drawing
    this.drawing = null; // the pointer that draws, or "keyboard"
    this.pen = { x: this.sheet.width / 2, y: this.sheet.height / 2 };
    this.held = new Set(); // the arrow keys that are down
    this.pixels = null; // what the network sees, and what it says of it; null while the board is empty
    this.said = null;
    this.spoken = ""; // what was last announced of it

    this.canvas = byId("sheet");
    [this.canvas.width, this.canvas.height] = [this.sheet.width, this.sheet.height];
    this.picture = this.canvas.getContext("2d").createImageData(this.sheet.width, this.sheet.height);
    byId("normalise").checked = normalise;
    this.layers = this._hiddenLayers();
    this.bars = this._outputs();
    this._listen();
    this._changed();
  }

  // Strokes ------------------------------------------------------------------------------------------------------

  begin(x, y) {
    if (this.example) this.clear();
    this.strokes.push([[x, y]]);
    this.sheet.line(x, y, x, y);
    this._changed();
  }

  go(x, y) {
    const stroke = this.strokes[this.strokes.length - 1];
    const [x0, y0] = stroke[stroke.length - 1];
    stroke.push([x, y]);
    this.sheet.line(x0, y0, x, y);
    this._changed();
  }

  lift() {
    this.drawing = null;
    this._movePen();
  }

  undo() {
    if (this.example) return this.clear();
    this.lift();
    this.strokes.pop();
    this.sheet.clear();
    for (const stroke of this.strokes) {
      stroke.forEach(([x, y], i) => this.sheet.line(...stroke[Math.max(0, i - 1)], x, y));
    }
    this._changed();
  }

  clear() {
    this.lift();
    this.strokes = [];
    this.example = null;
    this.sheet.clear();
    this._changed();
  }

  // Puts an image of the data on the board, its bytes as they are.
  show(pixels, label) {
    this.clear();
    this.example = { pixels, label };
    this.sheet.lay(pixels);
    this._changed();
  }

  // What is seen and said ----------------------------------------------------------------------------------------

  _changed() {
    // At most once a frame: a fast pen sends more points than a screen shows.
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.look();
    });
  }

  look() {
    const { ink } = this.sheet;
    for (let at = 0; at < ink.length; at++) this.picture.data[4 * at + 3] = 255 * ink[at];
    this.canvas.getContext("2d").putImageData(this.picture, 0, 0);
    const empty = !this.example && this.strokes.length === 0;
    byId("undo").disabled = byId("clear").disabled = empty;
    byId("invitation").hidden = !empty;
    if (empty) this.pixels = null;
    else if (this.example) this.pixels = this.example.pixels;
    else this.pixels = byId("normalise").checked ? this.sheet.normalised() : this.sheet.asDrawn();
    this.pixels = this.pixels && preprocessed(this.pixels, this.network.image_shape, this.network.preprocessing);
    this.said = this.pixels && this.network.forward(this.pixels);
    paintInk(byId("seen"), this.pixels || new Uint8Array(this.rows * this.columns), this.rows, this.columns);
    this.layers.forEach((layer) => this._light(layer));
    this._say();
  }

  _light(layer) {
    const a = this.said && this.said.a[layer.index];
    const unbounded = this.network.activation === "relu" && a;
    const brightest = unbounded ? a.reduce((most, each) => Math.max(most, each), 1e-9) : 1;
    layer.lamps.paint(a, brightest, layer.chosen);
    const chosen = layer.chosen >= 0;
    const value = a && chosen ? `, a = ${score(a[layer.chosen])}` : "";
    const says = `unit ${layer.chosen} of layer ${layer.index + 1}${value}`;
    layer.text.textContent = chosen ? says : layer.hint;
    layer.canvas.setAttribute("aria-valuenow", Math.max(0, layer.chosen));
    layer.canvas.setAttribute("aria-valuetext", chosen ? says : "no unit chosen");
  }

  _say() {
    const { probabilities } = this.network;
    const first = this.said ? this.said.predicted : -1;
    byId("verdict").textContent = first < 0 ? "–" : String(first);
    const number = first < 0 ? "" : probabilities ? chance(this.said.p[first]) : `score ${score(this.said.p[first])}`;
    const value = this.example ? `${number}; its label is ${this.example.label}` : number;
    byId("verdict-note").textContent = this.pixels ? value : "nothing drawn yet";
    // Of many classes, those the network thinks of first.
    const classes = this.network.sizes[this.network.sizes.length - 1];
    const order = Array.from({ length: classes }, (_, k) => k);
    if (this.said && classes > this.bars.length) order.sort((i, j) => this.said.p[j] - this.said.p[i]);
    const largest = this.said ? Math.max(1e-9, ...this.said.p.map(Math.abs)) : 1;
    this.bars.forEach(({ item, label, bar, text }, i) => {
      const [k, p] = [order[i], this.said ? this.said.p[order[i]] : null];
      label.textContent = k;
      item.dataset.class = k;
      item.dataset.value = p === null ? "" : String(p);
      item.className = k === first ? "first" : "";
      text.textContent = p === null ? "" : probabilities ? chance(p) : score(p);
      // A score is a length to the right or to the left of the middle.
      const length = p === null ? 0 : probabilities ? p : Math.abs(p) / largest / 2;
      bar.style.width = `${100 * length}%`;
      bar.style.left = probabilities ? "0" : `${100 * (p < 0 ? 0.5 - length : 0.5)}%`;
      bar.className = p < 0 ? "bar negative" : "bar";
    });
    const spoken = first < 0 ? "The board is empty" : `The network says ${first}, ${value}`;
    if (spoken === this.spoken) return;
    if (this.spoken || this.pixels) this.announce(spoken); // an empty board says nothing of itself at first
    this.spoken = spoken;
  }

  _hiddenLayers() {
    const { sizes, activation } = this.network;
    const hidden = sizes.slice(1, -1);
    if (hidden.length === 0) {
      const text = "There is no hidden layer: each class weighs the pixels themselves, as the weights below show.";
      byId("hidden-layers").append(element("p", { class: "small" }, text));
    }
    const shown = hidden.slice(0, MOST_LAYERS).map((units, index) => this._hiddenLayer(units, index, activation));
    if (hidden.length > shown.length) {
      const rest = plural(hidden.length - shown.length, "more hidden layer");
      byId("hidden-layers").append(element("p", { class: "small" }, `${rest}, computed and not shown.`));
    }
    return shown;
  }

  _hiddenLayer(units, index, activation) {
    const [l, below] = [subscript(index + 1), index ? `a${subscript(index)}` : "x"];
    const canvas = element("canvas", {
      class: "units",
      tabindex: "0",
      role: "slider",
      "aria-label": `Hidden layer ${index + 1}: ${units} units. Arrow keys choose one`,
      "aria-valuemin": 0,
      "aria-valuemax": units - 1,
    });
    const hint = `Point at a unit to see its ${index ? "activation" : "weights and its activation"}.`;
    const text = element("p", { class: "small" }, hint);
    const weights = element("canvas", { role: "img", "aria-label": "The weights of the unit chosen" });
    weights.hidden = true;
    const formula = element("span", { class: "maths" }, `a${l} = ${activation}(${below} W${l} + b${l})`);
    byId("hidden-layers").append(
      element(
        "figure",
        {},
        element("figcaption", {}, formula, element("span", {}, plural(units, "hidden unit"))),
        canvas,
        element("div", { class: index ? "unit low" : "unit" }, weights, text),
      ),
    );
    const layer = { index, canvas, text, hint, chosen: -1, lamps: new Lamps(canvas, units) };
    const choose = (unit) => {
      layer.chosen = unit;
      if (index === 0) {
        weights.hidden = unit < 0;
        if (unit >= 0) paintSigned(weights, this.network.column(unit), this.rows, this.columns, this.scale);
      }
      this._light(layer);
    };
    this.scale = weightScale(this.network);
    canvas.addEventListener("pointermove", (event) => choose(layer.lamps.unitAt(event)));
    canvas.addEventListener("pointerdown", (event) => choose(layer.lamps.unitAt(event)));
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: layer.lamps.columns, ArrowUp: -layer.lamps.columns };
      const ends = { Home: 0, End: units - 1 };
      if (!(event.key in steps || event.key in ends)) return;
      event.preventDefault();
      const wanted = event.key in ends ? ends[event.key] : Math.max(0, layer.chosen) + steps[event.key];
      choose(layer.chosen < 0 && event.key in steps ? 0 : clamp(wanted, 0, units - 1));
    });
    return layer;
  }

  _outputs() {
    const classes = this.network.sizes[this.network.sizes.length - 1];
    const bars = Array.from({ length: Math.min(classes, MOST_BARS) }, () => {
      const [label, bar] = [element("span"), element("span", { class: "bar" })];
      const text = element("span", { class: "value" });
      const item = element("li", {}, label, element("span", { class: "track", "aria-hidden": "true" }, bar), text);
      return { item, label, bar, text };
    });
    byId("outputs").append(...bars.map(({ item }) => item));
    return bars;
  }

  // Hands --------------------------------------------------------------------------------------------------------

  _listen() {
    const { canvas } = this;
    const point = (event) => {
      const place = canvas.getBoundingClientRect();
      const across = (event.clientX - place.left) / place.width;
      const down = (event.clientY - place.top) / place.height;
      return [across * this.sheet.width, down * this.sheet.height];
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || this.drawing !== null) return;
      canvas.setPointerCapture(event.pointerId);
      this.begin(...point(event));
      this.drawing = event.pointerId;
    });
    canvas.addEventListener("pointermove", (event) => {
      if (this.drawing !== event.pointerId) return;
      const between = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
      for (const each of between.length ? between : [event]) this.go(...point(each));
    });
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => this.drawing === event.pointerId && this.lift());
    }
    canvas.addEventListener("keydown", (event) => this._key(event));
    canvas.addEventListener("keyup", (event) => this.held.delete(event.key));
    canvas.addEventListener("focus", () => this._movePen());
    canvas.addEventListener("blur", () => {
      this.held.clear();
      if (this.drawing === "keyboard") this.drawing = null;
      byId("pen").hidden = true;
    });
    byId("undo").addEventListener("click", () => this.undo());
    byId("clear").addEventListener("click", () => this.clear());
    byId("normalise").addEventListener("change", () => this._changed());
  }

  _key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in arrows) {
      // Two arrows held together go diagonally.
      this.held.add(event.key);
      const step = Math.max(this.sheet.width, this.sheet.height) / (event.shiftKey ? 112 : 28);
      for (const key of this.held) {
        this.pen.x = clamp(this.pen.x + step * arrows[key][0], 0, this.sheet.width);
        this.pen.y = clamp(this.pen.y + step * arrows[key][1], 0, this.sheet.height);
      }
      if (this.drawing === "keyboard") this.go(this.pen.x, this.pen.y);
    } else if (event.key === " " || event.key === "Enter") {
      if (event.repeat) return event.preventDefault();
      if (this.drawing === "keyboard") this.lift();
      else if (this.drawing === null) {
        this.begin(this.pen.x, this.pen.y);
        this.drawing = "keyboard";
      }
      this.announce(this.drawing ? "Pen down" : `Pen up. ${this.spoken}`);
    } else if (event.key === "Escape") this.lift();
    else if (event.key === "Backspace") this.undo();
    else if (event.key === "Delete") this.clear();
    else return;
    event.preventDefault();
    this._movePen();
  }

  // The ring that shows where the keyboard's pen is; a mouse has a cursor of its own.
  _movePen() {
    const ring = byId("pen");
    ring.hidden = document.activeElement !== this.canvas || !this.canvas.matches(":focus-visible");
    ring.className = this.drawing === "keyboard" ? "pen down" : "pen";
    ring.style.left = `${(100 * this.pen.x) / this.sheet.width}%`;
    ring.style.top = `${(100 * this.pen.y) / this.sheet.height}%`;
  }
}
