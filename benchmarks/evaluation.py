"""Evaluation: 10,000 images through Measure, which is all that mlpcli measures with, against the forward products."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks import common

IMAGES = 10_000


def main() -> None:
    """Measure both in turns, in one process: they share its matrix products' threads."""
    options = common.parser(__doc__, seconds=0.5)
    options.add_argument("--rows", default="1,2,3,4,5", help="which networks of the table, by number")
    given = options.parse_args()
    common.set_threads(given.threads)

    data = common.dataset(given.data, IMAGES)  # training images: time does not depend on what is in them
    samples: list[dict[str, Any]] = []
    rows = []
    for hidden in (common.ROWS[int(row) - 1][0] for row in given.rows.split(",")):
        turns = {"mlpcli": ours(data, hidden), "products": products(data, hidden)}
        rates: dict[str, list[float]] = {name: [] for name in turns}
        for turn in turns.values():
            turn()
        for number, name in common.rounds(list(turns), given.repeats):
            passes, seconds = 0, 0.0
            while seconds < given.seconds:
                started = time.perf_counter()
                turns[name]()
                passes, seconds = passes + 1, seconds + time.perf_counter() - started
            rates[name].append(passes * len(data.train) / seconds)
            samples.append({"network": common.form(hidden), "who": name, "round": number, "rate": rates[name][-1]})
        share = common.ratios(rates["mlpcli"], rates["products"])
        medians = [common.number(common.spread(rate).median) for rate in rates.values()]
        rows.append([common.form(hidden), *medians, common.with_range(share)])
    text = common.table(["network", "images/s", "forward products/s", "share of the products"], rows)
    common.report(given, "evaluation", {"images": len(data.train), "samples": samples}, text)


def ours(data: Any, hidden: tuple[int, ...]) -> Callable[[], Any]:
    """One look at all the images: the loss and the errors."""
    from mlpcli.config import Config, NetworkConfig
    from mlpcli.training.loop import network_for
    from mlpcli.training.measure import Measure

    network = network_for(Config(network=NetworkConfig(hidden=hidden)), data.train.images.shape[1], data.classes)
    measure = Measure(network, data.train, data.classes, "float32")
    theta = network.parameters("float32")
    return lambda: measure.loss_and_errors(theta)


def products(data: Any, hidden: tuple[int, ...]) -> Callable[[], Any]:
    """The forward products alone, in batches of the same size, always on the same batch."""
    import numpy as np

    from benchmarks.peers import forward_products
    from mlpcli.training.measure import BATCH_SIZE

    batch = min(BATCH_SIZE, len(data.train))
    steps = len(data.train) // batch
    listed = forward_products(data.train.images[:batch] / np.float32(255), (*hidden, data.classes))

    def turn() -> None:
        for _ in range(steps):
            for left, right, out in listed:
                np.matmul(left, right, out=out)

    return turn


if __name__ == "__main__":
    main()
