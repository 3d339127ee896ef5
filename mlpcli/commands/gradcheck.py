"""``mlpcli gradcheck``: the gradients of a config's or a checkpoint's network, proven by numbers."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlpcli.commands import EXIT_CHECK_SAID_NO, output
from mlpcli.commands.options import set_option
from mlpcli.errors import DataError, UsageError
from mlpcli.runs.environment import THREAD_VARIABLES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlpcli.config import Config, DataConfig
    from mlpcli.datasets.load import Part
    from mlpcli.model.gradcheck import Row
    from mlpcli.model.network import Network
    from mlpcli.model.parameters import Parameters

EXAMPLES = 5
# The examples are chosen among the first so many of a data set.
CANDIDATES = 1000
# The penalty is checked with this coefficient where the config has none: others train with one.
L2 = 1e-4
# Beside the seed in the key of the generator; no other stream has it.
STREAM = 2**63

COLUMNS = {"complex": "complex step", "central": "central", "direction": "direction", "jacobian": "Jacobians"}


@click.command()
@click.argument("what", metavar="[CONFIG|CHECKPOINT]", required=False)
@set_option
@click.option(
    "--data",
    metavar="NAME|DIR",
    help="Take the examples from this data set, which must be there. [default: digits of the bundled sample]",
)
@click.option(
    "--entries",
    metavar="N",
    type=click.IntRange(min=1),
    help="Check N entries of each tensor that has more; biases are always checked whole. [default: 100]",
)
@click.option("--all", "every", is_flag=True, help="Check every entry of every tensor.")
@click.option(
    "--tolerance",
    "tolerances",
    metavar="[METHOD=]NUMBER",
    multiple=True,
    help="The relative error allowed, by every method or by one: complex, direction, jacobian (1e-12) or central "
    "(1e-7). Repeatable.",
)
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Of the labels, the entries and the directions drawn.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    what: str | None,
    overrides: tuple[str, ...],
    data: str | None,
    entries: int | None,
    every: bool,
    tolerances: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> int:
    """Prove every gradient on the code that trains.

    The gradients derived by hand are compared with complex steps, central differences and the output layer's explicit
    Jacobians, in float64, on a few examples with labels drawn at random: at the initial weights of CONFIG (a file, or
    the name of a shipped config; without one, the defaults), or at the trained weights of CHECKPOINT (a run, or one of
    its .npz files). Nothing is fetched. The exit status is 0 if all agree, else 1.

    \b
    Examples:
      mlpcli gradcheck
      mlpcli gradcheck softmax-regression
      mlpcli gradcheck --set network.objective=linear_hinge --set network.activation=relu
      mlpcli gradcheck --set network.hidden=[30] --all      every single entry
      mlpcli gradcheck runs/mnist-...                       a trained network
      mlpcli gradcheck my.yaml --tolerance central=1e-6 --json
    """
    if every and entries is not None:
        raise UsageError("--all checks every entry: give it, or --entries, not both")
    _one_thread()
    import numpy as np

    from mlpcli.model import gradcheck
    from mlpcli.training.batches import targets
    from mlpcli.training.loop import dropout_rates

    allowed = _tolerances(tolerances, gradcheck.TOLERANCE)
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, STREAM], np.uint64)))
    subject = _subject(what, overrides)
    X, unit, source = _examples(subject, data, rng)
    training, classes = subject.config.training, subject.network.sizes[-1]
    Y = targets(classes, training.label_smoothing)[rng.integers(classes, size=len(X))]
    l2 = training.l2 or L2
    if not as_json:
        _print_head(subject, len(X), source, l2, seed)
    rows = []
    for row in gradcheck.check(
        subject.network,
        subject.theta,
        X,
        Y,
        rng,
        l2=l2,
        unit=unit,
        rates=dropout_rates(subject.config),
        entries=None if every else entries or gradcheck.ENTRIES,
        tolerance=allowed,
    ):
        rows.append(row)
        if not as_json:
            _print_row(row)
    passed = all(row.verdict == gradcheck.PASSED for row in rows)
    if as_json:
        output.result_json(
            {
                "verdict": "passed" if passed else "failed",
                "network": {
                    "sizes": list(subject.network.sizes),
                    "activation": subject.network.activation.name,
                    "objective": subject.network.objective.name,
                    "parameters": len(subject.theta.vector),
                },
                "weights": subject.weights,
                "examples": {"count": len(X), "source": source, "labels": "random"},
                "seed": seed,
                "l2": l2,
                "tolerance": allowed,
                "tensors": [_document(row) for row in rows],
            }
        )
    else:
        _print_verdict(rows, allowed, subject.network)
    return 0 if passed else EXIT_CHECK_SAID_NO


@dataclass(frozen=True)
class _Subject:
    """What is checked; ``weights`` says in words where theta comes from."""

    config: Config
    network: Network
    theta: Parameters
    weights: str


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
        allowed.update(dict.fromkeys([method] if sign else allowed, value))
    return allowed


def _one_thread() -> None:
    """Unless told otherwise: for matrices of five examples, a second thread costs more than it gives."""
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, "1")


def _subject(what: str | None, overrides: tuple[str, ...]) -> _Subject:
    path = Path(what) if what is not None else None
    if path is not None and (path.is_dir() or path.suffix == ".npz"):
        if overrides:
            raise UsageError(f"{what}: a checkpoint is checked as it is; --set is for configs")
        return _trained(path)

    from mlpcli import config as config_module

    return _initial(config_module.load(config_module.find(what) if what is not None else None, overrides))


def _trained(path: Path) -> _Subject:
    from mlpcli.runs import checkpoint as checkpoints
    from mlpcli.runs.directory import find_checkpoint
    from mlpcli.training.loop import network_for

    found = find_checkpoint(path)
    checkpoint = checkpoints.read(found)
    network = network_for(checkpoint.config, math.prod(checkpoint.image_shape), checkpoint.classes)
    return _Subject(checkpoint.config, network, checkpoint.parameters, f"{found}, epoch {checkpoint.epoch}")


def _initial(config: Config) -> _Subject:
    from mlpcli.datasets.catalogue import CATALOGUE
    from mlpcli.model.parameters import initialize
    from mlpcli.training.loop import network_for
    from mlpcli.training.streams import stream

    entry = CATALOGUE.get(config.data.dataset)
    if entry is not None:
        inputs, classes = 28 * 28, entry.classes  # all of the catalogue have MNIST's size
    else:
        part = _load(config.data, config.data.dataset)
        inputs, classes = part.split.images.shape[1], part.classes
    network = network_for(config, inputs, classes)
    theta = network.parameters("float64")
    section = config.network
    rng = stream(config.seed, "initialization")
    initialize(theta, section.initialization, section.initial_scale, section.activation, rng)
    return _Subject(config, network, theta, f"initial weights of seed {config.seed}")


def _load(data: DataConfig, dataset: str) -> Part:
    """The training images of ``dataset``, all of them and from the disk."""
    from dataclasses import replace

    from mlpcli.datasets.load import load_split

    return load_split(replace(data, dataset=dataset, offline=True, fallback=None, validation=0.0), "train")


def _examples(subject: _Subject, data: str | None, rng: np.random.Generator) -> tuple[NDArray[Any], float, str]:
    """Inputs (B, D), what they are multiples of, and where they are from."""
    from mlpcli.datasets.deskew import preprocessed
    from mlpcli.training.batches import UNIT

    inputs = subject.network.sizes[0]
    if data is None and inputs != 28 * 28:
        return rng.uniform(size=(EXAMPLES, inputs)), 1.0, "random inputs"
    part = _load(subject.config.data, data if data is not None else "mnist-sample")
    images = preprocessed(part.split.images[:CANDIDATES], part.image_shape, subject.config.data.preprocessing)
    if images.shape[1] != inputs:
        raise DataError(f"{part.name}: its images have {images.shape[1]} pixels, and the network takes {inputs} inputs")
    return images[_brightest(images)], UNIT, f"images of {part.name}"


def _brightest(images: NDArray[np.uint8]) -> list[int]:
    """The images that together leave few pixels dark, each the one that lights most of those still dark."""
    lit = images > 0
    chosen: list[int] = []
    for _ in range(min(EXAMPLES, len(images))):
        chosen.append(int(lit.sum(axis=1).argmax()))
        lit = lit & ~lit[chosen[-1]]
    return chosen


def _print_head(subject: _Subject, examples: int, source: str, l2: float, seed: int) -> None:
    network = subject.network
    form = f"{'-'.join(map(str, network.sizes))}, {network.activation.name}, {network.objective.name}"
    output.result(f"network   {form}; {len(subject.theta.vector):,} parameters, {subject.weights}")
    output.result(f"examples  {examples} {source}, their labels drawn at random; seed {seed}")
    training = subject.config.training
    without = "" if training.l2 else "; the config has none"
    output.result(f"penalty   l2 = {l2:g}{without}")
    if training.dropout or training.input_dropout:
        shares = f"{training.input_dropout:g} of the inputs and {training.dropout:g} of the hidden units"
        output.result(f"dropout   {shares}, the same in every pass")
    if training.label_smoothing:
        output.result(f"targets   smoothed by {training.label_smoothing:g}")
    output.result("")
    output.result(_line("tensor", "shape", "checked", COLUMNS, "verdict"))


def _print_row(row: Row) -> None:
    size = math.prod(row.shape)
    checked = f"{row.checked:,}" if row.checked == size else f"{row.checked:,} of {size:,}" if row.checked else "-"
    errors = {method: _number(row.errors.get(method)) for method in COLUMNS}
    verdict = output.colour(row.verdict, "green" if row.verdict == "passed" else "red")
    output.result(_line(row.name, " x ".join(f"{units:,}" for units in row.shape), checked, errors, verdict))


def _line(name: str, shape: str, checked: str, errors: dict[str, str], verdict: str) -> str:
    return f"{name:<11} {shape:<12} {checked:<15}" + "".join(f"{text:>13}" for text in errors.values()) + f"  {verdict}"


def _number(error: float | None) -> str:
    if error is None:
        return "-"
    return f"{error:.1e}" if error else "0"


def _print_verdict(rows: list[Row], allowed: dict[str, float], network: Network) -> None:
    output.result(_line("allowed", "", "", {method: f"{allowed[method]:.0e}" for method in COLUMNS}, "") + "\n")
    used = (network.activation.name if len(network.sizes) > 2 else "", network.objective.name)
    kinked = " or ".join(name for name in used if name in ("relu", "linear_hinge"))
    for row in rows:
        if row.kinks:
            some = ", ".join(row.kinks[:5]) + (" ..." if len(row.kinks) > 5 else "")
            output.result(f"{row.name}: {len(row.kinks)} left out of central, at a kink of {kinked}: {some}")
    for row in rows:
        if row.worst:
            output.result(row.worst)
    for verdict in ("failed", "not exercised"):
        names = ", ".join(row.name for row in rows if row.verdict == verdict)
        if names:
            output.result(output.colour(f"{verdict.upper()}: {names}", "red"))
    if all(row.verdict == "passed" for row in rows):
        output.result(output.colour(f"passed: all {len(rows)}", "green"))


def _document(row: Row) -> dict[str, Any]:
    """A row of the table; an error that is not a finite number, or not measured by the method, is null."""
    errors = {method: row.errors.get(method, math.inf) for method in COLUMNS}
    return {
        "name": row.name,
        "shape": list(row.shape),
        "checked": row.checked,
        "errors": {method: error if math.isfinite(error) else None for method, error in errors.items()},
        "verdict": row.verdict,
        "kinks": list(row.kinks),
        "worst": row.worst or None,
    }
