"""Read a sweep file and plan its runs. All are checked before the first is trained.

    config: quickstart                   a file, relative to the sweep file's folder, or a shipped config's name
    set: {training.epochs: 5}            values for all runs, instead of the config's
    seeds: [0, 1, 2]                     each combination once per seed; a number N means 0 .. N - 1
    grid: {training.learning_rate: [0.1, 0.2], network.hidden: [[64], [256]]}

The grid is every combination of the values. Instead of it there may be a ``list`` of combinations, or ``random`` draws.
Keys are dotted, or nested in their sections as in a config.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from mlpcli import config as config_module
from mlpcli.config import Config, Setting
from mlpcli.datasets.catalogue import known_size
from mlpcli.errors import ConfigError, shown

MAX_RUNS = 10_000
MAX_SEED = 2**63 - 1
WAYS = ("grid", "list", "random")
KEYS = ("config", "set", "seeds", *WAYS)
OF_RANDOM = ("draws", "seed", "keys")
SEED, TEST = "seed", "data.test"
# Significant digits of a drawn number: it stays readable in a table.
DIGITS = 4
# Longest file name, and the characters that remain of one that is too long or has characters to escape.
MAX_NAME, NAME_KEPT = 120, 100


@dataclass(frozen=True)
class Planned:
    """A run of a sweep: the name of its directory, made from its values of the swept keys, and its config."""

    name: str
    config: Config


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep file: ``combinations`` of values, each once per seed.

    ``repeated`` counts the draws equal to an earlier one, which are left out. ``text`` is the text of the file.
    """

    name: str
    text: str
    runs: tuple[Planned, ...]
    keys: tuple[str, ...]
    combinations: int
    seeds: int
    repeated: int


@dataclass(frozen=True)
class _Combination:
    """Settings of one or more runs; ``place`` is the prefix of an error message about them."""

    settings: tuple[Setting, ...]
    place: str

    def __str__(self) -> str:
        return ", ".join(f"{setting.key}: {_words(setting.value)}" for setting in self.settings) or "{}"


def read(path: Path, environment: Mapping[str, str] = os.environ) -> Plan:
    """Return the plan of the sweep file ``path``.

    Raises ``ConfigError`` with file, line, key, value and the allowed values.
    """
    return _File(path).plan(environment)


class _File:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._document = config_module.read_document(path)
        self._tree: dict[str, Any] = self._document.value
        if not isinstance(self._tree, dict):
            what = "is empty" if self._tree is None else "is not a mapping of keys to values"
            raise ConfigError(f"{self._document.name}: {what}; a sweep has config, set, seeds and one of {_any(WAYS)}")
        self._refuse_unknown("", self._tree, KEYS)
        ways = [way for way in WAYS if way in self._tree]
        if len(ways) != 1:
            given = f"has both {' and '.join(ways)}" if ways else "does not give the values to try"
            raise ConfigError(f"{self._document.name}: {given}; give exactly one of {_any(WAYS)}")
        self._way = ways[0]

    def plan(self, environment: Mapping[str, str]) -> Plan:
        common = self._common()
        combinations, count = self._combinations()
        seeds = self._seeds(common)
        runs = count * len(seeds or (0,))
        if runs > MAX_RUNS:
            times = f" of {len(seeds)} seeds each" if seeds else ""
            self._fail(self._way, f"{count:,} combinations{times} are {runs:,} runs; at most {MAX_RUNS:,} are allowed")
        found, keys, repeated = self._configs(common, combinations, seeds, environment)
        named = [
            (_name(combination, each), combination, each)
            for config, combination in found
            for each in ([replace(config, seed=seed) for seed in seeds] if seeds else [config])
        ]
        # Different values may look the same in a name, as [a-b] and [a, b] do.
        shared = {name for name, count in Counter(name for name, *_ in named).items() if count > 1}
        planned = [
            Planned(_hashed(name, repr(_swept_values(combination, config))) if name in shared else name, config)
            for name, combination, config in named
        ]
        name, text = _file_name(self._path.stem), self._document.text
        return Plan(name, text, tuple(planned), keys, len(found), len(seeds or (0,)), repeated)

    # The parts of the file

    def _base(self) -> Path | None:
        """Return the path of the base config; None means the defaults."""
        name = self._tree.get("config")
        if name is None:
            return None
        if not isinstance(name, str) or not name:
            self._fail("config", f"{_words(name)} is not allowed; allowed: a config file, or a shipped config's name")
        beside = self._path.parent / name
        try:
            there = beside.exists()
        except (OSError, ValueError):
            there = False
        shipped = {} if there else config_module.shipped()
        bare = name.removesuffix(".yaml")
        try:
            return shipped[bare] if bare in shipped else config_module.find(str(beside))
        except ConfigError as error:
            raise ConfigError(f"{self._document.place('config')}config: {error}") from error

    def _common(self) -> tuple[Setting, ...]:
        """Return the settings of all runs, which replace the config's."""
        settings = []
        for key, (value, at) in self._leaves("set", self._tree.get("set")).items():
            if key == TEST and value is True:
                self._fail(
                    at, "a sweep never opens the test files, so that they cannot influence a choice; leave it out", key
                )
            settings.append(self._setting(key, value, at))
        return tuple(settings)

    def _seeds(self, common: tuple[Setting, ...]) -> tuple[int, ...] | None:
        """Return the seeds of every combination; None if each has its own."""
        seeds = self._tree.get("seeds")
        if "seeds" not in self._tree:
            return None
        if type(seeds) is int and seeds > MAX_RUNS:
            self._fail("seeds", f"{seeds} is a number of seeds, at most {MAX_RUNS:,}; as one seed: [{seeds}]")
        if type(seeds) is int and seeds >= 1:
            seeds = list(range(seeds))
        if not isinstance(seeds, list) or not seeds or not all(type(x) is int and 0 <= x <= MAX_SEED for x in seeds):
            kind = f"a list of whole numbers from 0 to {MAX_SEED}, or how many, from 1 up"
            self._fail("seeds", f"{_words(seeds)} is not allowed; allowed: {kind}{config_module.quotes_hint(seeds)}")
        if twice := [seed for seed, count in Counter(seeds).items() if count > 1]:
            self._fail("seeds", f"{twice[0]} is given twice")
        way = self._tree[self._way]
        places = [self._leaves("set", self._tree.get("set"))]
        if self._way == "list":
            places += [self._leaves(f"list[{number}]", item) for number, item in enumerate(way)]
        else:
            at = "random.keys" if self._way == "random" else "grid"
            places.append(self._leaves(at, way["keys"] if self._way == "random" else way))
        for leaves in places:
            if SEED in leaves:
                self._fail(leaves[SEED][1], "seeds gives each combination its seeds; leave one of the two out", SEED)
        return tuple(seeds)

    def _combinations(self) -> tuple[Iterable[_Combination], int]:
        """Return the combinations and their number, which is known before any is made."""
        return {"grid": self._grid, "list": self._list, "random": self._random}[self._way]()

    def _grid(self) -> tuple[Iterable[_Combination], int]:
        axes = []
        for key, (values, at) in self._swept("grid", self._tree["grid"]).items():
            if not isinstance(values, list) or not values:
                hint = f"; write [{_words(values)}]" if isinstance(values, (int, float, str)) else ""
                self._fail(at, f"{_words(values)} is not allowed; allowed: a list of values to try{hint}", key)
            axes.append([self._setting(key, value, f"{at}[{number}]") for number, value in enumerate(values)])
        place = self._document.place("grid")
        product = (_Combination(settings, place) for settings in itertools.product(*axes))
        return product, math.prod(map(len, axes))

    def _list(self) -> tuple[Iterable[_Combination], int]:
        items = self._tree["list"]
        if not isinstance(items, list) or not items:
            self._fail("list", f"{_words(items)} is not allowed; allowed: a list of mappings of keys to values")
        combinations = []
        for number, item in enumerate(items):
            at = f"list[{number}]"
            leaves = self._swept(at, item, may_be_empty=True)
            settings = tuple(self._setting(key, value, where) for key, (value, where) in leaves.items())
            combinations.append(_Combination(settings, self._document.place(at)))
        return combinations, len(combinations)

    def _random(self) -> tuple[Iterable[_Combination], int]:
        tree = self._tree["random"]
        if not isinstance(tree, dict):
            self._fail("random", f"{_words(tree)} is not allowed; allowed: a mapping with draws, seed and keys")
        self._refuse_unknown("random", tree, OF_RANDOM)
        for key in ("draws", "keys"):
            if key not in tree:
                self._fail("random", f"has no {key}; allowed: a mapping with draws, seed and keys")
        draws = self._whole_number("random.draws", tree["draws"], 1, MAX_RUNS)
        seed = self._whole_number("random.seed", tree.get("seed", 0), 0, MAX_SEED)
        leaves = self._swept("random.keys", tree["keys"])
        draw = {key: self._distribution(key, *found) for key, found in leaves.items()}
        place = self._document.place("random")

        def made() -> Iterator[_Combination]:
            for number in range(draws):
                yield _Combination(
                    tuple(
                        self._setting(key, draw[key](_uniform(seed, key, number)), at)
                        for key, (_, at) in leaves.items()
                    ),
                    place,
                )

        return made(), draws

    def _distribution(self, key: str, tree: Any, at: str) -> Callable[[float], Any]:
        """Return the function of the distribution ``tree`` that maps u in [0, 1) to a value."""
        kinds = ("choice", "uniform", "log_uniform", "integers")
        if not isinstance(tree, dict) or len(tree) != 1:
            self._fail(
                at, f"{_words(tree)} is not allowed; allowed: one of {_any(kinds)}, as in {{choice: [a, b]}}", key
            )
        kind, values = next(iter(tree.items()))
        self._refuse_unknown(at, tree, kinds)
        at = f"{at}.{kind}"
        if kind == "choice":
            if not isinstance(values, list) or not values:
                self._fail(at, f"{_words(values)} is not allowed; allowed: a list of values", f"{key}: choice")
            for number, value in enumerate(values):
                self._setting(key, value, f"{at}[{number}]")
            return lambda u: values[int(u * len(values))]
        types = (int,) if kind == "integers" else (int, float)
        if (
            not isinstance(values, list)
            or len(values) != 2
            or not all(type(value) in types and abs(value) <= MAX_SEED for value in values)
            or not values[0] < values[1]
            or (kind == "log_uniform" and values[0] <= 0)
        ):
            bounds = {"integers": "whole numbers, both included", "log_uniform": "numbers above 0"}.get(kind, "numbers")
            allowed = f"[lowest, highest], two {bounds}, the first below the second"
            self._fail(at, f"{_words(values)} is not allowed; allowed: {allowed}", f"{key}: {kind}")
        low, high = values
        if kind == "integers":
            return lambda u: min(low + int(u * (high - low + 1)), high)
        if kind == "uniform":
            return lambda u: _rounded(low + u * (high - low), low, high)
        return lambda u: _rounded(math.exp(math.log(low) + u * (math.log(high) - math.log(low))), low, high)

    # From settings to configs

    def _configs(
        self,
        common: tuple[Setting, ...],
        combinations: Iterable[_Combination],
        seeds: tuple[int, ...] | None,
        environment: Mapping[str, str],
    ) -> tuple[list[tuple[Config, _Combination]], tuple[str, ...], int]:
        """Return each distinct config with its combination, the swept keys, and the number of repeated draws."""
        found: dict[Config, _Combination] = {}
        keys: dict[str, None] = {}
        repeated = 0
        given, settings = itertools.tee(combinations)
        configs = config_module.variations(
            self._base(), ((*common, *combination.settings) for combination in settings), environment
        )
        for combination in given:
            try:
                config = next(configs)
                config_module.check_size(config, *known_size(config.data.dataset), config_module.physical_memory())
                if config.network.receptive_fields is not None:
                    from mlpcli.training.connections import check_connections  # only here: it loads numpy

                    check_connections(config.network, config.data.dataset)
            except ConfigError as error:
                several = f" (with {combination})" if len(combination.settings) > 1 else ""
                raise ConfigError(f"{error}{several}") from error
            config = replace(config, data=replace(config.data, test=False))
            if config.data.validation == 0:
                place = next((s.place for s in (*combination.settings, *common) if s.key == "data.validation"), None)
                raise ConfigError(
                    f"{place or self._document.place()}data.validation: 0 holds out no images, and a sweep ranks its "
                    "runs by their validation error"
                )
            if config not in found:
                found[config] = combination
                keys.update(dict.fromkeys(setting.key for setting in combination.settings))
            elif self._way == "random":
                repeated += 1
            else:
                first = found[config]
                same = f"the same as {first}" if str(first) != str(combination) else "given twice"
                where = f" ({first.place.rstrip(': ')})" if self._way == "list" else ""
                raise ConfigError(f"{combination.place}{self._way}: {combination} is {same}{where}")
        return list(found.items()), tuple(keys), repeated

    def _setting(self, key: str, value: Any, at: str) -> Setting:
        place = self._document.place(at)
        config_module.check_key(key, value, place)
        return Setting(key, value, place)

    def _swept(self, path: str, tree: Any, *, may_be_empty: bool = False) -> dict[str, tuple[Any, str]]:
        from mlpcli.runs.ranking import WITHOUT_EFFECT

        leaves = self._leaves(path, tree)
        if not leaves and not may_be_empty:
            self._fail(path, "is empty; give keys of the config, such as training.learning_rate")
        for key, (_, at) in leaves.items():
            if key == TEST:
                self._fail(
                    at, "a sweep never opens the test files, so that they cannot influence a choice; leave it out", key
                )
            if key in WITHOUT_EFFECT:
                self._fail(at, "has no effect on training, so there is nothing to vary; put it under set", key)
        return leaves

    def _leaves(self, path: str, tree: Any) -> dict[str, tuple[Any, str]]:
        """Return the config keys below ``path``, dotted or in sections, with their values and paths in the file."""
        found: dict[str, tuple[Any, str]] = {}

        def gather(mapping: dict[str, Any], section: str, path: str) -> None:
            for name, value in mapping.items():
                key, at = (f"{section}.{name}" if section else name), f"{path}.{name}"
                if not section and isinstance(value, dict) and name in _sections():
                    gather(value, name, at)
                elif key in found:
                    self._fail(at, "given twice", key)
                else:
                    found[key] = value, at

        if isinstance(tree, dict):
            gather(tree, "", path)
        elif tree is not None:
            self._fail(path, f"{_words(tree)} is not allowed; allowed: a mapping of keys to values")
        return found

    # Errors

    def _fail(self, at: str, message: str, key: str = "") -> NoReturn:
        raise ConfigError(f"{self._document.place(at)}{key or at}: {message}")

    def _refuse_unknown(self, path: str, tree: dict[str, Any], known: tuple[str, ...]) -> None:
        for key in tree:
            if key not in known:
                at = f"{path}.{key}" if path else key
                near = get_close_matches(key, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
                if not path and (key in _sections() or key == SEED):
                    hint = "the keys of a config belong under set, grid, list or random"
                self._fail(at, f"unknown key; {hint}", _cut(at))

    def _whole_number(self, at: str, value: Any, low: int, high: int) -> int:
        if type(value) is not int or not low <= value <= high:
            hint = config_module.quotes_hint(value)
            self._fail(at, f"{_words(value)} is not allowed; allowed: a whole number from {low} to {high}{hint}")
        return value


def _uniform(seed: int, key: str, draw: int) -> float:
    """Return a random number in [0, 1) for ``key`` in draw number ``draw``.

    It depends on nothing else: more draws, other keys and their order do not change it.
    """
    from mlpcli.rng import keyed_rng

    return float(keyed_rng(seed, "sweep", zlib.crc32(key.encode()) << 16 | draw).random())


def _rounded(value: float, low: float, high: float) -> float:
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def _sections() -> set[str]:
    return {key.partition(".")[0] for key in config_module.known_keys() if "." in key}


def _name(combination: _Combination, config: Config) -> str:
    """Return the name of a run's directory, such as ``learning_rate=0.1,hidden=64-32,seed=0``."""
    keys = [key.rpartition(".")[2] for key in config_module.flatten(config)]
    parts = []
    for key, value in _swept_values(combination, config).items():
        short = key.rpartition(".")[2]
        parts.append(f"{short if keys.count(short) == 1 else key}={_value(value)}")
    return _file_name(",".join([*parts, f"seed={config.seed}"]))


def _swept_values(combination: _Combination, config: Config) -> dict[str, Any]:
    values = config_module.flatten(config)
    return {each.key: values.get(each.key, each.value) for each in combination.settings if each.key != SEED}


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, (list, tuple)):
        return "-".join(map(_value, value)) or "none"
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _file_name(text: str) -> str:
    """Return ``text`` if it is a file name that needs no quotes; otherwise escape it and append a hash."""
    safe = re.sub(r"[^A-Za-z0-9._+=,-]", "_", text).lstrip(".-") or "_"
    return text if safe == text and len(text) <= MAX_NAME else _hashed(safe, text)


def _hashed(name: str, text: str) -> str:
    return f"{name[:NAME_KEPT]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _any(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, str) or value is None:
        return "null" if value is None else _cut(value if value else "''")
    return _cut(str(value).lower() if isinstance(value, bool) else repr(value))


def _cut(text: str) -> str:
    return shown(text, 60)
