"""The learning curve in a terminal: its characters in every width, within its lines."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.analysis.curve import MAX_COLUMNS, MIN_COLUMNS, ROWS, learning_curve

TRAINING = [0.16, 0.08, 0.04, 0.02, 0.01]
VALIDATION = [0.04, 0.04, 0.03, 0.03, 0.03]


def test_curve_in_ascii():
    assert learning_curve(TRAINING, VALIDATION, width=60, braille=False) == [
        "16.00% |..",
        "       |    .",
        "       |       .  .",
        "       |             .",
        "       |ooooooooooooooooooooooooooooooooooo validation 3.00%",
        "       |                      .  .  .",
        "       |                               .",
        " 1.00% |                                  . training 1.00%",
        " error +-----------------------------------",
        "        1              epoch              5",
    ]


def test_curve_in_braille():
    assert learning_curve(TRAINING, VALIDATION, width=60) == [
        "16.00% ┤⠁⠐ ⡀",
        "       │    ⠈ ⠄⢀",
        "       │         ⠁⠠ ⡀",
        "       │             ⠐ ⠄",
        "       │⠉⠉⠉⠉⠉⠉⠉⠉⠉⠉⠒⠒⠒⠤⠤⠤⣈⣀⣂⣠⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀⣀ validation 3.00%",
        "       │                      ⠈ ⠂⢀",
        "       │                           ⠁⠐ ⡀",
        " 1.00% ┤                               ⠈ ⠄⢀ training 1.00%",
        " error └───────────────────────────────────",
        "        1              epoch              5",
    ]


def test_scale_is_logarithmic():
    # Halved from epoch to epoch, an error falls along a straight line.
    lines = learning_curve([2.0**-k for k in range(8)], None, width=80, braille=False)
    columns = [line.index(".") for line in (line.partition("|")[2] for line in lines[:ROWS])]
    steps = [after - before for before, after in pairwise(columns[1:])]
    assert max(steps) - min(steps) <= 3 and min(steps) > 0


def test_error_of_zero_is_at_the_bottom():
    lines = learning_curve([0.04, 0.02, 0.0], None, width=60, braille=False)
    assert lines[0].startswith("4.00% |.") and lines[ROWS - 1].startswith("   0% |")
    assert lines[ROWS - 1].endswith(". training 0.00%")
    assert not any(line.rpartition("|")[2].startswith("0") for line in lines[: ROWS - 1])


@pytest.mark.parametrize("error", [0.0, 0.02, 1.0])
def test_constant_errors_are_a_level_line(error: float):
    lines = learning_curve([error] * 5, [error] * 5, width=70, braille=False)
    drawn = [line.partition("|")[2] for line in lines[:ROWS] if "o" in line.partition("|")[2].partition(" ")[0]]
    assert len(drawn) == 1 and set(drawn[0].partition(" ")[0]) == {"o"}
    # Both end in one row, and are named in two.
    assert sum("training" in line for line in lines) == sum("validation" in line for line in lines) == 1


@pytest.mark.parametrize("epochs", [0, 1])
def test_one_epoch_has_no_curve(epochs: int):
    assert learning_curve([0.1] * epochs, [0.1] * epochs) == []


def test_narrow_terminal_has_no_curve():
    widths = [width for width in range(120) if learning_curve(TRAINING, VALIDATION, width=width)]
    # Label, axis, curve, and the longer name with its value.
    assert widths == list(range(len("16.00% |") + MIN_COLUMNS + len(" validation 3.00%"), 120))
    widest = learning_curve(TRAINING, None, width=10**6)
    assert len(widest[-1]) - len("16.00% |") == MAX_COLUMNS


fraction = st.floats(0, 1)
curves = st.lists(st.tuples(fraction, fraction), min_size=2, max_size=200)


@given(curves, st.integers(0, 120), st.booleans(), st.booleans())
def test_curve_fits_its_lines(errors: list[tuple[float, float]], width: int, has_validation: bool, braille: bool):
    training, validation = (list(values) for values in zip(*errors, strict=True))
    lines = learning_curve(training, validation if has_validation else None, width=width, braille=braille)
    assert len(lines) in (0, ROWS + 2)
    assert all(len(line) <= width and line == line.rstrip() for line in lines)
    assert braille or "".join(lines).isascii()
    if lines:
        assert sum(f"training {training[-1]:.2%}" in line for line in lines) == 1
        assert sum(f"validation {validation[-1]:.2%}" in line for line in lines) == has_validation


@given(st.lists(st.floats(5e-324, 1.7e308), min_size=2, max_size=5))
def test_numbers_of_any_size_raise_no_error(errors: list[float]):
    assert len(learning_curve(errors, errors)) in (0, ROWS + 2)
