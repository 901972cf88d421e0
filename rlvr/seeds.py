"""Randomness as a function of names and counters, so that no generator state exists.

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
    """Return a 64-bit key of the given names and numbers.

    key_of(0, "step", 3) is the same on every machine.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter neighbouring integers by a bijection, the finaliser of SplitMix64 (Steele, Lea and
    Flood 2014).
    """
    z = values
    z = z ^ (z >> np.uint64(30))
    z = z * np.uint64(0xBF58476D1CE4E5B9)
    z = z ^ (z >> np.uint64(27))
    z = z * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniforms(keys: NDArray[np.uint64], positions: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return one number in [0, 1) for each pair of key and position, from the top 53 bits.

    [B], [B] -> [B] float64
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    offsets = (positions + np.uint64(1)) * golden
    bits = _mix(_mix(keys) + offsets)
    top = bits >> np.uint64(11)
    return top.astype(np.float64) * 2.0**-53


def uniform(*parts: int | str) -> float:
    """Return a single number in [0, 1) named by its parts."""
    keys = np.array([key_of(*parts)], np.uint64)
    positions = np.zeros(1, np.uint64)
    return float(uniforms(keys, positions)[0])


TrainOrTest = Literal["train", "test"]


TEST_SHARE = 0.25


def side_of(name: str, text: str) -> TrainOrTest:
    """Return the split that a generated problem belongs to, by the hash of its text, whatever seed
    it was made with.

    >>> side_of("arithmetic-split", "What is 9 + 3?")
    'test'
    """
    if uniform(name, text) < TEST_SHARE:
        return "test"
    return "train"


@functools.lru_cache(maxsize=16)  # an epoch's order is asked for again with every problem drawn
def permutation(count: int, *parts: int | str) -> NDArray[np.int64]:
    """Return a random order of range(count) named by its parts.   -> [count]"""
    keys = np.full(count, key_of(*parts), np.uint64)
    positions = np.arange(count, dtype=np.uint64)
    order = np.argsort(uniforms(keys, positions), kind="stable")
    order.flags.writeable = False
    return order
