"""Conversion of pictures to network inputs: they are read, segmented, cut, scaled and centred as MNIST's images were.

How MNIST was made, by the page it was published on: a digit is "size normalized to fit in a 20x20 pixel box while
preserving their aspect ratio", grey by "the anti-aliasing technique used by the normalization algorithm", and "centered
in a 28x28 image by computing the center of mass of the pixels, and translating the image so as to position this point
at the center of the 28x28 field". Its files show the rest: the longer side of the box is always 20, the centre is row
and column 14 counted from 0, the shift a whole number of pixels, and the brightest pixel white. :func:`centred` does
the same; if images are not 28 x 28, the box is 5/7 of them. Foreground and paper are separated in ``segment.py``.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mlpcli.datasets import idx
from mlpcli.datasets.bytestream import GZIP_MAGIC, GunzipError, decoded
from mlpcli.datasets.download import Say, silent
from mlpcli.datasets.segment import EDGE, Box, bounds, boxes, dilated, find_ink, labelled, reduced
from mlpcli.datasets.upright import is_emnist, upright
from mlpcli.errors import DataError, UsageError
from mlpcli.files import read

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Array = NDArray[Any]
Bytes = NDArray[np.uint8]

MAX_BYTES = 512 * 1024 * 1024  # of a file, and of what it is unpacked to
MAX_PIXELS = 64 * 1024 * 1024  # of a picture, before Pillow takes memory for them
MAX_SIDE = 1024  # a larger picture is first averaged down by a whole number; the digit will have 20 pixels anyway
NO_FORMATS = {"EPS"}  # Pillow would run another program on its contents

BOX = 5 / 7  # of an image's side: 20 of 28
GAP = 0.06  # of the ink's height: parts that are farther apart are separate
SPECK = 0.02  # of the largest part's ink: a part with less is removed
DIGIT = (0.2, 0.5)  # of the largest part's ink, and of its longer side: a part with at least that may be a digit too
CELLS = 64  # in the ink's height: parts are found on a grid no finer than this
TOUCHING = 1.1  # times its height: a wider part may be digits that touch
MAX_WIDTH = 1.3  # times its height: a single digit is no wider
MIN_WIDTH = 0.3  # of its height: a digit that touches another is no narrower

TOO_LARGE = f"has more than {MAX_PIXELS:,} pixels, which is more than is read here; make it smaller"
SEVERAL_DIGITS = "shows {} digits, of which the network expects one; --many reads them as a number"
BLANK = "is blank, or nothing on it differs enough from the paper: no digit"
HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands of HEIC files


@dataclass(frozen=True, eq=False)
class Pieces:
    """The possible pieces of a part of the ink: piece i lies between the cuts ``spans[i]``; cut 0 is its left end.

    ``pixels`` (N, rows, columns) uint8 are the pieces' images. ``spans`` are ordered by their right cut; the last one
    ends at the part's right end.
    """

    spans: tuple[tuple[int, int], ...]
    pixels: Bytes


@dataclass(frozen=True, eq=False)
class Images:
    """Images of one file, as network inputs.

    ``pixels`` (N, rows, columns) uint8, white strokes on black; ``blank`` (N,) of bool; ``numbered`` for an IDX file,
    which may have many; ``remarks`` are warnings about the file. ``row`` has the parts of a picture of several digits
    from left to right; ``many`` if they are to be read, else they are only counted.
    """

    name: str
    pixels: Bytes
    blank: NDArray[np.bool_]
    numbered: bool
    remarks: tuple[str, ...] = ()
    row: tuple[Pieces, ...] = ()
    many: bool = False


def from_file(
    path: Path,
    name: str,
    shape: tuple[int, int],
    *,
    raw: bool,
    many: bool = False,
    transpose: bool | None = None,
    say: Say = silent,
) -> Images:
    """Read the images of the file ``path``, called ``name`` in messages. Raises as :func:`from_bytes` does."""
    try:
        if path.is_dir():
            raise DataError(f"{name}: is a folder; name the pictures in it")
        data = read(path, MAX_BYTES)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{name}: cannot be read: {reason}") from error
    emnist = is_emnist(path.name)
    return from_bytes(data, name, shape, raw=raw, many=many, transpose=transpose, emnist=emnist, say=say)


def from_bytes(
    data: bytes,
    name: str,
    shape: tuple[int, int],
    *,
    raw: bool,
    many: bool = False,
    transpose: bool | None = None,
    emnist: bool = False,
    say: Say = silent,
) -> Images:
    """Read the images of an IDX file, plain or gzip, or of a picture; the beginning of ``data`` decides.

    Images of an IDX file are not changed, nor is a picture if ``raw``: white strokes on black, of ``shape``, (rows,
    columns), which is the network's, and never blank; but those of an IDX file are made :func:`upright`. Other pictures
    are :func:`centred`, or with ``many`` cut into a row of digits. Raises ``DataError`` for data that cannot be read or
    do not fit, ``UsageError`` for a picture if Pillow is missing.
    """
    if not data:
        raise DataError(f"{name}: is empty")
    if len(data) > MAX_BYTES:
        raise DataError(f"{name}: is larger than {MAX_BYTES} bytes, the limit")
    if data.startswith(GZIP_MAGIC) or _is_idx(data):
        images = upright(idx.decode(_unpacked(data, name), name, 3), name, transpose, emnist, say)
        _check_shape(images.shape[1:], shape, f"{name}: its images have")
        return Images(name, images, np.zeros(len(images), np.bool_), numbered=True)
    light, remarks = read_light(data, name, raw)
    if raw:
        _check_shape(light.shape, shape, f"{name}: has", "; without --raw it is cut out, scaled and centred")
        return Images(name, np.rint(light).astype(np.uint8)[np.newaxis], np.zeros(1, np.bool_), False, tuple(remarks))
    ink = find_ink(light)
    image, digits = _single(ink, shape)
    row = row_of_digits(ink, shape)
    if not many and digits < 2 and not any(len(pieces.spans) > 1 for pieces in row):
        row = ()  # parts of one digit, as far as can be decided without a network
    return Images(
        name, image[np.newaxis], np.array([digits == 0]), numbered=False, remarks=tuple(remarks), row=row, many=many
    )


# Centring ------------------------------------------------------------------------------------------------------------


def centred(light: Array, shape: tuple[int, int] = (28, 28)) -> tuple[Bytes, int]:
    """Centre a picture as in MNIST; return the image and the number of digits it shows: 0 if it is blank.

    ``light`` (H, W) goes from 0 (dark) to 255; the image has ``shape`` (rows, columns), uint8, white strokes on black.
    It does not change if the picture is shifted on its paper or inverted. A digit too lopsided to have its centre of
    mass in the middle without being cut off is moved as far as possible.
    """
    return _single(find_ink(light), shape)


def _single(ink: Array, shape: tuple[int, int]) -> tuple[Bytes, int]:
    """Return all of ``ink`` as one image, and the number of digits it shows."""
    if not ink.any():
        return np.zeros(shape, np.uint8), 0
    ink = _without_specks(ink)
    return _placed(ink, shape), max(1, sum(part.is_digit for part in _parts_of(ink, GAP)))


def _placed(ink: Array, shape: tuple[int, int]) -> Bytes:
    """Scale ``ink`` (h, w), which fills its box, to the box of an image of ``shape``, and centre it by its mass."""
    image = np.zeros(shape, np.uint8)
    box = [max(1, round(side * BOX)) for side in shape]
    factor = min(room / length for room, length in zip(box, ink.shape, strict=True))
    rows, columns = (max(1, round(length * factor)) for length in ink.shape)
    small = scaled(ink, (rows, columns))
    top = _start(small.sum(axis=1), shape[0])
    left = _start(small.sum(axis=0), shape[1])
    image[top : top + rows, left : left + columns] = np.rint(small * (255.0 / small.max()))
    return image


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of the ink: its ``box``, its pixels in it, and whether it is large enough to be a digit by itself."""

    box: Box
    mask: NDArray[np.bool_]
    mass: float
    is_digit: bool


def _parts_of(ink: Array, gap: float) -> list[_Part]:
    """Return the parts of ``ink`` (h, w); those closer than ``gap`` of its height are one part."""
    # Everything is dilated by half the gap; parts that then touch are one.
    cell = -(-ink.shape[0] // CELLS)
    inked = np.ceil(reduced(np.where(ink > EDGE, 1.0, 0.0), cell)) > 0
    reach = max(1, round(gap * inked.shape[0] / 2)) if gap else 0
    thick = dilated(np.pad(inked, reach), reach) if reach else inked
    labels, count = labelled(thick)
    labels = labels[reach : reach + inked.shape[0], reach : reach + inked.shape[1]] * inked
    fine = np.repeat(np.repeat(labels, cell, axis=0), cell, axis=1)[: ink.shape[0], : ink.shape[1]]
    masses = np.bincount(fine.ravel(), ink.ravel(), count + 1)
    found = boxes(fine, count)
    lengths = [max(side.stop - side.start for side in box) for box in found]
    min_mass, min_length = DIGIT[0] * masses[1:].max(initial=0), DIGIT[1] * max(lengths, default=0)
    return [
        _Part(box, fine[box] == part, masses[part], bool(masses[part] >= min_mass and length >= min_length))
        for part, (box, length) in enumerate(zip(found, lengths, strict=True), 1)
    ]


def _without_specks(ink: Array) -> Array:
    """Remove the smallest parts of ``ink``, and cut it to its box again."""
    while True:
        parts = _parts_of(ink, GAP)
        min_mass = SPECK * max(part.mass for part in parts)
        if all(part.mass >= min_mass for part in parts):
            return ink
        kept = np.zeros_like(ink)
        for part in parts:
            if part.mass >= min_mass:
                kept[part.box] += np.where(part.mask, ink[part.box], 0.0)
        ink = kept[bounds(kept > EDGE)]


def row_of_digits(ink: Array, shape: tuple[int, int]) -> tuple[Pieces, ...]:
    """Cut ``ink`` (h, w) into its parts from left to right."""
    if not ink.any():
        return ()
    ink = _without_specks(ink)
    groups: list[list[_Part]] = []
    parts = sorted(_parts_of(ink, 0.0), key=lambda part: (part.box[1].start, part.box[1].stop))
    for part in parts:
        # A part above or below the last digit, such as the bar of a 5, belongs to it.
        if groups and _overlap(groups[-1], part) >= 0.5:
            groups[-1].append(part)
        else:
            groups.append([part])
    digits = [group for group in groups if any(part.is_digit for part in group)]
    for group in groups:
        if group not in digits:
            min(digits, key=lambda digit: _distance(digit, group)).extend(group)
    return tuple(_pieces(_joined_parts(ink, group), shape) for group in digits)


def _columns(parts: list[_Part]) -> tuple[int, int]:
    return min(part.box[1].start for part in parts), max(part.box[1].stop for part in parts)


def _overlap(group: list[_Part], part: _Part) -> float:
    """Return the fraction of the narrower one that lies above or below the other."""
    (start, stop), (own_start, own_stop) = _columns(group), _columns([part])
    return (min(stop, own_stop) - max(start, own_start)) / min(stop - start, own_stop - own_start)


def _distance(one: list[_Part], other: list[_Part]) -> float:
    return abs(sum(_columns(one)) - sum(_columns(other))) / 2


def _joined_parts(ink: Array, parts: list[_Part]) -> Array:
    """Return the ink of ``parts``, cut to its box."""
    kept = np.zeros_like(ink)
    for part in parts:
        kept[part.box] += np.where(part.mask, ink[part.box], 0.0)
    return kept[bounds(kept > EDGE)]


def _pieces(ink: Array, shape: tuple[int, int]) -> Pieces:
    """Return ``ink`` as one digit, or if it is wide as all its pieces, cut at columns with little ink."""
    height, width = ink.shape
    if width <= TOUCHING * height:
        return Pieces(((0, 1),), _placed(ink, shape)[np.newaxis])
    profile = ink.sum(axis=0)
    # Cut at the column with the least ink within this distance.
    apart = max(1, round(MIN_WIDTH * height / 2))
    cuts = [0, *(at for at in range(apart, width - apart) if _is_least(profile, at, apart)), width]
    spans, images = [], []
    for stop in range(1, len(cuts)):
        for start in range(stop):
            piece = ink[:, cuts[start] : cuts[stop]]
            # A piece that cannot be cut is kept even if it is wide; some single digits are a little wider.
            whole = stop - start == 1 or (stop - start == len(cuts) - 1 and width <= MAX_WIDTH * height)
            if (whole or piece.shape[1] <= TOUCHING * height) and (piece > EDGE).any():
                spans.append((start, stop))
                images.append(_placed(piece[bounds(piece > EDGE)], shape))
    return Pieces(tuple(spans), np.array(images))


def _is_least(profile: Array, at: int, apart: int) -> bool:
    around = profile[at - apart : at + apart + 1]
    return int(around.argmin()) == apart


def scaled(image: Array, shape: tuple[int, int]) -> Array:
    """Return ``image`` (h, w) scaled to ``shape``, each pixel the average of the area it covers."""
    averages: Array = _areas(image.shape[0], shape[0]) @ image @ _areas(image.shape[1], shape[1]).T
    return averages


@lru_cache(maxsize=64)
def _areas(length: int, size: int) -> Array:
    """Return the matrix (size, length) that scales ``length`` pixels to ``size`` by averages of the area."""
    edges = np.arange(size + 1) * (length / size)
    pixels = np.arange(length)
    covered = np.minimum(edges[1:, np.newaxis], pixels + 1) - np.maximum(edges[:-1, np.newaxis], pixels)
    covered = np.clip(covered, 0.0, None)
    weights: Array = covered / covered.sum(axis=1, keepdims=True)
    return weights


def _start(profile: Array, side: int) -> int:
    """Return the first of ``side`` pixels of a digit with ``profile`` (n,) whose centre of mass is in the middle."""
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
        raise DataError(f"{name}: {error}; get the file again") from None


def _joined(chunks: Iterable[bytes], name: str) -> bytes:
    whole = bytearray()
    for chunk in chunks:
        whole += chunk
        if len(whole) > MAX_BYTES:
            raise DataError(f"{name}: unpacks to more than {MAX_BYTES} bytes, which is more than is read here")
    return bytes(whole)


def read_light(data: bytes, name: str, raw: bool) -> tuple[Array, list[str]]:
    """Return how light each pixel of a picture is, (H, W) float64 in 0 .. 255, and warnings about it."""
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError:
        raise UsageError(f"{name}: reading pictures needs Pillow: pip install 'mlpcli[images]'") from None

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warnings are checked here, or irrelevant
            with _opened(data) as image:
                _check_size(image, name)
                # Not n_frames: it counts pages in quadratic time. An MPO is a
                # camera's JPEG, whose second frame is a preview.
                frames = getattr(image, "is_animated", False) and image.format != "MPO"
                if not raw:
                    image.draft("L", (MAX_SIDE, MAX_SIDE))  # a JPEG is averaged down as it is decoded
                image.load()
                _check_size(image, name)  # an icon may contain a larger picture than its header gives
                ImageOps.exif_transpose(image, in_place=True)
                light = _light(image, name, raw)
    except DataError:
        raise
    except UnidentifiedImageError:
        if data[4:8] == b"ftyp" and data[8:12] in HEIF:
            raise DataError(f"{name}: is a HEIC picture, which Pillow does not read; save it as JPEG or PNG") from None
        raise DataError(f"{name}: is damaged, or neither a readable picture nor an IDX file") from None
    except Image.DecompressionBombError:
        raise DataError(f"{name}: {TOO_LARGE}") from None
    except MemoryError:
        raise DataError(f"{name}: does not fit in memory; make it smaller") from None
    except Exception as error:  # Pillow's decoders raise almost anything for damaged bytes
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"{name}: is damaged, or of an unsupported kind: {reason:.200}") from None
    return light, ["has more than one frame; only the first is read"] if frames else []


def _opened(data: bytes) -> Picture:
    """Open the picture by Pillow's few common formats, or else by all it has, which take longer to import."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data), formats=_formats(every=False))
    except UnidentifiedImageError:
        return Image.open(io.BytesIO(data), formats=_formats(every=True))


@cache
def _formats(*, every: bool) -> list[str]:
    from PIL import Image

    (Image.init if every else Image.preinit)()
    return [name for name in Image.OPEN if name not in NO_FORMATS]


def _check_size(image: Picture, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{name}: {TOO_LARGE}")
    if not image.width * image.height:
        raise DataError(f"{name}: has no pixels")


def _light(image: Picture, name: str, raw: bool) -> Array:
    """Return how light each pixel is, (H, W) float64 in 0 .. 255; averages of a large picture, unless ``raw``.

    Grey by ITU-R 601: 0.299 R + 0.587 G + 0.114 B. Transparent pixels become white, or black if that gives more than
    twice the contrast; if ``raw``, black.
    """
    factor = 1 if raw else -(-max(image.size) // MAX_SIDE)
    if image.mode[0] in "IF":
        return _of_numbers(image, np.asarray(image.convert("F").reduce(factor), np.float64), name, raw)
    # By way of RGB: Pillow cannot convert every mode to grey.
    if image.mode not in ("LA", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        if image.mode != "L":  # each of Pillow's conversions copies a picture
            image = (image if image.mode == "1" else image.convert("RGB")).convert("L")
        return np.asarray(image.reduce(factor) if factor > 1 else image).astype(np.float64)
    pixels = np.asarray(image.convert("RGBA").convert("LA").reduce(factor), np.float64)
    opaque = pixels[..., 1] / 255.0
    on_black = pixels[..., 0] * opaque
    on_white = on_black + 255.0 * (1.0 - opaque)
    return on_black if raw or np.ptp(on_black) > 2 * np.ptp(on_white) else on_white


def _of_numbers(image: Picture, pixels: Array, name: str, raw: bool) -> Array:
    """Scale ``pixels`` of 16 or 32 bits, (H, W), to 0 .. 255; of 32 bits the minimum is black, the maximum white."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return np.clip(pixels / 257.0, 0.0, 255.0)  # 65535 is white
    if raw or not np.isfinite(pixels).all():
        raise DataError(f"{name}: white is undefined, as its pixels have 32 bits; save it with 8")
    # In two steps, neither of which overflows.
    pixels = pixels / max(float(np.abs(pixels).max()), 1e-300)
    stretched: Array = (pixels - pixels.min()) * (255.0 / max(float(np.ptp(pixels)), 1e-300))
    return stretched


def _check_shape(found: tuple[int, ...], wanted: tuple[int, int], subject: str, hint: str = "") -> None:
    if found != wanted:
        sizes = [" x ".join(map(str, shape)) for shape in (found, wanted)]
        raise DataError(f"{subject} {sizes[0]} pixels, the network takes {sizes[1]}{hint}")
