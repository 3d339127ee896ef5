"""Time the evaluation of 10,000 images by mlpcli's Evaluator, against the forward products alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import Worker
from benchmarks.peers import Peer, forward_products, serve
from benchmarks.throughput import FLOOR, OURS, PROCESSES

IMAGES = 10_000
EVALUATIONS = 5


class Mlpcli(Peer):
    """Loss and errors of all the images."""

    def prepare(self, hidden: Sequence[int], batch: int, examples: int) -> None:
        from mlpcli.config import Config, NetworkConfig
        from mlpcli.state import architecture_of
        from mlpcli.training.evaluate import Evaluator
        from mlpcli.training.targets import OneHot

        config = Config(network=NetworkConfig(hidden=tuple(hidden)))
        architecture = architecture_of(config, self.images.shape[1], self.dataset.classes)
        self.evaluator = Evaluator(architecture, self.dataset.train, OneHot(self.dataset.classes), "float32")
        self.theta = architecture.parameters("float32")

    def train(self) -> int:
        self.evaluator.loss_and_errors(self.theta)
        return len(self.images)


class MlpcliProcesses(Mlpcli):
    """The same divided among processes with one thread each, one for each thread of the others.

    In training the processes already run when they evaluate. So here they are started once for several evaluations.
    """

    def prepare(self, hidden: Sequence[int], batch: int, examples: int) -> None:
        from mlpcli.parallel.forked import ForkedGroup

        super().prepare(hidden, batch, examples)
        self.group = ForkedGroup(self.threads)
        self.group.start_workers(self)  # type: ignore[arg-type]  # forked processes need no job

    def run_worker(self) -> None:
        """Evaluate whenever rank 0 does."""
        while self.group.continue_training(True):
            self.evaluate()

    def evaluate(self) -> None:
        for _ in range(EVALUATIONS):
            self.evaluator.loss_and_errors(self.theta, self.group.comm)

    def train(self) -> int:
        self.group.continue_training(True)
        self.evaluate()
        return EVALUATIONS * len(self.images)

    def processor_seconds(self) -> float:
        return super().processor_seconds() + common.processor_seconds_of_children()


class Products(Peer):
    """The forward products alone, in batches of the same size, always on the same batch."""

    def prepare(self, hidden: Sequence[int], batch: int, examples: int) -> None:
        from mlpcli.training.evaluate import BATCH_SIZE

        batch = min(BATCH_SIZE, len(self.images))
        self.steps, self.batch = len(self.images) // batch, batch
        self.listed = forward_products(self.images[:batch] / np.float32(255), (*hidden, self.dataset.classes))

    def train(self) -> int:
        for _ in range(self.steps):
            for left, right, out in self.listed:
                np.matmul(left, right, out=out)
        return self.steps * self.batch


PEERS: dict[str, type[Peer]] = {OURS: Mlpcli, PROCESSES: MlpcliProcesses, FLOOR: Products}


def main() -> None:
    """Measure all in turns, each in its own process."""
    options = common.parser(__doc__, seconds=0.5)
    options.add_argument("--rows", default="1,2,3,4,5", help="networks of the table, by number")
    given = options.parse_args()
    samples: list[dict[str, Any]] = []
    rows = []
    for hidden in (common.ROWS[int(row) - 1][0] for row in given.rows.split(",")):
        # Training images: the time does not depend on their content.
        arguments = (given.data, str(IMAGES), str(given.threads))
        workers = {
            name: Worker("benchmarks.evaluation", name, *arguments, threads=1 if name == PROCESSES else given.threads)
            for name in PEERS
        }
        for worker in workers.values():
            worker.answer()
            worker.prepare(hidden, 0)
        rates: dict[str, list[float]] = {name: [] for name in PEERS}
        for number, name in common.rounds(list(PEERS), given.repeats):
            turn = workers[name].turn(given.seconds)
            rates[name].append(turn["examples"] / turn["seconds"])
            samples.append({"network": common.form(hidden), "who": name, "round": number, **turn})
        for worker in workers.values():
            worker.close()
        medians = [common.number(common.spread(rate).median) for rate in rates.values()]
        fractions = [common.with_range(common.ratios(rates[ours], rates[FLOOR])) for ours in (OURS, PROCESSES)]
        rows.append([common.form(hidden), *medians, *fractions])
    headings = ["network", *(f"{name}/s" for name in (OURS, PROCESSES)), "forward products/s"]
    table = common.table([*headings, "fraction of products", "with --processes"], rows)
    text = f"Images a second, medians.\n\n{table}\n\n{common.disturbance(samples)}"
    common.report(given, "evaluation", {"images": IMAGES, "samples": samples}, text)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in PEERS:
        serve(PEERS)
    else:
        main()
