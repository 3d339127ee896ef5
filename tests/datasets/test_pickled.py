"""mnist.pkl.gz: pickles of Python 2 and 3, and malicious pickles."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.config import DataConfig
from mlpcli.datasets import pickled
from mlpcli.datasets.load import load_dataset
from mlpcli.datasets.pickled import PickleError
from mlpcli.errors import DataError

RANDOM = np.random.default_rng(13)
IMAGES = RANDOM.integers(0, 256, (10, 4), np.uint8)
LABELS = np.arange(10) % 3
PAIRS = tuple(
    (np.float32(IMAGES[a:b] / np.float32(255)), LABELS[a:b].astype(np.int64)) for a, b in ((0, 6), (6, 8), (8, 10))
)


def python_2(pairs) -> bytes:
    """Return a pickle as Python 2's cPickle wrote it: bytes as short or long strings, and old numpy names."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<I", len(text)) + text

    def array(values: np.ndarray) -> bytes:
        shape = b"(" + b"".join(b"K" + bytes([side]) for side in values.shape) + b"t"
        kind = b"cnumpy\ndtype\n" + string(values.dtype.str[1:].encode()) + b"K\0K\1\x87R"
        kind += b"(K\3" + string(b"<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + string(b"b") + b"\x87R"
        return made + b"(K\1" + shape + kind + b"\x89" + string(values.tobytes()) + b"tb"

    return b"\x80\2(" + b"".join(b"(" + array(a) + array(b) + b"t" for a, b in pairs) + b"t."


def load(path: Path, data: bytes):
    path.write_bytes(data)
    return load_dataset(DataConfig(dataset=str(path), validation=0.0), pickles=True)


@pytest.mark.parametrize("protocol", [*range(pickle.HIGHEST_PROTOCOL + 1), "python 2"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_every_protocol_is_read(tmp_path: Path, protocol: int | str, pack):
    data = python_2(PAIRS) if protocol == "python 2" else pickle.dumps(PAIRS, protocol)
    dataset = load(tmp_path / "mnist.pkl.gz", pack(data))
    assert np.array_equal(dataset.train.images, IMAGES[:8])
    assert np.array_equal(dataset.train.labels, LABELS[:8])
    assert np.array_equal(dataset.test().images, IMAGES[8:])


def test_pickle_is_read_only_by_import(tmp_path: Path):
    path = tmp_path / "mnist.pkl.gz"
    path.write_bytes(gzip.compress(pickle.dumps(PAIRS)))
    with pytest.raises(DataError, match=r"is a pickle, which can only be imported: mlpcli data import \S+ -o FOLDER"):
        load_dataset(DataConfig(dataset=str(path)))


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/tmp/should-not-be-there",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Evil(), "refers to posix.mkdir, which no array needs"),
        (print, "refers to (builtins|__builtin__).print, which no array needs"),
        ({"a": 1}, "has the instruction b?'.*', which no array needs"),
        (np.array([print], object), "refers to|of something other than numbers"),
        (np.array(["a"]), "of something other than numbers"),
        ((1, 2, 3), "is not a pickle of three pairs"),
        (PAIRS[:2], "is not a pickle of three pairs"),
        (((PAIRS[0][0], PAIRS[1][1]), *PAIRS[1:]), "is not a pickle of three pairs"),
        (tuple((images * 300, labels) for images, labels in PAIRS), "pixels are numbers from 0 to 255"),
    ],
)
def test_pickles_of_something_else_are_refused(tmp_path: Path, value: object, message: str):
    for protocol in (0, 2, 4):
        with pytest.raises(DataError, match=message) as failure:
            load(tmp_path / "a.pkl", pickle.dumps(value, protocol))
        assert "\n" not in str(failure.value)
    assert not Path("/tmp/should-not-be-there").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\2",
        b"\x80\2T\xff\xff\xff\x7f.",
        b"\x80\4\x8e" + b"\xff" * 8 + b".",
        b"\x80\2h\7.",
        b"\x80\2t.",
        b"\x80\2(((.",
        b"\x80\2Kb.",
        b"\x80\2NNR.",
        b"\x80\2r\xff\xff\xff\xff.",
        b"I99999999999999999999999999\n.",
        b"I" + b"9" * 5000 + b"\n.",
        b"cnumpy\ndtype\nV\xff\n\x85R(NNtb.",
        b"\x80\2]h\0a." * 100,
    ],
)
def test_damaged_pickles_are_refused(tmp_path: Path, data: bytes):
    with pytest.raises(DataError) as failure:
        load(tmp_path / "a.pkl", data)
    assert "\n" not in str(failure.value)


def test_repeated_text_is_converted_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pickled, "MAX_BYTES", 100_000)
    text = b"X" + struct.pack("<I", 1000) + b"a" * 1000
    once = b"c_codecs\nencode\nh\0X\6\0\0\0latin1\x86R"
    with pytest.raises(PickleError, match="builds more than a data set has"):
        pickled.load(b"\x80\2" + text + b"q\0" + once * 200 + b".")


def test_recursive_lists_are_refused():
    assert pickled.load(b"\x80\2]q\0h\0a.") is not None
    assert pickled.load(b"\x80\2]q\0(h\0h\0h\0h\0e.") is not None


@given(st.integers(0, 900), st.integers(0, 255))
def test_any_change_gives_arrays_or_an_error(place: int, byte: int):
    data = bytearray(python_2(PAIRS))
    data[place % len(data)] = byte
    try:
        pickled.load(bytes(data))
    except PickleError as error:
        assert str(error).isprintable()
