"""The checkpoint file: an .npz of parameters, optimizer state and one JSON header, sealed by a hash of all its bytes.

``numpy.load(path, allow_pickle=False)`` opens it: arrays W1, b1, W2, b2 ..., one vector per memory of the optimizer
(``optimizer_v``), and ``header``, a JSON text. The zip archive's comment is the SHA-256 of every byte before it; it is
checked before anything is parsed, as a hash of the arrays alone would miss damage to the zip's own structure.

The hash finds damage, not malice: whoever writes a file can seal it. So nothing that the file says is believed before
it is checked. Members are stored, never compressed, and read as slices of the bytes in hand; only the names, types and
shapes that the header's own config asks for are taken; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import ENOENT
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mlpcli import config as config_module
from mlpcli.config import Config
from mlpcli.errors import ConfigError, RunError
from mlpcli.files import write_atomically
from mlpcli.model.parameters import Parameters
from mlpcli.training.loop import State, network_for
from mlpcli.training.optimizers import OPTIMIZERS

FORMAT = 1
SUFFIX = ".npz"
MAX_HEADER_BYTES = 64 * 1024
MAX_UNITS = 100_000

_SEAL_BYTES = 64
_OPTIMIZER = "optimizer_"


@dataclass(frozen=True)
class Checkpoint:
    """A state with what it belongs to: its config, and the data it was trained on.

    ``dataset`` is the name of the data set, ``hashes`` its files' (file name -> SHA-256 of the decoded bytes), and
    ``image_shape`` (rows, columns) its images'.
    """

    config: Config
    dataset: str
    hashes: dict[str, str]
    image_shape: tuple[int, int]
    classes: int
    state: State

    @property
    def parameters(self) -> Parameters:
        """The trained parameters."""
        return self.state.theta

    @property
    def epoch(self) -> int:
        """The last epoch that is in it."""
        return self.state.epoch


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to ``path``, whole or not at all. Raises ``OSError``."""
    write_atomically(path, [encode(checkpoint)])


def read(path: Path) -> Checkpoint:
    """The checkpoint in ``path``. Raises ``RunError`` when it is missing, damaged, or of a version we can't read."""
    try:
        if not path.is_file():  # a device or a pipe may have no end
            raise FileNotFoundError(ENOENT, "no such file")
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    return decode(data, str(path))


def encode(checkpoint: Checkpoint) -> bytes:
    """The bytes of the file; equal checkpoints give equal bytes."""
    state = checkpoint.state
    header = {
        "format": FORMAT,
        "config": config_module.to_dict(checkpoint.config),
        "dataset": checkpoint.dataset,
        "hashes": checkpoint.hashes,
        "image_shape": list(checkpoint.image_shape),
        "classes": checkpoint.classes,
        "epoch": state.epoch,
        "step": state.step,
        "best": list(state.best) if state.best else None,
        "best_epoch": state.best_epoch,
        "patience_used": state.patience_used,
    }
    arrays = {
        **dict(state.theta.tensors()),
        **{f"{_OPTIMIZER}{name}": vector for name, vector in state.optimizer.items()},
        "header": np.array(json.dumps(header)),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            # A ZipInfo made here has the date 1980-01-01: the time of writing must not be in the bytes.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        archive.comment = b"0" * _SEAL_BYTES
    sealed = file.getvalue()[:-_SEAL_BYTES]
    return sealed + hashlib.sha256(sealed).hexdigest().encode()


def decode(data: bytes, where: str) -> Checkpoint:
    """The checkpoint of the bytes :func:`encode` made. Raises ``RunError``, its message opening with ``where``."""

    def refuse(what: str) -> NoReturn:
        raise RunError(f"{where}: {what}")

    content, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    if not data:
        refuse("is damaged: the file is empty")
    if hashlib.sha256(content).hexdigest().encode() != seal:
        refuse("is damaged, or no checkpoint of mlpcli: its bytes do not have the hash that seals a checkpoint")
    members = _members(data, refuse)
    header = _header(members, refuse)
    try:
        config = config_module.from_dict(header["config"], where)
    except ConfigError as error:
        raise RunError(f"{error} (the config in the checkpoint's header)") from error
    rows, columns = header["image_shape"]
    network = network_for(config, rows * columns, header["classes"])
    shapes = _shapes(network.sizes)
    length = sum(math.prod(shape) for shape in shapes.values())
    memory = [f"{_OPTIMIZER}{name}" for name in OPTIMIZERS[config.training.optimizer].memory]
    wanted = {**shapes, **dict.fromkeys(memory, (length,))}
    if missing := [name for name in wanted if name not in members]:
        refuse(f"the array {missing[0]} is missing")
    if extra := [name for name in members if name not in wanted and name != "header"]:
        refuse(f"the array {extra[0]!r:.60} does not belong to the network of its config")
    dtype = np.dtype(config.network.dtype)
    arrays = {name: _array(members[name], name, dtype, shape, refuse) for name, shape in wanted.items()}
    theta = network.parameters(dtype)
    for name, view in theta.tensors():
        view[...] = arrays[name]
    if not np.isfinite(theta.vector).all():
        refuse("is damaged: a parameter is not a finite number")
    best = header["best"]
    return Checkpoint(
        config=config,
        dataset=header["dataset"],
        hashes=header["hashes"],
        image_shape=(rows, columns),
        classes=header["classes"],
        state=State(
            theta=theta,
            optimizer={name.removeprefix(_OPTIMIZER): arrays[name].copy() for name in memory},
            epoch=header["epoch"],
            step=header["step"],
            best=None if best is None else (float(best[0]), float(best[1])),
            best_epoch=header["best_epoch"],
            patience_used=header["patience_used"],
        ),
    )


Refuse = Callable[[str], NoReturn]


def _members(data: bytes, refuse: Refuse) -> dict[str, memoryview]:
    """The members' bytes, by name without .npy: slices of ``data``."""
    members: dict[str, memoryview] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, EOFError) as error:
        refuse(f"is no zip archive: {error}")
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        if name == entry.filename or not name.isidentifier() or name in members:
            refuse(f"has a member that no checkpoint has: {entry.filename!r:.60}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            refuse(f"its member {name!r:.60} is compressed or encrypted, which a checkpoint's never is")
        # The local header is 30 bytes, a name and an extra field, whose lengths stand at its offsets 26 and 28.
        local = data[entry.header_offset : entry.header_offset + 30]
        start = (
            entry.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        )
        if entry.header_offset < 0 or len(local) < 30 or start + entry.file_size > len(data):
            refuse(f"its member {name!r:.60} ends beyond the file")
        members[name] = memoryview(data)[start : start + entry.file_size]
    return members


def _npy(member: memoryview, name: str, refuse: Refuse) -> tuple[tuple[int, ...], np.dtype[Any], memoryview]:
    """Shape, dtype and the bytes of the elements of an .npy file, C order only."""
    file = io.BytesIO(member[: 10 + 4096])
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not .npy version 1.0")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=4096)
    except Exception as error:  # numpy's parser raises a dozen kinds for a header that is not one
        refuse(
            f"its member {name} is no array: {str(error).splitlines()[0] if str(error) else type(error).__name__:.100}"
        )
    if fortran and len(shape) > 1:
        refuse(f"its array {name} is in Fortran order, which a checkpoint's never is")
    return shape, dtype, member[file.tell() :]


def _array(member: memoryview, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], refuse: Refuse) -> NDArray[Any]:
    found_shape, found_dtype, elements = _npy(member, name, refuse)
    if found_dtype != dtype or found_shape != shape:
        refuse(f"its array {name} is {found_dtype} of shape {found_shape}, its config asks for {dtype} {shape}"[:300])
    if len(elements) != dtype.itemsize * math.prod(shape):
        refuse(f"its array {name} holds {len(elements)} bytes, its shape {shape} asks for another number"[:300])
    return np.frombuffer(elements, dtype).reshape(shape)


def _header(members: Mapping[str, memoryview], refuse: Refuse) -> dict[str, Any]:
    if "header" not in members:
        refuse("is no checkpoint of mlpcli: the array 'header' is missing")
    shape, dtype, elements = _npy(members["header"], "header", refuse)
    if dtype.kind != "U" or shape != () or len(elements) != dtype.itemsize or len(elements) > 4 * MAX_HEADER_BYTES:
        refuse(f"its header is not a text of at most {MAX_HEADER_BYTES} characters")
    try:
        header = json.loads(str(np.frombuffer(elements, dtype)[0]))
    except (ValueError, RecursionError) as error:
        refuse(f"its header is not JSON: {str(error)[:100]}")
    found = header.get("format") if isinstance(header, dict) else None
    if found != FORMAT:
        refuse(f"is a checkpoint of format {found!r:.20}; this version of mlpcli reads format {FORMAT}")
    for key, fits in _HEADER.items():
        if key not in header or not fits(header[key]):
            refuse(f"its header's {key!r} is missing or not what it should be")
    return dict(header)


def _is_count(value: Any, low: int = 0, high: int = 2**53) -> bool:
    return type(value) is int and low <= value <= high


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


_HEADER: dict[str, Callable[[Any], bool]] = {
    "config": lambda value: isinstance(value, dict),
    "dataset": lambda value: isinstance(value, str) and len(value) <= 4096,
    "hashes": lambda value: (
        isinstance(value, dict) and len(value) <= 4 and all(isinstance(item, str) for item in value.values())
    ),
    "image_shape": lambda value: (
        isinstance(value, list) and len(value) == 2 and all(_is_count(side, 1, MAX_UNITS) for side in value)
    ),
    "classes": lambda value: _is_count(value, 1, 256),
    "epoch": _is_count,
    "step": _is_count,
    "best": lambda value: (
        value is None or (isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)))
    ),
    "best_epoch": _is_count,
    "patience_used": _is_count,
}


def _shapes(sizes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of W1, b1, W2, b2 ..., from which nothing is allocated yet."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(1, len(sizes)):
        shapes[f"W{layer}"] = (sizes[layer - 1], sizes[layer])
        shapes[f"b{layer}"] = (sizes[layer],)
    return shapes
