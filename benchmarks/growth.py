"""Measure training throughput against width, depth, batch size and threads, beside the bare matrix products."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Worker

OURS, FLOOR = "mlpcli", "products"

# Everything else stays at the default network's 784-512-10 with batches of 128.
WIDTH, BATCH = 512, 128
WIDTHS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DEPTHS = (0, 1, 2, 3, 4, 5)
BATCHES = (1, 4, 16, 64, 256, 1024, 4096)

# Assumed speeds, to cut an epoch to so few images that no point takes minutes; and the fewest steps of an epoch.
PRODUCTS_PER_SECOND, STEPS_PER_SECOND, MIN_STEPS = 3e10, 20_000, 4

# Okabe and Ito's colours, distinct for colour-blind readers too; the markers are distinct in print.
LOOKS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))

Point = dict[str, Any]


def main() -> None:
    """Measure every point with each number of threads."""
    options = common.parser(__doc__, seconds=0.4, threads=False)
    options.add_argument("--threads", type=_numbers, default=[1, 2], help="numbers of threads; default: 1,2")
    options.add_argument("--plot", type=Path, metavar="FILE", help="draw it, as .svg or .png (needs matplotlib)")
    options.add_argument("--axes", default="width,depth,batch", help="any of width, depth, batch")
    options.add_argument("--most", type=int, default=4096, help="leave out points beyond this width or batch size")
    given = options.parse_args()

    points = [point for point in wanted(given.axes.split(",")) if point["value"] <= given.most]
    samples: list[dict[str, Any]] = []
    for threads in given.threads:
        arguments = (given.data, "0", str(threads))
        workers = {name: Worker("benchmarks.peers", name, *arguments, threads=threads) for name in (OURS, FLOOR)}
        for worker in workers.values():
            worker.answer()
        for point in points:
            for worker in workers.values():
                worker.prepare(point["hidden"], point["batch"], examples(point, given.seconds))
            for number, name in common.rounds(list(workers), given.repeats):
                turn = workers[name].turn(given.seconds)
                samples.append({**point, "threads": threads, "peer": name, "round": number, **turn})
        for worker in workers.values():
            worker.close()

    summary = [summarize(point, threads, samples) for threads in given.threads for point in points]
    common.report(given, "growth", {"summary": summary, "samples": samples}, text(summary, samples))
    if given.plot:
        draw(summary, given.plot)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def wanted(axes: list[str]) -> list[Point]:
    """Return every point of ``axes``."""
    points: dict[str, list[Point]] = {
        "width": [{"axis": "width", "value": width, "hidden": [width], "batch": BATCH} for width in WIDTHS],
        "depth": [{"axis": "depth", "value": depth, "hidden": [WIDTH] * depth, "batch": BATCH} for depth in DEPTHS],
        "batch": [{"axis": "batch", "value": batch, "hidden": [WIDTH], "batch": batch} for batch in BATCHES],
    }
    return [point for axis in axes for point in points[axis]]


def examples(point: Point, seconds: float) -> int:
    """Return the images of an epoch of ``point``: whole batches, for about ``seconds``, at most 60,000."""
    sizes = (784, *point["hidden"], 10)
    products = 3 * sum(rows * columns for rows, columns in pairwise(sizes))
    images = min(seconds * PRODUCTS_PER_SECOND / products, seconds * STEPS_PER_SECOND * point["batch"], 60_000)
    steps = max(MIN_STEPS, math.floor(images / point["batch"]))
    return min(steps * int(point["batch"]), 60_000)


def summarize(point: Point, threads: int, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Return both rates at one point, and the spread of mlpcli's rate as a fraction of the products'."""
    own = [s for s in samples if all(s[key] == point[key] for key in ("axis", "value")) and s["threads"] == threads]
    rates = {name: [s["examples"] / s["seconds"] for s in own if s["peer"] == name] for name in (OURS, FLOOR)}
    return {
        **point,
        "threads": threads,
        **{name: common.spread(rate)._asdict() for name, rate in rates.items()},
        "share": common.ratios(rates[OURS], rates[FLOOR])._asdict(),
    }


def text(summary: list[dict[str, Any]], samples: list[dict[str, Any]]) -> str:
    """Return the table, one row per point."""
    rows = [
        [
            f"{row['axis']} {row['value']}",
            common.form(row["hidden"]) if len(row["hidden"]) < 3 else f"784-{len(row['hidden'])} x {WIDTH}-10",
            str(row["batch"]),
            str(row["threads"]),
            common.number(row[OURS]["median"]),
            common.number(row[FLOOR]["median"]),
            common.with_range(common.Spread(**row["share"])),
        ]
        for row in summary
    ]
    header = ["point", "network", "batch", "threads", "examples/s", "products/s", "fraction of products"]
    return common.table(header, rows) + "\n\n" + common.disturbance(samples)


def draw(summary: list[dict[str, Any]], path: Path) -> None:
    """Draw examples per second above, and the fraction of the products below: mlpcli solid, products dashed."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "mlpcli"  # the same figures, the same file
    from matplotlib import pyplot as plt

    axes = list(dict.fromkeys(row["axis"] for row in summary))
    titles = {
        "width": f"one hidden layer, batches of {BATCH}",
        "depth": f"hidden layers of {WIDTH}, batches of {BATCH}",
        "batch": f"784-{WIDTH}-10",
    }
    labels = {"width": "units of the hidden layer", "depth": "hidden layers", "batch": "batch size"}
    figure, grid = plt.subplots(
        2, len(axes), figsize=(4.2 * len(axes), 6.4), squeeze=False, sharex="col", layout="constrained"
    )
    for column, axis in enumerate(axes):
        above, below = grid[0][column], grid[1][column]
        for threads, (colour, marker) in zip(sorted({row["threads"] for row in summary}), LOOKS, strict=False):
            own = [row for row in summary if row["axis"] == axis and row["threads"] == threads]
            x = [row["value"] for row in own]
            words = f"{threads} thread{'s' if threads > 1 else ''}"
            look = {"color": colour, "marker": marker, "markersize": 5}
            above.plot(x, [row[OURS]["median"] for row in own], label=f"mlpcli, {words}", **look)
            above.plot(
                x,
                [row[FLOOR]["median"] for row in own],
                label=f"matrix products, {words}",
                linestyle="--",
                markerfacecolor="white",
                **look,
            )
            below.plot(x, [row["share"]["median"] for row in own], **look)
        above.set_yscale("log")
        above.set_title(titles[axis], fontsize=10)
        below.set_xlabel(labels[axis])
        below.set_ylim(bottom=0)
        below.axhline(1.0, color="0.4", linewidth=0.8)
        if axis != "depth":
            below.set_xscale("log", base=2)
            below.set_xticks([row["value"] for row in summary if row["axis"] == axis])
            below.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
            below.tick_params(axis="x", labelrotation=45)
        for panel in (above, below):
            panel.grid(alpha=0.3)
    grid[0][0].set_ylabel("training examples per second")
    grid[1][0].set_ylabel("fraction of the matrix products' speed")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
