"""``mlpcli plot``: draw runs as a picture, for a page or a slide."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlpcli.commands import output
from mlpcli.commands.options import data_options, is_typed, threads_option
from mlpcli.errors import RunError, UsageError, shown

if TYPE_CHECKING:
    from mlpcli.analysis.evaluation import LoadedModel
    from mlpcli.analysis.plots import Draw, History
    from mlpcli.datasets.load import SplitName

KINDS = ("curves", "layers", "confusion", "mistakes", "weights")
# Options that only some kinds use.
NEEDED_BY = {
    **dict.fromkeys(("split", "dataset", "folder", "sources", "offline"), ("confusion", "mistakes")),
    "images": ("mistakes", "weights"),
}
IMAGES = {"mistakes": 24, "weights": 100}


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    "file",
    metavar="FILE.png|svg",
    required=True,
    help="The file to write; an existing file is replaced.",
)
@click.option("--kind", type=click.Choice(KINDS), default="curves", show_default=True, help="What to draw.")
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    help="The images for confusion and mistakes. [default: validation, or train if no images were held out]",
)
@data_options
@click.option(
    "--images",
    metavar="N",
    type=click.IntRange(1, 1000),
    help="Draw N images at most. [default: 24 mistakes, or the weights of 100 units]",
)
@threads_option
def command(
    runs: tuple[str, ...],
    file: str,
    kind: str,
    split: SplitName | None,
    dataset: str | None,
    folder: str | None,
    sources: tuple[str, ...],
    offline: bool,
    images: int | None,
) -> None:
    """Draw the learning curves of runs, or the confusion matrix, mistakes or weights of one run.

    \b
      curves     loss and error by epoch, of up to 40 runs
      layers     gradient norms and saturation of sigmoids by epoch, of up to 8 runs
      confusion  the confusion matrix
      mistakes   the most confidently wrong images
      weights    the weights into each unit of the first layer

    For the last three kinds, the run's best checkpoint is used, or its last one if there is no best; you can also give
    a checkpoint file. confusion and mistakes evaluate the network, and the evaluation is recorded in the run's
    evaluations.jsonl, as by mlpcli eval. Plots need matplotlib: pip install 'mlpcli[plots]'.

    \b
    Examples:
      mlpcli plot runs/mnist-... -o curves.png
      mlpcli plot runs/small runs/large -o both.svg
      mlpcli plot runs/mnist-... --kind confusion --split test -o confusion.png
      mlpcli plot runs/mnist-... --kind weights --images 25 -o weights.png
    """
    path = Path(file)
    form = picture_format(path)
    _refuse_unused_options(kind)
    if len(runs) > 1 and kind not in ("curves", "layers"):
        raise UsageError(f"--kind {kind} draws one run, and {len(runs)} are named; curves and layers draw several")

    from functools import partial

    from mlpcli.analysis import plots

    plots.require_matplotlib()
    output.check_file(path, *runs)
    count = images or IMAGES.get(kind, 0)
    draw: Draw
    if kind in ("curves", "layers"):
        histories = _histories(runs, plots.MAX_RUNS if kind == "curves" else plots.MAX_RUNS_WITH_LAYERS)
        title = ", ".join(plots.shown(history.name) for history in histories)
        draw = partial(plots.draw_curves if kind == "curves" else plots.draw_layers, runs=histories)
    elif kind == "weights":
        from mlpcli.analysis.evaluation import open_model

        model = open_model(Path(runs[0]))
        units = model.checkpoint.parameters.W[0].shape[1]
        what = "units of the first layer" if model.checkpoint.config.network.hidden else "classes"
        first = f"the first {count} of {units}" if count < units else f"the {units}"
        title = f"{_name(model)}\nweights into {first} {what}"
        draw = partial(plots.draw_weights, checkpoint=model.checkpoint, title=title, most=count)
    else:
        from mlpcli.analysis.evaluate_runs import evaluate_runs
        from mlpcli.analysis.evaluation import data_for, evaluate, open_model
        from mlpcli.commands.progress import download_progress

        data = data_for(open_model(Path(runs[0])).checkpoint, dataset=dataset, folder=folder)
        output.check_file(path, data=data)
        where: dict[str, Any] = {"dataset": dataset, "folder": folder, "sources": sources, "offline": offline}
        found = evaluate_runs([Path(runs[0])], split, **where, say=output.say, progress=download_progress())
        part = found.part
        result = evaluate(found.ensemble, part.split.labels, count)
        wrong = (
            f"{result.error:.2%} error, {result.errors:,} of {result.examples:,} {found.split} images of {part.name}"
        )
        title = f"{_name(found.models[0])}\n{wrong}"
        if result.confusion is None:
            raise UsageError(f"{kind}: {part.name} has several labels per image, for which there is no confusion")
        if kind == "confusion":
            draw = partial(plots.draw_confusion, result=result, title=title, class_names=part.class_names)
        else:
            pixels = part.split.images.reshape(-1, *part.image_shape)
            draw = partial(plots.draw_mistakes, result=result, images=pixels, title=title, class_names=part.class_names)
    output.write_file(path, plots.render(draw, form, f"{kind}: {title}"))
    output.result(shown(path))


def picture_format(path: Path) -> str:
    """Return the format given by the suffix of ``path``."""
    from mlpcli.analysis.plots import FORMATS

    form = path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise UsageError(f"-o {shown(path)}: name it {' or '.join(f'.{each}' for each in FORMATS)}")
    return form


def _refuse_unused_options(kind: str) -> None:
    """Raise ``UsageError`` for a given option that ``kind`` would ignore."""
    for option in click.get_current_context().command.params:
        kinds = NEEDED_BY.get(option.name or "", KINDS)
        if is_typed(option.name) and kind not in kinds:
            raise UsageError(f"{option.opts[0]} does not apply to --kind {kind}, only to {' and '.join(kinds)}")


def _histories(runs: Sequence[str], max_runs: int) -> list[History]:
    """Return the epochs of ``runs``, except runs without any, which are named.

    Raises ``RunError`` if none remains, ``UsageError`` if there are more than ``max_runs``.
    """
    from mlpcli.analysis import plots
    from mlpcli.runs.summary import read_run, run_at

    paths = [run_at(Path(run)) for run in runs]
    names = [path.resolve().name for path in paths]
    histories = []
    for path, name in zip(paths, names, strict=True):
        run = read_run(path)
        if not run.metrics.records:
            output.say(f"{shown(path)}: has no epoch to draw yet")
            continue
        label = name if names.count(name) == 1 else str(path)
        if run.summary.state != "finished":
            label += f" ({run.summary.state}, {run.metrics.epochs} of {run.summary.max_epochs} epochs)"
        histories.append(plots.History(label, run.config.network.objective, run.metrics.records))
    if not histories:
        raise RunError(f"{' '.join(map(shown, paths))}: nothing to draw: no epoch was completed")
    if len(histories) > max_runs:
        raise UsageError(f"{len(histories)} runs do not fit one picture; at most {max_runs} do")
    return histories


def _name(model: LoadedModel) -> str:
    """Return the name of the run and the checkpoint, or of the file of a checkpoint outside a run."""
    from mlpcli.analysis.plots import shown

    epoch = f"epoch {model.checkpoint.epoch}"
    if model.run is None:
        return f"{shown(model.path.name)}, {epoch}"
    return f"{shown(model.run.resolve().name)}, {model.path.stem} checkpoint, {epoch}"
