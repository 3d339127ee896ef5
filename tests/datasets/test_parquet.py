"""Parquet files as the Hugging Face hub has them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")

from mlpcli.config import DataConfig  # noqa: E402
from mlpcli.datasets.load import load_dataset  # noqa: E402
from mlpcli.errors import DataError  # noqa: E402

PIXELS = np.random.default_rng(17).integers(0, 256, (6, 5, 4), np.uint8)
LABELS = [0, 1, 1, 0, 1, 0]


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(path: Path, images: list[object], labels: list[object], *, names: bool = True, **called: str) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    table = pyarrow.table({called.get("image", "image"): images, called.get("label", "label"): labels})
    if names:
        info = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    parquet.write_table(table, path)
    return path


def pictures(pixels: np.ndarray) -> list[object]:
    return [{"bytes": png(image), "path": None} for image in pixels]


def load(path: Path, **keys: object):
    return load_dataset(DataConfig(dataset=str(path), validation=0.0, **keys))


@pytest.mark.parametrize("below", ["", "mnist"])
def test_files_of_the_hub_are_read(tmp_path: Path, below: str):
    write(tmp_path / below / "train-00000-of-00002.parquet", pictures(PIXELS[:3]), LABELS[:3])
    write(tmp_path / below / "train-00001-of-00002.parquet", pictures(PIXELS[3:]), LABELS[3:])
    write(tmp_path / below / "test-00000-of-00001.parquet", pictures(PIXELS[:2]), LABELS[:2])
    (tmp_path / "README.md").write_text("")
    dataset = load(tmp_path)
    assert np.array_equal(dataset.train.images, PIXELS.reshape(6, 20))
    assert dataset.train.labels.tolist() == LABELS
    assert (dataset.class_names, dataset.image_shape) == (("cat", "dog"), (5, 4))
    assert dataset.test().labels.tolist() == LABELS[:2]


def test_single_file_is_for_training(tmp_path: Path):
    dataset = load(write(tmp_path / "any", pictures(PIXELS), LABELS, names=False))
    assert (len(dataset.train), dataset.has_test, dataset.class_names) == (6, False, ("0", "1"))


@pytest.mark.parametrize(
    ("images", "labels", "called", "message"),
    [
        (pictures(PIXELS[:1]), [0], {"image": "x"}, "has the columns x, label; it needs image, label"),
        ([{"bytes": b"no picture", "path": "a"}], [0], {}, "row 0: is damaged, or neither a readable picture"),
        ([{"bytes": None, "path": "a"}], [0], {}, "row 0: has no bytes of a picture"),
        (["text"], [0], {}, "row 0: has no bytes of a picture"),
        (pictures(PIXELS[:1]), [None], {}, "row 0: its label is None, not a whole number"),
        (pictures(PIXELS[:1]), ["a"], {}, "row 0: its label is 'a', not a whole number"),
        ([*pictures(PIXELS[:1]), *pictures(PIXELS[:1, :2])], [0, 1], {}, "row 1: has 2 x 4 pixels, .* data.size"),
        ([], [], {}, "has no train images|has no picture"),
    ],
)
def test_invalid_tables_are_refused(tmp_path: Path, images, labels, called, message: str):
    if not images:
        images = pyarrow.array([], pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]))
    with pytest.raises(DataError, match=message):
        load(write(tmp_path / "a.parquet", images, labels, **called))


def test_several_folders_are_listed(tmp_path: Path):
    for name in ("fashion", "mnist"):
        write(tmp_path / name / "train.parquet", pictures(PIXELS), LABELS)
    with pytest.raises(DataError, match=r"has several data sets; name one of \S+fashion, \S+mnist$"):
        load(tmp_path)
    assert len(load(tmp_path / "mnist").train) == 6


def test_missing_parts_are_named(tmp_path: Path):
    write(tmp_path / "train-00001-of-00003.parquet", pictures(PIXELS), LABELS)
    missing = "add train-00000-of-00003.parquet, train-00002-of-00003.parquet$"
    with pytest.raises(DataError, match=rf"train-00001-of-00003\.parquet: other parts are missing; {missing}"):
        load(tmp_path)
    (tmp_path / "train-00001-of-00003.parquet").rename(tmp_path / "train-00001-of-20000.parquet")
    with pytest.raises(DataError, match=r"train-00008-of-20000\.parquet and 19991 more$"):
        load(tmp_path)


def test_damaged_files_are_refused(tmp_path: Path):
    data = write(tmp_path / "a.parquet", pictures(PIXELS), LABELS).read_bytes()
    for wrong in (data[:-5], data[:20], data[:100] + bytes(50) + data[150:], b"PAR1"):
        (tmp_path / "a.parquet").write_bytes(wrong)
        with pytest.raises(DataError) as failure:
            load(tmp_path / "a.parquet")
        assert "\n" not in str(failure.value)
