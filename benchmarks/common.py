"""Common parts of the benchmarks: data, machine, turns in rounds, medians, tables and results.

Heavy modules are imported only when needed, because the threads are set before numpy is loaded.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mlpcli.datasets.load import Dataset

ROOT = Path(__file__).resolve().parents[1]

# (hidden layers, batch size) of the published table.
ROWS = (((30,), 10), ((100,), 64), ((512,), 128), ((800,), 128), ((1024, 1024), 256), ((512,), 1024), ((512,), 4096))

# Idle threads of OpenBLAS, OpenMP and Eigen poll for up to 0.2 s before they sleep.
SETTLE_SECONDS = 0.25

# A turn is disturbed if other processes keep more cores than this busy, on average over the turn.
DISTURBED = 0.1

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class Spread(NamedTuple):
    """The median of some samples, the lowest and the highest."""

    median: float
    low: float
    high: float


class WorkerError(Exception):
    """A request to a worker failed; the message is the reason, in one line."""


# Options and data ---------------------------------------------------------------------------------------------


def parser(
    description: str | None, *, repeats: int = 7, seconds: float | None = None, threads: bool = True
) -> argparse.ArgumentParser:
    """Return the options of every benchmark; ``seconds`` is the default of ``--seconds``, None: no such option."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--data", default="mnist", help="a data set of mlpcli's, or a folder with its four IDX files")
    options.add_argument("--repeats", type=int, default=repeats, help="rounds; at least 7 for a published figure")
    if seconds is not None:
        options.add_argument("--seconds", type=float, default=seconds, help="the minimum length of one turn")
    if threads:
        options.add_argument("--threads", type=int, default=processors(), help="threads of every participant")
    options.add_argument("--json", type=Path, metavar="FILE", help="write machine, versions and every sample")
    options.add_argument("--markdown", type=Path, metavar="FILE", help="write the printed tables")
    return options


def processors() -> int:
    """Return the number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(threads: int, environment: Any = os.environ) -> None:
    """Set the number of threads of numpy's BLAS and similar libraries. Call before they are loaded."""
    for name in THREAD_VARIABLES:
        environment[name] = str(threads)


def dataset(name: str, examples: int = 0) -> Dataset:
    """Return all training images of ``name``, or only the first ``examples`` unless that is 0."""
    from dataclasses import replace

    from mlpcli import config
    from mlpcli.datasets.load import Split, load_dataset
    from mlpcli.errors import MlpcliError

    data = config.load(None, [f"data.dataset={json.dumps(name)}", "data.validation=0", "data.test=false"]).data
    try:
        loaded = load_dataset(data)
    except MlpcliError as error:
        raise SystemExit(str(error)) from error
    if examples:
        loaded = replace(loaded, train=Split(loaded.train.images[:examples], loaded.train.labels[:examples]))
    return loaded


TRAIN_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST_FILES = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def header_size(name: str) -> int:
    """Return the bytes before the first element of an IDX file of that name."""
    return 16 if "idx3" in name else 8


def decoded_folder(name: str, scratch: Path) -> Path:
    """Return a folder with the four uncompressed IDX files of ``name``; decompress them to ``scratch`` if needed."""
    from mlpcli import config
    from mlpcli.datasets.load import locate

    data = config.load(None, [f"data.dataset={json.dumps(name)}"]).data
    _, folder = locate(data.dataset, data.folder)
    files = (*TRAIN_FILES, *TEST_FILES)
    if all((folder / file).is_file() for file in files):
        return folder
    if missing := [file for file in files if not (folder / f"{file}.gz").is_file()]:
        raise SystemExit(f"{folder}: no {missing[0]}, plain or gzipped; to fetch it, run mlpcli data fetch {name}")
    scratch.mkdir()
    for file in files:
        with gzip.open(folder / f"{file}.gz") as packed, (scratch / file).open("wb") as plain:
            shutil.copyfileobj(packed, plain)
    return scratch


def environment() -> dict[str, str]:
    """Return the environment for a child process that imports mlpcli and benchmarks from this checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def form(hidden: Sequence[int]) -> str:
    """Return a network's sizes as text: 784-30-10."""
    return "-".join(map(str, (784, *hidden, 10)))


# Turns --------------------------------------------------------------------------------------------------------


def rounds(names: Sequence[str], repeats: int) -> Iterator[tuple[int, str]]:
    """Yield the turns A B C, B C A, C A B ...: the first one changes, so that a drift favours none of them."""
    for number in range(repeats):
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            yield number, name


def spread(samples: Sequence[float]) -> Spread:
    """Return the median, lowest and highest of ``samples``."""
    return Spread(statistics.median(samples), min(samples), max(samples))


def ratios(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Return the spread of the ratios round by round. A slowdown of a whole round cancels."""
    return spread([a / b for a, b in zip(over, under, strict=True)])


def busy() -> float | None:
    """Return the seconds that this machine's cores were busy or stolen since boot; None if unknown."""
    try:
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, _proc("/proc/stat").split()[1:9])
    except (OSError, ValueError):
        return None
    return float(user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def processor_seconds_of_children() -> float:
    """Return the CPU time of this process's running children so far; 0 if unknown."""
    try:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        # The second field, the name, is in brackets and may contain any text; user and system time are 12 fields on.
        times = [_proc(f"/proc/{child}/stat").rpartition(")")[2].split()[11:13] for child in children]
    except OSError:
        return 0.0
    return sum(int(each) for pair in times for each in pair) / os.sysconf("SC_CLK_TCK")


def _proc(path: str) -> str:
    return Path(path).read_text().partition("\n")[0]


class Worker:
    """A process that handles one request at a time, and blocks between requests.

    Requests and replies are lines of JSON over its pipes. Raises :class:`WorkerError` if it fails to start or reply.
    """

    def __init__(self, module: str, *arguments: str, threads: int, limit: float = 900.0) -> None:
        variables = environment()
        set_threads(threads, variables)
        self._limit = limit
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send ``request`` and return the reply."""
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(f"ended with status {self._process.wait()}") from None
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Return the next reply."""
        assert self._process.stdout
        watch = threading.Timer(self._limit, self._process.kill)
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            raise WorkerError(f"ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def prepare(self, hidden: Sequence[int], batch: int, examples: int = 0) -> str:
        """Make a network on the first ``examples`` images (0: all), warm up, and return a note on the variant."""
        answer = self.ask({"do": "prepare", "hidden": hidden, "batch": batch, "examples": examples})
        return str(answer["note"])

    def turn(self, seconds: float) -> dict[str, Any]:
        """Run one measured turn while the others block; ``others`` is the number of cores other processes used."""
        time.sleep(SETTLE_SECONDS)
        busy_before, before = busy(), time.perf_counter()
        answer = self.ask({"do": "turn", "seconds": seconds})
        busy_after, after = busy(), time.perf_counter()
        others = None
        if busy_before is not None and busy_after is not None:
            others = max(0.0, (busy_after - busy_before - answer.pop("processor_seconds")) / (after - before))
        return {**answer, "others": others}

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


# Results ------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Return mlpcli's own record of versions and processor, and the number of cores."""
    from mlpcli.runs import environment as recorded

    return {
        **{key: value for key, value in recorded.environment().items() if key != "threads"},
        "processors": processors(),
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that is also readable as text; all columns except the first are right-aligned."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return f"| {cells[0]:<{widths[0]}} |" + "".join(
            f" {cell:>{width}} |" for cell, width in zip(cells[1:], widths[1:], strict=True)
        )

    ruler = f"| {'-' * widths[0]} |" + "".join(f" {'-' * (width - 1)}: |" for width in widths[1:])
    return "\n".join([line(header), ruler, *map(line, rows)])


def number(value: float) -> str:
    """Return a rate with thousands separators, a small one with three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def with_range(values: Spread, digits: int = 2) -> str:
    """Return ``1.25 (1.20-1.31)``: the median, with the lowest and the highest."""
    return f"{values.median:.{digits}f} ({values.low:.{digits}f}-{values.high:.{digits}f})"


def disturbance(samples: Sequence[dict[str, Any]]) -> str:
    """Return a sentence with the number of turns that other processes disturbed."""
    known = [sample["others"] for sample in samples if sample.get("others") is not None]
    if not known:
        return "Unknown on this machine: the number of turns that other processes disturbed."
    disturbed = sum(others > DISTURBED for others in known)
    return (
        f"{disturbed} of {len(known)} turns were disturbed: other processes kept more than {DISTURBED:.0%} of a "
        f"processor busy (at most {max(known):.2f} processors)."
    )


def report(options: argparse.Namespace, name: str, document: dict[str, Any], text: str) -> None:
    """Print ``text`` below machine and command; write it and ``document`` to the files of the options."""
    found = machine()
    command = " ".join(["python -m", f"benchmarks.{name}", *_arguments()])
    settings = {key: value for key, value in vars(options).items() if key not in ("json", "markdown", "data", "plot")}
    versions = {"python": found["python"], "numpy": found["numpy"], "mlpcli": found["mlpcli"]}
    versions |= document.pop("versions", {})
    listed = ", ".join(f"{package} {version}" for package, version in versions.items())
    head = (
        f"{found['processor']}, {found['processors']} processors; threads: {settings.get('threads', '-')}; "
        f"{found['blas']}; {listed}.\nCommand: `{command}`"
    )
    text = f"{head}\n\n{text}\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text, "utf-8")
    if options.json:
        whole = {
            "benchmark": name,
            "command": command,
            "settings": settings,
            "machine": found,
            "versions": versions,
            **document,
        }
        options.json.write_text(json.dumps(whole, indent=1, default=str) + "\n", "utf-8")


def _arguments() -> list[str]:
    """Return the command's arguments with the file names of paths only: results contain no folder of this machine."""
    return [Path(argument).name if "/" in argument else argument for argument in sys.argv[1:]]
