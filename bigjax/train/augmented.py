"""A sheet of training images as the model sees them, for the report: each row is one image, then what it becomes in turn."""
import jax
import numpy as np

from bigjax.data import batches, sources
from bigjax.experiment import Data

NAME, KEY = 'augmented examples', 'image'
ROWS = COLUMNS = 8


def sheet(data: Data, seed: int) -> dict[str, np.ndarray]:
    """{NAME: strips [ROWS, H, COLUMNS * (W + 1) - 1, C] in 0..1}; {} where no training images are varied.

    Images of a strip have a white line between them; the first one is as in evaluation. Where `preprocess` normalizes, the
    scale is taken back for the eye.
    """
    if data.transform is None and data.augment is None:
        return {}
    spec = sources.shapes(data.train)
    if spec is not None and (KEY not in spec or len(spec[KEY].shape) != 3):
        return {}
    examples = sources.readable(data.train, ROWS)
    if not examples or np.ndim(examples[0].get(KEY)) != 3:
        return {}
    preprocess = jax.jit(data.preprocess or dict)
    plain = _batch(data, examples, 0, train=False)
    shown = preprocess(plain)
    if np.shape(shown.get(KEY)) != np.shape(plain[KEY]) or np.shape(plain[KEY])[-1] not in (1, 3):
        return {}
    scale, offset = _scale(np.asarray(shown[KEY], np.float64), plain[KEY])
    columns, augment = [shown[KEY]], jax.jit(data.augment or (lambda batch, rng: batch))
    for draw in range(1, COLUMNS):
        varied = augment(preprocess(_batch(data, examples, draw, train=True)), jax.random.fold_in(jax.random.key(seed), draw))
        if np.shape(varied[KEY]) != np.shape(shown[KEY]):
            return {}
        columns.append(varied[KEY])
    views = [(np.asarray(column, np.float64) * scale + offset).clip(0, 1).astype(np.float32) for column in columns]
    line = np.ones_like(views[0][:, :, :1])
    return {NAME: np.concatenate([part for view in views for part in (view, line)][:-1], axis=2)}


def _batch(data: Data, examples: list, draw: int, train: bool) -> batches.Batch:
    if data.transform is not None:
        examples = [data.transform(e, np.random.default_rng((draw, i)), train) for i, e in enumerate(examples)]
    return batches.collated(examples, data.collate)


def _scale(shown: np.ndarray, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(a, b) per channel with a · shown + b = the raw images in 0..1, which undoes a normalization."""
    raw = np.asarray(raw, np.float64) / (255 if raw.dtype == np.uint8 else max(1.0, np.abs(raw).max()))
    fits = [np.polyfit(shown[..., c].ravel(), raw[..., c].ravel(), 1) if np.ptp(shown[..., c]) else (1.0, 0.0)
            for c in range(raw.shape[-1])]
    return tuple(np.array(fits).T)
