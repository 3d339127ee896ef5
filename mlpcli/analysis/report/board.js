"use strict";
// The drawing board: strokes by mouse, finger, pen or keyboard, and the network's input bytes made from them.

class Board {
  // `network` has image_shape and preprocessing; `normalise` is the initial setting of centring and scaling.
  // `changed()` is called, at most once per frame, when the pixels change; `cleared()` when the board is cleared;
  // `announce(text)` informs screen readers.
  constructor(network, normalise, { changed, cleared, announce }) {
    Object.assign(this, { network, changed, cleared, announce });
    [this.rows, this.columns] = network.image_shape;
    this.sheet = new Sheet(this.rows, this.columns);
    this.strokes = []; // each a list of points [x, y] on the sheet
    this.example = null; // the bytes of an image of the data, shown instead of a drawing
    this.drawing = null; // the pointer that draws, or "keyboard"
    this.pen = { x: this.sheet.width / 2, y: this.sheet.height / 2 };
    this.held = new Set(); // the arrow keys that are down
    this.pixels = null; // the input bytes; null while the board is empty

    this.canvas = byId("sheet");
    [this.canvas.width, this.canvas.height] = [this.sheet.width, this.sheet.height];
    this.picture = this.canvas.getContext("2d").createImageData(this.sheet.width, this.sheet.height);
    byId("normalise").checked = normalise;
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
    this.cleared();
    this._changed();
  }

  // Puts an image on the board, its bytes unchanged.
  show(pixels) {
    this.clear();
    this.example = pixels;
    this.sheet.fill(pixels);
    this._changed();
  }

  _changed() {
    // At most once per frame: a fast pen sends more points than a screen shows.
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this._update();
    });
  }

  _update() {
    const { ink } = this.sheet;
    for (let at = 0; at < ink.length; at++) this.picture.data[4 * at + 3] = 255 * ink[at];
    this.canvas.getContext("2d").putImageData(this.picture, 0, 0);
    const empty = !this.example && this.strokes.length === 0;
    byId("undo").disabled = byId("clear").disabled = empty;
    byId("invitation").hidden = !empty;
    const drawn = () => (byId("normalise").checked ? this.sheet.normalised() : this.sheet.asDrawn());
    const pixels = empty ? null : (this.example ?? drawn());
    this.pixels = pixels && preprocessed(pixels, this.network.image_shape, this.network.preprocessing);
    paintInk(byId("seen"), this.pixels ?? new Uint8Array(this.rows * this.columns), this.rows, this.columns);
    this.changed();
  }

  // Input --------------------------------------------------------------------------------------------------------

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
      // Two arrows held together move diagonally.
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
      this.announce(this.drawing ? "Pen down" : "Pen up");
    } else if (event.key === "Escape") this.lift();
    else if (event.key === "Backspace") this.undo();
    else if (event.key === "Delete") this.clear();
    else return;
    event.preventDefault();
    this._movePen();
  }

  // Shows the position of the keyboard's pen as a ring; a mouse has its own cursor.
  _movePen() {
    const ring = byId("pen");
    ring.hidden = document.activeElement !== this.canvas || !this.canvas.matches(":focus-visible");
    ring.className = this.drawing === "keyboard" ? "pen down" : "pen";
    ring.style.left = `${(100 * this.pen.x) / this.sheet.width}%`;
    ring.style.top = `${(100 * this.pen.y) / this.sheet.height}%`;
  }
}
