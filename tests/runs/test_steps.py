"""steps.jsonl: bounded, spans the whole run, may be lost, and is validated when read."""

from __future__ import annotations

import errno
import json
import os
from itertools import pairwise
from pathlib import Path

import pytest

from mlpcli import experiment, files
from mlpcli.files import Folder
from mlpcli.runs import directory, steps
from mlpcli.runs.steps import StepWriter
from tests.run_outcome import outcome


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list with the time, which changes only if a test changes it."""
    now = [100.0]
    monkeypatch.setattr(steps.time, "monotonic", lambda: now[0])
    return now


def test_line_is_the_mean_loss_since_the_last_line(tmp_path: Path, clock: list[float]) -> None:
    with Folder(tmp_path) as folder:
        writer = StepWriter(folder, 10, 640, 20)
        for loss in (4.0, 2.0):
            writer.add(loss)
        assert not (tmp_path / "steps.jsonl").exists()  # a very short run has none
        clock[0] += 1
        writer.add(3.0)
        clock[0] += 1
        writer.add(1.0)
        writer.close()
        found = steps.read(folder)
    assert found is not None
    assert (found.steps_per_epoch, found.examples) == (10, 640)
    assert found.lines == [(23, 1.0, 3.0), (24, 2.0, 1.0)]


def test_lines_of_a_long_run_are_bounded_and_span_it(tmp_path: Path, clock: list[float]) -> None:
    with Folder(tmp_path) as folder:
        writer = StepWriter(folder, 100, 6400, 0)
        for step in range(1, 12_001):
            clock[0] += 0.3
            writer.add(float(step))
        writer.close()
        found = steps.read(folder)
    assert found is not None
    assert steps.MAX_LINES / 3 < len(found.lines) <= steps.MAX_LINES
    assert (tmp_path / "steps.jsonl").stat().st_size < steps.MAX_BYTES / 4
    numbers = [step for step, _, _ in found.lines]
    gaps = [after - before for before, after in pairwise(numbers)]
    assert numbers[-1] > 11_980
    assert max(gaps[:100]) <= 3 * min(gaps)  # equally spaced throughout
    for (before, _, _), (step, _, loss) in pairwise(found.lines):
        assert loss == pytest.approx((before + 1 + step) / 2)


def test_unwritable_file_is_ignored(tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with Folder(tmp_path) as folder:
        writer = StepWriter(folder, 10, 640, 0)
        with monkeypatch.context() as patched:
            patched.setattr(files.os, "open", fail)
            clock[0] += 1
            writer.add(1.0)
        clock[0] += 1
        writer.add(1.0)
        writer.close()
        assert steps.read(folder) is None
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_followed(tmp_path: Path, clock: list[float]) -> None:
    (tmp_path / "mine").write_text("mine")
    for link in (os.symlink, os.link):
        link(tmp_path / "mine", tmp_path / "steps.jsonl")
        with Folder(tmp_path) as folder:
            writer = StepWriter(folder, 10, 640, 0)
            clock[0] += 1
            writer.add(1.0)
            writer.close()
            assert steps.read(folder) is not None
        assert (tmp_path / "mine").read_text() == "mine"
        (tmp_path / "steps.jsonl").unlink()
    (tmp_path / "steps.jsonl").symlink_to("mine")
    with Folder(tmp_path) as folder:
        assert steps.read(folder) is None


HEAD = '{"steps_per_epoch":10,"examples":640}\n'


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", None),
        ("[1,2,3]\n", None),
        ('{"steps_per_epoch":0,"examples":640}\n', None),
        ('{"steps_per_epoch":1e400,"examples":640}\n', None),
        (HEAD, 0),
        (HEAD + "[1,0.5,2.0]\n[2,0.7,1.", 1),
        (HEAD + "[1,0.5,2.0]\n[1,0.7,1.0]\n", 1),
        (HEAD + "[1,0.5,2.0]\n[2,0.4,1.0]\n", 1),
        (HEAD + "[1,0.5,NaN]\n", 0),
        (HEAD + "[true,0.5,1.0]\n", 0),
        (HEAD + "[" * 5000 + "\n", 0),
        (HEAD + "".join(f"[{n},1,1]\n" for n in range(1, 9000)), 2 * steps.MAX_LINES),
        (HEAD + "x" * steps.MAX_BYTES, None),
    ],
)
def test_untrusted_file_is_read_up_to_the_first_error(text: str, lines: int | None, tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").write_text(text)
    with Folder(tmp_path) as folder:
        found = steps.read(folder)
    assert (None if found is None else len(found.lines)) == lines


def test_recording_steps_does_not_change_training(tiny_config, tmp_path, monkeypatch):
    experiment.train(tiny_config(), out=tmp_path / "without")
    monkeypatch.setattr(steps, "SECONDS_PER_LINE", 0.0)
    run = tmp_path / "with"

    class Stop(experiment.Observer):
        def epoch(self, record, best):
            if record.epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.train(tiny_config(), out=run, observer=Stop())
    found = directory.read_steps(run)
    assert found is not None
    assert [step for step, _, _ in found.lines] == list(range(1, 9))
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert found.steps_per_epoch == records[0]["step"] == 4
    experiment.resume(run)
    resumed = directory.read_steps(run)
    assert resumed is not None
    assert [step for step, _, _ in resumed.lines] == list(range(9, 13))
    assert outcome(run) == outcome(tmp_path / "without")
