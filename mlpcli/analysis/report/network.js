"use strict";
// The network, in the page: the forward pass of mlpcli/model/network.py, for one image.
//
//   D  inputs            x    (D,)    pixels, 0 to 1; a_0 = x
//   H  hidden units      W_l  (D, H)  weights from layer l-1 to layer l, row after row    l = 1 .. L
//   K  classes           b_l  (H,)    biases of layer l
//   f  the activation    z_l  (H,)    weighted inputs of layer l
//                        a_l  (H,)    activations of layer l
//                        p    (K,)    the output unit's value, softmax(z_L) for instance
//
//   (1)  z_l = a_{l-1} W_l + b_l
//   (2)  a_l = f(z_l)                  for l < L; the last layer's activation is the objective's output unit
//
// The weights are the run's own, as it trained with them; the arithmetic here is in float64.

const sigmoid = (z) => (1 + Math.tanh(z / 2)) / 2;

const ACTIVATIONS = {
  sigmoid: (z) => z.map(sigmoid),
  tanh: (z) => z.map(Math.tanh),
  relu: (z) => z.map((each) => Math.max(0, each)),
};

// p_k = exp(z_k) / sum_j exp(z_j); with the largest logit taken away no exp overflows.
function softmax(z) {
  const m = Math.max(...z);
  const e = z.map((each) => Math.exp(each - m));
  const sum = e.reduce((total, each) => total + each, 0);
  return e.map((each) => each / sum);
}

// ln sigmoid(z) = min(z, 0) - ln(1 + exp(-|z|))
const logSigmoid = (z) => Math.min(z, 0) - Math.log1p(Math.exp(-Math.abs(z)));

// The output unit of each objective: p of the last z, and how that is written.
const SOFTMAX = { of: softmax, written: (z) => `p = softmax(${z})` };
const SIGMOID = { of: ACTIVATIONS.sigmoid, written: (z) => `p = sigmoid(${z})` };
const LINEAR = { of: (z) => z.slice(), written: (z) => `p = ${z}` };
// The softmax of ln s.
const NORMALIZED = { of: (z) => softmax(z.map(logSigmoid)), written: (z) => `p = s / Σ s, s = sigmoid(${z})` };

const OUTPUTS = {
  softmax_cross_entropy: SOFTMAX,
  sigmoid_cross_entropy: SIGMOID,
  sigmoid_quadratic: SIGMOID,
  linear_quadratic: LINEAR,
  linear_hinge: LINEAR,
  normalized_sigmoid: NORMALIZED,
};

// z = a W + b                                                                                                      (1)
function weighted(a, W, b) {
  const z = Float64Array.from(b);
  const H = z.length;
  a.forEach((each, i) => {
    if (each === 0) return; // most of an image is background
    for (let j = 0; j < H; j++) z[j] += each * W[i * H + j];
  });
  return z;
}

// What the network sees of the bytes of an image: what data.preprocessing makes of it.
function preprocessed(pixels, [rows, columns], preprocessing) {
  return preprocessing === "deskew" ? deskewed(pixels, rows, columns) : pixels;
}

// Bytes whose ink leans, made upright: mlpcli/datasets/deskew.py has the formulas. The sums and their order are the same,
// and so are all bits.
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

class Network {
  // `form` has sizes (D, H, ..., K), activation, objective and dtype; `bytes` are W1 b1 W2 b2 ..., little endian.
  constructor(form, bytes) {
    Object.assign(this, form);
    const vector = form.dtype === "float64" ? new Float64Array(bytes.buffer) : new Float32Array(bytes.buffer);
    this.W = [];
    this.b = [];
    let start = 0;
    for (let l = 1; l < form.sizes.length; l++) {
      const [rows, columns] = [form.sizes[l - 1], form.sizes[l]];
      const end = start + rows * columns;
      this.W.push(vector.subarray(start, end));
      this.b.push(vector.subarray(end, end + columns));
      start = end + columns;
    }
  }

  // What the network makes of the bytes of one image: every a_l and z_l, the output p, and the predicted class.
  forward(pixels) {
    let a = Float64Array.from(pixels, (byte) => byte / 255);
    const f = ACTIVATIONS[this.activation];
    const [zs, as] = [[], []];
    this.W.forEach((W, l) => {
      const z = weighted(a, W, this.b[l]);
      zs.push(z);
      if (l < this.W.length - 1) as.push((a = f(z))); // (2)
    });
    const z = zs[zs.length - 1];
    const p = OUTPUTS[this.objective].of(z);
    return { z: zs, a: as, p, predicted: z.indexOf(Math.max(...z)) };
  }

  // The weights from the pixels to unit j of the first layer: a column of W1, (D,).
  column(j) {
    const [D, H] = this.sizes;
    return Float64Array.from({ length: D }, (_, i) => this.W[0][i * H + j]);
  }
}
