"""The config reference as a Markdown page, made from the dataclasses of ``config.py``: docs/config.md."""

from __future__ import annotations

from mlpcli import config

INTRODUCTION = """\
# Config reference

<!-- Made from mlpcli/config.py by: mlpcli config reference > docs/config.md -->

A config is a YAML file of at most 64 KiB. Every key has a default, so a config holds only what differs from it. The
defaults are those of `configs/mnist.yaml`. The value of a key is taken from the first of these that sets it:

1. `--set SECTION.KEY=VALUE` on the command line, with the value written as in YAML;
2. for `data.folder`, the environment variable `MLPCLI_DATA`;
3. the file;
4. the default.

Numbers are read as in YAML 1.2: `1e-3` is a number, `010` is ten, and `no` is text. An unknown key, a key given twice,
a value of the wrong type or out of range, and two keys that contradict each other are errors: the exit status is 2, and
one line names the file, the line, the key, the value and what is allowed. Anchors, aliases and tags (`&`, `*`, `!`) are
refused.

`mlpcli config check FILE` checks a file, `mlpcli config show NAME --resolved` prints every key with its value, and
`mlpcli config reference` prints this page.
"""
HEADER = "| Key | Default | Allowed | Meaning |\n| --- | --- | --- | --- |\n"


def page() -> str:
    """Return the page: the introduction, then each section with its table and its notes."""
    parts = [INTRODUCTION]
    for section, (text, keys) in config.reference().items():
        summary, _, notes = text.partition("\n\n")
        rows = (f"| `{key}` | `{default}` | {values} | {meaning} |\n" for key, default, values, meaning in keys)
        table = HEADER + "".join(rows)
        parts += [f"## {section}\n", f"{summary}\n", table, f"{notes}\n"] if section else [table]
    return "\n".join(parts)
