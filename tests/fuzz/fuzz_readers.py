"""Coverage-guided fuzzing of a reader of untrusted bytes: any bytes are a value or one of our errors, quickly.

    pip install '.[fuzz]'
    python tests/fuzz/fuzz_readers.py checkpoint --runs 1000000

Ends with libFuzzer's statistics, or at the first input that raises anything else, takes ten seconds or more memory than
the bound, and leaves that input in a file whose path it prints. docs/reliability.md has the figures.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import pickle
import socket
import ssl
import sys
import tempfile
import zlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import atheris

# atheris 3.0 never frees the result of a comparison that it watches: these modules compare all pixels, or all answers.
COMPARING_ARRAYS = ["mlpcli.training.margins", "mlpcli.training.targets", "mlpcli.analysis.evaluation"]

with atheris.instrument_imports(include=["mlpcli", "http.client"], exclude=COMPARING_ARRAYS):
    import http.client  # noqa: F401 - imported here to be instrumented

    import numpy as np

    from mlpcli import commands, config, experiment
    from mlpcli.datasets import bytestream, csv_files, detect, idx, npm, npz, pickled, web
    from mlpcli.datasets.bytestream import GunzipError
    from mlpcli.datasets.source import SourceError
    from mlpcli.errors import MlpcliError
    from mlpcli.runs import checkpoint
    from mlpcli.state import State, architecture_of

RSS_LIMIT_MB = 512
SECONDS_LIMIT = 10  # of wall-clock time, for one reader or one command
MEMBER = "package/data/train-labels-idx1-ubyte"


def a_checkpoint(*overrides: str) -> checkpoint.Checkpoint:
    settings = config.load(None, ["training.epochs=3", "training.learning_rate=0.5", *overrides], {})
    theta = architecture_of(settings, 4, 3).parameters(settings.network.dtype)
    names = config.OPTIMIZER_STATE[settings.training.optimizer]
    state = State(
        theta=theta,
        optimizer={name: np.zeros_like(theta.vector) for name in names},
        epoch=2,
        step=10,
        best=(0.25, 1.5),
        best_epoch=1,
        epochs_since_best=1,
    )
    return checkpoint.Checkpoint(settings, "mnist", {"train-images-idx3-ubyte": "0" * 64}, (2, 2), 3, state)


CHECKPOINTS = [
    checkpoint.encode(a_checkpoint("network.hidden=[2]", "training.optimizer=adam", "network.dtype=float64")),
    checkpoint.encode(a_checkpoint("network.hidden=[]", "training.optimizer=sgd")),
]


def header_of(data: bytes) -> bytes:
    with np.load(io.BytesIO(data)) as arrays:
        return str(arrays["header"]).encode()


def with_header(text: str) -> bytes:
    """Return the first checkpoint with another header, sealed again."""
    with np.load(io.BytesIO(CHECKPOINTS[0])) as arrays:
        members = {name: arrays[name] for name in arrays.files}
    members["header"] = np.array(text)
    file = io.BytesIO()
    with checkpoint.zipfile.ZipFile(file, "w", checkpoint.zipfile.ZIP_STORED) as archive:
        for name, array in members.items():
            with archive.open(checkpoint.zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        archive.comment = b"0" * 64
    return seal(file.getvalue()[:-64])


def seal(content: bytes) -> bytes:
    """Return ``content`` with its valid hash, as an attacker would."""
    return content + hashlib.sha256(content).hexdigest().encode()


def read_checkpoint(data: bytes) -> None:
    if data[:1] == b"H":
        checkpoint.decode(with_header(data[1:].decode(errors="replace")), "fuzz")
    else:
        checkpoint.decode(seal(data), "fuzz")


FILE = Path(f"/proc/self/fd/{os.memfd_create('input')}")


def on_disk(data: bytes) -> Path:
    with FILE.open("wb") as file:
        file.write(data)
    return FILE


def read_idx(data: bytes) -> None:
    idx.read(on_disk(data), 3 if len(data) % 2 else 1)


def read_csv(data: bytes) -> None:
    table = csv_files.Table(on_disk(data))
    csv_files.read(table, csv_files.layout_of(table, None))


def read_npz(data: bytes) -> None:
    npz.NpzFile(on_disk(data), None).read("train")


def read_pickle(data: bytes) -> None:
    pickled.PickledFile(on_disk(data), None).read("train")


def read_any(data: bytes) -> None:
    """Read the bytes with the reader detected by their beginning."""
    collection = detect.open_collection(on_disk(data), config.DataConfig(), lambda message: None, pickles=True)
    if collection.prepare("train"):
        collection.read("train")


def read_gzip(data: bytes) -> None:
    size = data[0] + 1 if data else 1
    slices = (data[start : start + size] for start in range(1, len(data), size))
    taken = 0
    for chunk in bytestream.gunzip(slices):
        assert len(chunk) <= bytestream.CHUNK_BYTES
        taken += len(chunk)
        if taken > 1 << 20:
            break


def read_tar(data: bytes) -> None:
    if data[:1] == b"C":  # with the checksums put right, which mutation would never guess
        blocks = bytearray(data[1:])
        for start in range(0, len(blocks) - 511, 512):
            header = blocks[start : start + 512]
            total = sum(header[:148]) + sum(header[156:]) + 8 * 32
            blocks[start + 148 : start + 156] = b"%06o\0 " % total
        data = bytes(blocks)
    for _ in npm.member(data, MEMBER, 60):
        pass


def read_yaml(data: bytes) -> None:
    """Read with the YAML parser and with the reader of a run's config: both accept the same."""
    quick = config._as_written(data)
    try:
        slow = config.load(on_disk(data), (), {})
    except MlpcliError:
        assert quick is None
        raise
    assert quick in (None, slow)


class Server:
    """A replacement of a socket that answers every request with the next of the given responses."""

    def __init__(self, responses: list[bytes]) -> None:
        self._responses = responses

    def makefile(self, mode: str, buffering: int) -> io.RawIOBase:
        raw: io.RawIOBase = io.FileIO(os.memfd_create("response"), "r+")
        raw.write(self._responses.pop(0) if self._responses else b"")
        raw.seek(0)
        return raw

    def sendall(self, data: bytes) -> None: ...
    def settimeout(self, seconds: float) -> None: ...
    def close(self) -> None: ...


def read_http(data: bytes) -> None:
    responses = data.split(b"\xff\xff")
    web._Connection.connect = lambda self: setattr(self, "sock", Server(responses))
    web._SecureConnection.connect = web._Connection.connect
    for _ in web.Web("http://127.0.0.1/").read("file", 1000):
        pass


READING = (
    ("runs", "list", "."),
    ("runs", "show", "run"),
    ("runs", "show", "run", "--json"),
    ("runs", "compare", ".", "--group-seeds"),
    ("report", "run", "--no-images"),
    ("export", "run", "-o", "out.csv"),
    ("export", "run", "-o", "out.safetensors"),
    ("eval", "run", "--offline", "--json"),
)
OUTPUTS = ("out.csv", "out.safetensors", "report.html")
RUN_FILES = ("manifest.json", "metrics.jsonl", "test.json", "config.yaml", "checkpoints/best.npz", "evaluations.jsonl")
# Replacements of the file, other than other bytes.
INSTEAD: tuple[Callable[[Path], None], ...] = (
    lambda path: None,
    os.mkfifo,
    Path.mkdir,
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to(".."),
)


def make_run() -> dict[str, bytes]:
    """Train ``run`` in a new working directory, delete its data, and return the bytes of its files."""
    os.chdir(tempfile.mkdtemp(prefix="mlpcli-fuzz-"))
    settings = ["data.dataset=mnist-sample", "network.hidden=[2]", "training.epochs=2", "training.batch_size=1000"]
    experiment.train(config.load(None, settings, {}), out="run")
    Path("run/evaluations.jsonl").write_bytes(b"{}\n")
    return {name: Path("run", name).read_bytes() for name in RUN_FILES}


def names_here() -> set[str]:
    """Return all names in the working directory and below, without following links."""
    return {str(path) for path in Path().rglob("*")}


def read_a_run(data: bytes) -> None:
    """Replace one file of a run and run every command. The first byte picks the file, the second its replacement."""
    name, how = RUN_FILES[(data or b"\0")[0] % len(RUN_FILES)], data[1] if len(data) > 1 else 0
    path = Path("run", name)
    if how < len(INSTEAD):
        path.unlink()
        INSTEAD[how](path)
    else:
        path.write_bytes(seal(data[2:]) if name.endswith(".npz") else data[2:])
    before, size = names_here(), path.lstat().st_size if path.exists() else 0
    try:
        for arguments in READING:
            printed = io.StringIO()
            with redirect_stdout(printed), redirect_stderr(printed):
                status = commands._run(list(arguments))
            assert status in (0, 2, 3, 4), (arguments, printed.getvalue())
            assert all(character in "\n\t" or character.isprintable() for character in printed.getvalue())
            assert names_here() - before <= {*OUTPUTS, "run/evaluations.jsonl"}, (arguments, names_here() - before)
            assert how < len(INSTEAD) or path.stat().st_size == size or name == "evaluations.jsonl", arguments
    finally:
        for output in OUTPUTS:
            Path(output).unlink(missing_ok=True)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(WHOLE[name])
        Path("run/evaluations.jsonl").write_bytes(b"{}\n")


def no_network(*_: object) -> None:
    raise AssertionError("a reader opens a connection")


def tar(name: str, content: bytes) -> bytes:
    header = bytearray(512)
    header[:100] = name.encode().ljust(100, b"\0")
    header[124:136] = b"%011o\0" % len(content)
    header[156:157] = b"0"
    header[257:265] = b"ustar\x0000"
    header[148:156] = b"%06o\0 " % (sum(header) + 8 * 32)
    return bytes(header) + content.ljust(-(-len(content) // 512) * 512, b"\0")


def gz(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


def npz_of(method: int) -> bytes:
    file = io.BytesIO()
    with checkpoint.zipfile.ZipFile(file, "w", method) as archive:
        for name, array in (("images", np.zeros((2, 3, 3), np.uint8)), ("labels", np.arange(2))):
            with archive.open(checkpoint.zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, array)
    return file.getvalue()


PAIR = (np.zeros((2, 4), np.float32), np.arange(2))
PICKLES = [pickle.dumps((PAIR, PAIR, PAIR), protocol) for protocol in (0, 2, 4, 5)]
TABLES = [
    b"label,a,b,c,d\n1,2,3,4,5\n0,255,0,0,0\n",
    b"1;0.5;1;0;0\r\n2;0;0;0;0.25\r\n",
    b"\xef\xbb\xbf'cat'\t1\t2\t3\t4\n\"dog\"\t1.0\t2\t3\t4",
]
NPZ = [npz_of(checkpoint.zipfile.ZIP_STORED), npz_of(checkpoint.zipfile.ZIP_DEFLATED)]
IMAGES = idx.encode(np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
LABELS = idx.encode(np.arange(52, dtype=np.uint8))
ARCHIVE = tar("package/package.json", b"{}") + tar(MEMBER, LABELS.ljust(60, b"\0")) + bytes(1024)
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/b\r\n\r\n\xff\xffHTTP/1.0 200 OK\r\n\r\nabc",
    b"HTTP/1.1 301 Moved\r\nLocation: https://h/\r\n\r\n\xff\xffHTTP/1.1 302 Found\r\nLocation: http://h/\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nX: y\r\n z\r\n\r\n",
]
YAML = [
    b"seed: 1\ndata: {dataset: mnist, sources: [a, 'b'], offline: no}\n",
    b"network:\n  hidden: [1, 2]\n  dtype: float64\ntraining:\n  epochs: 1e1\n",
    b'a: &x "\\u0041"\nb: *x\n--- !!t |\n  text\n',
    b"? - a\n: >-\n  b\n%YAML 1.1\n",
    config.to_yaml(config.Config()).encode(),
]

WHOLE = make_run() if "run" in sys.argv[1:2] else dict.fromkeys(RUN_FILES, b"")
WHOLE_SEEDS = [
    bytes((number, 255)) + (data[:-64] if name.endswith(".npz") else data)
    for number, (name, data) in enumerate(WHOLE.items())
]

# By name: what reads, the inputs to begin with, and the longest input tried.
READERS: dict[str, tuple[Callable[[bytes], None], list[bytes], int]] = {
    "checkpoint": (
        read_checkpoint,
        [data[:-64] for data in CHECKPOINTS] + [b"H" + header_of(data) for data in CHECKPOINTS],
        1 << 14,
    ),
    "idx": (read_idx, [IMAGES, LABELS, gz(IMAGES), gz(LABELS) * 2], 512),
    "csv": (read_csv, [*TABLES, gz(TABLES[0])], 256),
    "npz": (read_npz, NPZ, 1 << 11),
    "pickle": (read_pickle, PICKLES, 1 << 10),
    "any": (read_any, [*TABLES, *NPZ, PICKLES[1], IMAGES, gz(TABLES[0])], 1 << 11),
    "gzip": (read_gzip, [b"\x07" + gz(b"abc" * 100), b"\xff" + gz(b"a") + gz(bytes(5000))], 512),
    "tar": (read_tar, [ARCHIVE, b"C" + ARCHIVE, gz(ARCHIVE)], 4096),
    "yaml": (read_yaml, YAML, 1024),
    "http": (read_http, RESPONSES, 512),
    "run": (read_a_run, WHOLE_SEEDS + [bytes((number, how)) for number in range(6) for how in range(5)], 1 << 14),
}


def guarded(reader: Callable[[bytes], None]) -> Callable[[bytes], None]:
    def one_input(data: bytes) -> None:
        try:
            reader(data)
        except (MlpcliError, SourceError, GunzipError) as error:
            message = str(error)
            assert message and "\n" not in message and len(message) < 1000, message

    return one_input


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz a reader; ends at the first input it does not stand.")
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    reader, seeds, longest = READERS[options.reader]
    socket.socket.connect = no_network
    os.environ.clear()  # no proxies, and no search for one before each request
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    web.ssl.create_default_context = lambda *_, **__: context  # never used: loading certificates takes 50 ms
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(seeds):
            (Path(folder) / str(number)).write_bytes(data)
        flags = [f"-runs={options.runs}", f"-seed={options.seed}", f"-max_len={longest}", "-print_final_stats=1"]
        seconds = SECONDS_LIMIT * (len(READING) if reader is read_a_run else 1)
        flags += [f"-rss_limit_mb={RSS_LIMIT_MB}", f"-timeout={seconds}", "-verbosity=0"]
        flags += [f"-artifact_prefix={tempfile.gettempdir()}/{options.reader}-"]
        atheris.Setup([sys.argv[0], *flags, folder], guarded(reader))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
