"use strict";
// Helpers for the page. Elements are made of text nodes, so no text of a run is parsed as HTML.

const byId = (id) => document.getElementById(id);

// element("li", { class: "first" }, "some text", otherElement)
function element(name, attributes = {}, ...children) {
  return dress(document.createElement(name), attributes, children);
}

function svg(name, attributes = {}, ...children) {
  return dress(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function dress(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const count = (n) => n.toLocaleString("en-US");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
const percent = (share, digits = 2) => (share === null ? "–" : `${(100 * share).toFixed(digits)} %`);

// A probability as text, never rounded to 0 % or 100 %.
function chance(p) {
  if (p < 0.0005) return "< 0.1 %";
  if (p > 0.9995) return "> 99.9 %";
  return Number.isNaN(p) ? "not a number" : `${(100 * p).toFixed(1)} %`;
}

// A number with so many significant digits, with a power of ten if it is large or small.
function number(value, digits = 3) {
  if (Number.isNaN(value)) return "not a number";
  const size = Math.abs(value);
  const text =
    size === Infinity
      ? "∞"
      : size === 0 || (size >= 1e-3 && size < 1e4)
        ? String(Number(size.toPrecision(digits)))
        : size.toExponential(digits - 1).replace("e+", "e").replace("e-", "e−");
  return value < 0 ? `−${text}` : text;
}

// No line break before a percent sign or around an equals sign.
const unbroken = (text) => text.replace(/ (?=%)| (?==)|(?<==) /g, "\u00a0");

// A time in seconds, minutes or hours.
function duration(seconds) {
  if (seconds < 99.95) return `${Number(seconds.toPrecision(3))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

const SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉";
const subscript = (n) => [...String(n)].map((digit) => SUBSCRIPTS[digit]).join("");

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}
