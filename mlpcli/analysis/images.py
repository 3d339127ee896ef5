"""Pictures of any kind to images as a network knows them: read, told ink from paper, cut, scaled and centred as MNIST.

How MNIST was made, by the page it was published on: a digit is "size normalized to fit in a 20x20 pixel box while
preserving their aspect ratio", grey by "the anti-aliasing technique used by the normalization algorithm", and "centered
in a 28x28 image by computing the center of mass of the pixels, and translating the image so as to position this point
at the center of the 28x28 field". Its files show the rest: the longer side of the box is always 20, the centre is row
and column 14 counted from 0, the shift a whole number of pixels, and the brightest pixel white. :func:`centred` does
the same; where images are not 28 x 28, the box is 5/7 of them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.analysis.segment import find_ink
from mlpcli.datasets import idx
from mlpcli.datasets.bytestream import GZIP_MAGIC, GunzipError, decoded
from mlpcli.errors import DataError, UsageError
from mlpcli.files import read

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Array = NDArray[Any]
Bytes = NDArray[np.uint8]

MAX_BYTES = 512 * 1024 * 1024  # of a file, and of what it is unpacked to
MAX_PIXELS = 64 * 1024 * 1024  # of a picture, before Pillow takes memory for them
MAX_SIDE = 1024  # a larger picture is first averaged down by a whole number; the digit ends as 20 pixels in any case
NO_FORMATS = {"EPS"}  # Pillow would have another program run what is in it

BOX = 5 / 7  # of an image's side: 20 of 28
RIM = 0.05  # of the shorter side: where paper is looked for
FAINT = 16.0  # of 255: where the most ink differs less from the paper, there is none
EDGE = 0.1  # of the most ink: fainter pixels do not widen the box
GAP = 0.06  # of the box: what lies this far apart are two parts
SPECK = 0.02  # of the largest part's ink: a part with less is wiped off
DIGIT = (0.2, 0.5)  # of the largest part's ink, and of its longer side: a part with as much may be a digit too
CELLS = 64  # a side: parts are looked for on a grid no finer than this

TOO_LARGE = f"has more than {MAX_PIXELS:,} pixels, which is more than is read here; make it smaller"
BLANK = "is blank, or nothing on it stands out from its rim: no digit"


@dataclass(frozen=True, eq=False)
class Images:
    """What a file holds, as a network is to see it.

    ``pixels`` (N, rows, columns) uint8, ink light; ``blank`` (N,) of bool; ``numbered`` for an IDX file, which may hold
    many; ``remarks`` are what there is to say about the file.
    """

    name: str
    pixels: Bytes
    blank: NDArray[np.bool_]
    numbered: bool
    remarks: tuple[str, ...] = ()


def from_file(path: Path, name: str, shape: tuple[int, int], *, raw: bool) -> Images:
    """The image or images in the file ``path``, which messages call ``name``. Raises as :func:`from_bytes` does."""
    try:
        if path.is_dir():
            raise DataError(f"{name}: is a folder; name the pictures in it")
        data = read(path, MAX_BYTES)
    except (OSError, ValueError) as error:  # a name with a NUL in it is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{name}: cannot be read: {reason}") from error
    return from_bytes(data, name, shape, raw=raw)


def from_bytes(data: bytes, name: str, shape: tuple[int, int], *, raw: bool) -> Images:
    """The images of an IDX file, plain or gzip, or the one of a picture, told apart by how ``data`` begins.

    Images of an IDX file are taken as they are, and so is a picture if ``raw``: light is ink, and they must have
    ``shape``, (rows, columns), which is the network's. Other pictures are :func:`centred`. Raises ``DataError`` for
    what cannot be read or does not fit, ``UsageError`` for a picture where Pillow is missing.
    """
    if not data:
        raise DataError(f"{name}: is empty")
    if len(data) > MAX_BYTES:
        raise DataError(f"{name}: is larger than {MAX_BYTES} bytes, which is more than is read here")
    if data.startswith(GZIP_MAGIC) or _is_idx(data):
        images = idx.decode(_unpacked(data, name), name, 3)
        _check_shape(images.shape[1:], shape, f"{name}: its images are")
        return Images(name, images, np.ptp(images, axis=(1, 2)) == 0, numbered=True)
    light, remarks = _read_picture(data, name, raw)
    if raw:
        _check_shape(light.shape, shape, f"{name}: is", "; without --raw it is cut out, scaled and centred")
        image, parts = np.rint(light).astype(np.uint8), int(np.ptp(light) > 0)
    else:
        image, parts = centred(light, shape)
    if parts > 1:
        remarks.append(f"shows {parts} things that lie apart, perhaps {parts} digits; the network expects one")
    return Images(name, image[np.newaxis], np.array([parts == 0]), numbered=False, remarks=tuple(remarks))


# Centring ------------------------------------------------------------------------------------------------------------


def centred(light: Array, shape: tuple[int, int] = (28, 28)) -> tuple[Bytes, int]:
    """A picture as MNIST would have it, and how many digits it may show: 0 where it is blank.

    ``light`` (H, W) goes from 0 (dark) to 255; the result has ``shape`` (rows, columns), uint8, ink light. Shifting the
    picture on its paper changes nothing, nor does inverting it. A digit so lopsided that its centre of mass can be in
    the middle only if it is cut off is moved as far as it goes.
    """
    image = np.zeros(shape, np.uint8)
    ink = find_ink(light)
    if not ink.any():
        return image, 0
    ink, digits = _without_specks(ink)
    box = [max(1, round(side * BOX)) for side in shape]
    factor = min(room / length for room, length in zip(box, ink.shape, strict=True))
    rows, columns = (max(1, round(length * factor)) for length in ink.shape)
    small = _areas(ink.shape[0], rows) @ ink @ _areas(ink.shape[1], columns).T  # (rows, columns)
    top = _start(small.sum(axis=1), shape[0])
    left = _start(small.sum(axis=0), shape[1])
    image[top : top + rows, left : left + columns] = np.rint(small * (255.0 / small.max()))
    return image, digits


def _ink(light: Array) -> Array:
    """How much ink is on each pixel, (H, W) in 0 .. 1; all 0 where the picture is blank.

    Paper is the median of the rim. Ink is what differs from it to the one side, dark or light, whose squares sum to
    more, and by more than the rim's own noise does.
    """
    rim = _rim(light)
    paper = np.median(rim)
    noise = 3 * np.median(np.abs(rim - paper))
    ink = light - paper
    lighter, darker = (float(np.sum(np.square(side))) for side in (ink[ink > 0], ink[ink < 0]))
    if lighter == darker:  # the side of the first of the pixels that differ most
        darker += float(ink.flat[np.abs(ink).argmax()] < 0)
    if darker > lighter:
        ink = -ink
    most = float(ink.max())
    if most - noise < FAINT:
        return np.zeros_like(ink)
    found: Array = np.clip((ink - noise) / (most - noise), 0.0, 1.0)
    return found


def _rim(light: Array) -> Array:
    """The pixels near the border."""
    width = max(1, round(RIM * min(light.shape)))
    inside = np.zeros(light.shape, np.bool_)
    inside[width:-width, width:-width] = True
    return light[~inside]


def _cut(ink: Array) -> Array:
    """``ink`` cut to its bounding box."""
    rows, columns = (np.flatnonzero((ink > EDGE).any(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _without_specks(ink: Array) -> tuple[Array, int]:
    """``ink`` without the parts too small to mean anything, cut again, and how many of the others may be digits."""
    while True:
        parts, mass, cell = _parts(ink)
        inks = np.bincount(parts.ravel(), mass.ravel())
        inks[0] = 0.0  # no part: what is fainter than EDGE
        specks = (inks < SPECK * inks.max()) & (inks > 0)
        if not specks.any():
            break
        wiped = np.kron(specks[parts], np.ones((cell, cell), np.bool_))[: ink.shape[0], : ink.shape[1]]
        ink = _cut(np.where(wiped, 0.0, ink))
    lengths = np.array([max(np.ptp(np.nonzero(parts == part), axis=1)) + 1 for part in range(1, len(inks))])
    inks = inks[1:]
    return ink, int(np.count_nonzero((inks >= DIGIT[0] * inks.max()) & (lengths >= DIGIT[1] * lengths.max())))


def _parts(ink: Array) -> tuple[Array, Array, int]:
    """Cells of ``ink``, those of one part with its number from 1 up, 0 for no ink; the ink in each; a cell's side."""
    cell = -(-max(ink.shape) // CELLS)
    padded = np.pad(ink, [(0, -length % cell) for length in ink.shape])
    blocks = padded.reshape(padded.shape[0] // cell, cell, padded.shape[1] // cell, cell)
    inked = blocks.max(axis=(1, 3)) > EDGE
    # Everything is thickened by half the gap; what touches then belongs together.
    reach = max(1, round(GAP * max(inked.shape) / 2))
    thick = np.zeros((inked.shape[0] + 2 * reach, inked.shape[1] + 2 * reach), np.bool_)
    for down in range(2 * reach + 1):
        for right in range(2 * reach + 1):
            thick[down : down + inked.shape[0], right : right + inked.shape[1]] |= inked
    labels = _components(thick)[reach:-reach, reach:-reach]
    return np.where(inked, labels, 0), blocks.sum(axis=(1, 3)), cell


def _components(mask: NDArray[np.bool_]) -> Array:
    """``mask`` with its connected parts numbered from 1 up; what touches by a corner is connected."""
    labels = np.zeros(mask.shape, np.int64)
    left = set(map(tuple, np.argwhere(mask).tolist()))
    part = 0
    while left:
        part += 1
        reached = [left.pop()]
        while reached:
            row, column = reached.pop()
            labels[row, column] = part
            beside = {(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= beside
            reached += beside
    return labels


def _areas(length: int, size: int) -> Array:
    """(size, length): the matrix that scales ``length`` pixels to ``size`` by averaging what each new one covers."""
    edges = np.arange(size + 1) * (length / size)
    pixels = np.arange(length)
    covered = np.minimum(edges[1:, np.newaxis], pixels + 1) - np.maximum(edges[:-1, np.newaxis], pixels)
    covered = np.clip(covered, 0.0, None)
    weights: Array = covered / covered.sum(axis=1, keepdims=True)
    return weights


def _start(profile: Array, side: int) -> int:
    """Where in ``side`` pixels a digit of the ink ``profile`` (n,) begins so that its centre of mass is the middle."""
    centre = float(profile @ np.arange(len(profile)) / profile.sum())
    return int(np.clip(np.floor(side // 2 - centre + 0.5), 0, side - len(profile)))


# Reading -------------------------------------------------------------------------------------------------------------


def _is_idx(data: bytes) -> bool:
    # The third byte is the type of an element, the fourth the number of dimensions: no picture has all of them so.
    return data[:2] == b"\0\0" and data[2:3] in b"\x08\x09\x0b\x0c\x0d\x0e" and data[3:4] not in (b"", b"\0")


def _unpacked(data: bytes, name: str) -> bytes:
    try:
        return _joined(decoded([data]), name)
    except GunzipError as error:
        raise DataError(f"{name}: {error}; get the file anew") from None


def _joined(pieces: Iterable[bytes], name: str) -> bytes:
    whole = bytearray()
    for piece in pieces:
        whole += piece
        if len(whole) > MAX_BYTES:
            raise DataError(f"{name}: unpacks to more than {MAX_BYTES} bytes, which is more than is read here")
    return bytes(whole)


def _read_picture(data: bytes, name: str, raw: bool) -> tuple[Array, list[str]]:
    """How light each pixel of a picture is, (H, W) float64 in 0 .. 255, and what there is to say about it."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise UsageError(f"{name}: reading pictures needs Pillow: pip install 'mlpcli[images]'") from None

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is checked here, or of no consequence
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                _check_size(image, name)
                frames = getattr(image, "n_frames", 1)
                image.load()
                _check_size(image, name)  # an icon may hold a larger picture than it says
                ImageOps.exif_transpose(image, in_place=True)
                light = _light(image, name, raw)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{name}: is damaged, or neither a picture that can be read here nor an IDX file") from None
    except Image.DecompressionBombError:
        raise DataError(f"{name}: {TOO_LARGE}") from None
    except MemoryError:
        raise DataError(f"{name}: does not fit in memory; make it smaller") from None
    except Exception as error:  # what Pillow's decoders raise for damaged bytes is nearly anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{name}: is damaged, or of a kind that cannot be read here: {reason:.200}") from None
    return light, [f"has {frames} frames; only the first is looked at"] if frames > 1 else []


def _formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in Image.OPEN if name not in NO_FORMATS]


def _check_size(image: Picture, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{name}: {TOO_LARGE}")
    if not image.width * image.height:
        raise DataError(f"{name}: has no pixels")


def _light(image: Picture, name: str, raw: bool) -> Array:
    """How light each pixel is, (H, W) float64 in 0 .. 255; of a large picture, unless ``raw``, averages of pixels.

    Colours count by ITU-R 601, 0.299 R + 0.587 G + 0.114 B. What is transparent shows white paper, or black where that
    gives more than twice the contrast; if ``raw``, black: no ink.
    """
    factor = 1 if raw else -(-max(image.size) // MAX_SIDE)
    if image.mode[0] in "IF":
        return _of_numbers(image, np.asarray(image.convert("F").reduce(factor), np.float64), name, raw)
    # By way of RGB: not every mode is known to Pillow's conversion to grey.
    if image.mode not in ("LA", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        grey = image if image.mode in ("1", "L") else image.convert("RGB")
        return np.asarray(grey.convert("L").reduce(factor), np.float64)
    pixels = np.asarray(image.convert("RGBA").convert("LA").reduce(factor), np.float64)
    opaque = pixels[..., 1] / 255.0
    on_black = pixels[..., 0] * opaque
    on_white = on_black + 255.0 * (1.0 - opaque)
    return on_black if raw or np.ptp(on_black) > 2 * np.ptp(on_white) else on_white


def _of_numbers(image: Picture, pixels: Array, name: str, raw: bool) -> Array:
    """``pixels`` of 16 or 32 bits, (H, W), in 0 .. 255; of 32 bits the least that occurs is black, the most white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return np.clip(pixels / 257.0, 0.0, 255.0)  # 65535 is white
    if raw or not np.isfinite(pixels).all():
        raise DataError(f"{name}: what is white is unknown, as its pixels are of 32 bits; save it with 8")
    # In two steps, of which neither overflows.
    pixels = pixels / max(float(np.abs(pixels).max()), 1e-300)
    stretched: Array = (pixels - pixels.min()) * (255.0 / max(float(np.ptp(pixels)), 1e-300))
    return stretched


def _check_shape(found: tuple[int, ...], wanted: tuple[int, int], subject: str, hint: str = "") -> None:
    if found != wanted:
        sizes = [" x ".join(map(str, shape)) for shape in (found, wanted)]
        raise DataError(f"{subject} of {sizes[0]} pixels, the network takes {sizes[1]}{hint}")
