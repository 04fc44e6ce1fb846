"""The classifiers that judge generated digits and clothes: `bigjax.metrics.generated` holds them and their figures.

A small convolutional network learns the ten classes of MNIST or Fashion-MNIST, and that some images belong to none: a tenth
of every batch is made of pairs of images and of noise, whose target is the same probability for every class (Hendrycks, Mazeika
& Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR 2019). Without them a classifier is as sure of scribbles as
of digits. The other images are moved by up to two pixels and get a little noise, which makes no digit illegible. Nothing is
published for this network, so nothing is expected; `test/sure` is the share of the real test images that get a probability of
0.9 or more, which is what a perfect generator would reach.

    python -m experiments.sample_judge --workdir=/tmp/judge                      both rows
    python -c "from experiments.sample_judge import keep; keep('/tmp/judge')"    writes bigjax/metrics/judges/*.npz and *.json
"""
import json
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bigjax import cli, models
from bigjax.data import augment
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.metrics import confusion, generated
from bigjax.predict import interfaces
from bigjax.tasks import classification

ROWS = {'mnist': (5, False), 'fashion_mnist': (20, True)}  # data set: (epochs, whether images are flipped)
HELP = {'flip': 'whether training images are flipped', 'outliers': 'the share of a batch that belongs to no class',
        'noise': 'the largest standard deviation of the noise that a training image gets'}
TABLE = tuple(ROWS)
PARAMETERS = dict.fromkeys(ROWS, 60_874)
TINY = {'model.channels': '(4, 4, 4)'}
PATCH = 7  # pixels of the squares that are dealt anew, and of a cell of smooth noise


def get_config(variant=''):
    """`variant` is a data set; mnist by default."""
    config = base_config()
    variant = variant or 'mnist'
    epochs, config.flip = choose('variant', variant, ROWS)
    config.model = models.spec('cnn', 'judge')
    config.data = variant
    config.outliers = 0.1
    config.noise = 0.15
    config.batch_size = 128
    config.steps = f'{epochs} epochs'
    config.optimizer = dict(name='adam', lr=1e-3, schedule='cosine')
    return config


def get_experiment(config):
    """A classifier of images and of what is none."""
    splits = open_data(config.data, like=config.data if config.data in ROWS else 'mnist', data_dir=config.data_dir)
    classes = splits.info['classes']
    flips = (augment.random_flip(),) if config.flip else ()
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), dtype=config.dtype),
        task=classification.softmax(),
        data=Data(splits.train, splits.evals, preprocess=augment.to_float(), info=splits.info,
                  augment=augment.chain(augment.random_crop(2), *flips, noise(config.noise),
                                        outliers(config.outliers, len(classes)))),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, compute=partial(judged, classes=classes), better={'sure': 'higher'})
                    for split in splits.evals},
        interface=interfaces.classification(splits),
    )


def noise(most: float):
    """Adds noise to each image in 0..1, of a standard deviation from U(0, most), and clips it."""
    def apply(batch, rng):
        image = batch['image']
        r_size, r_noise = jax.random.split(rng)
        size = jax.random.uniform(r_size, (image.shape[0], 1, 1, 1), maxval=most)
        return {**batch, 'image': jnp.clip(image + size * jax.random.normal(r_noise, image.shape), 0, 1)}

    return apply


def outliers(share: float, classes: int):
    """Makes the first `share` of a batch images of no class; each is one of five kinds, with the target 1 / K for every class.

    Two kinds join an example and the one before it: their mean, and the upper part of one over the lower part of the other;
    where both have the same class, the example stays as it is. Three kinds are the squares of an image in another order,
    smooth noise, and independent noise.
    """
    def apply(batch, rng):
        image, label = batch['image'], batch['label']
        B, H, W, C = image.shape
        r_kind, r_cut, r_deal, r_smooth, r_noise = jax.random.split(rng, 5)
        other = jnp.roll(image, 1, axis=0)
        cut = jax.random.randint(r_cut, (B, 1, 1, 1), H // 3, H - H // 3)
        squares = image.reshape(B, H // PATCH, PATCH, W // PATCH, PATCH, C).transpose(0, 1, 3, 2, 4, 5)
        dealt = jax.random.permutation(r_deal, squares.reshape(B, -1, PATCH, PATCH, C), axis=1)
        dealt = dealt.reshape(squares.shape).transpose(0, 1, 3, 2, 4, 5).reshape(image.shape)
        cells = 6 * jax.random.normal(r_smooth, (B, H // PATCH, W // PATCH, C))
        kinds = (0.5 * (image + other), jnp.where(jnp.arange(H)[:, None, None] < cut, image, other), dealt,
                 jax.nn.sigmoid(jax.image.resize(cells, image.shape, 'cubic')), jax.random.uniform(r_noise, image.shape))
        kind = jax.random.randint(r_kind, (B,), 0, len(kinds))
        changed = (jnp.arange(B) < share * B) & ((kind >= 2) | (label != jnp.roll(label, 1)))
        made = sum(jnp.where((kind == k)[:, None, None, None], x, 0) for k, x in enumerate(kinds))
        target = jnp.where(changed[:, None], 1 / classes, jax.nn.one_hot(label, classes))
        return {**batch, 'image': jnp.where(changed[:, None, None, None], made, image), 'target': target}

    return apply


def judged(outputs, examples, classes) -> dict:
    """The error in percent, and the share of images of whose class the network is sure."""
    return {**confusion.error_rate(outputs, examples, classes), 'sure': generated.legibility(outputs)}


def keep(workdir: str, *names: str) -> None:
    """Writes what the finished runs in a workdir have learned to `bigjax/metrics/judges`, in half precision: those of `names`,
    or both."""
    from bigjax.checkpoint import manager
    for name in names or ROWS:
        run = json.loads((pathlib.Path(workdir) / name / 'run.json').read_text())
        arrays = manager.arrays(manager.newest(pathlib.Path(workdir) / name))
        weights = {path: np.asarray(arrays[f'state/params/{path}'], np.float16) for path in generated.paths()}
        np.savez(generated.JUDGES / f'{name}.npz', **weights)
        facts = {'command': f'python -m experiments.sample_judge --variant={name}', 'commit': run['git']['sha'], 'data': name,
                 'steps': run['steps'], 'parameters': run['parameters'],
                 'accuracy': run['final']['test/accuracy']['mean'], 'sure': run['final']['test/sure']['mean']}
        (generated.JUDGES / f'{name}.json').write_text(json.dumps(facts, indent=1) + '\n')


if __name__ == '__main__':
    cli.main()
