"""``mlpcli train``: train a network by a config, with a line per epoch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlpcli.commands import EXIT_USAGE, Terminated, output
from mlpcli.commands.options import (
    data_overrides,
    init_overrides,
    set_option,
    set_threads,
    source_option,
    threads_are_set,
    threads_option,
    watch_options,
)
from mlpcli.commands.watch import live_page
from mlpcli.errors import DivergedError, UsageError
from mlpcli.parallel.control import MAX_PROCESSES, SINGLE, ProcessGroup, Stopped, available_cores, launched
from mlpcli.parallel.forked import ForkedGroup
from mlpcli.parallel.mpi import MpiGroup
from mlpcli.runs.environment import recorded_threads

if TYPE_CHECKING:
    from mlpcli.experiment import Run


AUTO = "auto"
NO_PROCESSES = "--mpi trains with the processes that mpiexec starts: leave --processes out"


class _Command(click.Command):
    """A command whose errors, the same in all processes of a launcher, only rank 0 reports."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _rank_0_reports():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _rank_0_reports():
            return super().invoke(ctx)


@contextmanager
def _rank_0_reports() -> Iterator[None]:
    try:
        yield
    except (click.UsageError, UsageError) as error:
        if (launched() or (0,))[0] > 0:
            raise click.exceptions.Exit(EXIT_USAGE) from error
        raise


class _Processes(click.IntRange):
    """A number of processes, or None for ``auto``."""

    def __init__(self) -> None:
        super().__init__(1, MAX_PROCESSES)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == AUTO else super().convert(value, param, ctx)


@click.command(cls=_Command)
@click.argument("config", required=False)
@set_option
@click.option(
    "--out", type=click.Path(path_type=Path, readable=False), help="The folder of the run; default: runs/CONFIG-TIME."
)
@click.option(
    "--resume",
    metavar="RUN|CHECKPOINT",
    type=click.Path(path_type=Path, readable=False),
    help="Resume an interrupted run from its last checkpoint, or from the checkpoint that you name. The result is "
    "bit-identical to that of an uninterrupted run.",
)
@click.option(
    "--data",
    "dataset",
    metavar="NAME|PATH",
    help="The data set: a name, a file or a folder. With --resume, the new place of the run's data, whose SHA-256 must "
    "match that of the original data.",
)
@click.option(
    "--init",
    metavar="RUN|CHECKPOINT",
    help="Start from the weights of a run or checkpoint. Layers of another shape are initialized at random. The "
    "images must have the size that the network was trained on.",
)
@source_option
@click.option("--offline", is_flag=True, help="Fetch nothing.")
@partial(threads_option, default="one per core, or 1 if the machine is busy; with --resume, as many as the run had")
@click.option(
    "--processes",
    metavar="N|auto",
    type=_Processes(),
    default="1",
    show_default=True,
    help="Train with N processes, each with its shard of every batch. On several cores this is often faster than "
    "threads. With auto, N is the number that is predicted to be fastest for this network, batch and machine.",
)
@watch_options
@click.option("--mpi", is_flag=True, help="Train one network with all the processes that mpiexec has started.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
@click.option("--quiet", is_flag=True, help="Print no progress, only the result and warnings.")
def command(
    config: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: Path | None,
    dataset: str | None,
    init: str | None,
    sources: tuple[str, ...],
    offline: bool,
    processes: int | None,
    watch: bool,
    port: int | None,
    no_open: bool,
    mpi: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a network and write a run.

    CONFIG is a YAML file or the name of a shipped config ('mlpcli config list'); without one, the defaults are used.

    \b
    Examples:
      mlpcli train
      mlpcli train quickstart
      mlpcli train my.yaml --set training.epochs=5 --set 'network.hidden=[300]'
      mlpcli train --out runs/first --threads 1
      mlpcli train --processes auto
      mlpcli train --watch
      mlpcli train --resume runs/first
      mlpcli train --resume runs/first --data /new/place/of/the/data
      mlpcli train letters.yaml --init runs/first
      mpiexec -n 4 mlpcli train --mpi
    """
    if resume is not None and (config is not None or out is not None):
        raise UsageError("--resume uses the run's own config and directory: give no CONFIG and no --out")
    if resume is not None and init is not None:
        raise UsageError("--resume continues a run, --init begins a new one from its weights: give one of them")
    page = live_page(watch, port, no_open)
    overrides = (*overrides, *data_overrides(sources, offline, dataset), *init_overrides(init, any_file=True))
    if processes is None:
        if mpi:
            raise UsageError(NO_PROCESSES)
        processes = _choose_processes(config, overrides, resume, quiet=quiet)
    if processes == 1 and not mpi and not threads_are_set():
        _choose_threads(resume, quiet=quiet)
    with process_group(mpi, processes) as group:
        # Imported late: the number of numpy's threads depends on the number of processes.
        from mlpcli import experiment
        from mlpcli.commands.curve import learning_curve
        from mlpcli.commands.show import Screen
        from mlpcli.runs.directory import read_metrics

        if group.rank:
            with suppress(DivergedError, Stopped):
                experiment.run_worker(group)
            return
        screen = Screen(quiet=quiet, begun=page.open)
        try:
            if resume is not None:
                run = experiment.resume(resume, overrides, observer=screen, group=group)
            else:
                run = experiment.train(config, overrides, out=out, observer=screen, group=group)
            if as_json:
                output.result_json(_document(run))
            else:
                if not quiet and (curve := learning_curve(read_metrics(run.path), sys.stderr)):
                    output.say("\n".join(["", *curve, ""]))
                _print(run)
        except (KeyboardInterrupt, Terminated):
            if screen.run is not None:
                from mlpcli.runs.layout import resume_command

                output.say(f"stopped; resume with: {resume_command(screen.run, group.command)}")
            raise
        finally:
            page.close()


@contextmanager
def process_group(mpi: bool, processes: int) -> Iterator[ProcessGroup]:
    """Enter the processes to train with: those that a launcher started, with ``--mpi``; else one, which may fork."""
    started = launched()
    if mpi and processes > 1:
        raise UsageError(NO_PROCESSES)
    if not mpi and started is not None and started[1] > 1:
        raise UsageError(
            f"{started[1]} processes were started by mpiexec or a similar launcher, and would train {started[1]} runs: "
            "with --mpi they train one together"
        )
    group = MpiGroup() if mpi else ForkedGroup(processes) if processes > 1 else SINGLE
    with group:
        if group.size > 1 and not threads_are_set():
            set_threads(max(1, int(group.cores)))
        yield group


def _choose_processes(config: str | None, overrides: tuple[str, ...], resume: Path | None, *, quiet: bool) -> int:
    from mlpcli.config import find, load
    from mlpcli.parallel.choose import choose_processes

    if resume is not None:
        raise UsageError("--processes auto is for new runs: to resume, give the number of processes that the run had")
    loaded = load(None if config is None else find(config), overrides)
    distorted, adversarial = loaded.augmentation is not None, loaded.training.adversarial > 0
    choice = choose_processes(
        loaded.network.hidden, loaded.training.batch_size, distorted=distorted, adversarial=adversarial
    )
    if not quiet:
        output.say(f"processes  {choice.number}: {choice.reason}")
    return choice.number


def _choose_threads(resume: Path | None, *, quiet: bool) -> None:
    """Set the threads of a single process: those of the run to resume; else one, and say so, if the machine is busy."""
    from mlpcli.parallel.choose import choose_threads

    cores = len(available_cores())
    if resume is not None:
        run = resume if resume.is_dir() else resume.absolute().parent.parent  # of a checkpoint
        set_threads(min(cores, recorded_threads(run) or cores))
        return
    choice = choose_threads()
    if choice.number < cores:
        set_threads(choice.number)
        if not quiet:
            output.say(f"threads    {choice.number}: {choice.reason}")


def _document(run: Run) -> dict[str, Any]:
    from dataclasses import asdict

    from mlpcli.config import to_dict

    return {**asdict(run), "path": str(run.path), "config": to_dict(run.config)}


def _print(run: Run) -> None:
    from mlpcli.runs.layout import quoted

    if run.fallback_from:
        missing = run.fallback_from
        output.say(f"trained on the bundled sample, as {missing} was not available: not a result on {missing}")
    if run.validation_error is not None:
        output.result(f"validation error  {run.validation_error:7.2%}  (best; epoch {run.best_epoch} of {run.epochs})")
    else:
        output.result(f"training error    {run.train_error:7.2%}  (running mean of epoch {run.epochs})")
    if run.test_error is not None:
        output.result(
            f"test error        {run.test_error:7.2%}  ({run.test_errors} of {run.test_examples} images, {run.dataset})"
        )
    output.result(f"run               {run.path}  ({run.seconds:.1f} s of training)")
    # With data.test: false, the next command does not use the test images either.
    held_out = "validation" if run.validation_error is not None else "train"
    split = "" if run.config.data.test else f"--split {held_out} "
    output.result(f"next              {output.colour(f'mlpcli eval {split}{quoted(run.path)}', 'green')}")
