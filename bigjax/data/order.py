"""The order of examples: batch t is a pure function of (seed, t), whatever the number of processes, workers or restarts.

The shuffle is a permutation that is computed, not stored, so any epoch of any data set is reached in O(1): a Feistel
network on Z_a x Z_b (Black & Rogaway 2002, "Ciphers with arbitrary finite domains", section 5) with a*b just above the
number of examples; the few values that fall outside are permuted again until they fall inside (cycle walking).
"""
import threading

import numpy as np

ROUNDS = 6
FITS_INT32 = 2**31 - 1  # the most examples that int32 indices, the ones of devices, can count
BLOCK = 64  # steps whose order is computed in one call: the cost per call is that of some thousand examples
CACHED_BLOCKS = 4  # reading threads work on neighbouring batches, so on at most two blocks at a time


def _mix(x: np.ndarray) -> np.ndarray:
    """uint32 -> uint32, every output bit depends on every input bit (the finaliser of MurmurHash3)."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x85EBCA6B)
    x = x ^ (x >> np.uint32(13))
    x = x * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def permute(index: np.ndarray, length: int, seed: int, epoch: np.ndarray) -> np.ndarray:
    """The record at position `index` (any shape, below `length`) of epoch `epoch` (same shape).

    For fixed (seed, epoch) it is a bijection of 0 … length - 1.
    """
    a = max(1, int(np.ceil(np.sqrt(length))))
    b = -(-length // a)
    key = _mix(_mix(np.atleast_1d(epoch).astype(np.uint32)) + np.uint32((seed * 0x9E3779B9 + 0x7F4A7C15) & 0xFFFFFFFF))
    out = np.atleast_1d(index).astype(np.int64)
    outside = np.ones(out.shape, bool)
    while outside.any():
        left, right, k = out[outside] % a, out[outside] // a, key[outside]
        for r in range(ROUNDS):
            left = (left + _mix(right.astype(np.uint32) + k + np.uint32(2 * r + 1))) % a
            right = (right + _mix(left.astype(np.uint32) ^ (k * np.uint32(2 * r + 3)))) % b
        out[outside] = left + a * right
        outside = out >= length
    return out.reshape(np.shape(index))


def batch_indices(seed: int, first_step: int, steps: int, batch_size: int, length: int, shuffle: bool, part: int = 0,
                  parts: int = 1) -> np.ndarray:
    """[steps, batch_size / parts]: part `part` of batches first_step … first_step + steps - 1.

    The indices are int32, or int64 where int32 cannot count the examples. Epochs follow one another without a gap: a batch
    may hold the end of one and the start of the next.
    """
    local = batch_size // parts
    step = first_step + np.arange(steps, dtype=np.int64)
    position = step[:, None] * batch_size + part * local + np.arange(local)
    epoch, index = np.divmod(position, length)
    if shuffle:
        index = permute(index, length, seed, epoch)
    return index.astype(np.int32 if length <= FITS_INT32 else np.int64)


class Blocks:
    """Indices of batches, computed BLOCK steps at a time and kept; threads may share one.

    Args:
      seed, batch_size, length, shuffle, part, parts: as `batch_indices` takes them.
      start: the step with which the first block begins.
    """

    def __init__(self, seed: int, batch_size: int, length: int, shuffle: bool, start: int = 0, part: int = 0, parts: int = 1):
        self._arguments = seed, batch_size, length, shuffle, start, part, parts
        self._blocks, self._lock = {}, threading.Lock()

    def at(self, step: int, count: int = 1) -> np.ndarray:
        """[count, batch_size / parts]: batches step … step + count - 1."""
        first, offset = divmod(step - self._arguments[4], BLOCK)
        blocks = [self._block(number) for number in range(first, first + (offset + count - 1) // BLOCK + 1)]
        joined = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return joined[offset:offset + count]

    def _block(self, number: int) -> np.ndarray:
        seed, batch_size, length, shuffle, start, part, parts = self._arguments
        first = start + number * BLOCK
        with self._lock:  # a block is computed once, by the first thread that needs it
            if number not in self._blocks:
                self._blocks[number] = batch_indices(seed, first, BLOCK, batch_size, length, shuffle, part, parts)
                for old in list(self._blocks)[:-CACHED_BLOCKS]:
                    del self._blocks[old]
            return self._blocks[number]

    def __reduce__(self):
        """A worker process computes its own blocks; a lock cannot be pickled."""
        return Blocks, self._arguments
