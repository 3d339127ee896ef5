"""Render photographs of handwritten digits from MNIST's test images and measure ``mlpcli predict`` on them.

A picture is paper and ink times a field of light, plus noise, saved as JPEG. Each kind differs from ``even`` in one
respect, given by its name: the digits, their sizes and positions are the same. The random numbers are keyed by the
seed, the kind and the number of the picture, so the same command makes the same bytes.
"""

from __future__ import annotations

import io
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import common

Array = NDArray[Any]

INK, PAPER = 0.16, 0.92  # reflectance
WHITE = 255.0
MARGIN = 1  # of MNIST's pixels, left around a digit


@dataclass(frozen=True)
class Scene:
    """One photograph before it is taken.

    ``ink`` (h, w) in 0 .. 1 is the digit, at (``top``, ``left``) of a picture of ``rows`` x ``columns`` pixels.
    ``light`` is the illumination of each pixel, ``surface`` the reflectance without ink, and ``dark`` that of ink.
    ``noise`` is a standard deviation in levels of 255.
    """

    ink: Array
    top: int
    left: int
    rows: int
    columns: int
    random: np.random.Generator
    surface: Array = field(default_factory=lambda: np.array(PAPER))
    light: Array = field(default_factory=lambda: np.array(1.0))
    noise: float = 1.0
    dark: float = INK
    quality: int = 90
    orientation: int = 1

    @property
    def height(self) -> int:
        """The digit's longer side in pixels."""
        return max(self.ink.shape)

    def grid(self) -> tuple[Array, Array]:
        """Return each pixel's row, (rows, 1), and column, (1, columns), in 0 .. 1."""
        return np.linspace(0, 1, self.rows)[:, np.newaxis], np.linspace(0, 1, self.columns)[np.newaxis]

    def across(self) -> Array:
        """Return a ramp (rows, columns) from 0 to 1 over the picture, in a random direction."""
        down, right = self.grid()
        angle = self.random.uniform(0, 2 * np.pi)
        far = np.sin(angle) * down + np.cos(angle) * right
        return (far - far.min()) / np.ptp(far)

    def picture(self) -> Image.Image:
        """Render the photograph."""
        surface = np.broadcast_to(self.surface, (self.rows, self.columns)).copy()
        where = slice(self.top, self.top + self.ink.shape[0]), slice(self.left, self.left + self.ink.shape[1])
        surface[where] = surface[where] * (1 - self.ink) + np.minimum(self.dark, surface[where]) * self.ink
        levels = WHITE * surface * self.light
        if self.noise:
            tile = self.random.normal(0, self.noise, (257, 263))  # one tile of noise, repeated over the picture
            repeats = -(-self.rows // 257), -(-self.columns // 263)
            levels = levels + np.tile(tile, repeats)[: self.rows, : self.columns]
        return Image.fromarray(np.clip(np.rint(levels), 0, WHITE).astype(np.uint8))

    def file(self) -> bytes:
        """Return the photograph as a JPEG file, as a camera saves it."""
        picture, exif = self.picture(), Image.Exif()
        if self.orientation == 6:  # held upright: the sensor's rows are the picture's columns
            picture = picture.transpose(Image.Transpose.ROTATE_90)
            exif[0x0112] = 6
        file = io.BytesIO()
        picture.convert("RGB").save(file, "JPEG", quality=self.quality, exif=exif)
        return file.getvalue()


def scene(digit: Array, random: np.random.Generator, rows: int = 900, columns: int = 700) -> Scene:
    """Return ``digit`` (28, 28) on white paper in even light, sized 1/6 to 1/2 of the picture's width."""
    down, right = (np.flatnonzero((digit > 25).any(axis=axis)) for axis in (1, 0))
    cut = np.pad(digit[down[0] : down[-1] + 1, right[0] : right[-1] + 1], MARGIN)  # so that its edges fade out
    scale = random.uniform(1 / 6, 1 / 2) * min(rows, columns) / max(cut.shape)
    sides = [max(1, round(side * scale)) for side in cut.shape[::-1]]
    ink = np.asarray(Image.fromarray(cut).resize(sides, Image.Resampling.BICUBIC), np.float64) / WHITE
    margin = 0.06
    top, left = (
        int(random.uniform(margin * whole, (1 - margin) * whole - side))
        for whole, side in zip((rows, columns), ink.shape, strict=True)
    )
    return Scene(ink, top, left, rows, columns, random)


# The kinds ------------------------------------------------------------------------------------------------------------


def fall(levels: float) -> Callable[[Scene], Scene]:
    """Light that falls off linearly across the picture, by ``levels`` of the paper's brightness."""
    return lambda it: replace(it, light=1 - levels / (WHITE * PAPER) * it.across())


def shadow(it: Scene) -> Scene:
    """The edge of a shadow of half the light, across the picture at a random angle."""
    edge = it.random.uniform(0.25, 0.75)
    return replace(it, light=1 - 0.5 / (1 + np.exp(-(it.across() - edge) / 0.004)))


def vignette(it: Scene) -> Scene:
    """Light that falls off to 45 % in the corners."""
    down, right = it.grid()
    return replace(it, light=1 - 0.55 * 2 * ((down - 0.5) ** 2 + (right - 0.5) ** 2))


def strip(it: Scene) -> Scene:
    """A dark table along one side of the picture, up to the digit, at most a quarter of the picture."""
    down, right = it.grid()
    side = it.random.integers(4)
    far = (down, 1 - down, right, 1 - right)[side] + 0.03 * it.random.uniform(-1, 1) * (right if side < 2 else down)
    bottom, end = it.top + it.ink.shape[0], it.left + it.ink.shape[1]
    room = (it.top / it.rows, 1 - bottom / it.rows, it.left / it.columns, 1 - end / it.columns)[side]
    table = it.random.uniform(0.1, 0.5) + 0.03 * it.random.normal(size=(it.rows, 1))
    return replace(it, surface=np.where(far < min(0.25, room - 0.04), table, PAPER))


def desk(it: Scene) -> Scene:
    """A sheet on a dark desk, visible on all four sides."""
    down, right = it.grid()
    edge = 0.05
    sheet = (np.minimum(down, 1 - down) > edge) & (np.minimum(right, 1 - right) > edge)
    return replace(it, surface=np.where(sheet, PAPER, it.random.uniform(0.1, 0.4)))


def lines(it: Scene, pitch: float, *, both: bool) -> Scene:
    """Printed lines ``pitch`` pixels apart, tilted by up to two degrees."""
    slope = np.tan(np.radians(it.random.uniform(-2, 2)))
    rows, columns = np.arange(it.rows)[:, np.newaxis], np.arange(it.columns)[np.newaxis]
    thick, offset = max(1.5, pitch / 25), it.random.uniform(0, pitch, 2)
    across = [rows + slope * columns + offset[0]] + [columns - slope * rows + offset[1]] * both
    covered = np.zeros((it.rows, it.columns))
    for at in across:
        beside = np.abs((at + pitch / 2) % pitch - pitch / 2)
        covered = np.maximum(covered, np.clip(thick / 2 + 0.5 - beside, 0, 1))
    line = it.random.uniform(0.5, 0.75)
    return replace(it, surface=PAPER - (PAPER - line) * covered)


def ruled(it: Scene) -> Scene:
    """Lined paper."""
    return lines(it, it.height * it.random.uniform(1.0, 1.6), both=False)


def squared(it: Scene) -> Scene:
    """Squared paper, one to two squares per digit."""
    return lines(it, it.height * it.random.uniform(0.5, 1.0), both=True)


def form(it: Scene) -> Scene:
    """A printed form with a box for the digit; in every second picture, a row of boxes."""
    rows, columns = np.arange(it.rows)[:, np.newaxis], np.arange(it.columns)[np.newaxis]
    gap, thick = it.height * it.random.uniform(0.12, 0.3), max(2.0, it.height / it.random.uniform(12, 30))
    side = it.height + 2 * gap
    down = np.abs(rows - (it.top + it.ink.shape[0] / 2)) - side / 2
    right = columns - (it.left + it.ink.shape[1] / 2)
    if it.random.integers(2):  # neighbouring boxes on both sides, to the edges
        right = np.abs((right + side / 2) % side - side / 2)
    beside = np.abs(right) - side / 2
    inside = np.maximum(down, beside)
    frame = (np.abs(inside) <= thick / 2) | ((np.abs(beside) <= thick / 2) & (down < 0))
    return replace(it, surface=np.where(frame, it.random.uniform(0.1, 0.4), PAPER))


def finger(it: Scene) -> Scene:
    """A finger that holds the sheet, on the side farthest from the digit."""
    rows, columns = np.arange(it.rows)[:, np.newaxis], np.arange(it.columns)[np.newaxis]
    left = it.left + it.ink.shape[1] / 2 > it.columns / 2
    far = columns if left else it.columns - 1 - columns
    room = it.left if left else it.columns - it.left - it.ink.shape[1]
    wide = 0.08 * it.columns
    tip = min(0.25 * it.columns, room - 0.03 * it.columns) - wide
    up = rows - it.random.uniform(0.2, 0.8) * it.rows
    skin = np.where(far < tip, np.abs(up), np.hypot(up, far - tip)) < wide
    return replace(it, surface=np.where(skin, 0.5 - 0.1 * (np.abs(up) / wide) ** 2, PAPER))


def phone(change: Callable[[Scene], Scene]) -> Callable[[Scene], Scene]:
    """Twelve megapixels, held upright, with noise, and light that falls off by 60 levels."""

    def taken(it: Scene) -> Scene:
        large = scene_like(it, 4000, 3000)
        changed = change(replace(large, noise=6.0, quality=85, orientation=6))
        return replace(changed, light=changed.light * (1 - 60 / (WHITE * PAPER) * large.across()))

    return taken


def scene_like(it: Scene, rows: int, columns: int) -> Scene:
    """Return the same scene with another number of pixels."""
    factor = rows / it.rows
    sides = [max(1, round(side * factor)) for side in it.ink.shape[::-1]]
    ink = np.asarray(Image.fromarray(it.ink.astype(np.float32)).resize(sides, Image.Resampling.BICUBIC), np.float64)
    return replace(
        it, ink=np.clip(ink, 0, 1), top=int(it.top * factor), left=int(it.left * factor), rows=rows, columns=columns
    )


def small(it: Scene) -> Scene:
    """300 pixels, noise of 8 levels at a contrast of 80."""
    return replace(scene_like(it, 300, 233), noise=8.0, dark=PAPER - 80 / WHITE)


def tight(it: Scene) -> Scene:
    """The digit alone, cropped to its bounding box."""
    down, right = (np.flatnonzero((it.ink > 0.1).any(axis=axis)) for axis in (1, 0))
    ink = it.ink[down[0] : down[-1] + 1, right[0] : right[-1] + 1]
    return replace(it, ink=ink, top=0, left=0, rows=ink.shape[0], columns=ink.shape[1])


KINDS: dict[str, Callable[[Scene], Scene]] = {
    "even": lambda it: it,
    "ruled": ruled,
    "squared": squared,
    "form": form,
    "fall-50": fall(50),
    "fall-100": fall(100),
    "fall-150": fall(150),
    "shadow": shadow,
    "vignette": vignette,
    "strip": strip,
    "desk": desk,
    "finger": finger,
    "noise-300": small,
    "noise-900": lambda it: replace(it, noise=8.0, dark=PAPER - 80 / WHITE),
    "pencil": lambda it: replace(it, noise=4.0, dark=PAPER - 40 / WHITE),
    "jpeg-40": lambda it: replace(it, noise=3.0, quality=40),
    "exif": lambda it: replace(it, orientation=6),
    "phone": phone(lambda it: it),
    "phone-ruled": phone(ruled),
    "phone-shadow": phone(shadow),
    "tight": tight,
}


def photograph(digit: Array, kind: str, number: int = 0, seed: int = 0) -> bytes:
    """Return a photograph of ``digit`` (28, 28) uint8, with bright ink, as a JPEG file."""
    # The digit's size and position depend only on the seed and the number.
    it = scene(digit, np.random.Generator(np.random.Philox(key=[seed, number])))
    own = np.random.Generator(np.random.Philox(key=[seed, (list(KINDS).index(kind) + 1 << 32) + number]))
    return KINDS[kind](replace(it, random=own)).file()


# Measuring ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """A prediction for one picture: the class (None: no digit), whether it shows several digits, and the seconds."""

    label: int
    predicted: int | None
    several: bool
    seconds: float


def readings(model: Any, digits: Array, labels: Array, kind: str, seed: int = 0) -> list[Reading]:
    """Return the predictions of ``model`` for a photograph of each of ``digits`` (N, 28, 28)."""
    from mlpcli.analysis.predict import answers
    from mlpcli.datasets.images import from_bytes

    found = []
    for number, (digit, label) in enumerate(zip(digits, labels.tolist(), strict=True)):
        file = photograph(digit, kind, number, seed)
        started = time.perf_counter()
        (answer,) = answers(model, from_bytes(file, kind, model.image_shape, raw=False))
        seconds = time.perf_counter() - started
        several = any(warning.startswith("shows ") for warning in answer.warnings)
        found.append(Reading(label, cast(Any, answer.predicted), several, seconds))
    return found


def as_well(found: list[Reading], even: list[Reading]) -> int:
    """Count the pictures predicted correctly, or like the same digit in even light."""
    return sum(one.predicted in (one.label, other.predicted) for one, other in zip(found, even, strict=True))


def main() -> None:
    """Predict photographs of every kind and report the number of correct ones."""
    options = ArgumentParser(description=__doc__)
    options.add_argument("run", help="the run or checkpoint to predict with")
    options.add_argument("--data", default="mnist", help="a data set of mlpcli's; the photographs show its test images")
    options.add_argument("--digits", type=int, default=100, help="photographs of each kind")
    options.add_argument("--first", type=int, default=0, help="index of the first test image")
    options.add_argument("--seed", type=int, default=0, help="random seed of sizes, positions, light and noise")
    options.add_argument("--kinds", default=",".join(KINDS), help="kinds of photographs, separated by commas")
    options.add_argument("--save", type=Path, metavar="FOLDER", help="write the photographs")
    options.add_argument("--json", type=Path, metavar="FILE", help="write machine, versions and every reading")
    options.add_argument("--markdown", type=Path, metavar="FILE", help="write the printed table")
    given = options.parse_args()
    from mlpcli.analysis.predict import load

    digits, labels = (part[given.first : given.first + given.digits] for part in test_images(given.data))
    kinds = list(dict.fromkeys(["even", *given.kinds.split(",")]))
    model, found = load(given.run), {}
    rows = []
    for kind in kinds:
        if given.save:
            save(given.save, digits, kind, given.seed)
        mine = found[kind] = readings(model, digits, labels, kind, given.seed)
        right = sum(one.predicted == one.label for one in mine)
        seconds = common.spread([one.seconds for one in mine])
        counts = str(right), str(as_well(mine, found["even"])), str(sum(one.several for one in mine))
        rows.append([kind, *counts, f"{seconds.median:.2f}", f"{seconds.high:.2f}"])
        print(*rows[-1], file=sys.stderr)
    header = ["kind", f"correct of {len(digits)}", "as in even light", "several digits", "seconds", "at most"]
    document = {"readings": {kind: [vars(one) for one in mine] for kind, mine in found.items()}}
    common.report(given, "photos", document, common.table(header, rows))


def test_images(dataset: str) -> tuple[Array, Array]:
    """Return the test images of ``dataset`` (N, rows, columns) and their labels (N,)."""
    from mlpcli.config import DataConfig
    from mlpcli.datasets.load import load_split

    part = load_split(DataConfig(dataset), "test")
    return part.split.images.reshape(-1, *part.image_shape), part.split.labels


def save(folder: Path, digits: Array, kind: str, seed: int) -> None:
    """Write the photographs of ``digits`` to ``folder``."""
    folder.mkdir(exist_ok=True)
    for number, digit in enumerate(digits):
        (folder / f"{kind}-{number:03}.jpg").write_bytes(photograph(digit, kind, number, seed))


if __name__ == "__main__":
    main()
