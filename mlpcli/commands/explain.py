"""``mlpcli explain``: one example through the equations, forward, backward and one step of gradient descent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlpcli.commands import output
from mlpcli.commands.drawing import abreast, drawing, signed_drawing, terminal_width, widest
from mlpcli.commands.network import find_network
from mlpcli.commands.options import data_options, refuse_others, set_option
from mlpcli.errors import DataError, UsageError, shown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlpcli.analysis.explain import Curve, Explanation, OutputLayer
    from mlpcli.datasets.load import Bytes, SplitName
    from mlpcli.training.configured import ConfiguredNetwork

    Array = NDArray[Any]

RATE, NEURON_RATE = 0.01, 0.15
LEVELS = (0, 10, 25, 50, 100, 150, 200, 300)  # steps of the one neuron that are printed


@click.command()
@click.argument("what", metavar="[RUN|CHECKPOINT|CONFIG]", required=False)
@set_option
@click.option(
    "--split",
    type=click.Choice(["train", "validation", "test"]),
    help="Take the image from this split. [default: train for a config, else validation]",
)
@click.option(
    "--index", metavar="N", type=click.IntRange(min=0), help="Take image N of the split, counted from 0. [default: 0]"
)
@data_options
@click.option("--image", metavar="FILE", help="Take the image from a picture or an IDX file, not from a data set.")
@click.option(
    "--raw",
    is_flag=True,
    help="Do not invert, crop, scale or centre the picture: it must have bright strokes on a dark background.",
)
@click.option(
    "--label",
    metavar="K[,K...]",
    help="Take K as the true class. A multi-label objective takes several classes, or 'none' if no class is true. "
    "[default: the label in the data]",
)
@click.option(
    "--unit",
    "units",
    metavar="[LAYER:]J",
    multiple=True,
    help="Show unit J of hidden layer LAYER. Units are numbered from 0, layers from 1; without LAYER, the layer is 1. "
    "Repeatable. [default: the most active unit, the most saturated one, and the one with the largest gradient]",
)
@click.option(
    "--rate",
    metavar="ETA",
    type=float,
    help="The learning rate of the step. [default: 0.01; 0.15 for --neuron]",
)
@click.option(
    "--steps",
    metavar="N",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Take N steps of gradient descent.",
)
@click.option("--p", "probabilities", metavar="P,P,...", help="Explain the output layer alone, for these outputs p.")
@click.option("--z", "logits", metavar="Z,Z,...", help="Explain the output layer alone, for these logits z.")
@click.option("--neuron", is_flag=True, help="Train one saturated neuron with each of two losses.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, with every array in full.")
def command(
    what: str | None,
    overrides: tuple[str, ...],
    split: SplitName | None,
    index: int | None,
    dataset: str | None,
    folder: str | None,
    sources: tuple[str, ...],
    offline: bool,
    image: str | None,
    raw: bool,
    label: str | None,
    units: tuple[str, ...],
    rate: float | None,
    steps: int,
    probabilities: str | None,
    logits: str | None,
    neuron: bool,
    as_json: bool,
) -> None:
    """Show the equations of docs/derivation.md in numbers, for one image.

    The output has the forward pass to the loss, the backward pass to each layer's gradient, and a step of gradient
    descent. Beside each gradient is the same gradient computed by the complex step. The network is that of a run, of a
    checkpoint, or of CONFIG (a file, or the name of a shipped config) at its initial weights. Without an argument, the
    network is the default one at its initial weights, and the image is the first digit of the bundled sample. Nothing
    is dropped, and the image is not moved: the equations (11) to (13), of training alone, are left out.

    \b
    Examples:
      mlpcli explain
      mlpcli explain runs/mnist-... --index 12 --unit 37
      mlpcli explain runs/mnist-... --image three.png --label 3 --rate 0.1
      mlpcli explain --set network.initial_scale=20         saturated units
      mlpcli explain --set 'network.hidden=[30,30,30]'      vanishing gradients
      mlpcli explain --set network.objective=sigmoid_cross_entropy --label 3,7
      mlpcli explain --p 0.7,0.2,0.1 --label 1              the output layer alone
      mlpcli explain --neuron                               where the quadratic loss stalls
    """
    if rate is None:
        rate = NEURON_RATE if neuron else RATE
    if not 0 < rate < math.inf:
        raise UsageError(f"--rate {rate:g}: is not a number above 0")
    given = {"--p": probabilities, "--z": logits}
    alone = [*(name for name, text in given.items() if text is not None), *(["--neuron"] if neuron else [])]
    if len(alone) > 1:
        raise UsageError(f"{alone[0]} and {alone[1]} explain two things: give one of them")
    if neuron:
        refuse_others("--neuron explains one neuron", ("neuron", "rate", "as_json"))
        _explain_neuron(rate, as_json)
        return
    labels = None if label is None else _labels(label)
    if alone:
        used: tuple[str, ...] = ("probabilities", "logits", "label", "overrides", "as_json")
        refuse_others(f"{alone[0]} explains the output layer alone", used)
        _explain_output(overrides, alone[0], given[alone[0]] or "", labels, as_json)
        return
    if image is not None:
        used = ("what", "overrides", "index", "image", "raw", "label", "units", "rate", "steps", "as_json")
        refuse_others("--image takes the image from a file", used)
    if raw and image is None:
        raise UsageError("--raw is for the picture of --image")

    from mlpcli.analysis import explain
    from mlpcli.datasets.deskew import preprocessed
    from mlpcli.training.connections import connections

    network = find_network(what, overrides, "explained")
    where = _Where(split, index, dataset, folder, sources, offline)
    pixels, source, own, names = _from_file(network, image, raw, index) if image else _from_data(network, where)
    pixels = preprocessed(pixels.reshape(1, -1), network.image_shape, network.config.data.preprocessing)[0]
    architecture = network.architecture
    assumed = labels is None and own is None
    if labels is None:
        labels = own
    if labels is None:
        labels = _classes_of(explain.predicted(architecture, network.theta, pixels, network.targets))
    explanation = explain.explain(
        architecture,
        network.theta,
        pixels.reshape(network.image_shape),
        _targets(network, labels),
        l2=network.config.training.l2,
        rate=rate,
        steps=steps,
        units=[_unit(text) for text in units],
        connections=connections(network.config.network, network.image_shape),
    )
    if as_json:
        output.result_json(explanation.document(names), indent=None)
    else:
        _Printer(explanation, names).everything(network, source, assumed)


def _targets(network: ConfiguredNetwork, labels: list[int]) -> Array:
    """Return Y (K,) of these true classes."""
    from mlpcli.analysis import explain

    Y = explain.targets_of(labels, network.classes, network.architecture.objective.name)
    if network.architecture.sizes[-1] == network.classes:
        return Y
    if len(labels) != 1:
        raise UsageError("--label: one output unit says the number of one class")
    target: Array = network.targets.table(0.0)[labels[0]]
    return target


def _classes_of(label: Array) -> list[int]:
    """Return ``label`` as the list of the true classes: of a row of 0 and 1 (K,) all that are 1."""
    return [int(label)] if label.ndim == 0 else [int(k) for k in label.nonzero()[0]]


def _labels(text: str) -> list[int]:
    if text == "none":
        return []
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--label {text}: is not a class, nor several with commas between them, nor none") from None


def _unit(text: str) -> tuple[int, int]:
    layer, _, unit = text.rpartition(":")
    try:
        return int(layer or 1), int(unit)
    except ValueError:
        raise UsageError(
            f"--unit {text}: is not a unit; give its number, as in 37, or its layer too, as in 2:37"
        ) from None


def _numbers(option: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {text}: are not numbers with commas between them") from None
    if not all(map(math.isfinite, found)):
        raise UsageError(f"{option} {text}: takes finite numbers, one for each output unit")
    return found


# What is explained ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Where:
    """The options that select an image of a data set."""

    split: SplitName | None
    index: int | None
    dataset: str | None
    folder: str | None
    sources: tuple[str, ...]
    offline: bool


def _from_data(network: ConfiguredNetwork, where: _Where) -> tuple[Bytes, str, list[int], tuple[str, ...]]:
    """Return an image (D,), its source, its true classes, and the names of all classes.

    An untrained network has the names of the data that the image is from, if it has as many classes.
    """
    from mlpcli.analysis.evaluate_runs import default_split, images_for
    from mlpcli.analysis.evaluation import data_for, open_model
    from mlpcli.commands.progress import download_progress
    from mlpcli.datasets.catalogue import CATALOGUE
    from mlpcli.datasets.foreign import announcement
    from mlpcli.datasets.load import load_split

    if where.offline and where.sources:
        raise UsageError("--offline fetches nothing: leave out --source")
    split, data, names = where.split, network.config.data, network.class_names
    if network.checkpoint is not None:
        checkpoint = open_model(network.checkpoint).checkpoint
        data = data_for(
            checkpoint,
            dataset=where.dataset,
            folder=where.folder,
            sources=where.sources,
            offline=where.offline,
        )
        split = split or default_split(data)
        if announced := announcement(data):
            output.say(announced)
        whole = where.dataset is not None
        part = images_for(checkpoint, data, split, whole=whole, say=output.say, progress=download_progress())
    else:
        split = split or "train"
        # For an untrained network any digits will do, and these are always there.
        wanted = where.dataset or ("mnist-sample" if data.dataset in CATALOGUE else data.dataset)
        data = replace(data, dataset=wanted, folder=where.folder or data.folder, sources=where.sources or data.sources)
        data = replace(data, offline=where.offline, fallback=None)
        part = load_split(data, split, network.config.seed, say=output.say)
        if math.prod(part.image_shape) != math.prod(network.image_shape):
            raise DataError(f"{shown(part.name)}: its images are of another size than those the network takes")
        names = part.class_names if part.classes == network.classes else tuple(map(str, range(network.classes)))
    index = where.index or 0
    if index >= len(part.split):
        raise UsageError(f"--index {index}: the {split} images of {shown(part.name)} are 0 to {len(part.split) - 1}")
    source = f"image {index} of the {split} images of {shown(part.name)}"
    return part.split.images[index], source, _classes_of(part.split.labels[index]), names


def _from_file(
    network: ConfiguredNetwork, file: str, raw: bool, index: int | None
) -> tuple[Bytes, str, None, tuple[str, ...]]:
    """Return an image (D,), its source, None for its true classes, and the names of all classes."""
    from mlpcli.datasets import images

    transpose = network.config.data.transpose
    name = click.format_filename(file)
    found = images.from_file(Path(file), name, network.image_shape, raw=raw, transpose=transpose, say=output.say)
    index = index or 0
    if index >= len(found.pixels):
        raise UsageError(f"--index {index}: the images of {found.name} are 0 to {len(found.pixels) - 1}")
    several = [images.SEVERAL_DIGITS.format(len(found.row))] if len(found.row) > 1 and not network.multi_label else []
    doubts = [*found.remarks, *several, *(["is blank: there is no digit on it"] if found.blank[index] else [])]
    if doubts:
        raise DataError(f"{found.name}: {doubts[0].partition('; --many')[0]}")
    source = f"{found.name}[{index}]" if found.numbered else found.name
    return found.pixels[index].reshape(-1), source, None, network.class_names


# In the terminal -----------------------------------------------------------------------------------------------------


def _number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.7g}" if value else "0"


def _chain(dp: Array, jacobian: Array) -> Array:
    """Return dC/dp dp/dz (K,); NaN, infinity times 0, where the p of a true class has underflowed."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        product: Array = dp @ jacobian
    return product


def _underflow(product: Array, width: int) -> list[str]:
    """Return a remark in lines if ``product`` (K,) is undefined."""
    if not any(map(math.isnan, product)):
        return []
    text = "a true class has p = 0: float64 has no smaller number, so dC/dp is infinite and dC/dp dp/dz is undefined. "
    return _wrapped(f"     {text}dz is computed from the logits, and holds.", width)


def _small(value: float) -> str:
    """Format a number in six characters."""
    if value == 0:
        return "0"
    if abs(value) < 0.0005:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def _wrapped(text: str, width: int, indent: int = 5) -> list[str]:
    """Return ``text`` as lines at most ``width`` wide, all but the first indented."""
    import textwrap

    return textwrap.wrap(text, max(20, width), subsequent_indent=" " * indent)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int, gap: int = 2) -> list[str]:
    """Return lines at most ``width`` wide, every column as wide as it needs; what is cut says so."""
    columns = _widths(heads, rows)
    shown_columns = _columns_that_fit(columns, width, gap)
    lines = []
    for row in (heads, *rows):
        cells = [f"{text:>{wide}}" for text, wide in zip(row[:shown_columns], columns, strict=False)]
        lines.append(f"     {(' ' * gap).join(cells)}".rstrip())
    if shown_columns < len(heads):
        cut = len(heads) - shown_columns
        note = f"     ({cut} column{'s' if cut > 1 else ''} cut: {', '.join(heads[shown_columns:])}; --json has all)"
        lines += _wrapped(note, width)
    return lines


def _widths(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]


def _columns_that_fit(columns: Sequence[int], width: int, gap: int) -> int:
    """Return how many ``columns``, these characters wide, fit in ``width``; at least one."""
    fit, total = 0, 5 - gap
    for column in columns:
        total += column + gap
        if total > width and fit:
            break
        fit += 1
    return fit


class _Printer:
    """Prints an explanation, as wide as the terminal."""

    def __init__(self, explanation: Explanation, names: tuple[str, ...]) -> None:
        self.e = explanation
        self.names = names
        self.width = terminal_width()
        self.equations = {equation.name: equation for equation in explanation.equations}
        self.sizes = explanation.architecture.sizes
        # A single output unit is not the unit of a class.
        self.output = "class" if self.sizes[-1] > 1 else "unit"
        self.L = len(self.sizes) - 1
        self.checks = {(check.name, check.index): check for check in explanation.checks}

    def everything(self, network: ConfiguredNetwork, source: str, assumed: bool) -> None:
        e, architecture = self.e, self.e.architecture
        hidden = [architecture.activation.name] if self.L > 1 else []
        form = ", ".join(["-".join(map(str, self.sizes)), *hidden, architecture.objective.name])
        labels = ", ".join(map(self._called, e.labels)) or "none"
        true = (
            f"the predicted class {labels} is used as the true one"
            if assumed
            else f"true class{'es' * (len(e.labels) > 1)} {labels}"
        )
        self._say(f"network  {form}; {network.words}", 9)
        self._say(f"image    {source}; {true}", 9)
        if smoothing := network.config.training.label_smoothing:
            self._say(f"note     training smooths the targets by {smoothing:g}; Y below is the label itself", 9)
        if network.config.training.teacher is not None:
            self._say("note     in training, training.teacher gives Y; below, Y is the label itself", 9)
        if network.config.training.dropout or network.config.training.input_dropout:
            self._say("note     training drops units by (11) and (12); below, none is dropped", 9)
        if network.config.training.adversarial:
            self._say("note     training moves the image by (13) first; below, it is where it was", 9)
        output.result("")
        for line in drawing(e.image, self.width - 5):
            output.result(f"     {line}".rstrip())
        self._title("Forward")
        for n in range(1, self.L):
            self._head(f"z{n}", self._product(n))
            self._head(f"a{n}")
            self._units(n)
        self._head(f"z{self.L}", self._product(self.L))
        self._head("p")
        self._classes()
        self._head("loss", tail=f" = {_number(float(e['loss']))}", symbol="C")
        self._title("Backward")
        self._output_layer()
        for n in range(self.L, 0, -1):
            if n < self.L:
                self._hidden_layer(n)
            self._gradients(n)
        self._penalty()
        self._title("A step:  theta <- theta - eta dC/dtheta")
        self._step()
        self._title("Where learning stalls")
        self._factors()
        self._deltas()

    def _title(self, text: str) -> None:
        output.result(f"\n{text}\n{'-' * len(text)}")

    def _head(self, name: str, note: str = "", tail: str = "", symbol: str = "") -> None:
        equation = self.equations[name]
        number = f"({equation.number})" if equation.number else ""
        line = f"{number:<5}{symbol or name} = {equation.formula}{tail}"
        beside = f"{line:<40} {note}"
        if note and len(beside) <= self.width:
            output.result(beside)
        else:
            self._say(line)
            self._say(f"     {note}")

    def _say(self, text: str, indent: int = 5) -> None:
        """Print ``text`` wrapped to the terminal's width."""
        self._lines(_wrapped(text, self.width, indent))

    def _product(self, n: int) -> str:
        D, H = self.sizes[n - 1 : n + 1]
        return f"({H}) = ({D}) ({D}, {H}) + ({H})"

    def _lines(self, lines: Sequence[str]) -> None:
        for line in lines:
            output.result(line)

    def _called(self, k: int, most: int | None = None) -> str:
        """Return class k's number, and its name if it has one, in at most ``most`` characters; a cut ends in '.'."""
        name = self.names[k] if k < len(self.names) else str(k)
        text = str(k) if name == str(k) else f"{k} {shown(name)}"
        return text if most is None or len(text) <= most else f"{text[: most - 1].rstrip()}."

    def _by_class(
        self,
        heads: Sequence[str],
        rows: Sequence[Sequence[str]],
        gap: int = 2,
        above: Sequence[Sequence[str]] = (),
        below: Sequence[Sequence[str]] = (),
    ) -> None:
        """Print a table whose ``rows`` are of a class each, between others that have a first cell of their own.

        Names are cut where a column would not fit beside them.
        """
        numbered = [*above, *([str(k), *row] for k, row in enumerate(rows)), *below]
        columns = _widths(heads, numbered)
        others = columns[1 : _columns_that_fit(columns, self.width, gap)]
        room = max(columns[0], self.width - 5 - sum(column + gap for column in others))
        called = [self._called(k, room) if self.output == "class" else str(k) for k in range(len(rows))]
        if called != [str(k) for k in range(len(rows))]:
            wide = max(map(len, called))
            called = [f"{text:<{wide}}" for text in called]
            heads = [f"{heads[0]:<{wide}}", *heads[1:]]
        named = [[text, *row] for text, row in zip(called, rows, strict=True)]
        self._lines(_table(heads, [*above, *named, *below], self.width, gap))

    def _units(self, n: int) -> None:
        units = [unit for layer, unit in self.e.units if layer == n]
        z, a, slope = (self.e[f"{name}{n}"] for name in ("z", "a", "slope"))
        formula = self.equations[f"slope{n}"].formula
        rows = [[str(j), *(_number(float(v[j])) for v in (z, a, slope))] for j in units]
        self._lines(_table(["unit", f"z{n}", f"a{n}", formula], rows, self.width))
        self._say(f"     {self.sizes[n]} units: a{n} from {a.min():.4g} to {a.max():.4g}, mean {a.mean():.4g}")

    def _classes(self) -> None:
        e = self.e
        z, p = e[f"z{self.L}"], e["p"]
        rows = [[_number(z[k]), _number(p[k]), f"{e.Y[k]:g}"] for k in range(len(p))]
        self._by_class([self.output, f"z{self.L}", "p", "Y"], rows)

    def _output_layer(self) -> None:
        e, L = self.e, self.L
        dp, jacobian, dz = e["dp"], e["jacobian"], e[f"dz{L}"]
        K = len(dz)
        self._say(f"     dp/dz{L}, ({K}, {K}): row i, column j is dp_i/dz_j")
        rows = [[str(i), *(_small(v) for v in row)] for i, row in enumerate(jacobian)]
        self._lines(_table(["", *map(str, range(K))], rows, self.width, gap=1))
        self._head(f"dz{L}")
        product = _chain(dp, jacobian)
        checks = [self.checks[f"db{L}", (k,)].complex_step for k in range(K)]
        of_p = [self.checks.get(("dp", (k,))) for k in range(K)]  # none of the hinge, and none where p is 0
        rows = [
            [
                _number(dp[k]),
                "-" if check is None else _number(check.complex_step),
                *(_number(float(column[k])) for column in (product, dz, checks)),
            ]
            for k, check in enumerate(of_p)
        ]
        heads = [self.output, "dC/dp", "complex step", "dC/dp dp/dz", self.equations[f"dz{L}"].formula, "complex step"]
        self._by_class(heads, rows, gap=1)
        self._lines(_underflow(product, self.width))

    def _hidden_layer(self, n: int) -> None:
        e = self.e
        for name in (f"da{n}", f"dz{n}"):
            self._head(name, f"({self.sizes[n]})")
        units = [unit for layer, unit in e.units if layer == n]
        da, slope, dz = (e[f"{name}{n}"] for name in ("da", "slope", "dz"))
        rows = [
            [
                str(j),
                _number(da[j]),
                _number(self.checks[f"da{n}", (j,)].complex_step),
                _number(slope[j]),
                _number(dz[j]),
                _number(self.checks[f"db{n}", (j,)].complex_step),
            ]
            for j in units
        ]
        formula = self.equations[f"slope{n}"].formula
        heads = ["unit", f"da{n}", "complex step", formula, f"dz{n}", "complex step"]
        self._lines(_table(heads, rows, self.width, gap=1))

    def _gradients(self, n: int) -> None:
        import numpy as np

        e = self.e
        dW, db = e[f"dW{n}"], e[f"db{n}"]
        D, H = dW.shape
        self._head(f"dW{n}", f"({D}, {H}) = ({D}) ({H}), an outer product: norm {np.linalg.norm(dW):.6g}")
        self._head(f"db{n}", f"({H}): norm {np.linalg.norm(db):.6g}")
        rows = [
            [f"dW{n}[{i}, {j}]", _number(check.value), _number(check.complex_step)]
            for (name, index), check in self.checks.items()
            if name == f"dW{n}"
            for i, j in [index]
        ]
        self._lines(_table(["largest of its column", "by hand", "complex step"], rows, self.width))
        if (name := f"connected_dW{n}") in self.equations:
            connected, norm = int(self.e.connections[n - 1].sum()), np.linalg.norm(e[name])
            self._head(name, f"{connected:,} of {D * H:,} weights: norm {norm:.6g}", symbol=f"dW{n}")
        if n == 1:
            self._pictures()

    def _pictures(self) -> None:
        """dW1 of each unit that is shown, of no hidden layer of the class with the largest, as a picture each."""
        import numpy as np

        e = self.e
        units = [unit for layer, unit in e.units if layer == 1] if self.L > 1 else [int(np.abs(e["dz1"]).argmax())]
        kind = "unit" if self.L > 1 else self.output
        pictures = []
        for j in units:
            dW = e["connected_dW1" if self.e.connections else "dW1"][:, j]
            drawn = signed_drawing(dW.reshape(e.image.shape), self.width - 5) if dW.any() else ["all 0"]
            called = str(j) if kind == "unit" else self._called(j, 16)
            pictures.append([f"{'M1 * ' * bool(self.e.connections)}dW1 of {kind} {called}", *drawn])
        if not pictures:
            return
        self._say("     + and # above 0, - and = below")
        for line in abreast(pictures, max(1, (self.width - 3) // (widest(pictures) + 2))):
            output.result(f"     {line}".rstrip())

    def _penalty(self) -> None:
        import numpy as np

        if "penalty" not in self.equations:
            return
        self._head("penalty", "apart from C", tail=f" = {_number(float(self.e['penalty']))}", symbol="R")
        for n in range(1, self.L + 1):
            values = self.e[f"penalty_dW{n}"]
            self._head(f"penalty_dW{n}", f"to be added to dW{n}: norm {np.linalg.norm(values):.6g}", symbol=f"dR/dW{n}")

    def _step(self) -> None:
        e = self.e
        both = (e.step, e.small_step)
        steps = f", {e.step.steps} steps" if e.step.steps > 1 else ""
        promised = "predicted by the first step" if steps else "predicted, eta |dC/dtheta|^2"
        rows = [
            ["C before", *(_number(s.loss_before) for s in both)],
            ["C after", *(_number(s.loss_after) for s in both)],
            ["C fell by", *(_number(s.loss_before - s.loss_after) for s in both)],
            [promised, *(_number(s.promised) for s in both)],
        ]
        for k in e.labels if len(e.Y) > 1 else (0,):
            of = f" of {self._called(k, 17)}" if len(e.Y) > 1 else ""
            rows.append([f"p{of} before", *(_number(s.p_before[k]) for s in both)])
            rows.append([f"p{of} after", *(_number(s.p_after[k]) for s in both)])
        heads = ["", f"eta = {e.step.rate:g}{steps}", f"eta = {e.small_step.rate:g}"]
        rows = [[f"{row[0]:<28}", *row[1:]] for row in rows]
        self._lines(_table(heads, rows, self.width))

    def _factors(self) -> None:
        import numpy as np

        from mlpcli.analysis.explain import SATURATION

        e = self.e
        rows = [
            [
                str(factor.layer),
                f"{factor.largest:.4g}",
                f"{factor.median:.4g}",
                f"{factor.saturated:.1%}",
                f"{np.linalg.norm(e[f'dz{factor.layer}']):.4g}",
            ]
            for factor in e.factors
        ]
        if rows:
            self._say("     the factor f'(z) by which each hidden layer multiplies the gradient")
            self._lines(
                _table(
                    ["layer", "largest", "median", SATURATION[e.architecture.activation.name], "norm of dz"],
                    rows,
                    self.width,
                )
            )

    def _deltas(self) -> None:
        import numpy as np

        e = self.e
        self._say(f"     dz{self.L} for the same logits, by each objective")
        names = list(e.deltas)
        halves = [_halves(name) for name in names]
        rows = [[_small(e.deltas[name][k]) for name in names] for k in range(len(e.Y))]
        norms = ["norm", *(_small(float(np.linalg.norm(e.deltas[name]))) for name in names)]
        heads = [self.output, *(unit for unit, _ in halves)]
        self._by_class(heads, rows, above=[["", *(loss for _, loss in halves)]], below=[norms])


def _halves(objective: str) -> tuple[str, str]:
    unit, _, loss = objective.partition("_")
    return unit, loss.replace("_", "-").replace("entropy", "e.")


# The output layer alone, and one neuron ------------------------------------------------------------------------------


def _explain_output(
    overrides: tuple[str, ...], option: str, text: str, labels: list[int] | None, as_json: bool
) -> None:
    from mlpcli import config as config_module
    from mlpcli.analysis import explain
    from mlpcli.training.targets import MultiLabel, OneHot

    config = config_module.load(None, overrides)
    objective, smoothing = config.network.objective, config.training.label_smoothing
    values = _numbers(option, text)
    if len(values) < 2 and objective not in config_module.INDEPENDENT_OUTPUTS:
        raise UsageError(
            f"{option} {text}: {objective} compares outputs, and there is one; give a number for each class"
        )
    if len(values) > 1 and config.network.single_output:
        raise UsageError(f"{option} {text}: network.single_output has one output; give one number")
    if labels is None:
        raise UsageError(f"{option} has no true class: give one with --label")
    if config.training.teacher is not None:
        raise UsageError(f"{option} has no image, for which training.teacher has targets: leave out training.teacher")
    Y = explain.targets_of(labels, len(values), objective)
    if smoothing:
        one_class = len(set(labels)) == 1 and len(values) > 1
        targets = OneHot(len(values)) if one_class else MultiLabel()
        Y = targets.table(smoothing)[labels[0] if one_class else Y.astype(int)]
    layer = explain.output_layer_alone(objective, values, Y, logits=option == "--z")
    if as_json:
        output.result_json(layer.document())
    else:
        _print_output(layer)


def _print_output(layer: OutputLayer) -> None:
    width, K = terminal_width(), len(layer.p)
    head = [f"objective  {layer.objective}: p = {layer.output_unit}, C = {layer.loss_formula}"]
    for text in (*head, *([f"note       {layer.note}"] if layer.note else [])):
        for line in _wrapped(text, width, 11):
            output.result(line)
    output.result(f"\n(3)  C = {_number(layer.loss)}")
    for name, value in layer.terms:
        output.result(f"     {name} = {_number(value)}")
    output.result("\n     dp/dz: row i, column j is dp_i/dz_j")
    rows = [[str(i), *(_small(v) for v in row)] for i, row in enumerate(layer.jacobian)]
    for line in _table(["", *map(str, range(K))], rows, width, gap=1):
        output.result(line)
    output.result(f"\n(4)  dz = {layer.delta_formula}")
    product = _chain(layer.dp, layer.jacobian)
    columns = (layer.p, layer.Y, layer.dp, product, layer.dz)
    rows = [[str(k), *(_number(float(column[k])) for column in columns)] for k in range(K)]
    table = _table(["class" if K > 1 else "unit", "p", "Y", "dC/dp", "dC/dp dp/dz", layer.delta_formula], rows, width)
    for line in (*table, *_underflow(product, width)):
        output.result(line)


def _explain_neuron(rate: float, as_json: bool) -> None:
    from mlpcli.analysis import explain

    curves = explain.neuron(rate=rate, steps=LEVELS[-1])
    if as_json:
        output.result_json({"rate": rate, "curves": [curve.document() for curve in curves]}, indent=None)
        return
    width = terminal_width()
    head = (
        "One neuron, p = sigmoid(w x + b), with x = 1 and target 0. It begins wrong: w = b = 2, p = 0.982. "
        f"Steps of gradient descent, eta = {rate:g}, by two losses."
    )
    for line in (*_wrapped(head, width, 0), ""):
        output.result(line)
    quadratic, entropy = curves
    heads = ["step", *(f"{name}, {loss}" for loss in ("quadratic", "cross-entropy") for name in ("p", "dz"))]
    rows = [[str(n), *(f"{v:.4f}" for c in (quadratic, entropy) for v in (c.p[n], c.dz[n]))] for n in LEVELS]
    for line in (*_table(heads, rows, width), ""):
        output.result(line)
    _plot(curves, width)
    lesson = (
        "The quadratic loss's dz = p p (1 - p) is small where p is near 1, that is where it is most wrong; "
        "cross-entropy's dz = p is largest there."
    )
    for line in ("", *_wrapped(lesson, width, 0)):
        output.result(line)


def _plot(curves: Sequence[Curve], width: int) -> None:
    """Draw p against the step: a letter for each loss."""
    rows, columns = 11, min(61, max(20, width - 10))
    grid = [[" "] * columns for _ in range(rows)]
    for letter, curve in zip("qc", curves, strict=True):
        for x in range(columns):
            p = curve.p[round(x * (len(curve.p) - 1) / (columns - 1))]
            grid[round((1 - p) * (rows - 1))][x] = letter
    for y, row in enumerate(grid):
        label = f"{1 - y / (rows - 1):.1f}" if y % 5 == 0 else ""
        output.result(f"  p {label:>3} |{''.join(row)}".rstrip())
    output.result(f"        +{'-' * columns}")
    output.result(f"         0{'step':^{columns - 4}}{len(curves[0].p) - 1}")
    output.result("         q quadratic, c cross-entropy")
