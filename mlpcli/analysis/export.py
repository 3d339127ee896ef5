"""Export of a trained network for other programs: an ONNX model, or its tensors as safetensors.

N images of R x C pixels, K classes. The metadata of both files describe the network and its training data, but not
where those lay on the disk. Equal checkpoints give equal bytes. ``data.preprocessing`` is not exported: a network
trained on deskewed images must be given deskewed images.
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

# Of 2021: nothing newer is needed, and runtimes read older versions.
OPSET = 13
IR_VERSION = 7
MAX_ONNX_BYTES = 2**31 - 1  # limit of a protobuf message
ROOM_FOR_THE_GRAPH = 2**20  # nodes, names and metadata, mostly the config

# Keys of a config that name paths of one machine: private, and of no use elsewhere.
_OF_THE_MACHINE = {
    "data": ("folder", "sources", "offline"),
    "network": ("init", "init_sha256"),
    "training": ("teacher", "teacher_sha256"),
}
_ONNX_ACTIVATION = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
_SAFETENSORS_DTYPE = {"float32": "F32", "float64": "F64"}


@dataclass(frozen=True)
class Tensor:
    """A tensor of the file: its name, its numpy type, and its shape, in which "N" is any number."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, eq=False)
class Export:
    """An exported file: its bytes ``data``, and a description of its contents.

    ``tensors`` are the parameters W1, b1, W2 ...; ``inputs`` and ``outputs`` are empty unless the file can compute.
    """

    data: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tensors: tuple[Tensor, ...]


def metadata(checkpoint: Checkpoint) -> dict[str, str]:
    """Describe the network, each value as text: names unchanged, everything else as JSON.

    In the config the data's name replaces their path, and other keys of ``_OF_THE_MACHINE`` are left out.
    """
    config = config_module.to_dict(checkpoint.config)
    for section, keys in _OF_THE_MACHINE.items():
        config[section] = {key: value for key, value in config[section].items() if key not in keys}
    dataset = checkpoint.dataset.encode(errors="replace").decode()  # neither format allows lone surrogates
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
    """Write the parameters W1 (D, H), b1 (H,), W2 ... in the network's dtype as a safetensors file.

    The format is eight bytes of length, a JSON header padded with blanks, and the elements, little-endian
    (https://huggingface.co/docs/safetensors). The library is not used, because it orders the metadata differently in
    every process.
    """
    dtype = _SAFETENSORS_DTYPE[checkpoint.config.network.dtype]
    header: dict[str, Any] = {"__metadata__": metadata(checkpoint)}
    end = 0
    for name, array in checkpoint.parameters.tensors():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # aligns the elements
    vector = checkpoint.parameters.to_c_order()
    elements = vector.astype(vector.dtype.newbyteorder("<"), copy=False).tobytes()
    return Export(b"".join([struct.pack("<Q", len(text)), text, elements]), (), (), _tensors(checkpoint))


def to_onnx(checkpoint: Checkpoint, input_type: InputType = "uint8") -> Export:
    """Make an ONNX model from images to the values of the output unit and the class of the largest logit.

    Input ``images`` (N, R, C): bytes, which the graph scales to 0 .. 1, or float32 in 0 .. 1. Outputs: ``p`` (N, K)
    float32 and ``predicted`` (N,) int64, or (N, K) with several labels per image. Intermediate tensors have the names
    of the derivation: X, W1, b1, z1, a1 ...; the arithmetic is in the network's dtype. The model is checked by
    ``onnx.checker``.

    Raises ``UsageError`` if onnx is not installed, or if the parameters exceed the size of an ONNX file.
    """
    if checkpoint.parameters.vector.nbytes > MAX_ONNX_BYTES - ROOM_FOR_THE_GRAPH:
        raise UsageError(
            f"{checkpoint.parameters.vector.nbytes:,} bytes of parameters are more than an ONNX file can have, 2 GiB; "
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
        "images": f"{'0 to 255' if input_type == 'uint8' else '0 to 1'}; bright strokes on a dark background"
        + (f"; preprocessed beforehand: {preprocessing}" if preprocessing else ""),
        "p": _outputs_in_words(checkpoint.config.network.single_output, architecture.objective.probabilities),
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


def _outputs_in_words(single_output: bool, probabilities: bool) -> str:
    if single_output:
        return "probability of the second class" if probabilities else "number of the class"
    return "probabilities of the classes" if probabilities else "scores of the classes"


class _Graph:
    """Nodes of an ONNX graph and its constants by name; ``dtype`` is that of the arithmetic."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}
        self._dtype = dtype

    def forward(self, architecture: Architecture, checkpoint: Checkpoint, input_type: InputType) -> None:
        """Add the nodes from ``images`` to ``p`` and ``predicted``, as in ``Network.forward`` and the objective."""
        pixels = self._cast("images", input_type, self._dtype.name, "pixels")
        self._node("Flatten", [pixels], "bytes" if input_type == "uint8" else "X", axis=1)
        if input_type == "uint8":
            self._node("Mul", ["bytes", self._constant("scale", 1.0 / 255.0)], "X")
        self.constants |= dict(checkpoint.parameters.tensors())
        a, last = "X", len(architecture.sizes) - 1
        for layer in range(1, last + 1):
            # Not Gemm: onnxruntime 1.15 fuses it with the activation to an operator that has no float64 code.
            self._node("MatMul", [a, f"W{layer}"], f"{a}W{layer}")
            self._node("Add", [f"{a}W{layer}", f"b{layer}"], f"z{layer}")
            if layer < last:
                a = f"a{layer}"
                self._node(_ONNX_ACTIVATION[architecture.activation.name], [f"z{layer}"], a)
        self._output(architecture.objective.name, f"z{last}")
        self._predicted(checkpoint, f"z{last}")

    def _predicted(self, checkpoint: Checkpoint, z: str) -> None:
        """Add the nodes of the predictions, as defined in ``mlpcli.training.targets``."""
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
        """Add the nodes of the output unit, as defined by the class of that name in ``mlpcli.model.objectives``."""
        p = "p" if self._dtype == np.float32 else f"p_{self._dtype}"
        if objective == "normalized_sigmoid":
            # The softmax of ln sigmoid(z) = min(z, 0) - ln(1 + exp(-|z|)). Not by Softplus, whose exp may overflow.
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
        """Return the name of ``name`` cast to ``want``: ``result``, a new tensor, unless it has this type already."""
        if have == want:
            return name
        self._node("Cast", [name], result, to=_onnx_type(want))
        return result

    def _constant(self, name: str, value: float) -> str:
        self.constants[name] = np.array(value, self._dtype)
        return name

    def _node(self, operator: str, inputs: list[str], result: str, **attributes: Any) -> None:
        from onnx import helper

        # A node has the name of its one output.
        self.nodes.append(helper.make_node(operator, inputs, [result], result, **attributes))


def _onnx_type(dtype: str) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _tensors(checkpoint: Checkpoint) -> tuple[Tensor, ...]:
    return tuple(Tensor(name, array.dtype.name, array.shape) for name, array in checkpoint.parameters.tensors())
