"use strict";
// One sigmoid unit with the input 1 and the target 0 that begins wrong, trained by two losses: Nielsen 2015, "Neural
// Networks and Deep Learning", chapter 3.

const NEURON_STEPS = 300;

// p before each step and after the last one.
function learn(objective, start, eta) {
  const form = { sizes: [1, 1], activation: "sigmoid", objective, single_output: true, class_names: ["0", "1"] };
  const network = new Network(form, Float64Array.of(start, start));
  const p = [];
  for (let n = 0; n <= NEURON_STEPS; n++) {
    const forward = network.forward([255]);
    p.push(forward.p[0]);
    network.step(forward, network.backward(forward, 0), eta);
  }
  return p;
}

function neuron() {
  const draw = () => {
    const start = Number(byId("neuron-start").value);
    const eta = Number((10 ** Number(byId("neuron-rate").value)).toPrecision(2));
    byId("neuron-start-value").textContent = String(start);
    byId("neuron-rate-value").textContent = String(eta);
    byId("neuron-rate").setAttribute("aria-valuetext", String(eta));
    const series = [
      { name: "cross-entropy", values: learn("sigmoid_cross_entropy", start, eta) },
      { name: "quadratic", values: learn("sigmoid_quadratic", start, eta) },
    ];
    const steps = Array.from({ length: NEURON_STEPS + 1 }, (_, n) => n);
    const chart = { title: "p", unit: "step", epochs: steps, series, format: (value) => number(value) };
    byId("neuron-chart").replaceChildren(lineChart(chart));
  };
  for (const id of ["neuron-start", "neuron-rate"]) byId(id).addEventListener("input", draw);
  draw();
}
