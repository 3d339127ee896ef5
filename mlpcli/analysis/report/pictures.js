"use strict";
// Pictures of numbers on canvases. All are drawn with alpha on nothing, so that they stand on light paper and on dark:
// ink is black, which the style sheet inverts on dark paper; of numbers the positive are blue, the negative orange.

const POSITIVE = [52, 120, 228];
const NEGATIVE = [230, 108, 36];
const GAP = 2; // between the tiles of a mosaic

// The bytes of one image, one canvas pixel each.
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

// The columns of W1 as images, side by side in a canvas at most `width` wide; each tile `zoom` times its size.
function paintMosaic(canvas, network, units, width, zoom, scale) {
  const [rows, columns] = network.image_shape;
  const abreast = clamp(Math.floor((width / zoom + GAP) / (columns + GAP)), 1, units);
  const down = Math.ceil(units / abreast);
  [canvas.width, canvas.height] = [abreast * (columns + GAP) - GAP, down * (rows + GAP) - GAP];
  const context = canvas.getContext("2d");
  const picture = context.createImageData(canvas.width, canvas.height);
  for (let j = 0; j < units; j++) {
    const [left, top] = [(j % abreast) * (columns + GAP), Math.floor(j / abreast) * (rows + GAP)];
    writeSigned(picture, left, top, network.column(j), columns, scale);
  }
  context.putImageData(picture, 0, 0);
  canvas.style.width = `${canvas.width * zoom}px`;
  canvas.style.imageRendering = "pixelated";
}

// The size from which on a weight of W1 has full colour: three times their root mean square.
function weightScale(network) {
  const sum = network.W[0].reduce((total, w) => total + w * w, 0);
  return 3 * Math.sqrt(sum / network.W[0].length) || 1;
}

// The units of one layer as lamps in a grid, about twice as wide as high.
class Lamps {
  constructor(canvas, units) {
    this.canvas = canvas;
    this.units = units;
    this.columns = Math.ceil(Math.sqrt(2 * units));
    this.rows = Math.ceil(units / this.columns);
    [this.side, this.gap] = units <= 4096 ? [12, 3] : [2, 0];
    const pitch = this.side + this.gap;
    [canvas.width, canvas.height] = [this.columns * pitch - this.gap, this.rows * pitch - this.gap];
    // Few units need not be as large as the page is wide.
    canvas.style.maxWidth = `${clamp(canvas.width, 40, 480)}px`;
  }

  // `a` are the activations; `brightest` is full light. `chosen` is framed.
  paint(a, brightest, chosen = -1) {
    const context = this.canvas.getContext("2d");
    const pitch = this.side + this.gap;
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (let j = 0; j < this.units; j++) {
      const [x, y] = [(j % this.columns) * pitch, Math.floor(j / this.columns) * pitch];
      context.fillStyle = "rgb(128 128 128 / 16%)";
      context.fillRect(x, y, this.side, this.side);
      const light = a ? clamp(Math.abs(a[j]) / brightest, 0, 1) : 0;
      if (light > 0) {
        context.fillStyle = `rgb(${(a[j] < 0 ? NEGATIVE : POSITIVE).join(" ")} / ${light})`;
        context.fillRect(x, y, this.side, this.side);
      }
      if (j === chosen) {
        context.strokeStyle = "rgb(128 128 128)";
        context.lineWidth = 3;
        context.strokeRect(x + 1.5, y + 1.5, this.side - 3, this.side - 3);
      }
    }
  }

  // The unit under a pointer, or -1.
  unitAt(event) {
    const place = this.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - place.left) / place.width) * this.columns);
    const row = Math.floor(((event.clientY - place.top) / place.height) * this.rows);
    const unit = row * this.columns + column;
    return column >= 0 && column < this.columns && unit >= 0 && unit < this.units ? unit : -1;
  }
}

// The images behind a report: runs of n zeros are written as the bytes 0 n, all others as they are.
function spread(squeezed, length) {
  const pixels = new Uint8Array(length);
  for (let i = 0, at = 0; i < squeezed.length; i++) {
    if (squeezed[i] === 0) at += squeezed[++i];
    else pixels[at++] = squeezed[i];
  }
  return pixels;
}
