"""Compare the speed of two versions of mlpcli: run it before you merge a change of the core.

Both are run through an interface that is the same in all versions: ``python -m mlpcli train`` and ``gradcheck``, with
every setting that affects the time given by ``--set``, and the examples per second in metrics.jsonl. OLD and NEW are
git revisions, checked out to a temporary folder, or folders with a checkout. The exit status is 1 if NEW is slower
than allowed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.features import FEATURES

# The rows in addition to those of the throughput table.
DISTORTIONS, GRADCHECK = "distortions", "gradcheck"

SETTINGS = (
    "seed=0",
    "data.validation=0",
    "data.test=false",
    "network.activation=sigmoid",
    "network.objective=softmax_cross_entropy",
    "network.dtype=float32",
    "training.optimizer=momentum",
    "training.learning_rate=0.01",
    "training.momentum=0.9",
    "training.schedule=constant",
    "training.warmup_epochs=0",
    "training.l2=0",
    "training.dropout=0",
    "training.input_dropout=0",
    "training.label_smoothing=0",
    "training.averaging=null",
    "training.patience=null",
)


@dataclass(frozen=True)
class Version:
    """A checkout of mlpcli: ``given`` by the user as a folder or revision; ``commit`` is None outside git."""

    given: str
    folder: Path
    commit: str | None


@dataclass(frozen=True)
class Row:
    """A command whose speed is compared: examples per second of a training, or checks per second."""

    name: str
    least: float
    arguments: tuple[str, ...]
    epochs: int = 0  # 0: the command does not train

    def train(self, epochs: int) -> Row:
        """Return the same training with ``epochs`` measured epochs."""
        return Row(self.name, self.least, self.arguments, epochs)


def main() -> None:
    """Measure the rows in turn, each turn in its own process; exit with 1 if a ratio is below its minimum."""
    options = common.parser(__doc__, seconds=1.0)
    options.add_argument("old", metavar="OLD", help="a git revision, or a folder with a checkout")
    options.add_argument("new", metavar="NEW", help="the same; '.' is the working tree")
    options.add_argument("--rows", default=f"1,2,3,4,5,{DISTORTIONS},{GRADCHECK}", help="the rows to measure")
    options.add_argument("--processes", type=int, default=2, help="processes of the second half of the rows; 1: none")
    options.add_argument("--examples", type=int, default=20_000, help="train on the first N images; 0: on all")
    options.add_argument("--least", type=float, default=0.98, help="the lowest ratio NEW / OLD allowed")
    options.add_argument(
        "--least-gradcheck", type=float, help="the same for gradcheck: 4 requires a quarter of the time"
    )
    given = options.parse_args()
    rows = rows_of(given, options)
    with tempfile.TemporaryDirectory(prefix="mlpcli-versions-") as scratch:
        folder = Path(scratch)
        with checkout(given.old, folder / "old") as old, checkout(given.new, folder / "new") as new:
            for version in (old, new):
                if not (version.folder / "mlpcli" / "__main__.py").is_file():
                    options.error(f"{version.given}: no mlpcli in it")
            source = common.decoded_folder(given.data, folder / "decoded")
            images = first_images(source, given.examples, folder / "images")
            samples = measure(rows, old, new, given, images, folder)

    summary = [summarize(row, samples) for row in rows]
    # Results contain no folder of this machine.
    given.old, given.new = (version.commit or Path(version.given).name for version in (old, new))
    common.report(given, "versions", {"summary": summary, "samples": samples}, text(summary, samples))
    sys.exit(1 if any(row["ratio"]["median"] < row["least"] for row in summary) else 0)


def rows_of(given: argparse.Namespace, options: argparse.ArgumentParser) -> list[Row]:
    """Return the rows of ``--rows``: training with threads, training with processes, gradcheck."""
    names = given.rows.split(",")
    numbered = {str(number): row for number, row in enumerate(common.ROWS, 1)}
    for name in names:
        if name not in (*numbered, DISTORTIONS, GRADCHECK):
            options.error(f"--rows: no row {name!r}; the rows are {', '.join((*numbered, DISTORTIONS, GRADCHECK))}")
    ways: list[tuple[str, tuple[str, ...]]] = [("threads", ("--threads", str(given.threads)))]
    if given.processes > 1:
        each = max(1, given.threads // given.processes)
        ways.append(("processes", ("--processes", str(given.processes), "--threads", str(each))))
    rows = []
    for way, flags in ways:
        for name in (name for name in names if name != GRADCHECK):
            hidden, batch = numbered.get(name, ((800,), 128))
            own = FEATURES[DISTORTIONS] if name == DISTORTIONS else ("augmentation=null",)
            keys = (*SETTINGS, f"network.hidden={list(hidden)}", f"training.batch_size={batch}", *own)
            label = f"{common.form(hidden)}, {batch}, {'distortions, ' * (name == DISTORTIONS)}{way}"
            rows.append(Row(label, given.least, ("train", *flags, *settings(keys)), epochs=1))
    if GRADCHECK in names:
        rows.append(Row(GRADCHECK, given.least_gradcheck or given.least, ("gradcheck",)))
    return rows


def settings(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``--set KEY=VALUE`` for each of ``keys``."""
    return tuple(part for key in keys for part in ("--set", key))


@contextmanager
def checkout(given: str, scratch: Path) -> Iterator[Version]:
    """Yield the folder ``given``, or a checkout of the git revision in ``scratch``, which is removed at the end."""
    if Path(given).is_dir():
        head = git("rev-parse", "HEAD", folder=Path(given))
        # A working tree may have uncommitted changes.
        changed = head is not None and git("status", "--porcelain", "--", "mlpcli", folder=Path(given))
        yield Version(given, Path(given).resolve(), head and head + " and changes" * bool(changed))
        return
    commit = git("rev-parse", "--verify", "--quiet", f"{given}^{{commit}}")
    if commit is None:
        sys.exit(f"{given}: neither a folder nor a git revision")
    if git("worktree", "add", "--detach", str(scratch), commit) is None:
        sys.exit(f"{given}: git cannot check it out to {scratch}")
    try:
        yield Version(given, scratch, commit)
    finally:
        git("worktree", "remove", "--force", str(scratch))


def git(*arguments: str, folder: Path = common.ROOT) -> str | None:
    """Return the output of ``git``; None if it fails or is not installed."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def first_images(source: Path, examples: int, folder: Path) -> Path:
    """Write the first ``examples`` training images (0: all) and the test images to ``folder``."""
    folder.mkdir()
    for name in (*common.TRAIN_FILES, *common.TEST_FILES):
        content, header = (source / name).read_bytes(), common.header_size(name)
        count = int.from_bytes(content[4:8], "big")
        kept = min(examples or count, count) if name in common.TRAIN_FILES else count
        size = (len(content) - header) // count
        (folder / name).write_bytes(
            content[:4] + kept.to_bytes(4, "big") + content[8:header] + content[header : header + kept * size]
        )
    return folder


def measure(
    rows: list[Row], old: Version, new: Version, given: argparse.Namespace, images: Path, scratch: Path
) -> list[dict[str, Any]]:
    """Return every sample: old and new take turns, and the first one changes from round to round."""
    versions = {"old": old, "new": new}
    samples = []
    for row in rows:
        # The first run of each is a warm-up: it compiles Python files, and its speed sets the epochs of a turn.
        progress(f"{row.name}: warm-up")
        warm = [turn(row, version, images, scratch) for version in versions.values()]
        if row.epochs:
            row = row.train(max(math.ceil(given.seconds / sample["epoch_seconds"]) for sample in warm))
        for number, name in common.rounds(list(versions), given.repeats):
            progress(f"{row.name}: round {number + 1} of {given.repeats}, {name}")
            found = turn(row, versions[name], images, scratch)
            samples.append({"row": row.name, "version": name, "round": number, **found})
    progress("")
    return samples


def turn(row: Row, version: Version, images: Path, scratch: Path) -> dict[str, Any]:
    """Run the command of ``row`` once; ``rate`` is in examples, or checks, per second."""
    command, out = [sys.executable, "-m", "mlpcli", *row.arguments], None
    if row.epochs:
        out = Path(tempfile.mkdtemp(dir=scratch, prefix="run-"))
        # One epoch more than measured: the first one also touches all memory for the first time.
        keys = (f"data.dataset={json.dumps(str(images))}", f"training.epochs={row.epochs + 1}")
        command += ["--quiet", "--out", str(out), *settings(keys)]
    environment = {key: value for key, value in os.environ.items() if key not in common.THREAD_VARIABLES}
    time.sleep(common.SETTLE_SECONDS)
    busy, own, started = common.busy(), processor_seconds(), time.perf_counter()
    done = subprocess.run(
        command,
        cwd=scratch,
        env={**environment, "PYTHONPATH": str(version.folder)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    seconds, used = time.perf_counter() - started, processor_seconds() - own
    busy_after = common.busy()
    if done.returncode:
        sys.exit(f"{version.given}: {row.name}: status {done.returncode}\n{done.stdout}{done.stderr}")
    others = None
    if busy is not None and busy_after is not None:
        others = max(0.0, (busy_after - busy - used) / seconds)
    if out is None:
        return {"rate": 1.0 / seconds, "seconds": seconds, "processor_seconds": used, "others": others}
    epochs = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][1:]
    epoch_seconds = sum(epoch["seconds"] for epoch in epochs) / len(epochs)
    # Epochs have equally many examples: the mean rate is the harmonic mean of their rates.
    rate = len(epochs) / sum(1.0 / epoch["examples_per_second"] for epoch in epochs)
    return {"rate": rate, "seconds": seconds, "others": others, "epochs": len(epochs), "epoch_seconds": epoch_seconds}


def processor_seconds() -> float:
    """Return the CPU time of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def summarize(row: Row, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Return both versions' rates, and the ratios NEW / OLD of the rounds."""
    old, new = (
        [sample["rate"] for sample in samples if (sample["row"], sample["version"]) == (row.name, version)]
        for version in ("old", "new")
    )
    rates = {"old": common.spread(old)._asdict(), "new": common.spread(new)._asdict()}
    return {"row": row.name, "least": row.least, **rates, "ratio": common.ratios(new, old)._asdict()}


def text(summary: list[dict[str, Any]], samples: list[dict[str, Any]]) -> str:
    """Return the table, and the rows below their minimum ratio."""
    rows = [
        [
            row["row"],
            *(with_range(common.Spread(**row[version])) for version in ("old", "new")),
            common.with_range(common.Spread(**row["ratio"]), 3),
            f"{row['least']:g}",
        ]
        for row in summary
    ]
    below = [row["row"] for row in summary if row["ratio"]["median"] < row["least"]]
    # On a busy machine CPU time is more reliable than wall time.
    used = [
        statistics.median(own)
        for version in ("old", "new")
        if (
            own := [
                each["processor_seconds"] for each in samples if (each["row"], each["version"]) == (GRADCHECK, version)
            ]
        )
    ]
    return "\n\n".join(
        [
            "Examples per second (checks per second of gradcheck): median (lowest-highest). "
            "NEW / OLD is the median of the rounds' ratios.",
            common.table(["row", "OLD", "NEW", "NEW / OLD", "at least"], rows),
            *([f"Processor time of gradcheck: {used[0]:.2f} s and {used[1]:.2f} s."] if used else []),
            f"BELOW: {'; '.join(below)}" if below else f"passed: all {len(rows)}",
            common.disturbance(samples),
        ]
    )


def with_range(rates: common.Spread) -> str:
    """Return ``65,000 (64,000-66,000)``."""
    median, low, high = map(common.number, rates)
    return f"{median} ({low}-{high})"


def progress(message: str) -> None:
    """Show the progress on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{message}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
