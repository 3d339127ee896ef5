"use strict";
// The objectives: an output unit and a loss each, with their derivatives, for one image. They are those of
// mlpcli/model/objectives.py.
//
//   z (K,) logits      Y (K,) targets, 1 for the true class and else 0      p (K,) the output unit's value
//
//   p(z)            the output unit
//   loss(z, p, Y)   C, from the logits: no logarithm of a probability that has underflowed
//   dp(z, p, Y)     dC/dp, (K,)
//   dp_dz(z, p)     the Jacobian, as a function of (i, j): dp_i/dz_j
//   dz(z, p, Y)     dC/dz, (K,): the product of the two above, with common factors cancelled                  (4)
//
// `written` has p, C and dz as formulas; `of` are the logits, `k` the true class.

const sigmoid = (z) => (1 + Math.tanh(z / 2)) / 2;
const total = (values) => values.reduce((sum, each) => sum + each, 0);
const largest = (values) => values.reduce((most, each) => Math.max(most, each), -Infinity);

// ln sigmoid(z) = min(z, 0) - ln(1 + exp(-|z|))
const logSigmoid = (z) => Math.min(z, 0) - Math.log1p(Math.exp(-Math.abs(z)));

// p_k = exp(z_k) / sum_j exp(z_j); with the largest logit subtracted no exp overflows.
function softmax(z) {
  const m = largest(z);
  const e = z.map((each) => Math.exp(each - m));
  const sum = total(e);
  return e.map((each) => each / sum);
}

// - sum_k Y_k ln p_k = logsumexp(z) - sum_k Y_k z_k
function logLoss(z, Y) {
  const m = largest(z);
  return Math.log(total(z.map((each) => Math.exp(each - m)))) - total(z.map((each, k) => Y[k] * (each - m)));
}

const SOFTMAX = { p: softmax, dp_dz: (z, p) => (i, j) => (i === j ? p[i] * (1 - p[i]) : -p[i] * p[j]) };
const SIGMOID = { p: (z) => z.map(sigmoid), dp_dz: (z) => (i, j) => (i === j ? sigmoid(z[i]) * sigmoid(-z[i]) : 0) };
const LINEAR = { p: (z) => z.slice(), dp_dz: () => (i, j) => Number(i === j) };

const MATCHED = { dz: (z, p, Y) => p.map((each, k) => each - Y[k]) };
const QUADRATIC = {
  loss: (z, p, Y) => total(p.map((each, k) => (each - Y[k]) ** 2)) / 2,
  dp: (z, p, Y) => p.map((each, k) => each - Y[k]),
};
const LOG_LIKELIHOOD = { dp: (z, p, Y) => p.map((each, k) => (Y[k] ? -Y[k] / each : 0)) };

// M_j = 1 for the classes j != y that violate the margin: z_j - z_y + 1 > 0.
function violations(z, Y) {
  const right = total(z.map((each, k) => Y[k] * each));
  return { right, M: z.map((each, k) => (!Y[k] && each - right + 1 > 0 ? 1 : 0)) };
}

function hingeSlope(z, Y) {
  const { M } = violations(z, Y);
  const sum = total(M);
  return M.map((each, k) => each - Y[k] * sum);
}

const OBJECTIVES = {
  softmax_cross_entropy: {
    ...SOFTMAX,
    ...MATCHED,
    ...LOG_LIKELIHOOD,
    loss: (z, p, Y) => logLoss(z, Y),
    written: { p: (of) => `softmax(${of})`, C: (k) => `−ln p${subscript(k)}`, dz: "p − Y" },
  },
  sigmoid_cross_entropy: {
    ...SIGMOID,
    ...MATCHED,
    // softplus(z) = -ln sigmoid(-z)
    loss: (z, p, Y) => total(z.map((each, k) => -logSigmoid(-each) - Y[k] * each)),
    dp: (z, p, Y) => p.map((each, k) => (Y[k] ? -Y[k] / each : 0) + (Y[k] < 1 ? (1 - Y[k]) / sigmoid(-z[k]) : 0)),
    written: { p: (of) => `sigmoid(${of})`, C: () => "−Σ [Y ln p + (1 − Y) ln(1 − p)]", dz: "p − Y" },
  },
  sigmoid_quadratic: {
    ...SIGMOID,
    ...QUADRATIC,
    dz: (z, p, Y) => p.map((each, k) => (each - Y[k]) * each * sigmoid(-z[k])),
    written: { p: (of) => `sigmoid(${of})`, C: () => "½ Σ (p − Y)²", dz: "(p − Y) p (1 − p)" },
  },
  linear_quadratic: {
    ...LINEAR,
    ...MATCHED,
    ...QUADRATIC,
    written: { p: (of) => of, C: () => "½ Σ (p − Y)²", dz: "p − Y" },
  },
  linear_hinge: {
    ...LINEAR,
    loss(z, p, Y) {
      const { right, M } = violations(z, Y);
      return total(M.map((each, k) => each * (z[k] - right + 1)));
    },
    dp: (z, p, Y) => hingeSlope(z, Y),
    dz: (z, p, Y) => hingeSlope(z, Y),
    written: { p: (of) => of, C: (k) => `Σ max(0, z − z${subscript(k)} + 1)`, dz: "M − Y Σ M" },
  },
  // s / sum(s), s = sigmoid(z): the softmax of ln s, whose derivative by z is 1 - s.
  normalized_sigmoid: {
    ...LOG_LIKELIHOOD,
    p: (z) => softmax(z.map(logSigmoid)),
    loss: (z, p, Y) => logLoss(z.map(logSigmoid), Y),
    dp_dz: (z, p) => (i, j) => SOFTMAX.dp_dz(z, p)(i, j) * sigmoid(-z[j]),
    dz: (z, p, Y) => p.map((each, k) => (each - Y[k]) * sigmoid(-z[k])),
    written: {
      p: (of) => `s / Σ s, s = sigmoid(${of})`,
      C: (k) => `−ln p${subscript(k)}`,
      dz: "(1 − s)(p − Y)",
    },
  },
};
