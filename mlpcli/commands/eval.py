"""``mlpcli eval``: evaluate trained networks, individually and as an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlpcli.commands import output
from mlpcli.commands.drawing import abreast, shades, terminal_width
from mlpcli.commands.options import data_options, shifts_option, threads_option
from mlpcli.errors import UsageError, shown

if TYPE_CHECKING:
    from mlpcli.analysis.evaluate_runs import EvaluatedRuns
    from mlpcli.analysis.evaluation import Evaluation
    from mlpcli.datasets.load import Part, SplitName


@click.command()
@click.argument("paths", metavar="RUN|CHECKPOINT...", nargs=-1, required=True)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    default="test",
    show_default=True,
    help="The images to evaluate on. The run's config determines the validation images.",
)
@data_options
@click.option(
    "--worst",
    metavar="N",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="List the N most confidently wrong images.",
)
@click.option("--show", is_flag=True, help="Draw the images that --worst lists.")
@shifts_option
@click.option(
    "--predictions",
    metavar="FILE.csv",
    help="Write one row per image to FILE.csv, with the columns image, label, predicted, confidence, p_0 ...; an "
    "existing file is replaced.",
)
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    paths: tuple[str, ...],
    split: SplitName,
    dataset: str | None,
    folder: str | None,
    sources: tuple[str, ...],
    offline: bool,
    worst: int,
    show: bool,
    shifts: int,
    predictions: str | None,
    as_json: bool,
) -> None:
    """Evaluate trained networks on the test images.

    RUN means the run's best checkpoint, or its last one if there is no best. Several networks are evaluated
    individually and as an ensemble, which averages their probabilities. Each evaluation is recorded in the run's
    evaluations.jsonl.

    \b
    Examples:
      mlpcli eval runs/mnist-...                        error, loss, confusion, calibration
      mlpcli eval runs/mnist-... --worst 10 --show      the ten worst mistakes too, drawn
      mlpcli eval runs/mnist-.../checkpoints/last.npz   another checkpoint of a run
      mlpcli eval runs/seed-0 runs/seed-1 runs/seed-2   an ensemble
      mlpcli eval runs/mnist-... --split validation     the images held out from training
      mlpcli eval runs/mnist-... --data ./my-digits     other images of the same size
      mlpcli eval runs/mnist-... --average-shifts 8     each image and its shifts, averaged
      mlpcli eval runs/mnist-... --predictions p.csv --json
    """
    if show and as_json:
        raise UsageError("--show draws on the screen; leave out --show or --json")
    if show and not worst:
        raise UsageError("--show draws the images that --worst lists, and --worst 0 lists none")

    from mlpcli.analysis.evaluate_runs import evaluate_runs
    from mlpcli.analysis.evaluation import data_for, evaluate, open_model
    from mlpcli.analysis.predictions import labelled_table
    from mlpcli.commands.progress import download_progress

    if predictions is not None:
        data = data_for(open_model(Path(paths[0])).checkpoint, dataset=dataset, folder=folder)
        output.check_file(Path(predictions), *paths, data=data)
    found = evaluate_runs(
        [Path(path) for path in paths],
        split,
        dataset=dataset,
        folder=folder,
        sources=sources,
        offline=offline,
        shifts=shifts,
        say=output.say,
        progress=download_progress(),
    )
    labels = found.part.split.labels
    result = evaluate(found.ensemble, labels, worst)
    if predictions is not None:
        table = labelled_table(found.ensemble, labels, found.part.class_names)
        output.write_file(Path(predictions), table)
    if as_json:
        output.result_json(_document(found, result, dataset))
    else:
        _print(found, result, dataset)
        if show:
            _draw(result, found.part)


def _document(evaluated: EvaluatedRuns, result: Evaluation, dataset: str | None) -> dict[str, Any]:
    """Return the document for --json: the result of the checkpoint or the ensemble, then each checkpoint in brief."""
    return {
        "dataset": evaluated.part.name,
        "fallback_from": _fallback_from(evaluated, dataset),
        "split": evaluated.split,
        "class_names": list(evaluated.part.class_names),
        "ensemble": len(evaluated.models) > 1,
        "average_shifts": evaluated.shifts,
        **result.to_dict(),
        "checkpoints": [
            {
                "path": click.format_filename(model.path),
                "trained_on": model.checkpoint.dataset,
                "epoch": model.checkpoint.epoch,
                "hidden": list(model.checkpoint.config.network.hidden),
                "objective": model.checkpoint.config.network.objective,
                "errors": own.errors,
                "error": own.error,
                "interval": own.to_dict()["interval"],
                "loss": own.loss,
                "expected_calibration_error": _ece(own),
            }
            for model, own in zip(evaluated.models, evaluated.individual, strict=True)
        ],
    }


def _print(evaluated: EvaluatedRuns, result: Evaluation, dataset: str | None) -> None:
    models, part = evaluated.models, evaluated.part
    names = part.class_names
    for model in models:
        network = model.checkpoint.config.network
        sizes = "-".join(map(str, model.checkpoint.parameters.sizes))
        epoch = f"epoch {model.checkpoint.epoch}"
        output.result(f"{shown(model.path)}: {sizes}, {network.objective}, {epoch}")
    output.result(f"{shown(part.name)}, {evaluated.split}: {result.examples:,} images")
    if evaluated.shifts:
        output.result(
            f"test-time augmentation: the probabilities are means over each image and its {evaluated.shifts} shifts by "
            "one pixel (--average-shifts)"
        )
    if wanted := _fallback_from(evaluated, dataset):
        output.result(f"trained on {shown(part.name)}, as {wanted} was not available: these are not {wanted} results")

    named = [(shown(model.path), own) for model, own in zip(models, evaluated.individual, strict=True)]
    several = result.multi_label
    rows = [["exact match" if several else "error", "95 % interval", "errors", "loss", "calibration error"]]
    if len(models) > 1:
        named.append(("ensemble", result))
        width = max(len(name) for name, _ in named)
        rows[0].insert(0, " " * width)
    for name, own in named:
        low, high = own.interval.low, own.interval.high
        if several:
            low, high = 1 - high, 1 - low
        interval = f"{100 * low:.2f} - {100 * high:.2f} %"
        loss = "-" if own.loss is None else f"{own.loss:.4f}"
        row = [
            _percent(1 - own.error if several else own.error),
            interval,
            f"{own.errors:,}",
            loss,
            _percent(_ece(own)),
        ]
        rows.append([f"{name:<{width}}", *row] if len(models) > 1 else row)
    _table(rows)
    confidence = "the network's output for the predicted class"
    if several:
        confidence = "the product of p or 1 - p of all labels"
        output.result("(an image whose labels are not all right is an error)")
    if result.calibration is None:
        output.result(f"(Wilson's interval; no calibration, as no output is a probability: {confidence} is a score)")
    else:
        output.result(
            f"(Wilson's interval; expected calibration error over 15 bins of the confidence, which is {confidence})"
        )

    wrong = [[_percent(share)] for share in several.label_errors] if several else [[] for _ in result.per_class]
    _table(
        [["class", "images", "precision", "recall", "F1", *(["label error"] if several else [])]]
        + [
            [names[c.label], f"{c.examples:,}", _percent(c.precision), _percent(c.recall), _percent(c.f1), *more]
            for c, more in zip(result.per_class, wrong, strict=True)
        ]
    )
    if several:
        _table(
            [
                ["label error", "micro F1", "macro F1"],
                [_percent(several.label_error), _percent(several.micro_f1), _percent(several.macro_f1)],
            ],
            "All labels",
        )
    if result.confusion is not None:
        _table(
            [["", *names]]
            + [[names[k], *(str(n or ".") for n in row)] for k, row in enumerate(result.confusion.tolist())],
            "Confusion: a row per label, a column per prediction",
        )
    if result.worst:
        _table(
            [["index", "label", "predicted", "confidence"]]
            + [
                [str(m.index), _words(m.label, names), _words(m.predicted, names), _confidence(m.confidence, result)]
                for m in result.worst
            ],
            f"Most confidently wrong, of {result.errors:,}",
        )


def _draw(result: Evaluation, part: Part) -> None:
    """Draw the images of the mistakes, as many side by side as fit the terminal."""
    width = terminal_width()
    pictures = []
    for m in result.worst:
        rows = shades(part.split.images[m.index].reshape(part.image_shape), width)
        names = part.class_names
        caption = f"{m.index}: {_words(m.label, names)} predicted as {_words(m.predicted, names)}"
        pictures.append([caption, *rows])
    if pictures:
        wide = max(len(line) for picture in pictures for line in picture)
        for line in abreast(pictures, max(1, (width + 2) // (wide + 2))):
            output.result(line)


def _words(label: int | list[int], names: Sequence[str]) -> str:
    classes = label if isinstance(label, list) else [label]
    return ", ".join(names[k] for k in classes) or "none"


def _table(rows: list[list[str]], title: str = "") -> None:
    """Print ``rows``, the first one as heads, right-aligned, below an empty line and a ``title``."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    output.result(f"\n{title}" if title else "")
    for row in rows:
        output.result("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))


def _fallback_from(evaluated: EvaluatedRuns, dataset: str | None) -> str | None:
    from mlpcli.analysis.evaluation import fallback_from

    return fallback_from(evaluated.models[0].checkpoint) if dataset is None else None


def _ece(result: Evaluation) -> float | None:
    return None if result.calibration is None else result.calibration.expected_calibration_error


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _confidence(confidence: float, result: Evaluation) -> str:
    """Format a probability in per cent, any other score as a number."""
    return f"{confidence:.4g}" if result.calibration is None else _percent(confidence)
