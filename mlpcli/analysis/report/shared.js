"use strict";
// Shared by all pages: themes, announcements to screen readers, tables, and the styles of lines.

// The theme of the system until the button is pressed.
function theme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = byId("theme");
  let chosen = null;
  const apply = () => {
    const dark = chosen ?? system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.textContent = dark ? "Light mode" : "Dark mode";
  };
  system.addEventListener("change", apply);
  button.addEventListener("click", () => {
    chosen = !(chosen ?? system.matches);
    apply();
  });
  apply();
}

// Announces `text` to screen readers; of several within half a second only the last.
let speaking = 0;
function announce(text) {
  clearTimeout(speaking);
  speaking = setTimeout(() => (byId("status").textContent = text), 500);
}

function table(id, heads, rows) {
  const line = (name, attributes, texts) => element("tr", {}, ...texts.map((text) => element(name, attributes, text)));
  byId(id).replaceChildren(
    element("thead", {}, line("th", { scope: "col" }, heads)),
    element("tbody", {}, ...rows.map((row) => line("td", {}, row))),
  );
}

// A tick has as many digits as it needs, a value a fixed number of them.
const asShare = (value, tick) => (tick ? `${Number((100 * value).toPrecision(6))} %` : percent(value));
const asValue = (each, tick) => (tick ? String(Number(each.toPrecision(6))) : each.toPrecision(3));

// A log scale is for values above 0 that vary by a factor of five or more.
function overMagnitudes(series) {
  let [least, most] = [Infinity, 0];
  for (const { values } of series) {
    for (const value of values) {
      if (value === null) continue;
      [least, most] = [Math.min(least, value), Math.max(most, value)];
    }
  }
  return least > 0 && most >= 5 * least;
}

// Colours and letters of picked runs: seven colours, then the same with dashes. Other runs are grey.
const MAX_PICKED = 14;

class Picks {
  constructor() {
    this.slots = Array(MAX_PICKED).fill(null); // the key with the colour of that index
  }

  has(key) {
    return this.slots.includes(key);
  }

  // Returns false if all colours are taken.
  pick(key) {
    if (this.has(key)) return true;
    const free = this.slots.indexOf(null);
    if (free >= 0) this.slots[free] = key;
    return free >= 0;
  }

  drop(key) {
    this.slots = this.slots.map((each) => (each === key ? null : each));
  }

  clear() {
    this.slots.fill(null);
  }

  letter(key) {
    return this.has(key) ? String.fromCharCode(65 + this.slots.indexOf(key)) : "";
  }

  style(key) {
    const slot = this.slots.indexOf(key);
    return slot < 0 ? "other" : `r${slot % 7}${slot < 7 ? "" : " dashed"}`;
  }
}
