"""The report in a real browser: drawn on by mouse, finger and keyboard, and compared with ``mlpcli predict``.

Playwright drives an installed Chromium or Chrome; without one the tests are skipped. No browser is fetched.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, expect

from mlpcli import config, experiment
from mlpcli.analysis.evaluate_runs import evaluate_runs
from mlpcli.analysis.evaluation import open_model
from mlpcli.analysis.explain import neuron
from mlpcli.analysis.report.contents import contents
from mlpcli.analysis.report.page import page as page_of
from mlpcli.commands import _run
from mlpcli.config import DataConfig
from mlpcli.datasets import idx
from mlpcli.datasets.catalogue import FILE_NAMES, ROLES
from mlpcli.datasets.deskew import deskewed
from mlpcli.datasets.images import centred
from mlpcli.datasets.load import load_split
from mlpcli.model.parameters import initialize
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.state import State, architecture_of
from mlpcli.training.connections import connections
from tests.conftest import BROWSER, NO_DEFAULTS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian's package: chromium)"),
    pytest.mark.xdist_group("browser"),
]

ACTIVATIONS = ("sigmoid", "tanh", "relu")
OBJECTIVES = (
    "softmax_cross_entropy",
    "sigmoid_cross_entropy",
    "linear_quadratic",
    "sigmoid_quadratic",
    "linear_hinge",
    "normalized_sigmoid",
)
SCORES = ("linear_quadratic", "linear_hinge")
HOSTILE = "<img src=x onerror=hacked=1>"


def arc(x: float, y: float, across: float, down: float, first: float, last: float) -> list[tuple[float, float]]:
    """Return points of an elliptic arc, as fractions of the board; angles in degrees, clockwise from the right."""
    angles = [math.radians(first + (last - first) * i / 7) for i in range(8)]
    return [(x + across * math.cos(a), y + down * math.sin(a)) for a in angles]


# Hand-drawn digits, each a list of strokes.
DIGITS = {
    0: [arc(0.5, 0.5, 0.18, 0.28, -90, 270)],
    1: [[(0.52, 0.2), (0.48, 0.8)]],
    3: [arc(0.47, 0.34, 0.17, 0.15, -150, 90) + arc(0.47, 0.65, 0.2, 0.17, -90, 150)],
    4: [[(0.4, 0.2), (0.3, 0.55), (0.7, 0.55)], [(0.6, 0.25), (0.58, 0.8)]],
    7: [[(0.3, 0.25), (0.7, 0.25), (0.45, 0.8)]],
}


# Pages --------------------------------------------------------------------------------------------


def report(checkpoint: Path, file: Path, split: Any = "validation") -> Path:
    found = evaluate_runs([checkpoint], split)
    file.write_bytes(page_of(contents(found.models[0], found)))
    return file


def untrained(file: Path, *overrides: str) -> Path:
    """Return a checkpoint of initial weights, for the images of the bundled sample."""
    made = config.load(None, ("data.dataset=mnist-sample", "data.validation=20", *overrides), {})
    theta = architecture_of(made, 784, 10).parameters(made.network.dtype)
    initialize(theta, "nielsen", made.network.initial_scale, made.network.activation, np.random.default_rng(5))
    zeros = np.zeros_like(theta.vector)
    # The state of the default optimizer is one vector, as long as the parameters.
    state = State(theta, {"v": zeros}, epoch=1, step=1, best=(0.9, 2.3), best_epoch=1)
    checkpoints.write(file, Checkpoint(made, "mnist-sample", {}, (28, 28), 10, state))
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for one epoch on the sample, with a hostile run name."""
    run = tmp_path_factory.mktemp("runs") / f"a {HOSTILE} b"
    overrides = ("data.dataset=mnist-sample", "network.hidden=[32]", "training.epochs=2", "data.test=false")
    experiment.train(config.load(None, (*overrides, *NO_DEFAULTS), {}), out=run)
    return run


@pytest.fixture(scope="module")
def trained_page(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(trained, tmp_path_factory.mktemp("page") / "report.html")


# The browser --------------------------------------------------------------------------------------


@dataclass
class Sheet:
    """A page with its requests and errors, and methods to draw on it."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, file: Path) -> Sheet:
        self.page.goto(file.as_uri())
        return self

    def evaluate(self, code: str, argument: Any = None) -> Any:
        return self.page.evaluate(code, argument)

    def settle(self) -> None:
        """Wait for the frame in which the page draws; its policy forbids the code of Playwright's own waiting."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        assert not self.evaluate("bench.board.waiting")

    def on_screen(self, strokes: list[list[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
        """Scroll to the board and convert ``strokes`` from fractions of it to points of the window."""
        self.evaluate("byId('sheet').scrollIntoView({block: 'center'})")
        place = self.evaluate("byId('sheet').getBoundingClientRect()")
        left, top, width, height = (place[key] for key in ("left", "top", "width", "height"))
        return [[(left + x * width, top + y * height) for x, y in stroke] for stroke in strokes]

    def draw(self, strokes: list[list[tuple[float, float]]]) -> None:
        """Draw by mouse."""
        for first, *rest in self.on_screen(strokes):
            self.page.mouse.move(*first)
            self.page.mouse.down()
            for point in rest:
                self.page.mouse.move(*point)
            self.page.mouse.up()
        self.settle()

    def touch(self, finger: CDPSession, strokes: list[list[tuple[float, float]]]) -> None:
        """Draw by finger."""

        def send(kind: str, *points: tuple[float, float]) -> None:
            found = [{"x": x, "y": y} for x, y in points]
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": found})

        for first, *rest in self.on_screen(strokes):
            send("touchStart", first)
            for point in rest:
                send("touchMove", point)
            send("touchEnd")
        self.settle()

    @property
    def pixels(self) -> np.ndarray:
        return np.array(self.evaluate("bench.board.pixels && Array.from(bench.board.pixels)"), np.uint8)

    @property
    def p(self) -> np.ndarray:
        """Return the probabilities that the page shows, by class, in full precision."""
        return self.column("p")

    def column(self, name: str) -> np.ndarray:
        """Return ``p``, ``dp`` or ``dz`` of the page's table, by output unit, in full precision."""
        rows = self.evaluate("[...document.querySelectorAll('#outputs tbody tr')].map((row) => ({...row.dataset}))")
        assert [row["class"] for row in rows] == [str(k) for k in range(len(rows))]
        return np.array([float(row[name]) for row in rows if name in row])

    @property
    def verdict(self) -> str:
        return self.page.locator("#verdict").inner_text()


def open_page(context: BrowserContext) -> Sheet:
    sheet = Sheet(context.new_page())
    sheet.page.on("request", lambda request: sheet.requests.append(request.url))
    sheet.page.on("pageerror", lambda error: sheet.complaints.append(str(error)))
    sheet.page.on("console", lambda message: sheet.complaints.append(message.text))
    return sheet


@pytest.fixture
def sheet(browser: Browser, request: pytest.FixtureRequest) -> Any:
    """Open a page; assert at the end that it made no other request and logged no error."""
    context = browser.new_context(**getattr(request, "param", {"viewport": {"width": 1000, "height": 640}}))
    sheet = open_page(context)
    yield sheet
    assert sheet.requests, "the page was never opened"
    assert [url for url in sheet.requests if not url.startswith("file://")] == []
    assert len(sheet.requests) == len({*sheet.requests}), "a page asked for itself again"
    assert sheet.complaints == []
    context.close()


PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
phone = pytest.mark.parametrize("sheet", [PHONE], indirect=True, ids=["phone"])


def predicted(capsys: pytest.CaptureFixture[str], run: Path, images: list[np.ndarray], folder: Path) -> np.ndarray:
    """Return p (N, K) of images (rows, columns) by ``mlpcli predict --raw``."""
    file = folder / "images-idx3-ubyte"
    file.write_bytes(idx.encode(np.stack(images)))
    capsys.readouterr()
    assert _run(["predict", str(run), str(file), "--raw", "--json"]) == 0
    return np.array([image["p"] for image in json.loads(capsys.readouterr().out)["images"]])


# The board ----------------------------------------------------------------------------------------


def test_page_agrees_with_predict_on_drawn_digits(
    sheet: Sheet, trained: Path, trained_page: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sheet.go(trained_page)
    pixels, p, verdicts = [], [], []
    for strokes in DIGITS.values():
        sheet.evaluate("bench.board.clear()")
        sheet.draw(strokes)
        pixels.append(sheet.pixels.reshape(28, 28))
        p.append(sheet.p)
        verdicts.append(sheet.verdict)
    np.testing.assert_allclose(p, predicted(capsys, trained, pixels, tmp_path), rtol=0, atol=1e-5)
    assert verdicts == [str(k) for k in np.argmax(p, axis=1)]
    # After one second of training, most digits right is enough to see that images are not upside down.
    assert sum(verdict == str(digit) for verdict, digit in zip(verdicts, DIGITS, strict=True)) >= 4
    np.testing.assert_allclose(np.sum(p, axis=1), 1, atol=1e-12)


NETWORKS = [
    *product(["[]"], ["sigmoid"], OBJECTIVES),
    *product(["[20]"], ACTIVATIONS, ["softmax_cross_entropy"]),
    *zip(["[12,9]"] * 3, ACTIVATIONS, OBJECTIVES[1:4], strict=True),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_page_agrees_with_predict_for_every_architecture(
    sheet: Sheet, dtype: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # All of them in float32, some of two hidden layers in float64 too.
    for number, (hidden, activation, objective) in enumerate(NETWORKS if dtype == "float32" else NETWORKS[-2:]):
        overrides = (f"network.{key}={value}" for key, value in (("activation", activation), ("objective", objective)))
        form = (f"network.hidden={hidden}", f"network.dtype={dtype}", *overrides)
        path = untrained(tmp_path / f"{number}.npz", *form)
        sheet.go(report(path, tmp_path / f"{number}.html"))
        sheet.draw((DIGITS[1], DIGITS[4], DIGITS[7])[number % 3])
        expected = predicted(capsys, path, [sheet.pixels.reshape(28, 28)], tmp_path)[0]
        assert np.ptp(expected) > 0.01, form
        np.testing.assert_allclose(sheet.p, expected, rtol=1e-6, atol=1e-5, err_msg=str(form))
        assert sheet.verdict == str(expected.argmax()), form
        note = sheet.page.locator("#outputs-note").inner_text()
        assert ("no probabilities" in note or "not probabilities" in note) == (objective in SCORES)
        assert sheet.page.locator("#layers canvas").count() == hidden.count(",") + 1


def test_drawings_are_centred_as_predict_centres(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    small = [[(0.6 + 0.3 * x, 0.1 + 0.25 * y) for x, y in stroke] for stroke in DIGITS[7]]
    for strokes in (DIGITS[4], small, [[(0.1, 0.9), (0.9, 0.9), (0.9, 0.85)]]):
        sheet.draw(strokes)
        # As a text: Playwright is slow with long lists.
        size = sheet.evaluate("[bench.board.sheet.height, bench.board.sheet.width]")
        bytes_ = json.loads(
            sheet.evaluate("JSON.stringify(Array.from(bench.board.sheet.ink, (ink) => Math.round(255 * ink)))")
        )
        seen = sheet.pixels.reshape(28, 28).astype(int)
        wanted, digits = centred(np.array(bytes_, float).reshape(size))
        assert digits == 1
        assert np.abs(seen - wanted).max() <= 2
        rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
        assert max(np.ptp(rows), np.ptp(columns)) + 1 in (19, 20)  # a last row with almost no ink is rounded to 0
        sheet.page.get_by_role("button", name="Clear").click()
    sheet.page.get_by_label("Centre and scale as MNIST does").uncheck()
    sheet.draw(small)
    seen = sheet.pixels.reshape(28, 28)
    assert seen[:, :14].max() == 0 < seen[:14, 14:].max()


@phone
def test_finger_draws_as_the_mouse_does(
    sheet: Sheet, trained: Path, trained_page: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    sheet.go(trained_page)
    finger = sheet.page.context.new_cdp_session(sheet.page)
    sheet.on_screen([])
    before = sheet.evaluate("scrollY")
    sheet.touch(finger, DIGITS[3])
    assert sheet.evaluate("scrollY") == before, "drawing scrolls the page"
    expected = predicted(capsys, trained, [sheet.pixels.reshape(28, 28)], tmp_path)[0]
    np.testing.assert_allclose(sheet.p, expected, rtol=0, atol=1e-5)
    assert sheet.verdict == str(expected.argmax())
    # One stroke along the finger's path.
    [went] = sheet.evaluate("bench.board.strokes")
    side = sheet.evaluate("bench.board.sheet.width")
    far = np.linalg.norm(np.array(DIGITS[3][0])[:, np.newaxis] - np.array(went) / side, axis=2).min(axis=1)
    assert far.max() < 0.02


def test_keyboard_draws_undoes_and_clears(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    page = sheet.page
    assert page.get_by_role("button", name="Undo").is_disabled()
    assert sheet.verdict == "–"
    for _ in range(10):  # on the way are the skip link and the button for light and dark, and no more
        page.keyboard.press("Tab")
        if sheet.evaluate("document.activeElement.id") == "sheet":
            break
    assert page.locator("#pen").is_visible()
    for _ in range(8):
        page.keyboard.press("ArrowUp")
    assert sheet.evaluate("bench.board.pixels") is None  # the pen is up
    page.keyboard.press("Space")
    for _ in range(16):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    sheet.settle()
    one = sheet.pixels.reshape(28, 28)
    assert np.flatnonzero(one.any(axis=1)).size == 20  # an upright stroke, as high as the box
    assert np.flatnonzero(one.any(axis=0)).size <= 4
    expect(page.locator("#status")).to_have_text(re.compile(f"Predicted {sheet.verdict}, "))
    page.keyboard.down("ArrowRight")  # two pressed arrows move diagonally
    page.keyboard.press("Space")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowUp")
    page.keyboard.up("ArrowRight")
    page.keyboard.press("Escape")
    [_, second] = sheet.evaluate("bench.board.strokes")
    moves = np.diff(np.array(second), axis=0)
    assert len(moves) == 5
    assert (moves[:, 0] > 0).all()
    assert (moves[:, 1] < 0).all()
    page.keyboard.press("Backspace")
    sheet.settle()
    np.testing.assert_array_equal(sheet.pixels.reshape(28, 28), one)
    page.keyboard.press("Delete")
    sheet.settle()
    assert sheet.evaluate("bench.board.pixels") is None
    assert sheet.verdict == "–"


def test_undo_removes_one_stroke_and_drawing_replaces_image(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    sheet.draw(DIGITS[4][:1])
    first = sheet.pixels
    sheet.draw(DIGITS[4][1:])
    assert (sheet.pixels != first).any()
    sheet.page.get_by_role("button", name="Undo").click()
    sheet.settle()
    np.testing.assert_array_equal(sheet.pixels, first)
    sheet.page.get_by_role("button", name="Example").click()
    sheet.settle()
    assert (sheet.pixels != first).any()
    sheet.draw(DIGITS[4][:1])
    np.testing.assert_array_equal(sheet.pixels, first)


def test_hidden_units_show_activations_and_weights(sheet: Sheet, trained: Path, trained_page: Path) -> None:
    sheet.go(trained_page)
    units = sheet.page.locator("#layers canvas")

    dark = sheet.evaluate("document.querySelector('#layers canvas').toDataURL()")
    sheet.draw(DIGITS[3])
    assert sheet.evaluate("document.querySelector('#layers canvas').toDataURL()") != dark
    units.focus()
    sheet.page.keyboard.press("End")
    theta = open_model(trained).checkpoint.parameters.tensors()
    W1, b1 = (array.astype(float) for _, array in list(theta)[:2])
    a = 1 / (1 + np.exp(-(sheet.pixels / 255 @ W1 + b1)))
    np.testing.assert_allclose(sheet.evaluate("Array.from(bench.forward.a[0])"), a, atol=1e-6)
    text = str(units.get_attribute("aria-valuetext"))
    assert text.startswith("unit 31, z = ")
    assert f", a = {a[31]:.3g}, " in text
    np.testing.assert_allclose(sheet.evaluate("Array.from(network.incoming(1, 31))"), W1[:, 31])


# Backward pass and steps --------------------------------------------------------------------------

DESK = {"viewport": {"width": 1280, "height": 900}}
desk = pytest.mark.parametrize("sheet", [DESK], indirect=True, ids=["desk"])


def choose_truth(sheet: Sheet, k: int | str) -> None:
    sheet.page.get_by_role("radio", name=f"true class {k}").check()


def loss(sheet: Sheet) -> float:
    return float(sheet.evaluate("byId('loss').dataset.value"))


def cells(sheet: Sheet, grid: str) -> np.ndarray:
    """Return the colours (cells, 4) of the page's variable ``grid``, each at the corner of a cell."""
    code = (
        "(() => { const grid = %s; const { canvas } = grid;"
        "const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "return Array.from({ length: grid.cells }, (_, cell) => { const x = grid.left(cell %% grid.columns) + 1;"
        "const at = 4 * ((grid.top(Math.floor(cell / grid.columns)) + 1) * canvas.width + x);"
        "return Array.from(data.slice(at, at + 4)) }) })()"
    )
    return np.array(sheet.evaluate(code % grid))


def test_predicted_class_is_the_default_for_the_true_one(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    assert sheet.page.get_by_role("radio", name="true class 3").is_disabled()
    sheet.draw(DIGITS[3])
    k = int(sheet.verdict)
    assert loss(sheet) == pytest.approx(-math.log(sheet.p[k]))
    assert sheet.page.locator("#loss-note").inner_text() == f"loss if {k} is true: choose below"
    other = (k + 1) % 10
    sheet.page.locator(f"#outputs tr[data-class='{other}'] td").first.click()  # anywhere in the row
    assert loss(sheet) == pytest.approx(-math.log(sheet.p[other]))
    np.testing.assert_allclose(sheet.column("dz"), sheet.p - np.eye(10)[other], atol=1e-12)
    expected = np.where(np.arange(10) == other, -1 / sheet.p, 0)
    np.testing.assert_allclose(sheet.column("dp"), expected)
    # It stays while drawing continues, and is reset with the drawing.
    sheet.draw([[(0.5, 0.9), (0.52, 0.9)]])
    assert sheet.page.locator("#loss-note").inner_text() == f"loss, true class {other}"
    sheet.page.get_by_role("button", name="Clear").click()
    sheet.settle()
    assert sheet.page.locator("#loss").inner_text() == ""
    sheet.draw(DIGITS[1])
    assert "choose below" in sheet.page.locator("#loss-note").inner_text()


def test_jacobian_shows_numbers_to_pointer_and_keyboard(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    sheet.draw(DIGITS[4])
    choose_truth(sheet, 9)
    canvas, text = sheet.page.locator("#jacobian-cells"), sheet.page.locator("#jacobian-text")
    p = sheet.p

    def number() -> float:
        return float(text.inner_text().split(" = ")[1].replace("−", "-"))

    canvas.scroll_into_view_if_needed()
    place = canvas.bounding_box()
    assert place
    # p4 by z9: the fifth row, the eleventh column, the first being dC/dp.
    sheet.page.mouse.move(place["x"] + place["width"] * 0.97, place["y"] + place["height"] * 4.5 / 11.4)
    assert text.inner_text().startswith("∂p₄/∂z₉ = ")
    assert number() == pytest.approx(-p[4] * p[9], rel=1e-4)
    sheet.page.mouse.move(place["x"] + place["width"] * 0.03, place["y"] + place["height"] * 9.5 / 11.4)
    assert text.inner_text().startswith("∂C/∂p₉ = ")
    assert number() == pytest.approx(-1 / p[9], rel=1e-4)
    sheet.page.mouse.move(1, 1)
    assert text.inner_text() == "Point at a cell for its number"
    canvas.focus()
    sheet.page.keyboard.press("End")
    assert text.inner_text().startswith("dz₉ = ")
    assert number() == pytest.approx(p[9] - 1, rel=1e-4)
    sheet.page.keyboard.press("ArrowUp")
    assert str(canvas.get_attribute("aria-valuetext")).startswith("∂p₉/∂z₉ = ")
    assert number() == pytest.approx(p[9] * (1 - p[9]), rel=1e-4)
    # Blue is above 0, orange below, and the corner is not a cell.
    colours = cells(sheet, "bench.views[1].grid").reshape(11, 11, 4)
    assert colours[9, 0, 0] > colours[9, 0, 2]
    assert colours[4, 5, 2] > colours[4, 5, 0]
    assert colours[10, 0].tolist() == [0, 0, 0, 0]


def test_unit_shows_its_weights_and_their_gradient(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    sheet.draw(DIGITS[7])
    page = sheet.page
    # The default is the unit with the largest gradient.
    dz = np.array(sheet.evaluate("Array.from(bench.backward.dz[0])"))
    assert page.locator("#unit-title").inner_text() == f"Unit {np.abs(dz).argmax()}, whose gradient is the largest"
    page.locator("#layers canvas").focus()
    for _ in range(2):
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
    assert page.locator("#unit-title").inner_text() == "Unit 1"
    # Its gradient is x dz: the image in one colour.
    code = "Array.from(byId('gradient').getContext('2d').getImageData(0, 0, 28, 28).data)"
    alpha = np.array(json.loads(sheet.evaluate(f"JSON.stringify({code})"))).reshape(784, 4)[:, 3]
    expected = sheet.pixels / sheet.pixels.max()
    np.testing.assert_allclose(alpha / 255, expected, atol=0.01)
    outgoing = [text.splitlines()[-1] for text in page.locator("#outgoing-bars li").all_inner_texts()]
    wanted = sheet.evaluate("Array.from(network.outgoing(1, 1))")
    np.testing.assert_allclose([float(each.replace("−", "-")) for each in outgoing], wanted, rtol=0.06)
    picture = "document.querySelector('#layers canvas').toDataURL()"
    before = sheet.evaluate(picture)
    page.get_by_role("radio", name="dz", exact=True).check()
    assert sheet.evaluate(picture) != before
    assert re.match(r"full colour: [\d.e−]+$", page.locator("#layers figcaption span").last.inner_text())
    page.get_by_role("radio", name="a(1 − a)").check()
    assert page.locator("#layers figcaption span").last.inner_text().endswith(" % saturated, |z| > 4.6")
    # Pointing at another unit shows it while the pointer is there.
    place = page.locator("#layers canvas").bounding_box()
    assert place
    page.mouse.move(place["x"] + 3, place["y"] + 3)
    assert page.locator("#unit-title").inner_text() == "Unit 0"
    page.mouse.move(1, 1)
    assert page.locator("#unit-title").inner_text() == "Unit 1"
    page.locator("#layers canvas").focus()
    page.keyboard.press("Escape")
    assert "largest" in page.locator("#unit-title").inner_text()


LINES = """(c) => bench.views[2].graph.columns[c].lines.map((lines) => lines.map((line) => ({
  on: line.classList.contains('on'), sign: line.classList.contains('negative') ? -1 : 1,
  size: (Number(line.getAttribute('stroke-width')) - 0.5) / 3,
})))"""


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_graph_draws_what_its_lines_carry(sheet: Sheet, tmp_path: Path, activation: str) -> None:
    file = untrained(tmp_path / "best.npz", "network.hidden=[24,16]", f"network.activation={activation}")
    sheet.go(report(file, tmp_path / "report.html"))
    theta = [array.astype(float) for _, array in open_model(file).checkpoint.parameters.tensors()]
    W2, W3 = theta[2], theta[4]
    units = "(c) => bench.views[2].graph.columns[c].units"
    # Of an empty board the weights.
    one, two, classes = (sheet.evaluate(units, c) for c in range(3))
    assert classes == list(range(10))
    assert one == sorted(np.argsort(-np.linalg.norm(W2, axis=1))[:10])
    check_lines(sheet, 1, W2[np.ix_(one, two)].T)
    # Of a drawing what arrives: weight times activation; on the way back dW.
    sheet.draw(DIGITS[7])
    a1, a2 = (np.array(sheet.evaluate(f"Array.from(bench.forward.a[{n}])")) for n in range(2))
    dz2, dz3 = (np.array(sheet.evaluate(f"Array.from(bench.backward.dz[{n}])")) for n in (1, 2))
    one, two, classes = (sheet.evaluate(units, c) for c in range(3))
    assert two == sorted(np.argsort(-np.abs(a2) * np.linalg.norm(W3, axis=1), kind="stable")[:10])
    check_lines(sheet, 1, (a1[:, None] * W2)[np.ix_(one, two)].T)
    check_lines(sheet, 2, (a2[:, None] * W3)[two].T)
    assert sheet.page.locator("#graph-note").inner_text().startswith("Line: weight × activation; ")
    sheet.page.get_by_role("radio", name="dz", exact=True).check()
    check_lines(sheet, 1, np.outer(a1, dz2)[np.ix_(one, two)].T)
    check_lines(sheet, 2, np.outer(a2, dz3)[two].T)
    assert sheet.page.locator("#graph-note").inner_text().startswith("Line: dC/dW; ")


def check_lines(sheet: Sheet, column: int, expected: np.ndarray) -> None:
    """Compare colour and width of the lines to a column of the graph with what they carry, (to, from)."""
    lines = sheet.evaluate(LINES, column)
    drawn = np.array([[line["sign"] * line["size"] for line in row] for row in lines])
    np.testing.assert_allclose(drawn, expected / np.abs(expected).max(), atol=0.005)


def test_a_unit_pointed_at_shows_its_paths(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    sheet.draw(DIGITS[3])
    page = sheet.page
    nodes = page.locator("#graph-lines .node")
    units = sheet.evaluate("bench.views[2].graph.columns[0].units")
    assert page.locator("#graph-lines .on").count() == 0
    nodes.nth(4).hover()
    # The one from the image, and one to each class; below, the unit.
    assert page.locator("#graph-lines .on").count() == 11
    assert page.locator("#unit-title").inner_text() == f"Unit {units[4]}"
    faint = "getComputedStyle(document.querySelector('#graph-lines line:not(.on)')).opacity"
    assert float(sheet.evaluate(faint)) < 0.2
    page.mouse.move(1, 1)
    assert page.locator("#graph-lines .on").count() == 0
    # A class has its paths from the units that are there.
    nodes.nth(10 + 3).click()
    page.mouse.move(1, 1)
    assert page.locator("#graph-lines .on").count() == 10
    assert page.locator("#unit-title").inner_text() == "Class 3"
    assert nodes.nth(13).get_attribute("aria-pressed") == "true"
    # By the keyboard: one stop of Tab, arrows from unit to unit.
    assert page.locator("#graph-lines [tabindex='0']").count() == 1
    nodes.nth(13).focus()
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowUp")
    assert str(nodes.nth(12).get_attribute("aria-label")).startswith("Class 2: probability ")
    assert page.locator("#unit-title").inner_text() == "Class 2"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert sheet.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    assert page.locator("#unit-title").inner_text() == f"Unit {units[2]}"
    # A unit that is chosen among all of its layer is in the graph too.
    least = next(j for j in range(32) if j not in units)
    page.locator("#layers canvas").focus()
    page.keyboard.press("Home")
    for _ in range(least):
        page.keyboard.press("ArrowRight")
    assert least in sheet.evaluate("bench.views[2].graph.columns[0].units")
    assert page.locator("#graph-lines .on").count() == 11


@pytest.mark.parametrize(
    ("activation", "note"), [("tanh", "saturated, |z| > 2.3"), ("relu", "off, z ≤ 0")], ids=["tanh", "relu"]
)
def test_the_note_on_saturation_is_that_of_the_activation(
    sheet: Sheet, tmp_path: Path, capsys: pytest.CaptureFixture[str], activation: str, note: str
) -> None:
    overrides = ("network.hidden=[40]", f"network.activation={activation}", "network.initial_scale=4")
    file = untrained(tmp_path / "best.npz", *overrides)
    sheet.go(report(file, tmp_path / "report.html"))
    sheet.draw(DIGITS[7])
    sheet.page.locator("#quantity input").nth(2).check()
    said = sheet.page.locator("#layers figcaption span").last.inner_text()
    explanation, _ = explained(capsys, file, sheet.pixels.reshape(28, 28), tmp_path, "--label", 0)
    [factor] = explanation["factors"]
    median, flat = re.findall(r"median ([^,]+), (\d+) %", said)[0]
    assert said.endswith(note)
    assert 0 < factor["saturated"] < 1
    assert int(flat) == round(100 * factor["saturated"])
    assert float(median.replace("−", "-")) == pytest.approx(factor["median"], rel=0.01)


def test_steps_are_played_until_paused(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    page = sheet.page
    play = page.locator("#play")
    assert play.is_disabled()
    sheet.draw(DIGITS[7])
    wrong = (int(sheet.verdict) + 5) % 10
    choose_truth(sheet, wrong)
    before = loss(sheet)
    play.click()
    assert play.inner_text() == "Pause"
    expect(page.locator("#step-note")).to_contain_text(re.compile(r"Step (\d{2,}):"))
    play.click()
    assert play.inner_text() == "Play"
    taken, now = sheet.evaluate("[bench.views.at(-1).steps, bench.backward.C]")
    assert now < before
    page.wait_for_timeout(400)
    assert sheet.evaluate("[bench.views.at(-1).steps, bench.backward.C]") == [taken, now]
    # What was measured meanwhile and at last is of the network as it is.
    expect(page.locator("#sample-now")).to_contain_text("%")
    wrong_now = sheet.evaluate("bench.views.at(-1)._wrong(bench.network, () => true).then((wrong) => wrong.size)")
    expect(page.locator("#sample-now")).to_contain_text(f"({wrong_now})")
    # It stops where there is nothing to learn.
    play.click()
    page.locator("#clear").click()
    expect(play).to_have_text("Play")
    assert play.is_disabled()
    sheet.draw(DIGITS[7])
    play.click()
    page.locator("#reset").click()
    assert play.inner_text() == "Play"
    assert sheet.evaluate("bench.views.at(-1).steps") == 0


@pytest.mark.parametrize("sheet", [{"reduced_motion": "reduce"}], indirect=True, ids=["reduced motion"])
def test_played_steps_are_slow_for_who_wants_no_motion(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    sheet.draw(DIGITS[7])
    assert sheet.evaluate("matchMedia('(prefers-reduced-motion: reduce)').matches")
    sheet.evaluate(
        "{const each = bench.views.at(-1); const take = each._take.bind(each); window.times = [];"
        "each._take = (n) => { times.push(performance.now()); take(n); };} null"  # Playwright calls a function
    )
    sheet.page.locator("#play").click()
    expect(sheet.page.locator("#step-note")).to_contain_text("Step 3:")
    # A pause of a second, of which the drawing of a step takes a part on a busy machine; else it is a tenth.
    assert np.diff(sheet.evaluate("times")[:3]).min() > 300
    assert sheet.evaluate("document.getAnimations().length") == 0


def test_steps_learn_the_drawing_and_reset_undoes_them(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    page = sheet.page
    step, ten, reset = (page.get_by_role("button", name=name) for name in ("Take a step", "Ten times", "Reset"))
    assert step.is_disabled()
    sheet.draw(DIGITS[7])
    p, weights = sheet.p, sheet.evaluate("JSON.stringify(Array.from(bench.network.vector))")
    wrong = (int(sheet.verdict) + 5) % 10
    choose_truth(sheet, wrong)
    before = loss(sheet)
    norm2 = sheet.evaluate("bench.backward.norm2")
    page.locator("#rate").fill("-3")
    assert page.locator("#rate-value").inner_text() == "0.001"
    step.click()
    # A short step follows the slope: the loss falls by eta times the squared norm of the gradient.
    assert before - loss(sheet) == pytest.approx(0.001 * norm2, rel=0.3)
    assert page.locator("#step-note").inner_text().startswith("Step 1: C fell by ")
    page.locator("#rate").fill("-1.5")
    ten.click()
    page.get_by_role("button", name="Again").click()
    assert page.locator("#step-note").inner_text().startswith("Step 12: ")
    assert sheet.verdict == str(wrong)
    assert loss(sheet) < before / 4
    assert page.locator("#loss-trained").inner_text() == sheet.evaluate(f"number({before})")
    assert page.locator("#loss-curve").get_attribute("aria-label").startswith("Loss from ")
    expect(page.locator("#status")).to_contain_text("Step 12: loss ")
    # Only the page's copy of the weights changes, and it is restored bit for bit.
    assert sheet.evaluate("JSON.stringify(Array.from(network.vector))") == weights
    reset.click()
    assert sheet.evaluate("JSON.stringify(Array.from(bench.network.vector))") == weights
    np.testing.assert_array_equal(sheet.p, p)
    assert reset.is_disabled()


def test_sample_error_is_measured_before_and_after_steps(sheet: Sheet, trained: Path, trained_page: Path) -> None:
    sheet.go(trained_page)
    found = evaluate_runs([trained], "validation")
    n = sheet.evaluate("sample.labels.length")
    sample = np.array(
        json.loads(sheet.evaluate("JSON.stringify(run.evaluation.images.slice(0, run.evaluation.sample))"))
    )[:, 0]
    sample = sample.astype(int)
    wrong = found.ensemble.predicted[sample] != found.part.split.labels[sample]
    assert n == len(sample) == 300
    sheet.draw(DIGITS[1])
    choose_truth(sheet, 8)
    sheet.page.locator("#rate").fill("-0.5")
    sheet.page.get_by_role("button", name="Ten times").click()
    trained_error = f"{100 * wrong.mean():.2f} % ({wrong.sum()})"
    expect(sheet.page.locator("#sample-trained")).to_have_text(trained_error)
    expect(sheet.page.locator("#sample-now")).to_have_text(re.compile(r"\d+\.\d\d % \(\d+\)"))
    assert sheet.page.locator("#sample-now").inner_text() != trained_error  # it no longer recognizes ones
    forgotten = int(sheet.page.locator("#forgotten-note").inner_text().split()[0])
    now = int(re.findall(r"\((\d+)\)", sheet.page.locator("#sample-now").inner_text())[0])
    assert now - wrong.sum() <= forgotten <= now
    shown = sheet.page.locator("#forgotten button")
    assert shown.count() == min(7, forgotten)
    label = int(str(shown.first.get_attribute("aria-label")).split()[1])
    shown.first.click()
    sheet.settle()
    assert sheet.page.get_by_role("radio", name=f"true class {label}").is_checked()
    assert sheet.verdict != str(label)
    sheet.page.get_by_role("button", name="Reset").click()
    expect(sheet.page.locator("#sample-now")).to_have_text(trained_error)
    assert not sheet.page.locator("#forgotten-box").is_visible()
    assert sheet.verdict == str(label)  # which the trained weights classify correctly


def test_too_large_step_is_reported(sheet: Sheet, tmp_path: Path) -> None:
    form = ("network.objective=linear_quadratic", "network.activation=relu", "network.hidden=[8]")
    sheet.go(report(untrained(tmp_path / "relu.npz", *form), tmp_path / "relu.html"))
    sheet.draw(DIGITS[7])
    choose_truth(sheet, 2)
    sheet.page.locator("#rate").fill("1")
    for _ in range(30):
        if sheet.page.locator("#ten").is_disabled():
            break
        sheet.page.locator("#ten").click()
    assert "have overflowed" in sheet.page.locator("#step-note").inner_text()
    sheet.page.get_by_role("button", name="Reset").click()
    assert np.isfinite(sheet.p).all()
    assert sheet.page.locator("#step").is_enabled()


def explained(capsys: pytest.CaptureFixture[str], run: Path, pixels: np.ndarray, folder: Path, *more: object) -> Any:
    """Return the document of ``mlpcli explain --json`` for one image, and its equations' values by name."""
    file = folder / "image-idx3-ubyte"
    file.write_bytes(idx.encode(pixels[np.newaxis]))
    capsys.readouterr()
    assert _run(["explain", str(run), "--image", str(file), "--json", *map(str, more)]) == 0
    document = json.loads(capsys.readouterr().out)
    return document, {each["name"]: np.array(each["values"], float) for each in document["equations"]}


EXPLAINED = [
    ("[]", "sigmoid", "softmax_cross_entropy"),
    ("[]", "sigmoid", "sigmoid_cross_entropy"),
    ("[20]", "sigmoid", "sigmoid_quadratic"),
    ("[20]", "tanh", "linear_quadratic"),
    ("[12,9]", "relu", "linear_hinge"),
    ("[12,9]", "sigmoid", "softmax_cross_entropy"),
    ("[9,8,7]", "tanh", "normalized_sigmoid"),
]


@pytest.mark.parametrize(("hidden", "activation", "objective"), EXPLAINED)
def test_page_agrees_with_explain_and_after_ten_steps(
    sheet: Sheet,
    hidden: str,
    activation: str,
    objective: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    overrides = (f"network.activation={activation}", f"network.objective={objective}", f"network.hidden={hidden}")
    path = untrained(tmp_path / "network.npz", *overrides)
    sheet.go(report(path, tmp_path / "page.html"))
    sheet.draw(DIGITS[4])
    truth = (int(sheet.verdict) + 1) % 10
    choose_truth(sheet, truth)
    _, change = check_explained(sheet, path, truth, capsys, tmp_path)
    assert change > 1e-3


def test_steps_of_a_locally_connected_network_change_its_connections_only(
    sheet: Sheet, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    overrides = ("network.hidden=[20,12]", "network.receptive_fields=[6,7]")
    path = untrained(tmp_path / "network.npz", *overrides)
    sheet.go(report(path, tmp_path / "page.html"))
    sheet.draw(DIGITS[4])
    truth = (int(sheet.verdict) + 1) % 10
    choose_truth(sheet, truth)
    check_explained(sheet, path, truth, capsys, tmp_path)
    masks = connections(config.load(None, overrides, {}).network, (28, 28))
    for layer, M in enumerate(masks):
        changed = sheet.evaluate(f"Array.from(bench.network.W[{layer}], (w, at) => w !== network.W[{layer}][at])")
        assert any(changed)
        assert not any(np.array(changed)[M.ravel() == 0])
    assert sheet.page.locator("#gradient-note").inner_text() == "dW₁ = M₁ ⊙ xᵀ dz₁"
    fixed = sum(int((M == 0).sum()) for M in masks)
    assert f"{fixed:,} stay 0" in sheet.page.locator("#summary").inner_text().replace("\u202f", ",")


def check_explained(
    sheet: Sheet, path: Path, truth: int, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> tuple[np.ndarray, float]:
    """Compare all numbers with ``mlpcli explain`` for the class ``truth``, also after ten steps.

    Return p before the steps, and the change of the loss.
    """
    pixels = sheet.pixels.reshape(28, 28)
    document, wanted = explained(capsys, path, pixels, tmp_path, "--label", truth)
    L = len(document["network"]["sizes"]) - 1
    close = {"rtol": 1e-5, "atol": 1e-5}
    assert loss(sheet) == pytest.approx(wanted["loss"], rel=1e-5)
    for name, key in (("p", "p"), ("dp", "dp"), ("dz", f"dz{L}")):
        np.testing.assert_allclose(sheet.column(name), wanted[key], **close, err_msg=name)
    jacobian = sheet.evaluate(
        "(K) => Array.from({length: K}, (_, i) => Array.from({length: K}, (_, j) => bench.backward.dp_dz(i, j)))",
        len(wanted["p"]),
    )
    np.testing.assert_allclose(jacobian, wanted["jacobian"], **close)
    for n in range(1, L):
        for name in ("forward.a", "backward.da", "backward.slope", "backward.dz"):
            found = sheet.evaluate(f"Array.from(bench.{name}[{n - 1}])")
            np.testing.assert_allclose(found, wanted[f"{name.partition('.')[2]}{n}"], **close, err_msg=f"{name} {n}")
    gradient = [wanted.get(f"connected_d{W}", wanted[f"d{W}"]) for n in range(1, L + 1) for W in (f"W{n}", f"b{n}")]
    square = sum(float((each**2).sum()) for each in gradient)
    assert sheet.evaluate("bench.backward.norm2") == pytest.approx(square, rel=1e-5)
    before = sheet.p
    # Also after steps, at a rate that is not too large for any of these.
    sheet.page.locator("#rate").fill("-3")
    sheet.page.get_by_role("button", name="Ten times").click()
    ten, _ = explained(capsys, path, pixels, tmp_path, "--label", truth, "--rate", 0.001, "--steps", 10)
    np.testing.assert_allclose(sheet.p, ten["step"]["p_after"], rtol=0, atol=1e-4)
    assert loss(sheet) == pytest.approx(ten["step"]["loss_after"], rel=1e-4)
    return before, abs(loss(sheet) - ten["step"]["loss_before"])


def fours_and_nines(file: Path) -> Path:
    """Write an .npz of the fours and nines of the bundled sample, with the labels 0 and 1 and their names."""
    split = load_split(DataConfig("mnist-sample"), "train").split
    wanted = np.isin(split.labels, (4, 9))
    images, labels = split.images[wanted].reshape(-1, 28, 28), split.labels[wanted] == 9
    np.savez(file, x_train=images, y_train=labels.astype(np.uint8))
    return file


@pytest.mark.parametrize(("objective", "hidden"), [("sigmoid_cross_entropy", "[]"), ("sigmoid_quadratic", "[12]")])
def test_single_output_of_two_classes_agrees_with_explain(
    sheet: Sheet, objective: str, hidden: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = (f"data.dataset={fours_and_nines(tmp_path / 'two.npz')}", "data.test=false", "data.class_names=[four,nine]")
    network = ("network.single_output=true", f"network.objective={objective}", f"network.hidden={hidden}")
    run = tmp_path / "run"
    experiment.train(config.load(None, (*data, *network, "training.epochs=1", *NO_DEFAULTS), {}), out=run)
    sheet.go(report(run, tmp_path / "page.html"))
    page = sheet.page
    sheet.draw(DIGITS[4])
    radios = page.get_by_role("radio", name="true class")
    assert [radio.get_attribute("aria-label") for radio in radios.all()] == ["true class four", "true class nine"]
    changes = []
    for k, name in enumerate(("four", "nine")):
        choose_truth(sheet, name)
        [p], change = check_explained(sheet, run, k, capsys, tmp_path)
        changes.append(change)
        assert page.locator("#truth-name").inner_text() == f"probability of {name}"
        assert page.locator("#truth-trained").inner_text() == sheet.evaluate("chance", p if k else 1 - p)
        page.get_by_role("button", name="Reset").click()
        assert sheet.verdict == ("nine" if p > 0.5 else "four")
    assert max(changes) > 1e-3
    # The numbers of the one unit stand once.
    assert page.locator("#outputs tbody td").count() == 4
    assert page.locator("#jacobian-across").inner_text().split() == ["dC/dp", "0"]


def test_single_output_of_class_numbers_agrees_with_explain(
    sheet: Sheet, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    network = ("network.single_output=true", "network.objective=linear_quadratic", "network.hidden=[9,8]")
    path = untrained(tmp_path / "network.npz", *network)
    sheet.go(report(path, tmp_path / "page.html"))
    sheet.draw(DIGITS[7])
    choose_truth(sheet, 7)
    [p], change = check_explained(sheet, path, 7, capsys, tmp_path)
    assert change > 1e-3
    sheet.page.get_by_role("button", name="Reset").click()
    assert sheet.verdict == str(int(np.clip(np.rint(p), 0, 9)))
    assert [sheet.evaluate("rint", value) for value in (0.5, 1.5, 2.5, 2.51, -0.5, -1.5)] == [0, 2, 2, 3, 0, -2]
    sheet.page.locator("#rate").fill("-1.5")
    for _ in range(4):
        sheet.page.get_by_role("button", name="Ten times").click()
    assert sheet.verdict == "7"
    assert sheet.page.locator("#truth-name").inner_text() == "output p"


def test_several_labels_are_checked_and_taught(
    sheet: Sheet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(multi_label_data(tmp_path / "edges.npz")) as arrays:
        images = arrays["x_train"]
    overrides = (f"data.dataset={tmp_path / 'edges.npz'}", "network.objective=sigmoid_cross_entropy")
    rest = ("network.hidden=[6]", "training.epochs=2", "data.test=false")
    run = tmp_path / "run"
    experiment.train(config.load(None, (*overrides, *rest), {}), out=run)
    sheet.go(report(run, tmp_path / "page.html"))
    sheet.page.get_by_role("button", name="Example").click()
    sheet.settle()
    boxes = [sheet.page.get_by_role("checkbox", name=f"true class {k}") for k in range(3)]
    for k, box in enumerate(boxes):
        box.set_checked(k != 1)
    pixels = sheet.pixels.reshape(images.shape[1:])
    document, wanted = explained(capsys, run, pixels, tmp_path, "--label", "0,2")
    np.testing.assert_allclose(sheet.p, wanted["p"], atol=1e-5)
    np.testing.assert_allclose(sheet.column("dz"), wanted["dz2"], atol=1e-5)
    assert loss(sheet) == pytest.approx(document["step"]["loss_before"], rel=1e-5)
    above = ", ".join(str(k) for k in np.flatnonzero(wanted["p"] > 0.5)) or "none"
    assert sheet.verdict == above
    sheet.page.locator("#rate").fill("-3")
    sheet.page.get_by_role("button", name="Ten times").click()
    ten, _ = explained(capsys, run, pixels, tmp_path, "--label", "0,2", "--rate", 0.001, "--steps", 10)
    assert loss(sheet) == pytest.approx(ten["step"]["loss_after"], rel=1e-4)
    assert sheet.page.locator("#matrix").is_hidden()


def multi_label_data(file: Path) -> Path:
    """Write an .npz of 12 x 12 images, each of whose left, right and upper edges may be light, and those labels."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, (60, 3), dtype=np.uint8)
    images = random.integers(0, 60, (60, 12, 12), dtype=np.uint8)
    for k, edge in enumerate((np.s_[:, :, :3], np.s_[:, :, 9:], np.s_[:, :3, 4:8])):
        images[edge] += labels[:, k, None, None] * np.uint8(190)
    np.savez(file, x_train=images, y_train=labels)
    return file


@phone
def test_finger_makes_steps_too(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    finger = sheet.page.context.new_cdp_session(sheet.page)
    sheet.touch(finger, DIGITS[0])
    wrong = (int(sheet.verdict) + 5) % 10
    sheet.page.locator(f"#outputs tr[data-class='{wrong}']").tap()
    before = loss(sheet)
    sheet.page.locator("#ten").tap()
    assert loss(sheet) < before
    sheet.page.locator("#layers canvas").tap(position={"x": 5, "y": 5})
    assert sheet.page.locator("#unit-title").inner_text() == "Unit 0"


@desk
def test_board_fits_in_one_view(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    sheet.draw(DIGITS[4])
    choose_truth(sheet, 9)
    sheet.page.get_by_role("button", name="Ten times").click()
    sheet.evaluate("scrollTo(0, 0)")
    for name in ("sheet", "outputs", "loss", "jacobian", "unit", "outgoing-bars", "step-note", "reset", "bench"):
        place = sheet.evaluate(f"byId('{name}').getBoundingClientRect()")
        assert place["height"] > 0
        assert place["bottom"] <= 900, name
        assert place["right"] <= 1280, name


@desk
@pytest.mark.parametrize(
    "hidden", ["[]", "[512,512]", "[300,200,100]", "[100,100,100,100]", "[60,60,60,60,60,60,60,60]"]
)
@pytest.mark.parametrize("quantity", [0, -1])
def test_any_depth_is_in_one_view(sheet: Sheet, tmp_path: Path, hidden: str, quantity: int) -> None:
    file = untrained(tmp_path / "best.npz", f"network.hidden={hidden}", "network.activation=tanh")
    sheet.go(report(file, tmp_path / "report.html"))
    sheet.draw(DIGITS[4])
    choose_truth(sheet, 9)
    sheet.page.locator("#rate").fill("-3")
    sheet.page.get_by_role("button", name="Ten times").click()
    radios = sheet.page.locator("#quantity input")
    radios.nth(quantity % radios.count()).check()
    sheet.evaluate("scrollTo(0, 0)")
    assert sheet.evaluate("byId('bench').getBoundingClientRect().bottom") <= 900
    assert sheet.evaluate("document.documentElement.scrollWidth") == 1280
    assert sheet.evaluate("document.querySelectorAll('#graph-lines .node').length") == (
        10 * (1 + min(6, hidden.count(",") + (hidden != "[]")))
    )


@phone
def test_board_comes_first_on_a_phone(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    tops = [
        sheet.evaluate(f"byId('{name}').getBoundingClientRect().top")
        for name in ("sheet", "verdict", "outputs", "step", "jacobian", "layers", "summary")
    ]
    assert tops == sorted(tops)
    assert tops[0] < 80


# The rest of the page -----------------------------------------------------------------------------


def test_confusion_matrix_cells_open_their_images(sheet: Sheet, trained: Path, trained_page: Path) -> None:
    sheet.go(trained_page)
    page = sheet.page
    found = evaluate_runs([trained], "validation")
    labels, predicted = found.part.split.labels, found.ensemble.predicted
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, predicted), 1)
    shown = sheet.evaluate(
        "[...document.querySelectorAll('#matrix tbody tr')]"
        ".map((row) => [...row.querySelectorAll('td')].map((cell) => +cell.innerText))"
    )
    assert shown == counts.tolist()
    wrong = counts - np.diag(np.diag(counts))
    label, taken_for = (int(i) for i in np.unravel_index(wrong.argmax(), wrong.shape))
    n = counts[label, taken_for]
    images = f"{n} image{'s' if n > 1 else ''}"
    page.get_by_role("button", name=f"true {label}, predicted {taken_for}: {images}").click()
    assert page.locator("#cell-title").inner_text() == f"true {label}, predicted {taken_for}: {images}"
    there = np.flatnonzero((labels == label) & (predicted == taken_for))
    gallery = page.locator("#cell-images button")
    assert gallery.count() == n
    indices = [int(str(gallery.nth(i).get_attribute("title")).split()[1]) for i in range(n)]
    assert sorted(indices) == there.tolist()
    confidence = found.ensemble.confidence[indices]
    assert (np.diff(confidence) <= 0).all()
    ink = sheet.evaluate(
        "(() => { const c = document.querySelector('#cell-images canvas');"
        "return Array.from(c.getContext('2d').getImageData(0, 0, 28, 28).data).filter((_, i) => i % 4 === 3) })()"
    )
    np.testing.assert_array_equal(ink, found.part.split.images[indices[0]])
    gallery.first.click()
    sheet.settle()
    np.testing.assert_array_equal(sheet.pixels, found.part.split.images[indices[0]])
    np.testing.assert_allclose(sheet.p, found.ensemble.p[indices[0]], atol=1e-5)
    assert sheet.verdict == str(taken_for)
    assert sheet.page.locator("#loss-note").inner_text() == f"loss, true class {label}"
    # By keyboard: Tab reaches one cell, and arrows move to the next that has images.
    assert page.locator("#matrix button[tabindex='0']").count() == 1
    page.locator("#matrix button[tabindex='0']").focus()
    key = "ArrowLeft" if taken_for > label else "ArrowRight"
    for _ in range(abs(taken_for - label)):
        if page.locator("#cell-title").inner_text().startswith(f"true {label}, predicted {label}:"):
            break
        page.keyboard.press(key)
    assert page.locator("#cell-title").inner_text().startswith(f"true {label}, predicted {label}: ")
    assert f"predicted {label}" in sheet.evaluate("document.activeElement.getAttribute('aria-label')")


def test_page_has_numbers_curves_and_weights(sheet: Sheet, trained: Path, trained_page: Path) -> None:
    sheet.go(trained_page)
    page = sheet.page
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    best = min(record["validation_error"] for record in records)
    assert f"{100 * best:.2f} %" in page.locator("#summary").inner_text()
    charts = page.locator("#charts svg")
    labels = [str(charts.nth(i).get_attribute("aria-label")) for i in range(charts.count())]
    assert [label.partition(",")[0] for label in labels] == [
        "Error",
        "Loss",
        "Gradient norm of each epoch's last full batch",
        "Saturated hidden units",
    ]
    first, last = (f"{100 * record['validation_error']:.2f} %" for record in (records[0], records[-1]))
    assert f"validation from {first} to {last}" in labels[0]
    path = str(charts.first.locator("path").first.get_attribute("d"))
    assert path.count("L") == len(records) - 1
    assert "NaN" not in page.locator("#charts").inner_html()
    page.get_by_text("The epochs in numbers").click()
    assert page.locator("#epochs tbody tr").count() == len(records)
    assert not page.locator("#mosaic").is_visible()
    page.get_by_text("Of each of 32 hidden units").click()
    page.wait_for_timeout(50)
    assert sheet.evaluate("byId('mosaic').width") > 100
    assert page.locator("#config").inner_text() == (trained / "config.yaml").read_text()


def test_one_neuron_learns_as_explain_computes(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    assert sheet.page.locator("#neuron-rate-value").inner_text() == "0.15"
    quadratic, entropy = neuron(rate=0.15, steps=300)
    for curve in (quadratic, entropy):
        np.testing.assert_allclose(sheet.evaluate(f"learn('{curve.objective}', 2, 0.15)"), curve.p, atol=1e-12)
    chart = sheet.page.locator("#neuron-chart svg")
    before = chart.get_attribute("aria-label")
    assert str(before).startswith("p, steps 0 to 300: cross-entropy from 0.982 to 0.012; quadratic from 0.982 to 0.203")
    sheet.page.locator("#neuron-start").fill("3")
    expect(chart).not_to_have_attribute("aria-label", str(before))


@phone
def test_page_fits_the_width_of_a_phone(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    sheet.draw(DIGITS[3])
    sheet.page.locator("summary").first.click()
    assert sheet.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [360, 360]
    for button in ("Undo", "Clear"):
        box = sheet.page.get_by_role("button", name=button).bounding_box()
        assert box
        assert box["height"] >= 40  # for a finger


# The contrast ratio (WCAG 2) of every element with text of its own, against its background.
CONTRASTS = """() => {
  const parse = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
  const behind = (node) => {
    const parent = node.parentElement ? behind(node.parentElement) : [255, 255, 255];
    return over(parse(getComputedStyle(node).backgroundColor), parent);
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  for (const node of document.body.querySelectorAll("*")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.getClientRects().length || node.disabled || node.matches("script, noscript, option")) continue;
    const style = getComputedStyle(node);
    const back = behind(node);
    const front = over(parse(node.namespaceURI.endsWith("svg") ? style.fill : style.color), back);
    const [high, low] = [luminance(front), luminance(back)].sort((a, b) => b - a);
    found.push([(high + 0.05) / (low + 0.05), node.textContent.trim().slice(0, 30)]);
  }
  return found;
}"""


@pytest.mark.parametrize("sheet", [{"color_scheme": "dark"}], indirect=True, ids=["dark"])
def test_theme_follows_system_until_button_is_pressed(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    sheet.draw(DIGITS[3])
    for now in (True, False):
        red = int(sheet.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))
        assert (red < 64) if now else (red > 192)
        # Ink is light on dark paper and dark on light.
        assert ("invert" in sheet.evaluate("getComputedStyle(byId('sheet')).filter")) == now
        contrasts = sheet.evaluate(CONTRASTS)
        assert len(contrasts) > 150
        assert [each for each in contrasts if each[0] < 4.5] == []
        sheet.page.get_by_role("button", name="Light mode" if now else "Dark mode").click()
    sheet.page.reload()
    sheet.requests.pop()
    sheet.page.emulate_media(color_scheme="light")
    expect(sheet.page.locator("html")).to_have_attribute("data-theme", "light")


def test_every_control_has_an_accessible_name(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    sheet.draw(DIGITS[3])
    nameless = sheet.evaluate(
        "[...document.querySelectorAll('a, button, input, [tabindex], canvas, svg')].filter((node) => "
        "node.getClientRects().length && !(node.getAttribute('aria-label') || node.textContent.trim() || "
        "node.closest('[aria-hidden], label') || node.labels?.length)).map((node) => node.outerHTML)"
    )
    assert nameless == []
    assert sheet.page.get_by_role("application", name="Drawing board").is_visible()
    assert sheet.page.get_by_role("grid", name="Confusion matrix").is_visible()
    assert sheet.page.get_by_role("slider").count() == 5
    assert sheet.evaluate("document.documentElement.lang") == "en"
    ids = sheet.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len({*ids})


@pytest.mark.parametrize("sheet", [{"reduced_motion": "reduce"}], indirect=True, ids=["reduced motion"])
def test_reduced_motion_is_respected(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    sheet.page.locator("#worst button").first.click()
    assert sheet.evaluate("document.getAnimations().length") == 0
    # At once, without animation.
    top = sheet.evaluate("byId('draw').getBoundingClientRect().top")
    assert abs(top) < 2 or sheet.evaluate("scrollY") == 0


def test_text_of_a_run_stays_text(sheet: Sheet, trained_page: Path) -> None:
    sheet.go(trained_page)
    assert HOSTILE in sheet.page.locator("h1").inner_text()
    assert HOSTILE in sheet.page.title()
    assert sheet.evaluate("[typeof hacked, document.images.length]") == ["undefined", 0]


def test_page_of_dataset_with_hostile_name_and_small_images(
    sheet: Sheet, tiny_images: tuple[np.ndarray, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "<" / f"script>{HOSTILE}"  # its path has '</script>'
    folder.mkdir(parents=True)
    for role, array in zip(ROLES, tiny_images, strict=True):
        (folder / FILE_NAMES[role]).write_bytes(idx.encode(array))
    few = (
        "network.hidden=[6]",
        "training.epochs=1",
        "training.batch_size=16",
        f"data.dataset={json.dumps(str(folder))}",
    )
    run = tmp_path / "run"
    experiment.train(config.load(None, (*few, *NO_DEFAULTS), {}), out=run)
    sheet.go(report(run, tmp_path / "report.html"))
    assert "</script>" + HOSTILE in sheet.page.locator("#config").inner_text()
    assert HOSTILE in sheet.page.locator("#form").inner_text()
    assert sheet.evaluate("[typeof hacked, document.images.length]") == ["undefined", 0]
    # Five rows of four pixels, three classes: drawings are raw, or centred on request.
    for centre in (False, True):
        sheet.page.get_by_label("Centre and scale as MNIST does").set_checked(centre)
        sheet.draw(DIGITS[1])
        pixels = sheet.pixels.reshape(5, 4)
        assert pixels.max() > 100
        np.testing.assert_allclose(sheet.p, predicted(capsys, run, [pixels], tmp_path)[0], atol=1e-5)


def test_page_of_many_classes_and_undrawable_images(sheet: Sheet, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    labels = np.arange(200, dtype=np.uint8) % 40
    arrays = [random.integers(0, 256, (200, 2, 9)).astype(np.uint8), labels] * 2
    for role, array in zip(ROLES, arrays, strict=True):
        (tmp_path / FILE_NAMES[role]).write_bytes(idx.encode(array))
    few = ("network.hidden=[]", "training.epochs=1", "data.validation=0.5", f"data.dataset={json.dumps(str(tmp_path))}")
    experiment.train(config.load(None, (*few, *NO_DEFAULTS), {}), out=tmp_path / "run")
    sheet.go(report(tmp_path / "run", tmp_path / "report.html"))
    assert sheet.page.locator("#no-board").inner_text().startswith("Images of 2 × 9 pixels cannot be drawn")
    assert not sheet.page.locator("#bench").is_visible()
    rows = sheet.page.locator("#matrix tbody tr")
    assert 0 < rows.count() <= 100
    rows.first.locator("button").click()
    assert sheet.page.locator("#cell-images li").count() >= 1


def test_page_without_images_can_be_drawn_on(sheet: Sheet, trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_bytes(page_of(contents(open_model(trained), None, "There are none.")))
    sheet.go(file)
    assert sheet.page.locator("#no-images").inner_text() == "There are none."
    assert not sheet.page.locator("#matrix").is_visible()
    assert not sheet.page.get_by_role("button", name="Example").is_visible()
    sheet.draw(DIGITS[3])
    assert sheet.p.sum() == pytest.approx(1)


# Deskewing ----------------------------------------------------------------------------------------


def test_page_deskews_drawings_as_predict_does(
    sheet: Sheet, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = untrained(tmp_path / "upright.npz", "data.preprocessing=deskew")
    sheet.go(report(path, tmp_path / "upright.html"))
    assert sheet.page.locator("#seen-note").text_content() == "x: 28 × 28 pixels, deskewed"
    for number, strokes in enumerate(DIGITS.values()):
        sheet.evaluate("bench.board.clear()")
        sheet.draw([[(x + 0.3 * (0.5 - y), y) for x, y in stroke] for stroke in strokes])
        drawn = np.array(
            json.loads(sheet.evaluate("JSON.stringify(Array.from(bench.board.sheet.normalised()))")), np.uint8
        )
        assert np.array_equal(sheet.pixels, deskewed(drawn[None], (28, 28))[0])
        assert not np.array_equal(sheet.pixels, drawn)
        expected = predicted(capsys, path, [drawn.reshape(28, 28)], tmp_path)[0]
        np.testing.assert_allclose(sheet.p, expected, rtol=1e-6, atol=1e-5, err_msg=str(number))
    # An image of the data is deskewed once.
    sheet.page.get_by_role("button", name="Example").click()
    sheet.settle()
    shown = np.array(json.loads(sheet.evaluate("JSON.stringify(Array.from(bench.board.example))")), np.uint8)
    assert shown.tolist() in load_split(DataConfig("mnist-sample", validation=20), "validation").split.images.tolist()
    assert np.array_equal(sheet.pixels, deskewed(shown[None], (28, 28))[0])


@pytest.mark.parametrize("shape", [(28, 28), (9, 40), (40, 3), (1, 6)])
def test_page_deskewing_is_byte_identical(sheet: Sheet, trained_page: Path, shape: tuple[int, int]) -> None:
    random = np.random.default_rng(7)
    images = random.integers(0, 256, (60, shape[0] * shape[1]), dtype=np.uint8)
    for image in images[:50]:  # most of them with few pixels of ink, whose slants are large
        image[random.random(len(image)) > random.random() ** 3] = 0
    images[0] = 0
    sheet.go(trained_page)
    code = "([images, shape]) => JSON.stringify(JSON.parse(images).map((i) => Array.from(deskewed(i, ...shape))))"
    found = np.array(json.loads(sheet.evaluate(code, [json.dumps(images.tolist()), list(shape)])), np.uint8)
    assert np.array_equal(found, deskewed(images, shape))
    assert shape[0] == 1 or not np.array_equal(found, images)


def test_page_shows_class_names(sheet: Sheet, tiny_config: Any, tmp_path: Path) -> None:
    names = ["cat", "dog", "ant"]
    experiment.train(tiny_config(f"data.class_names=[{', '.join(names)}]"), out=tmp_path / "run")
    sheet.go(report(tmp_path / "run", tmp_path / "report.html"))
    assert [cell.inner_text() for cell in sheet.page.locator("#matrix thead th[scope=col]").all()] == names
    assert [cell.inner_text().strip() for cell in sheet.page.locator("#outputs tbody th").all()] == names
    sheet.draw(DIGITS[1])
    assert sheet.page.locator("#verdict").inner_text() in names
    assert re.search(r"ln p[₀₁₂] = ", sheet.page.locator("#loss-formula").inner_text())
    assert [cell.inner_text() for cell in sheet.page.locator("#outgoing-bars .name").all()] == names
    sheet.page.locator("#jacobian-cells").focus()
    sheet.page.keyboard.press("ArrowRight")
    assert re.search(r"\((cat|dog|ant)", sheet.page.locator("#jacobian-text").inner_text())
