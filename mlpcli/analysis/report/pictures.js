"use strict";
// Pictures of numbers on canvases. All use alpha on a transparent background, for the light and the dark theme. Ink is
// black, and the style sheet inverts it in the dark theme. Positive numbers are blue, negative ones orange.

const POSITIVE = [52, 120, 228];
const NEGATIVE = [230, 108, 36];
const GAP = 2; // between the tiles of a mosaic

// Paints the bytes of one image, one canvas pixel each.
function paintInk(canvas, pixels, rows, columns) {
  [canvas.width, canvas.height] = [columns, rows];
  const context = canvas.getContext("2d");
  const picture = context.createImageData(columns, rows);
  pixels.forEach((byte, at) => (picture.data[4 * at + 3] = byte));
  context.putImageData(picture, 0, 0);
}

// Writes the signed `values`, rows x columns, to `picture` at (left, top); `scale` and beyond is full colour.
function writeSigned(picture, left, top, values, columns, scale) {
  values.forEach((value, i) => {
    const at = 4 * ((top + Math.floor(i / columns)) * picture.width + left + (i % columns));
    picture.data.set(value < 0 ? NEGATIVE : POSITIVE, at);
    picture.data[at + 3] = 255 * Math.min(1, Math.abs(value) / scale);
  });
}

function paintSigned(canvas, values, rows, columns, scale) {
  [canvas.width, canvas.height] = [columns, rows];
  const context = canvas.getContext("2d");
  const picture = context.createImageData(columns, rows);
  writeSigned(picture, 0, 0, values, columns, scale);
  context.putImageData(picture, 0, 0);
}

// Paints the columns of W1 as images, side by side in a canvas at most `width` wide; each tile is enlarged `zoom`
// times.
function paintMosaic(canvas, network, units, width, zoom, scale) {
  const [rows, columns] = network.image_shape;
  const gridColumns = clamp(Math.floor((width / zoom + GAP) / (columns + GAP)), 1, units);
  const down = Math.ceil(units / gridColumns);
  [canvas.width, canvas.height] = [gridColumns * (columns + GAP) - GAP, down * (rows + GAP) - GAP];
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, canvas.height);
  for (let j = 0; j < units; j++) {
    const [left, top] = [(j % gridColumns) * (columns + GAP), Math.floor(j / gridColumns) * (rows + GAP)];
    writeSigned(picture, left, top, network.incoming(1, j), columns, scale);
  }
  context.putImageData(picture, 0, 0);
  canvas.style.width = `${canvas.width * zoom}px`;
  canvas.style.imageRendering = "pixelated";
}

// The weight of W at which the colour is full: three times the root mean square.
function weightScale(W) {
  const sum = W.reduce((total, w) => total + w * w, 0);
  return 3 * Math.sqrt(sum / W.length) || 1;
}

const norm = (values) => Math.sqrt(values.reduce((sum, each) => sum + each * each, 0));

const largestSize = (values) => values.reduce((most, each) => Math.max(most, Math.abs(each)), 0) || 1;

// The columns of a grid of `units` that is about twice as wide as high, or `ratio` times.
const gridColumns = (units, ratio = 2) => Math.min(units, Math.ceil(Math.sqrt(ratio * units)));

// Numbers as a grid of cells, one of which can be picked, with the pointer or the arrow keys. For screen readers it is
// a slider whose value is the index of the cell.
class Grid {
  // `describe(cell)` returns a cell's text; `pick(cell, pinned)` is called with the cell under the pointer or chosen by
  // keys, -1 for none. A `split` at [column, row] leaves a space before that column and before that row.
  constructor(canvas, cells, columns, { side = 12, gap = 3, split = null, describe, pick }) {
    Object.assign(this, { canvas, cells, columns, side, gap, split, describe, pick });
    this.rows = Math.ceil(cells / columns);
    this.picked = -1;
    [canvas.width, canvas.height] = [this.left(columns) - gap, this.top(this.rows) - gap];
    dress(canvas, { class: "cells", tabindex: 0, role: "slider", "aria-valuemin": 0, "aria-valuemax": cells - 1 }, []);
    canvas.addEventListener("pointermove", (event) => this.pick(this.cellAt(event), event.pointerType === "touch"));
    canvas.addEventListener("pointerdown", (event) => this.pick(this.cellAt(event), true));
    canvas.addEventListener("pointerleave", (event) => event.pointerType !== "touch" && this.pick(-1, false));
    canvas.addEventListener("keydown", (event) => this._key(event));
  }

  // `shades` are from -1 to 1, with full colour at both ends. NaN leaves a cell out.
  paint(shades) {
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (let cell = 0; cell < this.cells; cell++) {
      const [x, y] = [this.left(cell % this.columns), this.top(Math.floor(cell / this.columns))];
      const shade = shades ? shades[cell] : 0;
      if (Number.isNaN(shade)) continue;
      context.fillStyle = "rgb(128 128 128 / 16%)";
      context.fillRect(x, y, this.side, this.side);
      if (shade) {
        context.fillStyle = `rgb(${(shade < 0 ? NEGATIVE : POSITIVE).join(" ")} / ${Math.min(1, Math.abs(shade))})`;
        context.fillRect(x, y, this.side, this.side);
      }
      if (cell === this.picked) {
        context.strokeStyle = "rgb(128 128 128)";
        context.lineWidth = Math.max(1, this.side / 4);
        const inset = context.lineWidth / 2;
        context.strokeRect(x + inset, y + inset, this.side - 2 * inset, this.side - 2 * inset);
      }
    }
    this.canvas.setAttribute("aria-valuenow", Math.max(0, this.picked));
    this.canvas.setAttribute("aria-valuetext", this.describe(this.picked));
  }

  // The cell under a pointer, or -1.
  cellAt(event) {
    const place = this.canvas.getBoundingClientRect();
    const x = ((event.clientX - place.left) / place.width) * this.canvas.width;
    const y = ((event.clientY - place.top) / place.height) * this.canvas.height;
    const pitch = this.side + this.gap;
    const within = (at, edge, most) => clamp(Math.floor(at < edge ? at / pitch : (at - 3 * this.gap) / pitch), 0, most - 1);
    const column = within(x, this.split ? this.left(this.split[0]) : Infinity, this.columns);
    const row = within(y, this.split ? this.top(this.split[1]) : Infinity, this.rows);
    const cell = row * this.columns + column;
    return x >= 0 && y >= 0 && x <= this.canvas.width && y <= this.canvas.height && cell < this.cells ? cell : -1;
  }

  left(column) {
    return column * (this.side + this.gap) + (this.split && column >= this.split[0] ? 3 * this.gap : 0);
  }

  top(row) {
    return row * (this.side + this.gap) + (this.split && row >= this.split[1] ? 3 * this.gap : 0);
  }

  _key(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns };
    const ends = { Home: 0, End: this.cells - 1 };
    if (event.key === "Escape") return this.pick(-1, true);
    if (!(event.key in steps || event.key in ends)) return;
    event.preventDefault();
    const wanted = event.key in ends ? ends[event.key] : this.picked < 0 ? 0 : this.picked + steps[event.key];
    if (wanted >= 0 && wanted < this.cells) this.pick(wanted, true);
  }
}

// Decompresses the pixels of a report: each run of n zeros is stored as the bytes 0 n.
function decompress(compressed, length) {
  const pixels = new Uint8Array(length);
  for (let i = 0, at = 0; i < compressed.length; i++) {
    if (compressed[i] === 0) at += compressed[++i];
    else pixels[at++] = compressed[i];
  }
  return pixels;
}
