"""The command line: one thin module per command; here are their group and the exit statuses.

Only this package knows click, prints, or picks an exit status. A command's heavy imports (numpy, yaml) stay inside its
functions, so that help and usage errors come at once.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import re
import signal
import sys
import traceback
from types import FrameType
from typing import Any, NoReturn, TextIO

import click

from mlpcli import __version__
from mlpcli.commands import output
from mlpcli.commands.group import Group
from mlpcli.errors import DataError, DivergedError, MlpcliError, RunError, UsageError, of_the_machine, shown

COMPLETION_VARIABLE = "_MLPCLI_COMPLETE"  # click's name for it
EXIT_CHECK_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERNAL = 70
EXIT_STATUS: dict[type[MlpcliError], int] = {UsageError: EXIT_USAGE, DataError: 3, RunError: 4, DivergedError: 5}

# A command's module in this package, and its line in the overview: written here so that --help imports none of them.
COMMANDS = {
    "train": "Train a network and write a run.",
    "eval": "Evaluate trained networks on the test images.",
    "predict": "Classify your own images.",
    "explain": "Show the equations in numbers, for one image.",
    "gradcheck": "Check the gradients and steps of training.",
    "plot": "Draw learning curves, mistakes, weights and more.",
    "report": "Make a web page about a run, with a board to draw on.",
    "watch": "Show a run in the browser while it trains.",
    "export": "Write a trained network as ONNX or safetensors.",
    "config": "List, show and check configs.",
    "data": "List, fetch, import and verify data sets.",
    "runs": "List, show, compare and reproduce runs.",
    "sweep": "Train many variations of a config, and rank them.",
}


class Terminated(BaseException):
    """SIGTERM or SIGHUP, raised at the current point of the program, as ``KeyboardInterrupt`` is for SIGINT."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.status = 128 + number
        self.reason = "terminated" if number == signal.SIGTERM else "interrupted: its terminal is gone"


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Group(Group):
    """A group of commands, each imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mlpcli.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Run 'mlpcli COMMAND --help' for its options and examples.",
)
@click.version_option(__version__, "--version", prog_name="mlpcli", message="%(prog)s %(version)s")
def cli() -> None:
    """Train a multilayer perceptron on MNIST from one YAML file.

    \b
    Examples:
      mlpcli train                         the default network
      mlpcli train quickstart              a shipped config, by name
      mlpcli eval runs/quickstart-...      the test error of a run
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with the documented status."""
    for number in _SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _stop)
    # Standard streams may be closed ('>&-'). The first file opened would then get such a descriptor, and every child
    # process would inherit it. The stream is None, which code that prints does not expect.
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        # The command has finished: a signal on the way out changes nothing.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except Terminated as stopped:
        status = stopped.status
    for stream in (sys.stdout, sys.stderr):
        _empty(stream)
    gc.freeze()  # on its way out the interpreter would look at every object for cycles, several times
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    try:
        if completion := os.environ.get(COMPLETION_VARIABLE):
            from click.shell_completion import shell_complete

            return shell_complete(cli, {}, "mlpcli", COMPLETION_VARIABLE, completion)
        # Not cli.main: it exits with 1 on a broken pipe, and treats an EOFError as an interruption.
        with cli.make_context("mlpcli", list(arguments)) as context:
            value: Any = cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # from click 8.2 on
            error.show()
        else:
            output.say(f"mlpcli: {_one_line(error, arguments)}")
        return EXIT_USAGE
    except MlpcliError as error:
        output.say(f"mlpcli: {error}")
        return next(EXIT_STATUS[kind] for kind in type(error).__mro__ if kind in EXIT_STATUS)
    except (KeyboardInterrupt, click.Abort):
        output.say("mlpcli: interrupted")
        return 128 + signal.SIGINT
    except Terminated as stopped:
        output.say(f"mlpcli: {stopped.reason}")
        return stopped.status
    except BrokenPipeError:  # the reader of stdout has closed it
        return 128 + signal.SIGPIPE
    except Exception as error:
        if found := of_the_machine(error):
            output.say(f"mlpcli: {found}")
            return EXIT_STATUS[RunError]
        traceback.print_exc()
        output.say("mlpcli: this is a bug in mlpcli; please report it with the lines above")
        return EXIT_INTERNAL
    return value if isinstance(value, int) else 0


def _one_line(error: click.ClickException, arguments: list[str]) -> str:
    """Return an error of click in one line, as other errors: what is wrong, where, and what to do."""
    remedy = f"see '{_command_path(arguments)} --help'"
    if isinstance(error, click.NoSuchOption):
        text = f"{shown(error.option_name)}: no such option"
        if settings := _settings(error, arguments):
            remedy = f"write {settings}"
        elif error.possibilities:
            remedy = f"did you mean {' or '.join(error.possibilities)}?"
    else:
        text = error.format_message()
        if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and error.param:
            where = str(error.param.get_error_hint(error.ctx)).replace("'", "")
            text = f"{where}: {error.message}"
        text = f"{text[:1].lower()}{text[1:]}".rstrip(".")
    return f"{' '.join(text.split())}; {remedy}"


def _command_path(arguments: list[str]) -> str:
    """Return ``mlpcli`` and the names of the command: not every error of click has a context that knows them."""
    command: click.Command = cli
    path = ["mlpcli"]
    for word in arguments:
        inner = command.get_command(click.Context(command), word) if isinstance(command, click.Group) else None
        if inner is None:
            break
        command = inner
        path.append(word)
    return " ".join(path)


def _settings(error: click.NoSuchOption, arguments: list[str]) -> str:
    """Return ``--set training.epochs=5`` for an option that is a key of a config; empty if there is none."""
    if error.ctx is None or all(parameter.name != "overrides" for parameter in error.ctx.command.params):
        return ""
    import shlex

    from mlpcli.config import meant_by

    known = {option for parameter in error.ctx.command.params for option in parameter.opts}
    settings = []
    for at, argument in enumerate(arguments):
        name, sign, value = argument.partition("=")
        key = meant_by(name.lstrip("-")) if name.startswith("--") and name not in known else None
        if key is None:
            continue
        following = list(itertools.takewhile(lambda each: not each.startswith("--"), arguments[at + 1 :]))
        if key == "network.hidden":
            numbers = (
                [value] if sign else itertools.takewhile(lambda each: re.fullmatch(r"[\[\]\d,]+", each), following)
            )
            value = f"[{','.join(number.strip('[]') for number in numbers)}]"
        elif not sign:
            value = following[0] if following else "..."
        settings.append(f"--set {shlex.quote(f'{key}={value}')}")
    return " ".join(settings)


def _empty(stream: TextIO) -> None:
    """Flush ``stream``; drop data that cannot be written, as Python would exit with status 120 for them."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """Let the first signal unwind the program; a second one ends it at once."""
    for each in _SIGNALS:
        if signal.getsignal(each) != signal.SIG_IGN:
            signal.signal(each, signal.SIG_DFL)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)
