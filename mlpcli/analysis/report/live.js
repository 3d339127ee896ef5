"use strict";
// The live part of a page: it receives events from its server, and shows the state of the run.

const STATES = {
  running: "Training",
  finished: "Finished",
  interrupted: "Stopped",
  diverged: "Diverged",
  damaged: "Damaged",
  removed: "Removed",
};

// `handlers` has a function for each kind of event, called with its value. `gone(over)` is called when the connection
// ends: with true if the server announced it.
function listen(handlers, gone) {
  const source = new EventSource("events");
  let over = false;
  for (const [kind, handle] of Object.entries(handlers)) {
    source.addEventListener(kind, (event) => {
      gone(null);
      handle(JSON.parse(event.data));
    });
  }
  source.addEventListener("bye", () => {
    over = true;
    source.close();
    gone(true);
  });
  source.addEventListener("error", () => over || gone(false));
  byId("closed").textContent = "This page is live: it computes here, and gets events from mlpcli on this machine.";
}

// The line at the top: state, progress, speed and time left; at the end, the command that makes a file of the page.
class StateLine {
  constructor() {
    this.badge = element("b", { class: "badge" });
    this.words = element("span", { class: "words" });
    this.bar = element("span", { class: "bar" });
    this.track = element("span", { class: "track", role: "progressbar", "aria-valuemin": 0, "aria-label": "Epochs" }, this.bar);
    this.hint = element("p", { class: "small hint" });
    byId("live").append(element("p", { class: "state" }, this.badge, this.words), this.track, this.hint);
    byId("live").hidden = false;
    document.querySelector(".mark span").textContent = "live";
    this.title = document.title;
    this.said = "";
    this.again = ""; // the command that serves this page
    this.connection = null;
  }

  // `state` is a key of STATES, `words` the text beside it. The bar shows `done` of `all`. `hint` is a list of texts
  // and nodes.
  show(state, words, done, all, hint) {
    Object.assign(this, { state, shown: words });
    this.track.hidden = !all;
    this.track.setAttribute("aria-valuemax", all || 1);
    this.track.setAttribute("aria-valuenow", done || 0);
    this.track.setAttribute("aria-valuetext", `${number(done || 0, 4)} of ${all} epochs`);
    this.bar.style.width = `${all ? clamp((100 * done) / all, 0, 100) : 0}%`;
    this.hint.replaceChildren(...hint);
    this._paint();
    document.title = state === "running" && all ? `${Math.floor(done)}/${all} ${this.title}` : `${STATES[state]}: ${this.title}`;
  }

  // True if the server has announced its end, false if the connection was lost, null while it is there.
  gone(over) {
    if (this.connection === over) return;
    this.connection = over;
    this._paint();
  }

  _paint() {
    const lost = this.connection === false;
    this.badge.textContent = lost ? "No connection" : (STATES[this.state] ?? "Waiting");
    byId("live").dataset.state = lost ? "lost" : (this.state ?? "waiting");
    const again = this.again ? `; to reload it, run ${this.again} and open the new address` : "";
    const ended = {
      true: `the server has stopped; this page can still be used${again}`,
      false: `no answer from the server; the page shows the last values${again}`,
    };
    this.words.textContent = [this.shown, ended[this.connection]].filter(Boolean).join(" · ");
    const said = `${this.badge.textContent}${this.state === "running" ? "" : `. ${this.words.textContent}`}`;
    if (said !== this.said) announce((this.said = said));
  }
}

const command = (text) => element("code", {}, text);
