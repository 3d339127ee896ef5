"""Make the tables of docs/losses.md: run every ``mlpcli train`` they need, and print the results as Markdown.

    python benchmarks/losses.py                     # all tables, one after the other
    python benchmarks/losses.py start depth         # some: rates objectives same start output depth classes
    python benchmarks/losses.py activations relu numbers          # the tables that use only the bundled sample
    python benchmarks/losses.py --jobs 2            # two trainings at a time, one thread each

It needs mlpcli, and MNIST in the folder of ``mlpcli data fetch mnist``. It prints each command to stderr. The runs
stay in runs/losses (``--out``) and are reused: to measure again, remove the folder. Errors are in per cent, the mean of
seeds 0, 1, 2 with the lowest and the highest. Only ``objectives`` evaluates on test images.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

SEEDS = (0, 1, 2)
DIVERGED = 5

# The learning rate of each config; `rates` also measures half and double of it.
RATES = {
    "softmax-cross-entropy": 1.6,
    "sigmoid-cross-entropy": 0.8,
    "sigmoid-quadratic": 6.4,
    "linear-quadratic": 0.4,
    "linear-hinge": 0.4,
    "normalized-sigmoid": 0.8,
}
DEPTHS = (1, 2, 3, 4, 5)
EPOCHS_SHOWN = (1, 2, 3, 5, 10)
WRONG = "network.initial_scale=20"
SAMPLE = ("data.dataset=mnist-sample",)
STILL = ("training.learning_rate=1e-12", "training.epochs=1", "training.warmup_epochs=0")

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One ``mlpcli train``: a shipped config and its overrides; ``test`` if it evaluates on the test images."""

    config: str
    settings: tuple[str, ...]
    seed: int
    test: bool = False

    @property
    def arguments(self) -> list[str]:
        """The arguments of ``mlpcli train``, except ``--out``."""
        settings = [*self.settings, f"seed={self.seed}", *([] if self.test else ["data.test=false"])]
        return [self.config, *(part for setting in settings for part in ("--set", setting))]

    @property
    def name(self) -> str:
        """The name of its folder."""
        parts = [self.config, *self.settings, f"seed={self.seed}", *(["test"] if self.test else [])]
        return "-".join(part.replace("/", "_").replace(" ", "") for part in parts)


class Bench:
    """Trains the runs of a table and reads their results."""

    def __init__(self, out: Path, jobs: int) -> None:
        self.out = out
        self._jobs = jobs

    def seeds(self, config: str, *settings: str, test: bool = False) -> list[Run]:
        """Return the same run for each seed."""
        return [Run(config, settings, seed, test) for seed in SEEDS]

    def train(self, runs: Iterable[Run]) -> None:
        """Train the runs that do not exist yet."""
        with ThreadPoolExecutor(self._jobs) as pool:
            list(pool.map(self._train, dict.fromkeys(runs)))

    def metrics(self, run: Run) -> list[Record] | None:
        """Return the record of each epoch; None if training diverged."""
        if self._state(run) != "finished":
            return None
        return [json.loads(line) for line in (self.out / run.name / "metrics.jsonl").read_text().splitlines()]

    def validation(self, run: Run) -> float:
        """Return the lowest validation error, which is that of the run's model; 1 if training diverged."""
        metrics = self.metrics(run)
        return min(record["validation_error"] for record in metrics) if metrics else 1.0

    def test(self, run: Run) -> float:
        """Return the test error of that checkpoint."""
        error: float = json.loads((self.out / run.name / "test.json").read_text())["error"]
        return error

    def _state(self, run: Run) -> str | None:
        try:
            state: str = json.loads((self.out / run.name / "manifest.json").read_text())["state"]
        except FileNotFoundError:
            return None
        return state

    def _train(self, run: Run) -> None:
        state, folder = self._state(run), self.out / run.name
        if state in ("finished", "diverged"):
            return
        arguments = ["--resume", str(folder)] if state else [*run.arguments, "--out", str(folder)]
        arguments = ["train", *arguments, "--threads", "1", "--quiet"]
        sys.stderr.write(f"mlpcli {shlex.join(arguments)}\n")
        done = subprocess.run([sys.executable, "-m", "mlpcli", *arguments], capture_output=True, text=True)
        if done.returncode not in (0, DIVERGED):
            raise SystemExit(f"{done.stderr}mlpcli ended with status {done.returncode}")


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    sys.stdout.write(f"\n{title}\n\n{body}\n")
    sys.stdout.flush()


def spread(errors: Sequence[float]) -> str:
    """Return mean, lowest and highest in per cent."""
    if max(errors) == 1.0:
        return "diverges"
    return f"{mean(errors):.2%} ({min(errors):.2%} .. {max(errors):.2%})".replace("%", "")


def rates(bench: Bench) -> None:
    """Compare each config's learning rate with half and double of it."""
    of = {
        name: [
            bench.seeds(f"objectives/{name}", f"training.learning_rate={rate / 2:g}"),
            bench.seeds(f"objectives/{name}"),
            bench.seeds(f"objectives/{name}", f"training.learning_rate={rate * 2:g}"),
        ]
        for name, rate in RATES.items()
    }
    bench.train(run for columns in of.values() for runs in columns for run in runs)
    table(
        "Validation error by learning rate",
        ["objective", "rate", "half the rate", "the rate", "twice the rate"],
        [
            [f"`{name}`", f"{RATES[name]:g}", *(spread([bench.validation(run) for run in runs]) for runs in columns)]
            for name, columns in of.items()
        ],
    )


def objectives(bench: Bench) -> None:
    """Train each shipped config unchanged, with test errors."""
    of = {name: bench.seeds(f"objectives/{name}", test=True) for name in RATES}
    bench.train(run for runs in of.values() for run in runs)
    rows = []
    for name, runs in of.items():
        last = [metrics[-1] for run in runs if (metrics := bench.metrics(run))]
        rows.append(
            [
                f"`{name}`",
                spread([record["train_error"] for record in last]),
                spread([bench.validation(run) for run in runs]),
                spread([bench.test(run) for run in runs]),
            ]
        )
    table("Default initialization, ten epochs", ["objective", "training error", "validation error", "test error"], rows)


def same(bench: Bench) -> None:
    """Compare three losses at one rate, and at their own without warm-up."""
    names = ("softmax-cross-entropy", "sigmoid-cross-entropy", "sigmoid-quadratic")
    of = {
        name: [
            bench.seeds(f"objectives/{name}"),
            bench.seeds(f"objectives/{name}", *(["training.learning_rate=0.8"] if RATES[name] != 0.8 else [])),
            bench.seeds(f"objectives/{name}", "training.warmup_epochs=0"),
        ]
        for name in names
    }
    bench.train(run for columns in of.values() for runs in columns for run in runs)
    table(
        "Validation error with the default initialization, by learning rate and warm-up",
        ["objective", "own rate", "rate 0.8 for all", "own rate, no warm-up"],
        [[f"`{name}`", *(spread([*map(bench.validation, runs)]) for runs in columns)] for name, columns in of.items()],
    )


def start(bench: Bench) -> None:
    """Compare learning curves from a bad initialization, with a hidden layer and without."""
    names = ("softmax-cross-entropy", "sigmoid-cross-entropy", "sigmoid-quadratic", "normalized-sigmoid")
    for title, settings in (
        (f"784-100-10 from a bad initialization, {WRONG}", (WRONG,)),
        (f"784-10 from a bad initialization, {WRONG}", (WRONG, "network.hidden=[]", "training.learning_rate=0.2")),
    ):
        of = {name: bench.seeds(f"objectives/{name}", *settings) for name in names}
        bench.train(run for runs in of.values() for run in runs)
        rows = []
        for name, runs in of.items():
            curves = [metrics for run in runs if (metrics := bench.metrics(run))]
            cells = [
                spread([curve[epoch - 1]["validation_error"] for curve in curves] if len(curves) == len(runs) else [1])
                for epoch in EPOCHS_SHOWN
            ]
            rows.append([f"`{name}`", *cells])
        table(f"{title}: validation error", ["objective", *(f"epoch {epoch}" for epoch in EPOCHS_SHOWN)], rows)


def output(bench: Bench) -> None:
    """Compare softmax with normalized sigmoids, from small to large initial weights."""
    scales = (1, 5, 10, 20)
    names = ("softmax-cross-entropy", "normalized-sigmoid")
    of = {
        (name, scale): bench.seeds(f"objectives/{name}", *((f"network.initial_scale={scale}",) if scale > 1 else ()))
        for name in names
        for scale in scales
    }
    bench.train(run for runs in of.values() for run in runs)
    rows = [
        [f"`{name}`", *(spread([bench.validation(run) for run in of[name, scale]]) for scale in scales)]
        for name in names
    ]
    table(
        "Validation error after ten epochs, by network.initial_scale",
        ["objective", *(f"{scale}" for scale in scales)],
        rows,
    )


def depth(bench: Bench) -> None:
    """Compare gradients and saturation by layer, before and after training, for one to five hidden layers."""
    config = "objectives/softmax-cross-entropy"
    deepest = hidden(max(DEPTHS))
    schemes = ("glorot", "lecun")
    before = {
        (scheme, layers): bench.seeds(config, f"network.initialization={scheme}", hidden(layers), *STILL)
        for scheme in schemes
        for layers in DEPTHS
    }
    after = {
        (scheme, layers): bench.seeds(config, f"network.initialization={scheme}", hidden(layers), half(config))
        for scheme in schemes
        for layers in DEPTHS
    }
    others = {
        (scheme, name): bench.seeds(f"objectives/{name}", f"network.initialization={scheme}", deepest, *STILL)
        for scheme in schemes
        for name in ("softmax-cross-entropy", "sigmoid-cross-entropy", "sigmoid-quadratic")
    }
    trained = {
        (scheme, name): bench.seeds(
            f"objectives/{name}", f"network.initialization={scheme}", deepest, half(f"objectives/{name}")
        )
        for scheme, name in others
    }
    for runs_of in (before, others, after, trained):
        bench.train(run for runs in runs_of.values() for run in runs)

    layer_names = [f"layer {layer}" for layer in range(1, max(DEPTHS) + 2)]
    rows, apart = [], 1.0
    for (scheme, layers), runs in before.items():
        norms = [record["gradient_norm"] for record in last_of(bench, runs)]
        apart = max(apart, *(max(column) / min(column) for column in zip(*norms, strict=True)))
        cells = [f"{mean(column):.1e}" for column in zip(*norms, strict=True)]
        rows.append([scheme, f"{layers}", *cells, *[""] * (max(DEPTHS) - layers)])
    table(
        f"gradient_norm before training, mean of the seeds (between two seeds at most a factor {apart:.2f})",
        ["initialization", "hidden layers", *layer_names],
        rows,
    )

    rows = []
    for (scheme, name), runs in others.items():
        norms = [record["gradient_norm"] for record in last_of(bench, runs)]
        fractions = [[norm / seed[-1] for norm in seed] for seed in norms]
        rows.append([scheme, f"`{name}`", *(f"{mean(column):.1e}" for column in zip(*fractions, strict=True))])
    table(
        "gradient_norm before training as a fraction of the output layer's, five hidden layers, mean of the seeds",
        ["initialization", "objective", *layer_names],
        rows,
    )

    rows = []
    for (scheme, layers), runs in after.items():
        records = last_of(bench, runs)
        errors = [bench.validation(run) for run in runs]
        flat = [f"{mean(column):.1%}".rstrip("%") for column in zip(*(r["saturation"] for r in records), strict=True)]
        at_start = zip(*(r["saturation"] for r in last_of(bench, before[scheme, layers])), strict=True)
        first = ", ".join(f"{mean(column):.1%}".rstrip("%") for column in at_start)
        rows.append([scheme, f"{layers}", spread(errors), first, ", ".join(flat)])
    table(
        "Ten epochs: validation error, and saturation (per cent) by hidden layer, mean of the seeds",
        ["initialization", "hidden layers", "validation error", "saturation before", "saturation after"],
        rows,
    )
    table(
        "Five hidden layers, ten epochs: validation error",
        ["initialization", "objective", "validation error"],
        [[scheme, f"`{name}`", spread([*map(bench.validation, runs)])] for (scheme, name), runs in trained.items()],
    )


def classes(bench: Bench) -> None:
    """Compare MNIST with a copy in which digit k has class 9 - k."""
    folder = renumbered(bench.out / "mnist-renumbered")
    config = "objectives/softmax-cross-entropy"
    of = {"k": bench.seeds(config), "9 - k": bench.seeds(config, f"data.dataset={folder}")}
    bench.train(run for runs in of.values() for run in runs)
    table(
        "Validation error by the class of digit k",
        ["class of digit k", *(f"seed {seed}" for seed in SEEDS), "mean"],
        [
            [
                name,
                *(f"{bench.validation(run):.2%}".rstrip("%") for run in runs),
                spread([*map(bench.validation, runs)]),
            ]
            for name, runs in of.items()
        ],
    )


def activations(bench: Bench) -> None:
    """Compare gradients, f'(z) and saturation of sigmoid, tanh and relu by depth, on the bundled sample."""
    config = "objectives/softmax-cross-entropy"
    kinds = {"sigmoid": "glorot", "tanh": "glorot", "relu": "he"}
    of = {
        (kind, layers): (f"network.activation={kind}", f"network.initialization={scheme}", hidden(layers), *SAMPLE)
        for kind, scheme in kinds.items()
        for layers in (1, 3, 5)
    }
    before = {key: bench.seeds(config, *settings, *STILL) for key, settings in of.items()}
    bench.train(run for runs in before.values() for run in runs)
    rows = []
    for (kind, layers), runs in before.items():
        norms = [record["gradient_norm"] for record in last_of(bench, runs)]
        fractions = [row[0] / row[-1] for row in norms]
        cell = f"{mean(fractions):.1e} ({min(fractions):.1e} .. {max(fractions):.1e})"
        rows.append([kind, kinds[kind], f"{layers}", cell])
    heads = ["hidden units", "initialization", "hidden layers", "layer 1 / output layer"]
    table("gradient_norm of layer 1 as a fraction of the output layer's, before training", heads, rows)

    after = {
        key: bench.seeds(config, *settings, f"training.learning_rate={0.8 if key[0] == 'sigmoid' else 0.1}")
        for key, settings in of.items()
    }
    bench.train(run for runs in after.values() for run in runs)
    rows = []
    for key in of:
        cells = [[factors(bench.out / run.name) for run in runs[key]] for runs in (before, after)]
        means = [
            [[mean(layer) for layer in zip(*seeds, strict=True)] for seeds in zip(*cell, strict=True)] for cell in cells
        ]
        slopes = [", ".join(f"{value:.2f}" for value in slope) for slope, _ in means]
        flat = [", ".join(f"{100 * value:.0f}" for value in saturated) for _, saturated in means]
        error = spread([*map(bench.validation, after[key])])
        rows.append([key[0], f"{key[1]}", slopes[0], flat[0], slopes[1], flat[1], error])
    heads = ["hidden units", "hidden layers", "f' before", "saturated before", "f' after", "saturated after", "error"]
    table("Mean f'(z) and saturated units (per cent) by hidden layer, before and after training", heads, rows)


def relu(bench: Bench) -> None:
    """Compare four losses on sigmoid and relu hidden units, at the better of two rates, on the bundled sample."""
    losses = ("softmax-cross-entropy", "sigmoid-cross-entropy", "sigmoid-quadratic", "linear-quadratic")
    kinds = {"sigmoid": "glorot", "relu": "he"}
    rates = {name: [RATES[name] / part for part in (2, 8)] for name in losses}
    of = {
        (name, kind, rate): bench.seeds(
            f"objectives/{name}",
            f"network.activation={kind}",
            f"network.initialization={scheme}",
            f"training.learning_rate={rate:g}",
            *SAMPLE,
        )
        for name in losses
        for kind, scheme in kinds.items()
        for rate in rates[name]
    }
    bench.train(run for runs in of.values() for run in runs)
    rows = []
    for name in losses:
        cells = []
        for kind in kinds:
            tried = {rate: [*map(bench.validation, of[name, kind, rate])] for rate in rates[name]}
            best = min(tried, key=lambda rate: mean(tried[rate]))
            cells.append(f"{spread(tried[best])} at {best:g}")
        rows.append([f"`{name}`", *cells])
    table("Validation error by loss and hidden units", ["objective", *(f"{kind} hidden units" for kind in kinds)], rows)


def numbers(bench: Bench) -> None:
    """Compare class numbers as targets of one linear unit with one-hot targets, on the bundled sample."""
    numberings = {"k": [*range(10)], "9 - k": [*range(9, -1, -1)], "7 k mod 10": [7 * k % 10 for k in range(10)]}
    layers = ("network.hidden=[]", "network.hidden=[100]")
    targets = {"one-hot": "network.single_output=false", "the class's number": "network.single_output=true"}
    rest = ("training.epochs=20", "training.learning_rate=0.01")
    folders = {name: numbered(bench.out / f"sample-{i}", order) for i, (name, order) in enumerate(numberings.items())}
    of = {
        (shape, kind, name): bench.seeds(
            "objectives/linear-quadratic", f"data.dataset={folder}", shape, targets[kind], *rest
        )
        for shape in layers
        for kind in targets
        for name, folder in folders.items()
    }
    bench.train(run for runs in of.values() for run in runs)
    rows = [
        ["none" if shape.endswith("[]") else "100", kind]
        + [spread([*map(bench.validation, of[shape, kind, name])]) for name in numberings]
        for shape in layers
        for kind in targets
    ]
    table("Validation error by the class of digit k", ["hidden units", "targets", *numberings], rows)


def factors(run: Path) -> tuple[list[float], list[float]]:
    """Return mean f'(z) and the fraction of saturated units of each hidden layer, on a run's validation images."""
    import math

    import numpy as np

    from mlpcli.analysis.evaluation import open_model
    from mlpcli.analysis.explain import saturated
    from mlpcli.datasets.load import load_split
    from mlpcli.state import architecture_of
    from mlpcli.training.evaluate import Evaluator
    from mlpcli.training.targets import targets_of

    checkpoint = open_model(run).checkpoint
    settings = checkpoint.config
    split = load_split(settings.data, "validation").split
    architecture = architecture_of(settings, math.prod(checkpoint.image_shape), checkpoint.classes)
    targets = targets_of(settings, checkpoint.classes, checkpoint.multi_label)
    evaluator = Evaluator(architecture, split, targets, settings.network.dtype)
    ((_, network),) = evaluator.batches(checkpoint.parameters)  # the validation images are one batch
    slopes, flat = [], []
    for layer in network.hidden:
        slopes.append(float(network.f.derivative(layer.h, np.empty_like(layer.h)).mean()))
        flat.append(float(saturated(network.f.name, layer.z).mean()))
    return slopes, flat


def numbered(folder: Path, order: Sequence[int]) -> Path:
    """Write a copy of the bundled sample with each label k as ``order[k]`` to ``folder``."""
    if not folder.exists():
        from mlpcli.datasets.load import BUNDLED

        scratch = folder.with_suffix(".part")
        shutil.copytree(BUNDLED, scratch, dirs_exist_ok=True)
        for path in scratch.glob("*-labels-idx1-ubyte*"):
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            path.unlink()
            (scratch / path.name.removesuffix(".gz")).write_bytes(data[:8] + bytes(order[label] for label in data[8:]))
        scratch.rename(folder)
    return folder


def hidden(layers: int) -> str:
    """Return the setting of N hidden layers of 100 units."""
    return f"network.hidden=[{', '.join(['100'] * layers)}]"


def half(config: str) -> str:
    """Return the setting of half a config's learning rate; with more layers the whole is rather high."""
    return f"training.learning_rate={RATES[config.rpartition('/')[2]] / 2:g}"


def last_of(bench: Bench, runs: Iterable[Run]) -> list[Record]:
    """Return the last epoch's record of each run."""
    return [metrics[-1] for run in runs if (metrics := bench.metrics(run))]


def renumbered(folder: Path) -> Path:
    """Write a copy of MNIST with each label k as 9 - k to ``folder``."""
    if not folder.exists():
        original = Path(os.environ.get("MLPCLI_DATA", "data")) / "mnist"
        scratch = folder.with_suffix(".part")
        shutil.copytree(original, scratch, dirs_exist_ok=True)
        for path in scratch.glob("*-labels-idx1-ubyte"):
            data = path.read_bytes()  # eight bytes of header, then one byte per label
            path.write_bytes(data[:8] + bytes(9 - label for label in data[8:]))
        scratch.rename(folder)
    return folder


TABLES: dict[str, Callable[[Bench], None]] = {
    function.__name__: function
    for function in (rates, objectives, same, start, output, depth, classes, activations, relu, numbers)
}


def main() -> None:
    """Make the tables given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"any of: {' '.join(TABLES)}; default: all")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default: 1)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/losses"), help="the folder of the runs (default: runs/losses)"
    )
    options = parser.parse_args()
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"no such table: {', '.join(sorted(unknown))}; the tables are: {' '.join(TABLES)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.tables or TABLES:
        TABLES[name](Bench(options.out, options.jobs))


if __name__ == "__main__":
    main()
