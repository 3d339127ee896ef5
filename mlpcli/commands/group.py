"""A group of commands that suggests the nearest one for a misspelt name."""

from __future__ import annotations

import click

from mlpcli.errors import UsageError, shown


class Group(click.Group):
    """A click group that refuses an unknown name with a suggestion."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` opens with, and the other arguments. Raises ``UsageError``."""
        name, known = args[0], self.list_commands(ctx)
        # Shell completion resolves incomplete lines, and must not get an error as an answer.
        if name not in known and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            remedy = f"did you mean {near[0]}?" if near else f"the commands are {', '.join(known)}"
            raise UsageError(f"{shown(name)}: no such command; {remedy}")
        return super().resolve_command(ctx, args)
