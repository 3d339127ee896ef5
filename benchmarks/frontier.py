"""Train the recipes of the figure of error against time that have no run yet, with three seeds; keep the small files.

The recipes are shipped configs, and PyTorch's best for the times of some of them (``pytorch_mnist.py``). Each run is
evaluated once on the test images, at its end. Its ``metrics.jsonl``, ``manifest.json`` and ``test.json`` go to
docs/frontier/; ``python docs/pictures/frontier.py`` draws them. Remove a run's folder to train it again. Run it on an
idle machine: the seconds of training count.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import common
from benchmarks.cold import RECIPES, SCRIPT

FOLDER = common.ROOT / "docs" / "frontier"
FILES = ("metrics.jsonl", "manifest.json", "test.json")
CONFIGS = ("softmax-regression", "fast", "fast-256", "quickstart", "fast-99", "mnist", "mlp-512", "nielsen-chapter-3")
# The options of PyTorch's script, chosen on validation images: benchmarks/README.md.
PYTORCH = {
    **{f"pytorch/{config}": recipe.pytorch for config, recipe in RECIPES.items()},
    "pytorch/quickstart": "--hidden 256 --epochs 6 --batch 128 --rate 2",
    "pytorch/mnist": "--hidden 512 --epochs 20 --batch 128 --rate 1",
    "pytorch/plain": "--threads 1 --hidden 1024 1024 --epochs 30 --batch 128 --rate 1 --smoothing 0 --decay 0 "
    "--adversarial 1.5 --gain 1",
    "pytorch/elastic-800": "--threads 1 --distort --hidden 1024 512 --epochs 70 --final-epochs 7 --batch 128 --rate 1 "
    "--smoothing 0 --decay 0",
    "pytorch/elastic-deep": "--threads 1 --distort --hidden 1024 1024 --epochs 170 --final-epochs 17 --batch 128 "
    "--rate 1 --smoothing 0 --decay 0",
    "pytorch/elastic-night": "--threads 1 --distort --hidden 1024 1024 --epochs 500 --final-epochs 50 --batch 128 "
    "--rate 1 --smoothing 0 --decay 0",
}


def main() -> None:
    """Train what is missing."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", default="mnist", help="a data set of mlpcli's, or a folder with its four IDX files")
    options.add_argument(
        "--threads", type=int, default=common.processors(), help="threads of PyTorch, if its recipe gives none"
    )
    options.add_argument("--seeds", type=int, default=3, help="each recipe is trained with seeds 0 .. N - 1")
    options.add_argument("--recipes", default=",".join((*CONFIGS, *PYTORCH)), help="the recipes to train, of these")
    options.add_argument("--out", type=Path, default=FOLDER, help="the folder of the runs")
    given = options.parse_args()
    names = given.recipes.split(",")
    for name in names:
        if name not in (*CONFIGS, *PYTORCH):
            options.error(f"--recipes: no recipe {name!r}; the recipes are {', '.join((*CONFIGS, *PYTORCH))}")
    with tempfile.TemporaryDirectory(prefix="mlpcli-frontier-") as scratch:
        decoded = common.decoded_folder(given.data, Path(scratch) / "decoded")
        for seed in range(given.seeds):
            for name in names:
                target = given.out / name / f"seed-{seed}"
                if target.is_dir():
                    continue
                print(f"{name}, seed {seed}", flush=True)
                if name in PYTORCH:
                    train_pytorch(name, seed, given.threads, decoded, target)
                else:
                    train(name, seed, given, Path(scratch) / "run", target)


def train(config: str, seed: int, given: argparse.Namespace, run: Path, target: Path) -> None:
    """Train the shipped ``config`` in the folder ``run``, and copy its small files to ``target``."""
    settings = ("--set", f"seed={seed}", "--set", f"data.dataset={json.dumps(given.data)}")
    cores = ("--processes", "auto")
    command = [sys.executable, "-m", "mlpcli", "train", config, "--quiet", *cores, *settings, "--out", str(run)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    target.mkdir(parents=True)
    for name in FILES:
        shutil.copy(run / name, target)
    shutil.rmtree(run)


def train_pytorch(name: str, seed: int, threads: int, decoded: Path, target: Path) -> None:
    """Run the script of PyTorch, and write what it prints as the files of a run."""
    command = [sys.executable, str(SCRIPT), "--data", str(decoded), "--seed", str(seed), "--threads", str(threads)]
    done = subprocess.run([*command, *PYTORCH[name].split()], check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    environment = {
        **common.machine(),
        "pytorch": found["pytorch"],
        "threads": found["threads"],
        "options": PYTORCH[name],
    }
    contents = ({"seconds": found["seconds"]}, {"environment": environment}, {**found, "dataset": "mnist"})
    target.mkdir(parents=True)
    for file, content in zip(FILES, contents, strict=True):
        (target / file).write_text(json.dumps(content, indent=None if file == FILES[0] else 2) + "\n")


if __name__ == "__main__":
    main()
