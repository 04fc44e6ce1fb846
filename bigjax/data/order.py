"""The order of examples: batch t is a pure function of (seed, t), whatever the number of processes, workers or restarts.

The shuffle is a permutation that is computed, not stored, so any epoch of any data set is reached in O(1): a Feistel
network on Z_a x Z_b (Black & Rogaway 2002, "Ciphers with arbitrary finite domains", section 5) with a*b just above the
number of examples; the few values that fall outside are walked round the cycle until they fall inside.
"""
import numpy as np

ROUNDS = 6
FITS_INT32 = 2**31 - 1  # the longest data whose examples an int32 numbers, as devices count


def _mix(x: np.ndarray) -> np.ndarray:
    """uint32 -> uint32, every output bit depends on every input bit (the finaliser of MurmurHash3)."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x85EBCA6B)
    x = x ^ (x >> np.uint32(13))
    x = x * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def permute(index: np.ndarray, length: int, seed: int, epoch: np.ndarray) -> np.ndarray:
    """Where position `index` (any shape, below `length`) of epoch `epoch` (same shape) stands in the data.

    For fixed (seed, epoch) it is a bijection of 0 … length - 1.
    """
    a = max(1, int(np.ceil(np.sqrt(length))))
    b = -(-length // a)
    key = _mix(_mix(np.atleast_1d(epoch).astype(np.uint32)) + np.uint32((seed * 0x9E3779B9 + 0x7F4A7C15) & 0xFFFFFFFF))
    out = np.atleast_1d(index).astype(np.int64)
    walking = np.ones(out.shape, bool)
    while walking.any():
        left, right, k = out[walking] % a, out[walking] // a, key[walking]
        for r in range(ROUNDS):
            left = (left + _mix(right.astype(np.uint32) + k + np.uint32(2 * r + 1))) % a
            right = (right + _mix(left.astype(np.uint32) ^ (k * np.uint32(2 * r + 3)))) % b
        out[walking] = left + a * right
        walking = out >= length
    return out.reshape(np.shape(index))


def batch_indices(seed: int, first_step: int, steps: int, batch_size: int, length: int, shuffle: bool) -> np.ndarray:
    """[steps, batch_size]: the examples of batches first_step … first_step + steps - 1, int64 where int32 cannot count them.

    Epochs follow one another without a gap: a batch may hold the end of one and the start of the next.
    """
    position = np.arange(first_step * batch_size, (first_step + steps) * batch_size, dtype=np.int64)
    epoch, index = np.divmod(position, length)
    if shuffle:
        index = permute(index, length, seed, epoch)
    return index.reshape(steps, batch_size).astype(np.int32 if length <= FITS_INT32 else np.int64)
