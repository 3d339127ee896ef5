"""``mlpcli gradcheck``: check the gradients and the training step of a config or a checkpoint numerically."""

from __future__ import annotations

import math
import os
import signal
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from mlpcli.commands import EXIT_CHECK_FAILED, output
from mlpcli.commands.network import find_network, load_training_images
from mlpcli.commands.options import set_option
from mlpcli.commands.train import process_group
from mlpcli.errors import DataError, DivergedError, MlpcliError, RunError, UsageError
from mlpcli.parallel.control import MAX_PROCESSES, SIGNALS, ProcessGroup, Stopped
from mlpcli.runs.environment import THREAD_VARIABLES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlpcli.gradcheck.check import Check
    from mlpcli.gradcheck.rows import Row
    from mlpcli.model.build import Architecture
    from mlpcli.training.configured import ConfiguredNetwork
    from mlpcli.training.teacher import Teacher

# The methods, by the names that --tolerance and --json use: of the table of gradients, and of the table of steps.
COLUMNS = ("complex", "central", "direction", "jacobian")
STEP_COLUMNS = ("step", "float32")
# Why a row allows more than the tolerance of its method.
REASONS = {
    "central": "a gradient this small has no more digits in a difference",
    **dict.fromkeys(("complex", "direction"), "saturated units, or kinks nearby, leave its derivative no more digits"),
    "step": "the coordinates of distorted images are float32",
    "float32": "float32 leaves these steps no more digits",
}


@click.command()
@click.argument("what", metavar="[CONFIG|CHECKPOINT]", required=False)
@set_option
@click.option(
    "--data",
    metavar="NAME|PATH",
    help="Take the images from this data set, which must already be on disk. [default: digits of the bundled sample]",
)
@click.option(
    "--entries",
    metavar="N",
    type=click.IntRange(min=1),
    help="In each large tensor, check at most N entries whose derivative is nonzero, and ten whose derivative is 0. "
    "[default: 100]",
)
@click.option("--all", "every", is_flag=True, help="Check every entry of every tensor.")
@click.option(
    "--tolerance",
    "tolerances",
    metavar="[METHOD=]NUMBER",
    multiple=True,
    help="The relative error allowed for every method except float32, or only for METHOD. Repeatable. [default: 1e-12; "
    "1e-7 for central, 1e-4 for float32]",
)
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Random seed for labels, sampled entries and directions.",
)
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(1, MAX_PROCESSES),
    help="Check training steps with N processes that share memory. [default: 2, or 1 where the system has no fork]",
)
@click.option("--mpi", is_flag=True, help="Check training steps with the processes that mpiexec has started.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    what: str | None,
    overrides: tuple[str, ...],
    data: str | None,
    entries: int | None,
    every: bool,
    tolerances: tuple[str, ...],
    seed: int,
    processes: int | None,
    mpi: bool,
    as_json: bool,
) -> int:
    """Check the gradients and the training steps against independent computations.

    Each gradient derived by hand is compared with those of four independent methods, in float64. Two more methods check
    whole training steps. The methods are:

    \b
      complex    the complex step, for one entry at a time
      central    central differences of the loss, for one entry at a time
      direction  the derivative along a random direction
      jacobian   the output layer's explicit Jacobians, and the formulas of
                 loss and activations as textbooks print them
      step       training steps with one process, compared with the textbook
                 formula of the optimizer; training steps with several
                 processes, compared with those of one process; and many
                 updates of the optimizer, and many batches, by themselves
      float32    the same training steps in float32

    The check uses a few images with random labels. The weights are the initial weights of CONFIG (a file, or the name
    of a shipped config; without one, the defaults) or the trained weights of CHECKPOINT (a run, or one of its .npz
    files). Nothing is fetched. The exit status is 0 if all results agree, else 1. It is
    also 1 if a row is 'not exercised': there, all values are 0, or rounding leaves them no digit.

    \b
    Examples:
      mlpcli gradcheck
      mlpcli gradcheck softmax-regression
      mlpcli gradcheck --set network.objective=linear_hinge --set network.activation=relu
      mlpcli gradcheck --set 'network.hidden=[30]' --all    every single entry
      mlpcli gradcheck --set training.optimizer=adam --set training.learning_rate=0.001
      mlpcli gradcheck --processes 4                        training steps with four processes
      mpiexec -n 2 mlpcli gradcheck --mpi
      mlpcli gradcheck runs/mnist-...                       a trained network
      mlpcli gradcheck my.yaml --tolerance central=1e-6 --json
    """
    if every and entries is not None:
        raise UsageError("--all checks every entry: give it, or --entries, not both")
    _one_thread()
    with process_group(mpi, _processes(processes, mpi)) as group:
        # Imported late: the number of numpy's threads depends on the number of processes.
        from mlpcli.gradcheck.check import Check
        from mlpcli.gradcheck.gradients import ENTRIES
        from mlpcli.gradcheck.rows import PASSED, TOLERANCE
        from mlpcli.gradcheck.steps import CheckedSteps

        if group.rank:
            with suppress(DivergedError, Stopped):
                job = group.wait_for_job()
                if job is not None:
                    config, dataset, state, teachers = job
                    CheckedSteps(config, dataset, state, group, teachers).run_worker()
            return 0
        network = find_network(what, overrides, "checked", "float64")
        images, source = _images(network, data, seed)
        check = Check(
            network,
            images,
            seed,
            entries=None if every else entries or ENTRIES,
            tolerance=_tolerances(tolerances, TOLERANCE),
            teachers=_teachers(network, images),
        )
        if not as_json:
            _print_head(check, source, group, mpi)
        rows = []
        by_entry, steps, long_runs = map(_raised_as_rows, (check.gradients(), check.steps(group), check.long_runs()))
        if group.size > 1 and not mpi:
            steps, (by_entry, long_runs) = _at_once(steps, [by_entry, long_runs])
        for columns, table in ((COLUMNS, by_entry), (STEP_COLUMNS, chain(steps, long_runs))):
            if not as_json:
                output.result(_line("tensor", "shape", "checked", columns, "verdict"))
            for row in table:
                rows.append(row)
                if not as_json:
                    _print_row(row, columns)
            if not as_json:
                allowed = [f"{check.tolerance[method]:.0e}" for method in columns]
                output.result(_line("allowed", "", "", allowed, "").rstrip() + "\n")
        passed = all(row.verdict == PASSED for row in rows)
        if as_json:
            output.result_json(_document(check, source, rows, group.size))
        else:
            _print_verdict(rows, check.tolerance, network.architecture)
        return 0 if passed else EXIT_CHECK_FAILED


def _raised_as_rows(table: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows of ``table``, and a failed one if the code under test raises an unexpected error."""
    from mlpcli.gradcheck.rows import FAILED, Row

    try:
        yield from table
    except MlpcliError:
        raise
    except Exception as error:
        traceback.print_exc()
        reason = f"the code that is checked raised {type(error).__name__}, see above"
        yield Row("exception", (), 0, {}, FAILED, worst=reason)


def _at_once(ours: Iterator[Row], theirs: Sequence[Iterator[Row]]) -> tuple[Iterator[Row], list[Iterator[Row]]]:
    """Compute all tables at the same time, ``theirs`` in a forked process: together they take half the time."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        receiver.close()
        for number in SIGNALS:  # at Ctrl-C it ends with the command
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for table in theirs:
            sender.send(list(table))

    process = context.Process(target=work, daemon=True)
    # A signal must not be raised in the middle of the fork, nor in a process that still has this one's handlers.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    sender.close()
    here = list(ours)

    def received() -> Iterator[Row]:
        try:
            rows = receiver.recv()
        except EOFError:
            process.join()
            code = process.exitcode or 0
            how = f"by signal {-code}" if code < 0 else f"with status {code}"
            raise RunError(f"the process that checks the gradients has ended early, {how}") from None
        yield from rows

    return iter(here), [received() for _ in theirs]


def _processes(given: int | None, mpi: bool) -> int:
    """Return the number of processes to fork: two by default, where processes can fork."""
    if given is not None:
        return given
    return 2 if not mpi and hasattr(os, "fork") else 1


def _tolerances(texts: tuple[str, ...], defaults: dict[str, float]) -> dict[str, float]:
    allowed = dict(defaults)
    for text in texts:
        method, sign, number = text.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not 0 < value < 1:
            raise UsageError(f"--tolerance {text}: {number!r} is not a number between 0 and 1")
        if sign and method not in allowed:
            raise UsageError(f"--tolerance {text}: no method {method!r}; the methods are {', '.join(allowed)}")
        every = [each for each in allowed if each != "float32"]  # it has no more digits
        allowed.update(dict.fromkeys([method] if sign else every, value))
    return allowed


def _one_thread() -> None:
    """Use one thread by default: for matrices of five examples, a second one costs more time than it saves."""
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")


def _images(network: ConfiguredNetwork, data: str | None, seed: int) -> tuple[NDArray[np.uint8], str]:
    """Return images (N, D), preprocessed as for ``network``, and their source."""
    from mlpcli.datasets.deskew import preprocessed
    from mlpcli.gradcheck.check import random_images

    inputs = network.architecture.sizes[0]
    if data is None and inputs != 28 * 28:
        return random_images(seed, inputs), "random images"
    part = load_training_images(network.config.data, data if data is not None else "mnist-sample")
    found = part.split.images
    if found.shape[1] != inputs:
        raise DataError(f"{part.name}: its images have {found.shape[1]} pixels, and the network takes {inputs} inputs")
    return preprocessed(found, part.image_shape, network.config.data.preprocessing), f"images of {part.name}"


def _teachers(network: ConfiguredNetwork, images: NDArray[np.uint8]) -> Sequence[Teacher]:
    """Return the networks of ``training.teacher``, whose outputs for ``images`` are finite."""
    if not network.config.training.teacher:
        return ()
    from mlpcli.experiment import check_teachers, load_teachers  # only here: its imports take time

    found = load_teachers(network.config, network.image_shape, network.class_names, network.multi_label)
    check_teachers(found, images, network.config.data.preprocessing)
    return found


def _print_head(check: Check, source: str, group: ProcessGroup, mpi: bool) -> None:
    """Print the network that is checked, and the table's head."""
    from mlpcli.training.connections import connections, parameters_in_words

    network, training = check.network, check.network.config.training
    architecture = network.architecture
    sizes = "-".join(map(str, architecture.sizes))
    hidden = [architecture.activation.name] if len(architecture.sizes) > 2 else []
    form = ", ".join([sizes, *hidden, architecture.objective.name])
    parameters = parameters_in_words(len(network.theta), connections(network.config.network, network.image_shape))
    output.result(f"network   {form}; {parameters}, {network.words}")
    output.result(f"examples  {check.examples} {source}, with random labels; seed {check.seed}")
    output.result(f"penalty   l2 = {check.l2:g}{'' if training.l2 else '; the config has none'}")
    if training.dropout or training.input_dropout:
        rates = f"{training.input_dropout:g} of the inputs and {training.dropout:g} of the hidden units"
        output.result(f"dropout   {rates}, the same in every pass")
    if training.adversarial:
        output.result(f"inputs    in the steps, each is moved by {training.adversarial:g} along its gradient")
    if training.label_smoothing:
        output.result(f"targets   smoothed by {training.label_smoothing:g}")
    if check.teachers:
        output.result(f"targets   the mean probabilities of {', '.join(each.name for each in check.teachers)}")
    alone = "; mpiexec -n 2 would check those with 2" if mpi else ""
    others = f" and with {group.size}" if group.size > 1 else alone
    output.result(f"steps     training steps with 1 process{others}")
    output.result("")


def _document(check: Check, source: str, rows: list[Row], processes: int) -> dict[str, Any]:
    """Return all results as plain values."""
    network, architecture = check.network, check.network.architecture
    return {
        "verdict": "passed" if all(row.verdict == "passed" for row in rows) else "failed",
        "network": {
            "sizes": list(architecture.sizes),
            "activation": architecture.activation.name,
            "objective": architecture.objective.name,
            "parameters": len(network.theta),
        },
        "weights": network.words,
        "examples": {"count": check.examples, "source": source, "labels": "random"},
        "seed": check.seed,
        "l2": check.l2,
        "processes": processes,
        "tolerance": check.tolerance,
        "tensors": [_row(row) for row in rows],
    }


def _print_row(row: Row, columns: tuple[str, ...]) -> None:
    size = math.prod(row.shape)
    checked = f"{row.checked:,}" if row.checked == size else f"{row.checked:,} of {size:,}" if row.checked else "-"
    errors = [_number(row.errors.get(method)) for method in columns]
    verdict = output.colour(row.verdict, "green" if row.verdict == "passed" else "red")
    output.result(_line(row.name, " x ".join(f"{units:,}" for units in row.shape), checked, errors, verdict))


def _line(name: str, shape: str, checked: str, errors: Iterable[str], verdict: str) -> str:
    return f"{name:<17} {shape:<12} {checked:<15}" + "".join(f"{text:>13}" for text in errors) + f"  {verdict}"


def _number(error: float | None) -> str:
    if error is None:
        return "-"
    return f"{error:.1e}" if error else "0"


def _print_verdict(rows: list[Row], allowed: dict[str, float], architecture: Architecture) -> None:
    from mlpcli.gradcheck.textbook import KINKS

    used = (architecture.activation.name if len(architecture.sizes) > 2 else "", architecture.objective.name)
    kinked = " or ".join(name for name in used if name in KINKS)
    for row in rows:
        if row.kinks:
            some = ", ".join(row.kinks[:5]) + (" ..." if len(row.kinks) > 5 else "")
            output.result(f"{row.name}: {len(row.kinks)} left out of central, at a kink of {kinked}: {some}")
    for row in rows:
        for method, limit in row.allowed.items():
            if limit > allowed[method]:
                output.result(f"{row.name}: {method} allowed {limit:.1e}: {REASONS[method]}")
    for row in rows:
        if row.worst:
            output.result(row.worst)
    for verdict in ("failed", "not exercised"):
        names = ", ".join(row.name for row in rows if row.verdict == verdict)
        if names:
            output.result(output.colour(f"{verdict.upper()}: {names}", "red"))
    if all(row.verdict == "passed" for row in rows):
        output.result(output.colour(f"passed: all {len(rows)}", "green"))


def _row(row: Row) -> dict[str, Any]:
    """Return a row of the table as plain values; an error that is infinite or not measured is null."""
    errors = {method: row.errors.get(method, math.inf) for method in (*COLUMNS, *STEP_COLUMNS)}
    return {
        "name": row.name,
        "shape": list(row.shape),
        "checked": row.checked,
        "errors": {method: error if math.isfinite(error) else None for method, error in errors.items()},
        "allowed": row.allowed,
        "verdict": row.verdict,
        "kinks": list(row.kinks),
        "worst": row.worst or None,
    }
