"""Plots: contents, layout without overlaps, equal bytes for equal contents, and extreme numbers."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from mlpcli import config as config_module
from mlpcli.analysis import plots
from mlpcli.analysis.evaluation import Outputs, evaluate
from mlpcli.analysis.plots import History
from mlpcli.errors import RunError, UsageError
from mlpcli.model.parameters import Parameters

pytestmark = pytest.mark.slow

SOFTMAX = "softmax_cross_entropy"


def history(name: str = "run", epochs: int = 5, layers: int = 2, validation: bool = True, **changes: Any) -> History:
    """Return a history whose errors halve every epoch, from 40 % in training and 20 % in validation."""
    records = [
        {
            "epoch": epoch,
            "train_loss": 2.0**-epoch,
            "train_error": 0.8 * 2.0**-epoch,
            "validation_loss": 0.5 * 2.0**-epoch if validation else None,
            "validation_error": 0.4 * 2.0**-epoch if validation else None,
            "gradient_norm": [0.1 / layer for layer in range(1, layers + 1)],
            "saturation": [0.5 / layer for layer in range(1, layers)],
            **changes,
        }
        for epoch in range(1, epochs + 1)
    ]
    return History(name, SOFTMAX, records)


def drawn(draw: plots.Draw) -> tuple[Figure, bytes]:
    """Return the saved figure, and the bytes of its PNG."""
    figures: list[Figure] = []

    def keep(figure: Figure) -> None:
        draw(figure)
        figures.append(figure)

    data = plots.render(keep, "png", "title")
    return figures[0], data


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def result_of(classes: int, examples: int, right: float, worst: int = 0, probabilities: bool = True) -> Any:
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, examples)
    predicted = np.where(random.random(examples) < right, labels, random.integers(0, classes, examples))
    p = np.full((examples, classes), 0.1 / classes)
    p[np.arange(examples), predicted] += 0.9 * random.random(examples)
    return evaluate(Outputs(p, p.argmax(axis=1), 0.1, probabilities, True), labels, worst)


def checkpoint_of(sizes: tuple[int, ...], shape: tuple[int, int], fill: float | None = None) -> Any:
    theta = Parameters(sizes, "float64")
    theta.vector[...] = np.random.default_rng(1).normal(size=len(theta.vector)) if fill is None else fill
    config = config_module.load(None, [f"network.hidden={list(sizes[1:-1])}"], {})
    return SimpleNamespace(parameters=theta, image_shape=shape, config=config)


# Every picture ------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(2).integers(0, 256, (200, 6, 4))
LONG = "mnist-20260102-030405 (interrupted, 3 of 20 epochs), a name that has no end"

PICTURES: dict[str, plots.Draw] = {
    **{
        f"curves of {count}": partial(plots.draw_curves, runs=[history(f"run {i}") for i in range(count)])
        for count in (1, 2, 8)
    },
    "curves with long names": partial(plots.draw_curves, runs=[history(f"{i} {LONG}") for i in range(8)]),
    "curves of as many as there may be": partial(plots.draw_curves, runs=[history(LONG)] * plots.MAX_RUNS),
    "curves of one epoch": partial(plots.draw_curves, runs=[history(epochs=1)]),
    "curves without validation": partial(plots.draw_curves, runs=[history(validation=False)]),
    "layers of one": partial(plots.draw_layers, runs=[history(layers=1)]),
    "layers of three": partial(plots.draw_layers, runs=[history(LONG, layers=3)]),
    "layers of twenty": partial(plots.draw_layers, runs=[history(layers=20)]),
    "layers of relu": partial(plots.draw_layers, runs=[history(saturation=None)]),
    "confusion": partial(plots.draw_confusion, result=result_of(10, 500, 0.9), title=f"{plots.shown(LONG)}\nb"),
    "confusion of 256": partial(plots.draw_confusion, result=result_of(256, 500, 0.9), title="a"),
    "confusion of one": partial(plots.draw_confusion, result=result_of(1, 500, 0.9), title="a"),
    "mistakes": partial(plots.draw_mistakes, result=result_of(10, 200, 0.5, 24), images=IMAGES, title="a\nb"),
    "one mistake": partial(plots.draw_mistakes, result=result_of(10, 200, 0.5, 1), images=IMAGES, title="a\nb"),
    "no mistake": partial(plots.draw_mistakes, result=result_of(10, 200, 1.0, 24), images=IMAGES, title="a\nb"),
    "weights": partial(plots.draw_weights, checkpoint=checkpoint_of((24, 30, 10), (6, 4)), title="a\nb", most=100),
    "softmax regression": partial(plots.draw_weights, checkpoint=checkpoint_of((24, 10), (6, 4)), title="a", most=100),
}


@pytest.fixture(scope="module")
def saved() -> Callable[[str], tuple[Figure, bytes]]:
    """Return a function that draws each plot once."""
    done: dict[str, tuple[Figure, bytes]] = {}

    def saved(name: str) -> tuple[Figure, bytes]:
        if name not in done:
            done[name] = drawn(PICTURES[name])
        return done[name]

    return saved


@pytest.mark.parametrize("name", PICTURES)
def test_artists_are_inside_without_overlaps(name: str, saved: Callable[[str], tuple[Figure, bytes]]):
    figure, data = saved(name)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.size == tuple(np.round(figure.get_size_inches() * plots.DOTS_PER_INCH).astype(int))
    renderer = FigureCanvasAgg(figure).get_renderer()
    page = figure.bbox
    # An axes' box contains all its artists: labels, captions, the ticks in its limits.
    boxes: list[Any] = [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes += [each.get_window_extent(renderer) for each in (*figure.legends, *figure.texts)]
    assert len(boxes) >= 2
    for box in boxes:
        assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1
        assert page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1
    boxes = [box.shrunk(0.999, 0.999) for box in boxes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    captions = [text.get_window_extent(renderer) for axes in figure.axes for text in axes.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(captions) for b in captions[:i])


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("curves of 2", "png"),
        ("layers of twenty", "svg"),
        ("confusion", "svg"),
        ("mistakes", "svg"),
        ("weights", "png"),
    ],
)
def test_equal_contents_are_equal_bytes(name: str, form: str):
    first = plots.render(PICTURES[name], form, "a title")
    with mpl.rc_context({"text.usetex": True, "svg.hashsalt": "x", "font.size": 30.0, "savefig.dpi": 7.0}):
        before = dict(mpl.rcParams)
        assert plots.render(PICTURES[name], form, "a title") == first
        assert dict(mpl.rcParams) == before
    assert b"Matplotlib" not in first and b"date" not in first.lower().replace(b"metadata", b"")
    assert b"a title" in first


def test_every_run_has_its_colour_and_marker():
    styles = [tuple(plots._line_style(number).values()) for number in range(plots.MAX_RUNS + 1)]
    assert len({*styles[:-1]}) == plots.MAX_RUNS
    assert styles[-1] == styles[0]


@pytest.mark.parametrize("name", [plots.SIGNED, plots.SHARES, plots.INK])
def test_colour_maps_are_monotonic_in_grey(name: str):
    light = [np.dot(mpl.colormaps[name](step / 12)[:3], (0.2126, 0.7152, 0.0722)) for step in range(13)]
    assert light == sorted(light) or light == sorted(light, reverse=True)


# Contents -----------------------------------------------------------------------------------------


def test_curves_show_both_errors_of_every_epoch():
    runs = [history("first", 5), History("second", "linear_hinge", history(epochs=3, validation=False).records)]
    figure, _ = drawn(partial(plots.draw_curves, runs=runs))
    loss, error = figure.axes
    lines = [(np.array(line.get_xdata()).tolist(), np.array(line.get_ydata())) for line in error.lines]
    assert [len(x) for x, _ in lines] == [5, 5, 1, 3]  # training, validation, its best; training alone
    np.testing.assert_allclose(lines[0][1], 80 * 2.0 ** -np.arange(1, 6))
    np.testing.assert_allclose(lines[1][1], 40 * 2.0 ** -np.arange(1, 6))
    assert lines[2][0] == [5] and lines[2][1] == lines[1][1][-1]
    np.testing.assert_allclose(np.array(loss.lines[0].get_ydata()), 2.0 ** -np.arange(1, 6))
    assert legend(figure) == ["training (running mean)", "validation", "lowest validation error", "first", "second"]
    assert (loss.get_title(), loss.get_ylabel()) == ("Loss, of each run's own objective", "loss (no unit)")
    assert (error.get_ylabel(), error.get_xlabel()) == (
        "error (% of the images)",
        "epoch (passes over the training images)",
    )
    styles = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in error.lines]
    assert (
        styles[0][0] == styles[1][0] != styles[3][0] and styles[0][2] != styles[1][2] and styles[0][1] != styles[3][1]
    )


def test_loss_has_its_unit():
    figure, _ = drawn(partial(plots.draw_curves, runs=[history()]))
    assert figure.axes[0].get_title() == f"Loss, {SOFTMAX}" and figure.axes[0].get_ylabel() == "loss (nats an image)"
    assert figure.get_suptitle() == "Learning curves of run"


def test_best_epoch_has_the_lowest_error_then_loss():
    run = history(epochs=4, validation_error=0.1)
    assert run.best_epoch == 4
    run.records[1]["validation_loss"] = 1e-9
    assert run.best_epoch == 2
    assert history(validation=False).best_epoch is None


def test_error_of_zero_is_on_the_axis():
    run = history(epochs=8)
    run.records[7]["train_error"] = 0.0
    figure, _ = drawn(partial(plots.draw_curves, runs=[run]))
    low, high = figure.axes[1].get_ylim()
    assert low < 0 < high and 0 in figure.axes[1].get_yticks()
    assert figure.axes[0].get_yscale() == "log"


def test_ticks_are_round_and_few():
    for low in (1e-7, 0.0017, 0.3, 12.0):
        for factor in (4, 10, 200, 1e4, 1e9, 1e60):
            ticks = plots._ticks(low, low * factor)
            assert 2 <= len(ticks) <= 13
            assert all(f"{tick:.0e}"[0] in "1235" and f"{tick:g}" == f"{float(f'{tick:.0e}'):g}" for tick in ticks)


def test_layers_show_norms_and_saturation():
    figure, _ = drawn(partial(plots.draw_layers, runs=[history(layers=3)]))
    norms, saturation = figure.axes
    assert [line.get_ydata()[0] for line in norms.lines] == pytest.approx([0.1, 0.05, 0.1 / 3])  # type: ignore[index]
    assert [line.get_ydata()[0] for line in saturation.lines] == [50, 25]  # type: ignore[index]
    assert legend(figure) == ["layer 1 (first)", "layer 2", "layer 3 (output)"]
    # The same layer has the same style in both.
    assert [line.get_color() for line in norms.lines][:2] == [line.get_color() for line in saturation.lines]


def test_layers_of_several_runs_have_equal_scales():
    runs = [history("one", layers=3), history("two", epochs=9, layers=2, gradient_norm=[7.0, 0.001])]
    figure, _ = drawn(partial(plots.draw_layers, runs=runs))
    rows = [figure.axes[:2], figure.axes[2:4]]
    assert [axes.get_title().splitlines()[0] for axes, _ in rows] == ["one", "two"]
    for first, second in zip(*rows, strict=True):
        assert first.get_ylim() == second.get_ylim()
        assert first.get_xlim() == second.get_xlim()
    assert [len(axes.lines) for axes in figure.axes[:4]] == [3, 2, 2, 1]
    relu = partial(plots.draw_layers, runs=[*runs, history("relu", saturation=None)])
    assert [axes.axison for axes in drawn(relu)[0].axes[:6]] == [True] * 5 + [False]


@pytest.mark.parametrize("run", [history(saturation=None), history(layers=1)])
def test_without_saturation_there_is_one_panel(run: History):
    figure, _ = drawn(partial(plots.draw_layers, runs=[run]))
    assert len(figure.axes) == 1


def test_uneven_layers_are_reported_as_damage():
    run = history()
    run.records[2]["gradient_norm"] = [0.1]
    with pytest.raises(RunError, match="the number of layers of gradient_norm varies"):
        drawn(partial(plots.draw_layers, runs=[run]))


def test_confusion_matrix_has_its_counts():
    result = result_of(4, 300, 0.7)
    figure, _ = drawn(partial(plots.draw_confusion, result=result, title="a"))
    axes = figure.axes[0]
    cells = {tuple(map(round, text.get_position())): text.get_text() for text in axes.texts}
    expected = {(j, i): str(n) for (i, j), n in np.ndenumerate(result.confusion) if n}
    assert cells == expected
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "label")
    fractions = np.ma.filled(axes.images[0].get_array(), 0)  # type: ignore[arg-type]
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(fractions[off], (100 * result.confusion / result.confusion.sum(1, keepdims=True))[off])


@pytest.mark.parametrize("probabilities", [True, False])
def test_mistakes_have_true_and_predicted_class(probabilities: bool):
    result = result_of(10, 200, 0.5, 5, probabilities)
    figure, _ = drawn(partial(plots.draw_mistakes, result=result, images=IMAGES, title="a"))
    captions = [text.get_text() for text in figure.axes[0].texts]
    for mistake, caption in zip(result.worst, captions[:5], strict=True):
        score = f"{mistake.confidence:.1%}" if probabilities else f"{mistake.confidence:.3g}"
        assert caption == f"{mistake.label} → {mistake.predicted}, {score}\nimage {mistake.index}"
    assert ("not a probability" in captions[5]) != probabilities
    picture = np.ma.filled(figure.axes[0].images[0].get_array(), -1)  # type: ignore[arg-type]
    assert any(np.array_equal(window, IMAGES[result.worst[0].index]) for window in windows(picture, (6, 4)))


def windows(picture: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(picture, shape).reshape(-1, *shape)


def test_weights_of_the_first_units_are_shown():
    checkpoint = checkpoint_of((24, 30, 10), (6, 4))
    figure, _ = drawn(partial(plots.draw_weights, checkpoint=checkpoint, title="a", most=7))
    picture = np.ma.filled(figure.axes[0].images[0].get_array(), np.inf)  # type: ignore[arg-type]
    found = windows(picture, (6, 4))
    units = checkpoint.parameters.W[0].T.reshape(30, 6, 4)
    assert [any(np.array_equal(each, unit) for each in found) for unit in units] == [True] * 7 + [False] * 23
    low, high = figure.axes[0].images[0].get_clim()
    assert low == -high and high > 0
    assert not figure.axes[0].texts
    figure, _ = drawn(PICTURES["softmax regression"])
    assert [text.get_text() for text in figure.axes[0].texts] == [f"class {k}" for k in range(10)]


# Any numbers and names ----------------------------------------------------------------------------


def test_any_name_can_be_drawn():
    names = ["$x^2$", "$\\bad", "_hidden", "日本", "a\nb", "\x1b[31m", "\udcff", "", "%s {0}"]
    figure, _ = drawn(partial(plots.draw_curves, runs=[history(name) for name in names]))
    assert legend(figure)[3:] == [plots.shown(name) for name in names]
    assert all(plots.shown(name).isprintable() for name in names)
    assert plots.shown("$x^2$") == "$x^2$" and plots.shown("日本") == "日本"


def test_long_run_with_missing_epochs():
    run = history(epochs=9)
    for line in run.records:
        line["epoch"] *= 1000
    run.records[4].update(validation_error=0.0)
    figure, _ = drawn(partial(plots.draw_curves, runs=[run]))
    for axes in figure.axes:
        assert axes.get_xlim()[1] > 9000
        assert 5000 in [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1]  # type: ignore[index]
    drawn(partial(plots.draw_layers, runs=[run]))


def test_long_names_keep_both_ends():
    assert plots.shown("a" * 40 + "b" * 40) == "a" * 27 + "…" + "b" * 28


numbers = st.floats(0, 1.7e308) | st.just(0.0) | st.floats(0, 1)


@settings(max_examples=6)
@given(st.lists(st.tuples(numbers, numbers, st.none() | numbers), min_size=1, max_size=4))
def test_any_finite_numbers_can_be_drawn(values: list[tuple[float, float, float | None]]):
    run = history(epochs=len(values))
    for line, (a, b, c) in zip(run.records, values, strict=True):
        line.update(train_loss=a, train_error=b, validation_error=c, validation_loss=c, gradient_norm=[a, b])
    for draw in (partial(plots.draw_curves, runs=[run]), partial(plots.draw_layers, runs=[run])):
        figure = Figure()
        draw(figure)
        FigureCanvasAgg(figure).draw()
        assert all(np.isfinite(axes.get_ylim()).all() for axes in figure.axes)


@pytest.mark.parametrize("fill", [0.0, 5e-324, 1.7e308])
def test_any_weights_can_be_drawn(fill: float):
    checkpoint = checkpoint_of((6, 3, 2), (3, 2), fill)
    checkpoint.parameters.W[0][0] *= -1
    drawn(partial(plots.draw_weights, checkpoint=checkpoint, title="a", most=100))


def test_large_images_are_reduced():
    images = np.zeros((3, 1000, 300))
    mosaic = plots._Mosaic(images, captions=2, inches=1.0)
    assert (mosaic.rows, mosaic.columns) == (112, 34)


@given(st.integers(1, 1000), st.floats(0.01, 100))
def test_mosaic_has_room_for_all(count: int, about: float):
    across = plots._images_per_row(count, about)
    assert 1 <= across <= count


# Without matplotlib -------------------------------------------------------------------------------


def test_missing_matplotlib_names_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'mlpcli\[plots\]'"):
        plots.render(PICTURES["confusion"], "png", "")


def test_broken_matplotlib_is_reported(monkeypatch: pytest.MonkeyPatch):
    class Broken:
        @staticmethod
        def find_spec(name: str, *_: Any) -> None:
            if name == "matplotlib.figure":
                raise ValueError("a broken setting")

    monkeypatch.delitem(sys.modules, "matplotlib.figure")
    monkeypatch.setattr(sys, "meta_path", [Broken, *sys.meta_path])
    with pytest.raises(UsageError, match="matplotlib does not start: a broken setting"):
        plots.require_matplotlib()
