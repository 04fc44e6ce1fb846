"""The speed of the host pipeline, without a device: `python -m bigjax.bench --case=pipeline`.

Two sources are read as training reads data that is not kept on the device: rows of arrays in memory, gathered a batch at a
time, and JPEG images that are decoded and cropped, whose threads run in parallel as far as there are cores.
"""
import functools
import os
import time
from collections.abc import Sequence

import numpy as np

from bigjax.data import images, order, pipeline
from bigjax.data.sources import ArraySource

CASE = 'pipeline'
BATCH = 128
SECONDS = 1.0  # of each measurement
ROUNDS = 3  # the best of which counts: other processes only slow a reading down
ROWS, SHAPE = 60_000, (28, 28, 1)  # of MNIST
JPEGS, SIDE = 64, 256  # different images, and pixels of their sides; they are cropped to 224


def _jpeg(image: np.ndarray) -> bytes:
    import cv2  # an extra, which only this needs
    return cv2.imencode('.jpg', image)[1].tobytes()


class Jpegs:
    """Encoded images, decoded when they are read."""

    def __init__(self):
        y, x = np.mgrid[:SIDE, :SIDE]
        waves = [np.sin(x * 0.03 * (k + 1)) + np.cos(y * 0.05) for k in range(3)]
        rng = np.random.default_rng(0)
        self.files = [_jpeg(np.uint8(np.clip(
            127 + 50 * np.stack(waves, -1) + rng.normal(0, 8, (SIDE, SIDE, 3)), 0, 255))) for _ in range(JPEGS)]

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict:
        return {'image': images.decode(self.files[index % JPEGS], f'record {index}'), 'label': np.int32(index % 10)}


def records_per_s(elements: pipeline.TrainBatches, threads: int) -> float:
    """Records read per second, the best of `ROUNDS`; opening and the first batch do not count."""
    best = 0.0
    for _ in range(ROUNDS):
        ahead = pipeline.read(elements, threads=threads, workers=0)
        next(ahead)
        read, started = 0, time.perf_counter()
        while time.perf_counter() - started < SECONDS:
            next(ahead)
            read += elements.batch_size
        best = max(best, read / (time.perf_counter() - started))
        ahead.close()
    return best


def measure(versions: dict) -> dict:
    """One row of figures; `records_per_s` is that of arrays in memory."""
    arrays = ArraySource({'image': np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE)).astype(np.uint8),
                          'label': np.zeros(ROWS, np.int32)})
    made = functools.partial(pipeline.TrainBatches, seed=0, batch_size=BATCH, shuffle=True, first=0, steps=10**9)
    from_arrays = records_per_s(made(arrays), threads=2)
    cropped = functools.partial(images.cropped, size=224)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    decoded = {threads: records_per_s(made(Jpegs(), transform=cropped), threads) for threads in sorted({1, 2, cores})}
    started = time.perf_counter()
    order.batch_indices(0, 0, order.BLOCK, BATCH, ROWS, True)
    order_us = (time.perf_counter() - started) / (order.BLOCK * BATCH) * 1e6
    return {'case': CASE, 'ours_ms': BATCH / from_arrays * 1e3, 'peer_ms': None, 'ratio': None, 'batch_size': BATCH,
            'records_per_s': from_arrays, 'decoded_per_s': decoded, 'order_us_per_record': order_us, 'cores': cores,
            'versions': versions}


def lines(row: dict) -> Sequence[str]:
    """The figures, for people."""
    decoded = ', '.join(f'{rate:,.0f} ({threads} thread{"s" * (threads > 1)})'
                        for threads, rate in row['decoded_per_s'].items())
    return [f"pipeline: {row['records_per_s']:,.0f} records/s from arrays in memory (batches of {row['batch_size']}; the order "
            f"takes {row['order_us_per_record']:.2f} µs of a record)",
            f"pipeline: {decoded} JPEG images/s, {SIDE} pixels decoded and cropped to 224, on {row['cores']} cores"]
