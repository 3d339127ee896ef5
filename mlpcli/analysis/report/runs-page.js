"use strict";
// The page of runs side by side: reads the document and shows it.

theme();
const runs = new Runs();
runs.show(JSON.parse(byId("document").textContent));
