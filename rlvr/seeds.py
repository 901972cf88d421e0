"""Randomness as a function: every random number is computed from names and counters, so no
generator state exists.

A sample therefore does not depend on order, number of processes or restarts, and a checkpoint saves
no random state.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray


def key_of(*parts: int | str) -> int:
    """A 64-bit key of the given names and numbers.   key_of(0, "step", 3) is the same on every
    machine.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection that scatters
    neighbouring integers.
    """
    z = values
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniforms(keys: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """One number in [0, 1) for each pair of key and position, from the top 53 bits.   [B], [B] ->
    [B] float64
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    bits = _mix(_mix(keys) + (positions + np.uint64(1)) * golden)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform(*parts: int | str) -> float:
    """A single number in [0, 1) named by its parts."""
    return float(uniforms(np.array([key_of(*parts)], np.uint64), np.zeros(1, np.uint64))[0])


TrainOrTest = Literal["train", "test"]


TEST_SHARE = 0.25


def side_of(name: str, text: str) -> TrainOrTest:
    """The split that a generated problem belongs to, by the hash of its text, whatever seed it was
    made with.

    >>> side_of("arithmetic-split", "What is 9 + 3?")
    'test'
    """
    return "test" if uniform(name, text) < TEST_SHARE else "train"


@functools.lru_cache(maxsize=16)  # an epoch's order is asked for again with every problem drawn
def permutation(count: int, *parts: int | str) -> NDArray[np.int64]:
    """A random order of range(count) named by its parts.   -> [count]"""
    keys = np.full(count, key_of(*parts), np.uint64)
    order = np.argsort(uniforms(keys, np.arange(count, dtype=np.uint64)), kind="stable")
    order.flags.writeable = False
    return order
