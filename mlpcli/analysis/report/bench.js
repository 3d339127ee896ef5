"use strict";
// What the network makes of the board, forward and backward, and what it makes of it after a step: joins the board with
// the views of the one network that learns on the page.

class Bench {
  // `trained` is the run's Network; `stock` has the images of the data whose error is measured, or is null.
  constructor(trained, normalise, announce, stock) {
    Object.assign(this, { trained, announce, network: trained.copy() });
    this.chosen = null; // the true class, where one was chosen or is known
    this.forward = null; // of the network, as it is now; null while the board is empty
    this.backward = null;
    this.spoken = ""; // what was last announced
    const choose = (k) => this.choose(k);
    const learnt = (text) => {
      this.update();
      this.announce(text);
    };
    this.views = [
      new Outputs(trained, choose),
      new Jacobian(trained),
      new Layers(trained),
      new Learning(trained, this.network, stock, { learnt, open: (pixels, label) => this.show(pixels, label) }),
    ];
    this.board = new Board(trained, normalise, {
      changed: () => this.update(),
      cleared: () => (this.chosen = null),
      announce: (text) => announce(`${text}. ${this.spoken}`),
    });
  }

  // Puts an image of the data on the board.
  show(pixels, label) {
    this.board.show(pixels);
    this.chosen = label;
  }

  // The trained network has other weights now, and there may be other images of the data.
  renew(stock) {
    this.views.at(-1).renew(stock);
    this.update();
  }

  // Where several classes may be right, choosing one again takes it back.
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
    // Until a true class is chosen, the predicted one is taken for it.
    const backward = forward && network.backward(forward, chosen ?? (forward.predicted === -1 ? 0 : forward.predicted));
    Object.assign(this, { forward, backward });
    for (const view of this.views) view.show({ pixels, network, chosen, forward, backward });
    const spoken = forward ? `Predicted ${labelText(forward.predicted)}, loss ${number(backward.C)}` : "The board is empty";
    if (spoken === this.spoken) return;
    if (this.spoken || forward) this.announce(spoken); // not of a board that nobody has drawn on
    this.spoken = spoken;
  }
}
