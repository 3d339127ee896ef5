"use strict";
// Steps of gradient descent on the loss of the image on the board, with the page's own copy of the weights; and the
// error on a sample of images before and after.

const SLICE = 30; // milliseconds for which measuring may block the page
const MAX_FORGOTTEN = 7; // forgotten images that are shown
const PAUSE = 125; // milliseconds between played steps
const LONG_PAUSE = 1000; // the same with reduced motion

class Learning {
  // `network` is the copy of `trained` that learns; `sample` is { name, all, size, labels } or null: the error is
  // measured on the first images, those with labels. `learnt(text)` is called after the weights have changed, and
  // `open(pixels, label)` with an image to put on the board.
  constructor(trained, network, sample, { learnt, open }) {
    Object.assign(this, { trained, network, sample, learnt, open, steps: 0, wrongAsTrained: null });
    this.history = []; // the losses of the image on the board, before each step and after the last
    this.measuring = 0; // the number of measurements: only the last one is shown
    this.measured = true; // whether the last one is complete
    this.playing = null; // the timer of the next step while steps are played
    this.last = null; // the promised and the actual fall of the last step
    byId("rate").addEventListener("input", () => this._rate());
    byId("step").addEventListener("click", () => this._take(1));
    byId("ten").addEventListener("click", () => this._take(10));
    byId("play").addEventListener("click", () => (this.playing === null ? this._play() : this._pause()));
    byId("reset").addEventListener("click", () => this._reset());
    document.addEventListener("visibilitychange", () => document.hidden && this._pause());
    this._sample();
    this._rate();
  }

  _sample() {
    const { sample } = this;
    byId("sample-row").hidden = sample === null;
    if (sample) byId("sample-name").textContent = `error on ${count(sample.labels.length)} ${sample.name} images`;
  }

  // Takes newer trained weights and images; the page's copy follows unless steps were taken.
  renew(sample) {
    Object.assign(this, { sample, wrongAsTrained: null });
    this._sample();
    if (this.steps === 0) this.network.vector.set(this.trained.vector);
  }

  // Rounded to two digits, as it is shown.
  get eta() {
    return Number((10 ** Number(byId("rate").value)).toPrecision(2));
  }

  _rate() {
    byId("rate-value").textContent = String(this.eta);
    byId("rate").setAttribute("aria-valuetext", String(this.eta));
  }

  show({ pixels, forward, backward }) {
    const same = backward && this.backward && pixels === this.pixels && labelText(backward.truth) === labelText(this.backward.truth);
    if (!same) [this.history, this.last] = [[], null];
    Object.assign(this, { pixels, forward, backward });
    const finite = !backward || Number.isFinite(backward.C);
    const stuck = !backward || !finite;
    byId("step").disabled = byId("ten").disabled = byId("play").disabled = stuck;
    if (stuck) this._pause();
    byId("reset").disabled = this.steps === 0;
    byId("step").textContent = this.history.length ? "Again" : "Take a step";
    const before = backward && this.steps ? this._asTrained() : null;
    const truth = backward ? backward.truth : null;
    const { probabilities, single_output } = this.network;
    const of = `${probabilities ? "probability" : "score"} of ${truth === null ? "the true class" : labelText(truth)}`;
    byId("truth-name").textContent = single_output && !probabilities ? "output p" : of;
    byId("truth-name").parentElement.hidden = Array.isArray(truth);
    const set = (id, value) => (byId(id).textContent = value ?? "–");
    set("loss-trained", before && number(before.C));
    set("loss-now", backward && number(backward.C));
    set("truth-trained", before && figure(before.p, probabilities));
    set("truth-now", backward && figure(this.network.outputOf(forward.p, truth), probabilities));
    byId("step-note").textContent = unbroken(this._note(finite));
    this._curve();
  }

  _asTrained() {
    const forward = this.trained.forward(this.pixels);
    const { truth } = this.backward;
    return { C: this.trained.backward(forward, truth).C, p: this.trained.outputOf(forward.p, truth) };
  }

  _note(finite) {
    if (!finite) return "The weights have overflowed: reset them, and take a smaller η.";
    if (this.last) {
      const { promised, fell } = this.last;
      const what = fell < 0 ? `rose by ${number(-fell)}` : `fell by ${number(fell)}`;
      return `Step ${this.steps}: C ${what}; its slope predicted a fall of η‖dθ‖² = ${number(promised)}.`;
    }
    if (this.steps) return `The weights are ${plural(this.steps, "step")} away from the trained ones.`;
    return "Steps change this page's copy of the weights. The sections below show the network as it was trained.";
  }

  // Takes `times` steps on the loss of the image on the board.
  _take(times) {
    if (this.history.length === 0) this.history.push(this.backward.C);
    for (let n = 0; n < times && Number.isFinite(this.backward.C); n++) {
      const { C, norm2, truth } = this.backward;
      this.network.step(this.forward, this.backward, this.eta);
      this.forward = this.network.forward(this.pixels);
      this.backward = this.network.backward(this.forward, truth);
      this.last = { promised: this.eta * norm2, fell: C - this.backward.C };
      this.history.push(this.backward.C);
      this.steps++;
    }
    this._changed(`Step ${this.steps}: loss ${number(this.backward.C)}, predicted ${labelText(this.forward.predicted)}`);
  }

  // Takes one step after the other until paused, or until there is nothing to learn.
  _play() {
    byId("play").textContent = "Pause";
    const next = () => {
      const began = performance.now();
      this._take(1);
      if (this.playing === null) return;
      const pause = matchMedia("(prefers-reduced-motion: reduce)").matches ? LONG_PAUSE : PAUSE;
      this.playing = setTimeout(next, Math.max(20, pause - (performance.now() - began)));
    };
    this.playing = setTimeout(next);
  }

  _pause() {
    if (this.playing === null) return;
    clearTimeout(this.playing);
    this.playing = null;
    byId("play").textContent = "Play";
    if (this.sample) this._measure();
  }

  _reset() {
    this._pause();
    this.network.vector.set(this.trained.vector);
    [this.steps, this.history, this.last] = [0, [], null];
    this._changed("The weights are as they were trained");
  }

  _changed(text) {
    this.learnt(text);
    // While steps are played, a measurement is completed before the next one begins.
    if (this.sample && (this.playing === null || this.measured)) this._measure();
  }

  // Measures the error on the sample in slices, so that the page responds even with a large network.
  async _measure() {
    const measurement = ++this.measuring;
    this.measured = false;
    const now = this.steps ? this.network.copy() : null; // a copy, as steps may follow meanwhile
    const { length } = this.sample.labels;
    const show = (id, wrong) => (byId(id).textContent = wrong ? `${percent(wrong.size / length)} (${wrong.size})` : "…");
    if (this.playing === null) show("sample-now", null);
    this.wrongAsTrained ??= await this._wrong(this.trained, () => true);
    show("sample-trained", this.wrongAsTrained);
    const wrong = now ? await this._wrong(now, () => measurement === this.measuring) : this.wrongAsTrained;
    if (measurement !== this.measuring) return;
    this.measured = true;
    show("sample-now", wrong);
    this._forgotten([...wrong].filter((n) => !this.wrongAsTrained.has(n)));
  }

  // The indices of the sample's misclassified images; incomplete once `wanted()` is false.
  async _wrong(network, wanted) {
    const wrong = new Set();
    let began = performance.now();
    for (let n = 0; n < this.sample.labels.length && wanted(); n++) {
      const image = preprocessed(this._pixels(n), network.image_shape, network.preprocessing);
      if (labelText(network.forward(image).predicted) !== labelText(this.sample.labels[n])) wrong.add(n);
      if (performance.now() - began < SLICE) continue;
      await new Promise((done) => setTimeout(done));
      began = performance.now();
    }
    return wrong;
  }

  _pixels(n) {
    const { all, size } = this.sample;
    return all.subarray(n * size, (n + 1) * size);
  }

  // Shows images that were classified correctly before the steps and are not now.
  _forgotten(images) {
    byId("forgotten-box").hidden = images.length === 0;
    byId("forgotten-note").textContent = `${plural(images.length, "image")} forgotten:`;
    const shown = images.slice(0, MAX_FORGOTTEN).map((n) => {
      const canvas = element("canvas", { class: "ink", "aria-hidden": "true" });
      paintInk(canvas, this._pixels(n), ...this.trained.image_shape);
      const label = `A ${labelText(this.sample.labels[n])} that is forgotten: put it on the board`;
      const button = element("button", { type: "button", "aria-label": label }, canvas);
      button.addEventListener("click", () => this.open(this._pixels(n), this.sample.labels[n]));
      return element("li", {}, button);
    });
    byId("forgotten").replaceChildren(...shown);
  }

  // Draws the losses from the first step on.
  _curve() {
    const { history } = this;
    const curve = byId("loss-curve");
    curve.toggleAttribute("hidden", history.length < 2);
    if (history.length < 2) return;
    const finite = history.filter(Number.isFinite);
    const most = largest(finite) || 1;
    const x = (n) => ((100 * n) / (history.length - 1)).toFixed(2);
    const points = finite.map((C, n) => `${x(n)} ${(30 - (28 * Math.max(0, C)) / most).toFixed(2)}`);
    curve.querySelector("path").setAttribute("d", `M${points.join("L")}`);
    const label = `Loss from ${number(history[0])} to ${number(history.at(-1))} in ${plural(history.length - 1, "step")}`;
    curve.setAttribute("aria-label", label);
  }
}
