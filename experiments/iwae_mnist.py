"""Importance-weighted autoencoders on MNIST.

Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders" (ICLR 2016), table 1: -log p(x) of the test images in nats,
estimated with 5,000 samples, of networks with one latent layer of 50 units (two layers of 200 tanh units on both sides) or
two of 100 and 50 (between them two layers of 100). K samples go into one training bound.

    latent layers      VAE K = 1    5     50    IWAE 5     50
    one                    86.76  86.47  86.35   85.54  84.78
    two                    85.33  85.01  84.78   83.89  82.90

Adam (eps 1e-4) in minibatches of 20; stage i of 8 has 3^i epochs at a rate of 1e-3 * 10^(-i/7), 3,280 epochs in all. The
output's biases begin at the log-odds of the mean image, as in the authors' code. A pixel is 1 with a probability of its grey
level, drawn anew whenever a training image is seen and once for the test images.

A row is OBJECTIVE,K or OBJECTIVE,K,two. The table is what two CPU cores do within an hour: `short` rows have six stages of the
eight, 364 epochs, with rates from 1e-3 to 1e-4 as before. `test/active` counts the latent units whose mean varies over the test
images by more than 0.01, as in the paper's section 5.2.

    python -m experiments.iwae_mnist --workdir=/tmp/iwae                              the table
    python -m experiments.iwae_mnist --workdir=/tmp/full --variant=iwae,50,two        as in the paper, on an accelerator
    python -m experiments.iwae_mnist --workdir=/tmp/try --variant=iwae,5,short --config.steps='20 epochs'
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from bigjax import cli, models
from bigjax.data import binarize
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.metrics import likelihood
from bigjax.predict import interfaces
from bigjax.tasks import variational

PAPER = {  # (objective, K): nats of one latent layer and of two
    ('vae', 1): (86.76, 85.33), ('vae', 5): (86.47, 85.01), ('vae', 50): (86.35, 84.78),
    ('iwae', 5): (85.54, 83.89), ('iwae', 50): (84.78, 82.90),
}
SHORT = ('vae,1,short', 'iwae,5,short')
ROWS = {  # row: (objective, K, latent layers, stages, nats, tolerance)
    **{f'{name},{k}{end}': (name, k, layers, 8, nats[layers - 1], 0.5)
       for layers, end in ((1, ''), (2, ',two')) for (name, k), nats in PAPER.items()},
    **{f'{name},{k},short': (name, k, 1, 6, PAPER[name, k][0], 1.0) for name, k in (('vae', 1), ('iwae', 5))},
}
HELP = {'objective': "'iwae', the bound with importance weights, or 'vae', their mean logarithm", 'samples': 'K of the bound',
        'importance_samples': 'draws of the estimate of -log p(x)'}
TABLE = SHORT
PARAMETERS = {row: 521_084 if layers == 2 else 425_284 for row, (_, _, layers, *_) in ROWS.items()}
TINY = {'model.hidden': '((8,),)', 'model.latents': '(3,)', 'importance_samples': '3'}
ACTIVE = 0.01  # variance of a unit's mean over examples


def get_config(variant=''):
    """`variant` is a row; 'iwae,5,short' by default."""
    config = base_config()
    config.objective, config.samples, layers, stages, nats, tolerance = choose('variant', variant or SHORT[-1], ROWS)
    config.model = models.spec('vae.DeepVAE', 'two_layers' if layers == 2 else 'one_layer')
    source = f'Burda et al. 2016, table 1, {"two layers" if layers == 2 else "one layer"}'
    config.published = {'test/nll': dict(value=nats, tolerance=tolerance, source=source)}
    config.optimizer, epochs = staged(stages)
    config.data = 'mnist'
    config.batch_size = 20
    config.steps = f'{epochs} epochs'
    config.importance_samples = 5000
    return config


def staged(stages: int):
    """(Adam whose stage i has 3^i epochs at a rate of 1e-3 * 10^(-i / (stages - 1)), the number of epochs)."""
    length = lambda stages: (3 ** stages - 1) // 2
    schedule = dict(name='step', factor=10 ** (-1 / (stages - 1)),
                    boundaries=tuple(f'{length(i)} epochs' for i in range(1, stages)))
    return dict(name='adam', lr=1e-3, eps=1e-4, schedule=schedule), length(stages)


def get_experiment(config):
    """Encoders and decoders, the bound, and the likelihood."""
    given = open_data(config.data, like='mnist', data_dir=config.data_dir)
    splits, split = binarize.splits(given), given.judged
    model = models.make(config.model, shape=splits.train.spec['image'].shape, dtype=config.dtype)
    return Experiment(
        model=model,
        task=variational.iwae(config.samples, config.objective),
        data=Data(splits.train, splits.evals, preprocess=binarize.to_unit, augment=binarize.draw, info=splits.info),
        optimizer=config.optimizer,
        evaluators={
            split: Evaluator(split, predict=means, compute=active, keep=()),
            'nll': Evaluator(split, predict=variational.importance(config.importance_samples), compute=likelihood.nll,
                             keep=(), sums=False, every='100%')},
        expected=published(config),
        init=lambda variables: biased(variables, splits.train.arrays['image']),
        samples=report_images(splits.evals[split], model.latents[-1]),
        interface=interfaces.generator(prior(model.latents[-1])),
    )


def biased(variables, image: np.ndarray):
    """The output's biases at the log-odds of the mean of grey images [N, H, W, C], kept within 0.001 and 0.999."""
    mean = np.clip(image.mean(axis=0, dtype=np.float64).reshape(-1) / 255, 0.001, 0.999)
    lowest = variables['params']['decoder_0']
    logits = {**lowest['logits'], 'bias': jnp.asarray(np.log(mean / (1 - mean)), jnp.float32)}
    return {**variables, 'params': {**variables['params'], 'decoder_0': {**lowest, 'logits': logits}}}


def means(apply, variables, batch, rng):
    """The mean of every latent unit, one array per layer."""
    return apply(variables, batch['image'], method='encode')[0]


def active(outputs, examples) -> dict[str, float]:
    """The number of active units of all layers, and of each where there are several (Burda et al. 2016, section 5.2)."""
    counts = [float(np.sum(np.var(np.asarray(layer, np.float64), axis=0) > ACTIVE)) for layer in outputs]
    return {'active': sum(counts), **{f'active_{i + 1}': n for i, n in enumerate(counts) if len(counts) > 1}}


def prior(latent: int):
    """Mean images of latents that are drawn from the prior."""
    def images(apply, variables, rng, count):
        z = jax.random.normal(rng, (count, latent))
        return jax.nn.sigmoid(apply(variables, z, rng=rng, method='decode')[0].astype(jnp.float32))

    return images


def report_images(test, latent: int):
    """The report's images: originals beside their reconstructions, samples of the prior, rows between two originals."""
    @functools.partial(jax.jit, static_argnums=0)
    def drawn(apply, variables, rng, image):
        means = apply(variables, image, method='encode')[0]
        decode = lambda z: jax.nn.sigmoid(apply(variables, z, method='lowest')[0].astype(jnp.float32))
        beside = jnp.stack([image, decode(means[0])], axis=1).reshape(-1, *image.shape[1:])
        t = jnp.linspace(0, 1, 10)[None, :, None]
        rows = means[0][:10, None] * (1 - t) + means[0][10:20, None] * t
        return {'reconstructions': beside, 'prior_samples': prior(latent)(apply, variables, rng, 100),
                'interpolations': decode(rows.reshape(-1, rows.shape[-1]))}

    def images(apply, variables, rng):
        originals = jnp.asarray(test.arrays['image'][:48] / 255, jnp.float32)
        return {name: np.asarray(image) for name, image in drawn(apply, variables, rng, originals).items()}

    return images


if __name__ == '__main__':
    cli.main()
