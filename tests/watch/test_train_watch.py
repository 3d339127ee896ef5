"""``train --watch`` and ``sweep --watch``: training goes on, and ends as it would, whatever becomes of the page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlpcli.runs.summary import summarize
from tests.run_outcome import outcome
from tests.watch.watching import SECONDS, Events, environment, kill, watching

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/locks").exists(), reason="looks at processes by /proc"),
]
FEW = ("data.dataset=mnist-sample", "network.hidden=[8]", "training.epochs=2", "data.test=false")
SETTINGS = [argument for each in FEW for argument in ("--set", each)]
LONG = ("--set", "training.epochs=10000")


def train(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlpcli", "train", *SETTINGS, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)


def test_train_without_a_terminal_prints_the_address(tmp_path: Path) -> None:
    done = train("--watch", "--out", "run", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["epochs"]) == (0, 2)
    # A run of a moment may be over before there is a page.
    assert "watch    http://127.0.0.1:" in done.stderr or summarize(tmp_path / "run").seconds < 5  # type: ignore[operator]
    assert train("--out", "without", cwd=tmp_path).returncode == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "without")


def test_training_goes_on_with_a_port_that_is_taken(tmp_path: Path) -> None:
    with watching("--watch", "--no-open", *SETTINGS, *LONG, "--out", "one", command="train", cwd=tmp_path) as first:
        done = train("--watch", "--port", first.port, "--out", "two", "--set", "training.epochs=60", cwd=tmp_path)
    assert done.returncode == 0
    assert summarize(tmp_path / "two").state == "finished"
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


def test_training_goes_on_when_the_page_s_process_dies(tmp_path: Path) -> None:
    with watching("--watch", "--no-open", *SETTINGS, *LONG, "--out", "run", command="train", cwd=tmp_path) as watched:
        [child] = children(watched.process.pid)
        os.kill(child, signal.SIGKILL)
        before = summarize(tmp_path / "run").epochs or 0
        wait_for(lambda: (summarize(tmp_path / "run").epochs or 0) > before + 1)
        os.kill(watched.process.pid, signal.SIGINT)
        assert watched.process.wait(SECONDS) == 130
        assert watched.process.stderr is not None
        assert "stopped; resume with: " in watched.process.stderr.read()


@pytest.mark.parametrize("how", ["ctrl-c", "kill"])
def test_the_page_s_process_ends_with_its_parent_and_says_so(how: str, tmp_path: Path) -> None:
    with watching("--watch", "--no-open", *SETTINGS, *LONG, "--out", "run", command="train", cwd=tmp_path) as watched:
        [child] = children(watched.process.pid)
        with Events(watched) as events:
            events.until(lambda kind, value: kind == "progress" and value["points"])
            if how == "kill":
                kill(tmp_path / "run")
            else:
                os.killpg(watched.process.pid, signal.SIGINT)  # as a terminal does: to all in the foreground
            last = {}
            for kind, value in events.each():
                last[kind] = value
        assert "bye" in last
        assert last["progress"]["state"] == "interrupted"
        assert last["progress"]["resume"] == "mlpcli train --resume run"
        wait_for(lambda: ended(child))


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
