"""The checkpoint file: an .npz of parameters, optimizer state and one JSON header, sealed by a hash of all its bytes.

``numpy.load(path, allow_pickle=False)`` opens it: arrays W1, b1, W2, b2 ..., their moving averages (``average_W1``) if
the config asks for them, one vector per vector of optimizer state (``optimizer_v``, of all tensors row by row, in the
order of W1, b1, W2 ...), and ``header``, a JSON text. The zip archive's comment is the SHA-256 of every byte before it;
it is checked before anything is parsed, as a hash of the arrays alone would miss damage to the zip's own structure.

The hash finds damage, not malice: anyone can seal a file. So everything in the file is checked before it is used. Of
all that zip and .npy allow, only the output of :func:`encode` is accepted: members stored one after the other with no
byte between them, and arrays of the names, types and shapes that the header's config requires. Nothing is decompressed,
evaluated or unpickled, and no array takes more memory than its bytes in the file.

So ``zipfile`` and ``numpy.lib.format`` only write here. ``zipfile`` reads past bytes that belong to no member, and
builds its list of members before they can be counted. numpy parses a header as a Python literal, allocates an array of
the shape in it before it reads the elements, and ignores bytes after them.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mlpcli import config as config_module
from mlpcli.config import OPTIMIZER_STATE, Config
from mlpcli.errors import ConfigError, RunError, shown
from mlpcli.files import Folder, write_atomically
from mlpcli.files import read as read_bytes
from mlpcli.model.parameters import Parameters
from mlpcli.runs.layout import CHECKPOINTS, reading
from mlpcli.runs.schema import Fits, Schema, is_count, is_number, list_of, mapping_of, object_of, or_null
from mlpcli.state import State, architecture_of

FORMAT = 1
SUFFIX = ".npz"
MAX_BYTES = config_module.MAX_CHECKPOINT_BYTES
MAX_HEADER = 256 * 1024  # characters
MAX_PIXELS_A_SIDE = 100_000
MAX_MEMBERS = 4 * (config_module.MAX_LAYERS + 1) + 2 + 1  # parameters, averages, optimizer state, the header

_SEAL_BYTES = 64
_OPTIMIZER = "optimizer_"
_AVERAGE = "average_"
# Of the zip format; the first has signature, disks, members, bytes, start, and the comment's length.
_DIRECTORY_END = struct.Struct("<4s4H2IH")
_DIRECTORY_ENTRY = struct.Struct("<4s6H3I5H2I")
_MEMBER_START = struct.Struct("<4s5H3I2H")
# The header that numpy writes before the elements of an array in C order with at most two dimensions.
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"(\{'descr': '([<>|](?:f4|f8|U[0-9]{1,6}))', 'fortran_order': False, "
    rb"'shape': \((|[0-9]{1,10},|[0-9]{1,10}, [0-9]{1,10})\), \} *\n)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Checkpoint:
    """A state with its config and its training data.

    ``dataset`` is the name of the data set, ``hashes`` those of its files (file name -> SHA-256 of the decoded bytes),
    and ``image_shape`` (rows, columns) that of its images. ``class_names`` are the names of the classes, in order; None
    in a checkpoint from before they were saved. ``labels`` are those in the files, by class, if ``data.class_names``
    gave them other names. ``multi_label`` is true if an image may have several labels.
    """

    config: Config
    dataset: str
    hashes: dict[str, str]
    image_shape: tuple[int, int]
    classes: int
    state: State
    class_names: tuple[str, ...] | None = None
    labels: tuple[str, ...] | None = None
    multi_label: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the classes in order: their numbers if they have no names."""
        return self.class_names or tuple(map(str, range(self.classes)))

    @property
    def parameters(self) -> Parameters:
        """Return the trained parameters: their average, if there is one."""
        return self.state.parameters

    @property
    def epoch(self) -> int:
        """Return the number of epochs of training in it."""
        return self.state.epoch


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to ``path``, whole or not at all. Raises ``OSError``."""
    write_atomically(path, [encode(checkpoint)])


def read(path: Path) -> Checkpoint:
    """Read the checkpoint in ``path``, which in a run must not be a link.

    Raises ``RunError`` if it is missing, damaged or of an unknown version.
    """
    return decode(_bytes_of(path), shown(path))


def read_with_hash(path: Path) -> tuple[Checkpoint, str]:
    """Read the checkpoint in ``path``, and the SHA-256 of the file. Raises as :func:`read` does."""
    data = _bytes_of(path)
    return decode(data, shown(path)), hashlib.sha256(data).hexdigest()


def _bytes_of(path: Path) -> bytes:
    with reading(path):
        here = path if path.parent.name == CHECKPOINTS else path.absolute()  # the working directory may be the folder
        if here.parent.name == CHECKPOINTS:
            with Folder(here.parent.parent) as run:
                return run.read(f"{CHECKPOINTS}/{here.name}", MAX_BYTES)
        return read_bytes(path, MAX_BYTES)


def encode(checkpoint: Checkpoint) -> bytes:
    """Return the bytes of the file; equal checkpoints give equal bytes. Raises ``RunError`` if there are too many."""
    state = checkpoint.state
    header = {
        "format": FORMAT,
        "config": config_module.to_dict(checkpoint.config),
        "dataset": checkpoint.dataset,
        "hashes": checkpoint.hashes,
        "image_shape": list(checkpoint.image_shape),
        "classes": checkpoint.classes,
        **({"class_names": list(checkpoint.class_names)} if checkpoint.class_names else {}),
        **({"labels": list(checkpoint.labels)} if checkpoint.labels else {}),
        **({"multi_label": True} if checkpoint.multi_label else {}),
        "epoch": state.epoch,
        "step": state.step,
        "best": list(state.best) if state.best else None,
        "best_epoch": state.best_epoch,
        "patience_used": state.epochs_since_best,
    }
    arrays = {**arrays_of(state), "header": np.array(json.dumps(header, ensure_ascii=False))}
    if sum(array.nbytes for array in arrays.values()) > MAX_BYTES - 1024 * len(arrays):
        raise RunError(f"a network of {len(state.theta.vector)} parameters does not fit in a checkpoint, at most 2 GiB")
    if arrays["header"].nbytes > 4 * MAX_HEADER:
        raise RunError(f"a config of more than {MAX_HEADER} characters is too long for a checkpoint")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            # A ZipInfo made here has the date 1980-01-01: the bytes must not depend on the time of writing.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
        archive.comment = b"0" * _SEAL_BYTES
    with file.getbuffer() as data:
        seal = hashlib.sha256(data[:-_SEAL_BYTES]).hexdigest()
    file.seek(-_SEAL_BYTES, io.SEEK_END)
    file.write(seal.encode())
    return file.getvalue()


def arrays_of(state: State) -> dict[str, NDArray[Any]]:
    """Return the arrays of ``state`` by their names in the file: parameters, their average, and optimizer state."""
    return {
        **dict(state.theta.tensors()),
        **{f"{_AVERAGE}{name}": tensor for name, tensor in (state.average.tensors() if state.average else ())},
        **{
            f"{_OPTIMIZER}{name}": Parameters(state.theta.sizes, vector.dtype, vector).to_c_order()
            for name, vector in state.optimizer.items()
        },
    }


def decode(data: bytes, where: str) -> Checkpoint:
    """Read a checkpoint from the bytes of :func:`encode`. Raises ``RunError``, its message opening with ``where``."""

    def refuse(what: str) -> NoReturn:
        raise RunError(f"{where}: {what}")

    if not data:
        refuse("is damaged: the file is empty")
    seal = hashlib.sha256(memoryview(data)[:-_SEAL_BYTES]).hexdigest()
    if data[-_SEAL_BYTES:] != seal.encode():
        refuse("is damaged, or no checkpoint of mlpcli: its bytes do not have the hash that seals a checkpoint")
    members = _members(data, refuse)
    header = _header(members, refuse)
    try:
        config = config_module.from_dict(header["config"], where)
    except ConfigError as error:
        raise RunError(f"{error} (the config in the checkpoint's header)") from error
    if contradiction := _contradiction(header, config):
        refuse(f"its header contradicts itself: {contradiction}")
    rows, columns = header["image_shape"]
    architecture = architecture_of(config, rows * columns, header["classes"])
    shapes = _shapes(architecture.sizes)
    length = sum(math.prod(shape) for shape in shapes.values())
    optimizer_arrays = [f"{_OPTIMIZER}{name}" for name in OPTIMIZER_STATE[config.training.optimizer]]
    averages = {f"{_AVERAGE}{name}": shape for name, shape in shapes.items()} if config.training.averaging else {}
    wanted = {**shapes, **averages, **dict.fromkeys(optimizer_arrays, (length,))}
    if missing := [name for name in wanted if name not in members]:
        refuse(f"the array {missing[0]} is missing")
    if extra := [name for name in members if name not in wanted and name != "header"]:
        refuse(f"the array {extra[0]!r:.60} does not belong to the network of its config")
    dtype = np.dtype(config.network.dtype)
    arrays = {name: _array(members[name], name, dtype, shape, refuse) for name, shape in wanted.items()}

    def parameters(prefix: str) -> Parameters:
        found = architecture.parameters(dtype)
        for name, view in found.tensors():
            view[...] = arrays[f"{prefix}{name}"]
        if not np.isfinite(found.vector).all():
            refuse("is damaged: a parameter is not a finite number")
        return found

    def optimizer_vector(name: str) -> NDArray[Any]:
        found = architecture.parameters(dtype)
        found.from_c_order(arrays[name])
        return found.vector

    best = header["best"]
    return Checkpoint(
        config=config,
        dataset=header["dataset"],
        hashes=header["hashes"],
        image_shape=(rows, columns),
        classes=header["classes"],
        state=State(
            theta=parameters(""),
            average=parameters(_AVERAGE) if averages else None,
            optimizer={name.removeprefix(_OPTIMIZER): optimizer_vector(name) for name in optimizer_arrays},
            epoch=header["epoch"],
            step=header["step"],
            best=None if best is None else (float(best[0]), float(best[1])),
            best_epoch=header["best_epoch"],
            epochs_since_best=header["patience_used"],
        ),
        class_names=tuple(header["class_names"]) if "class_names" in header else None,
        labels=tuple(header["labels"]) if "labels" in header else None,
        multi_label=header.get("multi_label", False),
    )


Refuse = Callable[[str], NoReturn]


def _members(data: bytes, refuse: Refuse) -> dict[str, memoryview]:
    """Return the bytes of each member by name, without .npy: slices of ``data``, which together fill it."""
    members: dict[str, memoryview] = {}
    end = len(data) - _SEAL_BYTES - _DIRECTORY_END.size
    if end < 0:
        refuse("is not a zip archive: too short")
    *fixed, count, size, position, comment = _DIRECTORY_END.unpack_from(data, end)
    in_order = fixed == [b"PK\5\6", 0, 0, count] and comment == _SEAL_BYTES and position + size == end
    if not in_order or count > MAX_MEMBERS:
        refuse("is not a checkpoint of mlpcli: its zip directory is not as mlpcli writes it")
    member_end, directory_start = 0, position
    for _ in range(count):
        if position + _DIRECTORY_ENTRY.size > end:
            refuse("its zip directory is cut short")
        entry = _DIRECTORY_ENTRY.unpack_from(data, position)
        signature, flags, method, packed, size, start = entry[0], entry[3], entry[4], entry[8], entry[9], entry[16]
        position += _DIRECTORY_ENTRY.size + entry[10]
        file_name = data[position - entry[10] : position]
        if not re.fullmatch(rb"[A-Za-z0-9_]{1,20}\.npy", file_name) or file_name.decode()[:-4] in members:
            refuse(f"has an unknown member: {ascii(file_name)[1:]:.60}")
        name = file_name.decode()[:-4]
        if signature != b"PK\1\2" or flags or method != zipfile.ZIP_STORED or packed != size or any(entry[11:13]):
            refuse(f"its member {name} is compressed, encrypted or extended, which is not allowed in a checkpoint")
        if start != member_end or start + _MEMBER_START.size > directory_start:
            refuse(f"its member {name} does not begin where the one before it ends")
        local = _MEMBER_START.unpack_from(data, start)
        name_start = start + _MEMBER_START.size
        begin = name_start + len(file_name)
        member_end = begin + size
        agrees = (local[0], *local[9:]) == (b"PK\3\4", len(file_name), 0)
        if not agrees or data[name_start:begin] != file_name:
            refuse(f"its member {name} differs from its entry in the zip directory")
        members[name] = memoryview(data)[begin:member_end]
    if position != end or member_end != directory_start:
        refuse("has bytes that belong to no member")
    return members


def _npy(member: memoryview, name: str, refuse: Refuse) -> tuple[tuple[int, ...], np.dtype[Any], memoryview]:
    """Return shape, dtype and the bytes of the elements of an .npy file."""
    found = _NPY.match(member)
    if found is None or int.from_bytes(found[1], "little") != len(found[2]):
        refuse(f"its member {name} is not an array as mlpcli writes it")
    shape = tuple(int(length) for length in found[4].split(b",") if length)
    return shape, np.dtype(found[3].decode()), member[found.end() :]


def _array(member: memoryview, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], refuse: Refuse) -> NDArray[Any]:
    found_shape, found_dtype, elements = _npy(member, name, refuse)
    if found_dtype != dtype or found_shape != shape:
        refuse(f"its array {name} is {found_dtype} of shape {found_shape}, its config requires {dtype} {shape}"[:300])
    if len(elements) != dtype.itemsize * math.prod(shape):
        refuse(f"its array {name} has {len(elements)} bytes, which do not fit its shape {shape}"[:300])
    return np.frombuffer(elements, dtype).reshape(shape)


def _header(members: Mapping[str, memoryview], refuse: Refuse) -> dict[str, Any]:
    if "header" not in members:
        refuse("is no checkpoint of mlpcli: the array 'header' is missing")
    shape, dtype, elements = _npy(members["header"], "header", refuse)
    if dtype.kind != "U" or shape != () or len(elements) != dtype.itemsize or len(elements) > 4 * MAX_HEADER:
        refuse(f"its header is not a text of at most {MAX_HEADER} characters")
    try:
        # Not by numpy, which would make a broken str of numbers that are not characters.
        header = json.loads(bytes(elements).decode(f"utf-32-{'be' if dtype.str[0] == '>' else 'le'}", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        refuse(f"its header is not JSON: {str(error)[:100]}")
    found = header.get("format") if isinstance(header, dict) else None
    if type(found) is not int or found != FORMAT:
        refuse(f"is a checkpoint of format {found!r:.20}; this version of mlpcli reads format {FORMAT}")
    for key, fits in _HEADER.items():
        if not (fits(header[key]) if key in header else key in _OPTIONAL):
            refuse(f"its header's {key!r} is missing or not what it should be")
    if extra := header.keys() - _HEADER.keys() - {"format"}:
        refuse(f"its header has an unknown key: {min(extra)!r:.60}")
    return dict(header)


def _contradiction(header: Mapping[str, Any], config: Config) -> str | None:
    """Return a value of ``header`` that contradicts ``config`` or another value, if any."""
    epoch, best, best_epoch = header["epoch"], header["best"], header["best_epoch"]
    for key, what in (("class_names", "names"), ("labels", "labels")):
        if len(header.get(key, ())) not in (0, header["classes"]):
            return f"{len(header[key])} {what} of {header['classes']} classes"
    if header.get("multi_label") and config.network.objective not in config_module.INDEPENDENT_OUTPUTS:
        return f"several labels at once, and {config.network.objective}"
    if epoch > config.training.epochs:
        return f"epoch {epoch} of {config.training.epochs}"
    if (best is None) != (best_epoch == 0):
        return f"epoch {best_epoch} as the best, of score {best}"
    if header["patience_used"] != (epoch - best_epoch if best else 0):
        return f"patience used for {header['patience_used']} epochs since epoch {best_epoch}, at epoch {epoch}"
    return None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 4096


def _from_1(most: int) -> Fits:
    return lambda value: is_count(value) and 1 <= value <= most


def _pair_of(fits: Fits) -> Fits:
    return lambda value: list_of(fits)(value) and len(value) == 2


_HEADER: Schema = {
    "config": object_of({}),
    "dataset": _is_name,
    "hashes": lambda value: mapping_of(_is_name)(value) and len(value) <= 4 and all(map(_is_name, value)),
    "image_shape": _pair_of(_from_1(MAX_PIXELS_A_SIDE)),
    "classes": _from_1(256),
    "class_names": lambda value: list_of(_is_name)(value) and len(value) <= 256,
    "labels": lambda value: list_of(_is_name)(value) and len(value) <= 256,
    "multi_label": lambda value: value is True,
    "epoch": _from_1(2**53),
    "step": _from_1(2**53),
    "best": or_null(_pair_of(is_number)),
    "best_epoch": is_count,
    "patience_used": is_count,
}
_OPTIONAL = ("class_names", "labels", "multi_label")  # old checkpoints lack the first


def _shapes(sizes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of W1, b1, W2, b2 ...; nothing is allocated yet."""
    layers = enumerate(pairwise(sizes), start=1)
    return {name: shape for n, (D, H) in layers for name, shape in ((f"W{n}", (D, H)), (f"b{n}", (H,)))}
