"""Print docs/cli.md, the ``--help`` of every command: python docs/cli.py > docs/cli.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click

from mlpcli.commands import cli

INTRODUCTION = """\
# Command line

<!-- Made by: python docs/cli.py > docs/cli.md -->

`RUN` is a run's folder, such as `runs/mnist-20260102-030405`. Where a checkpoint is expected, `RUN` means the run's
best checkpoint, or its last one if no images were held out for validation. The keys that `--set` takes are in the
[config reference](config.md).

Results go to stdout, and progress and messages to stderr. With `--json`, which nearly every command has, stdout is one
JSON document. An output file replaces an existing one, but never an input of the command or a file of a run. mlpcli
never prompts, and prints no colours if `NO_COLOR` is set.

| exit status | meaning |
| --- | --- |
| 0 | success |
| 1 | a check failed: `gradcheck`, `data verify`, `runs reproduce` |
| 2 | wrong usage or config |
| 3 | data cannot be obtained, or are corrupt |
| 4 | a run, checkpoint or folder is missing, damaged, in use or not writable; or a worker process was killed |
| 5 | training diverged |
| 70 | a bug in mlpcli, with its traceback |
| 129, 130, 143 | the terminal closed, Ctrl-C, terminated |

To complete commands and options with Tab, add the line for your shell to its start-up file:

```text
eval "$(_MLPCLI_COMPLETE=bash_source mlpcli)"       in ~/.bashrc
eval "$(_MLPCLI_COMPLETE=zsh_source mlpcli)"        in ~/.zshrc
_MLPCLI_COMPLETE=fish_source mlpcli | source        in ~/.config/fish/config.fish
```
"""


def page() -> str:
    """Return the page: the help of ``mlpcli``, then of each command and subcommand."""
    top = cli.make_context("mlpcli", [], resilient_parsing=True, terminal_width=80)
    helps = (f"## {path}\n\n```text\n{text}\n```\n" for path, text in _helps(cli, top))
    return "\n".join([INTRODUCTION, *helps])


def _helps(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _helps(child, child.make_context(name, [], parent=context, resilient_parsing=True))


if __name__ == "__main__":
    sys.stdout.write(page())
