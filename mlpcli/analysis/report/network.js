"use strict";
// The network in the page: the forward and the backward pass of mlpcli/model/network.py for one image, and a step of
// gradient descent. docs/derivation.md derives the equations and numbers them.
//
//   D  inputs            x    (D,)    pixels, 0 to 1; a_0 = x
//   H  hidden units      W_l  (D, H)  weights from layer l-1 to layer l, row after row    l = 1 .. L
//   K  classes           b_l  (H,)    biases of layer l
//   f  the activation    z_l  (H,)    weighted inputs of layer l
//   C  the loss          a_l  (H,)    activations of layer l
//   dv dC/dv             p    (K,)    the output unit's value, softmax(z_L) for instance
//
//   (1)  z_l = a_{l-1} W_l + b_l          (5)  dW_l = a_{l-1}^T dz_l      for one image an outer product
//   (2)  a_l = f(z_l)  for l < L          (6)  db_l = dz_l
//   (3)  C, see objectives.js             (7)  da_{l-1} = dz_l W_l^T
//   (4)  dz_L, see objectives.js          (8)  dz_{l-1} = da_{l-1} * f'(z_{l-1})
//                                         (14) dW_l = M_l * dW_l               with receptive fields
//
// The weights have the run's dtype; the arithmetic is in float64.

// f, and f' in terms of a = f(z), of each activation. A unit is saturated where f' is below a twenty-fifth of its
// maximum; tanh(z) is 2 sigmoid(2 z) - 1.
const ACTIVATIONS = {
  sigmoid: {
    of: sigmoid,
    slope: (a) => a * (1 - a),
    steepest: 0.25,
    written: (a) => `${a}(1 − ${a})`,
    saturated: (z) => Math.abs(z) > 4.6,
    saturation: ["saturated", "|z| > 4.6"],
  },
  tanh: {
    of: Math.tanh,
    slope: (a) => 1 - a * a,
    steepest: 1,
    written: (a) => `1 − ${a}²`,
    saturated: (z) => Math.abs(z) > 2.3,
    saturation: ["saturated", "|z| > 2.3"],
  },
  relu: {
    of: (z) => Math.max(0, z),
    slope: (a) => Number(a > 0),
    steepest: 1,
    written: (a) => `[${a} > 0]`,
    saturated: (z) => z <= 0,
    saturation: ["off", "z ≤ 0"],
  },
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

// da = dz W^T                                                                                                      (7)
function weightedBack(dz, W, D) {
  const H = dz.length;
  return Float64Array.from({ length: D }, (_, i) => {
    let sum = 0;
    for (let j = 0; j < H; j++) sum += dz[j] * W[i * H + j];
    return sum;
  });
}

// A label is a class, or a list of classes with `multi_label`. A prediction is -1 where the outputs are NaN.
const hasClass = (label, k) => (Array.isArray(label) ? label.includes(k) : label === k);
const CLASS_NAMES = []; // those of the checkpoint; without them, classes have numbers
const labelText = (label) =>
  Array.isArray(label) ? label.map(labelText).join(", ") || "none" : (CLASS_NAMES[label] ?? String(label));

// The nearest integer; halves round to even, as in numpy.rint.
function rint(value) {
  const up = Math.round(value);
  return up - value === 0.5 && up % 2 ? up - 1 : up;
}

// M (D, H) of each of the first layers that has a receptive field: 1 for what is within its radius of a unit's place.
function connections({ image_shape, receptive_fields }) {
  if (!receptive_fields?.length) return [];
  const [rows, columns] = image_shape;
  let below = Array.from({ length: rows * columns }, (_, i) => [Math.floor(i / columns), i % columns]);
  return receptive_fields.map(({ radius, places }) => {
    const near = ([y, x]) => places.map(([row, column]) => Math.sqrt((y - row) ** 2 + (x - column) ** 2) <= radius + 1e-9);
    const M = Uint8Array.from(below.flatMap(near), Number);
    below = places;
    return M;
  });
}

class Network {
  // `form` has sizes (D, H, ..., K), activation, objective and dtype; `vector` are W1 b1 W2 b2 ..., a typed array. With
  // `single_output` there is one output unit, whose target is the number of the class. M is that of the derivation.
  constructor(form, vector) {
    form.M ??= connections(form);
    Object.assign(this, form, { form, vector, W: [], b: [] });
    let start = 0;
    for (let l = 1; l < form.sizes.length; l++) {
      const [rows, columns] = [form.sizes[l - 1], form.sizes[l]];
      const end = start + rows * columns;
      this.W.push(vector.subarray(start, end));
      this.b.push(vector.subarray(end, end + columns));
      start = end + columns;
    }
  }

  // W1 b1 W2 b2 ... from the bytes of a page, little-endian.
  static vectorOf(form, bytes) {
    return form.dtype === "float64" ? new Float64Array(bytes.buffer) : new Float32Array(bytes.buffer);
  }

  // A copy with weights of its own.
  copy() {
    return new Network(this.form, this.vector.slice());
  }

  // K
  get outputs() {
    return this.sizes[this.sizes.length - 1];
  }

  get classes() {
    return this.single_output ? this.class_names.length : this.outputs;
  }

  // The name of output unit k: that of its class, short and in full.
  outputText(k) {
    return this.single_output ? "p" : labelText(k);
  }

  outputName(k) {
    return this.single_output ? "Output unit" : `Class ${labelText(k)}`;
  }

  // The forward pass for the bytes of one image: inputs[l] = a_l with a_0 = x, every z_l and a_l, p, and the predicted
  // label.
  forward(pixels) {
    const inputs = [Float64Array.from(pixels, (byte) => byte / 255)];
    const zs = [];
    this.W.forEach((W, l) => {
      zs.push(weighted(inputs[l], W, this.b[l])); // (1)
      if (l < this.W.length - 1) inputs.push(zs[l].map(ACTIVATIONS[this.activation].of)); // (2)
    });
    const z = zs[zs.length - 1];
    const p = OBJECTIVES[this.objective].p(z);
    return { inputs, z: zs, a: inputs.slice(1), p, predicted: this._predicted(z, p) };
  }

  _predicted(z, p) {
    if (this.multi_label) return [...p.keys()].filter((k) => p[k] > 0.5);
    if (!this.single_output) return z.indexOf(largest(z));
    return Number.isNaN(p[0]) ? -1 : clamp(rint(p[0]), 0, this.classes - 1);
  }

  // The probability or score of class k for outputs p; a single score is returned as it is.
  outputOf(p, k) {
    if (!this.single_output) return p[k];
    return this.probabilities && k === 0 ? 1 - p[0] : p[0];
  }

  // The backward pass for the result of `forward` and the true label: C, dC/dp, dp/dz, every dz_l, and da_l and f'(z_l)
  // of the hidden layers.
  backward({ inputs, z, a, p }, truth) {
    const Y = this.single_output ? Float64Array.of(truth) : p.map((_, k) => Number(hasClass(truth, k)));
    const { loss, dp, dp_dz, dz: delta } = OBJECTIVES[this.objective];
    const last = z[z.length - 1];
    const dz = [delta(last, p, Y)]; // (4)
    const da = [];
    const slope = a.map((each) => each.map(ACTIVATIONS[this.activation].slope));
    for (let l = this.W.length - 1; l > 0; l--) {
      da.unshift(weightedBack(dz[0], this.W[l], this.sizes[l])); // (7)
      dz.unshift(da[0].map((each, j) => each * slope[l - 1][j])); // (8)
    }
    const squares = (values) => total(values.map((each) => each * each));
    // The squared norm of an outer product is the product of the squared norms.
    const norm2 = total(
      dz.map((each, l) => squares(each) + (this.M[l] ? squares(this._connected(l, inputs[l], each)) : squares(each) * squares(inputs[l]))),
    );
    return { truth, C: loss(last, p, Y), dp: dp(last, p, Y), dp_dz: dp_dz(last, p), dz, da, slope, norm2 };
  }

  // M_l * dW_l, row after row                                                                                         (14)
  _connected(l, x, dz) {
    const H = dz.length;
    return Float64Array.from(this.M[l], (connected, at) => (connected ? x[Math.floor(at / H)] * dz[at % H] : 0));
  }

  // theta <- theta - eta dC/dtheta
  step({ inputs }, { dz }, eta) {
    this.W.forEach((W, l) => {
      const H = dz[l].length;
      const M = this.M[l]; // undefined for a fully connected layer
      inputs[l].forEach((each, i) => {
        if (each === 0) return;
        for (let j = 0; j < H; j++) {
          if (M?.[i * H + j] !== 0) W[i * H + j] -= eta * each * dz[l][j]; // (5) and (14)
        }
      });
      this.b[l].forEach((_, j) => (this.b[l][j] -= eta * dz[l][j])); // (6)
    });
  }

  // Whether unit j of layer l (from 1) is connected to input i, 1 or 0: an entry of M_l.
  connected(l, i, j) {
    return this.M[l - 1]?.[i * this.sizes[l] + j] ?? 1;
  }

  // The incoming weights of unit j of layer l (from 1): a column of W_l.
  incoming(l, j) {
    const [D, H] = [this.sizes[l - 1], this.sizes[l]];
    return Float64Array.from({ length: D }, (_, i) => this.W[l - 1][i * H + j]);
  }

  // The outgoing weights of unit j of layer l: a row of W_{l+1}.
  outgoing(l, j) {
    const H = this.sizes[l + 1];
    return Float64Array.from(this.W[l].subarray(j * H, (j + 1) * H));
  }
}
