"""A keyed generator is Philox, a pure function of seed, purpose and epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpcli.rng import PURPOSES, keyed_rng

MASK = 2**64 - 1

keys = st.tuples(st.integers(0, 2**63 - 1), st.sampled_from(sorted(PURPOSES)), st.integers(0, 2**48 - 1))


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Compute Philox 4x64-10 (Salmon et al. 2011, section 3.3): ten rounds, the key raised by a constant after each."""
    x0, x1, x2, x3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * x0, 0xCA5A826395121157 * x2
        x0, x1, x2, x3 = right >> 64 ^ x1 ^ k0, right & MASK, left >> 64 ^ x3 ^ k1, left & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return x0, x1, x2, x3


def test_reference_reproduces_the_published_answer():
    # Random123, tests/kat_vectors: "philox4x64 10" of counter 0 and key 0.
    expected = (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)
    assert philox((0, 0, 0, 0), (0, 0)) == expected


@given(keys)
def test_keyed_rng_is_philox_keyed_by_all_three(key: tuple[int, str, int]):
    seed, purpose, epoch = key
    words = (seed, PURPOSES[purpose] * 2**48 + epoch)
    drawn = [int(word) for word in keyed_rng(*key).bit_generator.random_raw(8)]
    assert drawn == [*philox((1, 0, 0, 0), words), *philox((2, 0, 0, 0), words)]


@given(keys)
def test_equal_keys_agree(key: tuple[int, str, int]):
    assert np.array_equal(keyed_rng(*key).random(10), keyed_rng(*key).random(10))


@given(keys, keys)
def test_different_keys_differ(one: tuple[int, str, int], other: tuple[int, str, int]):
    assert one == other or not np.array_equal(keyed_rng(*one).random(4), keyed_rng(*other).random(4))


@pytest.mark.parametrize("other", [(1, "order", 1), (0, "initialization", 1), (0, "order", 2)])
def test_each_part_of_the_key_changes_the_numbers(other: tuple[int, str, int]):
    assert not np.array_equal(keyed_rng(0, "order", 1).random(4), keyed_rng(*other).random(4))


def test_purposes_have_fixed_numbers():
    # A seed of an older version must still give the same run.
    names = ("initialization", "order", "affine", "elastic", "dropout", "sweep", "input dropout", "validation")
    assert {name: number for number, name in enumerate(names, start=1)} == PURPOSES


def test_global_generator_is_unchanged():
    before = np.random.get_state(legacy=False)["state"]["key"].copy()  # noqa: NPY002 - the very thing it is about
    keyed_rng(0, "order", 1).permutation(1000)
    after = np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002
    assert np.array_equal(before, after)
