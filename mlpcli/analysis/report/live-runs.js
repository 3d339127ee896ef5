"use strict";
// Runs side by side, live: the curves grow, and each run's name links to its own page.

const line = new StateLine();

listen(
  {
    runs: (doc) => {
      runs.show(doc);
      const training = doc.runs.filter(({ state }) => state === "running");
      const known = doc.runs.filter(({ state }) => state !== "running").length;
      const done = doc.runs.reduce((total, run) => total + (run.epochs ?? 0), 0);
      const all = doc.runs.reduce((total, run) => total + ((run.state === "running" ? run.max_epochs : run.epochs) ?? 0), 0); // other runs have ended
      const state = training.length ? "running" : "finished";
      const left = doc.count > doc.runs.length ? `the best ${doc.runs.length} of ` : "";
      const words = doc.count ? `${training.length} of ${left}${plural(doc.count, "run")}, ${known} ended` : "no run yet";
      const hint = training.length || !doc.count ? [] : ["The same page as a file: ", command(doc.report)];
      line.again = doc.watch;
      line.show(state, training.length ? words : `${left}${plural(doc.count, "run")}; none is training`, done, all, hint);
    },
  },
  (over) => line.gone(over),
);
