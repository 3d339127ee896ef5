"""Runs side by side: order, differing keys, several seeds, and runs in any state."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli import config as config_module
from mlpcli import experiment
from mlpcli.config import Config
from mlpcli.errors import RunError
from mlpcli.runs.ranking import Known, collect, differing, group_seeds, rank
from mlpcli.runs.spread import spread_of
from mlpcli.runs.summary import Summary

Make = Callable[..., Config]


@cache
def config(*overrides: str) -> Config:
    return config_module.load(None, overrides, {})


def known(name: str, *overrides: str, **found: Any) -> Known:
    values = {"state": "finished", "dataset": "mnist", "validation_error": 0.02, "validation_loss": 0.1, **found}
    return Known(Summary(Path(name), **values), config(*overrides))


def names(runs: list[Any]) -> list[str]:
    return [str(row.summary.path) for row in runs]


def test_ranking_by_validation_error_then_loss_then_name():
    runs = [
        known("none", validation_error=None, validation_loss=None),
        known("worse", validation_error=0.03),
        known("b"),
        known("a"),
        known("loss", validation_loss=0.05),
        known("best", validation_error=0.01, validation_loss=9.0),
    ]
    assert names(rank(runs)) == ["best", "loss", "a", "b", "worse", "none"]


def test_settings_are_the_keys_that_differ():
    runs = [
        known("a", "network.hidden=[3]", "training.learning_rate=0.1", "seed=1"),
        known("b", "network.hidden=[3]", "training.learning_rate=0.2", "seed=1"),
        known("c", "network.hidden=[4]", "training.learning_rate=0.2", "seed=1"),
    ]
    assert differing(runs) == ["network.hidden", "training.learning_rate"]
    assert [row.settings for row in rank(runs)] == [
        {"network.hidden": [3], "training.learning_rate": 0.1},
        {"network.hidden": [3], "training.learning_rate": 0.2},
        {"network.hidden": [4], "training.learning_rate": 0.2},
    ]
    assert rank(runs[:1])[0].settings == rank([runs[0]] * 2)[1].settings == {}


def test_data_location_and_test_are_no_config_difference():
    elsewhere = ("data.folder=elsewhere", "data.sources=[x]", "data.offline=true", "data.test=false")
    runs = [known("a"), known("b", *elsewhere)]
    assert rank(runs)[0].settings == {}
    assert len(group_seeds(runs)) == 1


CHECKPOINT_KEYS = ("network.init", "training.teacher")


def from_checkpoint(name: str, key: str, path: str, sha256: str | None, seed: int = 0) -> Known:
    several = key == "training.teacher"
    values = [f"[{value}]" if several and value else value or "null" for value in (path, sha256)]
    return known(name, f"{key}={values[0]}", f"{key}_sha256={values[1]}", f"seed={seed}")


@pytest.mark.parametrize("key", CHECKPOINT_KEYS)
def test_moved_checkpoint_is_no_config_difference(key: str):
    runs = [from_checkpoint("a", key, "old", "1f" * 32), from_checkpoint("b", key, "new", "1f" * 32, seed=1)]
    assert differing(runs) == ["seed"]
    assert len(group_seeds(runs)) == 1
    other = from_checkpoint("c", key, "new", "2f" * 32)
    assert differing([*runs, other]) == ["seed", key]
    assert [len(group.rows) for group in group_seeds([*runs, other])] == [2, 1]
    a, b, c = (row.settings[key] for row in rank([*runs, other]))
    assert a == b != c


@pytest.mark.parametrize("key", CHECKPOINT_KEYS)
@pytest.mark.parametrize("other", ["2f" * 32, None])
def test_replaced_checkpoint_is_a_config_difference(key: str, other: str | None):
    runs = [from_checkpoint("a", key, "path", "1f" * 32), from_checkpoint("b", key, "path", other, seed=1)]
    assert differing(runs) == ["seed", key]
    assert len(group_seeds(runs)) == 2
    values = [row.settings[key] for row in rank(runs)]
    names = values if key == "network.init" else [name for value in values for name in value]
    assert names == ["1f1f1f1f path", "2f2f2f2f path" if other else "path"]


def test_fallback_on_the_sample_is_another_data_set():
    fallback = "data.fallback=mnist-sample"
    runs = [known("a", fallback, dataset="mnist-sample"), known("b", fallback, dataset="mnist")]
    assert [row.settings for row in rank(runs)] == [{"data.dataset": "mnist-sample"}, {"data.dataset": "mnist"}]
    assert len(group_seeds(runs)) == 2
    unknown = known("c", state="damaged", dataset=None)  # and has no fallback
    assert rank([unknown, known("d")])[0].settings == {}


def test_seeds_are_grouped_with_standard_deviation():
    runs = [
        known(f"{rate}-{seed}", f"seed={seed}", f"training.learning_rate={rate}", validation_error=error, epochs=20)
        for rate, errors in ((0.1, (0.01, 0.05, 0.03)), (0.2, (0.02, 0.02, 0.02)))
        for seed, error in enumerate(errors)
    ]
    first, second = group_seeds(runs)
    assert (first.settings, second.settings) == ({"training.learning_rate": 0.2}, {"training.learning_rate": 0.1})
    assert (first.seeds, first.states) == ((0, 1, 2), {"finished": 3})
    assert first.validation_error == spread_of([0.02, 0.02, 0.02])
    assert second.validation_error == spread_of([0.01, 0.05, 0.03])
    assert second.validation_error.standard_deviation == pytest.approx(0.02)
    assert names([*second.rows]) == ["0.1-0", "0.1-2", "0.1-1"]
    assert (first.epochs, first.seconds, first.test_error) == (spread_of([20, 20, 20]), None, None)


def test_only_finished_runs_are_averaged():
    runs = [known("a", validation_error=0.01), known("b", "seed=1", validation_error=0.9, state="diverged")]
    (group,) = group_seeds(runs)
    assert (group.states, group.validation_error) == ({"finished": 1, "diverged": 1}, spread_of([0.01]))
    (group,) = group_seeds(runs[1:])
    assert (group.states, group.validation_error) == ({"diverged": 1}, None)


def test_run_without_a_config_is_not_grouped():
    runs = [
        known("a"),
        Known(Summary(Path("b"), "damaged"), None),
        Known(Summary(Path("c"), "damaged"), None),
        known("d"),
    ]
    runs[3] = replace(runs[3], config=config("seed=7"))
    assert [(str(row.summary.path), row.settings) for row in rank(runs)] == [
        ("a", {"seed": 0}),
        ("d", {"seed": 7}),
        ("b", {}),
        ("c", {}),
    ]
    assert [(names([*group.rows]), group.seeds) for group in group_seeds(runs)] == [
        (["a", "d"], (0, 7)),
        (["b"], ()),
        (["c"], ()),
    ]


runs_of_any_kind = st.lists(
    st.tuples(
        st.sampled_from(["finished", "diverged", "interrupted", "running"]),
        st.integers(0, 3),
        st.sampled_from([0.1, 0.2]),
        st.none() | st.floats(0, 1),
    ),
    min_size=1,
    max_size=12,
)


@given(runs_of_any_kind)
def test_groups_cover_all_runs_and_means_are_in_range(kinds: list[tuple[str, int, float, float | None]]):
    runs = []
    for number, (state, seed, rate, error) in enumerate(kinds):
        settings = (f"seed={seed}", f"training.learning_rate={rate}")
        loss = None if error is None else 0.5
        runs.append(known(str(number), *settings, state=state, validation_error=error, validation_loss=loss))
    rows, groups = rank(runs), group_seeds(runs)
    assert sorted(names(rows)) == sorted(str(number) for number in range(len(kinds)))
    assert sorted(name for group in groups for name in names([*group.rows])) == sorted(names(rows))
    for group in groups:
        assert len({*map(repr, [{**row.settings, "seed": 0} for row in group.rows])}) == 1
        spread = group.validation_error
        assert spread is None or spread.low <= spread.mean <= spread.high
    means = [group.validation_error.mean for group in groups if group.validation_error]
    assert means == sorted(means)


# From disk ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tiny_config: Make, tmp_path: Path) -> Path:
    """Train two runs, ``a`` and ``b``, of one config except the seed."""
    for name, seed in (("a", 0), ("b", 1)):
        experiment.train(tiny_config(f"seed={seed}", "training.epochs=1"), out=tmp_path / "runs" / name)
    return tmp_path / "runs"


def test_folder_means_its_runs_without_repetition(folder: Path):
    assert {run.summary.path for run in collect([folder])} == {folder / "a", folder / "b"}
    assert len(collect([folder / "a", folder, folder / "b", folder / ".." / "runs" / "a"])) == 2
    assert [run.summary.path for run in collect([folder / "b"])] == [folder / "b"]
    assert all(run.config is not None for run in collect([folder]))


def test_damaged_runs_are_collected_too(folder: Path):
    (folder / "a" / "metrics.jsonl").write_text("{\n")
    (folder / "b" / "config.yaml").write_text("seed: -1\n")
    found = {run.summary.path.name: run for run in collect([folder])}
    assert [run.summary.state for run in found.values()] == ["damaged"] * 2
    assert "metrics.jsonl:1: is damaged" in str(found["a"].summary.problem)
    assert found["a"].config is not None and found["b"].config is None


def test_path_without_runs_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for path, reason in (
        (tmp_path / "empty", "is not a run, and contains none"),
        (tmp_path / "nowhere", "no such run"),
        (folder / "a" / "checkpoints" / "last.npz", "is a checkpoint; name its run"),
        (folder / "a" / "test.json", "no such run"),
        (Path("x" * 300), "no such run"),
        (Path("a\0b"), "no such run"),
    ):
        with pytest.raises(RunError, match=reason):
            collect([folder, path])
    shutil.rmtree(folder / "a")
    assert len(collect([folder])) == 1
