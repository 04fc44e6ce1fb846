"""The speed of the host pipeline, without a device: `python -m bigjax.bench --case=pipeline`.

Two sources are read as training reads data that is not kept on the device: rows of arrays in memory, gathered a batch at a
time, and JPEG photographs that are decoded as far as a crop reaches, whose threads run in parallel as far as there are cores.
Their rate per second of one core's time is compared with the target: other processes change it less than a rate per second.
"""
import functools
import os
import time
from collections.abc import Sequence

import numpy as np

from bigjax.data import encoded, images, order, pipeline
from bigjax.data.sources import ArraySource

CASE = 'pipeline'
BATCH = 128
SECONDS = 1.0  # of each measurement
ROUNDS = 3  # the best of which counts: other processes only slow a reading down
ROWS, SHAPE = 60_000, (28, 28, 1)  # of MNIST
JPEGS, HEIGHT, WIDTH = 32, 375, 500  # different images, of the size that is usual in ImageNet
QUALITY, CROP, AREA = 96, 224, (0.08, 1.0)  # about 86 kB an image, as there
DETAIL, GRAIN = 170, 3  # levels
CORE_TARGET = 1200  # images per second of a core's time


def _photograph(rng: np.random.Generator) -> bytes:
    """A JPEG whose detail falls off with its fineness as that of a photograph does."""
    import cv2
    image = np.full((HEIGHT, WIDTH, 3), 127, np.float32)
    for size in (4, 8, 16, 32, 64, 128, 256):
        noise = rng.normal(0, DETAIL / size ** 0.7, (size * HEIGHT // WIDTH + 1, size, 3)).astype(np.float32)
        image += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    image += rng.normal(0, GRAIN, image.shape)
    return cv2.imencode('.jpg', image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


class Jpegs:
    """Encoded images, decoded when they are read."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.files = [_photograph(rng) for _ in range(JPEGS)]

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict:
        return {'image': encoded.Encoded(self.files[index % JPEGS], f'record {index}'), 'label': np.int32(index % 10)}


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


def crops_per_core_s(source: Jpegs, seconds: float = SECONDS) -> float:
    """Crops per second of the time of one core, the best of `ROUNDS`."""
    best, rng = 0.0, np.random.default_rng(0)
    for _ in range(ROUNDS):
        made, started = 0, time.process_time()
        while time.process_time() - started < seconds:
            for index in range(JPEGS):
                images.cropped(source[index], rng, True, size=CROP, area=AREA)
            made += JPEGS
        best = max(best, made / (time.process_time() - started))
    return best


def measure(versions: dict) -> dict:
    """One row of figures; `records_per_s` is that of arrays in memory."""
    arrays = ArraySource({'image': np.random.default_rng(0).integers(0, 256, (ROWS, *SHAPE)).astype(np.uint8),
                          'label': np.zeros(ROWS, np.int32)})
    made = functools.partial(pipeline.TrainBatches, seed=0, batch_size=BATCH, shuffle=True, first=0, steps=10**9)
    from_arrays = records_per_s(made(arrays), threads=2)
    cropped, photographs = functools.partial(images.cropped, size=CROP, area=AREA), Jpegs()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    decoded = {threads: records_per_s(made(photographs, transform=cropped), threads) for threads in sorted({1, 2, cores})}
    started = time.perf_counter()
    order.batch_indices(0, 0, order.BLOCK, BATCH, ROWS, True)
    order_us = (time.perf_counter() - started) / (order.BLOCK * BATCH) * 1e6
    return {'case': CASE, 'ours_ms': BATCH / from_arrays * 1e3, 'peer_ms': None, 'ratio': None, 'batch_size': BATCH,
            'records_per_s': from_arrays, 'decoded_per_s': decoded, 'crops_per_core_s': crops_per_core_s(photographs),
            'decoder': encoded.decoder(), 'kilobytes': sum(map(len, photographs.files)) / JPEGS / 1e3,
            'order_us_per_record': order_us, 'cores': cores, 'versions': versions}


def lines(row: dict) -> Sequence[str]:
    """The figures, for people."""
    decoded = ', '.join(f'{rate:,.0f} ({threads} thread{"s" * (threads > 1)})'
                        for threads, rate in row['decoded_per_s'].items())
    return [f"pipeline: {row['records_per_s']:,.0f} records/s from arrays in memory (batches of {row['batch_size']}; the order "
            f"takes {row['order_us_per_record']:.2f} µs of a record)",
            f"pipeline: {decoded} JPEG images/s, {WIDTH} x {HEIGHT} of {row['kilobytes']:.0f} kB cropped to {CROP} by "
            f"{row['decoder']}, on {row['cores']} cores",
            f"pipeline: {row['crops_per_core_s']:,.0f} JPEG images per second of one core "
            f"({'within' if row['crops_per_core_s'] >= CORE_TARGET else 'under'} {CORE_TARGET:,})"]
