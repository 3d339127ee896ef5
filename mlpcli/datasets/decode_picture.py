"""A picture's pixels as bytes, by Pillow: grey, light being ink, of its own size or scaled to another."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np

from mlpcli.config import DataConfig
from mlpcli.datasets.collection import Bytes, shown
from mlpcli.datasets.images import from_bytes
from mlpcli.errors import DataError, UsageError
from mlpcli.files import read

MAX_BYTES = 512 * 1024 * 1024
MAX_PIXELS = 64 * 1024 * 1024  # before Pillow takes memory for them
NO_FORMATS = {"EPS"}  # Pillow would have another program run what is in it


def read_picture(source: Path | bytes, data: DataConfig, where: str = "") -> Bytes:
    """The picture in a file, or in bytes that messages call ``where``, as ``data.size`` and ``data.centre`` ask for it.

    Raises as :func:`decode_picture` and :func:`centre_picture` do.
    """
    size = data.image_shape
    return centre_picture(source, size, where) if data.centre and size else decode_picture(source, size, where)


def decode_picture(source: Path | bytes, size: tuple[int, int] | None, where: str = "") -> Bytes:
    """The pixels (h, w) of the picture in a file, or in bytes that messages call ``where``; scaled to ``size``.

    Colours count by ITU-R 601, 0.299 R + 0.587 G + 0.114 B; what is transparent is black; of 16 bits the upper 8 count.
    Scaling averages. Raises ``DataError``, and ``UsageError`` without Pillow.
    """
    where = where or shown(source)  # type: ignore[arg-type]
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise UsageError(f"{where}: reading pictures needs Pillow: pip install 'mlpcli[images]'") from None
    try:
        data = source if isinstance(source, bytes) else read(source, MAX_BYTES)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is checked here, or of no consequence
            with Image.open(io.BytesIO(data), formats=[name for name in Image.OPEN if name not in NO_FORMATS]) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{where}: has more than {MAX_PIXELS:,} pixels, which is more than is read here")
                if image.mode.startswith("I;16") or image.mode == "I":
                    wide = np.asarray(image, np.float64)
                    grey = Image.fromarray(np.clip(wide / 257.0, 0, 255).round().astype(np.uint8))
                elif "A" in image.mode or "transparency" in image.info:
                    whole = image.convert("RGBA")
                    grey = Image.alpha_composite(Image.new("RGBA", whole.size, "black"), whole).convert("L")
                else:
                    grey = image if image.mode == "L" else image.convert("RGB").convert("L")
                if size is not None and grey.size != (size[1], size[0]):
                    grey = grey.resize((size[1], size[0]), Image.Resampling.BILINEAR)
                pixels = np.array(grey, np.uint8)
    except DataError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise DataError(f"{where}: is damaged, or no picture that can be read here") from None
    except MemoryError:
        raise DataError(f"{where}: does not fit in memory") from None
    except Exception as error:  # what Pillow's decoders raise for damaged bytes is nearly anything
        reason = readable_reason(error)
        raise DataError(f"{where}: is damaged, or of a kind that cannot be read here: {reason}") from None
    if not pixels.size:
        raise DataError(f"{where}: has no pixels")
    return pixels


def centre_picture(source: Path | bytes, size: tuple[int, int], where: str = "") -> Bytes:
    """The picture cut out, scaled and centred in ``size`` (h, w) as ``mlpcli predict`` does it, ink light.

    Raises ``DataError``, also where there is no ink, and ``UsageError`` without Pillow.
    """
    where = where or shown(source)  # type: ignore[arg-type]
    try:
        data = source if isinstance(source, bytes) else read(source, MAX_BYTES)
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None
    found = from_bytes(data, where, size, raw=False)
    if found.blank.any():
        raise DataError(f"{where}: is blank, and shows no class")
    pixels: Bytes = found.pixels[0]
    return pixels


def readable_reason(error: Exception) -> str:
    """The first line of what ``error`` says."""
    return shown(str(error).partition("\n")[0][:200]) or type(error).__name__
