"""Time whole processes, cold: ``mlpcli train fast``, or ``fast-99``, against the best PyTorch script for its accuracy.

The time includes start-up. Both train the same network on the same decoded files and measure the test error once. Each
round has one seed, and the order changes with every round. Apart from the time, every single run has to reach the
accuracy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import common


class Recipe(NamedTuple):
    """The accuracy that every run has to reach, and the options of the PyTorch script that reaches it."""

    accuracy: float
    pytorch: str


RECIPES = {
    "fast": Recipe(0.98, ""),
    "fast-99": Recipe(0.99, "--distort --hidden 512 --epochs 13 --batch 128 --rate 1 --smoothing 0 --decay 0"),
}
SCRIPT = Path(__file__).with_name("pytorch_mnist.py")
OURS, PROCESSES, THEIRS = "mlpcli", "mlpcli --processes", "pytorch"


def main() -> None:
    """Run every round and compare the medians."""
    options = common.parser(__doc__, repeats=10)
    options.add_argument("--config", default="fast", choices=RECIPES, help="a shipped config")
    options.add_argument("--seeds", type=int, default=5, help="the rounds use seeds 0 .. N - 1 in turn")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed to mlpcli train")
    options.add_argument("--pytorch", default="", metavar="OPTIONS", help="passed to its script")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlpcli-cold-") as scratch:
        samples, reason = measure(given, Path(scratch))
    report(given, samples, reason)


def measure(given: Any, scratch: Path) -> tuple[list[dict[str, Any]], str]:
    """Return every sample, and the reason if PyTorch did not run."""
    folder = common.decoded_folder(given.data, scratch / "decoded")
    dataset = given.data if folder != scratch / "decoded" else str(folder)
    program = shutil.which("mlpcli", path=str(Path(sys.executable).parent))
    mlpcli = [program] if program else [sys.executable, "-m", "mlpcli"]

    def command(who: str, seed: int) -> list[str]:
        if who == THEIRS:
            return [
                *(sys.executable, str(SCRIPT), "--data", str(folder), "--seed", str(seed)),
                *("--threads", str(given.threads), *RECIPES[given.config].pytorch.split()),
                *given.pytorch.split(),
            ]
        overrides = [f"seed={seed}", f"data.dataset={dataset}", *given.set]
        use = {
            OURS: ["--threads", str(given.threads)],
            PROCESSES: ["--processes", str(given.threads), "--threads", "1"],
        }
        return [
            *(*mlpcli, "train", given.config, "--json", "--out", str(scratch / "run"), *use[who]),
            *(argument for override in overrides for argument in ("--set", override)),
        ]

    # With one thread there is nothing to divide among processes.
    names, reason = [OURS, *([PROCESSES] if given.threads > 1 else []), THEIRS], ""
    samples: list[dict[str, Any]] = []
    for name in list(names):  # loads the data and the programs' files into the system's cache
        try:
            run(command(name, 0), given, scratch)
        except common.WorkerError as error:
            if name != THEIRS:
                sys.exit(f"mlpcli: {error}")
            names.remove(name)
            reason = str(error)
    for pair, name in common.rounds(names, given.repeats):
        seed = pair % given.seeds
        busy = common.busy()
        seconds, found, used = run(command(name, seed), given, scratch)
        others = None if busy is None else max(0.0, (common.busy() or 0.0) - busy - used) / seconds
        test_error = found["error"] if name == THEIRS else found["test_error"]
        sample = {"who": name, "pair": pair, "seed": seed, "seconds": seconds, "processor_seconds": used}
        samples.append({**sample, "accuracy": 1 - test_error, "others": others})
    return samples, reason


def run(command: list[str], given: Any, scratch: Path) -> tuple[float, dict[str, Any], float]:
    """Run a whole process; return its wall seconds, its JSON output and its CPU seconds."""
    variables = common.environment()
    common.set_threads(given.threads, variables)
    used = processor_seconds()
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=variables)
    seconds = time.perf_counter() - started
    shutil.rmtree(scratch / "run", ignore_errors=True)
    if done.returncode:
        raise common.WorkerError((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
    return seconds, json.loads(done.stdout), processor_seconds() - used


def processor_seconds() -> float:
    """Return the CPU time of the child processes that have ended."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(given: Any, samples: list[dict[str, Any]], reason: str) -> None:
    """Report seconds, accuracies and the ratios of the medians."""
    rows, medians, used = [], {}, {}
    for name in (OURS, PROCESSES, THEIRS):
        own = [sample for sample in samples if sample["who"] == name]
        if own:
            seconds = common.spread([sample["seconds"] for sample in own])
            processor = common.spread([sample["processor_seconds"] for sample in own])
            medians[name], used[name] = seconds.median, processor.median
            lowest = min(sample["accuracy"] for sample in own)
            times = common.with_range(seconds), common.with_range(processor)
            rows.append([name, str(len(own)), *times, f"{lowest:.2%}"])
    lines = [common.table(["who", "runs", "seconds", "processor seconds", "lowest test accuracy"], rows)]
    if THEIRS in medians:
        for what, found in (("seconds", medians), ("processor seconds", used)):
            ratios = [f"{found[name] / found[THEIRS]:.3f} ({name})" for name in (OURS, PROCESSES) if name in found]
            lines.append(f"Ratios of the medians of {what} to pytorch: {', '.join(ratios)}.")
    else:
        lines.append(f"pytorch was not run: {reason}")
    wanted = RECIPES[given.config].accuracy
    short = [f"{s['who']}, seed {s['seed']}: {s['accuracy']:.2%}" for s in samples if s["accuracy"] < wanted]
    lines.append(f"Below {wanted:.1%}: {'; '.join(sorted(set(short))) or 'no run'}.")
    lines.append(common.disturbance(samples))
    document = {"medians": medians, "samples": samples, "pytorch_not_run": reason}
    common.report(given, "cold", document, "\n\n".join(lines))


if __name__ == "__main__":
    main()
