"""Augmentation policies on the device: factories of pure `(batch, rng) -> batch`, as those of `bigjax.data.augment`.

    augment.chain(augment.random_flip(), policies.randaugment(layers=2, magnitude=9, mean=MEAN, std=STD))

Policies are defined on the levels 0 … 255 of an image. Images of a batch are floats, after `augment.normalize(mean, std)` where
`mean` and `std` are given, else in 0 … 1: they become levels for the policy and are what they were afterwards. Every image
draws on its own, and all of it is one computation without a branch: see `bigjax.data.image_ops`.
"""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.data import image_ops as ops
from bigjax.data.augment import Augment
from bigjax.errors import UserError
from bigjax.io.text import hint

BLACK, GREY = 0.0, 128.0  # levels of uncovered pixels: of the authors of AutoAugment in Pillow, and in TensorFlow
WIDE_BINS = 31  # magnitudes that TrivialAugment draws from, both ends included
AUTO_BINS = 9  # the greatest magnitude of a sub-policy of AutoAugment


class Row(NamedTuple):
    """One operation of a space: its strength is base + sign · rounded(span · m) at the magnitude m, 0 … 1.

    `signed`: the sign is drawn, else it is +1. `rounding`: '' keeps the number, 'round' to the nearest even one, 'floor' cuts
    it off.
    """

    operation: str
    base: float = 0.0
    span: float = 0.0
    signed: bool = False
    rounding: str = ''


def _enhance(span: float) -> tuple[Row, ...]:
    return tuple(Row(name, 1, span, True) for name in ('brightness', 'color', 'contrast', 'sharpness'))


_GEOMETRY = (Row('shear_x', 0, 0.3, True), Row('shear_y', 0, 0.3, True), Row('translate_x', 0, 150 / 331, True),
             Row('translate_y', 0, 150 / 331, True), Row('rotate', 0, 30, True))
_LEVELS = (Row('posterize', 8, -4, rounding='round'), Row('solarize', 255, -255), Row('autocontrast'), Row('equalize'))
SPACES: dict[str, tuple[Row, ...]] = {
    # Cubuk et al. 2020 in the ranges of AutoAugment, as torchvision has it; a magnitude of 9 of its 31 bins is 3.0 here.
    'rand': (Row('identity'), *_GEOMETRY, *_enhance(0.9), *_LEVELS),
    # Cubuk et al. 2020, the authors' TensorFlow code for EfficientNet, which ViT recipes use (magnitude 10 is the full range).
    'tf': (Row('autocontrast'), Row('equalize'), Row('invert'), Row('rotate', 0, 30, True),
           Row('posterize', 0, 4, rounding='floor'), Row('solarize', 0, 256, rounding='floor'),
           Row('solarize_add', 0, 110, rounding='floor'), Row('color', 0.1, 1.8),
           Row('contrast', 0.1, 1.8), Row('brightness', 0.1, 1.8), Row('sharpness', 0.1, 1.8), Row('shear_x', 0, 0.3, True),
           Row('shear_y', 0, 0.3, True), Row('move_x', 0, 100, True), Row('move_y', 0, 100, True),
           Row('cutout', 0, 40, rounding='floor')),
    # Müller & Hutter 2021, table 1, "Wide".
    'wide': (Row('identity'), Row('shear_x', 0, 0.99, True), Row('shear_y', 0, 0.99, True), Row('move_x', 0, 32, True),
             Row('move_y', 0, 32, True), Row('rotate', 0, 135, True), *_enhance(0.99),
             Row('posterize', 8, -6, rounding='round'), Row('solarize', 255, -255), Row('autocontrast'), Row('equalize')),
    # Cubuk et al. 2019, table 6, whose magnitudes are 0 … 9.
    'auto': (Row('identity'), *_GEOMETRY, *_enhance(0.9), *_LEVELS, Row('invert')),
    # Hendrycks et al. 2020, the authors' code: no operation that its test corruptions have.
    'augmix': (Row('autocontrast'), Row('equalize'), Row('posterize', 4, -4, rounding='floor'),
               Row('rotate', 0, 30, True, 'floor'), Row('solarize', 256, -256, rounding='floor'),
               Row('shear_x', 0, 0.3, True), Row('shear_y', 0, 0.3, True),
               Row('translate_x', 0, 1 / 3, True), Row('translate_y', 0, 1 / 3, True)),
}

# Sub-policies of Cubuk et al. 2019, appendix: two operations, each with its probability and its magnitude.
_SUB_POLICIES = {
    'imagenet': '''posterize .4 8 rotate .6 9 | solarize .6 5 autocontrast .6 0 | equalize .8 0 equalize .6 0 | posterize .6 7
        posterize .6 6 | equalize .4 0 solarize .2 4 | equalize .4 0 rotate .8 8 | solarize .6 3 equalize .6 0 |
        posterize .8 5 equalize 1 0 | rotate .2 3 solarize .6 8 | equalize .6 0 posterize .4 6 | rotate .8 8 color .4 0
        | rotate .4 9 equalize .6 0 | equalize 0 0 equalize .8 0 | invert .6 0 equalize 1 0 | color .6 4 contrast 1 8 |
        rotate .8 8 color 1 2 | color .8 8 solarize .8 7 | sharpness .4 7 invert .6 0 | shear_x .6 5 equalize 1 0 |
        color .4 0 equalize .6 0 | equalize .4 0 solarize .2 4 | solarize .6 5 autocontrast .6 0 | invert .6 0 equalize
        1 0 | color .6 4 contrast 1 8 | equalize .8 0 equalize .6 0''',
    'cifar10': '''invert .1 0 contrast .2 6 | rotate .7 2 translate_x .3 9 | sharpness .8 1 sharpness .9 3 | shear_y .5 8
        translate_y .7 9 | autocontrast .5 0 equalize .9 0 | shear_y .2 7 posterize .3 7 | color .4 3 brightness .6 7 |
        sharpness .3 9 brightness .7 9 | equalize .6 0 equalize .5 0 | contrast .6 7 sharpness .6 5 | color .7 7
        translate_x .5 8 | equalize .3 0 autocontrast .4 0 | translate_y .4 3 sharpness .2 6 | brightness .9 6 color .2
        8 | solarize .5 2 invert 0 0 | equalize .2 0 autocontrast .6 0 | equalize .2 0 equalize .6 0 | color .9 9
        equalize .6 0 | autocontrast .8 0 solarize .2 8 | brightness .1 3 color .7 0 | solarize .4 5 autocontrast .9 0 |
        translate_y .9 9 translate_y .7 9 | autocontrast .9 0 solarize .8 3 | equalize .8 0 invert .1 0 | translate_y .7
        9 autocontrast .9 0''',
    'svhn': '''shear_x .9 4 invert .2 0 | shear_y .9 8 invert .7 0 | equalize .6 0 solarize .6 6 | invert .9 0 equalize .6 0 |
        equalize .6 0 rotate .9 3 | shear_x .9 4 autocontrast .8 0 | shear_y .9 8 invert .4 0 | shear_y .9 5 solarize .2
        6 | invert .9 0 autocontrast .8 0 | equalize .6 0 rotate .9 3 | shear_x .9 4 solarize .3 3 | shear_y .8 8 invert
        .7 0 | equalize .9 0 translate_y .6 6 | invert .9 0 equalize .6 0 | contrast .3 3 rotate .8 4 | invert .8 0
        translate_y 0 2 | shear_y .7 6 solarize .4 8 | invert .6 0 rotate .8 4 | shear_y .3 7 translate_x .9 3 | shear_x
        .1 6 invert .6 0 | solarize .7 2 translate_y .6 7 | shear_y .8 4 invert .8 0 | shear_x .7 9 translate_y .8 3 |
        shear_y .8 5 autocontrast .7 0 | shear_x .7 2 invert .1 0''',
}


def sub_policies(name: str) -> list[tuple[tuple[str, float, int], tuple[str, float, int]]]:
    """The sub-policies of AutoAugment for a data set: pairs of (operation, probability, magnitude 0 … 9)."""
    if name not in _SUB_POLICIES:
        raise UserError(f'autoaugment: there is no policy {name!r}{hint(name, _SUB_POLICIES)}; there are '
                        f'{", ".join(_SUB_POLICIES)}', code='augment/policy')
    words = [pair.split() for pair in _SUB_POLICIES[name].split('|')]
    return [tuple((w[i], float(w[i + 1]), int(w[i + 2])) for i in (0, 3)) for w in words]


class Draw(NamedTuple):
    """The random numbers of an operation of one image: scalars, and `at` [2], uniform; [L, …] for L operations in order.

    `row` is a row of the space, `magnitude` in 0 … 1, `negative` whether the sign of a signed row is -1.
    """

    row: jax.Array
    magnitude: jax.Array
    negative: jax.Array
    at: jax.Array


def strengths(rows: Sequence[Row], row: jax.Array, magnitude: jax.Array, negative: jax.Array) -> jax.Array:
    """The strength of the operation rows[row]."""
    column = lambda fn, dtype=np.float32: jnp.asarray(np.array([fn(r) for r in rows], dtype))[row]
    by = column(lambda r: r.span) * magnitude
    by = jnp.where(column(lambda r: r.rounding == 'round', bool), jnp.round(by), by)
    # the greatest magnitude must reach the end: 4 x 0.99999994 would be cut off to 3
    by = jnp.where(column(lambda r: r.rounding == 'floor', bool), jnp.trunc(by * (1 + 1e-6)), by)
    return column(lambda r: r.base) + jnp.where(negative & column(lambda r: r.signed, bool), -by, by)


def applied(image_HxWxC: jax.Array, draw: Draw, rows: Sequence[Row], fill: float, linear: bool = False) -> jax.Array:
    """The levels of an image after one drawn operation."""
    v = strengths(rows, draw.row, draw.magnitude, draw.negative)
    operation = jnp.asarray([ops.NAMES.index(r.operation) for r in rows])[draw.row]
    change = ops.change(ops.statistics(image_HxWxC), operation, v, draw.at)
    return ops.changed(image_HxWxC, change, fill, linear)


def on_levels(fn: Callable[[jax.Array, jax.Array], jax.Array], mean, std, key: str) -> Augment:
    """`fn(levels_HxWxC, rng)` on the images of a batch that `normalize(mean, std)` made."""
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def apply(batch, rng):
        image = batch[key]
        levels = jnp.clip(jnp.round((image * std + mean) * 255), 0, 255)
        out = jax.vmap(fn)(levels, jax.random.split(rng, image.shape[0]))
        return {**batch, key: ((out / 255 - mean) / std).astype(image.dtype)}
    return apply


def _sequence(draw: Callable[[jax.Array], Draw], rows: Sequence[Row], fill: float, linear: bool, mean, std,
              key: str) -> Augment:
    """The policy that applies the operations of `draw(rng)` one after the other."""
    def fn(levels, rng):
        return _one_by_one(levels, draw(rng), rows, fill, linear)
    return on_levels(fn, mean, std, key)


def _one_by_one(levels: jax.Array, draws: Draw, rows: Sequence[Row], fill: float, linear: bool, count=None) -> jax.Array:
    """The levels after the drawn operations, or the first `count` of them; a scan, as an operation takes long to compile."""
    def step(levels, one):
        number, draw = one
        out = applied(levels, draw, rows, fill, linear)
        return out if count is None else jnp.where(number < count, out, levels), None

    return jax.lax.scan(step, levels, (jnp.arange(len(draws.row)), draws))[0]


def _uniform(rng: jax.Array, rows: Sequence[Row], magnitude: jax.Array) -> Draw:
    r_row, r_sign, r_at = jax.random.split(rng, 3)
    row = jax.random.randint(r_row, (), 0, len(rows))
    return Draw(row, magnitude, jax.random.bernoulli(r_sign), jax.random.uniform(r_at, (2,)))


def space(name: str) -> tuple[Row, ...]:
    """The operations of a policy.

    Raises:
      UserError: there is no such space.
    """
    if name not in SPACES:
        raise UserError(f'augmentation: there is no space {name!r}{hint(name, SPACES)}; there are {", ".join(SPACES)}',
                        code='augment/space')
    return SPACES[name]


def draw_randaugment(rng: jax.Array, layers: int, magnitude: float, rows: Sequence[Row]) -> Draw:
    """The random numbers of `randaugment` for one image, [layers]."""
    return jax.vmap(lambda r: _uniform(r, rows, jnp.float32(magnitude / 10)))(jax.random.split(rng, layers))


def randaugment(layers: int = 2, magnitude: float = 9, operations: str = 'rand', fill: float = BLACK, linear: bool = False,
                mean=0.0, std=1.0, key: str = 'image') -> Augment:
    """RandAugment, Cubuk et al. 2020: `layers` operations of one magnitude, each drawn from all, one after the other.

    Args:
      layers: 0 leaves the images as they are.
      magnitude: 0 … 10, of the full range of `SPACES[operations]`; libraries differ by what "9" is.
      fill: the level of uncovered pixels.
      linear: interpolate moved pixels.
      mean, std: of `augment.normalize`, where it ran.
    """
    rows = space(operations)
    if not layers:
        return lambda batch, rng: dict(batch)
    return _sequence(lambda rng: draw_randaugment(rng, layers, magnitude, rows), rows, fill, linear, mean, std, key)


def draw_trivial(rng: jax.Array) -> Draw:
    """The random numbers of `trivial_augment` for one image, [1]."""
    r_bin, r = jax.random.split(rng)
    magnitude = jax.random.randint(r_bin, (), 0, WIDE_BINS) / (WIDE_BINS - 1)
    return jax.tree.map(lambda x: x[None], _uniform(r, SPACES['wide'], magnitude))


def trivial_augment(fill: float = BLACK, linear: bool = False, mean=0.0, std=1.0, key: str = 'image') -> Augment:
    """TrivialAugment (Wide), Müller & Hutter 2021: one operation of one magnitude, both uniform."""
    return _sequence(draw_trivial, SPACES['wide'], fill, linear, mean, std, key)


def draw_autoaugment(rng: jax.Array, policy: str) -> Draw:
    """The random numbers of `autoaugment` for one image, [2]: a sub-policy, whose operations happen with their probability."""
    rows = [r.operation for r in SPACES['auto']]
    pairs = sub_policies(policy)
    table = lambda fn: jnp.asarray(np.array([[fn(one) for one in pair] for pair in pairs]))
    row, chance, magnitude = table(lambda o: rows.index(o[0])), table(lambda o: o[1]), table(lambda o: o[2] / AUTO_BINS)
    r_pair, r_happens, r_sign = jax.random.split(rng, 3)
    pair = jax.random.randint(r_pair, (), 0, len(pairs))
    happens = jax.random.uniform(r_happens, (2,)) < chance[pair]
    negative = jax.random.bernoulli(r_sign, 0.5, (2,))
    return Draw(jnp.where(happens, row[pair], rows.index('identity')), magnitude[pair], negative, jnp.zeros((2, 2)))


def autoaugment(policy: str = 'imagenet', fill: float = BLACK, linear: bool = False, mean=0.0, std=1.0,
                key: str = 'image') -> Augment:
    """AutoAugment, Cubuk et al. 2019: one of the 25 sub-policies found for 'imagenet', 'cifar10' or 'svhn'."""
    sub_policies(policy)
    return _sequence(lambda rng: draw_autoaugment(rng, policy), SPACES['auto'], fill, linear, mean, std, key)


class MixDraw(NamedTuple):
    """The random numbers of `augmix` for one image.

    Attributes:
      chains: the operations, [width, depth].
      depths: [width], how many operations of each chain happen.
      weights: [width], of the chains.
      mixture: the weight of their sum beside the image.
    """

    chains: Draw
    depths: jax.Array
    weights: jax.Array
    mixture: jax.Array


def draw_augmix(rng: jax.Array, severity: float, width: int, depth: int, alpha: float) -> MixDraw:
    """The random numbers of `augmix` for one image."""
    r_op, r_magnitude, r_depth, r_weight, r_mix = jax.random.split(rng, 5)
    magnitude = jax.random.uniform(r_magnitude, (width, depth), minval=0.1, maxval=severity) / 10
    one = lambda r, m: _uniform(r, SPACES['augmix'], m)
    chains = jax.vmap(jax.vmap(one))(jax.random.split(r_op, (width, depth)), magnitude)
    return MixDraw(chains, jax.random.randint(r_depth, (width,), 1, depth + 1),
                   jax.random.dirichlet(r_weight, jnp.full(width, alpha)), jax.random.beta(r_mix, alpha, alpha))


def augmix(severity: float = 3, width: int = 3, depth: int = 3, alpha: float = 1.0, fill: float = BLACK, linear: bool = False,
           mean=0.0, std=1.0, key: str = 'image') -> Augment:
    """AugMix, Hendrycks et al. 2020: (1 - m) image + m Σ w_i chain_i, m ~ Beta(α, α), w ~ Dirichlet(α), chains of 1 … depth
    operations.

    Args:
      severity: magnitudes are U(0.1, severity) of 10.
    """
    rows = SPACES['augmix']

    def fn(levels, rng):
        drawn = draw_augmix(rng, severity, width, depth, alpha)
        run = lambda draws, count: _one_by_one(levels, draws, rows, fill, linear, count)
        mixed = jnp.einsum('w,whij->hij', drawn.weights, jax.vmap(run)(drawn.chains, drawn.depths), precision='highest')
        return (1 - drawn.mixture) * levels + drawn.mixture * mixed
    return on_levels(fn, mean, std, key)
