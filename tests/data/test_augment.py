"""Augmentations against NumPy loops, scipy and the published algorithms."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from bigjax.data import augment

B, H, W, C = 6, 9, 12, 3


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {'image': rng.uniform(0.1, 1, (B, H, W, C)).astype(np.float32), 'label': np.arange(B, dtype=np.int32) % 4}


EVERY = [augment.random_flip(), augment.random_crop(2), augment.random_erasing(1.0), augment.rotate(20),
         augment.scale(0.8, 1.2), augment.translate(2), augment.shear(0.3), augment.mixup(0.4, 4), augment.cutmix(1.0, 4)]


@pytest.mark.parametrize('fn', EVERY, ids=['flip', 'crop', 'erase', 'rotate', 'scale', 'translate', 'shear', 'mixup', 'cutmix'])
def test_contract(fn, batch):
    """Pure, jit-safe, shapes and dtypes kept, other keys untouched; another rng gives another batch."""
    key = jax.random.key(3)
    compiled = jax.jit(fn)
    jitted, again, other = compiled(batch, key), compiled(batch, key), compiled(batch, jax.random.key(4))
    assert jitted['image'].shape == (B, H, W, C) and jitted['image'].dtype == jnp.float32
    np.testing.assert_array_equal(again['image'], jitted['image'])
    np.testing.assert_array_equal(jitted['label'], batch['label'])
    assert not np.array_equal(jitted['image'], other['image'])


def test_one_of_two_is_drawn_per_batch(batch):
    half, double = (lambda batch, rng, k=k: {**batch, 'image': batch['image'] * k} for k in (0.5, 2.0))
    fn = jax.jit(lambda keys: jax.vmap(lambda key: augment.either(half, double)(batch, key)['image'].mean())(keys))
    found = np.asarray(fn(jax.random.split(jax.random.key(0), 400))) / batch['image'].mean()
    assert np.isclose(found[:, None], [0.5, 2.0], rtol=1e-4).any(1).all() and 0.4 < (found > 1).mean() < 0.6


def test_examples_draw_on_their_own(batch):
    """Equal pictures come out different."""
    same = {'image': np.repeat(batch['image'][:1], 64, axis=0)}
    for fn in EVERY[:4]:
        out = np.asarray(jax.jit(fn)(same, jax.random.key(0))['image'])
        assert len(np.unique(out.reshape(64, -1), axis=0)) > 1


def test_to_float_and_normalize(batch):
    raw = {'image': np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), 'label': np.zeros(1, np.int32)}
    np.testing.assert_allclose(augment.to_float()(raw)['image'].ravel(), np.arange(256) / 255, rtol=1e-6)
    grey = augment.normalize(0.5, 0.25)(raw)['image'].ravel()
    np.testing.assert_allclose(grey, (np.arange(256) / 255 - 0.5) / 0.25, atol=1e-6)
    mean, std = [0.1, 0.2, 0.3], [1.0, 2.0, 4.0]
    np.testing.assert_allclose(augment.normalize(mean, std)(batch)['image'], (batch['image'] - mean) / std, atol=1e-6)
    assert augment.to_float()(batch)['image'].max() <= 1 and augment.to_float()(batch)['image'].max() > 0.9


def test_flip(batch):
    given = np.tile(batch['image'], (400, 1, 1, 1))
    out = np.asarray(jax.jit(augment.random_flip(0.3))({'image': given}, jax.random.key(1))['image'])
    same, flipped = (out == given).all((1, 2, 3)), (out == given[:, :, ::-1]).all((1, 2, 3))
    assert (same ^ flipped).all()
    assert abs(flipped.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(out))


@pytest.mark.parametrize('fill', [0.0, -0.42])
def test_crop_is_every_window_of_the_padded_picture(batch, fill):
    given = np.repeat(batch['image'][:1], 600, axis=0)
    out = np.asarray(jax.jit(augment.random_crop(2, fill))({'image': given}, jax.random.key(1))['image'])
    padded = np.pad(given[0], ((2, 2), (2, 2), (0, 0)), constant_values=np.float32(fill))
    windows = {padded[y:y + H, x:x + W].tobytes(): (y, x) for y in range(5) for x in range(5)}
    seen = [windows[image.tobytes()] for image in out]
    assert len(set(seen)) == 25  # a missed one of 25 in 600 draws has probability 6e-10


def algorithm_1(rng, size, sl, sh, r1):
    """Zhong et al. 2020, Algorithm 1, as a loop: (y, x, h, w) of the erased rectangle."""
    height, width = size
    while True:
        s = rng.uniform(sl, sh) * height * width
        r = rng.uniform(r1, 1 / r1)
        h, w = round(np.sqrt(s * r)), round(np.sqrt(s / r))
        x, y = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        if x + w <= width and y + h <= height:
            return y, x, h, w


def test_random_erasing_draws_as_algorithm_1():
    n, size, settings = 4000, (28, 32), dict(sl=0.02, sh=0.4, r1=0.3)
    out = np.asarray(jax.jit(augment.random_erasing(0.7, value=[2.0], **settings))(
        {'image': np.zeros((n, *size, 1), np.float32)}, jax.random.key(0))['image'])[..., 0]
    touched = (out == 2).any((1, 2))
    assert abs(touched.mean() - 0.7) < 4 * np.sqrt(0.7 * 0.3 / n)
    found = []
    for image in out[touched]:
        ys, xs = np.flatnonzero((image == 2).any(1)), np.flatnonzero((image == 2).any(0))
        y, x, h, w = ys[0], xs[0], len(ys), len(xs)
        assert (image[y:y + h, x:x + w] == 2).all() and (image == 2).sum() == h * w  # one full rectangle
        found.append((y, x, h, w, h * w, np.log(h / w)))
    found = np.array(found)
    rng = np.random.default_rng(1)
    loop = np.array([(*rect, rect[2] * rect[3], np.log(rect[2] / rect[3]))
                     for rect in (algorithm_1(rng, size, **settings) for _ in range(n))])
    for column in range(6):
        assert stats.ks_2samp(found[:, column], loop[:, column]).pvalue > 1e-3, column


def test_random_erasing_values():
    image = np.full((200, 16, 16, 3), 5.0, np.float32)
    out = np.asarray(jax.jit(augment.random_erasing(1.0, low=-2, high=3))({'image': image}, jax.random.key(0))['image'])
    drawn = out[out != 5]
    assert -2 <= drawn.min() < -1.9 and 2.9 < drawn.max() <= 3 and abs(drawn.mean() - 0.5) < 0.05
    fixed = jax.jit(augment.random_erasing(1.0, value=[1, 2, 3]))
    channels = np.asarray(fixed({'image': image}, jax.random.key(0))['image'])
    assert set(map(tuple, channels[channels[..., 0] != 5])) == {(1.0, 2.0, 3.0)}


@pytest.mark.parametrize('matrix, shift', [
    (np.eye(2), (1.25, -2.5)), ([[0.8, 0.3], [-0.2, 1.1]], (0, 0)), (np.eye(2) * 2, (0.5, 0))])
def test_warp_equals_scipy(batch, matrix, shift):
    matrix, centre = np.asarray(matrix, float), np.array([(H - 1) / 2, (W - 1) / 2])
    offset = centre - matrix @ centre + shift
    settings = dict(offset=offset, order=1, mode='grid-constant', cval=0.5)
    want = np.stack([ndimage.affine_transform(batch['image'][0, ..., c], matrix, **settings) for c in range(C)], -1)
    warp = jax.jit(functools.partial(augment.warp, fill=0.5))
    got = warp(batch['image'][0], jnp.array(matrix, jnp.float32), jnp.array(shift, jnp.float32))
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_rotate_scale_translate_equal_scipy(batch):
    """One-point intervals make them deterministic."""
    image, key = batch['image'], jax.random.key(0)

    def each(fn):
        return np.stack([np.stack([fn(i[..., c]) for c in range(C)], -1) for i in image])

    turned = jax.jit(augment.rotate(30.0))(batch, key)['image']
    draws = jax.vmap(lambda k: jax.random.uniform(k, minval=-30.0, maxval=30.0))(jax.random.split(key, B))
    for i, degrees in enumerate(np.asarray(draws)):
        planes = [ndimage.rotate(image[i, ..., c], degrees, reshape=False, order=1, mode='grid-constant')
                  for c in range(C)]
        want = np.stack(planes, -1)
        np.testing.assert_allclose(turned[i], want, atol=1e-4)
    doubled = np.asarray(jax.jit(augment.scale(2.0, 2.0))(batch, key)['image'])
    centre = np.array([(H - 1) / 2, (W - 1) / 2])
    want = each(lambda plane: ndimage.affine_transform(plane, np.eye(2) / 2, centre / 2, order=1))
    np.testing.assert_allclose(doubled, want, atol=1e-5)
    still = np.asarray(jax.jit(augment.translate(0.0))(batch, key)['image'])
    np.testing.assert_allclose(still, image, atol=1e-6)
    point = np.zeros((500, 21, 21, 1), np.float32)
    point[:, 10, 10] = 1
    moved = np.asarray(jax.jit(augment.translate(3.0))({'image': point}, key)['image'])[..., 0]
    ys = (moved.sum(2) * np.arange(21)).sum(1) - 10
    np.testing.assert_allclose(moved.sum((1, 2)), 1, atol=1e-4)  # linear interpolation keeps the mass
    assert abs(ys).max() <= 3.001 and abs(ys.mean()) < 0.35 and abs(ys.std() - 3 / np.sqrt(3)) < 0.15


def test_mixup_mixes_pictures_and_targets_alike():
    onehot = {'image': np.eye(B, dtype=np.float32).reshape(B, 1, B, 1), 'label': np.arange(B, dtype=np.int32)}
    lambdas, neighbours = [], np.roll(np.eye(B), 1, axis=0)
    fn = jax.jit(augment.mixup(0.4, B))
    for seed in range(60):
        out = fn(onehot, jax.random.key(seed))
        np.testing.assert_allclose(out['image'][:, 0, :, 0], out['target'], atol=1e-6)  # a picture shows its target
        np.testing.assert_allclose(out['target'].sum(1), 1, atol=1e-6)
        own = np.diag(out['target'])
        assert np.ptp(own) < 1e-6  # one λ a batch
        np.testing.assert_allclose(out['target'], own[0] * np.eye(B) + (1 - own[0]) * neighbours, atol=1e-6)
        lambdas.append(own[0])
    assert stats.kstest(lambdas, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3


def test_cutmix_target_is_the_area_that_is_there():
    fn, areas = jax.jit(augment.cutmix(1.0, B)), []
    label = np.arange(B, dtype=np.int32)
    colours = {'image': np.ones((B, 10, 12, 1), np.float32) * label[:, None, None, None], 'label': label}
    for seed in range(100):
        out = fn(colours, jax.random.key(seed))
        image, target = np.asarray(out['image'])[..., 0], np.asarray(out['target'])
        share = np.stack([(image == k).mean((1, 2)) for k in range(B)], -1)
        np.testing.assert_allclose(share, target, atol=1e-6)
        for b in range(B):
            other = image[b] != b
            if other.any():
                ys, xs = np.flatnonzero(other.any(1)), np.flatnonzero(other.any(0))
                assert other[ys[0]:ys[-1] + 1, xs[0]:xs[-1] + 1].all()  # one full rectangle
                areas.append(other.mean())
    assert min(areas) < 0.1 and max(areas) > 0.6


def test_soft_labels_compose(batch):
    out = jax.jit(augment.chain(augment.mixup(1.0, 4), augment.cutmix(1.0, 4)))(batch, jax.random.key(0))
    assert out['target'].shape == (B, 4)
    np.testing.assert_allclose(out['target'].sum(1), 1, atol=1e-6)
    assert ((out['target'] > 1e-6).sum(1) > 2).any()  # four pictures in one


def test_chain_gives_each_its_own_numbers(batch):
    def draw(name):
        return lambda b, rng: {**b, name: jax.random.uniform(rng)}
    out = augment.chain(draw('a'), draw('b'))(batch, jax.random.key(0))
    assert out['a'] != out['b']
    assert augment.chain()(batch, jax.random.key(0)) is batch


def test_shear_leaves_the_middle_row_and_moves_the_ends_apart():
    stripe = np.zeros((40, 41, 41, 1), np.float32)
    stripe[:, :, 20] = 1
    out = np.asarray(jax.jit(augment.shear(0.5))({'image': stripe}, jax.random.key(0))['image'])[..., 0]
    middles = (out * np.arange(41)).sum(2) / out.sum(2)
    slope = (middles[:, 40] - middles[:, 0]) / 40
    np.testing.assert_allclose(middles, 20 + slope[:, None] * (np.arange(41) - 20), atol=1e-3)
    assert -0.5 <= slope.min() < -0.3 and 0.3 < slope.max() <= 0.5
