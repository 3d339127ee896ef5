"""CSV tables of pixels: with and without a header, any text, and errors."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.config import DataConfig
from mlpcli.datasets import csv_files
from mlpcli.datasets.csv_files import Table
from mlpcli.datasets.load import load_dataset
from mlpcli.errors import DataError

RANDOM = np.random.default_rng(7)
IMAGES = RANDOM.integers(0, 256, (40, 9), np.uint8)
IMAGES[:, [0, 8]] = 0  # the corners, as MNIST's
LABELS = RANDOM.integers(0, 3, 40).astype(np.uint8)
LABELS[:3] = 2, 0, 1
PIXELS = [f"pixel{i}" for i in range(9)]


def text(columns: list[object], *, header: list[str] | None = None, sep: str = ",", end: str = "\n") -> bytes:
    rows = [] if header is None else [sep.join(header)]
    rows += [sep.join(map(str, row)) for row in zip(*columns, strict=True)]
    return "".join(row + end for row in rows).encode()


def kaggle(**form: str) -> bytes:
    return text([LABELS, *IMAGES.T], header=["label", *PIXELS], **form)


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.csv", data)
    return file.getvalue()


def load(path: Path, data: bytes | None = None, **keys: object):
    if data is not None:
        path.write_bytes(data)
    return load_dataset(DataConfig(dataset=str(path), **{"validation": 0.0, "test": False, **keys}))


@pytest.mark.parametrize(
    "data",
    [
        kaggle(),
        kaggle()[:-1],
        kaggle(end="\r\n"),
        kaggle(sep=";"),
        kaggle(sep="\t"),
        b"\xef\xbb\xbf" + kaggle(),
        gzip.compress(kaggle(), mtime=0),
        zipped(train=kaggle()),
        text([LABELS, *IMAGES.T]),
        text([*IMAGES.T, LABELS]),
        text([*IMAGES.T, LABELS], header=[*PIXELS, "class"]),
        text([range(40), *IMAGES.T[:5], LABELS, *IMAGES.T[5:]], header=["id", *PIXELS[:5], "Label", *PIXELS[5:]]),
        kaggle().replace(b",", b", "),
        kaggle().replace(b"\n", b"\n\n"),
        text([[f'"{label}"' for label in LABELS], *IMAGES.T], header=[f'"{name}"' for name in ["label", *PIXELS]]),
        text([LABELS, *IMAGES.astype(float).T], header=["label", *PIXELS]),
        text([LABELS, *(IMAGES / 255).T], header=["label", *PIXELS]),
        text([[f"{label}.0" for label in LABELS], *IMAGES.T]),
    ],
    ids=range(18),
)
def test_variants_of_the_same_table_agree(tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch):
    for chunk in (csv_files.CHUNK_BYTES, 100):
        monkeypatch.setattr("mlpcli.datasets.bytestream.CHUNK_BYTES", chunk)
        monkeypatch.setattr(csv_files, "CHUNK_BYTES", chunk)
        dataset = load(tmp_path / "any.name", data)
        assert np.array_equal(dataset.train.images, IMAGES)
        assert np.array_equal(dataset.train.labels, LABELS)
        assert (dataset.image_shape, dataset.class_names) == ((3, 3), ("0", "1", "2"))


def test_labels_may_be_text_or_any_numbers(tmp_path: Path):
    texts = ["cat", "émeu", "-"]
    dataset = load(tmp_path / "texts", text([[texts[label] for label in LABELS], *IMAGES.T]))
    assert dataset.class_names == ("-", "cat", "émeu")
    assert [dataset.class_names[label] for label in dataset.train.labels] == [texts[label] for label in LABELS]
    dataset = load(tmp_path / "numbers", text([[(-7, 300, 5)[label] for label in LABELS], *IMAGES.T]))
    assert dataset.class_names == ("-7", "5", "300")


@pytest.mark.parametrize(
    ("written", "called"),
    [
        (["1e1", "10", "1E2"], None),
        (["7e1", "8e2", "9"], None),
        (["1_0", "1", "10"], None),
        (["7.5", "07", "7"], None),
        (["\u0662", "1", "2"], None),
        (["1e400", "inf", "9" * 20], None),
        (["7.5e+00", "7.0e+00", "1.0e+01"], None),
        (["+7", "-3", "12."], ["7", "-3", "12"]),
        (["7.0", "12.00", "0"], ["7", "12", "0"]),
        ([f"{number:.18e}" for number in (7, 12, -3)], ["7", "12", "-3"]),  # numpy.savetxt
    ],
    ids=range(10),
)
def test_only_labels_written_as_whole_numbers_are_numbers(tmp_path: Path, written: list[str], called: list[str] | None):
    dataset = load(tmp_path / "a", text([[written[label] for label in LABELS], *IMAGES.T], header=["label", *PIXELS]))
    names = [dataset.class_names[label] for label in dataset.train.labels]
    assert names == [(called or written)[label] for label in LABELS]
    assert dataset.class_names == tuple(sorted(written) if called is None else sorted(called, key=int))


def numbered(start: int, *texts: str, last: bool = False) -> list[str]:
    """Return a header that pandas writes for an array of nine columns."""
    names = [str(start + i) for i in range(9)]
    return [*names, *texts] if last else [*texts, *names]


@pytest.mark.parametrize("start", [0, 1, 500])
def test_columns_may_be_called_by_their_numbers(tmp_path: Path, start: int):
    for columns, header in (
        ([LABELS, *IMAGES.T], numbered(start, "label")),
        ([*IMAGES.T, LABELS], numbered(start, "label", last=True)),
        ([range(40), LABELS, *IMAGES.T], numbered(start, "", "label")),
        ([LABELS, *IMAGES.T], [str(start + i) for i in range(10)]),
    ):
        for end in ("\n", "\r\n", "\n\n"):
            dataset = load(tmp_path / "a", text(columns, header=header, end=end))
            assert np.array_equal(dataset.train.images, IMAGES)
            assert np.array_equal(dataset.train.labels, LABELS)
    table = Table(tmp_path / "unlabelled")
    table.path.write_bytes(text([*IMAGES.T], header=numbered(start)))
    assert len(csv_files.read(table, csv_files.layout_of(table, None))[0]) == 40


@pytest.mark.parametrize(
    "rows",
    [
        [range(9)],  # there would be no rows
        [range(9), range(1, 10)],
        [range(9), range(9)],
        [[0, 1, 2, 3, 4, 5, 6, 7, 7], [0] * 9],
        [range(0, 18, 2), [0] * 9],
        [np.arange(9) / 1.0, [0] * 9],
        [range(8, -1, -1), [0] * 9],
        [["00", *range(1, 9)], [0] * 9],
        [range(4), [0] * 4],  # an image of 2 x 2
    ],
    ids=range(9),
)
def test_first_rows_of_numbers_are_images(tmp_path: Path, rows: list[list[object]]):
    table = Table(tmp_path / "a")
    table.path.write_bytes("".join(",".join(map(str, row)) + "\n" for row in rows).encode())
    assert len(csv_files.read(table, csv_files.layout_of(table, None))[0]) == len(rows)


@pytest.mark.parametrize("written", [["0", "1", "2", "A"], ["00", "01", "1", "AA"], ["1", "1.0", "2.0", "x"]])
@pytest.mark.parametrize("place", [0, 2, 9])
@pytest.mark.parametrize("point", ["", ".0"])
def test_text_labels_are_read_as_written(
    tmp_path: Path, written: list[str], place: int, point: str, monkeypatch: pytest.MonkeyPatch
):
    """Numbers among them too, also in blocks of numbers only."""
    columns = [[f"{pixel}{point}" for pixel in column] for column in IMAGES.T]
    columns.insert(place, [written[number // 10] for number in range(40)])
    header = [*PIXELS[:place], "label", *PIXELS[place:]]
    for chunk in (csv_files.CHUNK_BYTES, 100):
        monkeypatch.setattr("mlpcli.datasets.bytestream.CHUNK_BYTES", chunk)
        dataset = load(tmp_path / "a", text(columns, header=header))
        assert dataset.class_names == tuple(written)
        assert dataset.train.labels.tolist() == [number // 10 for number in range(40)]
        assert np.array_equal(dataset.train.images, IMAGES)


def test_sorted_labels_are_found_first(tmp_path: Path):
    """The last pixel varies from the first row on, the label only later."""
    images = RANDOM.integers(0, 256, (40, 9), np.uint8)
    dataset = load(tmp_path / "sorted", text([np.sort(LABELS), *images.T]))
    assert np.array_equal(dataset.train.images, images)


def nearly(value: object, other: object, count: int = 1) -> list[object]:
    """Return a column of ``value``, but ``count`` times ``other``."""
    return [other] * count + [value] * (40 - count)


@pytest.mark.parametrize("label_is_last", [True, False])
@pytest.mark.parametrize("header", [None, [f"c{i}" for i in range(10)]])
@pytest.mark.parametrize(
    "corner",
    [
        nearly(0, 0),
        nearly(0, 3),
        nearly(255, 0, 1),
        np.linspace(0, 0.9, 40).tolist(),
    ],
    ids=["constant", "varies once", "white", "fractions"],
)
@pytest.mark.parametrize("labels", [LABELS.tolist(), [f'"{"abc"[label]},"' for label in LABELS]], ids=["int", "text"])
def test_label_is_the_column_that_looks_like_labels(
    tmp_path: Path, corner: list[object], labels: list[object], header: list[str] | None, label_is_last: bool
):
    images: list[object] = [corner, *IMAGES[:, 1:8].T.astype(float) / 255, corner]
    data = text([*images, labels] if label_is_last else [labels, *images], header=header)
    assert np.array_equal(load(tmp_path / "a", data).train.labels, LABELS)


def test_label_is_first_if_that_is_undecided(tmp_path: Path):
    images = IMAGES.T.tolist()
    for first, last in ((LABELS, LABELS), (nearly(1, 2), nearly(0, 3)), (nearly(1, 2, 2), LABELS)):
        dataset = load(tmp_path / "a", text([first, *images[:8], last]))
        assert dataset.train.images[:, 8].tolist() == list(last)


@pytest.mark.parametrize("place", [0, 4, 9])
@pytest.mark.parametrize("pattern", ["pixel{}", "{}", "p{}x1", "pixel {} "])
def test_label_is_the_column_with_another_name(tmp_path: Path, place: int, pattern: str):
    images = RANDOM.integers(0, 3, (40, 9), np.uint8)
    header = [pattern.format(i) for i in range(9)]
    header.insert(place, "kind 2")
    columns = [*images.T]
    columns.insert(place, LABELS)
    dataset = load(tmp_path / "a", text(columns, header=header))
    assert np.array_equal(dataset.train.labels, LABELS)
    assert np.array_equal(dataset.train.images, images)


def test_images_need_not_be_square(tmp_path: Path):
    dataset = load(tmp_path / "a", text([LABELS, *IMAGES.T[:6]]), size=(2, 3))
    assert (dataset.image_shape, dataset.class_names) == ((2, 3), ("0", "1", "2"))
    with pytest.raises(DataError, match=r"7 pixels per image are not a square; give data.size: \[rows, columns\]"):
        load(tmp_path / "a", text([*IMAGES.T[:7]]))
    with pytest.raises(DataError, match=r"data\.size is 2 x 2"):
        load(tmp_path / "a", size=(2,))


def test_folder_with_train_and_test(tmp_path: Path):
    (tmp_path / "mnist_train.csv").write_bytes(kaggle())
    (tmp_path / "mnist_test.csv").write_bytes(text([LABELS[:9], *IMAGES.T[:, :9]]))
    (tmp_path / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    dataset = load(tmp_path, test=True)
    assert (len(dataset.train), len(dataset.test())) == (40, 9)
    assert dataset.hashes.keys() == {
        f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
    }


@pytest.mark.parametrize("packed", [False, True])
def test_test_file_without_labels_is_not_used(tmp_path: Path, packed: bool):
    unlabelled = text([*IMAGES.T], header=PIXELS)
    path = tmp_path
    if packed:
        path = tmp_path / "digit-recognizer.zip"
        path.write_bytes(zipped(train=kaggle(), test=unlabelled, sample_submission=b"ImageId,Label\n1,0\n"))
    else:
        (tmp_path / "train.csv").write_bytes(kaggle())
        (tmp_path / "test.csv").write_bytes(unlabelled)
    messages: list[str] = []
    dataset = load_dataset(DataConfig(dataset=str(path), validation=0.0), say=messages.append)
    assert (len(dataset.train), dataset.has_test) == (40, False)
    assert len(messages) == 1
    assert "its images have no labels; to classify them: mlpcli predict RUN" in messages[0]
    assert messages[0].endswith("there will be no test error")


def test_emnist_is_transposed(tmp_path: Path):
    dataset = load(tmp_path / "emnist-letters-train.csv", text([LABELS, *IMAGES.T]))
    assert np.array_equal(dataset.train.images.reshape(40, 3, 3), IMAGES.reshape(40, 3, 3).transpose(0, 2, 1))


@pytest.mark.parametrize("name", ["emnist-letters-{}.csv", "EMNIST-Letters_{}.csv.gz"])
def test_emnist_has_class_names(tmp_path: Path, name: str):
    for split in ("train", "test"):
        data = text([LABELS + 1, *IMAGES.T])
        (tmp_path / name.format(split)).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    mapping = tmp_path / f"{name.partition('{')[0][:-1]}-mapping.txt"
    mapping.write_text("1 65 97\n2 66 98\n3 67 99\n")
    for where in (tmp_path, tmp_path / "emnist-letters", tmp_path / name.format("train")):
        assert load(where).class_names == ("A", "B", "C")
    assert np.array_equal(load(tmp_path, test=True).test().labels, LABELS)
    mapping.write_text("1 A\n")
    with pytest.raises(DataError, match=r"mapping\.txt: is not lines of a label and a character code"):
        load(tmp_path)


def test_mapping_of_another_set_is_ignored(tmp_path: Path):
    (tmp_path / "emnist-letters-mapping.txt").write_text("0 65\n1 66\n2 67\n")
    for name in ("emnist-digits-train.csv", "train.csv"):
        assert load(tmp_path / name, text([LABELS, *IMAGES.T])).class_names == ("0", "1", "2")


def rows(*changed: bytes, header: bytes = b"label,a,b,c,d\n") -> bytes:
    return header + b"".join(b"1,2,3,4,5\n" for _ in range(3)) + b"\n".join(changed)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"label,a,b,c,d\n", "has a header and no rows"),
        (rows(b"1,2,3,4"), "row 5 has 4 values, but the first has 5 columns"),
        (rows(b"1,2,3,4,5,6"), "row 5 has 6 values, but the first has 5 columns"),
        (rows(b"1,2,3,256,5"), r"row 5, column 4 \(c\): 256 is not a pixel"),
        (rows(b"1,2,3,4000,5"), r"row 5, column 4 \(c\): 4000 is not a pixel"),
        (rows(b"1,2,-3,4,5"), r"row 5, column 3 \(b\): -3 is not a pixel"),
        (rows(b"1,2,3,nan,5"), r"row 5, column 4 \(c\): nan is not a pixel"),
        (rows(b"1,2,3,inf,5"), r"row 5, column 4 \(c\): inf is not a pixel"),
        (rows(b"1,2,3,x,5"), r"row 5, column 4 \(c\): 'x' is not a number"),
        (rows(b"1,2,3,,5"), r"row 5, column 4 \(c\): the number is missing"),
        (rows(b",2,3,4,5"), r"row 5, column 1 \(label\): the label is missing"),
        (rows(b"nan,2,3,4,5"), r"row 5, column 1 \(label\): the label is missing"),
        (rows(header=b"label,a,b,c\n"), "3 pixels per image are not a square"),
        (rows(header=b"label,a,b,c,d,e,f,g,h,i\n"), "row 2 has 5 values, but the first has 10 columns"),
        (b"id,label\n1,2\n", "has no columns of pixels; it has id, label"),
        (rows(b"1,2,3,4,\xff"), "is not a number"),
        (rows(b'1,2,3,"4,5'), "row 5"),
        (rows().decode().encode("utf-16"), "is text in UTF-16; save it as UTF-8"),
        ("Größe,a\nä,1\n".encode("latin-1"), "is text in an encoding other than UTF-8; save it as UTF-8"),
        (gzip.compress(rows(), mtime=0)[:-9], "gzip cut short"),
        (zipped(train=rows())[:-9], "is not a zip archive, or is damaged"),
        (zipped(train=rows())[:45] + bytes(9) + zipped(train=rows())[54:], "is damaged"),
        (b"1," * 9_000_000, "a row is longer than 16 MiB"),
        (b"label," + b",".join(b"%d" % i for i in range(10)) + b"\n" + b"7,1,2,3,4,5,6,7,8,9,10\n", "not a square"),
        ("\n".join(f"{i},0" for i in range(300)).encode(), "300 different labels; at most 256 classes"),
    ],
)
def test_error_is_one_line(tmp_path: Path, data: bytes, message: str):
    path = tmp_path / "table"
    with pytest.raises(DataError, match=message) as failure:
        load(path, data)
    assert str(failure.value).startswith((str(path), path.name))
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("pack", [gzip.compress, lambda data: zipped(train=data)])
def test_zip_bombs_are_not_unpacked(tmp_path: Path, pack, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(csv_files, "MAX_SLACK", 100_000)
    with pytest.raises(DataError, match="unpacks to more than 64 times its size"):
        load(tmp_path / "bomb", pack(b"1,0,0,0,0\n" * 100_000))


def test_one_of_several_data_sets_is_named(tmp_path: Path):
    members = {f"emnist-{name}-{split}": kaggle() for name in ("digits", "letters") for split in ("train", "test")}
    (tmp_path / "sets").mkdir()
    for name, data in members.items():
        (tmp_path / "sets" / f"{name}.csv").write_bytes(data)
    with pytest.raises(DataError, match=r"has several data sets; name one, .* of emnist-digits, emnist-letters$"):
        load(tmp_path / "sets")
    with pytest.raises(DataError, match=r"a.zip: .*; unpack it, and name one of emnist-digits, emnist-letters$"):
        load(tmp_path / "a.zip", zipped(**members))
    one = load(tmp_path / "sets" / "emnist-letters", test=True)
    assert (one.name, len(one.train), len(one.test())) == ("emnist-letters", 40, 40)
    with pytest.raises(DataError, match="neither a data set nor a file or folder"):
        load(tmp_path / "sets" / "emnist")
    (tmp_path / "sets" / "train.csv").write_bytes(text([LABELS[:9], *IMAGES[:9].T]))
    assert len(load(tmp_path / "sets").train) == 9, "the plain name is the one meant"


def test_several_tables_are_listed(tmp_path: Path):
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_bytes(kaggle())
    with pytest.raises(DataError, match=r"several data sets; name one of \S+a\.csv, \S+b\.csv"):
        load(tmp_path)


def zip_of(*names: str) -> bytes:
    return zipped(**{name.removesuffix(".csv"): kaggle() for name in names})


@pytest.mark.parametrize("names", [("a.csv", "b.csv"), ("a/train.csv", "b/train.csv")])
def test_several_tables_in_a_zip_archive_are_listed(tmp_path: Path, names: tuple[str, str]):
    with pytest.raises(
        DataError, match=f"a.zip: has several data sets; unpack it, and name one of {', '.join(names)}$"
    ):
        load(tmp_path / "a.zip", zip_of(*names))


def test_tables_for_the_same_split_are_listed(tmp_path: Path):
    for name in ("a-train.csv", "a_train.csv", "a-test.csv"):
        (tmp_path / name).write_bytes(kaggle())
    for where in (tmp_path, tmp_path / "a"):
        with pytest.raises(DataError, match=r"several data sets; name one.* of a-train\.csv, a_train\.csv$"):
            load(where)
    (tmp_path / "a_train.csv").unlink()
    (tmp_path / "a-train.csv.gz").write_bytes(gzip.compress(kaggle()))
    assert load(tmp_path, test=True).has_test, "the same table, compressed"


def test_test_table_belongs_to_the_training_table_by_its_name(tmp_path: Path):
    for name in ("mnist_train.csv", "emnist_test.csv"):
        (tmp_path / name).write_bytes(kaggle())
    with pytest.raises(DataError, match=r"several data sets; .* of emnist_test\.csv, mnist_train\.csv$"):
        load(tmp_path)
    for name in ("test.csv", "mnist_small_test.csv"):
        (tmp_path / name).write_bytes(text([LABELS[:9], *IMAGES[:9].T]))
        assert len(load(tmp_path, test=True).test()) == 9
        (tmp_path / name).unlink()


def test_table_beside_npz_is_reported(tmp_path: Path):
    (tmp_path / "train.csv").write_bytes(kaggle())
    np.savez(tmp_path / "digits.npz", x=IMAGES.reshape(40, 3, 3), y=LABELS)
    with pytest.raises(DataError, match=r"several data sets; name one of \S+digits\.npz, \S+train\.csv$"):
        load(tmp_path)
    (tmp_path / "train.csv").rename(tmp_path / "predictions.csv")
    assert len(load(tmp_path).train) == 40


number = (
    st.integers(-5, 1300).map(str) | st.floats(0, 255).map(str) | st.sampled_from(["", "x", "nan", "1e2", " 7", "07"])
)
tables = st.lists(st.lists(number, min_size=4, max_size=6).map(",".join), max_size=6).map("\n".join).map(str.encode)


@given(tables | st.binary(max_size=80), st.sampled_from([",", ";", "\r"]))
def test_any_text_gives_images_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, data: bytes, other: str):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(data.replace(b",", other.encode()))
    table = Table(path)
    try:
        layout = csv_files.layout_of(table, None)
        images, labels = csv_files.read(table, layout)
    except DataError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
    else:
        assert images.dtype == np.uint8
        assert images.shape[1] * images.shape[2] == len(layout.pixels)
        assert labels is None or len(labels) == len(images)


@given(st.lists(st.lists(st.integers(0, 999), min_size=5, max_size=5), min_size=1, max_size=5))
def test_fast_and_slow_reader_agree(values: list[list[int]]):
    block = "".join(",".join(map(str, row)) + "\n" for row in values).encode()
    layout = csv_files.Layout(b",", None, 5, 0, np.arange(1, 5), (2, 2))
    assert csv_files._plain_numbers(block, layout).tolist() == values
    assert csv_files._any_numbers(block, layout, Table(Path("x")), 1)[0].tolist() == values
