"""Draws docs/pictures/frontier.svg: test error against seconds of training, from the committed runs.

They are those in docs/results/, and those in docs/frontier/, which ``python -m benchmarks.frontier`` trains.

python docs/pictures/frontier.py

A recipe is a folder of runs that differ only in their seed. It is a point at the means of its runs, with the 95 %
interval of the mean error by Student's t; every run is a small point of its own. The line joins the recipes that no
other one is below in less time. It takes matplotlib: pip install -e '.[plots]'.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlpcli.analysis.plots import COLOURS, MARKERS, render
from mlpcli.runs.spread import spread_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
FOLDERS = HERE.parent / "results", HERE.parent / "frontier"
PICTURE = HERE / "frontier.svg"

# The ticks.
SECONDS = (1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 28800)
PERCENT = (0.2, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10)


@dataclass(frozen=True)
class Recipe:
    """A recipe's runs: of each, the seconds of training and the test error in per cent; ``threads`` in words."""

    name: str
    seconds: tuple[float, ...]
    errors: tuple[float, ...]
    threads: str

    @property
    def point(self) -> tuple[float, float]:
        """Return the mean seconds and the mean error."""
        return sum(self.seconds) / len(self.seconds), sum(self.errors) / len(self.errors)

    def __str__(self) -> str:
        seconds, error = self.point
        return f"{self.name}: {error:.2f} % in {seconds:.0f} s, {self.threads}, n = {len(self.errors)}"


def recipes(*folders: Path) -> list[Recipe]:
    """Return the recipes in ``folders``, or in ``FOLDERS``, those of the least seconds first."""
    runs: dict[str, list[Path]] = {}
    for folder in folders or FOLDERS:
        for test in sorted(folder.rglob("test.json")):
            runs.setdefault(test.parent.parent.relative_to(folder).as_posix(), []).append(test.parent)
    return sorted((_recipe(name, own) for name, own in runs.items()), key=lambda recipe: recipe.point)


def _recipe(name: str, runs: list[Path]) -> Recipe:
    seconds, errors, threads = [], [], set()
    for run in runs:
        lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
        seconds.append(sum(json.loads(line)["seconds"] for line in lines))
        errors.append(100 * json.loads((run / "test.json").read_text("utf-8"))["error"])
        environment = json.loads((run / "manifest.json").read_text("utf-8"))["environment"]
        processes, count = environment.get("processes", 1), environment["threads"]
        threads.add(f"{processes} processes" if processes != 1 else f"{count} thread{'s' if count != 1 else ''}")
    return Recipe(name, tuple(seconds), tuple(errors), " or ".join(sorted(threads)))


def frontier(found: list[Recipe]) -> list[Recipe]:
    """Return the recipes of ``found``, in order of their seconds, that have a lower error than all before."""
    best: list[Recipe] = []
    for recipe in found:
        if not best or recipe.point[1] < best[-1].point[1]:
            best.append(recipe)
    return best


def title(found: list[Recipe]) -> str:
    """Return the figures of the picture, as its title in the file."""
    return f"Test error against seconds of training: {'; '.join(map(str, found))}"


def draw(figure: Figure, found: list[Recipe]) -> None:
    """Draw ``found`` in the empty ``figure``."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    figure.set_size_inches(8, 4.5)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.plot(
        *zip(*(recipe.point for recipe in frontier(found)), strict=True), color="#888888", linewidth=0.8, zorder=1
    )
    for number, recipe in enumerate(found):
        colour = COLOURS[number % len(COLOURS)]
        seconds, error = recipe.point
        axes.plot(recipe.seconds, recipe.errors, ".", color=colour, alpha=0.4, markersize=4)
        spread = spread_of(recipe.errors)
        if spread is not None and spread.interval is not None:
            axes.plot([seconds] * 2, [spread.interval.low, spread.interval.high], color=colour, linewidth=0.8)
        filled = "none" if recipe.name.startswith("pytorch/") else "full"
        label = f"{recipe.name}, {error:.2f}"
        axes.plot(seconds, error, MARKERS[number % len(MARKERS)], color=colour, fillstyle=filled, label=label)
    least, most = min(min(each.seconds) for each in found), max(max(each.seconds) for each in found)
    axes.set_xlim(least / 1.5, most * 1.5)
    axes.set_xticks([tick for tick in SECONDS if least / 1.5 <= tick <= most * 1.5])
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: _words(tick)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    lowest, highest = min(min(each.errors) for each in found), max(max(each.errors) for each in found)
    axes.set_ylim(lowest / 1.2, highest * 1.2)
    axes.set_yticks([tick for tick in PERCENT if lowest / 1.2 <= tick <= highest * 1.2])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    threads = sorted({recipe.threads for recipe in found})
    axes.set(xlabel=f"time of training, each run with {' or '.join(threads)}", ylabel="test error (% of 10,000 images)")
    figure.suptitle("Test error against time of training: means, and each seed")


def _words(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s"
    return f"{seconds / 60:g} min" if seconds < 3600 else f"{seconds / 3600:g} h"


def main() -> None:
    """Write the picture."""
    found = recipes()
    PICTURE.write_bytes(render(lambda figure: draw(figure, found), "svg", title(found)))


if __name__ == "__main__":
    main()
