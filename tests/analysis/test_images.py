"""Pictures are converted as MNIST's were, from any format; unreadable ones give one clear error."""

from __future__ import annotations

import gzip
import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mlpcli.config import DataConfig
from mlpcli.datasets import idx
from mlpcli.datasets import images as im
from mlpcli.datasets.load import load_split
from mlpcli.errors import DataError, UsageError

pytestmark = pytest.mark.slow

MNIST = (28, 28)


@pytest.fixture(scope="module")
def digits():
    """Return the first 60 test images of MNIST, (60, 28, 28)."""
    return load_split(DataConfig("mnist-sample"), "test").split.images[:60].reshape(-1, 28, 28)


def enlarged(digit, side=140):
    """Return ``digit`` (28, 28), light on dark, as a picture dark on light, (side, side) uint8."""
    return 255 - np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))


def encoded(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read(data, *, raw=False, shape=MNIST):
    return im.from_bytes(data, "it", shape, raw=raw)


def difference(found, expected):
    """Return the mean difference of pixels at the best shift of up to one pixel: centring rounds to pixels."""
    shifts = [np.roll(found, (i, j), (0, 1)).astype(int) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    return min(np.abs(shifted - expected).mean() for shifted in shifts)


def centre_of_mass(image):
    ink = image.astype(float)
    return [float(ink.sum(axis=1 - axis) @ np.arange(ink.shape[axis]) / ink.sum()) for axis in (0, 1)]


def extent(image):
    return [int(np.ptp(np.flatnonzero(image.any(axis=1 - axis)))) + 1 for axis in (0, 1)]


# Centring -----------------------------------------------------------------------------------------


def test_centring_by_hand():
    """Centre a 10 x 10 triangle in a 7 x 7 image with a box of 5 x 5: a new pixel is the mean of four."""
    light = np.full((30, 30), 200.0)
    light[3:13, 12:22][np.tril_indices(10)] = 40.0
    # On the diagonal three of four pixels are ink: 191.25. With m = 5 * 0.75 + 10 = 13.75 the centre of mass is in row
    # (sum of i (i + 0.75)) / m = 37.5 / 13.75 = 2.73 and, mirrored, in column 1.27: to be at 3 it moves by 0 and by 2.
    expected = np.zeros((7, 7), int)
    for i in range(5):
        expected[i, 2 : 2 + i] = 255
        expected[i, 2 + i] = 191
    image, parts = im.centred(light, (7, 7))
    assert image.tolist() == expected.tolist()
    assert image.dtype == np.uint8
    assert parts == 1


def test_box_of_mnist_and_of_other_sizes():
    square = np.pad(np.full((30, 30), 255.0), 20)
    assert extent(im.centred(square)[0]) == [20, 20]
    assert extent(im.centred(square, (14, 14))[0]) == [10, 10]
    assert extent(im.centred(square, (28, 14))[0]) == [10, 10]
    assert extent(im.centred(np.pad(np.full((40, 10), 255.0), 20), (28, 14))[0]) == [20, 5]
    assert extent(im.centred(square, (1, 1))[0]) == [1, 1]


def test_digits_of_mnist_hardly_change(digits):
    found = np.array([im.centred(digit.astype(float))[0] for digit in digits])
    same = (found == digits).all(axis=(1, 2))
    assert same.mean() > 0.6  # the others lose a faint row at their edge
    assert np.abs(found.astype(int) - digits).mean() < 4


def test_enlarged_digits_of_mnist_are_restored(digits):
    for digit in digits[:10]:
        whole = np.kron(digit, np.ones((7, 7)))
        original = im.centred(digit.astype(float))[0].astype(int)
        assert np.abs(im.centred(whole)[0] - original).max() <= 10
        assert difference(im.centred(enlarged(digit).astype(float))[0], original) < 12
        assert im.centred(enlarged(digit).astype(float))[1] == 1


BLOBS = st.integers(0, 2**32).map(np.random.default_rng)


def blob(random, canvas=40, most=24) -> tuple[np.ndarray, int]:
    """Draw ink of many levels and the level of its paper."""
    rows, columns = random.integers(1, most, 2)
    paper = int(random.integers(0, 256))
    dark = paper > 127
    ink = random.integers(0, paper - 60, (rows, columns)) if dark else random.integers(paper + 61, 256, (rows, columns))
    ink = np.where(random.random((rows, columns)) < random.random(), ink, paper)
    ink[random.integers(rows), random.integers(columns)] = 0 if dark else 255
    return ink, paper


def put(ink, paper, top, left, canvas=40):
    light = np.full((canvas, canvas), float(paper))
    light[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return light


@given(BLOBS)
def test_centred_digit_fits_box_with_mass_in_the_middle(random):
    image, parts = im.centred(put(*blob(random), 5, 5))
    assert parts >= 1
    assert max(extent(image)) == 20
    assert image.max() == 255
    for axis, centre in enumerate(centre_of_mass(image)):
        edges = np.take(image, [0, -1], axis=axis)
        if not edges.any():  # else it is at the border
            assert centre == pytest.approx(14, abs=0.51)


@given(BLOBS, st.integers(2, 14), st.integers(2, 14))
def test_position_on_the_paper_has_no_effect(random, top, left):
    picture = blob(random)
    assert np.array_equal(im.centred(put(*picture, top, left))[0], im.centred(put(*picture, 2, 14))[0])


@given(BLOBS)
def test_inverting_a_digit_has_no_effect(random):
    light = put(*blob(random), 6, 7)
    one, other = im.centred(light), im.centred(255 - light)
    assert np.array_equal(one[0], other[0])
    assert one[1] == other[1]


@given(BLOBS, st.integers(3, 9), st.integers(3, 9))
def test_inverting_any_picture_has_no_effect(random, rows, columns):
    light = random.integers(0, 256, (rows, columns)).astype(float)
    assert np.array_equal(im.centred(light)[0], im.centred(255 - light)[0])


def test_half_light_image_equals_its_inverse():
    light = np.full((9, 9), 100.0)
    light[3, 3:5] = 0, 200
    assert np.array_equal(im.centred(light)[0], im.centred(255 - light)[0])
    assert im.centred(light)[0].any()


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize("long", [1, 2, 70, 3000])
def test_pictures_of_any_shape_are_centred(side, long):
    for shape in ((side, long), (long, side)):
        light = np.zeros(shape)
        light[-1, -1] = 255
        image, parts = im.centred(light)
        assert image.shape == MNIST
        assert parts == bool(image.any())


def test_lopsided_digit_is_shifted_without_loss():
    light = np.full((60, 60), 255.0)
    light[46:50, 10:50] = 200  # faint, but wide enough for the box
    light[10:50, 46:50] = 0
    image, _ = im.centred(light)
    assert extent(image) == [20, 20]
    assert image[:, 0].any()
    assert centre_of_mass(image)[1] > 15


@pytest.mark.parametrize("level", [0, 128, 255])
def test_blank_picture_has_no_digit(level):
    image, parts = im.centred(np.full((50, 40), float(level)))
    assert (int(image.max()), parts) == (0, 0)
    speckled = np.clip(level + np.random.default_rng(0).normal(0, 3, (100, 100)), 0, 255)
    assert im.centred(speckled)[1] == 0


def test_photograph_of_paper_equals_the_drawing(digits):
    random = np.random.default_rng(2)
    for digit in digits[:5]:
        drawing = enlarged(digit, 300).astype(float)
        across = np.arange(300.0)
        paper = 215 - 25 * across / 300 - 10 * across[:, np.newaxis] / 300 + random.normal(0, 4, (300, 300))
        photograph = np.clip(paper * (0.3 + 0.7 * drawing / 255), 0, 255)
        assert difference(im.centred(photograph)[0], im.centred(drawing)[0].astype(int)) < 8


def test_speck_of_dust_is_ignored(digits):
    paper = np.full((300, 400), 255.0)
    paper[100:240, 100:240] = enlarged(digits[0])
    clean = im.centred(paper)
    paper[20, 390] = paper[290, 5] = paper[291, 5] = 0
    assert np.array_equal(im.centred(paper)[0], clean[0])
    assert clean[1] == im.centred(paper)[1] == 1


def test_digits_far_apart_are_counted(digits):
    row = np.hstack([np.pad(enlarged(digit, 112), 10, constant_values=255) for digit in digits[:3]]).astype(float)
    assert im.centred(row)[1] == 3
    assert im.centred(np.pad(row[:, :132], 10, constant_values=255.0))[1] == 1
    assert im.centred(row[:, :264].T)[1] == 2


def test_few_single_digits_are_counted_as_several(digits):
    assert sum(im.centred(digit.astype(float))[1] != 1 for digit in digits) <= 1


# Reading pictures ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(digits):
    """Return a 7 as a picture, dark on light, and the expected image."""
    picture = enlarged(digits[0])
    return picture, im.centred(picture.astype(float))[0].astype(int)


def assert_like(found, expected, mean=3.0):
    assert found.pixels.shape == (1, 28, 28)
    assert found.pixels.dtype == np.uint8
    assert not found.blank.any()
    assert difference(found.pixels[0], expected) <= mean


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "PPM", "TGA", "ICO", "JPEG", "WEBP", "JPEG2000"])
def test_every_format_gives_the_same_image(drawn, kind):
    found = read(encoded(drawn[0], kind))
    assert_like(found, drawn[1])
    assert (found.name, found.numbered, found.remarks) == ("it", False, ())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_every_mode_gives_the_same_image(drawn, mode):
    picture = Image.fromarray(drawn[0])
    if mode.startswith("I"):
        picture = Image.fromarray(drawn[0].astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    elif mode == "F":
        picture = Image.fromarray((drawn[0].astype(np.float32) - 100) * 1e30)
    else:
        picture = picture.convert(mode)
    assert picture.mode == mode
    assert_like(
        read(encoded(picture, "PNG" if mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16") else "TIFF")), drawn[1], 6
    )


def test_light_on_dark_gives_the_same_image(drawn):
    assert np.array_equal(read(encoded(255 - drawn[0])).pixels[0], drawn[1])


def test_coloured_ink_gives_the_same_image(drawn):
    for ink, paper in (((200, 0, 0), (255, 255, 255)), ((255, 255, 0), (0, 0, 120)), ((90, 90, 200), (250, 240, 220))):
        fraction = drawn[0][..., np.newaxis] / 255
        picture = (np.array(paper) * fraction + np.array(ink) * (1 - fraction)).astype(np.uint8)
        assert_like(read(encoded(picture)), drawn[1])


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (230, 230, 60), (60, 60, 60)])
def test_transparent_pixels_are_paper(drawn, colour):
    """Transparent pixels are paper: white, or dark if the ink is light."""
    picture = np.zeros((*drawn[0].shape, 4), np.uint8)
    picture[..., :3] = colour
    picture[..., 3] = 255 - drawn[0]
    assert_like(read(encoded(picture)), drawn[1])


def test_transparent_border_around_paper_is_not_ink(drawn):
    picture = np.zeros((180, 180, 4), np.uint8)
    picture[20:160, 20:160, :3] = drawn[0][..., np.newaxis]
    picture[20:160, 20:160, 3] = 255
    assert_like(read(encoded(picture)), drawn[1])


def test_transparent_colour_of_a_palette(drawn):
    picture = Image.fromarray((drawn[0] > 127).astype(np.uint8))
    picture = picture.convert("P")
    picture.putpalette([0, 0, 0, 0, 0, 0])  # both black; the second is transparent
    assert_like(read(encoded(picture, transparency=1)), drawn[1], 10)


def test_exif_orientation_is_applied(drawn):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    turned = Image.fromarray(drawn[0]).transpose(Image.Transpose.ROTATE_90)
    assert_like(read(encoded(turned, "JPEG", exif=exif)), drawn[1])
    assert difference(read(encoded(turned, "JPEG")).pixels[0], drawn[1]) > 10


def test_broken_exif_is_ignored(drawn):
    assert_like(read(encoded(drawn[0], "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")), drawn[1])


def test_first_of_several_frames_is_read(drawn):
    other = Image.fromarray(drawn[0]).transpose(Image.Transpose.ROTATE_90)
    found = read(encoded(drawn[0], "GIF", save_all=True, append_images=[other, Image.new("L", (140, 140))]))
    assert_like(found, drawn[1])
    assert found.remarks == ("has more than one frame; only the first is read",)


def test_large_photograph_is_reduced_first(drawn, monkeypatch):
    sizes = []
    find_ink = im.find_ink
    monkeypatch.setattr(im, "find_ink", lambda light: sizes.append(light.shape) or find_ink(light))
    paper = Image.new("RGB", (3000, 2000), (255, 255, 255))
    paper.paste(Image.fromarray(drawn[0]).resize((700, 700)), (1900, 300))
    assert_like(read(encoded(paper, "JPEG")), drawn[1])
    assert sizes == [(667, 1000)]


def test_several_digits_and_no_digit_are_reported(digits):
    two = np.hstack([enlarged(digit) for digit in digits[:2]])
    found = read(encoded(two))
    assert (len(found.row), found.many) == (2, False)
    assert not found.blank.any()
    assert read(encoded(enlarged(digits[0]))).row == ()
    blank = read(encoded(np.full((40, 50), 255, np.uint8)))
    assert blank.blank.tolist() == [True]
    assert not blank.pixels.any()


# Raw images ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
def test_raw_does_not_change_values(digits, mode):
    digit = np.roll(digits[0], 5, axis=0)
    picture = Image.fromarray(digit.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(digit).convert(mode)
    assert np.array_equal(read(encoded(picture), raw=True).pixels[0], digit)


def test_raw_image_is_not_inverted_and_transparent_is_empty(digits):
    assert np.array_equal(read(encoded(255 - digits[0]), raw=True).pixels[0], 255 - digits[0])
    picture = np.full((28, 28, 4), 255, np.uint8)
    picture[..., 3] = digits[0]
    assert np.array_equal(read(encoded(picture), raw=True).pixels[0], digits[0])


def test_raw_requires_the_size_of_the_network(digits):
    with pytest.raises(DataError, match="it: has 27 x 28 pixels, the network takes 28 x 28; without --raw it is cut"):
        read(encoded(digits[0][1:]), raw=True)


def test_raw_does_not_guess_what_is_white():
    with pytest.raises(DataError, match="white is undefined, as its pixels have 32 bits; save it with 8"):
        read(encoded(np.zeros((28, 28), np.float32), "TIFF"), raw=True)


def test_raw_blank_image_is_classified():
    assert read(encoded(np.full((28, 28), 9, np.uint8)), raw=True).blank.tolist() == [False]


# IDX files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("raw", [False, True])
def test_idx_images_are_not_centred(digits, pack, raw):
    images = digits[:5].copy()
    images[2] = 0
    found = read(pack(idx.encode(images)), raw=raw)
    assert found.numbered
    assert np.array_equal(found.pixels, images)
    assert not found.blank.any()
    assert found.remarks == ()


def test_idx_needs_no_pillow_and_a_picture_names_it():
    program = """
import sys
sys.modules["PIL"] = None
from mlpcli.datasets import images
from mlpcli.datasets import idx
import numpy as np
print(images.from_bytes(idx.encode(np.zeros((2, 3, 4), np.uint8)), "it", (3, 4), raw=False).pixels.shape)
try:
    images.from_bytes(b"\\x89PNG", "it.png", (3, 4), raw=False)
except images.UsageError as error:
    print(error)
"""
    root = Path(im.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 3, 4)\nit.png: reading pictures needs Pillow: pip install 'mlpcli[images]'\n"
    assert im.UsageError is UsageError


# Errors -------------------------------------------------------------------------------------------


def bomb(width, height):
    """Return a PNG of a few bytes whose header declares ``width`` x ``height`` pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (b"hello", "is damaged, or neither a readable picture nor an IDX file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "is a HEIC picture, which Pillow does not read; save it"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "neither a readable picture"),
        (bomb(8200, 8200), "has more than 67,108,864 pixels"),  # fewer than Pillow warns of
        (bomb(12000, 12000), "has more than 67,108,864 pixels"),  # as many as it warns of
        (bomb(50000, 50000), "has more than 67,108,864 pixels"),  # as many as it refuses
        (bomb(100, 100), "is damaged, or of an unsupported kind: image file is truncated"),
        (encoded(np.zeros((99, 99), np.uint8), "JPEG")[:-50], "is damaged, or of an unsupported kind"),
        (encoded(np.full((9, 9), np.nan, np.float32), "TIFF"), "white is undefined"),
        (idx.encode(np.zeros((3, 28, 28), np.uint8))[:-1], "cut short"),
        (idx.encode(np.zeros(3, np.uint8)), r"has 1 dimensions \(labels\)"),
        (idx.encode(np.zeros((3, 5, 28), np.uint8)), "its images have 5 x 28 pixels, the network takes 28 x 28"),
        (gzip.compress(b"hello", mtime=0), "not an IDX file"),
        (gzip.compress(bytes(99), mtime=0)[:-9], "gzip cut short"),
    ],
)
def test_unreadable_file_is_one_line(data, what):
    with pytest.raises(DataError, match=f"^it: .*{what}") as error:
        read(data)
    assert "\n" not in str(error.value)


def test_picture_larger_than_memory_is_refused(monkeypatch):
    monkeypatch.setattr(im, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="it: unpacks to more than 1000 bytes"):
        read(gzip.compress(bytes(5000)))
    with pytest.raises(DataError, match="it: is larger than 1000 bytes"):
        read(bytes(1001))


def test_every_truncation_is_an_error_or_an_image(drawn):
    for kind in ("PNG", "JPEG", "GIF"):
        data = encoded(drawn[0], kind)
        errors = 0
        for length in range(1, len(data), 97):
            try:
                read(data[:length])
            except DataError:
                errors += 1
        assert errors >= len(range(1, len(data), 97)) - 1


def test_many_pages_and_frames_are_read_quickly(drawn):
    """Counting 3,000 pages or 20,000 frames would take seconds."""
    page = Image.fromarray(drawn[0])
    small = Image.new("1", (1, 1))
    many = encoded(page, "TIFF", save_all=True, append_images=[small] * 3000)
    head = encoded(page, "GIF", save_all=True, append_images=[Image.new("L", (140, 140))])
    frame = b",\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    animation = head[:-1] + 20_000 * frame + b";"
    for data in (many, animation):
        started = time.process_time()
        found = read(data)
        assert time.process_time() - started < 1.5
        assert_like(found, drawn[1])
        assert found.remarks == ("has more than one frame; only the first is read",)


def test_files_and_folders_are_expanded(drawn, tmp_path):
    (tmp_path / "seven.png").write_bytes(encoded(drawn[0]))
    found = im.from_file(tmp_path / "seven.png", "seven", MNIST, raw=False)
    assert found.name == "seven"
    assert np.array_equal(found.pixels[0], drawn[1])
    for path, what in (
        (tmp_path, "it: is a folder; name the pictures in it"),
        (tmp_path / "none.png", "it: cannot be read: No such file or directory"),
        (Path("/dev/null"), "it: cannot be read: not a regular file"),
        (tmp_path / ("x" * 5000), "it: cannot be read: File name too long"),
        (Path("a\0b"), "it: cannot be read: embedded null byte"),
    ):
        with pytest.raises(DataError, match=what):
            im.from_file(path, "it", MNIST, raw=False)


def test_digits_of_fonts_and_pens_are_centred():
    pen = Image.new("L", (400, 300), 250)
    ImageDraw.Draw(pen).line([(60, 40), (160, 40), (90, 200)], fill=20, width=14, joint="curve")
    image = read(encoded(pen)).pixels[0]
    assert max(extent(image)) == 20
    assert centre_of_mass(image) == pytest.approx([14, 14], abs=0.51)


def test_tolerance_is_far_below_differences_of_digits(digits):
    centred = [im.centred(digit.astype(float))[0].astype(int) for digit in digits[:5]]
    assert min(difference(one, other) for one in centred for other in centred if one is not other) > 24
