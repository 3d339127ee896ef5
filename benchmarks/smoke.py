"""Run every benchmark once, on the bundled sample with the smallest budget. The figures mean nothing.

A benchmark whose package is not installed is skipped with a message. torch.compile is left out: it takes minutes.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import common

NEEDS = {
    "pytorch": "torch",
    "scikit-learn": "sklearn",
    "jax": "jax",
    "keras": "keras",
    "nerva-numpy": "nerva_numpy",
    "neural-network-digits": "nn_digits",
}


def main() -> None:
    """Run them one after the other; exit with 1 if one failed or wrote no result."""
    there = [peer for peer, module in NEEDS.items() if importlib.util.find_spec(module)]
    for peer in NEEDS:
        if peer not in there:
            print(f"skipped: {peer} is not installed")
    print("skipped: torch.compile takes too long")
    peers = ",".join(["mlpcli", "mlpcli --processes", "products", *there])
    once = ["--repeats", "1", "--threads", "1"]
    turns = [*once, "--seconds", "0.01"]
    growth = ["--repeats", "1", "--threads", "1", "--seconds", "0.001", "--axes", "depth,batch", "--most", "1"]
    short = ["--set", "training.epochs=1", "--set", "training.warmup_epochs=0"]
    sample = ["--set", "data.dataset=mnist-sample", "--set", "network.hidden=[8]"]
    plots = importlib.util.find_spec("matplotlib") is not None
    if not plots:
        print("skipped: the plot, as matplotlib is not installed")
    revision = "HEAD" if (common.ROOT / ".git").exists() else "."
    benchmarks = {
        "throughput": ["--rows", "1", "--peers", peers, "--examples", "500", *turns],
        "growth": growth,
        "evaluation": ["--rows", "1", *turns],
        "profile": ["--rows", "1", "--examples", "500", "--processes", "2", *once],
        "features": ["--examples", "500", *once],
        "memory": ["--epochs", "1", *once],
        "start": once,
        "versions": [revision, ".", "--rows", "1", "--least", "0", *turns],
        "watching": ["--rounds", "1", "--seconds", "1", "--pages", "1", "--", *sample],
        "cold": [*once, *short, "--pytorch=--epochs 1 --distort"],
    }
    if importlib.util.find_spec("mpi4py"):
        benchmarks["scaling"] = ["--repeats", "1", "--seconds", "0.01", "--widths", "8,16", "--batches", "32,256"]
    else:
        print("skipped: scaling, as mpi4py is not installed")
    failed = []
    with tempfile.TemporaryDirectory(prefix="mlpcli-smoke-") as scratch:
        if importlib.util.find_spec("PIL"):
            benchmarks["photos"] = [_trained(Path(scratch) / "run"), "--digits", "2", "--kinds", "ruled,shadow"]
        else:
            print("skipped: Pillow is not installed, no photograph is made")
        benchmarks["frontier"] = ["--recipes", "fast", "--seeds", "1", "--out", str(Path(scratch) / "frontier")]
        for name, arguments in benchmarks.items():
            results = Path(scratch) / f"{name}.json", Path(scratch) / f"{name}.md", Path(scratch) / f"{name}.svg"
            data = ["--data", "mnist-sample"]
            wanted = ["--json", str(results[0]), "--markdown", str(results[1])]
            if name == "watching":  # it prints its result, and passes options on to mlpcli train
                data, wanted = [], []
            if name == "frontier":  # its results are the files of the runs
                wanted = []
            if name == "growth" and plots:
                wanted += ["--plot", str(results[2])]
            started = time.perf_counter()
            command = [sys.executable, "-m", f"benchmarks.{name}", *data, *wanted, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, cwd=common.ROOT)
            missing = [path for path in wanted[1::2] if not (Path(path).is_file() and Path(path).stat().st_size)]
            print(f"{'FAILED' if done.returncode or missing else 'ran'}: {name}, {time.perf_counter() - started:.1f} s")
            if done.returncode or missing:
                print(done.stdout, done.stderr, *missing, sep="\n")
                failed.append(name)
            elif name in ("throughput", "cold"):
                print(*(f"  {line}" for line in done.stdout.splitlines() if "not run:" in line), sep="\n", end="")
    print(f"{len(benchmarks) - len(failed)} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


def _trained(run: Path) -> str:
    """Train a small network on the sample, for what reads pictures, and return its run."""
    few = ["--set", "data.dataset=mnist-sample", "--set", "network.hidden=[32]", "--set", "training.epochs=1"]
    command = [sys.executable, "-m", "mlpcli", "train", *few, "--out", str(run), "--quiet", "--threads", "1"]
    subprocess.run(command, check=True, capture_output=True, cwd=common.ROOT)
    return str(run)


if __name__ == "__main__":
    main()
