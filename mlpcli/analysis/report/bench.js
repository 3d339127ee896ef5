"use strict";
// Joins the board and its views: the forward and the backward pass for the image on the board, by a copy of the network
// that learns on the page.

class Bench {
  // `trained` is the run's Network; `sample` has the images whose error is measured, or is null.
  constructor(trained, normalise, announce, sample) {
    Object.assign(this, { trained, announce, network: trained.copy() });
    this.chosen = null; // the true class, if chosen or known
    this.forward = null; // null while the board is empty
    this.backward = null;
    this.announced = ""; // the last announcement
    const choose = (k) => this.choose(k);
    const learnt = (text) => {
      this.update();
      this.announce(text);
    };
    this.views = [
      new Outputs(trained, choose),
      new Jacobian(trained),
      new Layers(trained),
      new Learning(trained, this.network, sample, { learnt, open: (pixels, label) => this.show(pixels, label) }),
    ];
    this.board = new Board(trained, normalise, {
      changed: () => this.update(),
      cleared: () => (this.chosen = null),
      announce: (text) => announce(`${text}. ${this.announced}`),
    });
  }

  // Puts an image with its label on the board.
  show(pixels, label) {
    this.board.show(pixels);
    this.chosen = label;
  }

  // Called when the trained network has newer weights, and perhaps other images.
  renew(sample) {
    this.views.at(-1).renew(sample);
    this.update();
  }

  // With several true classes, choosing one again removes it.
  choose(k) {
    const now = this.backward?.truth;
    if (!Array.isArray(now)) this.chosen = k;
    else this.chosen = now.includes(k) ? now.filter((each) => each !== k) : [...now, k].sort((a, b) => a - b);
    this.update();
  }

  update() {
    const { pixels } = this.board;
    const { network, chosen } = this;
    const forward = pixels && network.forward(pixels);
    // Until a true class is chosen, it is the predicted one.
    const backward = forward && network.backward(forward, chosen ?? (forward.predicted === -1 ? 0 : forward.predicted));
    Object.assign(this, { forward, backward });
    for (const view of this.views) view.show({ pixels, network, chosen, forward, backward });
    const announced = forward ? `Predicted ${labelText(forward.predicted)}, loss ${number(backward.C)}` : "The board is empty";
    if (announced === this.announced) return;
    if (this.announced || forward) this.announce(announced); // not before anything is drawn
    this.announced = announced;
  }
}
