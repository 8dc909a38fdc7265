"""All random numbers of the package: counter-based (Philox), so that a draw depends on its address and on nothing before it."""

import hashlib

import numpy as np


def random_numbers(address: str, counter: int = 0) -> np.random.Generator:
    """Random numbers that are a function of some words and a number, the same on every machine.

    Arguments:
        address: what they are for, e.g. "omniglot/train/0".
        counter: a place among many of one address, such as an episode's index; each has 2^192 blocks of its own.
    """
    digest = hashlib.blake2b(address.encode(), digest_size=16).digest()
    return keyed_numbers(np.frombuffer(digest, dtype="<u8"), counter)


def stream_numbers(name: str, seed: int, purpose: str, index: int) -> np.random.Generator:
    """Random numbers of the stream `name` that are a function of the seed, of what they are for, and of the task."""
    return random_numbers(f"{name}/{seed}/{purpose}", index)


def keyed_numbers(key: int | np.ndarray, counter: int = 0) -> np.random.Generator:
    """Random numbers of a key: an integer, or two of 64 bits."""
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, counter]))
