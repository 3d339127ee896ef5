"""``mlpcli runs``: list, show, compare and reproduce runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlpcli.commands import EXIT_CHECK_FAILED, output
from mlpcli.commands.group import Group
from mlpcli.commands.options import (
    data_overrides,
    init_overrides,
    set_threads,
    source_option,
    teacher_overrides,
    threads_are_set,
    threads_option,
)
from mlpcli.errors import UsageError, shown
from mlpcli.runs.environment import recorded_threads

if TYPE_CHECKING:
    from mlpcli.runs.ranking import Known, Row, SeedGroup
    from mlpcli.runs.spread import Spread
    from mlpcli.runs.summary import Summary

COLOURS = {"running": "cyan", "finished": "green", "interrupted": "yellow", "diverged": "red", "damaged": "red"}
MAX_DIFFERENCES = 20
MAX_SETTING_LENGTH = 40

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_path = click.Path(path_type=Path, readable=False)  # a folder that cannot be read is reported as such when it is read


@click.group(cls=Group)
def command() -> None:
    """List, show, compare and reproduce runs.

    \b
    Examples:
      mlpcli runs list
      mlpcli runs show runs/mnist-20250101-120000
      mlpcli runs compare runs/
      mlpcli runs reproduce runs/mnist-20250101-120000
    """


@command.command("list")
@click.argument("folder", type=_path, default="runs")
@_json
def list_(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER (default: runs/), newest first.

    An interrupted run can be resumed: mlpcli train --resume RUN.

    \b
    Examples:
      mlpcli runs list
      mlpcli runs list ~/experiments --json
    """
    from dataclasses import asdict

    from mlpcli.runs.directory import is_run
    from mlpcli.runs.summary import summaries

    if is_run(folder):
        raise UsageError(f"{shown(folder)}: is a run, not a folder of runs; see mlpcli runs show")
    found = [] if folder == Path("runs") and not folder.exists() else summaries(folder)
    if as_json:
        output.result_json([{**asdict(summary), "path": click.format_filename(summary.path)} for summary in found])
        return
    if not found:
        output.say(f"no runs in {shown(folder)}")
        return
    rows = [("run", "state", "epochs", "validation", "data")]
    for run in found:
        data = shown(run.dataset) if run.dataset else ""
        rows.append((shown(run.path), run.state, _epochs(run), _percent(run.validation_error), data))
    _table(rows, state_column=1)
    for run in found:
        if run.problem:
            output.say(f"mlpcli: {run.problem}")


@command.command()
@click.argument("run", type=_path)
@_json
def show(run: Path, as_json: bool) -> None:
    """Show a run's state, results, curve, config and environment.

    \b
    Examples:
      mlpcli runs show runs/first
      mlpcli runs show runs/first --json
    """
    from dataclasses import asdict

    from mlpcli import config as config_module
    from mlpcli.commands.curve import learning_curve
    from mlpcli.runs.summary import read_run, run_at

    where = run_at(run)
    found = read_run(where)
    summary, config, manifest = found.summary, found.config, found.manifest
    if as_json:
        document = {**asdict(summary), "path": click.format_filename(where), "test": found.test}
        output.result_json({**document, "config": config_module.to_dict(config), "manifest": manifest})
        return
    state = output.colour(summary.state, COLOURS[summary.state])
    lines = [("run", shown(where)), ("state", f"{state}, {summary.epochs} of {summary.max_epochs} epochs")]
    lines += [("started", shown(summary.started or "unknown")), ("data", shown(summary.dataset or "unknown"))]
    if (init := manifest.get("init")) is not None:
        drawn = f"; {', '.join(map(shown, init['drawn']))} drawn anew" if init["drawn"] else ""
        where_from = f"{shown(config.network.init or '')}, epoch {init['epoch']} on {shown(init['dataset'])}{drawn}"
        lines += [("began from", where_from), ("", f"SHA-256 {shown(init['sha256'])}")]
    for path, teacher in zip(config.training.teacher or (), manifest.get("teacher") or (), strict=False):
        lines.append(("learned from", f"{shown(path)}, epoch {teacher['epoch']} on {shown(teacher['dataset'])}"))
        lines.append(("", f"SHA-256 {shown(teacher['sha256'])}"))
    for session in manifest.get("resumed", []):
        lines.append(("resumed", f"from epoch {session['epoch']}"))
    if summary.validation_error is not None:
        lines.append(("validation error", f"{_percent(summary.validation_error)} (epoch {summary.best_epoch})"))
    if summary.train_error is not None:
        lines.append(("training error", f"{_percent(summary.train_error)} (epoch {summary.epochs})"))
    if summary.test_error is not None:
        lines.append(("test error", _percent(summary.test_error)))
    for name, value in lines:
        output.result(f"{name:<17} {value}")
    if curve := learning_curve(found.metrics, sys.stdout):
        output.result("\n".join(["", *curve]))
    output.result(f"\nconfig\n{_indented(config_module.to_yaml(config))}")
    environment = {shown(key): shown(value) for key, value in manifest.get("environment", {}).items()}
    if environment:
        width = max(map(len, environment))
        output.result("\nenvironment")
        for key, text in environment.items():
            output.result(f"  {key:<{width}}  {text}")


@command.command()
@click.argument("paths", metavar="RUN|FOLDER...", type=_path, nargs=-1, required=True)
@click.option("--group-seeds", is_flag=True, help="Group runs that differ only in their seed.")
@click.option("--test", is_flag=True, help="Show the test errors too. They should not influence any choice.")
@_json
def compare(paths: tuple[Path, ...], group_seeds: bool, test: bool, as_json: bool) -> None:
    """Compare the results and the differing settings of runs.

    FOLDER means all runs in it. The run with the lowest validation error comes first. Error and loss are those of a
    run's best epoch on the validation images. Seconds and images/s are those of training alone. If the
    runs are grouped, each row has the means over the n finished runs of a group. It also has sd, the standard deviation
    of the errors, and the 95 % interval of the mean error by Student's t, both in per cent.

    \b
    Examples:
      mlpcli runs compare runs/
      mlpcli runs compare runs/small runs/large --test
      mlpcli runs compare runs/ --group-seeds --json
    """
    from mlpcli.runs import ranking

    known = ranking.collect(paths)
    if group_seeds:
        _remark_on_repeated_seeds(ranking.group_seeds(known))
    if as_json:
        output.result_json(comparison(known, group_seeds=group_seeds, test=test))
        return
    print_comparison(known, group_seeds=group_seeds, test=test)
    for row in ranking.rank(known):
        if row.summary.problem:
            output.say(f"mlpcli: {row.summary.problem}")


@command.command()
@click.argument("run", type=_path)
@click.option("--keep", metavar="DIR", type=_path, help="Keep the new run in DIR. [default: a temporary folder]")
@click.option(
    "--data",
    metavar="PATH",
    help="The data, if they have moved. Their SHA-256 must match that of the original data. [default: where the run "
    "had them]",
)
@click.option(
    "--init",
    metavar="FILE.npz",
    help="The checkpoint that the run began from, if it has moved. [default: where the run had it]",
)
@click.option(
    "--teacher",
    "teachers",
    metavar="FILE.npz",
    multiple=True,
    help="The checkpoint of a teacher (training.teacher), if it has moved. Repeat it for each teacher, in the order of "
    "the config. [default: where the run had the teachers]",
)
@source_option
@partial(threads_option, default="as many as the run had")
@_json
@click.option("--quiet", is_flag=True, help="Print no progress, only the result and warnings.")
def reproduce(
    run: Path,
    keep: Path | None,
    data: str | None,
    init: str | None,
    teachers: tuple[str, ...],
    sources: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> int:
    """Repeat a run's training and check that the results are equal.

    The command compares the metrics, except times, and the parameters and optimizer state of the last and the best
    checkpoint. For an unfinished run, it compares the epochs that the run has. The exit status is 0 if all is equal bit
    for bit, else 1. The test set is not read.

    The numbers of threads and processes are those of the run. A run of several MPI processes is trained again by one
    process, which rounds differently. Such a run is reported as not reproduced, and the report names both numbers of
    processes.

    \b
    Examples:
      mlpcli runs reproduce runs/first
      mlpcli runs reproduce runs/first --threads 1 --keep runs/again
    """
    threads = recorded_threads(run)
    if threads is not None and not threads_are_set():
        set_threads(threads)

    from dataclasses import asdict

    from mlpcli import experiment
    from mlpcli.commands.show import Screen
    from mlpcli.runs import directory

    overrides = [*data_overrides(sources, offline=False, dataset=data), *init_overrides(init, any_file=False)]
    overrides += teacher_overrides(teachers)
    if teachers and len(teachers) != (had := len(directory.read_config(run).training.teacher or ())):
        raise UsageError(f"--teacher: {len(teachers)} named, and {shown(run)} had {had}; name each, in their order")
    again = experiment.reproduce(run, overrides, keep=keep, observer=Screen(quiet=quiet))
    if as_json:
        environment = [{"key": key, "recorded": there, "here": here} for key, there, here in again.environment]
        document: dict[str, Any] = {"run": str(again.run), "equal": not again.differences, "epochs": again.epochs}
        document |= {"max_epochs": again.max_epochs, "environment": environment}
        output.result_json({**document, "differences": [asdict(difference) for difference in again.differences]})
        return EXIT_CHECK_FAILED if again.differences else 0
    of = f"{again.epochs} epochs" if again.epochs == again.max_epochs else f"the {again.epochs} epochs it has"
    if not again.differences:
        output.result(f"{shown(again.run)}: reproduced, {of}: metrics and parameters are equal bit for bit")
        return 0
    output.result(f"{shown(again.run)}: not reproduced, {of}")
    rows = [("", "recorded", "trained again")]
    rows += [(each.what, each.recorded, each.again) for each in again.differences[:MAX_DIFFERENCES]]
    _table(rows)
    if len(again.differences) > MAX_DIFFERENCES:
        output.result(f"and {len(again.differences) - MAX_DIFFERENCES} more (--json has them all)")
    if again.environment:
        output.result("")
        _table(
            [
                ("environment", "recorded", "here"),
                *((key, shown(there), here) for key, there, here in again.environment),
            ]
        )
    else:
        output.result("the environment is as recorded: versions, processor, BLAS and threads")
    return EXIT_CHECK_FAILED


def _remark_on_repeated_seeds(groups: list[SeedGroup]) -> None:
    """Say which runs are no more than repetitions of another of their group: the interval takes them as independent."""
    for group in groups:
        runs: dict[int | None, list[str]] = {}
        for row in group.rows:
            if row.summary.state == "finished":
                runs.setdefault(row.settings.get("seed"), []).append(shown(row.summary.path))
        for same in runs.values():
            if len(same) > 1:
                output.say(
                    f"remark   {' and '.join(same)} have one config and one seed, but count as {len(same)} of n: sd "
                    "and interval are too small; name one of them"
                )


def comparison(known: list[Known], *, group_seeds: bool, test: bool = False) -> dict[str, Any]:
    """Return a comparison of runs, as a document."""
    from mlpcli.runs import ranking

    keys = ranking.differing(known)
    if group_seeds:
        groups = [_group_document(group, test) for group in ranking.group_seeds(known)]
        return {"differing": [key for key in keys if key != ranking.SEED], "groups": groups}
    return {"differing": keys, "runs": [_row_document(row, test) for row in ranking.rank(known)]}


def print_comparison(known: list[Known], *, group_seeds: bool, test: bool = False) -> None:
    """Print a comparison of runs, as a table."""
    from mlpcli.runs import ranking

    keys = ranking.differing(known)
    if group_seeds:
        _print_groups(ranking.group_seeds(known), [key for key in keys if key != ranking.SEED], test)
        return
    _print_rows(ranking.rank(known), keys, test)
    if keys == [ranking.SEED]:
        _print_spread(ranking.group_seeds(known))


# Columns between a row's state and its settings.
OUTCOMES = ("validation error", "loss", "epochs", "seconds", "images/s")


def _print_rows(rows: list[Row], keys: list[str], test: bool) -> None:
    table = [("run", "state", *_heads(keys, test))]
    for row in rows:
        run = row.summary
        outcomes = [_percent(run.validation_error), _loss(run.validation_loss), _epochs(run)]
        outcomes += [_rounded(run.seconds, ".1f"), _rounded(run.examples_per_second, ",.0f")]
        outcomes += [_percent(run.test_error)] if test else []
        table.append((shown(run.path), run.state, *outcomes, *_cells(row.settings, keys)))
    _table(table, state_column=1, right=range(2, 2 + len(OUTCOMES) + test))


def _print_groups(groups: list[SeedGroup], keys: list[str], test: bool) -> None:
    error, *columns = OUTCOMES
    spread = ("n", "sd", "95 % interval")
    test_heads = ("test error", *spread) if test else ()
    table = [("run", "state", "seeds", error, *spread, *columns, *test_heads, *_short(_columns(keys)))]
    for group in groups:
        best, *others = group.rows
        name = shown(best.summary.path) + (f" +{len(others)}" if others else "")
        state = ", ".join(f"{count} {state}" for state, count in group.states.items())
        seeds = " ".join(map(str, group.seeds))
        outcomes = [*_spread(group.validation_error), _loss(_mean(group.validation_loss))]
        outcomes.append(_rounded(_mean(group.epochs), ".4g"))
        outcomes += [_rounded(_mean(group.seconds), ".1f"), _rounded(_mean(group.examples_per_second), ",.0f")]
        outcomes += _spread(group.test_error) if test else []
        state = state if others else best.summary.state
        table.append((name, state, seeds, *outcomes, *_cells(group.settings, keys)))
    _table(table, state_column=1, right=range(3, 3 + len((*OUTCOMES, *spread, *test_heads))))


def _print_spread(groups: list[SeedGroup]) -> None:
    """Print the spread over runs that differ only in their seed."""
    for group in groups:
        finished = group.states.get("finished", 0)
        if group.validation_error is not None and finished > 1:
            error, _, deviation, interval = _spread(group.validation_error)
            spread = f"{error}, sd {deviation}, 95 % interval {interval}"
            output.result(f"only the seed differs: validation error {spread}, of {finished} finished runs")


def _heads(keys: Sequence[str], test: bool) -> list[str]:
    return [*OUTCOMES, *(["test error"] if test else []), *_short(_columns(keys))]


def _cells(settings: dict[str, Any], keys: Sequence[str]) -> list[str]:
    return [_setting(settings[key]) if key in settings else "" for key in _columns(keys)]


def _columns(keys: Sequence[str]) -> list[str]:
    """Return the keys that have a column: not the epochs, which have one already."""
    return [key for key in keys if key != "training.epochs"]


def _short(keys: Sequence[str]) -> list[str]:
    """Return ``keys`` without their sections if they remain distinct."""
    names = [key.rpartition(".")[2] for key in keys]
    return [name if names.count(name) == 1 else key for name, key in zip(names, keys, strict=True)]


def _row_document(row: Row, test: bool) -> dict[str, Any]:
    from dataclasses import asdict

    document = {**asdict(row.summary), "path": click.format_filename(row.summary.path), "settings": row.settings}
    if not test:
        del document["test_error"]
    return document


def _group_document(group: SeedGroup, test: bool) -> dict[str, Any]:
    from dataclasses import asdict

    document = {**asdict(group), "rows": None, "runs": [_row_document(row, test) for row in group.rows]}
    for key in ("rows", *(() if test else ("test_error",))):
        del document[key]
    return document


def _table(rows: Sequence[tuple[str, ...]], state_column: int | None = None, right: Sequence[int] = ()) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{cell:>{width}}" if column in right else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        if state_column is not None and row[state_column] in COLOURS:
            cells[state_column] = output.colour(cells[state_column], COLOURS[row[state_column]])
        output.result("  ".join(cells).rstrip())


def _epochs(run: Summary) -> str:
    return "" if run.epochs is None else f"{run.epochs}/{run.max_epochs}"


def _percent(value: float | None) -> str:
    return _rounded(value, ".2%")


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if value < 1e6 else f"{value:.2e}"


def _rounded(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _mean(spread: Spread | None) -> float | None:
    return None if spread is None else spread.mean


def _spread(spread: Spread | None) -> list[str]:
    """Return the mean of fractions, their number, standard deviation, and the interval of the mean, in per cent."""
    if spread is None:
        return [""] * 4
    if spread.standard_deviation is None or spread.interval is None:
        return [_percent(spread.mean), str(spread.count), "", ""]
    low, high = 100 * spread.interval.low, 100 * spread.interval.high
    return [
        _percent(spread.mean),
        str(spread.count),
        f"{100 * spread.standard_deviation:.3f}",
        f"{low:.2f} .. {high:.2f}",
    ]


def _setting(value: Any) -> str:
    """Return a value of a config as it is written there, shortened if it is long."""
    import json

    text = shown(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_SETTING_LENGTH else f"{text[: MAX_SETTING_LENGTH - 3]}..."


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines()).rstrip("\n")
