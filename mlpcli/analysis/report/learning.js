"use strict";
// Steps down the slope of the loss of the image on the board, by the page's own copy of the weights; and the error on
// some images of the data, before and after.

const SLICE = 30; // milliseconds that the page may stand still while the error is measured
const MAX_FORGOTTEN = 7; // images that are shown
const PAUSE = 125; // milliseconds from one step that is played to the next
const LONG_PAUSE = 1000; // the same for who wants no motion

class Learning {
  // `network` is the copy of `trained` that learns; `stock` has { name, all, size, labels }, the first images of the page
  // being those whose error is measured, or is null; `learnt(text)` is called after the weights have changed, and
  // `open(pixels, label)` with an image that is to be put on the board.
  constructor(trained, network, stock, { learnt, open }) {
    Object.assign(this, { trained, network, stock, learnt, open, steps: 0, wrongAsTrained: null });
    this.history = []; // the losses of the image on the board, before each step and after the last
    this.measuring = 0; // counts the measurements: only the last one is shown
    this.measured = true; // whether it is done
    this.playing = null; // the timer of the next step, while steps follow each other
    this.last = null; // what the last step promised and did
    byId("rate").addEventListener("input", () => this._rate());
    byId("step").addEventListener("click", () => this._take(1));
    byId("ten").addEventListener("click", () => this._take(10));
    byId("play").addEventListener("click", () => (this.playing === null ? this._play() : this._pause()));
    byId("reset").addEventListener("click", () => this._reset());
    document.addEventListener("visibilitychange", () => document.hidden && this._pause());
    this._stock();
    this._rate();
  }

  _stock() {
    const { stock } = this;
    byId("stock-row").hidden = stock === null;
    if (stock) byId("stock-name").textContent = `error on ${count(stock.labels.length)} ${stock.name} images`;
  }

  // The weights that were trained have changed; the page's copy follows them, unless somebody has taught it.
  renew(stock) {
    Object.assign(this, { stock, wrongAsTrained: null });
    this._stock();
    if (this.steps === 0) this.network.vector.set(this.trained.vector);
  }

  // Two digits, so that what is shown is what is used.
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
    byId("step-note").textContent = this._note(finite);
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
      return `Step ${this.steps}: C ${what}; its slope promised a fall of η‖dθ‖² = ${number(promised)}.`;
    }
    if (this.steps) return `The weights are ${plural(this.steps, "step")} away from the trained ones.`;
    return "All weights move, on this page alone. All else on the page is of the network as it was trained.";
  }

  // `times` steps down the slope of the loss of what is on the board.
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

  // One step after the other, until it is paused, or nothing can be learnt.
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
    if (this.stock) this._measure();
  }

  _reset() {
    this._pause();
    this.network.vector.set(this.trained.vector);
    [this.steps, this.history, this.last] = [0, [], null];
    this._changed("The weights are as they were trained");
  }

  _changed(text) {
    this.learnt(text);
    // While steps are played, a measurement that has begun is not given up for the next one.
    if (this.stock && (this.playing === null || this.measured)) this._measure();
  }

  // The error on the stock, slice by slice: the page stays alive with a large network.
  async _measure() {
    const mine = ++this.measuring;
    this.measured = false;
    const now = this.steps ? this.network.copy() : null; // which stays as it is while others are taken
    const { length } = this.stock.labels;
    const show = (id, wrong) => (byId(id).textContent = wrong ? `${percent(wrong.size / length)} (${wrong.size})` : "…");
    if (this.playing === null) show("stock-now", null);
    this.wrongAsTrained ??= await this._wrong(this.trained, () => true);
    show("stock-trained", this.wrongAsTrained);
    const wrong = now ? await this._wrong(now, () => mine === this.measuring) : this.wrongAsTrained;
    if (mine !== this.measuring) return;
    this.measured = true;
    show("stock-now", wrong);
    this._forgotten([...wrong].filter((n) => !this.wrongAsTrained.has(n)));
  }

  // Which images of the stock are misclassified; not all of them, once `wanted()` is false.
  async _wrong(network, wanted) {
    const wrong = new Set();
    let began = performance.now();
    for (let n = 0; n < this.stock.labels.length && wanted(); n++) {
      const image = preprocessed(this._pixels(n), network.image_shape, network.preprocessing);
      if (labelText(network.forward(image).predicted) !== labelText(this.stock.labels[n])) wrong.add(n);
      if (performance.now() - began < SLICE) continue;
      await new Promise((done) => setTimeout(done));
      began = performance.now();
    }
    return wrong;
  }

  _pixels(n) {
    const { all, size } = this.stock;
    return all.subarray(n * size, (n + 1) * size);
  }

  // Images that were right before the steps and are wrong now.
  _forgotten(images) {
    byId("forgotten-box").hidden = images.length === 0;
    byId("forgotten-note").textContent = `${plural(images.length, "image")} forgotten:`;
    const shown = images.slice(0, MAX_FORGOTTEN).map((n) => {
      const canvas = element("canvas", { class: "ink", "aria-hidden": "true" });
      paintInk(canvas, this._pixels(n), ...this.trained.image_shape);
      const label = `A ${labelText(this.stock.labels[n])} that is forgotten: put it on the board`;
      const button = element("button", { type: "button", "aria-label": label }, canvas);
      button.addEventListener("click", () => this.open(this._pixels(n), this.stock.labels[n]));
      return element("li", {}, button);
    });
    byId("forgotten").replaceChildren(...shown);
  }

  // The losses, from the first step on.
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
