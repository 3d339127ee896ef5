"""``mlpcli report``: a run as one page for the browser, with a board to draw on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlpcli.commands import output
from mlpcli.commands.options import data_options, threads_option
from mlpcli.errors import DataError, UsageError, shown

if TYPE_CHECKING:
    from mlpcli.datasets.load import SplitName

NOT_HAD = "The images could not be had where this page was made."
NOT_WANTED = "This page was made without images."


@click.command()
@click.argument("run", metavar="RUN|CHECKPOINT")
@click.option(
    "-o",
    "--output",
    "file",
    metavar="FILE.html",
    default="report.html",
    show_default=True,
    help="Where to write it; an existing file is replaced.",
)
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    help="Which images. [default: validation, or train where none were held out]",
)
@data_options
@click.option("--no-images", is_flag=True, help="Look at no images: no confusion matrix, no mistakes, a smaller page.")
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    run: str,
    file: str,
    split: SplitName | None,
    dataset: str | None,
    folder: str | None,
    sources: tuple[str, ...],
    offline: bool,
    no_images: bool,
    as_json: bool,
) -> None:
    """Make a page of a run: its curves, weights and mistakes, and a board to draw on.

    RUN means its best checkpoint if there is one, else its last. The page is one file that works without a network: it
    holds the weights, and what is drawn on the board goes through the run's own network as the pen moves. The look at
    the images is recorded in the run's evaluations.jsonl, as mlpcli eval does it. Where the images are not to be had
    and none were asked for by name, the page is made without.

    \b
    Examples:
      mlpcli report runs/mnist-...                          report.html, with the validation images
      mlpcli report runs/mnist-... -o digits.html --split test
      mlpcli report runs/mnist-... --no-images              of the run itself alone
    """
    asked = {"--split": split, "--data": dataset, "--source": sources}
    if no_images and (given := [name for name, value in asked.items() if value]):
        raise UsageError(f"{given[0]} says which images to look at, and --no-images to look at none")

    from mlpcli.analysis.evaluation import open_member
    from mlpcli.analysis.look import look
    from mlpcli.analysis.report.contents import contents
    from mlpcli.analysis.report.page import page
    from mlpcli.commands.progress import download_progress

    path, found, why = Path(run), None, NOT_WANTED
    if not no_images:
        try:
            found = look(
                [path],
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
    made = contents(found.members[0] if found else open_member(path), found, why)
    data = page(made)
    output.write_file(Path(file), data)
    if as_json:
        document = {"path": click.format_filename(file), "bytes": len(data), "images": made.pictures}
        output.result_json({**document, "split": found.split if found else None, "board": made.weights is not None})
        return
    output.result(f"{shown(file)}: {len(data) / 1e6:.1f} MB, {made.pictures} images; open it in a browser")
