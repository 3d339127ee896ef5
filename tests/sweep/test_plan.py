"""Sweep files: the planned runs, and one-line errors with the place in the file."""

from __future__ import annotations

import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli import config as config_module
from mlpcli.config import Config
from mlpcli.errors import ConfigError
from mlpcli.sweep import plan as plan_module
from mlpcli.sweep.plan import MAX_RUNS, Plan, read


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that writes s.yaml to the current folder and reads it."""
    monkeypatch.chdir(tmp_path)

    def made(text: str) -> Plan:
        Path("s.yaml").write_text(text)
        return read(Path("s.yaml"), {})

    return made


def values(plan: Plan, *keys: str) -> list[tuple[Any, ...]]:
    flat = [config_module.flatten(run.config) for run in plan.runs]
    return [tuple(each[key] for key in keys) for each in flat]


def names(plan: Plan) -> list[str]:
    return [run.name for run in plan.runs]


SEEDS_ALLOWED = f"is not allowed; allowed: a list of whole numbers from 0 to {2**63 - 1}, or how many, from 1 up"


# Planned runs -------------------------------------------------------------------------------------


def test_grid_has_every_combination_once_per_seed(write: Any):
    plan = write(
        "config: quickstart\nset: {training.epochs: 3}\nseeds: [4, 1]\n"
        "grid:\n  training.learning_rate: [0.1, 1e-2]\n  network: {hidden: [[8, 4], []]}\n"
    )
    keys = ("training.learning_rate", "network.hidden", "seed")
    assert values(plan, *keys) == [
        (rate, hidden, seed) for rate in (0.1, 0.01) for hidden in ([8, 4], []) for seed in (4, 1)
    ]
    assert (plan.name, plan.keys, plan.combinations, plan.seeds, plan.repeated) == ("s", keys[:2], 4, 2, 0)
    quickstart = config_module.load(config_module.find("quickstart"), (), {})
    assert {run.config.network.activation for run in plan.runs} == {quickstart.network.activation}
    assert {run.config.training.batch_size for run in plan.runs} == {quickstart.training.batch_size}
    assert {(run.config.training.epochs, run.config.data.test) for run in plan.runs} == {(3, False)}
    assert names(plan)[0] == "learning_rate=0.1,hidden=8-4,seed=4"
    assert names(plan)[-1] == "learning_rate=0.01,hidden=none,seed=1"


def test_list_has_its_items(write: Any):
    plan = write(
        "seeds: 3\nlist:\n- {}\n- training.optimizer: sgd\n- network: {activation: relu}\n  training.epochs: 5\n"
    )
    assert values(plan, "training.optimizer", "network.activation", "training.epochs", "seed") == [
        (*item, seed)
        for item in (("momentum", "sigmoid", 20), ("sgd", "sigmoid", 20), ("momentum", "relu", 5))
        for seed in range(3)
    ]
    assert names(plan)[::3] == ["seed=0", "optimizer=sgd,seed=0", "activation=relu,epochs=5,seed=0"]


def test_seed_comes_from_config_or_grid_without_seeds(write: Any):
    Path("base.yaml").write_text("seed: 7\n")
    assert values(write("config: base.yaml\nlist: [{}]"), "seed") == [(7,)]
    plan = write("config: base.yaml\ngrid: {seed: [3, 5]}")
    assert (values(plan, "seed"), names(plan), plan.keys) == ([(3,), (5,)], ["seed=3", "seed=5"], ("seed",))
    assert values(write("config: base.yaml\nseeds: [9]\nlist: [{}]"), "seed") == [(9,)]


def test_config_path_is_relative_to_sweep_file(tmp_path: Path, monkeypatch: Any):
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "quickstart").write_text("training: {epochs: 77}")
    (tmp_path / "sweeps" / "a.yaml").write_text("config: quickstart\nlist: [{}]")
    (tmp_path / "mlp-512").write_text("training: {epochs: 78}")
    (tmp_path / "sweeps" / "b.yaml").write_text("config: mlp-512\nlist: [{}]")
    monkeypatch.chdir(tmp_path)
    assert values(read(Path("sweeps/a.yaml"), {}), "training.epochs") == [(77,)]
    assert values(read(Path("sweeps/b.yaml"), {}), "training.epochs") != [(78,)]


def test_environment_sets_data_folder(write: Any):
    write("set: {data.folder: elsewhere}\nlist: [{}]")
    assert values(read(Path("s.yaml"), {}), "data.folder") == [("elsewhere",)]
    assert values(read(Path("s.yaml"), {"MLPCLI_DATA": "/there"}), "data.folder") == [("/there",)]


def test_run_names_show_numbers_and_escape_other_characters(write: Any):
    plan = write("grid: {training.l2: [0, 1e-5, 0.25], training.patience: [null, 3]}")
    assert names(plan)[:2] == ["l2=0,patience=null,seed=0", "l2=0,patience=3,seed=0"]
    assert names(plan)[2] == "l2=1e-05,patience=null,seed=0"
    plan = write("grid: {data.dataset: [./a b, ./a+b, ./a/b, mnist]}")
    assert names(plan)[-1] == "dataset=mnist,seed=0"
    assert len(set(names(plan))) == 4 and all(re.fullmatch("[A-Za-z0-9._+=,-]+", name) for name in names(plan))
    plan = write("grid: {training.teacher: [[a-b], [a, b], [c]]}")
    assert len(set(names(plan))) == 3 and names(plan)[2] == "teacher=c,seed=0"
    assert all(re.fullmatch("teacher=a-b,seed=0-[0-9a-f]{8}", name) for name in names(plan)[:2])
    deep = ", ".join(["[" + ", ".join(["64"] * 200) + "]", "[" + ", ".join(["64"] * 201) + "]"])
    plan = write(f"grid: {{network.hidden: [{deep}]}}")
    assert len(set(names(plan))) == 2 and max(map(len, names(plan))) < 130


CHOICES = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True),
        "training.learning_rate": st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=3, unique=True),
        "training.l2": st.lists(st.sampled_from([0, 1e-5, 0.5]), min_size=1, max_size=3, unique=True),
        "network.hidden": st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=3, unique_by=str),
        "network.activation": st.lists(st.sampled_from(["sigmoid", "relu"]), min_size=1, max_size=2, unique=True),
        "data.dataset": st.lists(st.text("aA/ \t.é", min_size=1, max_size=3), min_size=1, max_size=3, unique=True),
    },
).filter(bool)


@given(CHOICES)
def test_grid_runs_are_all_combinations_with_unique_names(tmp_path_factory: Any, grid: Any):
    path = tmp_path_factory.getbasetemp() / "g.yaml"
    path.write_text(json.dumps({"grid": grid}, ensure_ascii=False), "utf-8")
    plan = read(path, {})
    assert len(plan.runs) == math.prod(map(len, grid.values()))
    assert len({run.name.lower() for run in plan.runs}) >= len({run.config for run in plan.runs}) * (
        "data.dataset" not in grid
    )
    assert len({run.name for run in plan.runs}) == len({run.config for run in plan.runs}) == len(plan.runs)
    assert all("/" not in run.name and len(run.name) < 200 for run in plan.runs)


# Draws --------------------------------------------------------------------------------------------

DRAWN = """
random:
  draws: {draws}
  seed: {seed}
  keys:
    training.learning_rate: {{log_uniform: [1e-3, 1]}}
    training.l2: {{uniform: [0, 1e-4]}}
    training.batch_size: {{integers: [8, 11]}}
    network.activation: {{choice: [sigmoid, tanh, relu]}}
"""
RATE, L2, BATCH, ACTIVATION = "training.learning_rate", "training.l2", "training.batch_size", "network.activation"


def test_draws_stay_in_their_ranges_and_cover_them(write: Any):
    drawn = values(write(DRAWN.format(draws=400, seed=1)), RATE, L2, BATCH, ACTIVATION)
    assert len(drawn) == 400
    rates, penalties = [each[0] for each in drawn], [each[1] for each in drawn]
    assert 1e-3 <= min(rates) < 1.2e-3 and 0.9 < max(rates) <= 1
    # Half of the draws are below the geometric mean, within four standard deviations.
    assert abs(sum(rate < math.sqrt(1e-3) for rate in rates) - 200) < 40
    assert 0 <= min(penalties) < 2e-6 and 9.8e-5 < max(penalties) <= 1e-4
    assert abs(sum(penalty < 5e-5 for penalty in penalties) - 200) < 40
    for column, wanted in ((2, {8, 9, 10, 11}), (3, {"sigmoid", "tanh", "relu"})):
        counts = [sum(each[column] == value for each in drawn) for value in wanted]
        assert sum(counts) == 400 and min(counts) > 400 / len(wanted) - 40
    assert all(float(f"{rate:.4g}") == rate for rate in rates)


def test_draw_depends_only_on_seed_number_and_key(write: Any):
    keys = (RATE, L2, BATCH, ACTIVATION)
    few = values(write(DRAWN.format(draws=6, seed=1)), *keys)
    assert values(write(DRAWN.format(draws=9, seed=1)), *keys)[:6] == few
    assert not set(values(write(DRAWN.format(draws=6, seed=2)), *keys)) & set(few)
    text = "random:\n  draws: 6\n  seed: 1\n  keys:\n    training.momentum: {uniform: [0.1, 0.9]}\n"
    other = values(write(f"{text}    training.l2: {{uniform: [0, 1e-4]}}\n"), L2, "training.momentum")
    assert [each[0] for each in other] == [each[1] for each in few]
    assert len({each[1] for each in other}) == 6


def test_draws_of_a_seed_are_fixed(write: Any):
    # A sweep resumed after an update of mlpcli must find its runs again.
    assert values(write(DRAWN.format(draws=2, seed=0)), RATE, L2) == [(0.05951, 5.711e-05), (0.5991, 3.296e-05)]


def test_keys_have_distinct_draws():
    keys = [*config_module.flatten(Config())]
    assert len({zlib.crc32(key.encode()) for key in keys}) == len(keys)


def test_repeated_draws_are_skipped(write: Any):
    plan = write("random: {draws: 50, keys: {network.activation: {choice: [sigmoid, relu]}}}")
    assert (len(plan.runs), plan.combinations, plan.repeated) == (2, 2, 48)


# Errors -------------------------------------------------------------------------------------------

RANDOM = "random:\n  draws: 3\n  keys:\n    "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "s.yaml: is empty; a sweep has config, set, seeds and one of grid, list or random"),
        ("- 1", "s.yaml: is not a mapping of keys to values; a sweep has"),
        ("config: mnist", "s.yaml: does not give the values to try; give exactly one of grid, list or random"),
        ("grid: {seed: [1]}\nlist: [{}]", "s.yaml: has both grid and list; give exactly one of"),
        ("gird: {seed: [1]}", "s.yaml:1: gird: unknown key; did you mean grid?"),
        ("list: [{}]\ntraining: {epochs: 1}", "s.yaml:2: training: unknown key; the keys of a config belong under set"),
        ("seed: 3\nlist: [{}]", "s.yaml:1: seed: unknown key; the keys of a config belong under set"),
        ("list: [{}]\nlist: [{}]", "s.yaml:2: list: given twice, first on line 1"),
        ("list: [{}]\n  x", "s.yaml:2: is not YAML"),
        ("list: [&a {}]", "s.yaml:1: aliases, anchors and tags"),
        # the config
        ("config: quikstart\nlist: [{}]", "s.yaml:1: config: quikstart: no such file, and no shipped config of that"),
        ("config: quikstart\nlist: [{}]", "did you mean quickstart?"),
        ("config: [mnist]\nlist: [{}]", "s.yaml:1: config: ['mnist'] is not allowed; allowed: a config file, or a"),
        ("config: bad.yaml\nlist: [{}]", "bad.yaml:2: training.epochs: 0 is not allowed; allowed: a whole number, at"),
        # set
        ("set: 3\nlist: [{}]", "s.yaml:1: set: 3 is not allowed; allowed: a mapping of keys to values"),
        ("set:\n  training.epoch: 3\nlist: [{}]", "s.yaml:2: training.epoch: unknown key; did you mean training.epoch"),
        ("set:\n  training: 3\nlist: [{}]", "s.yaml:2: training is a section; set its keys one by one, as in"),
        ("set:\n  training: {epoch: 3}\nlist: [{}]", "s.yaml:2: training.epoch: unknown key; did you mean training"),
        ("set:\n  training.epochs: x\nlist: [{}]", "s.yaml:2: training.epochs: 'x' is not allowed; allowed: a whole"),
        ("set:\n  training.epochs: 3\n  training: {epochs: 4}\nlist: [{}]", "s.yaml:3: training.epochs: given twice"),
        # the test files, and validation images
        ("set:\n  data.test: true\nlist: [{}]", "s.yaml:2: data.test: a sweep never opens the test files"),
        ("grid:\n  data.test: [false]", "s.yaml:2: data.test: a sweep never opens the test files"),
        ("list:\n- {data: {test: true}}", "s.yaml:2: data.test: a sweep never opens the test files"),
        ("set:\n  data.validation: 0\nlist: [{}]", "s.yaml:2: data.validation: 0 holds out no images, and a sweep"),
        ("grid:\n  data.validation: [0.1,\n    0]", "s.yaml:3: data.validation: 0 holds out no images, and a sweep"),
        ("config: none.yaml\nlist: [{}]", "s.yaml: data.validation: 0 holds out no images, and a sweep"),
        ("grid:\n  data.folder: [a, b]", "s.yaml:2: data.folder: has no effect on training, so there is nothing to v"),
        # seeds
        ("seeds: 0\nlist: [{}]", "s.yaml:1: seeds: 0 is not allowed; allowed: a list of whole numbers from 0 to 9223"),
        ('seeds: "2"\nlist: [{}]', f"s.yaml:1: seeds: 2 {SEEDS_ALLOWED}; in quotes it is text: write 2"),
        (
            'seeds: ["1", 2]\nlist: [{}]',
            f"s.yaml:1: seeds: ['1', 2] {SEEDS_ALLOWED}; in quotes it is text: write [1, 2]",
        ),
        ("seeds: []\nlist: [{}]", "s.yaml:1: seeds: [] is not allowed"),
        ("seeds: [1, -1]\nlist: [{}]", "s.yaml:1: seeds: [1, -1] is not allowed"),
        ("seeds: [1, 2.0]\nlist: [{}]", "s.yaml:1: seeds: [1, 2.0] is not allowed"),
        ("seeds: [true]\nlist: [{}]", "s.yaml:1: seeds: [True] is not allowed"),
        ("seeds: null\nlist: [{}]", "s.yaml:1: seeds: null is not allowed"),
        ("seeds: [3, 4, 3]\nlist: [{}]", "s.yaml:1: seeds: 3 is given twice"),
        ("seeds: 20251121\nlist: [{}]", "s.yaml:1: seeds: 20251121 is a number of seeds, at most 10,000; as one seed:"),
        ("seeds: 2\ngrid:\n  seed: [1]", "s.yaml:3: seed: seeds gives each combination its seeds; leave one of the tw"),
        ("seeds: 2\nset: {seed: 1}\nlist: [{}]", "s.yaml:2: seed: seeds gives each combination its seeds"),
        ("seeds: 2\nlist:\n- {}\n- {seed: 1}", "s.yaml:4: seed: seeds gives each combination its seeds"),
        (f"seeds: 2\n{RANDOM}seed: {{integers: [1, 9]}}", "s.yaml:5: seed: seeds gives each combination its seeds"),
        # the grid
        ("grid: {}", "s.yaml:1: grid: is empty; give keys of the config, such as training.learning_rate"),
        ("grid:", "s.yaml:1: grid: is empty"),
        ("grid: [1]", "s.yaml:1: grid: [1] is not allowed; allowed: a mapping of keys to values"),
        ("grid:\n  training.epochs: 3", "s.yaml:2: training.epochs: 3 is not allowed; allowed: a list of values to tr"),
        ("grid:\n  training.epochs: 3", "write [3]"),
        ("grid:\n  training.epochs: []", "s.yaml:2: training.epochs: [] is not allowed; allowed: a list of values"),
        (
            "grid:\n  training.lerning_rate: [1]",
            "s.yaml:2: training.lerning_rate: unknown key; did you mean training.l",
        ),
        (
            "grid:\n  training.epochs:\n  - 3\n  - x",
            "s.yaml:4: training.epochs: 'x' is not allowed; allowed: a whole n",
        ),
        ("grid:\n  network.hidden: [64]", "s.yaml:2: network.hidden: 64 is not allowed; allowed: a list, [a, b, ...]"),
        ("grid:\n  training.l2: [1e-1,\n   .nan]", "s.yaml:3: training.l2: nan is not allowed; allowed: a finite numb"),
        ("grid:\n  training.l2: [0.1, 1e-1]", "s.yaml:1: grid: training.l2: 0.1 is given twice"),
        ("grid:\n  training.l2: [0.0, 0]", "s.yaml:1: grid: training.l2: 0 is the same as training.l2: 0.0"),
        (
            "grid:\n  training.optimizer: [momentum, sgd]\n  training.momentum: [0.9]",
            "s.yaml:3: training.momentum: 0.9 has no effect with optimizer: sgd; use optimizer: momentum (with "
            "training.optimizer: sgd, training.momentum: 0.9)",
        ),
        # the list
        ("list: []", "s.yaml:1: list: [] is not allowed; allowed: a list of mappings of keys to values"),
        ("list: {seed: 1}", "s.yaml:1: list: a mapping is not allowed; allowed: a list of mappings"),
        ("list:\n- {}\n- 3", "s.yaml:3: list[1]: 3 is not allowed; allowed: a mapping of keys to values"),
        ("list:\n- training.epochs: 3\n- training.epochs: x", "s.yaml:3: training.epochs: 'x' is not allowed"),
        (
            "list:\n- {}\n- training.epochs: 20",
            "s.yaml:3: list: training.epochs: 20 is the same as {} (s.yaml:2)",
        ),
        # draws
        ("random: 3", "s.yaml:1: random: 3 is not allowed; allowed: a mapping with draws, seed and keys"),
        ("random: {draws: 3}", "s.yaml:1: random: has no keys"),
        ("random: {keys: {seed: {integers: [1, 2]}}}", "s.yaml:1: random: has no draws"),
        ("random:\n  drawn: 3", "s.yaml:2: random.drawn: unknown key; did you mean draws?"),
        ("random:\n  draws: 0\n  keys: {}", "s.yaml:2: random.draws: 0 is not allowed; allowed: a whole number from 1"),
        ("random:\n  draws: 1\n  seed: -1\n  keys: {}", "s.yaml:3: random.seed: -1 is not allowed; allowed: a whole n"),
        ("random: {draws: 1, keys: {}}", "s.yaml:1: random.keys: is empty"),
        (f"{RANDOM}training.epoch: {{choice: [1]}}", "s.yaml:4: training.epoch: unknown key; did you mean"),
        (
            f"{RANDOM}training.epochs: [1, 2]",
            "s.yaml:4: training.epochs: [1, 2] is not allowed; allowed: one of choice",
        ),
        (f"{RANDOM}training.l2: {{unifrom: [0, 1]}}", "training.l2.unifrom: unknown key; did you mean uniform?"),
        (f"{RANDOM}training.l2: {{uniform: [0, 1], choice: [1]}}", "a mapping is not allowed; allowed: one of choice"),
        (
            f"{RANDOM}training.l2: {{uniform: [1, 0]}}",
            "s.yaml:4: training.l2: uniform: [1, 0] is not allowed; allowed:",
        ),
        (f"{RANDOM}training.l2: {{uniform: [0, .inf]}}", "training.l2: uniform: [0, inf] is not allowed"),
        (f"{RANDOM}training.l2: {{uniform: [.nan, 1]}}", "training.l2: uniform: [nan, 1] is not allowed"),
        (f"{RANDOM}training.l2: {{uniform: [true, 2]}}", "training.l2: uniform: [True, 2] is not allowed"),
        (f"{RANDOM}training.l2: {{log_uniform: [0, 1]}}", "allowed: [lowest, highest], two numbers above 0, the first"),
        (f"{RANDOM}training.epochs: {{integers: [1.0, 2]}}", "two whole numbers, both included, the first below"),
        (f"{RANDOM}training.epochs: {{choice: []}}", "training.epochs: choice: [] is not allowed; allowed: a list of"),
        (f"{RANDOM}training.epochs: {{uniform: [1, 9]}}", "s.yaml:4: training.epochs: "),
        (f"{RANDOM}network.activation: {{choice: [a]}}", "s.yaml:4: network.activation: 'a' is not allowed; allowed:"),
    ],
)
def test_error_names_file_and_line(write: Any, text: str, message: str):
    Path("bad.yaml").write_text("training:\n  epochs: 0\n")
    Path("none.yaml").write_text("data: {validation: 0}\n")
    with pytest.raises(ConfigError) as refused:
        write(text)
    error = str(refused.value)
    assert message in error
    assert "\n" not in error and error.startswith(("s.yaml", "bad.yaml"))


def test_huge_sweep_is_refused_before_it_is_expanded(write: Any, monkeypatch: pytest.MonkeyPatch):
    numbers = ", ".join(map(str, range(1, 100)))
    axes = ("training.epochs", "training.batch_size", "training.patience", "training.learning_rate", "training.l2")
    grid = "".join(f"  {key}: [{numbers}]\n" for key in axes)

    def fail(*_: Any) -> Any:
        raise AssertionError("combinations were made")

    monkeypatch.setattr(plan_module.config_module, "variations", fail)
    with pytest.raises(ConfigError, match=r"s\.yaml:1: grid: 9,509,900,499 combinations are 9,509,900,499 runs; at mo"):
        write(f"grid:\n{grid}")
    with pytest.raises(ConfigError, match=r"list: 11 combinations of 1000 seeds each are 11,000 runs; at most 10,000"):
        write("seeds: 1000\nlist:\n" + "".join(f"- training.epochs: {n}\n" for n in range(1, 12)))
    with pytest.raises(ConfigError, match=r"random\.draws: 10001 is not allowed; allowed: a whole number from 1 to 10"):
        write("random: {draws: 10001, keys: {training.l2: {uniform: [0, 1]}}}")


def test_largest_allowed_sweep_is_planned(write: Any):
    plan = write(f"seeds: {MAX_RUNS // 100}\ngrid: {{training.epochs: [{', '.join(map(str, range(1, 101)))}]}}")
    assert len(plan.runs) == MAX_RUNS


@pytest.mark.parametrize("name", ["missing.yaml", ".", "a\0b", "x" * 5000])
def test_unreadable_sweep_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, ValueError)) as refused:
        read(Path(name), {})
    assert "\0" in name or "cannot be read" in str(refused.value)
