"use strict";
// The confusion matrix, whose cells open the images behind them, and the galleries those are shown in.

const MAX_CLASSES = 30; // beyond that a list of the cells is read more easily than the matrix

const inWords = (label, predicted) => `true ${labelText(label)}, predicted ${labelText(predicted)}`;

class Confusion {
  // `look` is the document's; `pixelsOf(position)` are the bytes of an image in the page; `open(position)` is called
  // with the one that is clicked; it is null where there is no board to open it on. `chosen` is the cell to begin with.
  constructor(look, shape, probabilities, pixelsOf, open, chosen = null) {
    Object.assign(this, { look, shape, probabilities, pixelsOf, open });
    if (look.confusion === null) {
      // Of several labels an image none is taken for another: there are the scores of each, and the mistakes.
      byId("images-title").textContent = "Labels";
      for (const part of [byId("matrix").parentElement, byId("cell")]) part.hidden = true;
      this._worst();
      return;
    }
    this.behind = new Map(); // "label,predicted" -> positions of the images in the page
    look.images.forEach(([, label, predicted], position) => {
      const key = `${label},${predicted}`;
      if (!this.behind.has(key)) this.behind.set(key, []);
      this.behind.get(key).push(position);
    });
    // Mistakes by falling confidence, what is right by rising confidence.
    for (const [key, positions] of this.behind) {
      const [label, predicted] = key.split(",");
      const sign = label === predicted ? 1 : -1;
      positions.sort((one, other) => sign * (look.images[one][3] - look.images[other][3]));
    }
    this.buttons = new Map(); // "label,predicted" -> its button
    const most = (kind) => Math.max(1, ...this._cells().map(({ n, right }) => (right === kind ? n : 0)));
    [this.maxRight, this.maxWrong] = [most(true), most(false)];
    const classes = look.confusion.length;
    if (classes <= MAX_CLASSES) this._matrix(classes);
    else this._list();
    const cells = this._cells().sort((a, b) => a.right - b.right || b.n - a.n);
    const before = cells.find(({ label, predicted }) => chosen && chosen[0] === label && chosen[1] === predicted);
    const first = before ?? cells[0];
    this.choose(first.label, first.predicted);
    this._worst();
  }

  _cells() {
    return this.look.confusion.flatMap((row, label) =>
      row.map((n, predicted) => ({ label, predicted, n, right: label === predicted })).filter(({ n }) => n > 0),
    );
  }

  _matrix(classes) {
    const numbers = Array.from({ length: classes }, (_, k) => k);
    const heads = numbers.map((k) => element("th", { scope: "col" }, labelText(k)));
    const down = element("th", { class: "axis", scope: "rowgroup", rowspan: classes }, element("span", {}, "true class"));
    const rows = numbers.map((label) => {
      const cells = numbers.map((predicted) => this._cell(label, predicted));
      const first = label ? [] : [down];
      return element("tr", { role: "row" }, ...first, element("th", { scope: "row" }, labelText(label)), ...cells);
    });
    const across = element("th", { class: "axis", scope: "colgroup", colspan: classes }, "predicted class");
    const corner = () => element("td", { colspan: 2 });
    const caption = "Arrow keys go from cell to cell.";
    byId("matrix").setAttribute("aria-label", "Confusion matrix");
    byId("matrix").replaceChildren(
      element("caption", {}, caption),
      element(
        "thead",
        {},
        element("tr", { role: "row" }, corner(), across),
        element("tr", { role: "row" }, corner(), ...heads),
      ),
      element("tbody", {}, ...rows),
    );
    byId("matrix").onkeydown = (event) => this._key(event);
  }

  _cell(label, predicted) {
    const n = this.look.confusion[label][predicted];
    const cell = element("td", { role: "gridcell" });
    if (n === 0) return cell;
    const right = label === predicted;
    // Mistakes are few beside what is right, so each kind has its own scale. Text stays readable on the darkest.
    const most = right ? this.maxRight : this.maxWrong;
    const shade = 0.1 + 0.42 * (n / most) ** (right ? 1 : 0.7);
    cell.style.background = `rgb(var(${right ? "--right-rgb" : "--wrong-rgb"}) / ${shade})`;
    cell.append(this._button(label, predicted, n, String(n)));
    return cell;
  }

  _button(label, predicted, n, text) {
    const button = element("button", { type: "button", tabindex: "-1", "aria-pressed": "false" }, text);
    button.setAttribute("aria-controls", "cell");
    button.setAttribute("aria-label", `${inWords(label, predicted)}: ${plural(n, "image")}`);
    button.addEventListener("click", () => this.choose(label, predicted));
    this.buttons.set(`${label},${predicted}`, button);
    return button;
  }

  // For many classes: the most frequent mistakes, each a button.
  _list() {
    const cells = this._cells().filter(({ right }) => !right);
    const rows = cells.sort((a, b) => b.n - a.n).slice(0, 100).map(({ label, predicted, n }) => {
      const button = this._button(label, predicted, n, inWords(label, predicted));
      button.tabIndex = 0;
      return element("tr", {}, element("td", {}, button), element("td", {}, count(n)));
    });
    const classes = this.look.confusion.length;
    byId("matrix").className = "numbers";
    byId("matrix").removeAttribute("role");
    byId("matrix").replaceChildren(
      element("caption", {}, `The most frequent mistakes of ${classes} classes, too many for a matrix.`),
      element("thead", {}, element("tr", {}, element("th", {}, "classes"), element("th", {}, "images"))),
      element("tbody", {}, ...rows),
    );
  }

  // The arrow keys go to the next cell, in their direction, that has images; one cell at a time can be tabbed to.
  _key(event) {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!(event.key in steps)) return;
    event.preventDefault();
    let [label, predicted] = this.chosen;
    const [down, across] = steps[event.key];
    for (;;) {
      [label, predicted] = [label + down, predicted + across];
      if (this.look.confusion[label]?.[predicted] === undefined) return;
      const button = this.buttons.get(`${label},${predicted}`);
      if (!button) continue;
      this.choose(label, predicted);
      button.focus();
      return;
    }
  }

  choose(label, predicted) {
    this.chosen = [label, predicted];
    for (const [key, button] of this.buttons) {
      const mine = key === `${label},${predicted}`;
      button.setAttribute("aria-pressed", String(mine));
      if (this.look.confusion.length <= MAX_CLASSES) button.tabIndex = mine ? 0 : -1;
    }
    const n = this.look.confusion[label][predicted];
    const here = this.behind.get(`${label},${predicted}`) || [];
    const right = label === predicted;
    byId("cell-title").textContent = `${inWords(label, predicted)}: ${plural(n, "image")}`;
    const order = `${right ? "lowest" : "highest"} ${this.probabilities ? "probability" : "score"} first`;
    const all = here.length === n ? `All ${count(n)}` : `${count(here.length)} of them`;
    const some = n === 1 && here.length ? "" : `${all}, ${order}. `;
    byId("cell-note").textContent = some + (this.open && here.length ? "Choose one to put it on the board." : "");
    byId("cell-images").replaceChildren(...here.map((position) => this._picture(position)));
  }

  _picture(position, named = false) {
    const [index, label, predicted, confidence] = this.look.images[position];
    const canvas = element("canvas", { class: "ink", "aria-hidden": "true" });
    paintInk(canvas, this.pixelsOf(position), ...this.shape);
    const value = figure(confidence, this.probabilities);
    const words = named ? [`true ${labelText(label)}`, element("br"), element("b", {}, `predicted ${labelText(predicted)}`), element("br"), value] : [value];
    const button = element("button", { type: "button" }, canvas, ...words);
    const then = this.open ? ": put it on the board" : "";
    button.setAttribute("aria-label", `Image ${index}, ${inWords(label, predicted)}, ${value}${then}`);
    button.title = `image ${index}`;
    if (this.open) button.addEventListener("click", () => this.open(position));
    else button.disabled = true;
    return element("li", {}, button);
  }

  _worst() {
    const { worst, errors } = this.look;
    const none = errors ? "No image of a mistake is in this page." : "There are none.";
    const highest = `with the highest ${this.probabilities ? "probability" : "score"}`;
    const shown = worst.length === errors ? count(errors) : `${count(worst.length)} of ${count(errors)}`;
    byId("worst-note").textContent = worst.length ? `The ${shown} mistakes ${highest}.` : none;
    byId("worst").replaceChildren(...worst.map((position) => this._picture(position, true)));
  }
}
