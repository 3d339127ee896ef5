"use strict";
// The confusion matrix, whose cells show their images, and the galleries of these.

const MAX_CLASSES = 30; // of more, the largest cells are listed instead

const inWords = (label, predicted) => `true ${labelText(label)}, predicted ${labelText(predicted)}`;

class Confusion {
  // `evaluation` is the document's; `pixelsOf(position)` returns the bytes of an image in the page; `open(position)`
  // puts it on the board, and is null without one. `chosen` is the cell to show first.
  constructor(evaluation, shape, probabilities, pixelsOf, open, chosen = null) {
    Object.assign(this, { evaluation, shape, probabilities, pixelsOf, open });
    if (evaluation.confusion === null) {
      // With several labels per image there is no confusion matrix, only scores by label, and mistakes.
      byId("images-title").textContent = "Labels";
      for (const part of [byId("matrix").parentElement, byId("cell")]) part.hidden = true;
      this._worst();
      return;
    }
    this.behind = new Map(); // "label,predicted" -> positions of the images in the page
    evaluation.images.forEach(([, label, predicted], position) => {
      const key = `${label},${predicted}`;
      if (!this.behind.has(key)) this.behind.set(key, []);
      this.behind.get(key).push(position);
    });
    // Mistakes by falling confidence, correct images by rising confidence.
    for (const [key, positions] of this.behind) {
      const [label, predicted] = key.split(",");
      const sign = label === predicted ? 1 : -1;
      positions.sort((one, other) => sign * (evaluation.images[one][3] - evaluation.images[other][3]));
    }
    this.buttons = new Map(); // "label,predicted" -> button
    const most = (kind) => Math.max(1, ...this._cells().map(({ n, right }) => (right === kind ? n : 0)));
    [this.maxRight, this.maxWrong] = [most(true), most(false)];
    const classes = evaluation.confusion.length;
    if (classes <= MAX_CLASSES) this._matrix(classes);
    else this._list();
    const cells = this._cells().sort((a, b) => a.right - b.right || b.n - a.n);
    const before = cells.find(({ label, predicted }) => chosen && chosen[0] === label && chosen[1] === predicted);
    const first = before ?? cells[0];
    this.choose(first.label, first.predicted);
    this._worst();
  }

  _cells() {
    return this.evaluation.confusion.flatMap((row, label) =>
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
    const caption = "Arrow keys move between cells.";
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
    const n = this.evaluation.confusion[label][predicted];
    const cell = element("td", { role: "gridcell" });
    if (n === 0) return cell;
    const right = label === predicted;
    // There are few mistakes, so they have a scale of their own. Text stays readable on the darkest shade.
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

  // Lists the most frequent mistakes of many classes, each a button.
  _list() {
    const cells = this._cells().filter(({ right }) => !right);
    const rows = cells.sort((a, b) => b.n - a.n).slice(0, 100).map(({ label, predicted, n }) => {
      const button = this._button(label, predicted, n, inWords(label, predicted));
      button.tabIndex = 0;
      return element("tr", {}, element("td", {}, button), element("td", {}, count(n)));
    });
    const classes = this.evaluation.confusion.length;
    byId("matrix").className = "numbers";
    byId("matrix").removeAttribute("role");
    byId("matrix").replaceChildren(
      element("caption", {}, `The most frequent mistakes of ${classes} classes, too many for a matrix.`),
      element("thead", {}, element("tr", {}, element("th", {}, "classes"), element("th", {}, "images"))),
      element("tbody", {}, ...rows),
    );
  }

  // Arrow keys move to the next cell with images in their direction; Tab reaches the chosen cell only.
  _key(event) {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!(event.key in steps)) return;
    event.preventDefault();
    let [label, predicted] = this.chosen;
    const [down, across] = steps[event.key];
    for (;;) {
      [label, predicted] = [label + down, predicted + across];
      if (this.evaluation.confusion[label]?.[predicted] === undefined) return;
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
      const chosen = key === `${label},${predicted}`;
      button.setAttribute("aria-pressed", String(chosen));
      if (this.evaluation.confusion.length <= MAX_CLASSES) button.tabIndex = chosen ? 0 : -1;
    }
    const n = this.evaluation.confusion[label][predicted];
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
    const [index, label, predicted, confidence] = this.evaluation.images[position];
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
    const { worst, errors } = this.evaluation;
    const none = errors ? "This page has no images of mistakes." : "There are none.";
    const highest = `with the highest ${this.probabilities ? "probability" : "score"}`;
    const shown = worst.length === errors ? count(errors) : `${count(worst.length)} of ${count(errors)}`;
    byId("worst-note").textContent = worst.length ? `The ${shown} mistakes ${highest}.` : none;
    byId("worst").replaceChildren(...worst.map((position) => this._picture(position, true)));
  }
}
