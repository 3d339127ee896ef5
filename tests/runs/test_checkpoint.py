"""Checkpoints: round trips, detection of any damage, and safety of files from attackers."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mlpcli import config as config_module
from mlpcli.config import OPTIMIZER_STATE
from mlpcli.errors import RunError
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.state import State, architecture_of


def make(*overrides: str, shape: tuple[int, int] = (2, 2), classes: int = 3, **state: Any) -> Checkpoint:
    config = config_module.load(None, ["network.hidden=[2]", "training.epochs=9", *overrides], {})
    random = np.random.default_rng(1)
    architecture = architecture_of(config, shape[0] * shape[1], classes)
    theta, average = (architecture.parameters(config.network.dtype) for _ in range(2))
    for parameters in (theta, average):
        parameters.vector[:] = random.normal(size=len(theta.vector))
    names = OPTIMIZER_STATE[config.training.optimizer]
    values = {
        "average": average if config.training.averaging else None,
        "optimizer": {name: random.normal(size=len(theta.vector)).astype(theta.vector.dtype) for name in names},
        "epoch": 3,
        "step": 12,
        "best": (0.125, 0.3),
        "best_epoch": 2,
        "epochs_since_best": 1,
    }
    hashes = {"train-images-idx3-ubyte": "0" * 64, "train-labels-idx1-ubyte": "1" * 64}
    return Checkpoint(config, "mnist", hashes, shape, classes, State(theta, **{**values, **state}))


TINY = checkpoints.encode(make("network.hidden=[]", "training.optimizer=sgd"))
USUAL = checkpoints.encode(make())


def refusal(data: bytes) -> str:
    with pytest.raises(RunError) as refused:
        checkpoints.decode(data, "file.npz")
    message = str(refused.value)
    assert message.startswith("file.npz: ") and "\n" not in message and len(message) < 500, message
    return message.removeprefix("file.npz: ")


# Round trips ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZER_STATE)
@pytest.mark.parametrize("averaging", ["null", "0.9"])
def test_round_trip(averaging: str, optimizer: str, dtype: str, tmp_path: Path):
    average = f"training.averaging={averaging}"
    before = make(f"training.optimizer={optimizer}", f"network.dtype={dtype}", "network.hidden=[3, 2]", average)
    checkpoints.write(tmp_path / "a.npz", before)
    after = checkpoints.read(tmp_path / "a.npz")
    for name in ("config", "dataset", "hashes", "image_shape", "classes", "epoch"):
        assert getattr(after, name) == getattr(before, name)
    for name in ("epoch", "step", "best", "best_epoch", "epochs_since_best"):
        assert getattr(after.state, name) == getattr(before.state, name)
    assert after.parameters.vector.dtype == dtype
    assert after.parameters.vector.tobytes() == before.parameters.vector.tobytes()
    assert after.state.theta.vector.tobytes() == before.state.theta.vector.tobytes()
    assert (after.parameters is after.state.average) == (averaging != "null")
    assert after.parameters.sizes == before.parameters.sizes
    assert after.state.optimizer.keys() == before.state.optimizer.keys()
    for name, vector in before.state.optimizer.items():
        assert after.state.optimizer[name].tobytes() == vector.tobytes()
        after.state.optimizer[name] += 1  # the optimizer writes to it
    after.parameters.vector += 1
    assert checkpoints.encode(before) == (tmp_path / "a.npz").read_bytes()


def test_round_trip_without_validation_with_any_names():
    before = make('data.dataset="zażółć\\n😀"', "data.validation=0", best=None, best_epoch=0, epochs_since_best=0)
    before = Checkpoint(before.config, "bad\udce4 name", {"ä": "ö"}, (2, 2), 3, before.state)
    after = checkpoints.decode(checkpoints.encode(before), "here")
    assert (after.config, after.dataset, after.hashes, after.state.best) == (
        before.config,
        before.dataset,
        before.hashes,
        None,
    )


def test_numpy_opens_it_without_pickle(tmp_path: Path):
    checkpoint = make("training.optimizer=adam")
    checkpoints.write(tmp_path / "a.npz", checkpoint)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert arrays.files == ["W1", "b1", "W2", "b2", "optimizer_m", "optimizer_s", "header"]
        assert arrays["W1"].tobytes() == checkpoint.parameters.W[0].tobytes()
        # In a file all tensors are in C order, whatever their order in memory.
        m = checkpoint.state.optimizer["m"]
        assert arrays["optimizer_m"].tolist() == [*m[:8].reshape(2, 4).T.flat, *m[14:16], *m[8:14], *m[16:]]
        header = json.loads(str(arrays["header"]))
    assert header["config"] == config_module.to_dict(checkpoint.config) and header["best"] == [0.125, 0.3]
    assert zipfile.ZipFile(tmp_path / "a.npz").testzip() is None


def test_too_large_checkpoint_is_refused_when_encoded(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RunError, match="a config of more than 262144 characters"):
        checkpoints.encode(make("data.dataset=" + "a" * 300_000))
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 6000)
    with pytest.raises(RunError, match="a network of 19 parameters does not fit in a checkpoint"):
        checkpoints.encode(make())


# Damage -------------------------------------------------------------------------------------------


def test_every_flipped_byte_and_truncation_is_detected():
    assert checkpoints.decode(TINY, "tiny")
    for position in range(len(TINY)):
        damaged = bytearray(TINY)
        damaged[position] ^= 1 << position % 8
        assert refusal(bytes(damaged)).startswith("is damaged")
        assert refusal(TINY[:position]).startswith("is damaged")


@given(st.integers(0, len(USUAL) - 1), st.integers(1, 255))
def test_any_changed_byte_is_detected(position: int, change: int):
    damaged = bytearray(USUAL)
    damaged[position] ^= change
    assert refusal(bytes(damaged)).startswith("is damaged")


@given(st.integers(0, len(USUAL)), st.integers(0, len(USUAL)), st.binary(max_size=20))
def test_any_replaced_part_is_detected(start: int, end: int, piece: bytes):
    damaged = USUAL[:start] + piece + USUAL[end:]
    if damaged != USUAL:
        assert refusal(damaged).startswith("is damaged")


def test_special_file_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path, why in {
        tmp_path / "none": "No such file or directory",
        tmp_path: "not a regular file",
        tmp_path / "pipe": "not a regular file",
        Path("/dev/zero"): "not a regular file",
    }.items():
        with pytest.raises(RunError, match=f"^{path}: cannot be read: {why}$"):
            checkpoints.read(path)


def test_file_larger_than_any_checkpoint_is_not_read(tmp_path: Path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(RunError, match=r"huge: cannot be read: larger than 2147483647 bytes"):
            checkpoints.read(tmp_path / "huge")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# Malice: sealed as an attacker would seal it ------------------------------------------------------


def sealed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).hexdigest().encode()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


def archive(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        for name, data in members:
            zipped.writestr(zipfile.ZipInfo(name), data, method)
        zipped.comment = b"0" * 64
    return sealed(file.getvalue()[:-64])


def members_of(data: bytes = USUAL) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        return {name: zipped.read(name) for name in zipped.namelist()}


def with_members(**changes: bytes | None) -> bytes:
    members = {**members_of(), **{f"{name}.npy": data for name, data in changes.items()}}
    return archive([(name, data) for name, data in members.items() if data is not None])


def header() -> dict[str, Any]:
    with np.load(io.BytesIO(USUAL)) as arrays:
        found: dict[str, Any] = json.loads(str(arrays["header"]))
    return found


def with_header(change: Callable[[dict[str, Any]], Any] | None = None, text: str | None = None) -> bytes:
    values = header()
    if change is not None:
        change(values)
    return with_members(header=npy(json.dumps(values) if text is None else text))


class Bomb:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a checkpoint ran code",))


PICKLED = np.empty(1, object)
PICKLED[0] = Bomb()
HEADER_END = len(npy(np.zeros((4, 2), np.float32))) - 32


def npy_header(text: str, elements: bytes = bytes(32)) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n" + elements


DUPLICATE = [("W1.npy", members_of()["W1.npy"]), *members_of().items()]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_unknown_members_are_refused():
    assert refusal(archive([])) == "is no checkpoint of mlpcli: the array 'header' is missing"
    assert refusal(archive(DUPLICATE)) == "has an unknown member: 'W1.npy'"
    for name in (
        "../../etc/passwd",
        "/W1.npy",
        "a/b.npy",
        "..npy",
        "W1.npy/",
        "W1",
        "W1.npy\n",
        "\x1b[2J.npy",
        "Ŵ.npy",
    ):
        assert "has an unknown member: " in refusal(archive([*members_of().items(), (name, b"")]))
    assert refusal(with_members(W9=npy(1))) == "the array 'W9' does not belong to the network of its config"
    assert refusal(with_members(W1=None)) == "the array W1 is missing"
    assert refusal(with_members(optimizer_v=None)) == "the array optimizer_v is missing"
    assert refusal(with_members(average_W1=npy(1))) == (
        "the array 'average_W1' does not belong to the network of its config"
    )


def test_too_many_members_are_not_read():
    many = archive([(f"W{number}.npy", b"") for number in range(checkpoints.MAX_MEMBERS + 1)])
    assert "its zip directory is not as mlpcli writes it" in refusal(many)


def test_largest_config_has_a_checkpoint():
    config_of_layers = f"network.hidden={[1] * config_module.MAX_LAYERS}"
    data = checkpoints.encode(make(config_of_layers, "training.optimizer=adam", "training.averaging=0.9"))
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        assert len(zipped.namelist()) == checkpoints.MAX_MEMBERS
    assert len(checkpoints.decode(data, "here").parameters.W) == config_module.MAX_LAYERS + 1


def test_pickled_objects_are_refused_unread():
    for name in ("W1", "header", "optimizer_v"):
        assert refusal(with_members(**{name: npy(PICKLED)})) == f"its member {name} is not an array as mlpcli writes it"
    assert "has an unknown member" in refusal(archive([("W1.pkl", b"cos\nsystem\n(S'false'\ntR.")]))


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f4', 'fortran_order': True, 'shape': (4, 2), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (4, 2), }",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4, 2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 2, 1), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 2), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4L, 2L), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 2), }",
        "__import__('os').abort()",
        "(" * 60_000,
        "-" * 60_000,
        "",
    ],
)
def test_other_array_headers_are_refused(text: str):
    assert refusal(with_members(W1=npy_header(text))) == "its member W1 is not an array as mlpcli writes it"


def test_arrays_of_another_type_shape_or_length_are_refused():
    for array in (
        np.zeros((4, 2)),
        np.zeros((2, 4), "f4"),
        np.zeros(8, "f4"),
        np.zeros((4, 2), ">f4"),
        np.array("a" * 9),
    ):
        assert "its config requires float32 (4, 2)" in refusal(with_members(W1=npy(array)))
    right = npy(np.zeros((4, 2), np.float32))
    for elements in (right[:-1], right + b"\0", right[:HEADER_END]):
        assert "which do not fit its shape (4, 2)" in refusal(with_members(W1=elements))
    billions = "{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 4000000000), }"
    assert "its config requires" in refusal(with_members(W1=npy_header(billions)))
    for number in (np.nan, np.inf):
        assert "a parameter is not a finite number" in refusal(with_members(b1=npy(np.full(2, number, "f4"))))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("epoch", "step") for value in (0, -1, 1.0, "1", None, True, 2**53 + 1, 10**300, [])),
        *(("best", value) for value in (0.1, [], [0.1], [0.1, 0.1, 0.1], ["0.1", 0.1], [True, 0.1], [10**400, 0.1])),
        *(("classes", value) for value in (0, 257, 3.0)),
        *(("image_shape", value) for value in ([4], [2, 2, 1], [2, 0], [2, 100_001], [2.0, 2.0], "22", None)),
        *(("hashes", value) for value in (None, [], {"a": 1}, {str(i): "" for i in range(5)}, {"a" * 5000: ""})),
        *(("dataset", value) for value in (None, 1, "a" * 5000)),
        ("config", []),
        ("best_epoch", -1),
        ("patience_used", 0.5),
    ],
)
def test_header_with_unknown_fields_is_refused(key: str, value: Any):
    message = refusal(with_header(lambda values: values.update({key: value})))
    assert message == f"its header's {key!r} is missing or not what it should be"
    assert key in refusal(with_header(lambda values: values.pop(key)))


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": 10, "best_epoch": 10, "patience_used": 0},
        {"best_epoch": 4},
        {"best_epoch": 0, "patience_used": 3},
        {"best": None, "patience_used": 0},
        {"patience_used": 0},
        {"epoch": 4},
    ],
)
def test_contradictory_header_is_refused(changes: dict[str, Any]):
    assert refusal(with_header(lambda values: values.update(changes))).startswith("its header contradicts itself: ")


def test_invalid_headers_are_refused():
    for text in ("", "{", "[]", "null", "1", "[" * 100_000, '{"a":' * 50_000, "1" * 100_000, '{"format": 1e999}'):
        refusal(with_header(text=text))
    for value in (2, 0, True, 1.0, None, "1", [[]]):
        assert "is a checkpoint of format " in refusal(with_header(partial(dict.update, format=value)))
    assert "unknown key: 'more'" in refusal(with_header(lambda values: values.update(more=1)))
    for number in ("NaN", "Infinity", "1e999"):
        text = json.dumps(header()).replace("0.125", number)
        assert "its header's 'best'" in refusal(with_header(text=text))
    assert "its header is not a text" in refusal(with_members(header=npy(np.zeros(3))))
    assert "its header is not a text" in refusal(with_members(header=npy(np.array(["a", "b"]))))
    text = json.dumps({**header(), "config": {"Ω": 1}}, ensure_ascii=False)
    for code in (0x110000, 0xFFFFFFFF):
        no_character = npy(np.array(text)).replace(struct.pack("<I", ord("Ω")), struct.pack("<I", code))
        assert "its header is not JSON" in refusal(with_members(header=no_character))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("network", "hidden", [100_000, 100_000]),
        ("network", "hidden", [1] * 60_000),
        ("network", "hidden", [2] * 1000),
        ("network", "hidden", [10**400]),
        ("network", "activation", "eval"),
        ("network", "dtype", "object"),
        ("training", "optimizer", "adam"),
        ("training", "epochs", 10**400),
        ("training", "surprise", 1),
        ("data", "dataset", "\0"),
    ],
)
def test_config_that_does_not_fit_is_refused(section: str, key: str, value: Any):
    refusal(with_header(lambda values: values["config"][section].update({key: value})))


def test_huge_header_is_refused_before_parsing():
    assert refusal(with_header(text='"a":0,' * 50_000)) == "its header is not a text of at most 262144 characters"
    data = with_header(text='"a":0,' * 1_000_000)
    tracemalloc.start()
    try:
        assert refusal(data) == "its member header is not an array as mlpcli writes it"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_compressed_member_is_not_decompressed():
    zeros = npy(np.zeros(10_000_000, np.float32))
    data = archive([("W1.npy", zeros), *list(members_of().items())[1:]], zipfile.ZIP_DEFLATED)
    assert len(data) < 100_000
    tracemalloc.start()
    try:
        assert "its member W1 is compressed, encrypted or extended" in refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_overlapping_members_and_gaps_are_refused():
    """One body under a thousand names would multiply the file's size a thousandfold."""
    content = bytearray(USUAL[:-64])
    directory = content.index(b"PK\1\2")
    second = content.index(b"PK\1\2", directory + 4)
    for offset in (0, 1, 10_000_000, 2**32 - 1):
        changed = bytearray(content)
        changed[second + 42 : second + 46] = struct.pack("<I", offset)
        assert refusal(sealed(bytes(changed))) == "its member b1 does not begin where the one before it ends"
    longer = bytearray(content)
    for position in (directory + 20, directory + 24):
        longer[position : position + 4] = struct.pack("<I", 10_000_000)
    assert "does not begin where the one before it ends" in refusal(sealed(bytes(longer)))
    local = bytearray(content)
    local[30:36] = b"W2.npy"
    assert refusal(sealed(bytes(local))) == "its member W1 differs from its entry in the zip directory"


@pytest.mark.parametrize(
    ("position", "form", "number"),
    [(0, "<I", 0), (8, "<H", 1), (10, "<H", 8), (20, "<I", 1), (24, "<I", 1), (30, "<H", 1), (32, "<H", 1)],
    ids=["signature", "encrypted", "deflated", "packed size", "size", "extra field", "comment"],
)
def test_directory_entry_fields_of_stored_member_are_checked(position: int, form: str, number: int):
    content = bytearray(USUAL[:-64])
    entry = content.index(b"PK\1\2")
    content[entry + position : entry + position + struct.calcsize(form)] = struct.pack(form, number)
    assert "its member W1 is compressed, encrypted or extended" in refusal(sealed(bytes(content)))


def test_bytes_outside_members_are_refused():
    content = USUAL[:-64]
    directory, end = content.index(b"PK\1\2"), len(content) - 22
    hidden = bytearray(content[:directory] + b"hidden" + content[directory:])
    hidden[end + 6 + 16 : end + 6 + 20] = struct.pack("<I", directory + 6)
    assert refusal(sealed(bytes(hidden))) == "has bytes that belong to no member"
    longer = bytearray(content[:end] + b"hidden" + content[end:])
    longer[end + 6 + 12 : end + 6 + 16] = struct.pack("<I", end - directory + 6)
    assert refusal(sealed(bytes(longer))) == "has bytes that belong to no member"


def test_unordered_directory_is_refused():
    end = len(USUAL) - 64 - 22
    for position, form, number in (
        (4, "<H", 1),
        (8, "<H", 65_535),
        (10, "<H", 65_535),
        (10, "<H", 0),
        (12, "<I", 2**32 - 1),
        (16, "<I", 0),
        (20, "<H", 0),
    ):
        changed = bytearray(USUAL[:-64])
        changed[end + position : end + position + struct.calcsize(form)] = struct.pack(form, number)
        assert "its zip directory is not as mlpcli writes it" in refusal(sealed(bytes(changed)))
    for count in (1, 5, 7, 2000):
        changed = bytearray(USUAL[:-64])
        changed[end + 8 : end + 12] = struct.pack("<2H", count, count)
        refusal(sealed(bytes(changed)))
    refusal(sealed(USUAL[: end - 1] + USUAL[end:-64]))
    refusal(sealed(b""))
    refusal(sealed(b"x" * 21))
    refusal(sealed(b"PK\5\6" + bytes(16) + b"@\0"))


def test_million_directory_entries_are_refused_quickly():
    entry = USUAL[USUAL.index(b"PK\1\2") :][: 46 + 6]
    directory = entry * 200_000
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 2000, 2000, len(directory), 0, 64)
    data = sealed(directory + end)
    tracemalloc.start()
    try:
        refusal(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# Any bytes ----------------------------------------------------------------------------------------


def check(data: bytes) -> None:
    """Assert that ``data`` is a checkpoint, or an error in one line."""
    try:
        assert isinstance(checkpoints.decode(data, "fuzz"), Checkpoint)
    except RunError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


@given(st.binary(max_size=300))
@example(b"")
@example(b"PK\5\6")
def test_any_bytes_are_refused(data: bytes):
    refusal(data)
    check(sealed(data))


EDITS = st.lists(
    st.tuples(st.integers(0, len(USUAL)), st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4
)


@given(EDITS)
def test_sealed_mutation_is_a_checkpoint_or_an_error(edits: list[tuple[int, int, bytes]]):
    content = USUAL[:-64]
    for start, length, piece in edits:
        content = content[:start] + piece + content[start + length :]
    check(sealed(content))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(header())), VALUES)
def test_any_value_in_the_header_is_a_checkpoint_or_an_error(key: str, value: Any):
    check(with_header(lambda values: values.update({key: value})))


@given(st.sampled_from(sorted(config_module.flatten(config_module.Config()))), VALUES)
def test_any_value_in_its_config_is_a_checkpoint_or_an_error(key: str, value: Any):
    def change(values: dict[str, Any]) -> None:
        section, _, name = key.rpartition(".")
        values["config"]["augmentation"] = {"shift": 1.0}
        (values["config"][section] if section else values["config"])[name] = value

    check(with_header(change))
