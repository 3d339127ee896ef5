"""``mlpcli report``: write a page for the browser of a run, with a board to draw on, or of several runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlpcli.commands import output
from mlpcli.commands.options import data_options, threads_option
from mlpcli.errors import DataError, UsageError, shown

if TYPE_CHECKING:
    from mlpcli.datasets.load import SplitName

NOT_HAD = "The images were not available when this page was made."
NOT_WANTED = "This page was made without images."


@click.command()
@click.argument("runs", metavar="RUN|CHECKPOINT|FOLDER...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    "file",
    metavar="FILE.html",
    default="report.html",
    show_default=True,
    help="The file to write; an existing file is replaced.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    help="The images to use. [default: validation, or train if no images were held out]",
)
@data_options
@click.option("--no-images", is_flag=True, help="Use no images: no confusion matrix and no mistakes.")
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    runs: tuple[str, ...],
    file: str,
    split: SplitName | None,
    dataset: str | None,
    folder: str | None,
    sources: tuple[str, ...],
    offline: bool,
    no_images: bool,
    as_json: bool,
) -> None:
    """Make a web page about one run or several.

    The page about one run has its curves, weights and mistakes, and a board to draw on. RUN means the run's best
    checkpoint, or its last one if there is no best. The page is one file that works offline: it contains the weights,
    and the run's network classifies a drawing on the board while you draw. Like mlpcli eval, report evaluates the
    network (on the validation images, unless --split says otherwise) and records the result in the run's
    evaluations.jsonl. If the images are not available, the page is made without them; but if --split, --data or
    --source was given, the command fails.

    For several runs, or for all runs in a FOLDER such as a sweep's, the page shows all curves in one chart, a sortable
    table, and the error against each config key in which the runs differ. No images are used.

    \b
    Examples:
      mlpcli report runs/mnist-...                          report.html, with the validation images
      mlpcli report runs/mnist-... -o digits.html --split test
      mlpcli report runs/mnist-... --no-images              without images
      mlpcli report runs/small runs/large                   side by side
      mlpcli report runs/rates -o rates.html                all runs of a sweep
    """
    from mlpcli.runs import directory

    asked = {"--split": split, "--data": dataset, "--source": sources}
    if no_images and (given := [name for name, value in asked.items() if value]):
        raise UsageError(f"{given[0]} selects images, and --no-images uses none; leave one of them out")
    output.check_file(Path(file), *runs, *([dataset] if dataset else []))
    first = Path(runs[0])
    if len(runs) > 1 or (directory.is_folder(first) and not directory.is_run(first)):
        if given := [name for name, value in asked.items() if value]:
            raise UsageError(f"{given[0]} does not apply to several runs: no images are used")
        _side_by_side([Path(run) for run in runs], Path(file), as_json)
        return

    from mlpcli.analysis.evaluate_runs import evaluate_runs
    from mlpcli.analysis.evaluation import open_model
    from mlpcli.analysis.report.contents import contents
    from mlpcli.analysis.report.page import page
    from mlpcli.commands.progress import download_progress

    found, why = None, NOT_WANTED
    if not no_images:
        try:
            found = evaluate_runs(
                [first],
                split,
                dataset=dataset,
                folder=folder,
                sources=sources,
                offline=offline,
                say=output.say,
                progress=download_progress(),
            )
        except DataError as error:
            if any(asked.values()):
                raise
            output.say(f"{error}\nthe page is made without images")
            why = NOT_HAD
    made = contents(found.models[0] if found else open_model(first), found, why)
    data = page(made)
    output.write_file(Path(file), data)
    if as_json:
        document = {"path": click.format_filename(file), "bytes": len(data), "images": made.pictures}
        output.result_json({**document, "split": found.split if found else None, "board": made.weights is not None})
        return
    output.result(f"{shown(file)}: {len(data) / 1e6:.1f} MB, {made.pictures} images; open it in a browser")


def _side_by_side(paths: list[Path], file: Path, as_json: bool) -> None:
    from mlpcli.analysis.report.page import runs_page
    from mlpcli.analysis.report.side_by_side import side_by_side, title_of
    from mlpcli.runs import ranking

    found = ranking.collect(paths)
    document = side_by_side(found, title_of(paths))
    for run in found:
        if run.summary.problem:
            output.say(f"mlpcli: {run.summary.problem}")
    data = runs_page(document)
    output.write_file(file, data)
    if as_json:
        output.result_json({"path": click.format_filename(file), "bytes": len(data), "runs": len(document["runs"])})
        return
    number = len(document["runs"])
    some = f"{number} runs" if number == len(found) else f"the best {number} of {len(found)} runs"
    output.result(f"{shown(str(file))}: {len(data) / 1e6:.1f} MB, {some} side by side; open it in a browser")
