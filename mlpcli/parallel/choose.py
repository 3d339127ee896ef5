"""Choose how many processes train a network, by the cost model of docs/scaling.md, and the threads of a single one.

The model's constants are those of one machine. The choice depends on their ratios, which differ less between machines
than speeds do.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from mlpcli.parallel.control import MAX_PROCESSES, available_cores

# Seconds, of one core in float32: fitted by hand to the rates that benchmarks.versions gave on a two-core AMD EPYC.
STEP = 100e-6  # Python's own time in a step
MULTIPLICATION = 20e-12  # of the matrix products
THREAD_EFFICIENCY = 0.8  # of the products' threads, in one process
THREAD_START = 10e-6  # of two threads, for one product
HIDDEN_VALUE = 4e-9  # activation and its derivative
PIXEL = 0.5e-9  # gathering and converting a byte
DISTORTION = 36e-6  # of one image
PARAMETER = 0.5e-9  # the update, which memory limits: more processes do not divide it
BARRIER = 40e-6  # of two processes, with the wait for the slower one: 3 to 41 us by docs/performance.md

MIN_GAIN = 1.05  # fewer processes are taken if more are not faster than this

PIXELS, CLASSES = 784, 10  # assumed, as no data have been read yet


class Choice(NamedTuple):
    """A number of processes or threads, and the reason in words."""

    number: int
    reason: str


def choose_processes(
    hidden: Sequence[int],
    batch_size: int,
    *,
    distorted: bool,
    adversarial: bool = False,
    cores: int | None = None,
    load: float | None = None,
) -> Choice:
    """Return the number of processes with the shortest step; one on a busy machine.

    Images are ``distorted``, or moved by ``adversarial`` training, if these are true. ``cores`` and ``load``, of
    :func:`current_load`, are this machine's unless given.
    """
    cores = len(available_cores()) if cores is None else cores
    if not hasattr(os, "fork"):
        return Choice(1, "this system cannot fork")
    if cores == 1:
        return Choice(1, "there is one core")
    if busy := _busy(cores, load):
        return Choice(1, busy)
    candidates = range(1, min(cores, MAX_PROCESSES) + 1)
    seconds = {
        n: step_seconds(hidden, batch_size, n, cores, distorted=distorted, adversarial=adversarial) for n in candidates
    }
    fastest = min(seconds.values())
    best = next(n for n in candidates if seconds[n] <= MIN_GAIN * fastest)
    if best == 1:
        return Choice(1, f"two would take {seconds[2] / seconds[1]:.2f} times as long, by the model")
    return Choice(best, f"{seconds[1] / seconds[best]:.1f} times as fast as one, by the model, on {cores} cores")


def choose_threads(*, cores: int | None = None, load: float | None = None) -> Choice:
    """Return the threads of the products of a single process: one per core; one on a busy machine.

    BLAS's threads wait for each other at full speed. If one of them has to wait for a core, so do the others, in every
    product: beside four busy loops on two cores an epoch of quickstart took 18 to 30 s with two threads, 3.4 with one.
    """
    cores = len(available_cores()) if cores is None else cores
    if cores > 1 and (busy := _busy(cores, load)):
        return Choice(1, busy)
    return Choice(cores, "one per core")


def step_seconds(
    hidden: Sequence[int],
    batch_size: int,
    processes: int,
    cores: int,
    *,
    distorted: bool = False,
    adversarial: bool = False,
) -> float:
    """Return the seconds of a step of ``processes``, one core each; one process has ``cores`` threads for products."""
    weights = sum(rows * columns for rows, columns in pairwise((PIXELS, *hidden, CLASSES)))
    products_of_a_layer, passes = (5, 2) if adversarial else (3, 1)
    products = MULTIPLICATION * products_of_a_layer * batch_size * weights
    others = batch_size * (HIDDEN_VALUE * sum(hidden) * passes + PIXEL * PIXELS * passes + DISTORTION * distorted)
    fixed = STEP + PARAMETER * weights
    if processes == 1:
        threads = THREAD_EFFICIENCY * cores if cores > 1 else 1.0
        starts = products_of_a_layer * (len(hidden) + 1) * THREAD_START * math.log2(cores)
        return fixed + products / threads + others + starts
    barriers = passes * (3 + 2 * max(0, len(hidden) - 1)) + 2 * adversarial
    return fixed + (products + others) / processes + barriers * BARRIER * math.log2(processes)


def current_load() -> float:
    """Return how many other processes want to run; 0 where the system does not say.

    It is the average over the last minute, but no more than want to run now: a run that has just ended keeps no core.
    """
    average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    try:
        running = Path("/proc/loadavg").read_text("ascii").split()[3].split("/")[0]
    except OSError:
        return average
    return min(average, float(running) - 1.0)  # without this process


def _busy(cores: int, load: float | None) -> str:
    """Return the reason why no core is free; empty if one is."""
    load = current_load() if load is None else load
    return f"the machine is busy: a load of {load:.1f} on {cores} cores" if load >= cores else ""
