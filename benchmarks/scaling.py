"""Time the data-parallel step of two processes against one, and predict that of many (docs/scaling.md).

Three ways to train one network take turns: a process with one BLAS thread, two MPI processes with one thread each that
divide every batch, and a process with two threads, which uses the same cores without MPI. Then an Allreduce alone is
timed, by its size. A model is fitted to both, and predicts the speedup on more nodes and other networks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import common

# Name: (processes, threads of each).
WAYS = {"1 x 1": (1, 1), "2 x 1": (2, 1), "1 x 2": (1, 2)}
BYTES = tuple(4**power for power in range(5, 14))  # 1 KiB .. 64 MiB
EXAMPLES = 8192  # in an epoch; a turn has several epochs
MAX_STEPS = 64

NODES = (4, 16, 64, 256)
# Assumed, not measured: bits per second, and the latency of a message in seconds.
NETWORKS = {"10 Gbit/s, 25 us": (10e9, 25e-6), "100 Gbit/s, 2 us": (100e9, 2e-6)}
PREDICTED = ((512, 512), (512, 4096), (2048, 512), (2048, 4096), (8192, 4096))


def main() -> None:
    """Measure, fit, predict, report."""
    options = common.parser(__doc__, repeats=5, seconds=0.3, threads=False)
    options.add_argument("--widths", type=numbers, default=[128, 512, 2048], help="units of the one hidden layer")
    options.add_argument("--batches", type=numbers, default=[32, 128, 512, 2048], help="examples in a global batch")
    options.add_argument("--process", help=argparse.SUPPRESS)  # the task of a measured process
    given = options.parse_args()
    if given.process:
        process(**json.loads(given.process))
        return
    steps, sums = measured(given)
    cells = [(width, batch) for width in given.widths for batch in given.batches]
    model = {way: fitted(steps, cells, way) for way in ("1 x 1", "1 x 2")}
    alpha, beta = fit([[1.0, float(size)] for size in sums], [common.spread(sums[size]).median for size in sums])
    document = {
        "steps": [{"way": way, "width": w, "batch": b, "seconds": s} for (way, w, b), s in steps.items()],
        "sums": [{"bytes": size, "seconds": s} for size, s in sums.items()],
        "model": {**model, "alpha": alpha, "beta": beta},
    }
    parts = [
        "Milliseconds a step, and the efficiency of two processes: against one (1.00: twice as fast), and against one "
        "with two threads, which has the same cores.",
        steps_table(steps, cells),
        "An Allreduce among two processes of this machine.",
        sums_table(sums, alpha, beta),
        model_text(model, alpha, beta),
        checked(steps, cells, model["1 x 1"], alpha, beta),
        "Predicted, not measured: speedup over one node, and efficiency, at an unchanged global batch. A node is one "
        "process with two threads, as here.",
        predictions(model["1 x 2"]),
    ]
    common.report(given, "scaling", document, "\n\n".join(parts))


def numbers(text: str) -> list[int]:
    """Return ``128,512`` as a list."""
    return [int(number) for number in text.split(",")]


def parameters(width: int) -> int:
    """Return the number of parameters of 784-WIDTH-10."""
    return 785 * width + (width + 1) * 10


# Measuring ----------------------------------------------------------------------------------------------------


def measured(given: argparse.Namespace) -> tuple[dict[tuple[str, int, int], list[float]], dict[int, list[float]]]:
    """Return the seconds of a step by way, width and batch, and of an Allreduce by bytes, a sample per round."""
    steps: dict[tuple[str, int, int], list[float]] = {}
    sums: dict[int, list[float]] = {}
    task = {"data": given.data, "widths": given.widths, "batches": given.batches, "seconds": given.seconds}
    for _, way in common.rounds(list(WAYS), given.repeats):
        processes, threads = WAYS[way]
        variables = common.environment()
        common.set_threads(threads, variables)
        launcher = [mpiexec(), "-n", str(processes)] if processes > 1 else []
        worker = ["-m", "benchmarks.scaling", "--process", json.dumps({**task, "mpi": processes > 1})]
        found = subprocess.run([*launcher, sys.executable, *worker], env=variables, stdout=subprocess.PIPE, check=True)
        for line in map(json.loads, found.stdout.splitlines()):
            if "bytes" in line:
                sums.setdefault(line["bytes"], []).append(line["seconds"])
            else:
                steps.setdefault((way, line["width"], line["batch"]), []).append(line["seconds"])
    return steps, sums


def mpiexec() -> str:
    """Return the launcher that pip installed, or else the one on the PATH."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec") or sys.exit("mpiexec: not found")


def process(data: str, widths: list[int], batches: list[int], seconds: float, mpi: bool) -> None:
    """Run one measured process: steps of each width and batch, then sums. Rank 0 prints."""
    from mlpcli.parallel.control import SINGLE
    from mlpcli.parallel.mpi import MpiGroup

    with MpiGroup() if mpi else SINGLE as group:
        for width in widths:
            for batch in batches:
                step = seconds_of_a_step(data, width, batch, seconds, group)
                if group.rank == 0:
                    print(json.dumps({"width": width, "batch": batch, "seconds": step}), flush=True)
        for size in BYTES if mpi else ():
            sum_ = seconds_of_a_sum(size, seconds / 4)
            if group.rank == 0:
                print(json.dumps({"bytes": size, "seconds": sum_}), flush=True)


def seconds_of_a_step(data: str, width: int, batch: int, seconds: float, group: Any) -> float:
    """Return the mean seconds of a step over whole epochs of mlpcli's Trainer, after one epoch of warm-up."""
    from mlpcli import config as config_module
    from mlpcli.training.trainer import Trainer

    steps = max(2, min(EXAMPLES // batch, MAX_STEPS))
    keys = [f"network.hidden=[{width}]", f"training.batch_size={batch}", "training.epochs=1000000"]
    config = config_module.load(None, [*keys, "training.learning_rate=0.01", "data.validation=0", "data.test=false"])
    trainer = Trainer(config, common.dataset(data, steps * batch), None, group)
    epochs = trainer.epochs()
    warm = next(epochs).seconds
    count = agreed(max(2, round(seconds / warm)), group)
    spent = [record.seconds for record in islice(epochs, count)]
    return float(sum(spent)) / (count * trainer.steps_per_epoch)


def agreed(number: int, group: Any) -> int:
    """Return the ``number`` of rank 0."""
    if group.size == 1:
        return number
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.bcast(number))


def seconds_of_a_sum(size: int, seconds: float) -> float:
    """Return the seconds of one in-place Allreduce of ``size`` bytes of float32, as in training."""
    import time

    import numpy as np
    from mpi4py import MPI

    comm, vector = MPI.COMM_WORLD, np.zeros(size // 4, np.float32)

    def timed(count: int) -> float:
        comm.Barrier()
        began = time.perf_counter()
        for _ in range(count):
            comm.Allreduce(MPI.IN_PLACE, vector)
        return (time.perf_counter() - began) / count

    return timed(max(3, round(seconds / comm.bcast(timed(3)))))


# The model ----------------------------------------------------------------------------------------------------


def fitted(
    steps: dict[tuple[str, int, int], list[float]], cells: Sequence[tuple[int, int]], way: str
) -> dict[str, float]:
    """Fit f + u n + a n B to the seconds of a step of one process, by least squares of the relative errors."""
    rows = [[1.0, float(parameters(width)), float(parameters(width)) * batch] for width, batch in cells]
    f, u, a = fit(rows, [common.spread(steps[way, width, batch]).median for width, batch in cells])
    return {"f": f, "u": u, "a": a}


def fit(rows: Sequence[Sequence[float]], times: Sequence[float]) -> list[float]:
    """Return the nonnegative coefficients of ``rows`` that fit ``times`` with the least squared relative error."""
    import numpy as np

    matrix = np.array(rows) / np.array(times)[:, np.newaxis]
    scale = matrix.max(axis=0)
    used = list(range(matrix.shape[1]))
    while True:
        found = np.linalg.lstsq(matrix[:, used] / scale[used], np.ones(len(times)), rcond=None)[0]
        if (found >= 0).all():
            break
        del used[int(found.argmin())]
    coefficients = np.zeros(matrix.shape[1])
    coefficients[used] = found / scale[used]
    return [float(value) for value in coefficients]


def step_time(model: dict[str, float], width: int, batch: float) -> float:
    """Return the seconds of a step, without the sum, of a process with ``batch`` examples."""
    return model["f"] + parameters(width) * (model["u"] + model["a"] * batch)


def predicted(model: dict[str, float], width: int, batch: int, nodes: int, network: tuple[float, float]) -> float:
    """Return the seconds of a step of ``nodes``, with reduce-scatter and allgather of log2 N messages each.

    Thakur, Rabenseifner, Gropp 2005, "Optimization of collective communication operations in MPICH", section 4.5.
    """
    import math

    bits, latency = network
    size = 4 * parameters(width)
    total = 2 * math.ceil(math.log2(nodes)) * latency + 2 * (nodes - 1) / nodes * 8 * size / bits
    return step_time(model, width, batch / nodes) + total


# Tables -------------------------------------------------------------------------------------------------------


def steps_table(steps: dict[tuple[str, int, int], list[float]], cells: Sequence[tuple[int, int]]) -> str:
    """Return the table of steps, one row per width and batch."""
    rows = []
    for width, batch in cells:
        one, two, threads = (steps[way, width, batch] for way in WAYS)
        rows.append(
            [
                f"784-{width}-10",
                str(batch),
                *(f"{1000 * common.spread(times).median:.2f}" for times in (one, two, threads)),
                common.with_range(common.ratios([time / 2 for time in one], two)),
                common.with_range(common.ratios(threads, two)),
            ]
        )
    header = ["network", "batch", "1 process", "2 processes", "1 of 2 threads", "to 1 process", "to 2 threads"]
    return common.table(header, rows)


def sums_table(sums: dict[int, list[float]], alpha: float, beta: float) -> str:
    """Return the table of sums, one row per size."""
    rows = [
        [f"{size // 1024:,}", f"{1e6 * common.spread(times).median:,.0f}", f"{1e6 * (alpha + beta * size):,.0f}"]
        for size, times in sums.items()
    ]
    return common.table(["KiB", "microseconds", "alpha + beta bytes"], rows)


def model_text(model: dict[str, dict[str, float]], alpha: float, beta: float) -> str:
    """Return the fitted numbers as text."""
    one = [
        f"- {way}: f = {1e6 * part['f']:.0f} us, u = {1e9 * part['u']:.3f} ns a parameter, "
        f"a = {1e12 * part['a']:.1f} ps a parameter and example"
        for way, part in model.items()
    ]
    return "\n".join([*one, f"- Allreduce here: alpha = {1e6 * alpha:.0f} us, beta = {1e9 * beta:.3f} ns a byte"])


def checked(
    steps: dict[tuple[str, int, int], list[float]],
    cells: Sequence[tuple[int, int]],
    model: dict[str, float],
    alpha: float,
    beta: float,
) -> str:
    """Compare the model with the two processes, to which it was not fitted."""
    off = [
        (step_time(model, width, batch / 2) + alpha + beta * 4 * parameters(width))
        / common.spread(steps["2 x 1", width, batch]).median
        for width, batch in cells
    ]
    return (
        f"For two processes, to which it was not fitted, the model predicts {min(off):.2f} to {max(off):.2f} times the "
        "measured time."
    )


def predictions(model: dict[str, float]) -> str:
    """Return the table of predictions, one row per width, batch and network."""
    rows = []
    for width, batch in PREDICTED:
        for name, network in NETWORKS.items():
            one = step_time(model, width, batch)
            gains = [one / predicted(model, width, batch, nodes, network) for nodes in NODES]
            cells = [f"{gain:.1f} ({gain / nodes:.0%})" for gain, nodes in zip(gains, NODES, strict=True)]
            rows.append([f"784-{width}-10", str(batch), name, f"{1000 * one:.2f}", *cells])
    header = ["network", "batch", "between nodes", "ms a step on one", *(f"{nodes} nodes" for nodes in NODES)]
    return common.table(header, rows)


if __name__ == "__main__":
    main()
