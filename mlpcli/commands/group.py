"""A group of commands that suggests the nearest one for a misspelt name."""

from __future__ import annotations

import click


class Group(click.Group):
    """A click group that refuses an unknown name with a suggestion."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that ``args`` opens with, and the other arguments. Raises ``click.UsageError``."""
        name, known = args[0], self.list_commands(ctx)
        # Shell completion resolves incomplete lines, and must not get an error as an answer.
        if name not in known and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Commands: {', '.join(known)}."
            raise click.UsageError(f"No such command: {name}. {hint}", ctx)
        return super().resolve_command(ctx, args)
