"""Configs from files, the environment and --set; every error is one clear line."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import subprocess
import sys
import typing
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpcli import config
from mlpcli.config import AugmentationConfig, Config, DataConfig, NetworkConfig, Rule, TrainingConfig
from mlpcli.errors import ConfigError

SECTIONS: dict[str, Any] = {
    "data": DataConfig,
    "augmentation": AugmentationConfig,
    "network": NetworkConfig,
    "training": TrainingConfig,
}
KEYS = list(config.flatten(Config()))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "c.yaml"


def loaded(file: Path, content: str | bytes, *overrides: str, **environment: str) -> Config:
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return config.load(file, overrides, environment)


def refused(file: Path, content: str | bytes, *overrides: str, **environment: str) -> str:
    """Return the one line of the error, without the file's folder."""
    with pytest.raises(ConfigError) as caught:
        loaded(file, content, *overrides, **environment)
    message = str(caught.value)
    assert message.isprintable()
    return message.replace(f"{file}", file.name)


def kind_and_rule(key: str) -> tuple[Any, Rule]:
    section, _, name = key.rpartition(".")
    owner = SECTIONS.get(section, Config)
    return typing.get_type_hints(owner)[name], config.rule_of(owner, name)


def company(key: str) -> dict[str, Any]:
    """Return the other keys that ``key`` requires in its section."""
    if not key.startswith("augmentation."):
        return {}
    return {"scale": 0.5} if key == "augmentation.shift" else {"shift": 1.0}


def as_yaml(key: str, value: str) -> str:
    section, _, name = key.rpartition(".")
    more = "".join(f"  {other}: {its}\n" for other, its in company(key).items())
    return f"\n{section}:\n  {name}: {value}\n{more}" if section else f"\n\n{name}: {value}\n"


def from_python(key: str, value: Any) -> Config:
    section, _, name = key.rpartition(".")
    if not section:
        return Config(**{name: value})
    return Config(**{section: SECTIONS[section](**{name: value, **company(key)})})


# Reading ---------------------------------------------------------------------------------------


def test_config_without_a_file_is_the_defaults() -> None:
    assert config.load(environment={}) == Config()


def test_file_by_hand(file: Path) -> None:
    written = """\
# A comment.
seed: 7
data: {dataset: some/folder, validation: 10000, sources: [https://a.example/x/, "b c"]}
network:
  hidden: [300, 100]     # two layers
  activation: tanh
training:
    learning_rate: 1e-3
    optimizer: 'adam'
    patience: 5
"""
    assert loaded(file, written) == Config(
        seed=7,
        data=DataConfig(dataset="some/folder", validation=10000.0, sources=("https://a.example/x/", "b c")),
        network=NetworkConfig(hidden=(300, 100), activation="tanh"),
        training=TrainingConfig(learning_rate=0.001, optimizer="adam", patience=5),
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E-3", 0.001),
        ("1.5e+2", 150.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0.5", 0.5),
        ("+.5", 0.5),
        ("3", 3.0),
        ("010", 10.0),
        ("1e0", 1.0),
    ],
)
def test_numbers_are_read(text: str, value: float, file: Path) -> None:
    read = loaded(file, f"training: {{learning_rate: {text}}}").training.learning_rate
    assert (read, type(read)) == (value, float)


@pytest.mark.parametrize(("text", "value"), [("010", 10), ("+5", 5), ("0", 0), ("9223372036854775807", 2**63 - 1)])
def test_integers_are_not_octal(text: str, value: int, file: Path) -> None:
    assert loaded(file, f"seed: {text}").seed == value


@pytest.mark.parametrize("text", ["no", "yes", "off", "0x10", "0o10", "1_000", "12:30", "1e", "e3", "١٢", '"5"', "1 2"])
def test_numbers_of_yaml_1_1_are_text(text: str, file: Path) -> None:
    assert " is not allowed; allowed: a finite number, above 0" in refused(file, f"training: {{learning_rate: {text}}}")
    shown = text.strip('"')
    assert loaded(file, f"data:\n  dataset: {text}").data.dataset == shown


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("TRUE", True)])
def test_true_and_false_are_read(text: str, value: bool, file: Path) -> None:
    assert loaded(file, f"data: {{offline: {text}}}").data.offline is value


@pytest.mark.parametrize("text", ["null", "~", "", "Null"])
def test_null_is_read(text: str, file: Path) -> None:
    assert loaded(file, f"training:\n  patience: {text}\n").training.patience is None


@pytest.mark.parametrize(
    "content", ["seed: 3", "\ufeffseed: 3", "seed: 3\r\n", "---\nseed: 3\n...\n", "data:\nseed: 3"]
)
def test_equivalent_yaml_is_equal(content: str, file: Path) -> None:
    assert loaded(file, content) == Config(seed=3)


def test_flag_wins_over_environment_file_and_default(file: Path) -> None:
    assert loaded(file, "seed: 1").data.folder == "data"
    assert loaded(file, "data: {folder: a}").data.folder == "a"
    assert loaded(file, "data: {folder: a}", MLPCLI_DATA="b").data.folder == "b"
    assert loaded(file, "data:\n", MLPCLI_DATA="b").data.folder == "b"
    assert loaded(file, "data: {folder: a}", MLPCLI_DATA="").data.folder == "a"
    assert loaded(file, "data: {folder: a}", "data.folder=c", MLPCLI_DATA="b").data.folder == "c"
    assert config.load(environment={"MLPCLI_DATA": "1e3"}).data.folder == "1e3"


def test_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPCLI_DATA", "elsewhere")
    assert config.load().data.folder == "elsewhere"


def test_last_override_of_a_key_wins(file: Path) -> None:
    changed = loaded(file, "training: {epochs: 2, l2: 0.5}", "training.epochs=3", " training.epochs = 4")
    assert (changed.training.epochs, changed.training.l2) == (4, 0.5)
    assert loaded(file, "seed: 1", "network.hidden=[]", "data.dataset=a=b").data.dataset == "a=b"


# Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "c.yaml: is empty; see 'mlpcli config show mnist' for an example"),
        ("# nothing\n", "c.yaml: is empty; see 'mlpcli config show mnist' for an example"),
        ("---\n", "c.yaml: is empty; see 'mlpcli config show mnist' for an example"),
        ("mnist", "c.yaml: is not a mapping of keys to values; see 'mlpcli config show mnist' for an example"),
        ("[seed]", "c.yaml: is not a mapping of keys to values; see 'mlpcli config show mnist' for an example"),
        (b"\xff\xfes\0e\0", "c.yaml: is not UTF-8 text, but looks like UTF-16"),
        (b"seed: \xe9", "c.yaml: is not UTF-8 text (byte 6)"),
        (b"seed: 1\n\n\0", r"c.yaml:3: is not YAML: the character '\x00' is not allowed"),
        (b"x" * 65537, "c.yaml: is larger than 64 KiB, which no config is"),
        ("seed: 1\nseed: 2", "c.yaml:2: seed: given twice, first on line 1"),
        ("seed: 1\ndata:\n  test: no\n  test: yes", "c.yaml:4: data.test: given twice, first on line 3"),
        ("data: 5", "c.yaml:1: data: is a section, with keys such as dataset; got 5"),
        ("\ndata: [1]", "c.yaml:2: data: is a section, with keys such as dataset; got [1]"),
        ("seed: {a: 1}", "c.yaml:1: seed: a mapping is not allowed; allowed: a whole number, at least 0"),
        ("sede: 1", "c.yaml:1: sede: unknown key; did you mean seed?"),
        ("data:\n  datset: x", "c.yaml:2: data.datset: unknown key; did you mean data.dataset?"),
        ("epochs: 3", "c.yaml:1: epochs: unknown key; did you mean training.epochs?"),
        ("data: {epochs: 3}", "c.yaml:1: data.epochs: unknown key; did you mean training.epochs?"),
        ("qqqq: 1", "c.yaml:1: qqqq: unknown key; known here: data, augmentation, network, training, seed"),
        ("': 1", "c.yaml:1: is not YAML: found unexpected end of stream; check colons, quotes and indentation"),
        ("seed: 1\n\tdata: 2", "c.yaml:2: has a tab in column 1; write blanks instead"),
        ("seed: 1 data: 2", "c.yaml:1: is not YAML: mapping values are not allowed here; check"),
        ("seed: 1\n---\nseed: 2", "c.yaml:2: a second document; a config is one"),
        ("training.epochs: 3", "c.yaml:1: training.epochs: no key has a dot; write epochs below training:"),
        ("set: {training.epochs: 3}\ngrid: {}", "c.yaml: is a sweep file, not a config; mlpcli sweep trains its runs"),
        ("<<: {seed: 1}", "c.yaml:1: <<: unknown key"),
        ("? [a]\n: 1", "c.yaml:1: a key is not plain text"),
        ("seed: 1\ndata: {dataset: [[[[[[1]]]]]]}", "c.yaml:2: nested deeper than 6 levels"),
        ("seed: 1e3", "c.yaml:1: seed: 1000.0 is not allowed; allowed: a whole number, at least 0, at most"),
        ("training: {epochs: 1e3}", "at least 1, at most 1000000; write 1000"),
        ("data: {dataset: 2024}", 'allowed: non-empty text; as text: "2024", with the quotes'),
        ("network: {hidden: 512}", "each item a whole number, at least 1, at most 100000; write [512]"),
        ("data: {sources: http://x}", "allowed: a list, [a, b, ...], each item non-empty text, or null; write ["),
        (f"network: {{hidden: [{'1,' * 1001}]}}", "c.yaml:1: network.hidden: 1001 layers are not allowed; allowed: at"),
        (f"seed: {'x' * 99}", f"c.yaml:1: seed: '{'x' * 56}... is not allowed; allowed: a whole number, at least 0"),
        ('seed: "a\\nb"', "c.yaml:1: seed: 'a\\nb' is not allowed"),
        ('"a\\nb": 1', "c.yaml:1: 'a\\nb': unknown key"),
        ('data: {dataset: "\\uD800"}', "c.yaml:1: data.dataset: '\\ud800' is not allowed; allowed: non-empty text"),
        ('data: {dataset: "\\0"}', "c.yaml:1: data.dataset: '\\x00' is not allowed; allowed: non-empty text"),
        ('seed: "\\UFFFFFFFF"', "c.yaml: is not YAML: an escape or a directive has a number out of range"),
        ('seed: "\\U00110000"', "c.yaml: is not YAML: an escape or a directive has a number out of range"),
        (f"%YAML 1.{'9' * 5000}\n---\nseed: 1", "c.yaml: is not YAML: an escape or a directive has a number out of"),
    ],
)
def test_invalid_file_is_refused(content: str | bytes, message: str, file: Path) -> None:
    assert message in refused(file, content)


@pytest.mark.parametrize(
    "content",
    [
        "network: {hidden: &a [*a]}",
        "seed: !!python/object/apply:os.system [ls]",
        "seed: &a 1",
        "&a seed: 1",
        "&a {seed: 1}",
        "seed: *a",
        "!!int seed: 1",
        "seed: !!int 1",
        "seed: ! 1",
        "*a : 1",
    ],
)
def test_aliases_anchors_and_tags_are_refused(content: str, file: Path) -> None:
    assert refused(file, content) == "c.yaml:1: aliases, anchors and tags (*, & and !) are not allowed outside quotes"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set seed: write --set section.key=value"),
        ("seed=x", "--set seed=x: seed: 'x' is not allowed; allowed: a whole number, at least 0, at most"),
        ("sede=1", "--set sede=1: sede: unknown key; did you mean seed?"),
        ("epochs=1", "--set epochs=1: epochs: unknown key; did you mean training.epochs?"),
        ("Training.epochs=1", "--set Training.epochs=1: Training.epochs: unknown key; did you mean training.epochs?"),
        ("training.epohcs=1", "--set training.epohcs=1: training.epohcs: unknown key; did you mean training.epochs?"),
        ("training=1", "--set training=1: training is a section; set its keys one by one, as in training.epochs=..."),
        ("training.epochs.x=1", "--set training.epochs.x=1: training.epochs.x: unknown key"),
        ("=1", "--set =1: '': unknown key; known here: data, augmentation, network, training, seed"),
        ("seed=[", "--set seed=[: is not YAML: "),
        ("seed=1\n---\n2", "a second document; a config is one"),
        ("data.folder=", "--set data.folder=: data.folder: null is not allowed; allowed: non-empty text"),
        ("data.dataset=*x", "are not allowed outside quotes"),
        (f"seed={'9' * 100}", "... seed: ".replace(" ", ": ", 1)),
    ],
)
def test_invalid_override_is_refused(override: str, message: str, file: Path) -> None:
    assert message in refused(file, "seed: 1", override)


@pytest.mark.parametrize(
    ("content", "overrides", "message"),
    [
        ("training:\n optimizer: sgd\n momentum: .5", [], "c.yaml:3: training.momentum: 0.5 has no effect with"),
        ("training:\n momentum: .5", ["training.optimizer=sgd"], "c.yaml:2: training.momentum: 0.5 has no effect"),
        ("training:\n teacher: []", [], "c.yaml:2: training.teacher: [] names no teacher; allowed: a list"),
        ("training:\n teacher: a", [], "c.yaml:2: training.teacher: 'a' is not allowed; allowed: a list"),
        (
            "training:\n teacher: [a, b]\n teacher_sha256: [x]",
            [],
            "c.yaml:3: training.teacher_sha256: has 1 hashes for the 2 checkpoints",
        ),
        (
            "training:\n teacher_sha256: [x]",
            [],
            "c.yaml:2: training.teacher_sha256: has 1 hashes for the 0 checkpoints",
        ),
        (
            "training:\n teacher: [a]\n label_smoothing: .1",
            [],
            "c.yaml:3: training.label_smoothing: 0.1 has no effect with training.teacher",
        ),
        (
            "network:\n receptive_fields: [2, 3]",
            ["network.hidden=[5]"],
            "c.yaml:2: network.receptive_fields: [2.0, 3.0] is not allowed with hidden: [5]; allowed: a",
        ),
        (
            "training:\n teacher: [a]",
            ["network.objective=linear_hinge"],
            "c.yaml:2: training.teacher: has no meaning with network.objective: linear_hinge",
        ),
        (
            "training:\n teacher: [a]",
            ["network.single_output=true", "network.objective=sigmoid_cross_entropy"],
            "c.yaml:2: training.teacher: has no meaning with network.single_output",
        ),
        ("training:\n optimizer: sgd", ["training.momentum=.5"], "--set training.momentum=.5: training.momentum: 0.5"),
        ("training: {epochs: 2, warmup_epochs: 2.5}", [], "c.yaml:1: training.warmup_epochs: 2.5 is more than epochs"),
        ("\ntraining: {patience: 2}\ndata: {validation: 0}", [], "c.yaml:2: training.patience: needs validation"),
        (
            "\naugmentation: {final_epochs: 1}",
            [],
            "c.yaml:2: augmentation.rotation: 0, as are scale, shear, shift and elastic_alpha: nothing is distorted",
        ),
        ("seed: 1", ["augmentation.final_epochs=1"], "--set augmentation.final_epochs=1: augmentation.rotation: 0, as"),
        ("data: {validation: 1.5}", [], "c.yaml:1: data.validation: 1.5 is neither a fraction nor a number of images"),
    ],
)
def test_contradicting_keys_are_refused(content: str, overrides: list[str], message: str, file: Path) -> None:
    assert message in refused(file, content, *overrides)


def test_compatible_keys_are_accepted(file: Path) -> None:
    assert loaded(file, "training: {optimizer: sgd, momentum: 0}").training.momentum == 0
    assert loaded(file, "training: {epochs: 2, warmup_epochs: 2}").training.warmup_epochs == 2
    assert loaded(file, "training: {patience: 1}\ndata: {validation: 1}").training.patience == 1


def test_environment_is_validated() -> None:
    with pytest.raises(ConfigError, match=r"^MLPCLI_DATA: data.folder: '\\udcff' is not allowed"):
        config.load(environment={"MLPCLI_DATA": "\udcff"})


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    for path, reason in [(tmp_path / "none.yaml", "no such file"), (tmp_path, "is a folder")]:
        with pytest.raises(ConfigError, match=f"^{path}: {reason}"):
            config.load(path)


# Every key of every section -----------------------------------------------------------------------


def wrong_values(kind: Any, rule: Rule) -> Iterator[tuple[str, Any]]:
    """Return wrong values, each as YAML and as Python."""
    arguments = typing.get_args(kind)
    if NoneType in arguments:
        optional = next(part for part in arguments if part is not NoneType)
        yield from ((text, value) for text, value in wrong_values(optional, rule) if value is not None)
        return
    yield from [("null", None), ("{a: 1}", {"a": 1})]
    if typing.get_origin(kind) is tuple:
        yield from [("5", 5), ("text", "text"), ("[[1]]", [[1]])]
        yield from ((f"[{text}]", [value]) for text, value in wrong_values(arguments[0], rule))
        return
    yield from [("[]", []), ("[1]", [1])]
    if kind is str:
        yield from [("5", 5), ("1.5", 1.5), ("true", True), ('""', ""), ('"\\0"', "\0")]
        if rule.choices:
            yield from [("nonsense", "nonsense"), (rule.choices[0].upper(), rule.choices[0].upper())]
        return
    yield from [("text", "text"), ('"1"', "1"), ("no", "no")]
    if kind is bool:
        yield from [("0", 0), ("1", 1), ("1.0", 1.0)]
        return
    yield from [("true", True), (".nan", math.nan), ("nan", math.nan), (".inf", math.inf), ("-.inf", -math.inf)]
    if kind is int:
        yield from [("1.5", 1.5), ("1.0", 1.0), ("1e3", 1000.0)]
    if rule.low is not None:
        below = rule.low if rule.above else rule.low - 1
        yield from [(f"{below}", below), ("-1", -1), ("-1e-9", -1e-9)]
    if rule.high is not None:
        above = rule.high + 1 if kind is int else math.nextafter(rule.high, math.inf)
        yield (f"{above}", above)
    yield ("9" * 39 if kind is int else "1e999", 10**39 - 1 if kind is int else math.inf)


def test_sections_and_keys_are_known() -> None:
    assert {key.partition(".")[0] for key in KEYS} == {"seed", *SECTIONS}
    assert len(KEYS) == 1 + sum(len(dataclasses.fields(section)) for section in SECTIONS.values())


@pytest.mark.parametrize("key", KEYS)
def test_wrong_value_error_names_file_line_key_and_allowed(key: str, file: Path) -> None:
    kind, rule = kind_and_rule(key)
    cases = [case for case in wrong_values(kind, rule) if not (rule.chosen and case[1] is None)]
    assert len(cases) >= 5
    for text, value in cases:
        shown = {"None": "null", "{'a': 1}": "a mapping"}.get(repr(value), repr(value))
        wrong = f"{key}: {shown} is not allowed; allowed: {config.allowed(kind, rule)}"
        assert refused(file, as_yaml(key, text)).startswith(f"c.yaml:3: {wrong}"), text
        flag = f"{key}={text}" if len(f"{key}={text}") <= 60 else f"{key}={text}"[:57] + "..."
        assert refused(file, "seed: 1", f"{key}={text}").startswith(f"--set {flag}: {wrong}"), text
        with pytest.raises(ConfigError) as caught:
            from_python(key, value)
        assert str(caught.value).startswith(wrong.rpartition(f"{key}:")[1].rpartition(".")[2]), text
        nested = {key.partition(".")[0]: {key.partition(".")[2]: value}} if "." in key else {key: value}
        with pytest.raises(ConfigError) as caught:
            config.from_dict(nested, "checkpoint")
        assert str(caught.value).startswith(f"checkpoint: {wrong}"), text


@pytest.mark.parametrize("key", KEYS)
def test_bounds_and_choices_are_allowed(key: str, file: Path) -> None:
    kind, rule = kind_and_rule(key)
    is_list = any(typing.get_origin(each) is tuple for each in (kind, *typing.get_args(kind)))
    values: list[Any] = [*rule.choices]
    values += [] if rule.low is None else [rule.low if not rule.above else 5e-324]
    values += [] if rule.high is None else [rule.high]
    values += [None] if NoneType in typing.get_args(kind) else []
    for value in values or [config.flatten(Config())[key]]:
        simple = [value] if is_list and value is not None else value
        text = config.to_yaml(from_python(key, simple)).split(f"{key.rpartition('.')[2]}: ")[1].splitlines()[0]
        assert config.flatten(loaded(file, as_yaml(key, text)))[key] == simple


@pytest.mark.parametrize("key", [key for key in KEYS if len(key.rpartition(".")[2]) > 3])
def test_misspelled_key_is_suggested(key: str, file: Path) -> None:
    section, _, name = key.rpartition(".")
    middle = len(name) // 2
    misspelt = {name[:middle] + name[middle + 1 :], name[:middle] + "x" + name[middle:], name.upper().lower() + "s"}
    misspelt.add(name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :])
    for wrong in misspelt - {name}:
        dotted = f"{section}.{wrong}" if section else wrong
        assert refused(file, as_yaml(dotted, "1")) == f"c.yaml:3: {dotted}: unknown key; did you mean {key}?"
        assert f"did you mean {key}?" in refused(file, "seed: 1", f"{dotted}=1")


# Python -------------------------------------------------------------------------------------------


def test_config_is_immutable() -> None:
    for owner, key in [(Config(), "seed"), (Config().training, "epochs"), (Config().data, "new")]:
        with pytest.raises((dataclasses.FrozenInstanceError, TypeError)):
            setattr(owner, key, 1)
    assert hash(Config()) == hash(Config(seed=0))
    assert isinstance(NetworkConfig(hidden=[3, 4]).hidden, tuple)  # type: ignore[arg-type]


def test_python_values_are_stored_as_declared_type() -> None:
    assert type(DataConfig(validation=10).validation) is float
    with pytest.raises(ConfigError, match=r"^data: a mapping is not allowed; allowed: an instance of DataConfig$"):
        Config(data={"dataset": "mnist"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^training: null is not allowed"):
        Config(training=None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^seed: a very large int is not allowed"):
        Config(seed=10**5000)
    with pytest.raises(ConfigError, match=r"^learning_rate: "):
        TrainingConfig(learning_rate=2**2000)


@pytest.mark.parametrize("values", [[], None, "seed", 5])
def test_invalid_dictionary_is_refused(values: Any) -> None:
    with pytest.raises(ConfigError, match=r"^checkpoint: .* is no config; allowed: a mapping of keys to values$"):
        config.from_dict(values, "checkpoint")


def test_dictionary_has_simple_values_and_every_key() -> None:
    simple = config.to_dict(Config(network=NetworkConfig(hidden=(1, 2)), augmentation=AugmentationConfig(shift=1)))
    assert simple["network"]["hidden"] == [1, 2]
    assert {(key, inner) for key, section in simple.items() if key != "seed" for inner in section} == {
        tuple(key.split(".")) for key in KEYS if "." in key
    }


def test_rules_have_a_description() -> None:
    assert config.allowed(int, Rule("")) == "a whole number"
    assert config.allowed(int, Rule("", low=1, high=1_000_000)) == "a whole number, at least 1, at most 1000000"
    assert config.allowed(float, Rule("", low=0.0, above=True)) == "a finite number, above 0"
    assert config.allowed(float | None, Rule("", high=0.9999)) == "a finite number, at most 0.9999, or null"
    assert config.allowed(bool, Rule("")) == "true or false"
    assert config.allowed(str, Rule("")) == "non-empty text"
    assert config.allowed(str, Rule("", choices=("a", "b"))) == "a or b"
    assert config.allowed(str | None, Rule("", choices=("a", "b", "c"))) == "one of a, b, c, or null"
    assert (
        config.allowed(tuple[int, ...], Rule("", low=1)) == "a list, [a, b, ...], each item a whole number, at least 1"
    )


# Properties ---------------------------------------------------------------------------------------

AWKWARD = ["null", "no", "true", "1e3", "0x1", "010", "~", "a: b", "- a", "a #b", "...", "---", " a", "a ", "a\nb", "é"]
AWKWARD += ["\ufeff", "\x85", "\u2028", "'", '"', "\\", "[a]", "{", ",", "%", "@", "`", "*a", "&a", "!a", "|", ">", "?"]
TEXT = st.sampled_from(AWKWARD) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


def values_of(kind: Any, rule: Rule) -> st.SearchStrategy[Any]:
    arguments = typing.get_args(kind)
    if NoneType in arguments:
        return st.none() | values_of(next(part for part in arguments if part is not NoneType), rule)
    if typing.get_origin(kind) is tuple:
        return st.lists(values_of(arguments[0], rule), max_size=5).map(tuple)
    if kind is str:
        return st.sampled_from(rule.choices) if rule.choices else TEXT
    if kind is int:
        return st.integers(int(rule.low or 0), None if rule.high is None else int(rule.high))
    if kind is float:
        return st.floats(rule.low, rule.high, exclude_min=rule.above, allow_nan=False, allow_infinity=False)
    return st.booleans()


@st.composite
def configs(draw: st.DrawFn) -> Config:
    values: dict[str, dict[str, Any]] = {
        name: {key: draw(values_of(*kind_and_rule(f"{name}.{key}"))) for key in section.__dataclass_fields__}
        for name, section in SECTIONS.items()
    }
    data, training = values["data"], values["training"]
    data["validation"] = draw(st.floats(0, 1) | st.integers(1, 10**9).map(float))
    data["size"] = draw(st.none() | st.tuples(st.integers(1, 1000), st.integers(1, 1000)))
    data["centre"] &= data["size"] is not None
    data["class_names"] = tuple(dict.fromkeys(data["class_names"] or ())) or None
    training["warmup_epochs"] = draw(st.floats(0, training["epochs"]))
    if training["optimizer"] == "sgd":
        training["momentum"] = draw(st.sampled_from([None, 0.0]))
    if data["validation"] == 0:
        training["patience"] = None
    values["augmentation"]["shift"] = draw(st.floats(0.5, 9))
    # Small enough for a checkpoint of two gigabytes.
    values["network"]["hidden"] = tuple(min(units, 1000) for units in values["network"]["hidden"][:9])
    radii = (values["network"]["receptive_fields"] or ())[: len(values["network"]["hidden"])]
    values["network"]["receptive_fields"] = radii or None
    if values["network"]["init"] is None:
        values["network"]["init_sha256"] = None
    if not values["network"]["hidden"]:
        training["dropout"] = 0.0
    if values["network"]["objective"] == "linear_hinge":
        training["label_smoothing"] = 0.0
        training["teacher"] = None
    if values["network"]["objective"] not in config.INDEPENDENT_OUTPUTS:
        values["network"]["single_output"] = False
    if values["network"]["single_output"]:
        training["label_smoothing"] = 0.0
        training["teacher"] = None
    training["teacher"] = training["teacher"] or None
    if training["teacher"]:
        training["label_smoothing"] = 0.0
    training["teacher_sha256"] = draw(st.sampled_from([None, training["teacher"]]))
    if draw(st.booleans()):
        del values["augmentation"]
    sections = {name: SECTIONS[name](**section) for name, section in values.items()}
    return Config(seed=draw(values_of(*kind_and_rule("seed"))), **sections)


def check_round_trip(original: Config, file: Path) -> None:
    text = config.to_yaml(original)
    assert text.isascii()
    assert loaded(file, text) == original
    assert config.parse(text.encode(), file, (), {}) == original
    assert config.from_dict(config.to_dict(original), "x") == original
    overrides, section = [], ""
    for line in text.splitlines():
        if line.endswith(":"):
            section = line[:-1]
        else:
            inner = f"{section}." if line.startswith(" ") else ""
            overrides.append(inner + line.strip().replace(": ", "=", 1))
    assert config.load(None, overrides, {}) == original


@settings(max_examples=50, deadline=None)
@given(original=configs())
def test_config_round_trips_through_yaml_dict_and_flags(file: Path, original: Config) -> None:
    check_round_trip(original, file)


@pytest.mark.parametrize("text", AWKWARD)
def test_text_like_other_types_round_trips(text: str, file: Path) -> None:
    check_round_trip(Config(data=DataConfig(dataset=text, folder=f"a{text}", sources=(text, text))), file)


TOKENS = [
    *AWKWARD,
    *KEYS,
    *(key.rpartition(".")[2] for key in KEYS),
    *SECTIONS,
    ":",
    ": ",
    "\n",
    "\n  ",
    " ",
    ", ",
    "[",
    "]",
]
TOKENS += [
    "{",
    "}",
    "- ",
    "# ",
    "? ",
    "&a ",
    "*a",
    "!!int ",
    "0",
    "1",
    "-1",
    "1e-3",
    ".nan",
    '"\\',
    "\\u",
    "%YAML 1.1\n",
]
CONTENT = st.binary(max_size=200) | st.lists(st.sampled_from(TOKENS), max_size=25).map(
    lambda parts: "".join(parts).encode()
)


def config_or_one_line(*arguments: Any) -> None:
    try:
        read = config.load(*arguments)
    except ConfigError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 500
    else:
        assert config.from_dict(config.to_dict(read), "x") == read


@settings(max_examples=400, deadline=None)
@given(content=CONTENT)
def test_any_bytes_are_a_config_or_one_line(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    config_or_one_line(file, [], {})


@settings(max_examples=100, deadline=None)
@given(key=st.sampled_from([*KEYS, *SECTIONS, ""]) | st.text(), value=st.text() | st.sampled_from(TOKENS))
def test_any_override_is_a_config_or_one_line(key: str, value: str) -> None:
    config_or_one_line(None, [f"{key}={value}"], {})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just(10**4000) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(values=st.dictionaries(st.sampled_from(["seed", *SECTIONS]) | st.text(), JSON, max_size=3))
def test_any_dictionary_is_a_config_or_one_line(values: dict[str, Any]) -> None:
    try:
        config.from_dict(values, "checkpoint")
    except ConfigError as error:
        assert str(error).startswith("checkpoint: ")
        assert str(error).isprintable()


LAUGHS = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi"))
BOMBS = [LAUGHS, *(text * 32000 for text in ("[", "{", "- ", "? ", "a ", "'", "\n", "#", "!", "a:", '"a"', "a\n"))]
BOMBS += ["a: |\n" + "  b\n" * 16000, "&" + "a" * 65000, '"' + "a\n" * 32000, "seed: " + "1" * 65000]
BOMBS += ["training: {learning_rate: 1" + "0" * 65000 + "}", "training: {learning_rate: 1e999999999}"]
BOMBS += ["network: {hidden: [" + "1," * 9000 + "]}", "data: {sources: [" + "a," * 9000 + "]}"]
BOMBS += ["".join(f"k{i}: 1\n" for i in range(6000)), "".join(" " * i + f"k{i}:\n" for i in range(350))]
DEFUSE = """
import json, resource, sys
from pathlib import Path
from mlpcli import config
from mlpcli.errors import ConfigError
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))
for bomb in json.load(sys.stdin):
    Path(sys.argv[1]).write_text(bomb)
    try:
        config.load(Path(sys.argv[1]), [], {})
    except ConfigError as error:
        print(len(str(error)))
    else:
        print(0)
"""


def test_quoted_numbers_are_reported_as_text(file: Path) -> None:
    assert refused(file, 'network:\n  hidden: ["30", 20]\n').endswith("; in quotes it is text: write [30, 20]")
    assert refused(file, 'training:\n  epochs: "3"\n').endswith("; in quotes it is text: write 3")
    assert config.quotes_hint(["a"]) == config.quotes_hint("null") == config.quotes_hint(3) == ""


@pytest.mark.parametrize("name", config.shipped())
def test_config_of_a_run_needs_no_yaml_parser(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = config.load(config.shipped()[name], (), {})
    text = config.to_yaml(original)
    assert loaded(file, text) == original
    monkeypatch.delattr(config, "_read_yaml")
    assert config.parse(text.encode(), file, (), {}) == original


@pytest.mark.parametrize(
    ("written", "changed"),
    [
        ("seed: 0\n", "seed: 0\nseed: 0\n"),
        ("  epochs: 20\n", "  epochs: 20\n  epochs: 20\n"),
        ("  epochs: 20\n", "  epochs: 0\n"),
        ("  epochs: 20\n", "  epoch: 20\n"),
        ("data:\n", "date:\n"),
        ("  hidden: [512]\n", "  hidden: [512, 0]\n"),
        ("  hidden: [512]\n", "  hidden: 512\n"),
        ("augmentation: null\n", "augmentation: x\n"),
        ("  dropout: 0.0\n", "  dropout: 0.5 # half\n"),
        ("  hidden: [512]\n", "  hidden: []\n"),
        ("  offline: false\n", "  offline: no\n"),
        ("  offline: false\n", "  offline: False\n"),
        ("  batch_size: 32\n", "  batch_size: 010\n"),
        ("  dataset: mnist\n", "  dataset: a-b_c+d/e.f\n"),
    ],
)
def test_both_readers_of_a_config_agree(written: str, changed: str, file: Path) -> None:
    text = config.to_yaml(Config())
    assert written in text
    text = text.replace(written, changed)

    def outcome(read: typing.Callable[[], Config]) -> Config | str:
        try:
            return read()
        except ConfigError as error:
            return str(error)

    assert outcome(lambda: config.parse(text.encode(), file, (), {})) == outcome(lambda: loaded(file, text))


def test_large_files_take_little_time_and_memory(file: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", DEFUSE, file],
        cwd=Path(__file__).parents[1],
        input=json.dumps(BOMBS),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (child.returncode, child.stderr) == (0, "")
    lengths = [int(line) for line in child.stdout.split()]
    assert len(lengths) == len(BOMBS)
    assert max(lengths) < 500
    assert lengths.count(0) == 1  # the long list of sources is valid


# Files and names ----------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a checkout with two configs, one in a folder, and change to another folder of it."""
    (tmp_path / "mlpcli").mkdir()
    (tmp_path / "configs" / "deep").mkdir(parents=True)
    for name in ("quickstart", "deep/other"):
        (tmp_path / "configs" / f"{name}.yaml").touch()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(config, "__file__", str(tmp_path / "mlpcli" / "config.py"))
    return tmp_path


def test_packaged_configs_win_over_a_checkout(checkout: Path) -> None:
    beside = checkout / "configs"
    assert list(config.shipped()) == ["quickstart", "deep/other"]
    assert config.shipped() == {"quickstart": beside / "quickstart.yaml", "deep/other": beside / "deep" / "other.yaml"}
    (checkout / "mlpcli" / "configs").mkdir()
    (checkout / "mlpcli" / "configs" / "mnist.yaml").touch()
    assert config.shipped() == {"mnist": checkout / "mlpcli" / "configs" / "mnist.yaml"}


def test_no_config_is_shipped_without_folders(checkout: Path) -> None:
    (checkout / "configs").rename(checkout / "other")
    assert config.shipped() == {}


def test_file_wins_over_name_and_folder(checkout: Path) -> None:
    shipped = checkout / "configs" / "quickstart.yaml"
    assert config.find("quickstart") == config.find("quickstart.yaml") == shipped
    Path("quickstart").mkdir()
    assert config.find("quickstart") == shipped
    Path("quickstart").rmdir()
    Path("quickstart").touch()
    assert config.find("quickstart") == Path("quickstart")
    assert config.find("../configs/deep/other.yaml") == Path("../configs/deep/other.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quickstrat", "quickstrat: no such file, and no shipped config of that name; did you mean quickstart?"),
        ("configs/quickstart.yaml", "did you mean quickstart?"),
        ("zzz", "zzz: no such file, and no shipped config of that name; see 'mlpcli config list'"),
        ("..", "..: is a folder; give a config file, or a name from 'mlpcli config list'"),
        ("", "'': is a folder; give a config file, or a name from 'mlpcli config list'"),
        ("a\nb", "'a\\nb': no such file"),
        ("x" * 300, "x: no such file"),
        ("\0", "'\\x00': no such file"),
        ("../configs/quickstart.yaml/x", "no such file"),
    ],
)
def test_unknown_name_is_refused(name: str, message: str, checkout: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.find(name)
    assert message in str(caught.value)


def test_folder_without_permission_is_refused(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stat(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(ConfigError, match=r"^closed/c\.yaml: cannot be read: Permission denied$"):
        config.find("closed/c.yaml")


def test_text_of_a_file_lacks_only_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbf# caf\xc3\xa9\nseed: 1\n")
    assert config.read_text(tmp_path / "c.yaml") == "# café\nseed: 1\n"


def test_pipe_is_read_as_a_file(checkout: Path) -> None:
    os.mkfifo("pipe")
    assert config.find("pipe") == Path("pipe")


# Shipped configs -----------------------------------------------------------


def test_mnist_config_is_the_defaults_with_every_key_documented() -> None:
    path = config.find("mnist")
    assert config.load(path, [], {}) == Config()
    values = [line for line in config.read_text(path).splitlines() if not line.startswith("#")]
    written = [line.partition("#")[0].rstrip() for line in values]
    chosen = {f"  {key}: {value}" for key, value in config.to_dict(TrainingConfig()).items() if key == "learning_rate"}
    resolved = [line for line in config.to_yaml(Config()).splitlines() if line not in chosen]
    assert [line for line in written if line != "  learning_rate: null"] == resolved
    meanings = [line.partition("#")[2].strip() for line in values if not line.startswith("augmentation")]
    assert [meaning for meaning in meanings if meaning] == [
        kind_and_rule(key)[1].help for key in KEYS if not key.startswith("augmentation.")
    ]


def test_shipped_configs_are_valid_and_begin_with_a_comment() -> None:
    shipped = config.shipped()
    assert {"mnist", "quickstart", "mlp-512", "softmax-regression", "nielsen-chapter-3", "fashion-mnist"} <= set(
        shipped
    )
    for name, path in shipped.items():
        assert config.read_text(path).startswith("# "), name
        read = config.load(path, [], {})
        assert (read == Config()) == (name == "mnist"), name


# Size ---------------------------------------------------------------------------------------------


def test_network_too_large_for_a_checkpoint_is_refused():
    with pytest.raises(ConfigError, match=r"--set .*network.hidden: .* has checkpoints of [0-9.]+ GiB; at most 2 GiB"):
        config.load(None, ["network.hidden=[100000, 100000]"], {})
    assert config.load(None, ["network.hidden=[10000, 10000]"], {})  # 0.8 GB with momentum
    with pytest.raises(ConfigError, match="at most 2 GiB"):
        config.load(None, ["network.hidden=[10000, 10000]", "training.optimizer=adam", "network.dtype=float64"], {})


def test_network_too_large_for_memory_is_refused():
    made = config.load(None, ["network.hidden=[1000]"], {})
    config.check_size(made, 784, 10, 50_000_000)
    config.check_size(dataclasses.replace(made, training=TrainingConfig(batch_size=1_000_000)), 784, 10, 50_000_000, 9)
    with pytest.raises(ConfigError, match=r"a network of 795,010 parameters needs 0.0 GiB of memory to train"):
        config.check_size(made, 784, 10, 5_000_000)
    with pytest.raises(ConfigError, match="at most 2 GiB"):
        config.check_size(config.load(None, ["network.hidden=[100000]"], {}), 10_000, 10)
    assert config.physical_memory() is None or config.physical_memory() > 2**28


# Common mistakes --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('training: {epochs: "2"}', "in quotes it is text: write 2"),
        ('data: {test: "false"}', "in quotes it is text: write false"),
        ("training:\n  epochs: 2\t", "c.yaml:2: has a tab in column 12; write blanks instead"),
        ("seed: 1\n\ufeffdata: {}", "c.yaml:2: has a byte order mark"),
    ],
)
def test_common_mistake_is_named(tmp_path: Path, text: str, message: str):
    (tmp_path / "c.yaml").write_bytes(text.encode())
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / "c.yaml", (), {})
    assert message in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_reported(tmp_path: Path, encoding: str):
    (tmp_path / "c.yaml").write_bytes("seed: 1\n".encode(encoding))
    with pytest.raises(ConfigError, match="looks like UTF-16; save it as UTF-8"):
        config.load(tmp_path / "c.yaml", (), {})


@given(text=st.text(alphabet="ab:-[]{},#'\" \n0", max_size=40))
def test_both_yaml_parsers_read_the_same(text: str):
    import yaml

    found = []
    for loader in (yaml.SafeLoader, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        try:
            found.append(config._read_events(text, "x:", False, loader))
        except ConfigError:
            found.append(None)
    assert found[0] == found[1]


# Learning rates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", config.LEARNING_RATES)
def test_default_learning_rate_is_that_of_the_optimizer(file: Path, optimizer: str) -> None:
    own = config.LEARNING_RATES[optimizer]
    assert config.load(None, [f"training.optimizer={optimizer}"], {}).training.learning_rate == own
    given = loaded(file, f"training: {{optimizer: {optimizer}, learning_rate: null}}")
    assert given.training.learning_rate == own
    assert f"learning_rate: {own!r}\n" in config.to_yaml(given)
    assert TrainingConfig(optimizer=optimizer, learning_rate=0.3).learning_rate == 0.3


@pytest.mark.parametrize(
    ("optimizer", "rate", "message"),
    [
        ("adam", 0.4, "0.4 is 100 times what suits training.optimizer: adam, 0.004"),
        ("momentum", 0.001, "0.001 is 1/400 of what suits training.optimizer: momentum, 0.4"),
    ],
)
def test_unusual_rate_is_a_remark(optimizer: str, rate: float, message: str) -> None:
    remark = config.remark_on_rate(TrainingConfig(optimizer=optimizer, learning_rate=rate))
    assert remark is not None
    assert message in remark


def test_no_shipped_config_has_an_unusual_rate() -> None:
    assert [name for name, path in config.shipped().items() if config.remark_on_rate(config.load(path).training)] == []


# Names of keys elsewhere-------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("lr", "training.learning_rate"),
        ("learning-rate", "training.learning_rate"),
        ("batchsize", "training.batch_size"),
        ("layers", "network.hidden"),
        ("weight_decay", "training.l2"),
        ("seed", "seed"),
        ("colour", None),
    ],
)
def test_key_names_of_other_programs_are_known(name: str, key: str | None) -> None:
    assert config.meant_by(name) == key


@pytest.mark.parametrize("wrong", ["training.lr", "training.batchsize", "network.layers", "lr"])
def test_unknown_key_suggests_the_right_one(file: Path, wrong: str) -> None:
    meant = config.meant_by(wrong.rpartition(".")[2])
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        config.load(None, [f"{wrong}=1"], {})
    section, _, name = wrong.rpartition(".")
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        loaded(file, f"{section}: {{{name}: 1}}" if section else f"{name}: 1")


def test_table_of_other_names_has_valid_keys() -> None:
    assert {config.meant_by(word) for names in config._MEANT.values() for word in names.split()} <= set(
        config.known_keys()
    )
