"""``mlpcli sweep``: train the runs of a sweep file, and rank them."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlpcli.commands import Terminated, output
from mlpcli.commands.options import watch_options
from mlpcli.commands.watch import live_page
from mlpcli.errors import DivergedError, MlpcliError, RunError, UsageError, shown
from mlpcli.sweep import execute, plan
from mlpcli.sweep.execute import Outcome, Task, Watcher

if TYPE_CHECKING:
    from mlpcli.runs.ranking import Known
    from mlpcli.sweep.execute import Pool
    from mlpcli.sweep.plan import Plan

# The state of a run before this sweep, if it has not changed since.
WORDS = {"new": "to train", "running": "running", "interrupted": "to resume"}
# Rows for running tasks on a terminal; there may be hundreds.
MAX_SHOWN = 20


@click.command()
@click.argument("sweep", metavar="SWEEP.yaml", type=click.Path(path_type=Path, readable=False))
@click.option(
    "--out", type=click.Path(path_type=Path, readable=False), help="The folder of the runs; default: runs/SWEEP."
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 1024),
    help="How many runs to train at a time, each in its own process; default: one per core.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="The number of threads for the matrix products of each run; default: the cores divided by the jobs, or 1 with "
    "MPI.",
)
@watch_options
@click.option("--dry-run", is_flag=True, help="List the runs and their states; train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
@click.option("--quiet", is_flag=True, help="Print no progress, only the result and warnings.")
def command(
    sweep: Path,
    out: Path | None,
    jobs: int | None,
    threads: int | None,
    watch: bool,
    port: int | None,
    no_open: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train many variations of a config, several seeds each, and rank them by validation error.

    SWEEP.yaml names a config and the values to try: a grid, a list or random draws (docs/sweep.md). Each
    combination is trained with each seed, as an ordinary run; all runs are in one folder. To resume, run the same
    command again: it also trains combinations that are new in the file, and does not repeat finished runs. No run
    of a sweep opens the test files.

    The exit status is 0 if every run has ended, even if some diverged; 4 if a run failed or is damaged, or its process
    was killed; and 5 if all runs diverged.

    On many machines, use MPI (pip install 'mlpcli[mpi]'). One of N ranks manages the sweep, and the other N - 1 ranks
    train runs, with one thread each:

    \b
      mpiexec -n 9 python -m mpi4py.futures -m mlpcli sweep rates.yaml

    \b
    Examples:
      mlpcli sweep rates.yaml --dry-run
      mlpcli sweep rates.yaml --jobs 4
      mlpcli sweep rates.yaml --watch
      mlpcli sweep rates.yaml --out runs/rates --json
    """
    mpi = execute.under_mpi()
    if mpi and jobs is not None:
        raise UsageError("with MPI the ranks are the workers: give no --jobs")
    page = live_page(watch, port, no_open)
    planned = plan.read(sweep)
    folder = out or Path("runs", planned.name)
    if dry_run:
        _list(sweep, folder, planned, as_json)
        return
    with execute.locked_folder(folder, planned):
        tasks = execute.tasks(folder, planned)
        workers = _workers(mpi, jobs, threads)
        if not quiet:
            _announce(planned, folder, tasks, workers)
        page.open(folder)
        try:
            outcomes = _execute(planned, folder, tasks, workers, quiet)
            _report(planned, folder, tasks, outcomes, as_json)
        finally:
            page.close()


def _workers(mpi: bool, jobs: int | None, threads: int | None) -> Pool:
    return execute.MpiPool(threads) if mpi else execute.LocalPool(jobs, threads)


def _execute(planned: Plan, folder: Path, tasks: list[Task], workers: Pool, quiet: bool) -> dict[Path, Outcome]:
    from mlpcli.commands.progress import download_progress

    screen = _Screen(tasks, workers.workers, quiet)
    with workers:
        try:
            wanted = [task for task in tasks if task.is_open]
            wanted = execute.fetch(wanted, say=output.say, progress=None if quiet else download_progress())
            output.write_file(folder / execute.SWEEP, planned.text.encode())
            return execute.execute(wanted, workers, screen)
        except (KeyboardInterrupt, Terminated) as stopped:
            screen.clear()
            output.say(f"stopped, with {screen.done} of {len(tasks)} runs done; the same command resumes")
            workers.stop(stopped.status if isinstance(stopped, Terminated) else 128 + signal.SIGINT)
            raise
        finally:
            screen.clear()


def _announce(planned: Plan, folder: Path, tasks: list[Task], workers: Pool) -> None:
    output.say(f"sweep    {_size(planned)} in {shown(folder)}: {_states(tasks)}")
    if planned.repeated:
        output.say(f"         {planned.repeated} more draws were equal to others, and are not repeated")
    each = f"{workers.threads} thread{'s' * (workers.threads > 1)} each"
    output.say(f"workers  {workers.workers} at a time, {each}")


def _size(planned: Plan) -> str:
    combinations = f"{planned.combinations} combination{'s' * (planned.combinations > 1)}"
    seeds = f" x {planned.seeds} seeds = {len(planned.runs)} runs" if planned.seeds > 1 else ""
    return f"{combinations}{seeds} of {', '.join(planned.keys) or 'the config without changes'}"


def _states(tasks: list[Task]) -> str:
    return ", ".join(f"{count} {WORDS.get(state, state)}" for state, count in Counter(t.state for t in tasks).items())


def _list(sweep: Path, folder: Path, planned: Plan, as_json: bool) -> None:
    """Print the runs that would be trained."""
    tasks = execute.tasks(folder, planned)
    if as_json:
        from mlpcli.config import to_dict

        runs = [
            {"path": click.format_filename(task.path), "state": task.state, "config": to_dict(task.config)}
            for task in tasks
        ]
        output.result_json(
            {
                "sweep": click.format_filename(sweep),
                "folder": click.format_filename(folder),
                "keys": list(planned.keys),
                "runs": runs,
            }
        )
        return
    width = max(len(shown(task.path)) for task in tasks)
    for task in tasks:
        output.result(f"{shown(task.path):<{width}}  {WORDS.get(task.state, task.state)}")
    output.say(f"{_size(planned)}: {_states(tasks)}")


def _report(planned: Plan, folder: Path, tasks: list[Task], outcomes: dict[Path, Outcome], as_json: bool) -> None:
    """Print the result. Raises ``RunError`` when runs are broken, ``DivergedError`` when all diverged."""
    from mlpcli.commands import runs

    known = _known(folder)
    states = {task.path: outcomes[task.path].state if task.path in outcomes else task.state for task in tasks}
    problems = {task.path: outcomes[task.path].problem if task.path in outcomes else task.problem for task in tasks}
    count = Counter(states.values())
    broken = [path for path, state in states.items() if state not in ("finished", "diverged")]
    others = execute.unplanned_runs(folder, planned)
    if as_json:
        document: dict[str, Any] = {
            "folder": click.format_filename(folder),
            "finished": count["finished"],
            "diverged": count["diverged"],
        }
        document["broken"] = [{"path": click.format_filename(path), "problem": problems[path]} for path in broken]
        document["not_of_the_sweep"] = [click.format_filename(path) for path in others]
        output.result_json({**document, **runs.comparison(known, group_seeds=True)})
    elif known:
        runs.print_comparison(known, group_seeds=planned.seeds > 1 or plan.SEED in planned.keys)
    if others:
        some = ", ".join(shown(path.name) for path in others[:3]) + (", ..." if others[3:] else "")
        output.say(f"{folder}: has {len(others)} more that are not in the sweep (any more): {some}")
    for path in broken:
        if path not in outcomes:  # the others were shown when they happened
            output.say(f"mlpcli: {problems[path]}")
    if broken:
        how = "the same command tries them again" if any(path in outcomes for path in broken) else "see above"
        raise RunError(f"{folder}: {len(broken)} of {len(tasks)} runs are not finished; {how}")
    if not count["finished"]:
        raise DivergedError(f"{folder}: every run diverged; try lower learning rates")


def _known(folder: Path) -> list[Known]:
    from mlpcli.runs import ranking

    try:
        return ranking.collect([folder])
    except RunError:  # no run was created
        return []


class _Screen(Watcher):
    """A display of the sweep on stderr: a line when a run begins or ends; on a terminal, below them, a live table."""

    def __init__(self, tasks: Sequence[Task], workers: int, quiet: bool) -> None:
        from mlpcli.runs.summary import try_to_summarize

        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._shown = 0
        self._total = len(tasks)
        self._workers = workers
        self._begun = time.monotonic()
        self._ended = 0
        self._best: tuple[float, str] | None = None
        self._messages: set[str] = set()
        self.done = 0
        for task in tasks:
            if not task.is_open:
                self.done += 1
                if task.state == "finished":
                    self._remember(task, try_to_summarize(task.path).validation_error)

    def began(self, task: Task) -> None:
        """Show that a worker has started ``task``."""
        if not self._quiet and not self._live:
            how = "begins" if task.state == "new" else "resumes"
            output.say(f"{self._number(self.done)}  {how:<8}  {task.path.name}")

    def ended(self, task: Task, outcome: Outcome) -> None:
        """Show that a worker has finished ``task``."""
        from mlpcli.runs.summary import try_to_summarize

        self.clear()
        self._ended += 1
        self.done += outcome.state in ("finished", "diverged")
        run = try_to_summarize(task.path)
        if outcome.state == "finished":
            self._remember(task, run.validation_error)
        for message in outcome.messages:
            if message not in self._messages:  # remarks on the data are those of every run
                output.say(f"{task.path.name}: {message}")
        self._messages.update(outcome.messages)
        if not self._quiet:
            found = "" if run.validation_error is None else f"  validation {run.validation_error:6.2%}"
            length = "" if run.seconds is None else f"  {run.epochs}/{run.max_epochs} epochs, {run.seconds:.1f} s"
            output.say(f"{self._number(self.done)}  {outcome.state:<8}  {task.path.name}{found}{length}")
        if outcome.problem and (outcome.state != "diverged" or not self._quiet):
            place = "" if outcome.problem.startswith(str(task.path)) else f"{task.path}: "
            output.say(f"mlpcli: {place}{outcome.problem}")

    def tick(self, running: Sequence[Task]) -> None:
        """Draw the table again, on a terminal."""
        if not self._live:
            return
        width = shutil.get_terminal_size().columns - 1
        lines = [self._progress(task) for task in running[:MAX_SHOWN]]
        if running[MAX_SHOWN:]:
            lines.append(f"  and {len(running) - MAX_SHOWN} more")
        best = f"; best {self._best[0]:.2%}, {self._best[1]}" if self._best else ""
        lines.append(f"{self.done} of {self._total} runs done, {len(running)} running{self._left()}{best}")
        self.clear()
        output.say("\n".join(line[:width] for line in lines))
        self._shown = len(lines)

    def clear(self) -> None:
        """Erase the live table, so that the next message stands above it."""
        if self._shown:
            from mlpcli.commands.progress import Terminal

            Terminal().write(f"\x1b[{self._shown}F\x1b[J")
            self._shown = 0

    def _progress(self, task: Task) -> str:
        from mlpcli.runs import directory

        try:
            last = directory.read_last_record(task.path)
        except MlpcliError:
            last = None
        last = last or {"epoch": 0, "validation_error": None}
        found = "" if last["validation_error"] is None else f"  validation {last['validation_error']:6.2%}"
        wanted = task.config.training.epochs
        return f"  epoch {last['epoch']:>{len(str(wanted))}}/{wanted}{found}  {task.path.name}"

    def _left(self) -> str:
        """Return the estimated remaining time, once a run has finished."""
        to_go = self._total - self.done
        if not self._ended or not to_go:
            return ""
        minutes = (time.monotonic() - self._begun) / self._ended * to_go / 60
        return f", about {minutes:.0f} min left" if minutes >= 1.5 else ", a minute left"

    def _remember(self, task: Task, error: float | None) -> None:
        if error is not None and (self._best is None or error < self._best[0]):
            self._best = error, task.path.name

    def _number(self, number: int) -> str:
        width = len(str(self._total))
        return f"[{number:>{width}}/{self._total}]"
