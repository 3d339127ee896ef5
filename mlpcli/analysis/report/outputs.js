"use strict";
// The output layer: the predicted class, the loss, and p, dC/dp and dz of each class. A click on a row makes its class
// the true one. A single output unit has p, dC/dp and dz once, beside all classes.

const MAX_JACOBIAN = 64; // classes

const figure = (p, probabilities) => (probabilities ? chance(p) : number(p));

class Outputs {
  // `choose(k)` is called with the class chosen as the true one.
  constructor(network, choose) {
    this.network = network;
    const { classes, outputs, single_output, probabilities } = network;
    byId("p-head").textContent = probabilities ? "probability p" : "score p";
    this.rows = Array.from({ length: classes }, (_, k) => this._row(k, choose));
    this.units = Array.from({ length: outputs }, (_, k) => this._unit(this.rows[k].row, single_output ? classes : 1));
    byId("outputs").tBodies[0].append(...this.rows.map(({ row }) => row));
  }

  _row(k, choose) {
    const type = this.network.multi_label ? "checkbox" : "radio";
    const radio = element("input", { type, name: "truth", value: k, "aria-label": `true class ${labelText(k)}` });
    const label = element("label", {}, radio, element("span", { title: labelText(k) }, labelText(k)));
    const row = element("tr", {}, element("th", { scope: "row" }, label));
    row.dataset.class = k;
    radio.addEventListener("change", () => choose(k));
    row.addEventListener("click", (event) => event.target !== radio && !radio.disabled && radio.click());
    label.addEventListener("click", (event) => event.stopPropagation());
    return { row, radio };
  }

  // The cells of an output unit, from `row` on, over `rows` rows.
  _unit(row, rows) {
    const bar = element("span", { class: "bar" });
    const track = element("span", { class: "track", "aria-hidden": "true" }, bar);
    const [place, p, dp, dz] = Array.from({ length: 4 }, () => element("td", { rowspan: rows > 1 && rows }));
    place.append(track);
    row.append(place, p, dp, dz);
    return { row, bar, p, dp, dz };
  }

  show({ chosen, forward, backward }) {
    const { probabilities, single_output, objective } = this.network;
    const predicted = forward ? forward.predicted : -1;
    const truth = backward ? labelText(backward.truth) : -1;
    const several = Array.isArray(predicted);
    const answer = predicted < 0 ? "–" : labelText(predicted);
    byId("verdict").textContent = answer;
    byId("verdict").className = answer.length > 2 ? "long" : "";
    const kind = probabilities ? "probability" : single_output ? "p =" : "score";
    const ofOne = (k) => `predicted, ${kind} ${figure(this.network.outputOf(forward.p, k), probabilities)}`;
    const note = several ? "predicted: each p above 1/2" : predicted < 0 ? "" : ofOne(predicted);
    byId("verdict-note").textContent = forward ? note : "nothing drawn yet";
    byId("loss-formula").textContent = backward ? `C = ${OBJECTIVES[objective].written.C(backward.truth)} = ` : "";
    byId("loss").textContent = backward ? number(backward.C) : "";
    byId("loss").dataset.value = backward ? String(backward.C) : "";
    byId("loss-note").textContent = !backward
      ? ""
      : chosen === null
        ? `loss if ${truth} is true: choose below`
        : `loss, true ${several ? "labels" : "class"} ${truth}`;
    this.rows.forEach(({ row, radio }, k) => {
      row.className = [hasClass(predicted, k) && "first", hasClass(chosen, k) && "truth"].filter(Boolean).join(" ");
      radio.disabled = !forward;
      radio.checked = several ? hasClass(backward.truth, k) : k === chosen;
    });
    const most = single_output ? this.rows.length - 1 : forward ? largestSize(forward.p) : 1;
    this.units.forEach(({ row, bar, ...cells }, k) => {
      const p = forward ? forward.p[k] : null;
      const values = forward ? { p, dp: backward.dp[k], dz: backward.dz.at(-1)[k] } : { p: null, dp: null, dz: null };
      for (const [name, value] of Object.entries(values)) {
        row.dataset[name] = value === null ? "" : String(value);
        cells[name].textContent = value === null ? "" : name === "p" ? figure(p, probabilities) : number(value);
      }
      // The bar of a score begins in the middle.
      const length = !Number.isFinite(p) ? 0 : probabilities ? p : Math.min(1, Math.abs(p) / most) / 2;
      bar.style.width = `${100 * length}%`;
      bar.style.left = probabilities ? "0" : `${100 * (p < 0 ? 0.5 - length : 0.5)}%`;
      bar.className = p < 0 ? "bar negative" : "bar";
    });
    // Scroll to the predicted one of many classes.
    const box = byId("outputs").parentElement;
    const row = !several && predicted >= 0 && this.rows[predicted].row;
    if (row && box.scrollHeight > box.clientHeight) box.scrollTop = row.offsetTop - box.clientHeight / 2;
  }
}

// dz = dC/dp dp/dz: on the left the row vector dC/dp, drawn as a column; then the matrix; below it the product.
class Jacobian {
  constructor(network) {
    const K = (this.K = network.outputs);
    byId("jacobian").hidden = K > MAX_JACOBIAN;
    if (K > MAX_JACOBIAN) return;
    byId("jacobian-formula").textContent = `dz = dC/dp · dp/dz = ${OBJECTIVES[network.objective].written.dz}`;
    const canvas = byId("jacobian-cells");
    const pick = (cell, pinned) => {
      if (pinned) this.pinned = cell;
      this.grid.picked = cell < 0 ? this.pinned : cell;
      this._paint();
    };
    this.pinned = -1;
    const describe = (cell) => this._describe(cell);
    const split = [1, K];
    const [side, gap] = K > 16 ? [8, 1] : K > 4 ? [18, 2] : [42, 4];
    this.grid = new Grid(canvas, (K + 1) ** 2, K + 1, { side, gap, split, describe, pick });
    if (K <= 4) canvas.parentElement.style.setProperty("--width", `${canvas.width}px`); // do not enlarge a few cells
    if (K > 12) return;
    const names = [...Array(K).keys()].map(String);
    const place = (text, edge, size) => {
      const label = element("span", {}, text);
      [label.style[edge[0]], label.style[edge[1]]] = size;
      return label;
    };
    const share = (at, of) => `${(100 * at) / of}%`;
    byId("jacobian-across").append(
      ...["dC/dp", ...names].map((text, c) => place(text, ["left", "width"], [share(this.grid.left(c), canvas.width), share(side, canvas.width)])),
    );
    byId("jacobian-down").append(
      ...[...names, "dz"].map((text, r) => place(text, ["top", "height"], [share(this.grid.top(r), canvas.height), share(side, canvas.height)])),
    );
  }

  show({ forward, backward }) {
    if (!this.grid) return;
    this.forward = forward;
    this.backward = backward;
    this._paint();
  }

  // The number of a cell; NaN for the corner.
  _value(cell) {
    const { K, backward } = this;
    const [i, j] = [Math.floor(cell / (K + 1)), (cell % (K + 1)) - 1];
    if (i === K) return j < 0 ? NaN : backward.dz.at(-1)[j];
    return j < 0 ? backward.dp[i] : backward.dp_dz(i, j);
  }

  _paint() {
    const { K, grid, backward } = this;
    const numbers = Array.from({ length: (K + 1) ** 2 }, (_, cell) => (backward ? this._value(cell) : 0));
    numbers[K * (K + 1)] = NaN;
    const scaleOf = (wanted) => largestSize(numbers.filter((each, cell) => wanted(cell) && Number.isFinite(each)));
    const row = (cell) => Math.floor(cell / (K + 1)) === K;
    const column = (cell) => cell % (K + 1) === 0;
    const [ofRow, ofColumn, ofMatrix] = [row, column, (cell) => !row(cell) && !column(cell)].map(scaleOf);
    grid.paint(numbers.map((each, cell) => each / (row(cell) ? ofRow : column(cell) ? ofColumn : ofMatrix)));
    byId("jacobian-text").textContent = this._describe(grid.picked);
  }

  _describe(cell) {
    const { K, backward } = this;
    if (cell < 0 || !backward) return "Point at a cell for its number";
    const [i, j] = [Math.floor(cell / (K + 1)), (cell % (K + 1)) - 1];
    if (i === K && j < 0) return "";
    const name = i === K ? `dz${subscript(j)}` : j < 0 ? `∂C/∂p${subscript(i)}` : `∂p${subscript(i)}/∂z${subscript(j)}`;
    const named = K > 1 && CLASS_NAMES.some((name, k) => name !== String(k));
    const classes = named ? ` (${[i, j].filter((k) => k >= 0 && k < K).map(labelText).join(", ")})` : "";
    return `${name}${classes} = ${number(this._value(cell), 6)}`;
  }
}
