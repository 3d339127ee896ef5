"""``mlpcli predict``: classify your own pictures."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlpcli.commands import EXIT_STATUS, output
from mlpcli.commands.drawing import abreast, drawing, terminal_width
from mlpcli.commands.options import shifts_option, threads_option
from mlpcli.errors import DataError, UsageError, shown

if TYPE_CHECKING:
    from mlpcli.analysis.predict import Answer, Model
    from mlpcli.datasets.images import Images

STDIN = "-"


@click.command()
@click.argument("run", metavar="RUN|CHECKPOINT")
@click.argument("files", metavar="IMAGE...", nargs=-1, required=True)
@click.option(
    "--raw",
    is_flag=True,
    help="Do not invert, crop, scale or centre pictures: they must have bright strokes on a dark background "
    "and the network's image size.",
)
@click.option(
    "--ensemble",
    "others",
    metavar="RUN",
    multiple=True,
    help="Average the probabilities with those of RUN, another run or checkpoint. Repeatable.",
)
@shifts_option
@click.option("--many", is_flag=True, help="Read the row of digits in each picture as one number.")
@click.option("--show", is_flag=True, help="Draw the network's input.")
@click.option(
    "-o",
    "--output",
    "table",
    metavar="FILE.csv",
    help="Write one row per image to FILE.csv; an existing file is replaced.",
)
@click.option(
    "--columns",
    metavar="NAME,NAME",
    help="Write only two columns, the image's number (from 1) and its class, with these names as headings. Kaggle asks "
    "for ImageId,Label.",
)
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with every probability in full.")
def command(
    run: str,
    files: tuple[str, ...],
    raw: bool,
    others: tuple[str, ...],
    shifts: int,
    many: bool,
    show: bool,
    table: str | None,
    columns: str | None,
    as_json: bool,
) -> int | None:
    """Classify your own images.

    IMAGE is a picture or a photograph of one digit, of any size and colour, dark on light or light on dark. Its format
    is PNG, JPEG or any other that Pillow reads (pip install 'mlpcli[images]'). The digit is found, cropped, scaled and
    centred as MNIST's digits are; --many finds a row of digits. IMAGE may also be a file with many images: an IDX file
    (plain or gzipped), a CSV table or an .npz file. These images are taken as they are, apart from data.transpose of
    the run's config, and need no Pillow. A folder means all pictures in it and below it. To read standard input, give
    a hyphen.

    Each line of the output has the three most probable classes and the entropy of all probabilities, which is 0 bits if
    one class has probability 1, and 3.32 bits if ten classes are equally probable. For a multi-label network, each
    line has the classes with p above 1/2, the probability that exactly these are the labels, and the three largest p.
    If a file cannot be read, it is reported on stderr, the other files are classified, and the exit status is 3;
    with --columns nothing is written, as the numbers of the images after it would be wrong.

    \b
    Examples:
      mlpcli predict runs/mnist-... three.png
      mlpcli predict runs/mnist-... *.jpg --show
      mlpcli predict runs/mnist-... number.jpg --many
      mlpcli predict runs/mnist-... data/mnist/t10k-images-idx3-ubyte --json
      mlpcli predict runs/mnist-... scans/ -o answers.csv
      mlpcli predict runs/mnist-... test.csv -o submission.csv --columns ImageId,Label
      mlpcli predict runs/mnist-... - <three.png
      mlpcli predict runs/seed-0 three.png --ensemble runs/seed-1 --average-shifts 4
    """
    if show and as_json:
        raise UsageError("--show draws on the screen; leave out --show or --json")
    if show and table is not None:
        raise UsageError("--show draws on the screen, and -o writes the answers to a file; leave one of them out")
    if raw and many:
        raise UsageError("--raw takes a picture as one image; leave out --raw or --many")

    if columns is not None and (table is None or len(columns.split(",")) != 2):
        raise UsageError("--columns names the two columns of the file that -o writes, such as ImageId,Label")

    walked = _walked(files)
    if table is not None:
        output.check_file(Path(table), run, *others, *(file for file in walked if file != STDIN))

    from mlpcli.analysis.predict import answers, load
    from mlpcli.analysis.predictions import table_of

    model = load(run, *others, average_shifts=shifts)
    if many and model.multi_label:
        raise UsageError(f"--many reads a class for each digit, and several labels may be right with {model.path}")
    answered: list[Answer] = []
    numbers, failed = [], []
    for file in walked:
        try:
            images = _images(file, model, raw, many)
        except DataError as error:
            if columns is not None:  # the numbers of the images after it would be wrong
                raise
            output.say(f"mlpcli: {error}")
            failed.append({"image": click.format_filename(file), "reason": str(error)})
            continue
        found = list(answers(model, images))
        _warn(images, found)
        if as_json or table is not None:
            answered += found
            numbers.append({"image": images.name, "number": _number(model, found)})
        elif many:
            _print_number(model, images.name, found, show)
        else:
            _print(model, found, show)
    if table is not None:
        output.write_file(Path(table), table_of(model, answered, columns))
        output.say(f"{shown(table)}: {len(answered):,} images")
    if as_json:
        output.result_json({**_document(model, answered, failed), **({"numbers": numbers} if many else {})})
    return EXIT_STATUS[DataError] if failed else None


def _walked(files: Sequence[str]) -> list[str]:
    """Return ``files``, with each folder replaced by the pictures in it and below it, in order."""
    from mlpcli.datasets.pictures import pictures_below

    found: list[str] = []
    for file in files:
        if file == STDIN or not Path(file).is_dir():
            found.append(file)
            continue
        found += [str(path) for path in pictures_below(Path(file))] or [file]  # the reader refuses an empty folder
    return found


def _images(file: str, model: Model, raw: bool, many: bool) -> Images:
    from mlpcli.analysis.predictions import images_of
    from mlpcli.datasets import images

    transpose = model.config.data.transpose
    if file != STDIN:
        name = click.format_filename(file)
        found = images_of(
            Path(file), shown(name), model.image_shape, raw=raw, many=many, transpose=transpose, say=output.say
        )
        found = replace(found, name=name)
    else:
        try:
            data = sys.stdin.buffer.read(images.MAX_BYTES + 1)
        except (OSError, AttributeError) as error:  # AttributeError without standard input: '<&-'
            raise DataError(f"stdin: cannot be read: {getattr(error, 'strerror', None) or 'it is closed'}") from error
        found = images.from_bytes(data, "stdin", model.image_shape, raw=raw, many=many, transpose=transpose)
    if many and found.numbered:
        raise DataError(f"{shown(found.name)}: is no picture, and each of its images is one digit; leave out --many")
    return found


def _warn(images: Images, answers: Sequence[Answer]) -> None:
    """Print the warnings, one per line; for several images one line per kind, with their number."""
    for warning, count in Counter(warning for answer in answers for warning in answer.warnings).items():
        few = len(answers) > 1 and (images.numbered or count < len(answers))
        of = f"{count:,} of {len(answers):,} {'images' if images.numbered else 'digits'}: " if few else ""
        output.say(f"{shown(images.name)}: {of}{warning}")


def _document(model: Model, answers: Sequence[Answer], failed: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "checkpoint": click.format_filename(model.path),
        "ensemble": [click.format_filename(path) for path in model.paths],
        "average_shifts": model.average_shifts,
        "objective": model.config.network.objective,
        "class_names": list(model.class_names),
        "images": [
            {
                "image": answer.name,
                "index": answer.index,
                "predicted": answer.predicted,
                "confidence": None if answer.predicted is None else answer.confidence,
                "entropy": answer.entropy,
                "p": answer.p.tolist(),
                "top": [{"class": k, "p": p} for k, p in answer.top()],
                "warnings": list(answer.warnings),
            }
            for answer in answers
        ],
        "failed": failed,
    }


def _number(model: Model, answers: Sequence[Answer]) -> str:
    """Return the names of the predicted classes in a row, with blanks between them unless each is one character."""
    between = "" if all(len(name) == 1 for name in model.class_names) else " "
    return between.join(answer.words(model.class_names) for answer in answers if answer.predicted is not None)


def _print_number(model: Model, name: str, answers: Sequence[Answer], show: bool) -> None:
    """Print the digits of one picture as a number, each with its probability or score."""
    name = shown(name)
    number = _number(model, answers)
    each = [f"{answer.words(model.class_names)} {_value(model, answer.top(1)[0][1])}" for answer in answers]
    output.result(f"{name}: {number}  ({', '.join(each)})" if number else f"{name}: no digit")
    if show:
        wide = answers[0].pixels.shape[1]
        columns = max(1, terminal_width() // (wide + 2))
        pictures = [drawing(answer.pixels, terminal_width() - 2) for answer in answers]
        for line in abreast(pictures, columns):
            output.result(f"  {line}".rstrip())


def _value(model: Model, p: float) -> str:
    from mlpcli.model.objectives import OBJECTIVES

    return f"{100 * p:.2f} %" if OBJECTIVES[model.config.network.objective].probabilities else f"score {p:.4g}"


def _print(model: Model, answers: Sequence[Answer], show: bool) -> None:
    for answer in answers:
        name = shown(answer.name) if answer.index is None else f"{shown(answer.name)}[{answer.index}]"
        if answer.predicted is None:
            output.result(f"{name}: no digit")
        else:
            (_, highest), *others = answer.top()
            if model.multi_label:
                highest, others = answer.confidence, answer.top()
            rest = [f"{model.class_names[k]} {_value(model, p)}" for k, p in others]
            bits = [] if answer.entropy is None else [f"entropy {answer.entropy:.2f} bits"]
            what = answer.words(model.class_names)
            output.result(f"{name}: {what}  {_value(model, highest)}  ({'; '.join([', '.join(rest), *bits])})")
        if show:
            for line in drawing(answer.pixels, terminal_width() - 2):
                output.result(f"  {line}".rstrip())
