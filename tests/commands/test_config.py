"""``mlpcli config``: lists, shows and checks, with the documented exit statuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlpcli import commands, config

Run = Callable[..., tuple[int, str, str]]

OWN = "# My own.\n# It has two lines of comment.\n\nseed: 7   # lucky\ntraining: {epochs: 3}\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs ``mlpcli config`` beside my.yaml and bad.yaml: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLPCLI_DATA", raising=False)
    Path("my.yaml").write_text(OWN)
    Path("bad.yaml").write_text("seed: no\n")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("signal.signal", lambda number, handler: None)
        with pytest.raises(SystemExit) as stop:
            commands.main(["config", *arguments])
        assert isinstance(stop.value.code, int)
        return (stop.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ship two configs with the program."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "first.yaml").write_text("#   What it shows.   \n# More.\nseed: 1\n")
    (folder / "known.yaml").write_text(
        "# Known.\n# Reaches: validation error 3 %, test error 1.25 %\n#   (1.2 .. 1.3), in 2.5 minutes of training.\n"
    )
    (folder / "longer-name.yaml").write_text("seed: 2\n")
    paths = {path.stem: path for path in sorted(folder.iterdir())}
    monkeypatch.setattr(config, "shipped", lambda: paths)


# list ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shipped")
def test_list_has_names_and_first_comments(run: Run) -> None:
    status, out, err = run("list")
    assert (status, err) == (0, "")
    assert [line.split(maxsplit=4) for line in out.splitlines()] == [
        ["config", "test", "error", "time"],
        ["first", "What", "it", "shows."],
        ["known", "1.25%", "2.5", "min", "Known."],
        ["longer-name"],
    ]


@pytest.mark.usefixtures("shipped")
def test_list_as_json(run: Run) -> None:
    status, out, err = run("list", "--json")
    assert (status, err) == (0, "")
    unknown = {"test_error": None, "seconds": None}
    assert json.loads(out) == [
        {"name": "first", "summary": "What it shows.", **unknown},
        {"name": "known", "summary": "Known.", "test_error": 0.0125, "seconds": 150.0},
        {"name": "longer-name", "summary": "", **unknown},
    ]


def test_every_shipped_config_says_its_error_and_time(run: Run) -> None:
    found = json.loads(run("list", "--json")[1])
    assert len(found) == len(config.shipped()) > 10
    for each in found:
        assert each["test_error"] is not None and 0 < each["test_error"] < 0.2, each["name"]
        assert each["seconds"] is not None and 0.1 < each["seconds"] < 1e5, each["name"]


@pytest.mark.parametrize(("seconds", "words"), [("1.4 s", "1.4 s"), ("90 s", "90 s"), ("26 minutes", "26 min")])
def test_times_are_in_seconds_or_minutes(run: Run, monkeypatch: pytest.MonkeyPatch, seconds: str, words: str) -> None:
    Path("own.yaml").write_text(f"# Own.\n# Reaches: test error at most 1.5 % in {seconds} of training.\n")
    monkeypatch.setattr(config, "shipped", lambda: {"own": Path("own.yaml")})
    assert " ".join(run("list")[1].splitlines()[1].split()) == f"own 1.50% {words} Own."


def test_empty_list(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "shipped", dict)
    assert run("list") == (0, "", "")
    assert run("list", "--json") == (0, "[]\n", "")


# show ---------------------------------------------------------------------------------------------


def test_show_prints_a_file_unchanged(run: Run) -> None:
    assert run("show", "my.yaml") == (0, OWN, "")


@pytest.mark.usefixtures("shipped")
def test_show_prints_a_shipped_config_unchanged(run: Run) -> None:
    assert run("show", "longer-name") == (0, "seed: 2\n", "")


def test_resolved_config_has_every_key_and_is_equal(run: Run) -> None:
    status, out, err = run("show", "my.yaml", "--resolved", "--set", "network.hidden=[]", "--set", "training.l2=1e-3")
    assert (status, err) == (0, "")
    Path("resolved.yaml").write_text(out)
    expected = config.load(Path("my.yaml"), ["network.hidden=[]", "training.l2=1e-3"])
    assert out == config.to_yaml(expected)
    assert config.load(Path("resolved.yaml")) == expected
    assert expected.seed == 7
    assert "\naugmentation: null\n" in out  # an absent section has no keys
    keys = [key for key in config.flatten(config.Config()) if not key.startswith("augmentation.")]
    assert all(f"{key.rpartition('.')[2]}: " in out for key in keys)


@pytest.mark.parametrize("flags", [["--json"], ["--json", "--resolved"]])
def test_values_as_json(flags: list[str], run: Run) -> None:
    status, out, err = run("show", "my.yaml", "--set", "data.folder=é", *flags)
    assert (status, err) == (0, "")
    assert json.loads(out) == config.to_dict(config.load(Path("my.yaml"), ["data.folder=é"]))


def test_environment_is_resolved(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLPCLI_DATA", "/somewhere")
    assert "\n  folder: /somewhere\n" in run("show", "my.yaml", "--resolved")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my.yaml", "--set", "seed=1"], "--set changes values, not the file: add --resolved or --json to see them"),
        (["bad.yaml", "--resolved"], "bad.yaml:1: seed: 'no' is not allowed; allowed: a whole number, at least 0, at"),
        (["my.yaml", "--json", "--set", "sed=1"], "--set sed=1: sed: unknown key; did you mean seed?"),
        (["none.yaml"], "none.yaml: no such file, and no shipped config of that name; see 'mlpcli config list'"),
        (["."], ".: is a folder; give a config file, or a name from 'mlpcli config list'"),
    ],
)
def test_show_errors_are_one_line_and_status_2(arguments: list[str], message: str, run: Run) -> None:
    status, out, err = run("show", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"mlpcli: {message}")
    assert err.count("\n") == 1


def test_binary_is_not_printed(run: Run) -> None:
    Path("binary").write_bytes(b"\x1b]0;\xff")
    assert run("show", "binary") == (2, "", "mlpcli: binary: is not UTF-8 text (byte 4); save it as UTF-8\n")


# check --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shipped")
def test_good_configs_are_ok(run: Run) -> None:
    assert run("check", "my.yaml", "first") == (0, "my.yaml: ok\nfirst: ok\n", "")


def test_bad_config_exits_2_after_others_are_checked(run: Run) -> None:
    status, out, err = run("check", "bad.yaml", "my.yaml", "none")
    assert (status, out) == (2, "my.yaml: ok\n")
    first, second = err.splitlines()
    assert first.startswith("mlpcli: bad.yaml:1: seed: 'no' is not allowed; allowed: ")
    assert second.startswith("mlpcli: none: no such file")


@pytest.mark.parametrize(
    ("names", "status", "ok"), [(["my.yaml"], 0, [True]), (["my.yaml", "bad.yaml"], 2, [True, False])]
)
def test_findings_as_json(names: list[str], status: int, ok: list[bool], run: Run) -> None:
    found, out, err = run("check", *names, "--json")
    findings: list[dict[str, Any]] = json.loads(out)
    assert (found, err) == (status, "")
    assert [finding["config"] for finding in findings] == names
    assert [finding["ok"] for finding in findings] == ok
    assert [finding["error"] is None for finding in findings] == ok
    assert all(finding["ok"] or "seed: 'no' is not allowed" in finding["error"] for finding in findings)
