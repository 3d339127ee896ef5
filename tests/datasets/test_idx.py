"""The IDX reader: hand-written bytes, round trips, and arbitrary bytes."""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlpcli.datasets import bytestream, idx
from mlpcli.errors import DataError

# Three labels, 7 0 255; and two images of one row and two columns, 1 2 and 3 4: written out by hand.
LABELS = bytes.fromhex("00 00 08 01  00 00 00 03  07 00 ff")
IMAGES = bytes.fromhex("00 00 08 03  00 00 00 02  00 00 00 01  00 00 00 02  01 02 03 04")


def test_labels_by_hand():
    assert idx.decode(LABELS, "labels", 1).tolist() == [7, 0, 255]
    assert idx.encode(np.array([7, 0, 255], np.uint8)) == LABELS


def test_images_by_hand():
    assert idx.decode(IMAGES, "images", 3).tolist() == [[[1, 2]], [[3, 4]]]
    assert idx.encode(np.array([[[1, 2]], [[3, 4]]], np.uint8)) == IMAGES


def test_decode_is_a_read_only_view():
    data = bytearray(LABELS)
    array = idx.decode(data, "labels", 1)
    data[8] = 9
    assert array[0] == 9
    assert not array.flags.writeable
    assert array.flags.c_contiguous


def as_idx(array: np.ndarray, kind: int) -> bytes:
    """Return ``array`` in IDX with elements of type ``kind``."""
    header = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return header + array.astype(idx.ELEMENTS[kind]).tobytes()


@pytest.mark.parametrize("kind", idx.ELEMENTS)
def test_every_element_type_is_read(kind: int):
    values = np.array([[[0, 100]], [[7, 1]]])
    assert idx.decode(as_idx(values, kind), "images", 3).tolist() == values.tolist()
    assert idx.decode(as_idx(np.array([3, 0, 100]), kind), "labels", 1).tolist() == [3, 0, 100]
    images = idx.decode(as_idx(values, kind), "images", 3)
    assert images.dtype == np.uint8
    assert not images.flags.writeable


@pytest.mark.parametrize("kind", [0x0D, 0x0E])
def test_floats_up_to_one_are_fractions_of_white(kind: int):
    assert idx.decode(as_idx(np.array([[[0, 0.25, 1]]]), kind), "images", 3).tolist() == [[[0, 64, 255]]]
    assert idx.decode(as_idx(np.array([[[0, 0.25, 255]]]), kind), "images", 3).tolist() == [[[0, 0, 255]]]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([0, 256], 0x0B, "these go from 0 to 256"),
        ([-1, 0], 0x09, "these go from -1 to 0"),
        ([0, -0.5], 0x0D, "these go from -0.5 to 0"),
        ([0.5, np.nan], 0x0E, "there is a NaN"),
        ([0.5, np.inf], 0x0E, "these go from 0.5 to inf"),
    ],
)
def test_values_outside_pixels_are_refused(values: list[float], kind: int, message: str):
    with pytest.raises(DataError, match=f"some.idx: pixels are numbers from 0 to 255, .*{message}"):
        idx.decode(as_idx(np.array([[values]]), kind), "some.idx", 3)


def test_first_column_of_a_label_table_is_read():
    """QMNIST's labels are the class, then the digit's origin in NIST's collection."""
    assert idx.decode(as_idx(np.array([[5, 2589, 7], [0, -1, 8]]), 0x0C), "labels", 1).tolist() == [5, 0]


def test_fractional_labels_are_refused():
    with pytest.raises(DataError, match=r"labels are whole numbers; that of image 1 is 0\.5"):
        idx.decode(as_idx(np.array([1, 0.5]), 0x0D), "labels", 1)


def test_the_digest_is_that_of_the_file():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert idx.digest(array) == hashlib.sha256(idx.encode(array)).hexdigest()
    assert idx.digest(array[:, ::2]) == hashlib.sha256(idx.encode(array[:, ::2])).hexdigest()


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)))
def test_round_trip(array: np.ndarray):
    decoded = idx.decode(idx.encode(array), "any", array.ndim)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, array)


@pytest.mark.parametrize("array", [np.zeros(3), np.uint8(1), np.zeros((2, 2), np.int8)])
def test_encode_refuses_unsupported_arrays(array: np.ndarray):
    with pytest.raises(ValueError, match="uint8"):
        idx.encode(np.asarray(array))


@pytest.mark.parametrize(
    ("data", "dimensions", "message"),
    [
        (b"", 1, "not an IDX file (it is empty)"),
        (b"<htm", 1, "not an IDX file (it begins with 3c 68 74 6d)"),
        (b"\0\0\x08", 1, "not an IDX file"),
        (bytes.fromhex("00 01 08 01 00 00 00 01 05"), 1, "not an IDX file"),
        (bytes.fromhex("00 00 0a 01 00 00 00 01 00 00 00 00"), 1, "type 0x0a"),
        (bytes.fromhex("01 08 00 00 03 00 00 00 07 00 ff"), 1, "its numbers are little-endian"),
        (bytes.fromhex("00 00 08 01 03 00 00 00 07 00 ff"), 1, "its sizes, 3, are little-endian: write them big-end"),
        (IMAGES, 1, "has 3 dimensions (images) instead of 1 (labels)"),
        (LABELS, 3, "has 1 dimensions (labels) instead of 3 (images)"),
        (bytes.fromhex("00 00 08 02 00 00 00 01 00 00 00 01 05"), 3, "2 dimensions (unknown contents)"),
        (IMAGES[:9], 3, "ends within its header"),
        (bytes.fromhex("00 00 08 01 00 00 00 00"), 1, "is empty"),
        (
            bytes.fromhex("00 00 08 03 00 00 00 02 00 00 00 00 00 00 00 02"),
            3,
            "is empty: its sizes are 2 x 0 x 2",
        ),
        (LABELS[:-1], 1, "promises 11 bytes, it"),
        (LABELS + b"\0", 1, "longer than the 11 bytes"),
        (
            bytes.fromhex("00 00 08 03 ff ff ff ff ff ff ff ff ff ff ff ff 00"),
            3,
            "promises 79228162458924105385300197391",
        ),
    ],
)
def test_bad_contents_are_refused(data: bytes, dimensions: int, message: str, tmp_path: Path):
    with pytest.raises(DataError) as decoding:
        idx.decode(data, "some.idx", dimensions)
    assert message in str(decoding.value)
    assert str(decoding.value).startswith("some.idx: ")
    assert "\n" not in str(decoding.value)

    for name, written in (("uncompressed", data), ("packed.gz", gzip.compress(data))):
        path = tmp_path / name
        path.write_bytes(written)
        with pytest.raises(DataError) as reading:
            idx.read(path, dimensions)
        assert str(path) in str(reading.value)
        assert "\n" not in str(reading.value)


@pytest.mark.parametrize(
    "packed",
    [
        LABELS,
        gzip.compress(LABELS),
        gzip.compress(LABELS[:5]) + gzip.compress(b"") + gzip.compress(LABELS[5:]),
    ],
    ids=["uncompressed", "gzip", "gzip of three members"],
)
def test_files_are_read(packed: bytes, tmp_path: Path):
    path = tmp_path / "named-anything"
    path.write_bytes(packed)
    array, digest = idx.read(path, 1)
    assert array.tolist() == [7, 0, 255]
    assert not array.flags.writeable
    assert digest == hashlib.sha256(LABELS).hexdigest()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: packed[:-1], "gzip cut short"),
        (lambda packed: packed[:-9], "gzip cut short"),
        (lambda packed: packed[:-5] + bytes([packed[-5] ^ 1]) + packed[-4:], "damaged gzip (incorrect data check)"),
        (lambda packed: packed[:12] + b"\xff\xff\xff" + packed[15:], "damaged gzip"),
        (lambda packed: packed + b"rubbish", "damaged gzip (incorrect header check)"),
    ],
)
def test_damaged_gzip_is_refused(damage, message: str, tmp_path: Path):
    path = tmp_path / "labels.gz"
    path.write_bytes(damage(gzip.compress(LABELS)))
    with pytest.raises(DataError, match=r"labels\.gz: ") as failure:
        idx.read(path, 1)
    assert message in str(failure.value)


def test_declared_size_is_checked_before_allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_memory(size: object = b"") -> bytearray:
        if isinstance(size, int):
            raise AssertionError(f"took {size} bytes")
        return bytearray(size)

    monkeypatch.setattr(idx, "bytearray", no_memory, raising=False)
    header = struct.pack(">HBBI", 0, 8, 1, 1_000_000)
    for data in (header + bytes(500), gzip.compress(header + bytes(500))):
        path = tmp_path / "labels"
        path.write_bytes(data)
        with pytest.raises(DataError, match="its header promises 1000008 bytes, it has"):
            idx.read(path, 1)


@pytest.mark.parametrize("count", [3, 1_000_000])
def test_gzip_bomb_is_decoded_only_to_its_declared_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int):
    taken = []

    def counting(chunks):
        for chunk in bytestream.decoded(chunks):
            taken.append(len(chunk))
            yield chunk

    monkeypatch.setattr(idx, "decoded", counting)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx.encode(np.zeros(count, np.uint8)) + bytes(20_000_000), 1))
    with pytest.raises(DataError, match=f"is longer than the {8 + count} bytes"):
        idx.read(path, 1)
    assert sum(taken) <= 8 + count + bytestream.CHUNK_BYTES


def test_insufficient_memory_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_memory(size: object = b"") -> bytearray:
        if isinstance(size, int):
            raise MemoryError
        return bytearray(size)

    monkeypatch.setattr(idx, "bytearray", no_memory, raising=False)
    path = tmp_path / "labels"
    path.write_bytes(LABELS)
    with pytest.raises(DataError, match="11 bytes do not fit in memory"):
        idx.read(path, 1)


def test_only_regular_files_are_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for path in (tmp_path / "pipe", tmp_path / "folder", Path("/dev/zero"), tmp_path / "loop", tmp_path / "missing"):
        with pytest.raises(DataError, match="cannot be read"):
            idx.read(path, 1)


# Bytes that resemble IDX files more often than random ones would.
some_bytes = st.binary(max_size=300)
headers = st.builds(
    lambda kind, sizes, rest: struct.pack(f">HBB{len(sizes)}I", 0, kind, len(sizes), *sizes) + rest,
    st.sampled_from([8, 8, 8, 8, 0, 9, 11, 12, 13, 14]),
    st.lists(st.integers(0, 6) | st.integers(0, 2**32 - 1), max_size=4),
    some_bytes,
)
uncompressed = some_bytes | headers
changed = st.builds(
    lambda data, position, byte: data[: position % len(data)] + bytes([byte]) + data[position % len(data) + 1 :],
    uncompressed.map(gzip.compress),
    st.integers(0, 1000),
    st.integers(0, 255),
)
anything = (
    uncompressed | uncompressed.map(gzip.compress) | changed | some_bytes.map(lambda rest: b"\x1f\x8b\x08" + rest)
)


@settings(max_examples=200, deadline=None)
@given(anything, st.sampled_from([1, 3]))
@example(b"\x1f\x8b", 1)
@example(b"\x1f", 1)
@example(zlib.compress(LABELS), 1)
def test_any_bytes_give_an_array_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, dimensions: int
):
    path = tmp_path_factory.getbasetemp() / "any.idx"
    path.write_bytes(data)
    try:
        array, digest = idx.read(path, dimensions)
    except DataError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
    else:
        assert array.ndim == dimensions
        assert 0 < array.size <= len(data) * bytestream.MAX_RATIO
        decoded = b"".join(bytestream.decoded([data]))
        assert hashlib.sha256(decoded).hexdigest() == digest
        if decoded[2:4] == bytes([8, dimensions]):
            assert idx.encode(array) == decoded


@settings(max_examples=200, deadline=None)
@given(uncompressed, st.sampled_from([1, 3]))
def test_decode_accepts_exactly_what_encode_writes(data: bytes, dimensions: int):
    try:
        array = idx.decode(data, "any", dimensions)
    except DataError:
        return
    if data[2:4] == bytes([8, dimensions]):
        assert idx.encode(array) == data


@settings(max_examples=200, deadline=None)
@given(anything, st.lists(st.integers(0, 300)))
def test_chunks_of_a_gzip_stream_have_no_effect(data: bytes, cuts: list[int]):
    edges = [0, *sorted(cuts), len(data)]
    chunks = [data[start:end] for start, end in pairwise(edges)]

    def outcome(chunks: list[bytes]) -> bytes | str:
        try:
            return b"".join(bytestream.decoded(chunks))
        except bytestream.GunzipError as error:
            return str(error)

    assert outcome(chunks) == outcome([data])


@given(st.binary(max_size=100), st.integers(1, 5))
def test_gzip_stream_in_small_chunks(data: bytes, size: int):
    packed = gzip.compress(data) + gzip.compress(data[::-1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bytestream, "CHUNK_BYTES", size)
        chunks = list(bytestream.decoded([packed]))
    assert b"".join(chunks) == data + data[::-1]
    assert max(map(len, chunks), default=0) <= size
