"""Pictures of runs, made with matplotlib: learning curves, layers, confusion matrix, weights and mistakes.

A ``draw_...`` function fills an empty Figure; :func:`render` passes it one and returns the bytes of the file. The style
is set here alone: the user's matplotlibrc has no effect, and matplotlib's global state does not change. Equal contents
give equal bytes.

For print and for colour-blind readers, the colours are those of Okabe and Ito 2008, "Color Universal Design", and every
line has its own marker or dash. Colour maps go from dark to light, so that they can be read in grey.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.errors import RunError, UsageError
from mlpcli.errors import shown as one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from mlpcli.analysis.evaluation import Evaluation
    from mlpcli.runs.checkpoint import Checkpoint

Array = NDArray[Any]
Draw = Callable[["Figure"], None]

FORMATS = ("png", "svg")
DOTS_PER_INCH = 150

# Okabe and Ito's, the darker ones first; grey replaces their yellow, which is hard to see on white paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
MARKERS = ("o", "s", "^", "D", "v")
MAX_RUNS = len(COLOURS) * len(MARKERS)  # beyond that, pairs of colour and marker would repeat
MAX_NAMED_LAYERS = len(COLOURS)
MAX_RUNS_WITH_LAYERS = 8
MAX_MARKERS = 12  # on a line
SMALLEST, LARGEST = 1e-290, 1e290
DASHES = (0, (2.5, 1.2))

SIGNED = "cividis"  # from dark, below zero, to light
SHARES = "Oranges"
INK = "Greys"

MAX_ANNOTATED_CELLS = 20
MAX_RUN_NAME = 56  # characters of a run's name
MAX_CLASS_NAME = 14  # characters of a class name
MAX_PIXELS_PER_SIDE = 112  # of an image in a mosaic

STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # included in matplotlib
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "figure.titlesize": 11.0,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.wspace": 0.04,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "text.parse_math": False,  # a run may be called $x$
    "text.usetex": False,
    "svg.fonttype": "path",  # looks the same everywhere
    "svg.hashsalt": "mlpcli",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class History:
    """Epochs of one run, the lines of its metrics.jsonl (at least one), and the run's name in the picture."""

    name: str
    objective: str
    records: Sequence[dict[str, Any]]

    def series(self, key: str) -> Array:
        """Return the metric ``key`` of each epoch (E,); NaN where it is null."""
        return _drawable([math.nan if line[key] is None else line[key] for line in self.records])

    def layers(self, key: str) -> Array:
        """Return ``key`` by epoch and layer (E, L); (E, 0) if missing. Raises ``RunError`` if L varies."""
        rows = [line[key] or [] for line in self.records]
        if len({*map(len, rows)}) > 1:
            raise RunError(f"{self.name}: metrics.jsonl is damaged: the number of layers of {key} varies")
        return _drawable(rows)

    @property
    def best_epoch(self) -> int | None:
        """Return the epoch of the lowest (validation error, validation loss)."""
        scores = [
            (line["validation_error"], line["validation_loss"], line["epoch"])
            for line in self.records
            if line["validation_error"] is not None and line["validation_loss"] is not None
        ]
        return min(scores)[2] if scores else None


def require_matplotlib() -> None:
    """Raise ``UsageError`` if matplotlib is missing or does not work."""
    # A notebook's backend is inherited by child processes, where it may not exist. Drawing to a file needs none.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(f"pictures need matplotlib: pip install 'mlpcli[plots]' ({error})") from error
    except Exception as error:  # it reads the user's settings when imported, which may fail
        raise UsageError(f"matplotlib does not start: {error}; check its installation and matplotlibrc") from error
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def render(draw: Draw, form: str, title: str) -> bytes:
    """Return the drawing of ``draw`` as the bytes of a file in ``form`` of ``FORMATS``, with ``title`` as metadata.

    Raises ``UsageError`` if matplotlib is missing.
    """
    require_matplotlib()
    import warnings

    import matplotlib as mpl
    from matplotlib.figure import Figure

    metadata = {"svg": {"Title": title, "Date": None, "Creator": None}, "png": {"Title": title, "Software": None}}
    file = io.BytesIO()
    with warnings.catch_warnings(), mpl.rc_context():
        warnings.simplefilter("ignore")  # for letters that the font does not have
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(dpi=DOTS_PER_INCH, layout="constrained")
        draw(figure)
        figure.savefig(file, format=form, dpi=DOTS_PER_INCH, metadata=metadata[form])
    return file.getvalue()


# Over the epochs -----------------------------------------------------------------------------------------------------


def draw_curves(figure: Figure, runs: Sequence[History]) -> None:
    """Draw loss and error of ``runs``, at most ``MAX_RUNS``, against the epoch: training and validation."""
    legend = _Legend()
    grey: dict[str, Any] = {"color": "#444444"}
    legend.add("training (running mean)", linestyle=DASHES, **grey)
    if any(run.best_epoch for run in runs):
        legend.add("validation", **grey)
        legend.add("lowest validation error", linestyle="none", **{**_ring(), "mec": "#444444"})
    for number, run in enumerate(runs):
        legend.add(shown(run.name), **_line_style(number))
    figure.set_size_inches(10, 4.2 + legend.inches)
    figure.suptitle("Learning curves" if len(runs) > 1 else f"Learning curves of {shown(runs[0].name)}")
    loss, error = figure.subplots(1, 2)
    for axes, key, scale in ((loss, "loss", 1), (error, "error", 100)):
        values = []
        for number, run in enumerate(runs):
            style = _line_style(number)
            epochs, best = run.series("epoch"), run.best_epoch
            training, validation = (scale * run.series(f"{split}_{key}") for split in ("train", "validation"))
            values += [training, validation]
            # A marker at the end only: enough to identify the run, too few to be mistaken for validation.
            axes.plot(epochs, training, linestyle=DASHES, mfc="white", markevery=[-1], **style)
            if best is not None:
                axes.plot(epochs, validation, markevery=_markers(len(epochs), number), **style)
                axes.plot(best, validation[epochs == best], **_ring(), mec=style["color"])
        _scale(axes, values)
        _epochs(axes, max(run.records[-1]["epoch"] for run in runs))
    objectives = {run.objective for run in runs}
    own = "of each run's own objective" if len(objectives) > 1 else runs[0].objective
    in_nats = objectives <= {"softmax_cross_entropy", "sigmoid_cross_entropy", "normalized_sigmoid"}
    loss.set(title=f"Loss, {own}", ylabel=f"loss ({'nats an image' if in_nats else 'no unit'})")
    error.set(title="Error", ylabel="error (% of the images)")
    legend.draw(figure)


def draw_layers(figure: Figure, runs: Sequence[History]) -> None:
    """Draw gradient norms and, for sigmoids, saturation by epoch: a row per run of ``runs``, a line per layer.

    There are at most ``MAX_RUNS_WITH_LAYERS`` runs, and all have the same scales.
    """
    norms = [run.layers("gradient_norm") for run in runs]
    saturation = [100 * run.layers("saturation") for run in runs]
    most = max(each.shape[1] for each in norms)
    by_name = most <= MAX_NAMED_LAYERS
    legend = _Legend()
    for layer in range(most if by_name else 0):
        legend.add(_layer_name(layer, most), **_line_style(layer))
    has_saturation = any(each.size > 0 for each in saturation)
    figure.set_size_inches(10 if has_saturation else 6.5, (4.2 if len(runs) == 1 else 3.2 * len(runs)) + legend.inches)
    figure.suptitle(f"Layers of {shown(runs[0].name)}" if len(runs) == 1 else "Layers")
    rows = figure.subplots(len(runs), 1 + has_saturation, squeeze=False)
    for run, panels, *both in zip(runs, rows, norms, saturation, strict=True):
        layers, epochs = both[0].shape[1], run.series("epoch")
        looks = [_line_style(layer) if by_name else _graded(layer, most) for layer in range(layers)]
        for axes, lines in zip(panels, both, strict=False):
            for layer, values in enumerate(lines.T):
                axes.plot(epochs, values, markevery=_markers(len(epochs), layer), **looks[layer])
            _epochs(axes, max(each.records[-1]["epoch"] for each in runs))
        _scale(panels[0], norms)
        name = "" if len(runs) == 1 else f"{shown(run.name)}\n"
        panels[0].set(
            title=f"{name}Gradient of the epoch's last full batch", ylabel="Euclidean norm (loss per unit of parameter)"
        )
        if has_saturation and both[1].size == 0:
            panels[1].set_axis_off()
        elif has_saturation:
            panels[1].set(title="Saturated hidden units, |z| > 4.6", ylabel="fraction (% of units and images)")
            _linear(panels[1], np.concatenate([each.ravel() for each in saturation]))
    legend.draw(figure)
    if not by_name:
        _layers_bar(figure, rows.ravel(), most)


def _drawable(numbers: Sequence[Any]) -> Array:
    """Return ``numbers`` as an array whose values can be scaled without overflow."""
    array = np.array(numbers, np.float64)
    array[np.abs(array) < SMALLEST] = 0
    return np.clip(array, -LARGEST, LARGEST)


def _line_style(number: int) -> dict[str, Any]:
    """Return the colour and the marker of line ``number``, counted from 0."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _ring() -> dict[str, Any]:
    return {"marker": "o", "mfc": "none", "ms": 10.0, "mew": 1.2}


def _graded(layer: int, layers: int) -> dict[str, Any]:
    """Return colours from dark to light, for more lines than a legend can name."""
    import matplotlib as mpl

    return {"color": mpl.colormaps[SIGNED](0.92 * layer / (layers - 1)), "linewidth": 1.0}


def _layer_name(layer: int, layers: int) -> str:
    if layers == 1:
        return "layer 1, the only one"
    return f"layer {layer + 1}" + (" (first)" if layer == 0 else " (output)" if layer == layers - 1 else "")


def _layers_bar(figure: Figure, panels: Any, layers: int) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.ticker import MaxNLocator

    colours = ListedColormap([_graded(layer, layers)["color"] for layer in range(layers)])
    mappable = ScalarMappable(Normalize(0.5, layers + 0.5), colours)
    bar = figure.colorbar(mappable, ax=list(panels), label="layer, the last is the output's", shrink=0.9)
    bar.locator = MaxNLocator(integer=True)
    bar.update_ticks()


def _markers(epochs: int, number: int) -> tuple[int, int]:
    """Return the first marker and their distance in epochs, such that markers of neighbouring lines lie apart."""
    every = max(1, math.ceil(epochs / MAX_MARKERS))
    return number * max(1, every // 3) % every, every


def _epochs(axes: Axes, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch (passes over the training images)")
    # Space for the first and the last marker, and some width for a single epoch.
    margin = max(0.5 if epochs == 1 else 0.0, 0.03 * (epochs - 1))
    axes.set_xlim(1 - margin, epochs + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _scale(axes: Axes, series: Sequence[Array]) -> None:
    """Set a logarithmic axis if the values span more than a factor of 4, with 0 at its foot if there are zeros."""
    from matplotlib.ticker import FuncFormatter

    values = np.concatenate([each[np.isfinite(each)] for each in series])
    above = values[values > 0]
    if (values < 0).any() or len(above) == 0 or above.max() < 4 * above.min():
        _linear(axes, values)
        return
    low, high = float(above.min()), float(above.max())
    ticks = _ticks(low, high)
    # The limits are set first: limits computed for another scale may not be finite.
    if len(above) < len(values):
        axes.set_ylim(-0.15 * low, high * 1.25)
        axes.set_yscale("symlog", linthresh=low, linscale=0.3)
        ticks.insert(0, 0.0)
    else:
        axes.set_ylim(low / 1.25, high * 1.25)
        axes.set_yscale("log")
    axes.set_yticks(ticks)
    axes.set_yticks([], minor=True)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    _rules(axes)


def _ticks(low: float, high: float) -> list[float]:
    """Return 4 to 12 round numbers for a logarithmic axis from a little below ``low`` to a little above ``high``."""
    decades = math.log10(high) - math.log10(low)
    steps = (1, 2, 5) if decades < 2.5 else (1, 3) if decades < 4 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = math.ceil(decades / 12)
    ticks = [float(f"{step}e{exponent}") for exponent in exponents[::every] for step in steps]
    return [tick for tick in ticks if low / 1.25 <= tick <= high * 1.25]


def _linear(axes: Axes, values: Array) -> None:
    """Set a linear axis from 0, or from the least value if it is negative, to just above the greatest."""
    low, high = min(0.0, float(values.min(initial=0))), float(values.max(initial=0))
    axes.set_ylim(1.08 * low, 1.08 * high if high > low else 1.0)
    _rules(axes)


def _rules(axes: Axes) -> None:
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


class _Legend:
    """A legend under the panels, with as many columns as its names leave space for."""

    def __init__(self) -> None:
        self._lines: list[Line2D] = []
        self._names: list[str] = []

    def add(self, name: str, **style: Any) -> None:
        """Add a line of this style."""
        from matplotlib.lines import Line2D

        self._lines.append(Line2D([], [], **style))
        self._names.append(name)

    @property
    def _columns(self) -> int:
        longest = max(map(len, self._names), default=0)
        return min(len(self._names), 4 if longest <= 26 else 2)

    @property
    def inches(self) -> float:
        """Return its height."""
        return 0.2 * math.ceil(len(self._names) / self._columns) + 0.1 if self._names else 0.0

    def draw(self, figure: Figure) -> None:
        """Draw it below the panels."""
        if not self._names:
            return
        # Names that begin with an underscore would be left out, so the names are set afterwards.
        labels = ["x"] * len(self._names)
        style: dict[str, Any] = {"ncols": self._columns, "handlelength": 2.8}
        legend = figure.legend(self._lines, labels, loc="outside lower center", **style)
        for text, name in zip(legend.get_texts(), self._names, strict=True):
            text.set_text(name)


# Of one network ------------------------------------------------------------------------------------------------------


def draw_confusion(figure: Figure, result: Evaluation, title: str, class_names: Sequence[str] = ()) -> None:
    """Draw the confusion matrix: a row per label, a column per prediction, mistakes coloured by their fraction."""
    counts = result.confusion
    assert counts is not None  # the caller refuses several labels per image
    classes = len(counts)
    names = _captions(class_names, classes)
    figure.set_size_inches(*((7.2, 6.4) if classes <= MAX_ANNOTATED_CELLS else (8.6, 7.6)))
    figure.suptitle(title)
    axes = figure.subplots()
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = np.ma.masked_array(shares, mask=np.eye(classes, dtype=bool) | (counts == 0))
    highest = float(wrong.max()) if wrong.count() else 1.0
    axes.set_facecolor("white")
    image = axes.imshow(wrong, SHARES, vmin=0, vmax=highest, interpolation="nearest")
    # Correct predictions far outnumber mistakes and would use up the colour scale.
    right = np.ma.masked_array(np.ones((classes, classes)), mask=~np.eye(classes, dtype=bool) | (counts == 0))
    axes.imshow(right, "Greys", vmin=0, vmax=6, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="fraction of the label's images, mistakes only (%)", shrink=0.8)
    axes.set(xlabel="predicted class", ylabel="label")
    if classes <= MAX_ANNOTATED_CELLS:
        axes.set_xticks(range(classes), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(range(classes), names)
        size = 9 if classes <= 12 else 6
        for i, j in np.argwhere(counts > 0):
            dark = i != j and shares[i, j] > 0.72 * highest
            axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", size=size, color="white" if dark else "black")
        axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="#cccccc", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set(visible=True, color="#888888")


def draw_weights(figure: Figure, checkpoint: Checkpoint, title: str, most: int) -> None:
    """Draw the weights into each of the first ``most`` units of the first layer as an image of the input's shape."""
    W = checkpoint.parameters.W[0]
    units = min(most, W.shape[1])
    images = _drawable(W[:, :units].T).reshape(units, *checkpoint.image_shape)
    into_output = not checkpoint.config.network.hidden
    mosaic = _Mosaic(images, captions=1 if into_output else 0, inches=0.9 if units <= 20 else 0.6)
    figure.set_size_inches(*mosaic.inches())
    figure.suptitle(title)
    axes = figure.subplots()
    # A few very large weights must not leave all others in one shade.
    largest = float(np.abs(images).max())
    limit = float(np.quantile(np.abs(images), 0.998)) or largest or 1.0
    drawn = axes.imshow(mosaic.picture, SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
    extend = "both" if largest > limit else "neither"
    figure.colorbar(drawn, ax=axes, label="weight", shrink=0.7, extend=extend, pad=0.02)
    axes.set_axis_off()
    if into_output:
        mosaic.caption(axes, [[f"class {k}"] for k in range(units)])


def draw_mistakes(
    figure: Figure, result: Evaluation, images: Array, title: str, class_names: Sequence[str] = ()
) -> None:
    """Draw ``result.worst`` of ``images`` (N, rows, columns), each with index, label, prediction and confidence."""
    worst = result.worst
    if not worst:
        figure.set_size_inches(6, 2)
        figure.suptitle(title)
        figure.text(0.5, 0.4, f"all of the {result.examples:,} images are classified correctly", ha="center")
        return
    mosaic = _Mosaic(images[[mistake.index for mistake in worst]], captions=2, inches=1.0)
    figure.set_size_inches(*mosaic.inches())
    figure.suptitle(title)
    axes = figure.subplots()
    axes.imshow(mosaic.picture, INK, vmin=0, vmax=255, interpolation="nearest")
    axes.set_axis_off()
    score = "{:.1%}" if result.calibration else "{:.3g}"
    mosaic.frame(axes)
    names = _captions(class_names, len(result.per_class))
    mosaic.caption(
        axes,
        [
            [f"{names[m.label]} → {names[m.predicted]}, {score.format(m.confidence)}", f"image {m.index}"]
            for m in worst
            if isinstance(m.label, int) and isinstance(m.predicted, int)
        ],
    )
    what = "confidence" if result.calibration else "output of the predicted class, not a probability"
    axes.text(
        0.5, -0.01, f"label → prediction, {what}", transform=axes.transAxes, ha="center", va="top", color="#444444"
    )


def _captions(class_names: Sequence[str], classes: int) -> list[str]:
    """Return the captions of ``classes`` classes: their names, shortened, or else their numbers."""
    return [shown(name[:MAX_CLASS_NAME]) for name in class_names] or list(map(str, range(classes)))


class _Mosaic:
    """A grid of images (N, rows, columns) in one picture, with NaN between them and above each, for captions."""

    def __init__(self, images: Array, captions: int, inches: float) -> None:
        step = math.ceil(max(images.shape[1:]) / MAX_PIXELS_PER_SIDE)
        images = images[:, ::step, ::step]
        count, self.rows, self.columns = images.shape
        self.count = count
        self.across = _images_per_row(count, math.sqrt(1.6 * count * self.rows / self.columns))
        self.down = -(-count // self.across)
        self._inches = inches
        self._line = 0.16 * max(self.rows, self.columns) / inches  # height of a caption's line, in pixels
        gap = max(1, round(0.06 * max(self.rows, self.columns)))
        self._head = round(captions * self._line) + (1 if captions else 0)
        self.cell = (self.rows + self._head + gap, self.columns + gap)
        picture = np.full((self.down * self.cell[0], self.across * self.cell[1]), np.nan)
        for number, image in enumerate(images):
            top, left = self._corner(number)
            picture[top : top + self.rows, left : left + self.columns] = image
        self.picture = np.ma.masked_invalid(picture)

    def inches(self) -> tuple[float, float]:
        """Return the size of a figure with space for the title and a colour bar."""
        pixel = self._inches / max(self.rows, self.columns)
        height, width = (pixel * side for side in self.picture.shape)
        return max(5.0, width + 1.4), max(1.6, height + 0.9)

    def frame(self, axes: Axes) -> None:
        """Draw a thin line around each image."""
        from matplotlib.patches import Rectangle

        for number in range(self.count):
            top, left = self._corner(number)
            corner = (left - 0.5, top - 0.5)
            axes.add_patch(Rectangle(corner, self.columns, self.rows, fill=False, edgecolor="#999999", linewidth=0.5))

    def caption(self, axes: Axes, captions: Sequence[Sequence[str]]) -> None:
        """Write lines above each image."""
        for number, lines in enumerate(captions):
            top, left = self._corner(number)
            x = left + self.columns / 2 - 0.5
            axes.text(
                x, top - 0.5 - 0.1 * self._line, "\n".join(lines), ha="center", va="bottom", size=7, linespacing=1
            )

    def _corner(self, number: int) -> tuple[int, int]:
        """Return top and left of image ``number``."""
        row, column = divmod(number, self.across)
        return row * self.cell[0] + self._head, column * self.cell[1]


def _images_per_row(count: int, about: float) -> int:
    """Return the images per row: near ``about``, and such that few positions stay empty at the end."""
    some = range(min(count, max(1, math.floor(0.75 * about))), min(count, math.ceil(1.3 * about)) + 1)
    return min(some, key=lambda across: (-count % across, abs(across - about)))


def shown(name: str) -> str:
    """Return ``name`` as one line of limited length: its beginning and its end."""
    name = one_line(name)
    half = MAX_RUN_NAME // 2
    return name if len(name) <= MAX_RUN_NAME else f"{name[: half - 1]}…{name[-half:]}"
