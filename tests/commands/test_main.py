"""Exit statuses, signals and streams of every command; help is complete and loads no heavy library."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from mlpcli import __version__, commands, errors
from mlpcli.commands import output
from mlpcli.commands.watch import _serve
from mlpcli.watch.server import Server

ROOT = Path(__file__).parents[2]

Ending = tuple[int, str, str]
Run = Callable[..., Ending]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the command line in this process: exit status, stdout, stderr."""

    def run(*arguments: str) -> Ending:
        with pytest.raises(SystemExit) as stop:
            commands.main(list(arguments))
        assert isinstance(stop.value.code, int)
        return (stop.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def boom(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Ending]:
    """Return a function that runs a command which raises or returns its argument."""

    def boom(what: Any) -> Ending:
        def body() -> Any:
            if isinstance(what, BaseException):
                raise what
            return what

        monkeypatch.setitem(commands.COMMANDS, "boom", "")
        module = SimpleNamespace(command=click.command()(body))
        monkeypatch.setitem(sys.modules, "mlpcli.commands.boom", module)  # type: ignore[arg-type]
        return run("boom")

    return boom


def started(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Return a function that runs the command line in a child process, after ``code``."""
    code = options.pop("code", "")
    script = f"import sys\nfrom mlpcli import commands\n{code}\ncommands.main(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("environment", {})}
    command = [sys.executable, "-c", script, *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def ended(*arguments: str, **options: Any) -> Ending:
    with started(*arguments, **options) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


# Exit statuses ------------------------------------------------------------------------------------


STATUSES = {
    errors.UsageError: 2,
    errors.ConfigError: 2,
    errors.DataError: 3,
    errors.UnavailableError: 3,
    errors.RunError: 4,
    errors.DivergedError: 5,
}


def test_every_error_has_a_status() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)}
    assert kinds - {errors.MlpcliError} == STATUSES.keys()


@pytest.mark.parametrize("kind", STATUSES)
def test_error_is_one_line_on_stderr_and_a_status(
    kind: type[errors.MlpcliError], boom: Callable[[Any], Ending]
) -> None:
    assert boom(kind("what is wrong")) == (STATUSES[kind], "", "mlpcli: what is wrong\n")


def test_new_error_class_has_the_status_of_its_base(boom: Callable[[Any], Ending]) -> None:
    class NewError(errors.UnavailableError):
        pass

    assert boom(NewError("new"))[0] == 3


@pytest.mark.parametrize(("value", "status"), [(None, 0), (0, 0), (1, 1), (2, 2), ("text", 0), ([1], 0)])
def test_command_returns_its_status(value: Any, status: int, boom: Callable[[Any], Ending]) -> None:
    assert boom(value) == (status, "", "")


@pytest.mark.parametrize("bug", [RuntimeError("a bug"), KeyError("k"), OSError(errno.EINVAL, ""), StopIteration()])
def test_bug_is_70_with_a_traceback(bug: Exception, boom: Callable[[Any], Ending]) -> None:
    status, out, err = boom(bug)
    assert (status, out) == (70, "")
    assert err.startswith("Traceback (most recent call last):\n")
    assert f"\n{type(bug).__name__}" in err
    assert err.endswith("mlpcli: this is a bug in mlpcli; please report it with the lines above\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_full_disk_and_too_many_open_files_are_no_bug(number: int, boom: Callable[[Any], Ending]) -> None:
    assert boom(OSError(number, "what failed")) == (4, "", "mlpcli: what failed\n")
    assert boom(OSError(number, "what failed", "a\nname")) == (4, "", "mlpcli: 'a\\nname': what failed\n")


def test_eof_error_is_reported_as_bug(boom: Callable[[Any], Ending]) -> None:
    assert boom(EOFError())[0] == 70


def test_sigint_is_130_and_sigterm_143(boom: Callable[[Any], Ending]) -> None:
    for stop, expected in [
        (KeyboardInterrupt(), (130, "", "mlpcli: interrupted")),
        (click.Abort(), (130, "", "mlpcli: interrupted")),
        (commands.Terminated(), (143, "", "mlpcli: terminated")),
    ]:
        status, out, err = boom(stop)
        assert (status, out, err.strip()) == expected  # a newline may follow a terminal's ^C


WAIT = """
import click, time
from types import SimpleNamespace
def body():
    try:
        print("ready", flush=True)
        for _ in range(6000):  # in one long sleep, a signal that comes just before it would wait for its end
            time.sleep(0.01)
    finally:
        print("unwound", flush=True)
commands.COMMANDS["wait"] = ""
sys.modules["mlpcli.commands.wait"] = SimpleNamespace(command=click.command()(body))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_unwinds_the_program(number: int, status: int) -> None:
    # A suite that nohup has started inherits an ignored hang-up.
    default = f"import signal; signal.signal({int(number)}, signal.SIG_DFL)\n"
    with started("wait", code=default + WAIT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (status, "unwound\n")
    words = {130: "interrupted", 143: "terminated", 129: "interrupted: its terminal is gone"}
    assert err.endswith(f"mlpcli: {words[status]}\n")
    assert "Traceback" not in err


def test_ignored_hangup_stays_ignored() -> None:
    with started("wait", code=f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{WAIT}") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        time.sleep(0.2)
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 143


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_opened_files_are_no_standard_streams(closed: str, tmp_path: Path) -> None:
    code = "import os, sys; from mlpcli import commands; sys.exit = lambda status: None; commands.main(['--version'])"
    code += "; assert os.open(sys.argv[1], os.O_RDONLY) > 2"
    line = f'"{sys.executable}" -c "{code}" "{__file__}" {closed}'
    assert subprocess.run(["/bin/sh", "-c", line], cwd=ROOT).returncode == 0


PRINT = """
import click
from types import SimpleNamespace
from mlpcli.commands import output
def body():
    sys.stdin.read()
    for line in range(100_000):
        output.result(f"line {line}")
commands.COMMANDS["print"] = ""
sys.modules["mlpcli.commands.print"] = SimpleNamespace(command=click.command()(body))
"""


def test_closed_pipe_ends_the_program_quietly() -> None:
    with started("print", code=PRINT, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stdin is not None
        process.stdin.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 128 + signal.SIGPIPE


# Wrong usage --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "what", "remedy"),
    [
        ("trian", "trian: ", "train?"),
        ("config lst", "lst: ", "list?"),
        ("zzz", "zzz: ", ", ".join(commands.COMMANDS)),
        ("config zzz", "zzz: ", "check, list, reference, show"),
        ("--zzz", "--zzz: ", "'mlpcli --help'"),
        ("config --zzz", "--zzz: ", "'mlpcli config --help'"),
        ("train --thread 1", "--thread: ", "--threads?"),
        ("train --progress", "--progress: ", "--processes or --port?"),
        ("gradcheck --processes 0", "--processes: 0 ", "'mlpcli gradcheck --help'"),
        ("eval RUN --average-shifts 5", "--average-shifts: '5' ", "'mlpcli eval --help'"),
        ("plot RUN -o p.png --kind curve", "--kind: 'curve' ", "'mlpcli plot --help'"),
        ("config check", "missing argument 'FILE|NAME...'", "'mlpcli config check --help'"),
        ("plot RUN", "missing option '-o' / '--output'", "'mlpcli plot --help'"),
        ("train one two", "", "'mlpcli train --help'"),
        ("train --out", "option '--out' ", "'mlpcli train --help'"),
        ("train --quiet=3", "option '--quiet' ", "'mlpcli train --help'"),
    ],
)
def test_wrong_usage_is_2_with_the_remedy_in_one_line(line: str, what: str, remedy: str, run: Run) -> None:
    status, out, err = run(*line.split())
    assert (status, out) == (2, "")
    assert err.startswith(f"mlpcli: {what}")
    assert err.endswith(f"{remedy}\n") and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["two\nlines"], ["train", "x", "two\nlines"], ["train", "--two\nlines"]])
def test_wrong_usage_with_newlines_is_one_line(arguments: list[str], run: Run) -> None:
    status, out, err = run(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)


def test_group_without_a_command_prints_its_help(run: Run) -> None:
    for path in ((), ("config",)):
        _, out, err = run(*path)
        assert out + err == run(*path, "--help")[1]


# Help ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_command(flag: str, run: Run) -> None:
    status, out, err = run(flag)
    assert (status, err) == (0, "")
    for name, line in commands.COMMANDS.items():
        assert f"\n  {name} " in out
        assert line in out


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"mlpcli {__version__}\n", "")


def paths(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from paths(inner, (*path, name))


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_every_command_and_option_has_help(name: str, run: Run) -> None:
    command = commands.cli.get_command(click.Context(commands.cli), name)
    assert command is not None
    for path, inner in paths(command, (name,)):
        status, out, err = run(*path, "-h")
        assert (status, err) == (0, ""), path
        assert "Examples:\n" in out, path
        assert f"\n    {' '.join(['mlpcli', *path])}" in out, f"{path} has no example of itself"
        for option in inner.params:
            assert isinstance(option, click.Argument) or getattr(option, "help", None), f"{path}: {option.name}"


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_lists_of_commands_are_not_cut_off(name: str, run: Run) -> None:
    _, out, _ = run(name, "-h")
    assert not [line for line in out.partition("\nCommands:\n")[2].splitlines() if line.endswith("...")]


LOADED = "import atexit; atexit.register(lambda: print('loaded:', *sys.modules))"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["trian"], *([name, "-h"] for name in commands.COMMANDS), ["data", "fetch", "-h"]],
)
def test_help_and_wrong_usage_load_no_heavy_library(arguments: list[str]) -> None:
    _, out, _ = ended(*arguments, code=LOADED)
    loaded = out.rpartition("loaded:")[2].split()
    assert "click" in loaded
    assert {"numpy", "yaml", "tqdm", "onnx"} & set(loaded) == set()


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "mlpcli", "--version"]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (child.returncode, child.stdout, child.stderr) == (0, f"mlpcli {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "suggestions"), [("mlpcli con", ["config"]), ("mlpcli config s", ["show"]), ("mlpcli trian x", [])]
)
def test_shell_completion(words: str, suggestions: list[str]) -> None:
    environment = {"_MLPCLI_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    status, out, err = ended(environment=environment)
    assert (status, err) == (0, "")
    assert [word for line in out.splitlines() if (word := line.partition(",")[2])] == suggestions


# Colour -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"),
    [(True, None, True), (True, "", True), (True, "1", False), (False, None, False), (False, "1", False)],
)
def test_colour_is_only_for_willing_terminals(
    terminal: bool, no_color: str | None, coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    assert output.colour("text", "green") == ("\x1b[32mtext\x1b[0m" if coloured else "text")


# Untrusted text -----------------------------------------------------------------------------------

HOSTILE = "a\x1b]0;title\x07\x9b2J\r\u202eb\ud800c\udce9"


def test_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    output.result(f"{HOSTILE}\n\tünï")
    output.say(HOSTILE)
    out, err = capsys.readouterr()
    escaped = r"a\x1b]0;title\x07\x9b2J\r\u202eb\ud800c\udce9"
    assert (out, err) == (f"{escaped}\n\tünï\n", f"{escaped}\n")


def test_json_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.result_json({HOSTILE: ["ünï", HOSTILE, "\U000e0001"]})
    out = capsys.readouterr().out
    text = re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", HOSTILE)
    assert json.loads(out) == {text: ["ünï", text, "\U000e0001"]}
    out.encode()
    assert "ünï" in out and all(character == "\n" or character.isprintable() for character in out)


@pytest.mark.parametrize("text", [HOSTILE, "two\nlines", "", "\x7f"])
def test_name_in_a_message_is_one_escaped_line(text: str) -> None:
    assert errors.shown(text).isprintable() and errors.shown(text) != text
    assert errors.shown("plain ünï") == "plain ünï"
    assert errors.shown("x" * 50, 10) == "xxxxxxx..."


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("config", "list"), b"mlpcli: stdout: cannot be written: No space left on device\n"),
        (("--version",), b"mlpcli: No space left on device\n"),  # click prints these three itself
        (("--help",), b"mlpcli: No space left on device\n"),
        (("train", "--help"), b"mlpcli: No space left on device\n"),
    ],
)
def test_unwritable_stdout_is_an_error_and_no_bug(arguments: tuple[str, ...], message: bytes) -> None:
    with Path("/dev/full").open("w") as full:
        ending = subprocess.run([sys.executable, "-m", "mlpcli", *arguments], stdout=full, stderr=subprocess.PIPE)
    assert (ending.returncode, ending.stderr) == (4, message)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_streams_may_be_closed_at_the_start(closed: str) -> None:
    assert subprocess.run(["/bin/sh", "-c", f'"{sys.executable}" -m mlpcli config list {closed}']).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (("train", "--epochs", "5"), "--set training.epochs=5"),
        (("train", "quickstart", "--lr=0.1"), "--set training.learning_rate=0.1"),
        (
            ("train", "--batch-size", "64", "--seed", "3", "--quiet", "--hidden", "300"),
            "--set training.batch_size=64 --set seed=3 --set 'network.hidden=[300]'",
        ),
        (("train", "--hidden", "300", "100", "--out", "x"), "--set 'network.hidden=[300,100]'"),
        (("gradcheck", "--epochs"), "--set training.epochs=..."),
    ],
)
def test_option_named_as_a_key_suggests_set(capsys, arguments, settings):
    with pytest.raises(SystemExit) as stop:
        commands.main(list(arguments))
    assert stop.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith(f"write {settings}")


def test_command_without_set_does_not_suggest_it(capsys):
    with pytest.raises(SystemExit):
        commands.main(["eval", "run", "--epochs", "5"])
    assert "--set" not in capsys.readouterr().err


def test_signals_no_longer_reach_a_loop_of_watch_that_closes(tmp_path, monkeypatch):
    async def serve(self, until, *, trainer_ends):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(until.wait(), 10)

    async def watch():
        await _serve(tmp_path, False, 0, True, False, stopped)
        return signal.set_wakeup_fd(-1)  # the pipe of the loop, or -1 without one

    monkeypatch.setattr(Server, "serve", serve)
    stopped = []
    assert asyncio.run(watch()) == -1
    assert stopped == [signal.SIGTERM]
