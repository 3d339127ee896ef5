"""The figure of docs/results.md: its points are the committed runs, and it is up to date."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from mlpcli import config
from mlpcli.commands.config import _reached

DOCS = Path(__file__).parents[1] / "docs"
SCRIPT = runpy.run_path(str(DOCS / "pictures" / "frontier.py"))
PICTURE: Path = SCRIPT["PICTURE"]


def write_run(folder: Path, seconds: list[float], error: float, **environment: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"seconds": each}) + "\n" for each in seconds))
    (folder / "test.json").write_text(json.dumps({"error": error}))
    (folder / "manifest.json").write_text(json.dumps({"environment": {"threads": 1, **environment}}))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_run(tmp_path / "slow" / "seed-0", [50.0, 50.0], 0.01)
    write_run(tmp_path / "slow" / "seed-1", [60.0, 60.0], 0.02, threads=2)
    write_run(tmp_path / "objectives" / "fast" / "seed-0", [1.0], 0.03, processes=2)
    write_run(tmp_path / "worse" / "seed-0", [5.0], 0.04)
    write_run(tmp_path / "unfinished" / "seed-0", [5.0], 0.04)
    (tmp_path / "unfinished" / "seed-0" / "test.json").unlink()
    return tmp_path


def test_recipes_are_means_over_their_seeds(results: Path):
    fast, worse, slow = SCRIPT["recipes"](results)
    assert [each.name for each in (fast, worse, slow)] == ["objectives/fast", "worse", "slow"]
    assert slow.point == pytest.approx((110.0, 1.5))
    assert (fast.threads, worse.threads, slow.threads) == ("2 processes", "1 thread", "1 thread or 2 threads")
    assert str(slow) == "slow: 1.50 % in 110 s, 1 thread or 2 threads, n = 2"


def test_frontier_has_what_nothing_faster_is_below(results: Path):
    found = SCRIPT["recipes"](results)
    assert [each.name for each in SCRIPT["frontier"](found)] == ["objectives/fast", "slow"]


def test_picture_has_the_names_and_equal_bytes(results: Path):
    pytest.importorskip("matplotlib")
    from mlpcli.analysis.plots import render

    found = SCRIPT["recipes"](results)
    one, two = (render(lambda figure: SCRIPT["draw"](figure, found), "svg", SCRIPT["title"](found)) for _ in range(2))
    assert one == two
    for recipe in found:
        assert f"{recipe.name}, {recipe.point[1]:.2f}".encode() in one


def test_committed_picture_is_of_the_committed_runs():
    (title,) = re.findall(r"<dc:title>(.*?)</dc:title>", PICTURE.read_text("utf-8"))
    found = SCRIPT["recipes"]()
    assert title == SCRIPT["title"](found), "to update it, run: python docs/pictures/frontier.py"
    runs = [path.parent for folder in ("results", "frontier") for path in (DOCS / folder).rglob("test.json")]
    assert sum(len(recipe.errors) for recipe in found) == len(runs)
    plain = [json.loads(file.read_text())["error"] for file in (DOCS / "results" / "plain").rglob("test.json")]
    assert f"plain: {100 * mean(plain):.2f} %" in title


def test_results_page_shows_the_picture():
    page = (DOCS / "results.md").read_text("utf-8")
    assert f"](pictures/{PICTURE.name})" in page
    assert PICTURE.stat().st_size < 120_000


def test_table_is_of_the_committed_runs():
    page = (DOCS / "results.md").read_text("utf-8")
    for each in SCRIPT["recipes"]():
        seconds, error = each.point
        errors = ", ".join(f"{one:.2f}" for one in each.errors)
        assert f"| {each.name} | {seconds:.1f} | {error:.2f} | {errors} |" in page


CONFIGS = [each for each in SCRIPT["recipes"](DOCS / "frontier") if not each.name.startswith("pytorch/")]


@pytest.mark.parametrize("recipe", CONFIGS, ids=lambda recipe: recipe.name)
def test_config_says_what_its_runs_in_the_figure_reached(recipe: Any):
    reached = _reached(config.read_text(config.find(recipe.name)))
    seconds, error = recipe.point
    assert reached.test_error == pytest.approx(error / 100, abs=5.1e-5)
    assert reached.seconds == pytest.approx(seconds, abs=0.051)
