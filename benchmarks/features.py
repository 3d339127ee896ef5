"""Measure the cost of distortions, dropout, averaging and adversarial images in a training step of 784-800-10.

Batches have 128 images. Five trainers, one with none of them and one with each, train an epoch in turn. The fields of
the distortions are drawn once per epoch; their time is part of the epoch's.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import Any

from benchmarks import common

NETWORK = ("network.hidden=[800]", "training.batch_size=128", "training.epochs=1000000", "training.l2=0")
FEATURES = {
    "none": (),
    "distortions": (
        "augmentation.rotation=10",
        "augmentation.scale=0.1",
        "augmentation.shear=10",
        "augmentation.elastic_alpha=34",
        "augmentation.elastic_sigma=5",
    ),
    "dropout": ("training.dropout=0.5", "training.input_dropout=0.2"),
    "averaging": ("training.averaging=0.9998",),
    "adversarial": ("training.adversarial=1.5",),
}


def main() -> None:
    """Time the trainers in turns."""
    options = common.parser(__doc__)
    options.add_argument("--examples", type=int, default=0, help="train on the first N images; 0: all")
    options.add_argument("--processes", type=int, default=1, help="number of training processes")
    given = options.parse_args()
    common.set_threads(given.threads)
    with ExitStack() as groups:
        samples = measure(common.dataset(given.data, given.examples), given.repeats, given.processes, groups)
    none = statistics.median(samples["none"])
    rows = []
    for name, own in samples.items():
        found = common.spread(own)
        fraction = "" if name == "none" else f"{1 - none / found.median:.0%}"
        rows.append([name, common.with_range(found, 0), f"{found.median / none:.2f}", fraction])
    header = ["with", "microseconds a step", "of a step with none", "fraction of its step"]
    common.report(given, "features", {"microseconds": samples}, common.table(header, rows))


def measure(data: Any, repeats: int, processes: int, groups: ExitStack) -> dict[str, list[float]]:
    """Return the samples in microseconds per step, by feature."""
    from mlpcli import config
    from mlpcli.parallel.control import SINGLE
    from mlpcli.parallel.forked import ForkedGroup
    from mlpcli.training.trainer import Trainer

    trainers, epochs = {}, {}
    for name, own in FEATURES.items():
        group = groups.enter_context(ForkedGroup(processes) if processes > 1 else SINGLE)
        trainer = trainers[name] = Trainer(config.load(None, [*NETWORK, *own], {}), data, group=group)
        group.start_workers(trainer)
        epochs[name] = trainer.epochs()
        next(epochs[name])  # the warm-up
    samples: dict[str, list[float]] = {name: [] for name in FEATURES}
    for _, name in common.rounds(list(FEATURES), repeats):
        samples[name].append(next(epochs[name]).seconds / trainers[name].steps_per_epoch * 1e6)
    return samples


if __name__ == "__main__":
    main()
