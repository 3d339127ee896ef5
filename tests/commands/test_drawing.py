"""Images in the terminal: within its width, in characters that it can print."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.commands.drawing import ASCII, abreast, dots, drawing


def test_eight_pixels_are_one_character_of_dots():
    image = np.zeros((5, 3), np.uint8)
    image[0, 0] = image[3, 1] = image[4, 2] = 255
    image[1, 1] = 110
    assert dots(image) == ["⢁ ", " ⠁"]
    for grey in (1, 90, 255):
        assert dots(np.full((4, 2), grey, np.uint8)) == ["⣿"]
    assert dots(np.zeros((4, 2), np.uint8)) == [" "]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "iso-8859-1", "cp437"])
@given(rows=st.integers(1, 60), columns=st.integers(1, 60), width=st.integers(-3, 70), seed=st.integers(0, 9))
def test_drawing_fits_and_can_be_printed(encoding, rows, columns, width, seed):
    image = np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
        lines = drawing(image, width)
    assert len({*map(len, lines)}) == 1
    assert len(lines[0]) <= max(1, width)
    "".join(lines).encode(encoding)


def test_finest_resolution_that_fits_is_chosen(monkeypatch):
    image = np.full((28, 28), 255, np.uint8)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert drawing(image, 28) == ["█" * 28] * 14
    assert drawing(image, 27) == drawing(image, 14) == ["⣿" * 14] * 7
    assert set("".join(drawing(image, 13))) <= set(ASCII)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "ascii"))
    assert drawing(image, 28) == ["@" * 28] * 14


def test_pictures_side_by_side():
    pictures = [["1", "a"], ["22", "bb"], ["3", "c"]]
    assert abreast(pictures, 2) == ["", "1   22", "a   bb", "", "3", "c"]
