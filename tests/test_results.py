"""docs/results.md agrees with the files of its runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from mlpcli import config
from mlpcli.analysis.evaluation import wilson_interval
from mlpcli.runs.spread import spread_of

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results"
PAGE = (DOCS / "results.md").read_text("utf-8")
RECIPES = ["plain", "elastic-800", "elastic-deep"]
SEEDS = ["seed-0", "seed-1", "seed-2"]


def read(recipe: str, seed: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    folder = RESULTS / recipe / seed
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "test.json").read_text()), metrics, json.loads((folder / "manifest.json").read_text())


def row(recipe: str) -> str:
    """Return the line of the recipe in the table of records."""
    [line] = re.findall(rf"^\| \[`{recipe}`\].*$", PAGE, re.MULTILINE)
    return str(line)


def test_folder_has_three_runs_of_each_recipe():
    assert sorted(path.name for path in RESULTS.iterdir()) == sorted(RECIPES)
    for recipe in RECIPES:
        assert sorted(path.name for path in (RESULTS / recipe).iterdir()) == SEEDS
        for seed in SEEDS:
            names = sorted(path.name for path in (RESULTS / recipe / seed).iterdir())
            assert names == ["manifest.json", "metrics.jsonl", "test.json"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_row_of_a_recipe_agrees_with_its_runs(recipe: str):
    tests = [read(recipe, seed)[0] for seed in SEEDS]
    assert [test["examples"] for test in tests] == [10_000] * 3
    minutes = [sum(line["seconds"] for line in read(recipe, seed)[1]) / 60 for seed in SEEDS]
    interval = wilson_interval(sum(test["errors"] for test in tests), 30_000)
    name, _, errors, average, wilson, times = row(recipe).strip("| ").split(" | ")
    assert name == f"[`{recipe}`](../configs/records/{recipe}.yaml)"
    assert errors == ", ".join(f"{100 * test['error']:.2f}" for test in tests)
    assert average == f"**{100 * mean(test['error'] for test in tests):.2f}**"
    assert wilson == f"{100 * interval.low:.2f} .. {100 * interval.high:.2f}"
    assert times == ", ".join(f"{each:.1f}" for each in minutes)


@pytest.mark.parametrize("recipe", RECIPES)
def test_config_of_a_recipe_says_what_its_runs_reached(recipe: str):
    from mlpcli.commands.config import _reached

    reached = _reached(config.read_text(config.find(f"records/{recipe}")))
    errors = [read(recipe, seed)[0]["error"] for seed in SEEDS]
    longest = max(sum(line["seconds"] for line in read(recipe, seed)[1]) for seed in SEEDS)
    assert reached.test_error == pytest.approx(mean(errors), abs=5e-5)
    assert reached.seconds == pytest.approx(longest, abs=60)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_runs_follow_their_recipe_on_all_images(recipe: str, seed: str):
    read_config = config.load(config.find(f"records/{recipe}"), [], {})
    _, metrics, manifest = read(recipe, seed)
    assert manifest["state"] == "finished"
    assert manifest["data"]["dataset"] == "mnist"
    assert len(metrics) == read_config.training.epochs
    steps = -(-60_000 // read_config.training.batch_size)
    assert metrics[-1]["step"] == steps * len(metrics)
    assert metrics[-1]["validation_error"] is None
    assert read_config.data.validation == 0


def test_longer_runs_agree_with_the_page():
    runs = sorted((DOCS / "repeats" / "elastic-800-300-epochs").iterdir())
    assert [len((run / "metrics.jsonl").read_text().splitlines()) for run in runs] == [300, 300]
    errors = [100 * json.loads((run / "test.json").read_text())["error"] for run in runs]
    assert f"{errors[0]:.2f} and {errors[1]:.2f} %" in PAGE


def test_repeated_runs_agree_with_the_page():
    folder = DOCS / "repeats" / "elastic-800"
    runs = sorted(folder.iterdir())
    for run in runs:
        assert sorted(path.name for path in run.iterdir()) == ["manifest.json", "metrics.jsonl", "test.json"]
        assert json.loads((run / "manifest.json").read_text())["state"] == "finished"
    errors = [100 * json.loads((run / "test.json").read_text())["error"] for run in runs]
    spread = spread_of(errors)
    assert spread is not None and spread.interval is not None
    page = " ".join(PAGE.split())
    assert f"seeds {', '.join(run.name.removeprefix('seed-') for run in runs)}: " in page
    assert f": {', '.join(f'{error:.2f}' for error in errors)}; mean **{spread.mean:.2f}**" in page
    assert f"standard deviation {spread.standard_deviation:.2f}" in page
    assert f"95 % interval of the mean {spread.interval.low:.2f} .. {spread.interval.high:.2f}" in page
