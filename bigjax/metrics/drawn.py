"""The judge of generated images as a part of an evaluator: a model draws as many images as there are real ones beside them."""
from collections.abc import Callable
from typing import Any

import numpy as np

from bigjax.metrics import generated


def judge_of(data: str) -> str:
    """The judge for `config.data`; '' where there is none, as for images of one's own."""
    data = 'mnist' if data == 'fake' else data
    return data if data in generated.NAMES else ''


def judged(draw: Callable, name: str) -> dict[str, Any]:
    """Fields of an `Evaluator` of a split of uint8 images: the metrics of `bigjax.metrics.generated` of draws.

    Args:
      draw: `draw(apply, variables, rng, count) -> images [count, 28, 28, 1] in 0..1`.
      name: the judge.
    """
    def predict(apply, variables, batch, rng):
        return draw(apply, variables, rng, batch['image'].shape[0])

    def compute(images, examples):
        return generated.compared(images, examples['image'].astype(np.float32) / 255, name)

    return dict(predict=predict, compute=compute, keep=('image',), sums=False, better={'class_entropy': 'higher'})
