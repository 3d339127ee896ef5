"""Exported files, read by the libraries they are for: outputs equal to the network's, and metadata."""

from __future__ import annotations

import builtins
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import mlpcli
from mlpcli import config as config_module
from mlpcli.analysis import export as ex
from mlpcli.analysis.evaluation import LoadedModel, outputs
from mlpcli.config import Config, DataConfig, NetworkConfig
from mlpcli.datasets.load import Split
from mlpcli.errors import UsageError
from mlpcli.model.activations import ACTIVATIONS
from mlpcli.model.objectives import OBJECTIVES
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.state import State, architecture_of

pytestmark = pytest.mark.slow

IMAGE_SHAPE = (5, 4)
IMAGES = np.random.default_rng(1).integers(0, 256, (40, *IMAGE_SHAPE), np.uint8)


def checkpoint(
    hidden=(6,),
    activation="sigmoid",
    objective="softmax_cross_entropy",
    dtype="float32",
    *,
    image_shape=IMAGE_SHAPE,
    classes=3,
    scale=1.0,
    data=None,
):
    network = NetworkConfig(hidden, activation=activation, objective=objective, dtype=dtype)
    config = Config(data=data or DataConfig("digits"), network=network)
    theta = architecture_of(config, math.prod(image_shape), classes).parameters(dtype)
    theta.vector[...] = scale * np.random.default_rng(len(theta.vector)).normal(size=theta.vector.shape)
    return Checkpoint(config, "digits", {"images": "a"}, image_shape, classes, State(theta, epoch=7))


def own_outputs(of, images=IMAGES):
    """Return the outputs that mlpcli computes."""
    split = Split(images.reshape(len(images), -1), np.zeros(len(images), np.uint8))
    return outputs(LoadedModel(Path("x.npz"), None, of), split)


def session_of(export):
    # One thread, as tests run in parallel.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(export.data, options)


def compute(export, images=IMAGES):
    return session_of(export).run(["p", "predicted"], {"images": images})


def agree(export, of, images, given):
    own = own_outputs(of, images)
    p, predicted = compute(export, given)
    assert p.dtype == np.float32
    assert predicted.dtype == np.int64
    assert p == pytest.approx(own.p, rel=1e-5, abs=1e-5)
    assert predicted.tolist() == own.predicted.tolist()


# ONNX ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("depth", range(4))
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_onnxruntime_computes_the_same_outputs(objective, depth, dtype):
    for activation in ACTIVATIONS if depth else ["sigmoid"]:
        own = checkpoint((7, 6, 5)[:depth], activation, objective, dtype, scale=0.5)
        agree(ex.to_onnx(own), own, IMAGES, IMAGES)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_large_logits_do_not_overflow(objective):
    own = checkpoint((), objective=objective)
    own.parameters.b[0][...] = [-2000.0, -2001.0, 1000.0]  # beyond +-745 exp leaves the float64s
    for rest in (own.parameters.b[0], -own.parameters.b[0]):
        own.parameters.b[0][...] = rest
        p, _ = compute(ex.to_onnx(own))
        assert np.isfinite(p).all()
        agree(ex.to_onnx(own), own, IMAGES, IMAGES)


def test_small_probabilities_keep_their_ratio():
    own = checkpoint((), objective="normalized_sigmoid", scale=0.0)
    own.parameters.b[0][...] = [-200.0, -201.0, -200.5]
    p, _ = compute(ex.to_onnx(own))
    weights = np.exp([0.0, -1.0, -0.5])
    assert p == pytest.approx(np.tile(weights / weights.sum(), (len(IMAGES), 1)), rel=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_unit_pixels_are_not_scaled(dtype):
    own = checkpoint(dtype=dtype)
    made = ex.to_onnx(own, "float32")
    (node,) = session_of(made).get_inputs()
    assert (node.name, node.type) == ("images", "tensor(float)")
    agree(made, own, IMAGES, (IMAGES / 255).astype(np.float32))


def test_inputs_and_outputs_are_declared():
    made = ex.to_onnx(checkpoint())
    session = session_of(made)
    (images,), (p, predicted) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["N", 5, 4])
    assert (p.name, p.type, p.shape) == ("p", "tensor(float)", ["N", 3])
    assert (predicted.name, predicted.type, predicted.shape) == ("predicted", "tensor(int64)", ["N"])
    assert made.inputs == (ex.Tensor("images", "uint8", ("N", 5, 4)),)
    assert made.outputs == (ex.Tensor("p", "float32", ("N", 3)), ex.Tensor("predicted", "int64", ("N",)))


@pytest.mark.parametrize("number", [0, 1, 3])
def test_model_takes_any_number_of_images(number):
    p, predicted = compute(ex.to_onnx(checkpoint()), IMAGES[:number])
    assert (p.shape, predicted.shape) == ((number, 3), (number,))
    assert p == pytest.approx(own_outputs(checkpoint()).p[:number], abs=1e-5)


def test_images_of_another_shape_are_refused_by_the_model():
    with pytest.raises(Exception, match="invalid dimensions"):
        compute(ex.to_onnx(checkpoint()), IMAGES.reshape(-1, 4, 5))


def test_most_classes_and_one_pixel():
    for image_shape, classes in (((1, 1), 1), ((1, 1), 256)):
        own = checkpoint((), image_shape=image_shape, classes=classes)
        agree(ex.to_onnx(own), own, IMAGES[:, :1, :1], IMAGES[:, :1, :1])


def test_tie_goes_to_the_first_class():
    _, predicted = compute(ex.to_onnx(checkpoint((), scale=0.0)))
    assert set(predicted.tolist()) == {0}


def test_names_are_those_of_the_derivation():
    model = onnx.load_from_string(ex.to_onnx(checkpoint((7, 6))).data)
    nodes = [(node.op_type, *node.output) for node in model.graph.node]
    assert nodes == [
        ("Cast", "pixels"),
        ("Flatten", "bytes"),
        ("Mul", "X"),
        ("MatMul", "XW1"),
        ("Add", "z1"),
        ("Sigmoid", "a1"),
        ("MatMul", "a1W2"),
        ("Add", "z2"),
        ("Sigmoid", "a2"),
        ("MatMul", "a2W3"),
        ("Add", "z3"),
        ("Softmax", "p"),
        ("ArgMax", "predicted"),
    ]
    assert [node.name for node in model.graph.node] == [node.output[0] for node in model.graph.node]
    names = [tensor.name for tensor in model.graph.initializer]
    assert names == ["scale", "W1", "b1", "W2", "b2", "W3", "b3"]


def test_runtimes_of_2021_can_read_the_model():
    model = onnx.load_from_string(ex.to_onnx(checkpoint(objective="normalized_sigmoid")).data)
    assert (model.ir_version, [(each.domain, each.version) for each in model.opset_import]) == (7, [("", 13)])
    assert {onnx.defs.get_schema(node.op_type).domain for node in model.graph.node} == {""}


def test_model_refused_by_the_checker_is_not_written(monkeypatch):
    monkeypatch.setitem(ex._ONNX_ACTIVATION, "sigmoid", "Sigmoit")
    with pytest.raises(onnx.checker.ValidationError, match="Sigmoit"):
        ex.to_onnx(checkpoint())


def test_wrong_shape_is_found_by_the_checker(monkeypatch):
    own = checkpoint()
    own.parameters.W[1] = own.parameters.W[1].T
    with pytest.raises(onnx.shape_inference.InferenceError):
        ex.to_onnx(own)


def test_parameters_beyond_the_limit_of_onnx_are_refused(monkeypatch):
    own = checkpoint()
    monkeypatch.setattr(ex, "MAX_ONNX_BYTES", ex.ROOM_FOR_THE_GRAPH + own.parameters.vector.nbytes)
    ex.to_onnx(own)
    monkeypatch.setattr(ex, "MAX_ONNX_BYTES", ex.MAX_ONNX_BYTES - 1)
    with pytest.raises(UsageError, match=r"588 bytes of parameters .* 2 GiB; safetensors has no such limit"):
        ex.to_onnx(own)


def test_deepest_network_fits():
    own = checkpoint((1,) * config_module.MAX_LAYERS, objective="normalized_sigmoid", dtype="float64")
    made = ex.to_onnx(replace(own, dataset="\u2028" * 4096))
    assert len(made.data) - own.parameters.vector.nbytes < ex.ROOM_FOR_THE_GRAPH
    agree(made, own, IMAGES, IMAGES)


def test_missing_onnx_names_what_to_install(monkeypatch):
    imported = builtins.__import__

    def without(name, *arguments):
        if name.partition(".")[0] == "onnx":
            raise ImportError(name)
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'mlpcli\[export\]'"):
        ex.to_onnx(checkpoint())
    ex.to_safetensors(checkpoint())


# safetensors --------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 5), max_size=3),
    st.sampled_from(["float32", "float64"]),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 5),
)
def test_safetensors_reads_the_same_tensors(hidden, dtype, image_shape, classes):
    own = checkpoint(tuple(hidden), dtype=dtype, image_shape=image_shape, classes=classes)
    made = ex.to_safetensors(own)
    found = safetensors.numpy.load(made.data)
    wanted = dict(own.parameters.tensors())
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].tolist() == array.tolist()
    assert made.tensors == tuple(ex.Tensor(name, dtype, array.shape) for name, array in wanted.items())


@given(st.text(max_size=40))
def test_any_data_set_name_is_written(name):
    made = ex.to_safetensors(replace(checkpoint(), dataset=name))
    length = int.from_bytes(made.data[:8], "little")
    assert length % 8 == 0
    assert json.loads(made.data[8 : 8 + length])["__metadata__"]["dataset"] == name
    assert safetensors.numpy.load(made.data).keys() == {"W1", "b1", "W2", "b2"}


@pytest.mark.parametrize("make", [ex.to_onnx, ex.to_safetensors])
def test_name_that_is_not_unicode_is_escaped(make, tmp_path):
    # Only a forged checkpoint has one.
    about = metadata_in(make(replace(checkpoint(), dataset="bad\udcff")), tmp_path / "x")
    assert about["dataset"] == json.loads(about["config"])["data"]["dataset"] == "bad?"


# Both formats -------------------------------------------------------------------------------------


def metadata_in(export, path):
    if not export.inputs:
        path.write_bytes(export.data)
        with safetensors.safe_open(path, "np") as file:
            return file.metadata()
    return {each.key: each.value for each in onnx.load_from_string(export.data).metadata_props}


@pytest.mark.parametrize("make", [ex.to_onnx, ex.to_safetensors])
def test_metadata_describe_the_network(make, tmp_path):
    data = DataConfig("/home/ada/secret/digits", folder="/home/ada/data", sources=("/home/ada/mirror",), validation=0.2)
    own = checkpoint((7, 6), "tanh", "sigmoid_quadratic", data=data)
    plain = own.config
    network = replace(plain.network, init="/home/ada/first.npz", init_sha256="12")
    training = replace(plain.training, teacher=("/home/ada/teacher.npz",), teacher_sha256=("34",))
    own = replace(own, config=replace(plain, network=network, training=training))
    about = metadata_in(make(own), tmp_path / "x")
    assert about == {
        "mlpcli": mlpcli.__version__,
        "class_names": '["0", "1", "2"]',
        "dataset": "digits",
        "epoch": "7",
        "image_shape": "[5, 4]",
        "preprocessing": "none",
        "sizes": "[20, 7, 6, 3]",
        "activation": "tanh",
        "objective": "sigmoid_quadratic",
        "config": about["config"],
    }
    config = json.loads(about["config"])
    assert config["data"]["dataset"] == "digits"
    assert config["data"]["validation"] == 0.2
    network = config_module.to_dict(plain)["network"]
    assert config["network"] == {key: network[key] for key in network if key not in ("init", "init_sha256")}
    # Only paths are missing: with their defaults the config is the same.
    assert config_module.from_dict(config, "x") == replace(plain, data=DataConfig("digits", validation=0.2))
    assert b"/home" not in make(own).data


def test_producer_is_mlpcli():
    model = onnx.load_from_string(ex.to_onnx(checkpoint()).data)
    assert (model.producer_name, model.producer_version) == ("mlpcli", mlpcli.__version__)


def test_equal_checkpoints_give_equal_bytes():
    program = (
        "import sys, hashlib; from tests.analysis.test_export import checkpoint, ex\n"
        "for make in (ex.to_onnx, ex.to_safetensors):\n"
        "    sys.stdout.write(hashlib.sha256(make(checkpoint()).data).hexdigest() + '\\n')"
    )
    expected = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(mlpcli.__file__).parents[1],
            env={"PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(expected) == 1
    assert len(expected.pop().split()) == 2
