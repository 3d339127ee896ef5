"""The tree drawn in the docstring of errors.py is the tree of its classes."""

from __future__ import annotations

import inspect
import re

from mlpcli import errors


def test_drawn_tree_is_the_tree_of_classes() -> None:
    classes = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = [(-1, "Exception")]
    for branch, name in re.findall(r"^( {4}[ │├└─]*)(\w+Error)\b", errors.__doc__ or "", re.MULTILINE):
        above = [(depth, parent) for depth, parent in above if depth < len(branch)]
        drawn[name] = above[-1][1]
        above.append((len(branch), name))
    assert drawn == {name: kind.__base__.__name__ for name, kind in classes.items()}
    assert len(drawn) > 5
