"use strict";
// What all pages have: light and dark, words for those who listen, tables, and which line has which look.

// Light or dark: as the system says, until the button is pressed.
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

// Says `text` to who listens instead of looking; only the last thing said within half a second.
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

// A tick has as many digits as it needs, a value as many as mean something.
const asShare = (value, tick) => (tick ? `${Number((100 * value).toPrecision(6))} %` : percent(value));
const asValue = (each, tick) => (tick ? String(Number(each.toPrecision(6))) : each.toPrecision(3));

// A logarithm is for what falls over magnitudes, and never to 0.
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

// Colours for runs that were picked, each with a letter: seven colours, then the same with dashes. The others are grey.
const MAX_PICKED = 14;

class Picks {
  constructor() {
    this.slots = Array(MAX_PICKED).fill(null); // the key that has the colour of that number
  }

  has(key) {
    return this.slots.includes(key);
  }

  // False where all colours are taken.
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

  look(key) {
    const slot = this.slots.indexOf(key);
    return slot < 0 ? "other" : `r${slot % 7}${slot < 7 ? "" : " dashed"}`;
  }
}
