"""A generative adversarial network on MNIST.

Radford, Metz & Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks"
(ICLR 2016): their rules (strided convolutions, batch normalisation, tanh at the end, leaky ReLU) and their Adam of 2e-4
with a momentum of 0.5, on images of 28 x 28, where the paper has 64 x 64. `small` learns legible digits on two CPU
cores in minutes; `dcgan` has the paper's minibatch and latent, and wants an accelerator. The paper has no number for
MNIST, so nothing is expected.

The two networks are two groups of parameters of one model with an optimizer each; the step is the one of every model.

    python -m experiments.gan_mnist --workdir=/tmp/gan
    python -m experiments.gan_mnist --workdir=/tmp/dcgan --variant=dcgan

Neither loss shows whether the samples are good (in evaluation they mean nothing at all: the discriminator has learned to
judge batches that are normalised apart, data and samples), so `test/` has nearest neighbours as the judge, of as many
samples as there are test digits taken:
    legible        share of samples whose five nearest real digits are all of one class; `legible_real` is that of
                   real digits among the others
    class_entropy  nats of the classes of their nearest real digits: log 10 = 2.303 for all alike, 0 for one mode
    rarest_class   the share of the rarest of these classes
    two_sample     accuracy with which the nearest neighbour tells samples from data (Xu et al. 2018): 0.5 where it
                   cannot, 1 where it always can, below 0.5 where samples copy each other's neighbours
"""
import jax
import jax.numpy as jnp
import numpy as np

from bigjax import cli, models
from bigjax.data.datasets import open_data
from bigjax.data.sources import derived
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.predict import interfaces
from bigjax.tasks import generative

ROWS = {  # row: (model, minibatch, epochs)
    'small': (models.spec('gan', latent=64, width=16), 64, 3),
    'dcgan': (models.spec('gan', latent=100, width=128), 128, 25),
}
HELP = {'judged': 'test digits that samples are compared with, and as many samples'}
TABLE = ('small',)
PARAMETERS = {'small': 131_514, 'dcgan': 3_116_482}
TINY = {'model.width': '4', 'model.latent': '5'}


def get_config(variant=''):
    """`variant` is 'small' (the default) or 'dcgan'."""
    config = base_config()
    config.model, config.batch_size, epochs = choose('variant', variant or 'small', ROWS)
    config.data = 'mnist'
    config.steps = f'{epochs} epochs'
    config.optimizer = dict(name='adam', lr=2e-4, b1=0.5, groups=(('generator/.*', {}), ('discriminator/.*', {})))
    config.judged = 2000
    return config


def get_experiment(config):
    """Both networks in one model, and the judge."""
    splits = open_data(config.data, like='mnist', data_dir=config.data_dir)
    size, _, channels = splits.train.spec['image'].shape
    model = models.make(config.model, size=size, channels=channels, dtype=config.dtype)
    split = splits.judged
    splits = derived(splits, lambda parts: {
        'train': parts['train'], split: {name: array[:config.judged] for name, array in parts[split].items()}})
    return Experiment(
        model=model,
        task=generative.gan(model.latent),
        data=Data(splits.train, splits.evals, preprocess=to_tanh, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, compute=judge, keep=('image', 'label'), sums=False)},
        samples=samples(model.latent),
        interface=interfaces.generator(draw(model.latent)),
    )


def to_tanh(batch):
    """Grey levels to -1..1."""
    return {**batch, 'image': batch['image'].astype(jnp.float32) / 127.5 - 1}


def judge(generated, examples, neighbours: int = 5) -> dict:
    """How samples [N, H, W, C] in -1..1 stand among real digits; see the top."""
    label = examples['label']
    real = (examples['image'].astype(np.float32) / 127.5 - 1).reshape(len(label), -1)
    fake = np.asarray(generated, np.float32).reshape(len(label), -1)

    def nearest(a, b, k):
        """The k nearest rows of b for each row of a, with their squared distances; a row is no neighbour of its own."""
        d = np.sum(a * a, 1)[:, None] + np.sum(b * b, 1) - 2 * a @ b.T
        if a is b:
            np.fill_diagonal(d, np.inf)
        found = np.argsort(d, axis=1)[:, :k]
        return found, np.take_along_axis(d, found, axis=1)

    def legible(found):
        return float(np.mean(np.all(label[found] == label[found[:, :1]], axis=1)))

    k = min(neighbours, len(label) - 1)
    (in_real, fake_to_real), (among, real_to_real) = nearest(fake, real, k), nearest(real, real, k)
    _, fake_to_fake = nearest(fake, fake, 1)
    _, real_to_fake = nearest(real, fake, 1)
    share = np.bincount(label[in_real[:, 0]], minlength=10) / len(label)
    separated = np.concatenate([fake_to_fake[:, 0] < fake_to_real[:, 0], real_to_real[:, 0] < real_to_fake[:, 0]])
    bars = '\n'.join(f'{digit}  {"#" * round(200 * s):40} {s:.1%}' for digit, s in enumerate(share))
    return {'legible': legible(in_real), 'legible_real': legible(among), 'two_sample': float(separated.mean()),
            'class_entropy': float(-np.sum(share * np.log(np.maximum(share, 1e-12)))),
            'rarest_class': float(share.min()), 'classes_of_samples': bars}


def draw(latent: int):
    """Samples in 0..1."""
    def images(apply, variables, rng, count):
        z = jax.random.normal(rng, (count, latent))
        return jax.jit(lambda v: apply(v, z, method='generate')[0].astype(jnp.float32) / 2 + 0.5)(variables)

    return images


def samples(latent: int):
    """The report's images: samples, and the way between four of them."""

    def draw(apply, variables, rng):
        corner = jax.random.normal(jax.random.fold_in(rng, 1), (2, 2, latent))
        t = jnp.linspace(0, 1, 8)
        weight = jnp.sqrt(jnp.stack([1 - t, t], axis=1))  # mixtures keep the prior's variance
        between = jnp.einsum('ia,jb,abz->ijz', weight, weight, corner).reshape(-1, latent)
        z = jnp.concatenate([jax.random.normal(rng, (100, latent)), between])
        images = jax.jit(lambda v: apply(v, z, method='generate')[0].astype(jnp.float32) / 2 + 0.5)(variables)
        return {'samples': np.asarray(images[:100]), 'between_samples': np.asarray(images[100:])}

    return draw


if __name__ == '__main__':
    cli.main()
