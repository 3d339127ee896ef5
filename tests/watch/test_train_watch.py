"""``train --watch`` and ``sweep --watch``: no failure of the page affects training."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlpcli.runs.directory import is_in_use
from mlpcli.runs.summary import read_run
from tests.run_outcome import outcome
from tests.watch.watching import SECONDS, Events, Watching, environment, kill, watching

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/locks").exists(), reason="looks at processes by /proc"),
]
FEW = ("data.dataset=mnist-sample", "network.hidden=[8]", "training.epochs=2", "data.test=false")
SETTINGS = [argument for each in FEW for argument in ("--set", each)]
LONG = ("--set", "training.epochs=10000")
ATTEMPTS = 12


def train(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlpcli", "train", *SETTINGS, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)


def test_train_without_a_terminal_prints_the_address(tmp_path: Path) -> None:
    done = train("--watch", "--out", "run", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["epochs"]) == (0, 2)
    # A very short run may end before the page is served.
    assert "watch    http://127.0.0.1:" in done.stderr or read_run(tmp_path / "run").summary.seconds < 5  # type: ignore[operator]
    assert train("--out", "without", cwd=tmp_path).returncode == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "without")


def test_training_continues_if_the_port_is_taken(tmp_path: Path) -> None:
    with watching("--watch", "--no-open", *SETTINGS, *LONG, "--out", "one", command="train", cwd=tmp_path) as first:
        done = train("--watch", "--port", first.port, "--out", "two", "--set", "training.epochs=60", cwd=tmp_path)
    assert done.returncode == 0
    assert read_run(tmp_path / "two").summary.state == "finished"
    lines = [line for line in done.stderr.splitlines() if line.startswith("mlpcli: ")]
    what = "is taken by another program; leave --port out for a free one"
    assert lines in ([], [f"mlpcli: port {first.port} of 127.0.0.1: {what}"])
    assert "Traceback" not in done.stderr


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_for(what: Any) -> None:
    end = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_training_continues_if_the_page_process_dies(tmp_path: Path) -> None:
    with watching("--watch", "--no-open", *SETTINGS, *LONG, "--out", "run", command="train", cwd=tmp_path) as watched:
        [child] = children(watched.process.pid)
        os.kill(child, signal.SIGKILL)
        before = read_run(tmp_path / "run").summary.epochs or 0
        wait_for(lambda: (read_run(tmp_path / "run").summary.epochs or 0) > before + 1)
        os.kill(watched.process.pid, signal.SIGINT)
        assert watched.process.wait(SECONDS) == 130
        assert watched.process.stderr is not None
        assert "stopped; resume with: " in watched.process.stderr.read()


@pytest.mark.parametrize("how", ["ctrl-c", "kill"])
def test_page_process_ends_with_its_parent(how: str, tmp_path: Path) -> None:
    with watching("--watch", "--no-open", *SETTINGS, *LONG, "--out", "run", command="train", cwd=tmp_path) as watched:
        [child] = children(watched.process.pid)
        with Events(watched) as events:
            events.until(lambda kind, value: kind == "progress" and value["points"])
            if how == "kill":
                kill(tmp_path / "run")
            else:
                os.killpg(watched.process.pid, signal.SIGINT)  # like a terminal: to all foreground processes
            last = {}
            for kind, value in events.each():
                last[kind] = value
        assert "bye" in last
        assert last["progress"]["state"] == "interrupted"
        assert last["progress"]["resume"] == "mlpcli train --resume run"
        wait_for(lambda: ended(child))


class Arrivals:
    """The times at which a page's events first had each new value of ``read(kind, value)``, except None."""

    def __init__(self, watched: Watching, read: Callable[[str, Any], Any]) -> None:
        self._found: queue.Queue[tuple[Any, float]] = queue.Queue()
        threading.Thread(target=self._follow, args=(watched, read), daemon=True).start()

    def _follow(self, watched: Watching, read: Callable[[str, Any], Any]) -> None:
        before = None
        with Events(watched) as events:
            for kind, value in events.each():
                found = read(kind, value)
                if found is not None and found != before:
                    before = found
                    self._found.put((found, time.monotonic()))

    def seconds_until(self, wanted: Any, since: float) -> float:
        """Return the seconds from ``since`` until ``wanted`` came."""
        while True:
            found, at = self._found.get(timeout=SECONDS)
            if found == wanted:
                return at - since


def count_diverged(kind: str, value: Any) -> int | None:
    return sum(run["state"] == "diverged" for run in value["runs"]) if kind == "runs" else None


def test_states_are_shown_within_two_seconds(tmp_path: Path) -> None:
    run, constant = tmp_path / "run", ("--set", "training.schedule=constant")
    # So many epochs take so long to read that the budget alone would be late.
    assert train(*constant, "--set", "training.epochs=600", "--out", "run", cwd=tmp_path).returncode == 0
    seconds: dict[str, list[float]] = {"running": [], "interrupted": [], "finished": [], "diverged": []}
    with watching(run, "--no-open") as watched:
        states = Arrivals(watched, lambda kind, value: value["state"] if kind == "progress" else None)
        for _ in range(ATTEMPTS):
            command = [sys.executable, "-m", "mlpcli", "train", "--quiet", "--resume", str(run), *LONG]
            trainer = subprocess.Popen(command, env=environment())
            wait_for(lambda: is_in_use(run))
            seconds["running"].append(states.seconds_until("running", time.monotonic()))
            kill(run)
            seconds["interrupted"].append(states.seconds_until("interrupted", time.monotonic()))
            trainer.wait()
            epochs = ("--set", f"training.epochs={(read_run(run).summary.epochs or 0) + 1}")
            resumed = subprocess.run([*command[:-2], *epochs], env=environment(), check=True)
            assert resumed.returncode == 0
            seconds["finished"].append(states.seconds_until("finished", time.monotonic()))
            if all(min(seconds[state]) < 2.0 for state in ("running", "interrupted", "finished")):
                break
    with watching(tmp_path, "--no-open") as watched:
        diverged = Arrivals(watched, count_diverged)
        for number in range(1, ATTEMPTS + 1):
            done = train("--set", "training.learning_rate=1e30", "--out", f"bad-{number}", cwd=tmp_path)
            assert done.returncode == 5
            seconds["diverged"].append(diverged.seconds_until(number, time.monotonic()))
            if min(seconds["diverged"]) < 2.0:
                break
    # The quickest attempt counts: a busy machine may be late several times.
    assert all(min(each) < 2.0 for each in seconds.values()), seconds


SWEEP = """
config: quickstart
set: {data.dataset: mnist-sample, training.epochs: 2, network.hidden: [8]}
grid: {training.learning_rate: [0.1, 0.2, 0.4]}
"""


def test_sweep_watch_shows_its_runs(tmp_path: Path) -> None:
    (tmp_path / "rates.yaml").write_text(SWEEP)
    options = ("rates.yaml", "--jobs", "1", "--watch", "--no-open")
    with watching(*options, command="sweep", cwd=tmp_path) as watched, Events(watched) as events:
        last: dict[str, Any] = {}
        for kind, value in events.each():
            last[kind] = value
        assert "bye" in last
        assert watched.process.wait(SECONDS) == 0
    assert [run["state"] for run in last["runs"]["runs"]] == ["finished"] * 3
    assert last["runs"]["keys"] == ["training.learning_rate"]
    assert last["runs"]["title"] == "rates"
