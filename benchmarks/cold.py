"""Time whole processes, cold: ``mlpcli train configs/fast.yaml`` against the best PyTorch script.

The time is from the prompt to the finished run. Both train the same network on the same decoded files and measure the
test error once. Each round has one seed, and the order changes with every round. Apart from the time, every single run
has to reach the accuracy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

WANTED = 0.98
SCRIPT = Path(__file__).with_name("pytorch_mnist.py")
OURS, PROCESSES, THEIRS = "mlpcli", "mlpcli --processes", "pytorch"


def main() -> None:
    """Run every round and compare the medians."""
    options = common.parser(__doc__, repeats=10)
    options.add_argument("--config", default="fast", help="a config of mlpcli's, by name or file")
    options.add_argument("--seeds", type=int, default=5, help="the rounds use seeds 0 .. N - 1 in turn")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed to mlpcli train")
    options.add_argument("--pytorch", default="", metavar="OPTIONS", help="passed to the PyTorch script")
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
                *("--threads", str(given.threads), *given.pytorch.split()),
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

    names, reason = [OURS, PROCESSES, THEIRS], ""
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
        samples.append(
            {"who": name, "pair": pair, "seed": seed, "seconds": seconds, "accuracy": 1 - test_error, "others": others}
        )
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
    rows, medians = [], {}
    for name in (OURS, PROCESSES, THEIRS):
        own = [sample for sample in samples if sample["who"] == name]
        if own:
            seconds = common.spread([sample["seconds"] for sample in own])
            medians[name] = seconds.median
            least = min(sample["accuracy"] for sample in own)
            rows.append([name, str(len(own)), common.with_range(seconds), f"{least:.2%}"])
    lines = [common.table(["who", "runs", "seconds", "lowest test accuracy"], rows)]
    if THEIRS in medians:
        ratios = [f"{medians[name] / medians[THEIRS]:.3f} ({name})" for name in (OURS, PROCESSES)]
        lines.append(f"Ratios of the medians to pytorch: {', '.join(ratios)}.")
    else:
        lines.append(f"pytorch was not run: {reason}")
    short = [f"{s['who']}, seed {s['seed']}: {s['accuracy']:.2%}" for s in samples if s["accuracy"] < WANTED]
    lines.append(f"Below {WANTED:.1%}: {'; '.join(sorted(set(short))) or 'no run'}.")
    lines.append(common.disturbance(samples))
    document = {"medians": medians, "samples": samples, "pytorch_not_run": reason}
    common.report(given, "cold", document, "\n\n".join(lines))


if __name__ == "__main__":
    main()
