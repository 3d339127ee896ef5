"use strict";
// From pen strokes to the bytes of an image, as MNIST was made, without access to the page.
//
// A sheet is a grid of ink between 0 and 1. It is cut to what is drawn, shrunk by averaging to fit a box of 20 x 20
// pixels, its aspect ratio kept, and moved by whole pixels to where its centre of mass, the first pixel being 0, is
// nearest to 14: as mlpcli/datasets/images.py does with pictures.

const BOX = 5 / 7; // of an image's side: 20 of 28
const EDGE = 0.1; // fainter ink does not widen the box
const FINE = 560; // the sheet's longer side is about this
const PEN = 1 / 12; // the pen's width as a fraction of the sheet's shorter side

class Sheet {
  constructor(rows, columns) {
    [this.rows, this.columns] = [rows, columns]; // of the image
    this.cell = Math.max(1, Math.floor(FINE / Math.max(rows, columns)));
    this.height = rows * this.cell;
    this.width = columns * this.cell;
    this.radius = Math.max(this.cell, PEN * Math.min(this.height, this.width)) / 2;
    this.ink = new Float32Array(this.height * this.width);
  }

  clear() {
    this.ink.fill(0);
  }

  // Draws a line with a round pen from (x0, y0) to (x1, y1): ink 1 within its radius, fading out over one cell.
  line(x0, y0, x1, y1) {
    const [dx, dy, reach] = [x1 - x0, y1 - y0, this.radius + 1];
    const length2 = dx * dx + dy * dy;
    const left = Math.max(0, Math.floor(Math.min(x0, x1) - reach));
    const right = Math.min(this.width, Math.max(x0, x1) + reach);
    const top = Math.max(0, Math.floor(Math.min(y0, y1) - reach));
    const bottom = Math.min(this.height, Math.max(y0, y1) + reach);
    for (let row = top; row < bottom; row++) {
      for (let column = left; column < right; column++) {
        const [x, y] = [column + 0.5 - x0, row + 0.5 - y0];
        const along = length2 ? clamp((x * dx + y * dy) / length2, 0, 1) : 0;
        const distance = Math.hypot(x - along * dx, y - along * dy);
        const ink = clamp(this.radius + 0.5 - distance, 0, 1);
        const at = row * this.width + column;
        if (ink > this.ink[at]) this.ink[at] = ink;
      }
    }
  }

  // Fills the sheet with the bytes of an image, each pixel a square.
  fill(pixels) {
    for (let row = 0; row < this.height; row++) {
      for (let column = 0; column < this.width; column++) {
        const pixel = Math.floor(row / this.cell) * this.columns + Math.floor(column / this.cell);
        this.ink[row * this.width + column] = pixels[pixel] / 255;
      }
    }
  }

  // The bounding box of the ink; null if there is none.
  bounds() {
    let [top, left, bottom, right] = [this.height, this.width, 0, 0];
    for (let row = 0, at = 0; row < this.height; row++) {
      for (let column = 0; column < this.width; column++, at++) {
        if (this.ink[at] <= EDGE) continue;
        if (row < top) top = row;
        if (column < left) left = column;
        if (column >= right) right = column + 1;
        bottom = row + 1;
      }
    }
    return bottom ? { top, left, height: bottom - top, width: right - left } : null;
  }

  // The mean of the ink in each cell of a grid of rows x columns over `box`: antialiasing.
  average(box, rows, columns) {
    // S[y][x] is the ink above and to the left of (x, y); between the lines of the grid it is bilinear.
    const W = this.width + 1;
    const S = new Float64Array(W * (this.height + 1));
    for (let y = 1; y <= this.height; y++) {
      let run = 0;
      for (let x = 1; x < W; x++) {
        run += this.ink[(y - 1) * this.width + x - 1];
        S[y * W + x] = S[(y - 1) * W + x] + run;
      }
    }
    const upTo = (x, y) => {
      const [left, top] = [Math.min(Math.floor(x), this.width - 1), Math.min(Math.floor(y), this.height - 1)];
      const [u, v, at] = [x - left, y - top, top * W + left];
      return (1 - v) * ((1 - u) * S[at] + u * S[at + 1]) + v * ((1 - u) * S[at + W] + u * S[at + W + 1]);
    };
    const means = new Float64Array(rows * columns);
    const [high, wide] = [box.height / rows, box.width / columns];
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const [x, y] = [box.left + column * wide, box.top + row * high];
        const ink = upTo(x + wide, y + high) - upTo(x, y + high) - upTo(x + wide, y) + upTo(x, y);
        means[row * columns + column] = clamp(ink / (high * wide), 0, 1);
      }
    }
    return means;
  }

  // The bytes of the image, as drawn: (rows * columns,).
  asDrawn() {
    const means = this.average({ top: 0, left: 0, height: this.height, width: this.width }, this.rows, this.columns);
    return Uint8Array.from(means, (mean) => Math.round(255 * mean));
  }

  // The bytes of the image, scaled to the box, with its centre of mass moved to the middle.
  normalised() {
    const pixels = new Uint8Array(this.rows * this.columns);
    const box = this.bounds();
    if (box === null) return pixels;
    const boxSide = (side) => Math.max(1, Math.round(BOX * side));
    const scale = Math.min(boxSide(this.rows) / box.height, boxSide(this.columns) / box.width);
    const [rows, columns] = [box.height, box.width].map((side) => Math.max(1, Math.round(side * scale)));
    const means = this.average(box, rows, columns);
    let [mass, down, across, darkest] = [0, 0, 0, 0];
    means.forEach((mean, at) => {
      darkest = Math.max(darkest, mean);
      mass += mean;
      down += mean * Math.floor(at / columns);
      across += mean * (at % columns);
    });
    // The shape stays within the image even if its mass lies far from its middle.
    const top = clamp(Math.round(Math.floor(this.rows / 2) - down / mass), 0, this.rows - rows);
    const left = clamp(Math.round(Math.floor(this.columns / 2) - across / mass), 0, this.columns - columns);
    means.forEach((mean, at) => {
      const place = (top + Math.floor(at / columns)) * this.columns + left + (at % columns);
      pixels[place] = Math.round((255 * mean) / darkest); // the darkest pixel becomes 255
    });
    return pixels;
  }
}
