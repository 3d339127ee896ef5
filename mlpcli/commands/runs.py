"""``mlpcli runs``: which runs there are, what one came to, and whether it comes out the same again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mlpcli.commands import EXIT_CHECK_SAID_NO, output
from mlpcli.commands.group import Group
from mlpcli.commands.options import threads_option
from mlpcli.errors import RunError

COLOURS = {"running": "cyan", "finished": "green", "interrupted": "yellow", "diverged": "red", "damaged": "red"}
MOST_DIFFERENCES = 20

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_path = click.Path(path_type=Path)


@click.group(cls=Group)
def command() -> None:
    """List, show and reproduce runs.

    \b
    Examples:
      mlpcli runs list
      mlpcli runs show runs/mnist-20250101-120000
      mlpcli runs reproduce runs/mnist-20250101-120000
    """


@command.command("list")
@click.argument("folder", type=_path, default="runs")
@_json
def list_(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER (runs/ unless named), newest first.

    A run that is interrupted can be resumed: mlpcli train --resume RUN.

    \b
    Examples:
      mlpcli runs list
      mlpcli runs list ~/experiments --json
    """
    from dataclasses import asdict

    from mlpcli.runs.summary import summaries

    found = [] if folder == Path("runs") and not folder.exists() else summaries(folder)
    if as_json:
        output.result_json([{**asdict(summary), "path": str(summary.path)} for summary in found])
        return
    if not found:
        output.say(f"no runs in {folder}")
        return
    rows = [("run", "state", "epochs", "validation", "data")]
    for run in found:
        epochs = "" if run.epochs is None else f"{run.epochs}/{run.epochs_wanted}"
        rows.append((_shown(str(run.path)), run.state, epochs, _share(run.validation_error), _shown(run.dataset or "")))
    _table(rows, state_column=1)
    for run in found:
        if run.problem:
            output.say(f"mlpcli: {run.problem}")


@command.command()
@click.argument("run", type=_path)
@_json
def show(run: Path, as_json: bool) -> None:
    """Show a run: its state, what came out, its config, and what it was trained with.

    \b
    Examples:
      mlpcli runs show runs/first
      mlpcli runs show runs/first --json
    """
    from dataclasses import asdict

    from mlpcli import config as config_module
    from mlpcli.runs import directory
    from mlpcli.runs.summary import summarize

    where, at = directory.locate(run)
    if at is not None:
        raise RunError(f"{run}: is a checkpoint; name its run: {where}")
    summary = summarize(where)
    config = config_module.load(where / directory.CONFIG, (), {})
    manifest = directory.read_manifest(where) if (where / directory.MANIFEST).exists() else {}
    if as_json:
        document = {**asdict(summary), "path": str(where), "test": directory.read_test(where)}
        output.result_json({**document, "config": config_module.to_dict(config), "manifest": manifest})
        return
    state = output.colour(summary.state, COLOURS[summary.state])
    lines = [("run", str(where)), ("state", f"{state}, {summary.epochs} of {summary.epochs_wanted} epochs")]
    lines += [("started", _shown(summary.started or "unknown")), ("data", _shown(summary.dataset or "unknown"))]
    for session in manifest.get("resumed", []):
        lines.append(("resumed", f"from epoch {session['epoch']}"))
    if summary.validation_error is not None:
        lines.append(("validation error", f"{_share(summary.validation_error)} (epoch {summary.best_epoch})"))
    if summary.train_error is not None:
        lines.append(("training error", f"{_share(summary.train_error)} (epoch {summary.epochs})"))
    if summary.test_error is not None:
        lines.append(("test error", _share(summary.test_error)))
    for name, value in lines:
        output.result(f"{name:<17} {value}")
    output.result(f"\nconfig\n{_indented(config_module.to_yaml(config))}")
    environment = {key: _shown(str(value)) for key, value in manifest.get("environment", {}).items()}
    if environment:
        width = max(map(len, environment))
        output.result("\nenvironment")
        for key, text in environment.items():
            output.result(f"  {key:<{width}}  {text}")


@command.command()
@click.argument("run", type=_path)
@click.option("--keep", metavar="DIR", type=_path, help="Train in DIR, a new run, instead of a temporary folder.")
@threads_option
@_json
@click.option("--quiet", is_flag=True, help="No progress: only the result, and warnings.")
def reproduce(run: Path, keep: Path | None, as_json: bool, quiet: bool) -> int:
    """Train a run again and compare: exit status 1 if anything is not equal, bit for bit.

    Compared are metrics, but for times, and the parameters and optimizer state of the last and the best checkpoint; of
    a run that is not finished, the epochs it has. The test set is not looked at.

    \b
    Examples:
      mlpcli runs reproduce runs/first
      mlpcli runs reproduce runs/first --threads 1 --keep runs/again
    """
    from dataclasses import asdict

    from mlpcli import experiment
    from mlpcli.commands.show import Screen

    again = experiment.reproduce(run, keep=keep, observer=Screen(quiet=quiet))
    if as_json:
        environment = [{"key": key, "recorded": there, "here": here} for key, there, here in again.environment]
        document: dict[str, Any] = {"run": str(again.run), "equal": not again.differences, "epochs": again.epochs}
        document |= {"epochs_wanted": again.epochs_wanted, "environment": environment}
        output.result_json({**document, "differences": [asdict(difference) for difference in again.differences]})
        return EXIT_CHECK_SAID_NO if again.differences else 0
    of = f"{again.epochs} epochs" if again.epochs == again.epochs_wanted else f"the {again.epochs} epochs it has"
    if not again.differences:
        output.result(f"{again.run}: reproduced, {of}: metrics and parameters are equal bit for bit")
        return 0
    output.result(f"{again.run}: not reproduced, {of}")
    rows = [("", "recorded", "trained again")]
    rows += [(each.what, each.recorded, each.again) for each in again.differences[:MOST_DIFFERENCES]]
    _table(rows)
    if len(again.differences) > MOST_DIFFERENCES:
        output.result(f"and {len(again.differences) - MOST_DIFFERENCES} more (--json has them all)")
    if again.environment:
        output.result("")
        _table(
            [
                ("environment", "recorded", "here"),
                *((key, _shown(there), here) for key, there, here in again.environment),
            ]
        )
    else:
        output.result("the environment is the one recorded: versions, processor, BLAS and threads")
    return EXIT_CHECK_SAID_NO


def _table(rows: Sequence[tuple[str, ...]], state_column: int | None = None) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        if state_column is not None and row[state_column] in COLOURS:
            cells[state_column] = output.colour(cells[state_column], COLOURS[row[state_column]])
        output.result("  ".join(cells).rstrip())


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _shown(text: str) -> str:
    """``text`` from a file, which must not steer the terminal."""
    return text if text.isprintable() else ascii(text)


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines()).rstrip("\n")
