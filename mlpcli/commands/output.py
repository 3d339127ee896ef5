"""Where words go: results to stdout, messages to stderr, JSON as one document."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click


def say(message: str) -> None:
    """Print a message for a person to stderr."""
    click.echo(message, err=True)


def result(text: str) -> None:
    """Print a result to stdout."""
    click.echo(text)


def result_json(document: dict[str, Any] | list[Any]) -> None:
    """Print ``document`` to stdout as the one JSON document of the command."""
    click.echo(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False))


def colour(text: str, name: str) -> str:
    """``text`` in a colour where stdout is a terminal and ``NO_COLOR`` is not set."""
    plain = bool(os.environ.get("NO_COLOR")) or not sys.stdout.isatty()
    return text if plain else click.style(text, fg=name)
