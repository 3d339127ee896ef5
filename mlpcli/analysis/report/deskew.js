"use strict";
// The preprocessing of images, as data.preprocessing says.

// The network's input bytes for the bytes of an image.
function preprocessed(pixels, [rows, columns], preprocessing) {
  return preprocessing === "deskew" ? deskewed(pixels, rows, columns) : pixels;
}

// Deskews an image: mlpcli/datasets/deskew.py has the formulas. The sums and their order are the same, so the result is
// bit-identical.
function deskewed(pixels, rows, columns) {
  const [ink, first] = [new Float64Array(rows), new Float64Array(rows)];
  let [mass, down] = [0, 0];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      ink[y] += pixels[y * columns + x];
      first[y] += pixels[y * columns + x] * x;
    }
    mass += ink[y];
    down += ink[y] * y;
  }
  const middle = down / (mass || 1);
  let [mu11, mu02] = [0, 0];
  for (let y = 0; y < rows; y++) {
    const above = y - middle;
    mu11 += above * first[y];
    mu02 += above * above * ink[y];
  }
  const k = mu02 > 1e-9 * mass ? mu11 / mu02 : 0;
  const upright = new Uint8Array(pixels.length);
  for (let y = 0; y < rows; y++) {
    const shift = clamp(k * (y - middle), -columns, columns);
    const whole = Math.floor(shift);
    const pixel = (x) => (x >= 0 && x < columns ? pixels[y * columns + x] : 0);
    for (let x = 0; x < columns; x++) {
      const left = pixel(x + whole);
      upright[y * columns + x] = Math.floor(left + (shift - whole) * (pixel(x + whole + 1) - left) + 0.5);
    }
  }
  return upright;
}
