"""Time the start: from imports to the first step of ``mlpcli train``; ``--help`` against importing click alone."""

from __future__ import annotations

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
HELP = {
    "mlpcli --help": ["-m", "mlpcli", "--help"],
    'python -c "import click"': ["-c", "import click"],
}
NUMPY = "import sys; sys.argv[1:] = ['--help']; import atexit; from mlpcli.commands import main; "
NUMPY += "atexit.register(lambda: print('numpy' in sys.modules, file=sys.stderr)); main()"


def main() -> None:
    """Time each start in its own process."""
    given = common.parser(__doc__).parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in ("first step", *HELP)}
    first_step(given)  # loads the files into the system's cache
    for _, name in common.rounds(list(seconds), given.repeats):
        seconds[name].append(first_step(given) if name == "first step" else wall(HELP[name]))
    check = subprocess.run([sys.executable, "-c", NUMPY], capture_output=True, text=True, env=common.environment())
    loads = check.stderr.strip().endswith("True")
    rows = [[name, common.with_range(common.spread(own), 3)] for name, own in seconds.items()]
    text = common.table(["what", "seconds"], rows)
    text += f"\n\n`mlpcli --help` loads numpy: {'yes' if loads else 'no'}."
    common.report(given, "start", {"seconds": seconds, "help_loads_numpy": loads}, text)


def first_step(given: Any) -> float:
    """Return the seconds from the end of imports to the end of the first step, including reading the data."""
    with tempfile.TemporaryDirectory(prefix="mlpcli-start-") as scratch:
        arguments = ["train", "--quiet", "--out", str(Path(scratch) / "run")]
        arguments += ["--set", f"data.dataset={given.data}"]
        environment = common.environment()
        common.set_threads(given.threads, environment)
        command = [sys.executable, "-c", FIRST_STEP, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if not done.stdout:
        sys.exit(f"mlpcli train did not reach its first step: {done.stderr.strip()[-300:]}")
    return float(done.stdout)


def wall(arguments: list[str]) -> float:
    """Return the wall seconds of a whole process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True, env=common.environment())
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
