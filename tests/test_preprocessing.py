"""Every command gives deskewed images to a network trained on deskewed images."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import mlpcli
from mlpcli import config as config_module
from mlpcli import experiment
from mlpcli.analysis.evaluate_runs import evaluate_runs
from mlpcli.analysis.evaluation import open_model
from mlpcli.commands import _run
from mlpcli.config import Config
from mlpcli.datasets import idx
from mlpcli.datasets.deskew import deskewed
from mlpcli.datasets.load import load_dataset, load_split
from mlpcli.errors import UsageError
from mlpcli.runs import checkpoint as checkpoints
from mlpcli.runs import directory
from mlpcli.state import architecture_of
from mlpcli.training.evaluate import logits

DESKEW = "data.preprocessing=deskew"


@pytest.fixture
def runs(tiny_config, tmp_path, monkeypatch):
    """Train ``plain`` and ``upright``, of one config except the deskewing."""
    monkeypatch.delenv("MLPCLI_DATA", raising=False)
    experiment.train(tiny_config(), out=tmp_path / "plain")
    experiment.train(tiny_config(DESKEW), out=tmp_path / "upright")
    return tmp_path


@pytest.fixture
def typed(capsys):
    def typed(*arguments):
        status = _run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return typed


def expected_p(run, images):
    """Return p of the network of ``run`` for ``images`` (N, rows, columns), deskewed here."""
    checkpoint = open_model(run).checkpoint
    architecture = architecture_of(checkpoint.config, 20, checkpoint.classes)
    z = logits(architecture, checkpoint.parameters, deskewed(images.reshape(-1, 20), (5, 4))).astype(np.float64)
    p = np.empty_like(z)
    architecture.objective.output(z, p)
    return p


def test_preprocessing_changes_the_parameters(runs):
    plain, upright = (open_model(runs / name).checkpoint for name in ("plain", "upright"))
    assert not np.array_equal(plain.parameters.vector, upright.parameters.vector)
    assert plain.hashes == upright.hashes


def test_evaluation_on_deskewed_images_agrees_with_training(runs, tiny_images):
    run = runs / "upright"
    best = min(
        directory.read_metrics(run).records, key=lambda line: (line["validation_error"], line["validation_loss"])
    )
    (validation,) = evaluate_runs([run], "validation").individual
    assert (validation.error, validation.loss) == (best["validation_error"], best["validation_loss"])
    found = evaluate_runs([run], "test")
    test = directory.read_test(run)
    assert (found.individual[0].errors, found.individual[0].loss) == (test["errors"], test["loss"])
    assert np.array_equal(found.ensemble.p, expected_p(run, tiny_images[2]))
    # The images shown are those of the files.
    assert np.array_equal(found.part.split.images.reshape(-1, 5, 4), tiny_images[2])


def test_ensemble_preprocesses_for_each_model(runs, tiny_images):
    both = evaluate_runs([runs / "plain", runs / "upright"], "test")
    p = [evaluate_runs([runs / name], "test").ensemble.p for name in ("plain", "upright")]
    assert np.array_equal(both.ensemble.p, np.mean(p, axis=0))
    assert np.array_equal(p[1], expected_p(runs / "upright", tiny_images[2]))
    assert not np.allclose(p[1], expected_p(runs / "plain", tiny_images[2]), atol=1e-3)


def test_predictions_from_python_and_from_files(runs, tiny_images, typed):
    images = tiny_images[2]
    expected = expected_p(runs / "upright", images)
    model = mlpcli.load(runs / "upright")
    assert np.array_equal(model.predict(images).p, expected)
    assert np.array_equal(model.predict(images.reshape(-1, 20)).p, expected)
    # A product of one row may round differently from the same row of many.
    np.testing.assert_allclose(model.predict(images[3]).p, expected[3:4], rtol=1e-5)
    # Floats are deskewed too, but not rounded: half a grey level.
    assert np.allclose(model.predict(images / 255).p, expected, atol=0.02)
    (runs / "images").write_bytes(idx.encode(images))
    status, out, _ = typed("predict", runs / "upright", runs / "images", "--json")
    assert status == 0
    assert [image["p"] for image in json.loads(out)["images"]] == expected.tolist()


def test_show_draws_the_input_of_the_network(runs, tmp_path, typed):
    line = np.zeros((5, 4), np.uint8)
    for y in range(3):
        line[1 + y, 2 - y] = 255
    (tmp_path / "line").write_bytes(idx.encode(line[np.newaxis]))
    drawn = {}
    for name in ("plain", "upright"):
        status, out, _ = typed("predict", runs / name, tmp_path / "line", "--show")
        assert status == 0
        drawn[name] = out.splitlines()[1:]
    assert drawn == {"plain": ["    ▄", "  ▄▀", ""], "upright": ["   ▄", "   █", ""]}


def test_exports_declare_and_expect_deskewed_images(runs, tiny_images, typed):
    import onnx
    import onnxruntime
    import safetensors

    for name, name_in_export in (("upright", "deskew"), ("plain", "none")):
        status, _, err = typed("export", runs / name, "-o", runs / "x.onnx")
        assert status == 0
        assert ("trained with data.preprocessing: deskew" in err) == (name == "upright")
        model = onnx.load(runs / "x.onnx")
        assert {each.key: each.value for each in model.metadata_props}["preprocessing"] == name_in_export
        assert ("preprocessed beforehand: deskew" in model.graph.input[0].doc_string) == (name == "upright")
        status, out, err = typed("export", runs / name, "-o", runs / "x.safetensors", "--json")
        assert json.loads(out)["preprocessing"] == (None if name_in_export == "none" else name_in_export)
        with safetensors.safe_open(runs / "x.safetensors", "np") as file:
            assert file.metadata()["preprocessing"] == name_in_export
    typed("export", runs / "upright", "-o", runs / "x.onnx")
    images = deskewed(tiny_images[2].reshape(-1, 20), (5, 4)).reshape(-1, 5, 4)
    (p,) = onnxruntime.InferenceSession(runs / "x.onnx").run(["p"], {"images": images})
    assert np.allclose(p, expected_p(runs / "upright", tiny_images[2]), atol=1e-5)


def test_resume_and_reproduce_are_identical(runs, tiny_config):
    assert experiment.reproduce(runs / "upright").differences == []
    with pytest.raises(UsageError, match=r"data\.preprocessing"):
        experiment.resume(runs / "upright", ["data.preprocessing=null", "training.epochs=5"])


def test_format_1_checkpoint_is_read_without_preprocessing(runs, tiny_images):
    """Read format 1: its config lacks data.preprocessing, augmentation and more."""
    import hashlib
    import io
    import zipfile

    path = directory.find_checkpoint(runs / "plain")
    with np.load(path, allow_pickle=False) as arrays:
        arrays = {name: arrays[name] for name in arrays.files}
    header = json.loads(str(arrays["header"]))
    assert header["config"]["data"].pop("preprocessing", 0) is None
    assert header["config"].pop("augmentation", 0) is None
    header["format"] = 1
    arrays["header"] = np.array(json.dumps(header))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        archive.comment = b"0" * 64
    data = file.getvalue()[:-64]
    old = checkpoints.decode(data + hashlib.sha256(data).hexdigest().encode(), "old")
    new = checkpoints.read(path)
    assert old.config == new.config
    assert old.config.data.preprocessing is None
    assert np.array_equal(old.parameters.vector, new.parameters.vector)


def test_missing_key_means_null():
    values = config_module.to_dict(Config())
    assert values["data"].pop("preprocessing", 0) is None
    assert config_module.from_dict(values, "x") == Config()
    upright = replace(Config(), data=replace(Config().data, preprocessing="deskew"))
    assert config_module.from_dict(config_module.to_dict(upright), "x") == upright


def test_gradcheck_accepts_preprocessing(typed):
    status, out, _ = typed("gradcheck", "--set", DESKEW, "--set", "network.hidden=[5]", "--entries", "5", "--json")
    assert status == 0
    assert json.loads(out)["verdict"] == "passed"


def test_unknown_preprocessing_is_refused(typed):
    status, _, err = typed("data", "show", "--set", "data.preprocessing=dekew")
    assert status == 2
    assert "data.preprocessing: 'dekew' is not allowed; allowed: deskew, or null" in err


def test_sheet_shows_deskewed_images_beside_originals(tiny_config):
    from mlpcli.analysis.sheet import sheet

    config = tiny_config(DESKEW, "augmentation.rotation=10", "augmentation.shift=1", "training.epochs=9")
    made = sheet(config)
    assert made.heads == ("original", "deskewed", "epoch 1", "epoch 2", "epoch 9")
    assert made.title == "tiny, 63 training images: deskewed; rotation 10, shift 1"
    trained_on = load_dataset(config.data).train
    assert np.array_equal(made.rows[:, 1].reshape(4, -1), trained_on.images[:4])
    assert np.array_equal(made.rows[:, 0].reshape(4, -1), load_split(config.data, "train").split.images[:4])
