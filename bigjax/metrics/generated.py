"""How good generated images are, in the eyes of a small classifier of our own.

The judges are convolutional networks for 28 x 28 grey images, `mnist` and `fashion_mnist`, trained by
`python -m experiments.sample_judge`; `judges/NAME.json` has the command, the commit and the accuracy on the test set. They have
learned that mixtures of images and noise belong to no class, so a high probability means more than the nearest class. Their
features are the 64 numbers before the last rectifier.

    legibility           the share of images with a probability of 0.9 or more for one class
    class_shares         how often each class is the most probable one
    frechet              ‖μ₁ - μ₂‖² + tr(Σ₁ + Σ₂ - 2 (Σ₁Σ₂)^½) of two sets of features (Heusel et al. 2017, eq. 6)
    precision_recall     the shares of samples that lie among real images, and of real images that lie among samples
                         (Kynkäänniemi et al. 2019, eq. 1, with the third nearest neighbour)
    compared             all of these, for an evaluator

Fréchet distances on these features compare with one another only, not with those of an Inception network.

Glossary: N images · H, W, C of an image · K classes · F features.
"""
import functools
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.errors import UserError
from bigjax.io.text import hint, printable
from bigjax.models.cnn import CNN, VARIANTS

JUDGES = pathlib.Path(__file__).with_name('judges')
NAMES = ('mnist', 'fashion_mnist')
SHAPE = (28, 28, 1)  # of an image that a judge sees
SURE = 0.9  # the probability from which on an image is legible
TOGETHER = 500  # images a judge sees at once


class Seen(NamedTuple):
    """The answers of a judge to N images.

    Attributes:
      logits: [N, K].
      features: [N, F].
    """

    logits: np.ndarray
    features: np.ndarray


def _model() -> CNN:
    return CNN(**VARIANTS['judge'])


def _shapes() -> Mapping:
    return jax.eval_shape(lambda: _model().init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False))['params']


def paths() -> list[str]:
    """The names of a judge's arrays: 'conv_0/kernel', …"""
    return ['/'.join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(_shapes())]


@functools.cache
def weights(name: str) -> Mapping:
    """The parameters of a judge, float32.

    Raises:
      UserError: there is no such judge; 'metrics/judge'.
    """
    if name not in NAMES:
        raise UserError(f"judge: got '{printable(name)}', expected one of {', '.join(NAMES)}{hint(name, NAMES, 0.4)}; fix: "
                        'choose one of them', code='metrics/judge')
    with np.load(JUDGES / f'{name}.npz', allow_pickle=False) as stored:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: stored['/'.join(key.key for key in path)].astype(np.float32), _shapes())


def facts(name: str) -> dict[str, Any]:
    """How a judge was trained: 'command', 'commit', and 'accuracy' and 'sure' on the real test images."""
    return json.loads((JUDGES / f'{name}.json').read_text())


def check_shape(shape) -> None:
    """Raises UserError 'metrics/judge-shape' where a judge cannot see images [H, W, C] of this shape."""
    if tuple(shape) != SHAPE:
        raise UserError(f'judge: got images of shape {tuple(shape)}, expected {SHAPE}; fix: resize them, and judge the '
                        'channels one by one', code='metrics/judge-shape')


@jax.jit
def _forward(params, images):
    logits, inside = _model().apply({'params': params}, images, train=False, mutable=['intermediates'],
                                    capture_intermediates=lambda module, _: module.name == 'dense_0')
    return logits, inside['intermediates']['dense_0']['__call__'][0]


def see(images, name: str = 'mnist') -> Seen:
    """The answers of the judge to images [N, 28, 28, 1] in 0..1.

    Raises:
      UserError: images of another shape ('metrics/judge-shape'), no such judge ('metrics/judge').
    """
    images = np.asarray(images, np.float32)
    check_shape(images.shape[1:])
    params, parts = weights(name), []
    for start in range(0, len(images), TOGETHER):
        part = images[start:start + TOGETHER]
        padded = np.concatenate([part, np.zeros((TOGETHER - len(part), *SHAPE), np.float32)])  # one compilation for all
        parts.append([np.asarray(x)[:len(part)] for x in _forward(params, padded)])
    return Seen(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def probabilities(logits) -> np.ndarray:
    """Softmax of logits [N, K], float64."""
    logits = np.asarray(logits, np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def legibility(logits, sure: float = SURE) -> float:
    """The share of images with a probability of at least `sure` for one class."""
    return float(np.mean(probabilities(logits).max(-1) >= sure))


def class_shares(logits) -> np.ndarray:
    """[K], how often each class is the most probable one."""
    logits = np.asarray(logits)
    return np.bincount(logits.argmax(-1), minlength=logits.shape[-1]) / len(logits)


def entropy(shares) -> float:
    """-Σ p log p in nats; log K where all classes are as frequent, 0 where there is one."""
    p = np.asarray(shares, np.float64)
    return float(-np.sum(p[p > 0] * np.log(p[p > 0])))


def _root(matrix: np.ndarray) -> np.ndarray:
    """The square root of a symmetric matrix without negative eigenvalues, but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet(first, second) -> float:
    """The Fréchet distance of two normal distributions that have the means and covariances of two sets of features [N, F].

    tr (Σ₁Σ₂)^½ is computed as tr (Σ₁^½ Σ₂ Σ₁^½)^½, the root of a symmetric matrix, in float64.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    root_a = _root(cov_a)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root_a @ cov_b @ root_a), 0)).sum()
    return float(np.sum(np.square(a.mean(0) - b.mean(0))) + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def _squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum(np.sum(a * a, 1)[:, None] + np.sum(b * b, 1) - 2 * a @ b.T, 0)


def precision_recall(real, samples, neighbour: int = 3) -> tuple[float, float]:
    """(precision, recall) of samples' features [N, F] against those of real images.

    Precision is the share of samples that lie in a ball about a real image through its k-th nearest real neighbour; recall
    the same with the sets exchanged.
    """
    real, samples = np.asarray(real, np.float64), np.asarray(samples, np.float64)

    def covered(points, centres):
        own = _squared_distances(centres, centres)
        np.fill_diagonal(own, np.inf)
        k = min(neighbour, len(centres) - 1) - 1
        radius = np.partition(own, k, axis=1)[:, k]
        return float(np.mean(np.any(_squared_distances(points, centres) <= radius, axis=1)))

    return covered(samples, real), covered(real, samples)


def compared(generated, real, name: str = 'mnist', classes=None) -> dict[str, Any]:
    """The metrics of the head of this file for samples and real images [N, 28, 28, 1] in 0..1, at best equally many.

    Returns:
      {'legible', 'legible_real', 'class_entropy', 'rarest_class', 'frechet', 'precision', 'recall'}, and
      'classes_of_samples', the shares as text; `classes` are their names, or None for numbers.
    """
    samples, truth = see(generated, name), see(real, name)
    shares = class_shares(samples.logits)
    precision, recall = precision_recall(truth.features, samples.features)
    names = range(len(shares)) if classes is None else classes
    bars = '\n'.join(f'{k!s:12} {"#" * round(200 * share):40} {share:.1%}' for k, share in zip(names, shares, strict=True))
    return {'legible': legibility(samples.logits), 'legible_real': legibility(truth.logits),
            'class_entropy': entropy(shares), 'rarest_class': float(shares.min()),
            'frechet': frechet(truth.features, samples.features), 'precision': precision, 'recall': recall,
            'classes_of_samples': bars}
