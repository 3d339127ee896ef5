"use strict";
// Runs side by side: their curves in common charts, a table that sorts, and the error against each key that differs.

const BEST_COLOURED = 5;

class Runs {
  constructor() {
    this.picks = new Picks();
    this.charts = new Map(); // title -> figure
    this.order = { column: null, falling: false };
    this.chosen = false; // true once the user has picked runs: then the page does not
    byId("fold").addEventListener("change", () => {
      this.picks.clear();
      this.chosen = false;
      this._draw();
    });
    byId("best").addEventListener("click", () => this._pickBest());
    byId("none").addEventListener("click", () => this._choose(() => this.picks.clear()));
  }

  // Shows the document, or a newer one: picks, folding and order stay.
  show(doc) {
    const first = this.document === undefined;
    this.document = doc;
    const groups = Map.groupBy
      ? Map.groupBy(doc.runs, ({ group }) => group)
      : doc.runs.reduce((all, run) => all.set(run.group, [...(all.get(run.group) ?? []), run]), new Map());
    this.groups = [...groups.values()];
    const folds = this.groups.some((runs) => runs.length > 1);
    byId("fold-box").hidden = !folds;
    byId("fold-name").textContent = `Group by seed: ${plural(doc.runs.length, "run")} as ${this.groups.length}, with mean and range`;
    if (first) byId("fold").checked = folds;
    const { keys, runs } = doc;
    const some = doc.count > runs.length ? `the best ${count(runs.length)} of ${plural(doc.count, "run")}` : plural(runs.length, "run");
    byId("form").textContent = keys.length ? `${some}; they differ in ${keys.join(", ")}` : some;
    if (byId("form").textContent.length > 160) byId("form").textContent = `${some}; they differ in ${keys.length} keys`;
    this._draw();
  }

  // What is drawn and listed: runs, or groups that differ only in their seeds.
  _entries() {
    const { runs } = this.document;
    if (!byId("fold").checked || byId("fold-box").hidden) {
      return runs.map((run) => ({ ...run, key: run.name, runs: [run], spread: {} }));
    }
    return this.groups.map(folded).sort((one, other) => (one.validation_error ?? 9) - (other.validation_error ?? 9));
  }

  _draw() {
    this.entries = this._entries();
    if (!this.chosen) {
      this.picks.clear();
      this.entries.slice(0, BEST_COLOURED).forEach(({ key }) => this.picks.pick(key));
    }
    for (const key of this.picks.slots) if (key && !this.entries.some((entry) => entry.key === key)) this.picks.drop(key);
    byId("best").hidden = byId("none").hidden = this.entries.length <= BEST_COLOURED;
    this._curves();
    this._table();
    this._byKey();
  }

  _choose(change) {
    this.chosen = true;
    change();
    this._draw();
  }

  _pickBest() {
    this.chosen = false;
    this._draw();
  }

  _curves() {
    const drawn = this.entries.filter(({ curve }) => curve.epoch.length);
    byId("curves-note").textContent = drawn.length
      ? `${this.entries.length > BEST_COLOURED ? "The best have colours and letters, the others are grey. " : ""}Letters are those of the table.`
      : "No epoch is completed yet.";
    const grey = (one, other) => this.picks.has(one.key) - this.picks.has(other.key);
    const inOrder = [...drawn].sort(grey); // grey lines lie below
    const series = (number, at) =>
      inOrder.map((entry) => ({
        name: this.picks.letter(entry.key),
        values: entry.curve[number],
        at: entry.curve[at],
        style: this.picks.style(entry.key),
        band: entry.bands?.[number],
        quiet: !this.picks.has(entry.key),
      }));
    const own = this.document.one_objective ? "" : ", each by its own objective";
    const validated = drawn.some(({ curve }) => curve.validation_error.some((value) => value !== null));
    const charts = [
      validated && { title: "Validation error", series: series("validation_error", "epoch"), format: asShare },
      { title: "Training error", series: series("train_error", "epoch"), format: asShare },
      validated && { title: `Validation loss${own}`, series: series("validation_loss", "epoch"), format: asValue },
      { title: `Training loss${own}`, series: series("train_loss", "epoch"), format: asValue },
      {
        title: `${validated ? "Validation" : "Training"} error against training time`,
        series: series(validated ? "validation_error" : "train_error", "time"),
        format: asShare,
        unit: "time",
        along: duration,
      },
    ];
    const wanted = drawn.length ? charts.filter(Boolean) : [];
    for (const options of wanted) {
      const { title } = options;
      const log = overMagnitudes(options.series);
      const all = { ...options, title: log ? `${title}, log scale` : title, log };
      if (this.charts.has(title)) this.charts.get(title).redraw(all);
      else {
        this.charts.set(title, lineChart(all));
        byId("charts").append(this.charts.get(title));
      }
    }
    this._against("parameters", "Error against parameters", wanted.length > 0);
  }

  // Draws the error against the number of parameters, among the curves.
  _against(number, title, wanted) {
    const known = this.entries.filter((entry) => entry[number] !== null && entry.validation_error !== null);
    this.charts.get(title)?.remove();
    if (!wanted || new Set(known.map((entry) => entry[number])).size < 2) return;
    const dots = known.map((entry) => this._dot(entry, entry[number], entry.validation_error));
    const log = overMagnitudes([{ values: dots.map(({ y }) => y) }]);
    const logX = overMagnitudes([{ values: dots.map(({ x }) => x) }]);
    const options = { title, dots, format: asShare, along: short, unit: number, log, logX };
    this.charts.set(title, dotChart(options));
    byId("charts").append(this.charts.get(title));
  }

  _dot(entry, x, y) {
    const letter = this.picks.letter(entry.key);
    return { name: letter ? `${letter}, ${entry.name}` : entry.name, x, y, style: this.picks.style(entry.key) };
  }

  // Small multiples: a chart for each key, with a dot for each run over its value.
  _byKey() {
    const known = this.entries.filter(({ validation_error }) => validation_error !== null);
    const keys = this.document.keys.filter((key) => new Set(known.map(({ settings }) => text(settings[key]))).size > 1);
    byId("settings").hidden = keys.length === 0;
    const log = overMagnitudes([{ values: known.map(({ validation_error }) => validation_error) }]);
    const charts = keys.map((key) => {
      const values = known.map(({ settings }) => settings[key]);
      const numeric = values.every((value) => typeof value === "number");
      const words = numeric ? null : [...new Set(values.map(text))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      const dots = known.map((entry, n) =>
        this._dot(entry, numeric ? values[n] : words.indexOf(text(values[n])), entry.validation_error),
      );
      const logX = numeric && overMagnitudes([{ values }]);
      const along = (value) => number(value);
      return dotChart({ title: key, dots, format: asShare, along, unit: key, log, logX, places: words });
    });
    byId("by-key").replaceChildren(...charts);
  }

  // The columns: a title, the value of an entry, and its text.
  _columns() {
    const { keys } = this.document;
    const own = (name, title, write) => ({ title, value: (entry) => entry[name], write: (value, entry) => write(value, entry) });
    const spread = (name, write) => (value, entry) =>
      value === null ? "–" : entry.spread[name] ? `${write(value)} (${write(entry.spread[name][0])} to ${write(entry.spread[name][1])})` : write(value);
    const known = (write) => (value) => (value === null || value === undefined ? "–" : write(value));
    return [
      { title: "run", value: ({ name }) => name, write: (name, { seeds }) => (seeds ? `seeds ${seeds.join(", ")}` : name) },
      ...keys.map((key) => ({ title: key, value: ({ settings }) => settings[key], write: (value) => text(value) })),
      own("validation_error", "validation error", spread("validation_error", (value) => percent(value))),
      own("validation_loss", "loss", spread("validation_loss", asValue)),
      own("train_error", "training error", known((value) => percent(value))),
      own("epochs", "epochs", (value, entry) => (value === null ? "–" : epochs(entry))),
      own("seconds", "time", known(duration)),
      own("examples_per_second", "images a second", known((value) => count(Math.round(value)))),
      own("parameters", "parameters", known(count)),
      own("state", "state", (value, entry) => entry.problem ?? value),
    ];
  }

  _table() {
    const columns = this._columns();
    const { column, falling } = this.order;
    const rows = [...this.entries];
    const by = columns.find(({ title }) => title === column);
    if (by) rows.sort((one, other) => (falling ? -1 : 1) * compare(by.value(one), by.value(other)));
    const heads = columns.map(({ title }) => {
      const button = element("button", { type: "button", class: "quiet" }, title);
      button.addEventListener("click", () => {
        this.order = { column: title, falling: title === column && !falling };
        this._table();
        [...byId("runs").querySelectorAll("thead button")].find((each) => each.textContent === title).focus();
        announce(`Sorted by ${title}, ${this.order.falling ? "falling" : "rising"}`);
      });
      const sorted = title === column ? (falling ? "descending" : "ascending") : "none";
      return element("th", { scope: "col", "aria-sort": sorted }, button);
    });
    const full = this.picks.slots.every((slot) => slot !== null);
    const lines = rows.map((entry) => {
      const picked = this.picks.has(entry.key);
      const box = element("input", { type: "checkbox", "aria-label": `colour ${entry.name}` });
      box.checked = picked;
      box.disabled = full && !picked;
      box.addEventListener("change", () => {
        this._choose(() => (box.checked ? this.picks.pick(entry.key) : this.picks.drop(entry.key)));
        [...byId("runs").querySelectorAll("tbody input")].find((each) => each.getAttribute("aria-label") === `colour ${entry.name}`)?.focus();
      });
      const letter = element("span", { class: `letter ${this.picks.style(entry.key)}` }, this.picks.letter(entry.key));
      const cells = columns.map(({ value, write }, n) => {
        const words = write(value(entry), entry);
        if (n > 0) return element("td", {}, words);
        const name = entry.link ? element("a", { href: entry.link }, words) : words;
        return element("th", { scope: "row" }, name);
      });
      return element("tr", {}, element("td", { class: "pick" }, element("label", {}, box, letter)), ...cells);
    });
    const corner = element("td", {}, element("span", { class: "visually-hidden" }, "colour"));
    const scroll = byId("runs").parentElement.scrollTop;
    byId("runs").replaceChildren(element("thead", {}, element("tr", {}, corner, ...heads)), element("tbody", {}, ...lines));
    byId("runs").parentElement.scrollTop = scroll;
  }
}

// One entry for runs that differ only in their seeds: the means of the finished ones, and mean and range of each epoch.
function folded(runs) {
  const [first] = runs;
  if (runs.length === 1) return { ...first, key: `group ${first.name}`, runs, spread: {} };
  const done = runs.filter(({ state }) => state === "finished");
  const counted = done.length ? done : runs;
  const numbers = ["validation_error", "validation_loss", "train_error", "seconds", "examples_per_second", "epochs"];
  const [means, spread] = [{}, {}];
  for (const name of numbers) {
    const values = counted.map((run) => run[name]).filter((value) => value !== null);
    means[name] = values.length ? mean(values) : null;
    if (values.length > 1) spread[name] = [Math.min(...values), Math.max(...values)];
  }
  const longest = runs.reduce((one, other) => (other.curve.epoch.length > one.curve.epoch.length ? other : one));
  const curve = { epoch: longest.curve.epoch, time: [] };
  const bands = {};
  const places = runs.map((run) => new Map(run.curve.epoch.map((epoch, n) => [epoch, n])));
  const at = (name, epoch) =>
    runs.map((run, r) => run.curve[name][places[r].get(epoch)] ?? null).filter((value) => value !== null);
  for (const name of ["validation_error", "validation_loss", "train_error", "train_loss", "time"]) {
    const each = curve.epoch.map((epoch) => at(name, epoch));
    const of = (make) => each.map((values) => (values.length ? make(values) : null));
    curve[name] = of(mean);
    if (name !== "time") bands[name] = [of((values) => Math.min(...values)), of((values) => Math.max(...values))];
  }
  const states = new Set(runs.map(({ state }) => state));
  return {
    ...first,
    ...means,
    spread,
    curve,
    bands,
    runs,
    link: null,
    key: `group ${first.name}`,
    name: Object.entries(first.settings).map(([key, value]) => `${key.split(".").pop()} ${text(value)}`).join(", ") || "all",
    seeds: runs.map(({ seed }) => seed).sort((one, other) => one - other),
    state: states.size === 1 ? first.state : [...states].map((state) => `${runs.filter((run) => run.state === state).length} ${state}`).join(", "),
  };
}

const mean = (values) => values.reduce((total, value) => total + value, 0) / values.length;

// A count, short enough for a tick.
function short(value) {
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))} M`;
  return value >= 1e4 ? `${Number((value / 1e3).toPrecision(3))} k` : count(value);
}

// The value of a key as the config has it.
const text = (value) => (typeof value === "string" ? value : value === undefined ? "–" : JSON.stringify(value).replaceAll(",", ", "));

function epochs({ epochs, max_epochs, state }) {
  const done = Number(epochs.toFixed(1));
  return state === "finished" || max_epochs === null ? count(done) : `${count(done)} of ${count(max_epochs)}`;
}

// In ascending order missing values come last, and numbers before words.
function compare(one, other) {
  const unknown = (value) => value === null || value === undefined;
  if (unknown(one) || unknown(other)) return unknown(one) - unknown(other);
  if (typeof one === "number" && typeof other === "number") return one - other;
  return text(one).localeCompare(text(other), "en", { numeric: true });
}
