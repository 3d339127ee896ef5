"""docs/results.md agrees with the files of its runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from mlpcli import config
from mlpcli.runs.spread import spread_of

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results"
PAGE = (DOCS / "results.md").read_text("utf-8")
SEEDS = {"plain": range(3), "elastic-800": range(10), "elastic-deep": range(5), "elastic-night": range(5)}
SHIFTED = ["elastic-800", "elastic-deep", "elastic-night"]  # the recipes that are evaluated on shifted images too
RUNS = [(recipe, seed) for recipe, seeds in SEEDS.items() for seed in seeds]


def read(recipe: str, seed: int) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    folder = RESULTS / recipe / f"seed-{seed}"
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "test.json").read_text()), metrics, json.loads((folder / "manifest.json").read_text())


def errors_of(recipe: str) -> list[float]:
    return [100 * float(read(recipe, seed)[0]["error"]) for seed in SEEDS[recipe]]


def errors_with_shifts(recipe: str, shifts: int = 4) -> list[float]:
    found = []
    for seed in SEEDS[recipe]:
        text = (RESULTS / recipe / f"seed-{seed}" / "evaluations.jsonl").read_text()
        records = [record for record in map(json.loads, text.splitlines()) if not record["ensemble"]]
        [record] = [record for record in records if record["average_shifts"] == shifts]
        assert (record["split"], record["examples"]) == ("test", 10_000)
        found.append(100 * record["error"])
    return found


def seconds_of(recipe: str) -> list[float]:
    return [sum(line["seconds"] for line in read(recipe, seed)[1]) for seed in SEEDS[recipe]]


def cells(recipe: str) -> list[str]:
    """Return the cells of the recipe's line in the table of records."""
    [line] = re.findall(rf"^\| \[`{recipe}`\].*$", PAGE, re.MULTILINE)
    return str(line).strip("| ").split(" | ")


def mean_and_spread(errors: list[float]) -> tuple[str, str, str]:
    spread = spread_of(errors)
    assert spread is not None and spread.interval is not None
    interval = f"{spread.interval.low:.2f} .. {spread.interval.high:.2f}"
    return f"{spread.mean:.2f}", f"{spread.standard_deviation:.2f}", interval


def test_folder_has_the_runs_of_each_recipe():
    assert sorted(path.name for path in RESULTS.iterdir()) == sorted(SEEDS)
    for recipe, seeds in SEEDS.items():
        assert sorted(path.name for path in (RESULTS / recipe).iterdir()) == sorted(f"seed-{seed}" for seed in seeds)
        for seed in seeds:
            names = sorted(path.name for path in (RESULTS / recipe / f"seed-{seed}").iterdir())
            shifted = ["evaluations.jsonl"] * (recipe in SHIFTED)
            assert names == [*shifted, "manifest.json", "metrics.jsonl", "test.json"]


@pytest.mark.parametrize("recipe", SEEDS)
def test_row_of_a_recipe_agrees_with_its_runs(recipe: str):
    assert {read(recipe, seed)[0]["examples"] for seed in SEEDS[recipe]} == {10_000}
    name, _, errors, mean_error, deviation, interval, shifted, minutes = cells(recipe)
    assert name == f"[`{recipe}`](../configs/records/{recipe}.yaml)"
    assert errors == ", ".join(f"{error:.2f}" for error in errors_of(recipe))
    expected = mean_and_spread(errors_of(recipe))
    assert (mean_error.strip("*"), deviation, interval) == expected
    assert shifted == (f"{mean(errors_with_shifts(recipe)):.2f}" if recipe in SHIFTED else "-")
    seconds = seconds_of(recipe)
    assert minutes == f"{min(seconds) / 60:.1f} .. {max(seconds) / 60:.1f}"


@pytest.mark.parametrize("recipe", SHIFTED)
@pytest.mark.parametrize("shifts", [4, 8])
def test_errors_with_shifts_agree_with_the_runs(recipe: str, shifts: int):
    errors = errors_with_shifts(recipe, shifts)
    average, deviation, interval = mean_and_spread(errors)
    [line] = re.findall(rf"^\| `{recipe}`, {shifts} shifts .*$", PAGE, re.MULTILINE)
    listed = ", ".join(f"{error:.2f}" for error in errors)
    assert line == f"| `{recipe}`, {shifts} shifts | {listed} | **{average}** | {deviation} | {interval} |"


@pytest.mark.parametrize("recipe", SEEDS)
def test_config_of_a_recipe_says_what_its_runs_reached(recipe: str):
    from mlpcli.commands.config import _reached

    reached = _reached(config.read_text(config.find(f"records/{recipe}")))
    assert reached.test_error == pytest.approx(mean(errors_of(recipe)) / 100, abs=5e-5)
    assert reached.seconds == pytest.approx(max(seconds_of(recipe)), abs=60)


@pytest.mark.parametrize(("recipe", "seed"), RUNS)
def test_runs_follow_their_recipe_on_all_images(recipe: str, seed: int):
    read_config = config.load(config.find(f"records/{recipe}"), [], {})
    _, metrics, manifest = read(recipe, seed)
    assert manifest["state"] == "finished"
    assert manifest["data"]["dataset"] == "mnist"
    assert len(metrics) == read_config.training.epochs
    steps = -(-60_000 // read_config.training.batch_size)
    assert metrics[-1]["step"] == steps * len(metrics)
    assert metrics[-1]["validation_error"] is None
    assert read_config.data.validation == 0


def ensemble_of(recipe: str, seeds: range) -> dict[int, tuple[int, float]]:
    """Return the number of errors of an ensemble of runs, and the error, by the number of shifts."""
    found: dict[int, set[tuple[int, float]]] = {}
    for seed in seeds:
        text = (RESULTS / recipe / f"seed-{seed}" / "evaluations.jsonl").read_text()
        for line in map(json.loads, text.splitlines()):
            if line["ensemble"]:
                found.setdefault(line["average_shifts"], set()).add((line["ensemble_errors"], line["ensemble_error"]))
    assert {len(errors) for errors in found.values()} == {1}
    return {shifts: errors.pop() for shifts, errors in found.items()}


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        (range(3), "as an ensemble reach **{alone:.2f}** ({errors} errors"),
        (range(3, 5), "they as an ensemble reach {alone:.2f}, "),
    ],
)
def test_ensembles_of_the_longest_runs_agree_with_the_page(seeds: range, text: str):
    found = ensemble_of("elastic-night", seeds)
    (errors, alone), (_, four), (_, eight) = (found[shifts] for shifts in (0, 4, 8))
    reach = text.format(errors=errors, alone=100 * alone)
    after = PAGE.replace("\n", " ").partition(reach)[2]
    assert f"with four shifts {100 * four:.2f} and with eight {100 * eight:.2f}" in after[:120]


@pytest.mark.parametrize(
    ("names", "epochs", "text"),
    [
        (
            ["seed-3-from-night", "seed-4-from-night"],
            30,
            "**{} and {}**, with four shifts {} and {}, and with eight {} and {},",
        ),
        (["seed-0"], 150, "rate 1): {}, with four shifts {} and with eight {}."),
        (["seed-0-from-night"], 30, "seed 0: {}, with four shifts {} and with eight {}."),
    ],
)
def test_distilled_runs_agree_with_the_page(names: list[str], epochs: int, text: str):
    errors: dict[int, list[str]] = {}
    for name in names:
        run = DOCS / "distilled" / name
        manifest = json.loads((run / "manifest.json").read_text())
        assert (manifest["state"], len(manifest["teacher"]), manifest["epochs"]) == ("finished", 2, epochs)
        records = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
        shifted = {record["average_shifts"]: record["error"] for record in records}
        for shifts, error in {0: json.loads((run / "test.json").read_text())["error"], **shifted}.items():
            errors.setdefault(shifts, []).append(f"{100 * error:.2f}")
    listed = [error for shifts in (0, 4, 8) for error in errors[shifts]]
    assert text.format(*listed) in PAGE.replace("\n", " ")


def test_longer_runs_agree_with_the_page():
    runs = sorted((DOCS / "earlier" / "elastic-800-300-epochs").iterdir())
    assert [len((run / "metrics.jsonl").read_text().splitlines()) for run in runs] == [300, 300]
    errors = [100 * json.loads((run / "test.json").read_text())["error"] for run in runs]
    assert f"{errors[0]:.2f} and {errors[1]:.2f} %" in PAGE


@pytest.mark.parametrize(
    ("name", "shifts", "text"),
    [
        ("not-deskewed", [4, 8], "Its test error is {}, with four or eight shifts {} "),
        ("not-averaged", [4], "has {} with seed 0, and {} with four shifts "),
    ],
)
def test_other_deep_runs_agree_with_the_page(name: str, shifts: list[int], text: str):
    run = DOCS / "earlier" / f"elastic-deep-{name}" / "seed-0"
    plain = json.loads((run / "test.json").read_text())["error"]
    records = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert [record["average_shifts"] for record in records] == shifts
    [shifted] = {record["error"] for record in records}
    assert text.format(f"{100 * plain:.2f}", f"{100 * shifted:.2f}") in PAGE.replace("\n", " ")


@pytest.mark.parametrize("recipe", ["elastic-800", "elastic-800-0.1.0", "elastic-deep", "elastic-deep-fully-connected"])
def test_earlier_runs_agree_with_the_page(recipe: str):
    runs = sorted((DOCS / "earlier" / recipe).iterdir())
    for run in runs:
        names = {path.name for path in run.iterdir()} - {"evaluations.jsonl"}
        assert names == {"manifest.json", "metrics.jsonl", "test.json"}
        assert json.loads((run / "manifest.json").read_text())["state"] == "finished"
    errors = [100 * json.loads((run / "test.json").read_text())["error"] for run in runs]
    average, deviation, interval = mean_and_spread(errors)
    listed = ", ".join(f"{error:.2f}" for error in errors)
    assert f"[files](earlier/{recipe}) | {listed} | {average} | {deviation} | {interval} |" in PAGE
