"""``mlpcli data``: list, fetch, import, check and show data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlpcli.commands import EXIT_CHECK_FAILED, output
from mlpcli.commands.drawing import abreast, drawing, terminal_width
from mlpcli.commands.group import Group
from mlpcli.commands.options import data_overrides, is_typed, refuse_others, set_option, source_option, threads_option
from mlpcli.errors import UsageError, shown

if TYPE_CHECKING:
    from mlpcli.analysis.sheet import Sheet
    from mlpcli.config import Config

# Keys of data without effect on an import, which converts all images of its source.
WITHOUT_EFFECT_ON_IMPORT = ("dataset", "fallback", "validation", "validation_order", "preprocessing", "test")

_folder = click.option(
    "--folder",
    metavar="DIR",
    default="data",
    envvar="MLPCLI_DATA",
    show_default=True,
    show_envvar=True,
    help="The folder of downloaded files, with one folder per data set.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(cls=Group)
def command() -> None:
    """List, fetch, import and verify data sets, and show images as the network receives them in training.

    \b
    Examples:
      mlpcli data list
      mlpcli data fetch mnist
      mlpcli data verify mnist
      mlpcli data import train.csv -o digits
      mlpcli data show digits
      mlpcli data show --set augmentation.rotation=10
    """


@command.command("list")
@_folder
@_json
def list_(folder: str, as_json: bool) -> None:
    """List the known data sets with their folders, sources and credits.

    \b
    Examples:
      mlpcli data list
      mlpcli data list --json
    """
    from mlpcli.datasets.catalogue import CATALOGUE

    if as_json:
        output.result_json(
            [
                {
                    "name": entry.name,
                    "title": entry.title,
                    "classes": entry.classes,
                    "bytes": entry.size,
                    "here": _is_here(entry.name, folder),
                    "bundled": entry.bundled,
                    "sources": list(entry.sources),
                    "credit": entry.credit,
                    "sha256": {file.name: file.sha256 for file in entry.files.values()},
                }
                for entry in CATALOGUE.values()
            ]
        )
        return
    width = max(map(len, CATALOGUE))
    for entry in CATALOGUE.values():
        if entry.bundled:
            place = "comes with mlpcli"
        elif _is_here(entry.name, folder):
            place = f"in {Path(folder) / entry.name}"
        else:
            place = f"not fetched yet: mlpcli data fetch {entry.name}"
        lines = [entry.title, f"{entry.size / 1e6:.1f} MB, {place}", entry.credit]
        lines += [f"from {source}" for source in entry.sources]
        for name, line in zip([entry.name] + [""] * len(lines), lines, strict=False):
            output.result(f"{name:<{width}}  {line}")


@command.command()
@click.argument("name")
@_folder
@source_option
@click.option(
    "--offline", is_flag=True, help="Fetch nothing; only check that all files are there and pass verification."
)
@_json
def fetch(name: str, folder: str, sources: tuple[str, ...], offline: bool, as_json: bool) -> None:
    """Fetch the files of the data set NAME.

    Files that are already there and pass verification are not fetched. The sources are tried in turn until one delivers
    files with the right SHA-256.

    \b
    Examples:
      mlpcli data fetch mnist
      mlpcli data fetch mnist --source https://example.org/mnist/
      mlpcli data fetch mnist --source ~/Downloads
      mlpcli data fetch fashion-mnist --folder /srv/data
    """
    from mlpcli.commands.progress import download_progress
    from mlpcli.datasets.catalogue import ROLES
    from mlpcli.datasets.download import Downloader
    from mlpcli.datasets.load import locate

    if offline and sources:
        raise UsageError("--offline fetches nothing: leave out --source")
    entry, place = locate(name, folder)
    if entry is None:
        raise UsageError(f"{name}: needs no download; mlpcli data verify {name} checks it")
    fetched: list[str] = []
    if not entry.bundled:
        fetched = Downloader(
            entry,
            place,
            sources=sources or None,
            offline=offline,
            say=output.say,
            progress=download_progress(),
        ).fetch(ROLES)
    if as_json:
        output.result_json({"name": entry.name, "folder": str(place), "fetched": fetched})
    elif entry.bundled:
        output.result(f"{entry.name}: comes with mlpcli, nothing to fetch")
    else:
        done = f"fetched {len(fetched)} of its {len(ROLES)} files" if fetched else "nothing to fetch"
        output.result(f"{entry.name}: complete and verified in {place}; {done}")


@command.command()
@click.argument("name", metavar="NAME|SOURCE")
@_folder
@_json
def verify(name: str, folder: str, as_json: bool) -> int:
    """Check that the files of a data set are there and undamaged.

    The files of the data set NAME must have the right SHA-256. SOURCE is a file or a folder: its format must be known,
    and its parts must fit together. docs/data.md describes the formats. The exit status is 1 if a file is missing or
    damaged. The command also prints remarks: reasons why training may fail, or why the measured error may be
    misleading. They do not change the exit status.

    \b
    Examples:
      mlpcli data verify mnist
      mlpcli data verify ./my-letters
      mlpcli data verify train.csv
      mlpcli data verify mnist --json
    """
    from dataclasses import asdict

    from mlpcli.datasets.check import check

    report = check(name, folder)
    if as_json:
        output.result_json(
            {
                "name": report.name,
                "folder": str(report.folder),
                "ok": report.ok,
                "files": [
                    {"name": file.name, "path": str(file.path), "state": file.state, "detail": file.detail or None}
                    for file in report.files
                ],
                "mismatch": report.mismatch,
                "remarks": [asdict(remark) for remark in report.remarks],
            }
        )
    else:
        width = max(len(str(file.path)) for file in report.files)
        for file in report.files:
            state = output.colour(f"{file.state:<7}", "green" if file.state == "ok" else "red")
            output.result(f"{file.path!s:<{width}}  {state}  {file.detail}".rstrip())
        if report.mismatch:
            output.result(report.mismatch)
        for remark in report.remarks:
            output.result(f"remark: {remark.message}")
    return 0 if report.ok else EXIT_CHECK_FAILED


@command.command("import")
@click.argument("source", metavar="SOURCE")
@click.option("-o", "--output", "folder", metavar="FOLDER", required=True, help="The new folder to write.")
@set_option
@_json
def import_(source: str, folder: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Convert a data set of any known format to IDX files.

    SOURCE is a file or folder in one of the formats of docs/data.md: IDX files under any names, CSV, .npz, folders of
    pictures, Parquet, or mnist.pkl.gz, which only this command reads. If a folder has several data sets, SOURCE is the
    folder and the beginning of the file names, such as gzip/emnist-letters. The new folder has four IDX files, and
    classes.txt with one name per line. For what the files do not say, use --set with data.size, data.transpose or
    data.class_names.

    \b
    Examples:
      mlpcli data import train.csv -o digits
      mlpcli data import gzip/emnist-letters -o letters
      mlpcli data import scans/ -o scans-28 --set 'data.size=[28,28]'
      mlpcli data import mnist.pkl.gz -o nielsen
    """
    from dataclasses import replace

    from mlpcli import config as config_module
    from mlpcli.datasets.importing import import_data

    loaded = config_module.load(None, overrides)
    for key in (override.partition("=")[0].strip() for override in overrides):
        if not key.startswith("data.") or key.removeprefix("data.") in WITHOUT_EFFECT_ON_IMPORT:
            raise UsageError(
                f"--set {key}: has no effect on an import, which converts all images of SOURCE as they are"
            )
    made = import_data(replace(loaded.data, dataset=source), Path(folder), say=output.say)
    if as_json:
        output.result_json(
            {
                "folder": click.format_filename(made.folder),
                "class_names": list(made.class_names),
                "image_shape": list(made.image_shape),
                "train": made.train,
                "test": made.test,
            }
        )
        return
    rows, columns = made.image_shape
    output.result(
        f"{shown(click.format_filename(made.folder))}: {made.train:,} training and {made.test:,} test images of "
        f"{rows} x {columns} pixels, {len(made.class_names)} classes"
    )


@command.command()
@click.argument("config", metavar="[CONFIG|SOURCE]", required=False)
@set_option
@click.option(
    "--images",
    metavar="N",
    type=click.IntRange(1, 100),
    default=4,
    show_default=True,
    help="Show the first N training images.",
)
@click.option("--class", "label", metavar="K", help="Show images of class K.")
@click.option(
    "--index",
    "numbers",
    metavar="I",
    type=click.IntRange(min=0),
    multiple=True,
    help="Show training image I, counted from 0, instead of the first ones; repeatable.",
)
@click.option(
    "--epoch",
    "epochs",
    metavar="E",
    type=click.IntRange(min=1),
    multiple=True,
    help="Show the distorted images of epoch E; repeatable. [default: the first few and the last]",
)
@click.option(
    "-o", "--output", "file", metavar="FILE.png|svg", help="Draw the images to this file; an existing file is replaced."
)
@source_option
@click.option("--offline", is_flag=True, help="Fetch nothing.")
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Describe the data as one JSON document, and draw nothing.")
def show(
    config: str | None,
    overrides: tuple[str, ...],
    images: int,
    label: str | None,
    numbers: tuple[int, ...],
    epochs: tuple[int, ...],
    file: str | None,
    sources: tuple[str, ...],
    offline: bool,
    as_json: bool,
) -> None:
    """Show training images as the network receives them.

    The images are those of SOURCE, or those of CONFIG with its augmentation (random distortions). CONFIG is a YAML file
    or the name of a shipped config; without one, the defaults are used. SOURCE is a data set's name, or a file or
    folder in one of the formats of docs/data.md. Each row shows an image as it is stored, then the network's input in a
    few epochs, with the config's seed and distortions. With -o the rows are drawn as a picture, which needs matplotlib:
    pip install 'mlpcli[plots]'. Remarks below the images name reasons why training may fail, or why the measured error
    may be misleading.

    \b
    Examples:
      mlpcli data show --set augmentation.rotation=10
      mlpcli data show my.yaml --images 10 -o sheet.png
      mlpcli data show my.yaml --class 7 --epoch 1 --epoch 30
      mlpcli data show fashion-mnist --index 0 --index 53999
      mlpcli data show train.csv --images 24 -o sheet.png
      mlpcli data show train.csv --json
    """
    if as_json:
        used = ("config", "overrides", "sources", "offline", "threads", "as_json")
        refuse_others("--json counts all images and draws none", used)
    if numbers and (label is not None or is_typed("images")):
        raise UsageError("--index names the images: give it, or --class and --images, not both")

    from mlpcli import config as config_module
    from mlpcli.analysis import plots
    from mlpcli.analysis.sheet import sheet
    from mlpcli.commands.plot import picture_format
    from mlpcli.commands.progress import download_progress
    from mlpcli.datasets.load import load_dataset
    from mlpcli.datasets.remarks import remarks

    form = None if file is None else picture_format(Path(file))
    if file is not None:
        plots.require_matplotlib()
    source = config is not None and _is_source(config)
    path = None if config is None or source else config_module.find(config)
    given = [f"data.dataset={json.dumps(config, ensure_ascii=False)}"] if source else []
    loaded = config_module.load(path, (*given, *overrides, *data_overrides(sources, offline)))
    if as_json:
        output.result_json(_contents(loaded))
        return
    if file is not None:
        output.check_file(Path(file), data=loaded.data)
    made = sheet(
        loaded,
        images=images,
        numbers=numbers,
        label=label,
        epochs=epochs,
        say=output.say,
        progress=download_progress(),
    )
    if loaded.augmentation is None and not source:
        output.say("this config distorts nothing; try --set augmentation.rotation=10")
    if file is None or form is None:
        _print_sheet(made)
    else:
        output.write_file(Path(file), made.render(form))
        output.result(shown(click.format_filename(file)))
    for remark in remarks(load_dataset(loaded.data, loaded.seed), loaded.data.validation_order):
        output.say(f"remark: {remark.message}")


def _contents(config: Config) -> dict[str, Any]:
    """Return a description of the data that ``config`` trains on: images by split and class, and the remarks."""
    from dataclasses import asdict

    from mlpcli.commands.progress import download_progress
    from mlpcli.datasets.load import load_dataset
    from mlpcli.datasets.remarks import class_counts, remarks

    dataset = load_dataset(config.data, config.seed, say=output.say, progress=download_progress())
    found = remarks(dataset, config.data.validation_order)
    splits = {
        "train": dataset.train,
        "validation": dataset.validation,
        "test": dataset.test() if dataset.has_test else None,
    }
    return {
        "name": dataset.name,
        "image_shape": list(dataset.image_shape),
        "class_names": list(dataset.class_names),
        "images": {
            name: None if split is None else class_counts(split.labels, dataset.classes).tolist()
            for name, split in splits.items()
        },
        "remarks": [asdict(remark) for remark in found],
    }


def _is_source(name: str) -> bool:
    """Return True if ``name`` is a data set, or a file or folder of data, and not a config."""
    from mlpcli import config as config_module
    from mlpcli.datasets import detect
    from mlpcli.datasets.catalogue import CATALOGUE
    from mlpcli.datasets.source import named_path

    if name.removesuffix(".yaml") in config_module.shipped() or name.endswith((".yaml", ".yml")):
        return False
    return name in CATALOGUE or detect.is_data(named_path(name))


def _print_sheet(made: Sheet) -> None:
    """Print the sheet in the terminal, each image as large as fits, but at least half its size."""
    width = terminal_width()
    captions = (caption for line in made.lines for caption, _ in line)
    min_width = max(-(-made.rows.shape[3] // 2), *map(len, captions))
    columns = max(1, min(max(map(len, made.lines)), (width + 2) // (min_width + 2)))
    room = (width + 2) // columns - 2
    output.result(made.title)
    for line in made.lines:
        for text in abreast([[caption[:room], *drawing(image, room)] for caption, image in line], columns):
            output.result(text)


def _is_here(name: str, folder: str) -> bool:
    """Return True if all files of the data set are there, by name and size alone."""
    from mlpcli.datasets.load import is_there, locate

    entry, place = locate(name, folder)
    return entry is not None and all(is_there(place, file) for file in entry.files.values())
