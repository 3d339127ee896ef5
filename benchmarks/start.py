"""Time the start: the first step of ``mlpcli train``, ``--help``, and ``eval`` and ``predict`` against their imports.

The first step is timed from the end of imports, everything else is a whole process.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import common

# In the child: import everything that training needs, then run the command and stop at its first step.
FIRST_STEP = """
import os, sys, time
import mlpcli.experiment, mlpcli.commands.train
from mlpcli.commands import main, show
def step(self, loss):
    print(time.perf_counter() - started, flush=True)
    os._exit(0)
show.Screen.step = step
started = time.perf_counter()
main()
"""
NUMPY_ALONE = 'python -c "import numpy"'
ALONE = {'python -c "import click"': ["-c", "import click"], NUMPY_ALONE: ["-c", "import numpy"]}
LOADS_NUMPY = "import sys; sys.argv[1:] = ['--help']; import atexit; from mlpcli.commands import main; "
LOADS_NUMPY += "atexit.register(lambda: print('numpy' in sys.modules, file=sys.stderr)); main()"


def main() -> None:
    """Time each start in its own process."""
    given = common.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="mlpcli-start-") as scratch:
        commands = {"mlpcli --help": ["-m", "mlpcli", "--help"], **subjects(given, Path(scratch)), **ALONE}
        seconds: dict[str, list[float]] = {name: [] for name in ("first step", *commands)}
        first_step(given)  # loads the files into the system's cache
        for arguments in commands.values():
            wall(arguments, given)
        for _, name in common.rounds(list(seconds), given.repeats):
            seconds[name].append(first_step(given) if name == "first step" else wall(commands[name], given))
    check = subprocess.run([sys.executable, "-c", LOADS_NUMPY], capture_output=True, text=True, env=environment(given))
    loads = check.stderr.strip().endswith("True")
    rows = []
    for name, own in seconds.items():
        of_numpy = common.spread([each / alone for each, alone in zip(own, seconds[NUMPY_ALONE], strict=True)])
        rows.append([name, common.with_range(common.spread(own), 3), common.with_range(of_numpy)])
    text = common.table(["what", "seconds", "of importing numpy"], rows)
    text += f"\n\n`mlpcli --help` {'loads' if loads else 'does not load'} numpy."
    common.report(given, "start", {"seconds": seconds, "help_loads_numpy": loads}, text)


def subjects(given: Any, scratch: Path) -> dict[str, list[str]]:
    """Return the commands for a trained network, by name: ``predict`` only if Pillow is installed."""
    run, data = str(scratch / "run"), ["--set", f"data.dataset={given.data}"]
    wall(["-m", "mlpcli", "train", "--quiet", "--out", run, "--set", "training.epochs=1", *data], given)
    commands = {"mlpcli eval RUN": ["-m", "mlpcli", "eval", run]}
    if importlib.util.find_spec("PIL"):
        from PIL import Image

        image = common.dataset(given.data, 1).train.images.reshape(28, 28)
        Image.fromarray(image).save(scratch / "x.png")
        commands["mlpcli predict RUN x.png"] = ["-m", "mlpcli", "predict", run, str(scratch / "x.png")]
    return commands


def first_step(given: Any) -> float:
    """Return the seconds from the end of imports to the end of the first step, including reading the data."""
    with tempfile.TemporaryDirectory(prefix="mlpcli-start-") as scratch:
        arguments = ["train", "--quiet", "--out", str(Path(scratch) / "run")]
        arguments += ["--set", f"data.dataset={given.data}"]
        command = [sys.executable, "-c", FIRST_STEP, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(given))
    if not done.stdout:
        sys.exit(f"mlpcli train did not reach its first step: {done.stderr.strip()[-300:]}")
    return float(done.stdout)


def wall(arguments: list[str], given: Any) -> float:
    """Return the wall seconds of a whole process."""
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment(given))
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: {done.stderr.strip()[-300:]}")
    return seconds


def environment(given: Any) -> dict[str, str]:
    """Return the variables of a process of so many threads that keeps its bytecode, as an installed program does."""
    variables = common.environment()
    variables.pop("PYTHONDONTWRITEBYTECODE", None)
    common.set_threads(given.threads, variables)
    return variables


if __name__ == "__main__":
    main()
