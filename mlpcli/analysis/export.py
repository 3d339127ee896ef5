"""A trained network as a file that other programs read: an ONNX model, or its tensors as safetensors.

N images of R x C pixels, K classes. Both files say in their metadata what the network is and what it was trained on,
but not where that lay on the disk; equal checkpoints give equal bytes. Neither does what ``data.preprocessing`` says: a
network trained on deskewed images is to be given deskewed ones.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mlpcli import __version__
from mlpcli import config as config_module
from mlpcli.errors import UsageError
from mlpcli.model.build import Architecture
from mlpcli.runs.checkpoint import Checkpoint
from mlpcli.state import architecture_of

if TYPE_CHECKING:
    import onnx

InputType = Literal["uint8", "float32"]

# Of 2021: nothing newer is needed, and a runtime reads what is older than itself.
OPSET = 13
IR_VERSION = 7
MAX_ONNX_BYTES = 2**31 - 1  # a protobuf message is no longer
ROOM_FOR_THE_GRAPH = 2**20  # nodes, names and metadata: most of it the config

# Keys of a config that say where files lay on one machine; no one else's business, and of no use elsewhere.
_OF_THE_MACHINE = ("folder", "sources", "offline")
_ONNX_ACTIVATION = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
_SAFETENSORS_DTYPE = {"float32": "F32", "float64": "F64"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file: its name, its type as numpy calls it, and its shape, where "N" is any number."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, eq=False)
class Export:
    """The bytes of a file, ``data``, and what it has in it.

    ``tensors`` are the parameters W1, b1, W2 ...; ``inputs`` and ``outputs`` are there where the file can compute.
    """

    data: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tensors: tuple[Tensor, ...]


def metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Describe the network, each value a text: a name as it is, anything else as JSON.

    The config has the name of the data in place of their path, and lacks ``data.folder``, ``sources`` and ``offline``.
    """
    config = config_module.to_dict(checkpoint.config)
    config["data"] = {key: value for key, value in config["data"].items() if key not in _OF_THE_MACHINE}
    dataset = checkpoint.dataset.encode(errors="replace").decode()  # neither format takes half a character
    config["data"]["dataset"] = dataset
    return {
        "mlpcli": __version__,
        "dataset": dataset,
        "epoch": str(checkpoint.epoch),
        "image_shape": json.dumps(list(checkpoint.image_shape)),
        "class_names": json.dumps(list(checkpoint.names), ensure_ascii=False),
        "preprocessing": checkpoint.config.data.preprocessing or "none",
        "sizes": json.dumps(list(checkpoint.parameters.sizes)),
        "activation": checkpoint.config.network.activation,
        "objective": checkpoint.config.network.objective,
        "config": json.dumps(config, ensure_ascii=False, allow_nan=False),
    }


def to_safetensors(checkpoint: Checkpoint) -> Export:
    """The parameters W1 (D, H), b1 (H,), W2 ... in the network's own dtype, as a safetensors file.

    The format is eight bytes of length, a JSON header padded with blanks, and the elements, little-endian
    (https://huggingface.co/docs/safetensors). It is written here, as the library writes the metadata in an order that
    changes with every process.
    """
    dtype = _SAFETENSORS_DTYPE[checkpoint.config.network.dtype]
    header: dict[str, Any] = {"__metadata__": metadata(checkpoint)}
    end = 0
    for name, array in checkpoint.parameters.tensors():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # so that the elements are aligned
    vector = checkpoint.parameters.to_c_order()
    elements = vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()
    return Export(b"".join([struct.pack("<Q", len(text)), text, elements]), (), (), _tensors(checkpoint))


def to_onnx(checkpoint: Checkpoint, input_type: InputType = "uint8") -> Export:
    """An ONNX model from images to the output unit's values and the class of the largest logit.

    Input ``images`` (N, R, C): bytes, which the graph scales to 0 .. 1, or float32 in 0 .. 1. Outputs ``p`` (N, K)
    float32 and ``predicted`` (N,) int64, or (N, K) where several classes may be right. What lies between has the names
    of the derivation: X, W1, b1, z1, a1, ... and the arithmetic is in the network's own dtype. ``onnx.checker`` has
    passed the model.

    Raises ``UsageError`` where onnx is not installed, or the parameters are more than an ONNX file can hold.
    """
    if checkpoint.parameters.vector.nbytes > MAX_ONNX_BYTES - ROOM_FOR_THE_GRAPH:
        raise UsageError(
            f"{checkpoint.parameters.vector.nbytes:,} bytes of parameters are more than an ONNX file can hold, 2 GiB; "
            "safetensors has no such limit"
        )
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError:
        raise UsageError("an ONNX model needs the package onnx: pip install 'mlpcli[export]'") from None

    architecture = architecture_of(checkpoint.config, checkpoint.parameters.sizes[0], checkpoint.classes)
    dtype = np.dtype(checkpoint.config.network.dtype)
    graph = _Graph(dtype)
    graph.forward(architecture, checkpoint, input_type)
    inputs = (Tensor("images", input_type, ("N", *checkpoint.image_shape)),)
    predicted = ("N", checkpoint.classes) if checkpoint.multi_label else ("N",)
    outputs = (Tensor("p", "float32", ("N", architecture.sizes[-1])), Tensor("predicted", "int64", predicted))
    preprocessing = checkpoint.config.data.preprocessing
    says = {
        "images": f"{'0 to 255' if input_type == 'uint8' else '0 to 1'}; strokes bright on a dark ground"
        + (f"; preprocessed beforehand: {preprocessing}" if preprocessing else ""),
        "p": "probabilities of the classes" if architecture.objective.probabilities else "scores of the classes",
        "predicted": "1 for each class whose p is above 1/2, else 0" if checkpoint.multi_label else "the class",
    }

    def described(tensors: tuple[Tensor, ...]) -> list[Any]:
        return [
            helper.make_tensor_value_info(each.name, _onnx_type(each.dtype), each.shape, doc_string=says[each.name])
            for each in tensors
        ]

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "mlpcli",
            described(inputs),
            described(outputs),
            [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        producer_name="mlpcli",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    helper.set_model_props(model, metadata(checkpoint))
    onnx.checker.check_model(model, full_check=True)
    return Export(model.SerializeToString(deterministic=True), inputs, outputs, _tensors(checkpoint))


class _Graph:
    """The nodes of an ONNX graph and its constants by name; ``dtype`` is that of the arithmetic."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self._dtype = dtype

    def forward(self, architecture: Architecture, checkpoint: Checkpoint, input_type: InputType) -> None:
        """From ``images`` to ``p`` and ``predicted``, by what ``Network.forward`` and the objective compute."""
        pixels = self._cast("images", input_type, self._dtype.name, "pixels")
        self._node("Flatten", [pixels], "bytes" if input_type == "uint8" else "X", axis=1)
        if input_type == "uint8":
            self._node("Mul", ["bytes", self._constant("scale", 1.0 / 255.0)], "X")
        self.constants |= dict(checkpoint.parameters.tensors())
        a, last = "X", len(architecture.sizes) - 1
        for layer in range(1, last + 1):
            # Not Gemm: onnxruntime 1.15 fuses that with its activation to what it has no float64 code for.
            self._node("MatMul", [a, f"W{layer}"], f"{a}W{layer}")
            self._node("Add", [f"{a}W{layer}", f"b{layer}"], f"z{layer}")
            if layer < last:
                a = f"a{layer}"
                self._node(_ONNX_ACTIVATION[architecture.activation.name], [f"z{layer}"], a)
        self._output(architecture.objective.name, f"z{last}")
        self._predicted(checkpoint, f"z{last}")

    def _predicted(self, checkpoint: Checkpoint, z: str) -> None:
        """Return the predictions, as ``mlpcli.training.targets`` defines it."""
        if checkpoint.multi_label:
            self.constants["half"] = np.array(0.5, np.float32)
            self._node("Greater", ["p", "half"], "above")
            self._node("Cast", ["above"], "predicted", to=_onnx_type("int64"))
        elif checkpoint.config.network.single_output:
            for name, value in (("first", 0), ("last", checkpoint.classes - 1)):
                self.constants[name] = np.array(value, np.float32)
            self.constants["axis"] = np.array([1], np.int64)
            self._node("Round", ["p"], "nearest")
            self._node("Clip", ["nearest", "first", "last"], "number")
            self._node("Squeeze", ["number", "axis"], "class")
            self._node("Cast", ["class"], "predicted", to=_onnx_type("int64"))
        else:
            self._node("ArgMax", [z], "predicted", axis=1, keepdims=0)

    def _output(self, objective: str, z: str) -> None:
        """The output unit: see the class of that name in ``mlpcli.model.objectives``."""
        p = "p" if self._dtype == np.float32 else f"p_{self._dtype}"
        if objective == "normalized_sigmoid":
            # The softmax of ln sigmoid(z) = min(z, 0) - ln(1 + exp(-|z|)); not by Softplus, whose exp may overflow.
            self._node("Abs", [z], "abs_z")
            self._node("Neg", ["abs_z"], "minus_abs_z")
            self._node("Exp", ["minus_abs_z"], "exp")
            self._node("Add", ["exp", self._constant("one", 1.0)], "one_plus_exp")
            self._node("Log", ["one_plus_exp"], "ln")
            self._node("Min", [z, self._constant("zero", 0.0)], "min")
            self._node("Sub", ["min", "ln"], "ln_s")
            self._node("Softmax", ["ln_s"], p, axis=1)
        elif objective.startswith("softmax_"):
            self._node("Softmax", [z], p, axis=1)
        elif objective.startswith("sigmoid_"):
            self._node("Sigmoid", [z], p)
        else:
            assert objective.startswith("linear_"), objective
            self._node("Identity", [z], p)
        self._cast(p, self._dtype.name, "float32", "p")

    def _cast(self, name: str, have: str, want: str, result: str) -> str:
        """The name of ``name`` as ``want``: of a new tensor ``result``, if it is not that already."""
        if have == want:
            return name
        self._node("Cast", [name], result, to=_onnx_type(want))
        return result

    def _constant(self, name: str, value: float) -> str:
        self.constants[name] = np.array(value, self._dtype)
        return name

    def _node(self, operator: str, inputs: list[str], result: str, **attributes: Any) -> None:
        from onnx import helper

        # A node is named after the one tensor that it makes.
        self.nodes.append(helper.make_node(operator, inputs, [result], result, **attributes))


def _onnx_type(dtype: str) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _tensors(checkpoint: Checkpoint) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, array.dtype.name, array.shape) for name, array in checkpoint.parameters.tensors())
