"""``mlpcli config``: list the shipped configs, show a config, and check it."""

from __future__ import annotations

import re
from typing import NamedTuple

import click

from mlpcli.commands import EXIT_USAGE, output
from mlpcli.commands.group import Group
from mlpcli.commands.options import set_option
from mlpcli.errors import ConfigError, UsageError


@click.group(cls=Group)
def command() -> None:
    """List, show and check configs.

    \b
    Examples:
      mlpcli config list
      mlpcli config show mnist > my.yaml
      mlpcli config check my.yaml
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_(as_json: bool) -> None:
    """List the shipped configs with their test errors and times.

    The name of a shipped config can be used in place of a file. The error and the time are those of the config's line
    "Reaches:", which names the seeds, the cores and the data set ('mlpcli config show NAME').

    \b
    Examples:
      mlpcli config list
      mlpcli config list --json
    """
    from mlpcli import config

    texts = {name: config.read_text(path) for name, path in config.shipped().items()}
    if as_json:
        output.result_json(
            [{"name": name, "summary": _summary(text), **_reached(text)._asdict()} for name, text in texts.items()]
        )
        return
    if not texts:
        return
    width = max(map(len, ("config", *texts)))
    output.result(f"{'config':<{width}}  test error     time")
    for name, text in texts.items():
        reached = _reached(text)
        error = "" if reached.test_error is None else f"{reached.test_error:.2%}"
        output.result(f"{name:<{width}}  {error:>10}  {_time(reached.seconds):>7}  {_summary(text)}".rstrip())


@command.command()
@click.argument("name", metavar="NAME|FILE")
@click.option("--resolved", is_flag=True, help="Print every key with its value, defaults included.")
@set_option
@click.option("--json", "as_json", is_flag=True, help="Print every key with its value, as one JSON document.")
def show(name: str, resolved: bool, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show a config as it is written, or every key with its value.

    \b
    Examples:
      mlpcli config show mnist                      the file with its comments
      mlpcli config show mnist --resolved           every key and its value
      mlpcli config show my.yaml --resolved --set training.epochs=5
    """
    from mlpcli import config

    path = config.find(name)
    if as_json:
        output.result_json(config.to_dict(config.load(path, overrides)))
    elif resolved:
        output.result(config.to_yaml(config.load(path, overrides)).rstrip("\n"))
    elif overrides:
        raise UsageError("--set changes values, not the file: add --resolved or --json to see them")
    else:
        output.result(config.read_text(path).rstrip("\n"))


@command.command()
@click.argument("names", metavar="FILE|NAME...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(names: tuple[str, ...], as_json: bool) -> int:
    """Check that configs are valid.

    The exit status is 2 if one is not.

    \b
    Examples:
      mlpcli config check my.yaml
      mlpcli config check configs/*.yaml
    """
    from mlpcli import config
    from mlpcli.datasets.catalogue import known_size

    findings: dict[str, str | None] = {}
    for name in names:
        try:
            loaded = config.load(config.find(name))
            config.check_size(loaded, *known_size(loaded.data.dataset), config.physical_memory())
            if loaded.network.receptive_fields is not None:
                from mlpcli.training.connections import check_connections  # only here: it loads numpy

                check_connections(loaded.network, loaded.data.dataset)
        except ConfigError as error:
            findings[name] = str(error)
        else:
            findings[name] = None
        if not as_json:
            _report(name, findings[name])
    if as_json:
        output.result_json([{"config": name, "ok": not error, "error": error} for name, error in findings.items()])
    return EXIT_USAGE if any(findings.values()) else 0


@command.command("reference")
def reference_() -> None:
    """Print every key with its default, allowed values and meaning.

    The output is Markdown, the page docs/config.md.

    \b
    Examples:
      mlpcli config reference
      mlpcli config reference > docs/config.md
    """
    from mlpcli.commands import reference

    output.result(reference.page().rstrip("\n"))


def _report(name: str, error: str | None) -> None:
    if error is None:
        output.result(f"{name}: ok")
    else:
        output.say(f"mlpcli: {error}")


class _Reached(NamedTuple):
    """The test error that a config reaches, a fraction, and the seconds that it takes, as its comments say."""

    test_error: float | None
    seconds: float | None


_ERROR = re.compile(r"Reaches:.*?\btest error (?:at most )?(\d+\.\d+) %")
_SECONDS = re.compile(r"Reaches:.*?\bin (\d+(?:\.\d+)?) (s|minutes)(?: of training|, start-up included)\b")


def _reached(text: str) -> _Reached:
    comments = " ".join(line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#"))
    error, time = _ERROR.search(comments), _SECONDS.search(comments)
    return _Reached(
        None if error is None else round(float(error[1]) / 100, 6),
        None if time is None else float(time[1]) * (60 if time[2] == "minutes" else 1),
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def _summary(text: str) -> str:
    """Return the first comment of a config."""
    return next((line.lstrip("# ").rstrip() for line in text.splitlines() if line.startswith("#")), "")
