"""The events of a live page, for prepared run directories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlpcli import experiment
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.watch import feed as module
from mlpcli.watch.feed import OneOfMany, RunFeed, RunsFeed, _smoothed, _thinned


@pytest.fixture
def run(tiny_config: Any, tmp_path: Path) -> Path:
    experiment.train(tiny_config(), out=tmp_path / "run")
    return tmp_path / "run"


def kinds_of(events: dict[str, str]) -> dict[str, Any]:
    return {kind: json.loads(text) for kind, text in events.items()}


def as_if_running(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run / "manifest.json"
    path.write_text(path.read_text().replace('"finished"', '"running"'))
    monkeypatch.setattr(directory, "is_in_use", lambda found: getattr(found, "path", found) == run)


def test_only_changes_are_sent(run: Path) -> None:
    feed = RunFeed(run, 2)
    first = kinds_of(feed.light())
    assert set(first) == {"run", "progress"}
    assert (first["progress"]["state"], first["progress"]["epochs"]) == ("finished", 3)
    assert set(feed.light()) == {"progress"}
    assert set(kinds_of(feed.heavy())) == {"contents"}
    assert not feed.heavy_is_due()


def test_states_are_sent(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = RunFeed(run, 2)
    feed.light()
    assert feed.state == "finished"
    with monkeypatch.context() as patched:
        as_if_running(run, patched)
        feed.light()
        assert feed.state == "running"
    assert kinds_of(feed.light())["progress"]["state"] == feed.state == "interrupted"
    (run / "metrics.jsonl").write_text("junk\n")
    assert kinds_of(feed.light())["progress"]["state"] == "damaged"
    shutil.rmtree(run)
    last = kinds_of(feed.light())["progress"]
    assert (last["state"], last["epochs"]) == ("removed", 3)
    assert not feed.heavy_is_due()


def test_steps_give_speed_and_time_left(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_running(run, monkeypatch)
    lines = [[step, step / 10, 2.0] for step in range(1, 7)]
    head = {"steps_per_epoch": 4, "examples": 64}
    (run / "steps.jsonl").write_text("".join(json.dumps(each) + "\n" for each in (head, *lines)))
    progress = kinds_of(RunFeed(run, 2).light())["progress"]
    assert progress["speed"] == pytest.approx(10 * 16)
    assert progress["left"] == pytest.approx((3 * 4 - 6) / 10)
    assert progress["along"] == 1.5
    assert progress["points"] == [[0.25, 0.5, 0.75, 1.0, 1.25, 1.5], [2.0] * 6]


def test_checkpoints_are_read_within_a_cpu_budget(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_running(run, monkeypatch)
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "thread_time", lambda: now[0] / 100)
    feed = RunFeed(run, 2)
    feed.light()

    def newer() -> None:
        path = run / "checkpoints/last.npz"
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)

    class Slow(module.Budget):
        def spend(self, seconds: float) -> None:
            super().spend(0.06)  # of 2 processors the fraction is 0.006

    feed._weights, feed._evaluations = Slow(2), Slow(2)
    first = kinds_of(feed.heavy())["contents"]
    assert first["document"]["checkpoint"] == {"name": "last", "epoch": 3}
    assert first["document"]["evaluation"]["examples"] == 7
    newer()
    assert set(feed.heavy()) == {"weights"}  # which have a separate budget
    newer()
    assert not feed.heavy_is_due()
    now[0] = 9.9
    assert not feed.heavy_is_due()
    now[0] = 10.1
    assert feed.heavy_is_due()
    assert set(feed.heavy()) == {"contents"}


def test_new_state_of_a_run_is_noticed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = OneOfMany(RunFeed(run, 2), RunsFeed(run.parent), 2)
    feed.light()
    assert not feed.state_may_differ()
    with monkeypatch.context() as patched:
        as_if_running(run, patched)
        assert feed.state_may_differ()
        feed.light()
        (run / "metrics.jsonl").touch()
        assert not feed.state_may_differ()
    assert feed.state_may_differ()
    feed.light()
    (run / "manifest.json").touch()  # by a process that began and ended since
    assert feed.state_may_differ()
    feed.light()
    assert not feed.state_may_differ()
    shutil.rmtree(run)
    assert feed.state_may_differ()
    feed.light()
    assert not feed.state_may_differ()


def test_new_state_in_a_folder_is_noticed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = RunsFeed(run.parent)
    feed.light()
    (run.parent / "no run").mkdir()
    assert not feed.state_may_differ()
    shutil.copytree(run, run.parent / "other")
    assert feed.state_may_differ()
    with monkeypatch.context() as patched:
        as_if_running(run, patched)
        (run / "manifest.json").touch()
        feed.light()
        assert not feed.state_may_differ()
    assert feed.state_may_differ()
    feed.light()
    assert not feed.state_may_differ()
    shutil.rmtree(run.parent / "other")
    assert feed.state_may_differ()
    shutil.rmtree(run.parent)
    assert not feed.state_may_differ()


def test_damaged_checkpoint_is_read_once(run: Path) -> None:
    for name in ("best", "last"):
        (run / f"checkpoints/{name}.npz").write_bytes(b"junk")
    feed = RunFeed(run, 2)
    feed.light()
    assert feed.heavy_is_due()
    assert feed.heavy() == {}
    assert not feed.heavy_is_due()


def test_weights_are_sent_without_images(run: Path, tiny_folder: Path) -> None:
    shutil.rmtree(tiny_folder)
    feed = RunFeed(run, 2)
    feed.light()
    contents = kinds_of(feed.heavy())["contents"]
    assert contents["document"]["evaluation"] is None
    assert contents["document"]["no_images"] == module.NO_IMAGES
    assert contents["weights"]


def test_runs_are_read_again_only_after_changes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run, run.parent / "other")
    feed = RunsFeed(run.parent)
    read: list[Path] = []
    whole = module.try_to_read
    monkeypatch.setattr(module, "try_to_read", lambda path: read.append(path) or whole(path))
    first = kinds_of(feed.light())["runs"]
    assert {each["name"]: each["link"] for each in first["runs"]} == {"other": "run/1/", "run": "run/2/"}
    feed.light()
    assert len(read) == 2
    (run / "manifest.json").touch()
    feed.light()
    assert read[2:] == [run]
    shutil.rmtree(run.parent / "other")
    shutil.copytree(run, run.parent / "third")
    assert {each["name"]: each["link"] for each in kinds_of(feed.light())["runs"]["runs"]} == {
        "run": "run/2/",
        "third": "run/3/",
    }
    assert feed.run_at(2) == run and feed.run_at(4) is None


def test_neighbours_of_a_run_are_the_newest(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_OTHERS", 2)
    for name in ("b", "c", "d"):
        shutil.copytree(run, run.parent / name)
        (run.parent / name / "config.yaml").touch()
    feed = OneOfMany(RunFeed(run, 2), RunsFeed(run.parent), 2)
    assert [each["name"] for each in kinds_of(feed.light())["others"]] == ["d", "c"]
    assert "others" not in feed.light()  # not each time


def test_losses_are_smoothed_and_thinned() -> None:
    lines = [(step, step / 10, float(step % 2)) for step in range(1, 1001)]
    smooth = [loss for _, _, loss in _smoothed(lines, 10)]
    assert smooth[:2] == [1.0, 0.5]
    assert all(loss == pytest.approx(0.5, abs=0.06) for loss in smooth[10:])
    assert _smoothed(lines, 0) == lines
    few = _thinned(lines)
    assert len(few) <= module.MOST_POINTS + 1 and few[-1] == lines[-1]
    assert _smoothed([(5, 0.1, 2.0)], 10) == [(5, 0.1, 2.0)]


def test_feed_does_not_write(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    feed = OneOfMany(RunFeed(run, 2), RunsFeed(run.parent), 2)
    feed.light()
    feed.run.heavy()
    feed.html()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert checkpoints.read(run / "checkpoints/last.npz").epoch == 3
