"""A variational autoencoder on MNIST.

Kingma & Welling, "Auto-Encoding Variational Bayes" (ICLR 2014): perceptrons of 500 tanh units on both sides,
minibatches of 100, one latent sample an example, Nz of 3, 5, 10, 20 and 200 latents (figure 2) and the manifold of
Nz = 2 (figure 4). Two things differ: Adam at 1e-3 takes the place of Adagrad (row `adagrad` has it, without the paper's
N(0, 1) prior on the weights), and 20 epochs take that of the figure's 10^8 samples. A pixel is 1 with a probability of
its grey level, drawn anew whenever a training image is seen and once for the test images.

`test/loss` is the negative bound in nats. The paper prints it as curves only, so no number is expected; `test/nll` is
-log p(x) by importance sampling. A published number exists for the row `burda`, the VAE with k = 1 of Burda et al.
(ICLR 2016), table 1: 86.76 nats after 3,280 epochs, a matter of hours on a CPU and not part of the table.

    python -m experiments.vae_mnist --workdir=/tmp/vae                    the table: Nz = 20 and Nz = 2
    python -m experiments.vae_mnist --workdir=/tmp/nz5 --variant=nz5      another Nz
    python -m experiments.vae_mnist --workdir=/tmp/burda --variant=burda  on an accelerator
"""
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from bigjax import cli, models
from bigjax.data.datasets import open_data
from bigjax.data.sources import derived
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.metrics import likelihood
from bigjax.predict import interfaces
from bigjax.tasks import generative

NZ = (2, 3, 5, 10, 20, 200)
ROWS = {  # row: (model, epochs, optimizer)
    **{f'nz{n}': (models.spec('vae', 'mnist', latent=n), 20, dict(name='adam', lr=1e-3)) for n in NZ},
    'adagrad': (models.spec('vae', 'mnist'), 20, dict(name='adagrad', lr=0.02)),
    # Stage i of 8 has 3^i epochs at a rate of 1e-3 * 10^(-i/7).
    'burda': (models.spec('vae', 'iwae'), 3280, dict(name='adam', lr=1e-3, eps=1e-4, schedule=dict(
        name='step', factor=10 ** (-1 / 7), boundaries=tuple(f'{(3 ** i - 1) // 2} epochs' for i in range(1, 8))))),
}
HELP = {'importance_samples': 'draws of the estimate of -log p(x)'}
TABLE = ('nz20', 'nz2')
PARAMETERS = {'nz20': 815_824, 'nz2': 788_788, 'adagrad': 815_824, 'burda': 425_284}
TINY = {'model.hidden': '(16,)', 'importance_samples': '3'}


def get_config(variant=''):
    """`variant` is a row; Nz = 20 by default."""
    config = base_config()
    burda = variant == 'burda'
    config.model, epochs, config.optimizer = choose('variant', variant or 'nz20', ROWS)
    if burda:
        source = 'Burda et al. 2016, table 1, one layer, VAE k = 1'
        config.published = {'test/nll': dict(value=86.76, tolerance=0.5, source=source)}
    config.data = 'mnist'
    config.batch_size = 20 if burda else 100
    config.steps = f'{epochs} epochs'
    config.importance_samples = 5000 if burda else 50
    return config


def get_experiment(config):
    """Encoder and decoder, and the likelihood."""
    splits = open_data(config.data, like='mnist', data_dir=config.data_dir)
    model = models.make(config.model, shape=splits.train.spec['image'].shape, dtype=config.dtype)
    split = splits.judged
    splits = derived(splits, lambda parts: {'train': {'image': parts['train']['image']},
                                            split: {'image': drawn(parts[split]['image'], seed=0)}})
    return Experiment(
        model=model,
        task=generative.vae(),
        data=Data(splits.train, splits.evals, preprocess=to_unit, augment=draw, info=splits.info),
        optimizer=config.optimizer,
        evaluators={
            split: Evaluator(split),
            'nll': Evaluator(split, predict=generative.importance(config.importance_samples), compute=likelihood.nll,
                             keep=(), sums=False, every='100%')},
        expected=published(config),
        samples=report_images(splits.evals[split], model.latent),
        interface=interfaces.generator(prior(model.latent)),
    )


def to_unit(batch):
    """Grey levels to 0..1."""
    return {**batch, 'image': batch['image'].astype(jnp.float32) / 255}


def draw(batch, rng):
    """Each pixel is 1 with the probability of its grey level."""
    return {**batch, 'image': jax.random.bernoulli(rng, batch['image']).astype(jnp.float32)}


def drawn(image: np.ndarray, seed: int) -> np.ndarray:
    """The same on the host, once: uint8 grey levels -> 0 or 255."""
    levels = np.random.default_rng(seed).integers(0, 255, image.shape)
    return np.where(levels < image, 255, 0).astype(np.uint8)


def prior(latent: int):
    """Mean images of latents that are drawn from the prior."""
    def images(apply, variables, rng, count):
        z = jax.random.normal(rng, (count, latent))
        return jax.nn.sigmoid(apply(variables, z, method='decode')[0].astype(jnp.float32))

    return images


def report_images(test, latent: int):
    """The report's images: originals beside their reconstructions, samples of the prior, the manifold of Nz = 2."""

    def samples(apply, variables, rng):
        def decode(z):
            return jax.nn.sigmoid(apply(variables, z, method='decode')[0])

        image = test.arrays['image'][:48] / 255
        mean, _ = apply(variables, jnp.asarray(image, jnp.float32), method='encode')[0]
        beside = np.stack([image, decode(mean)], axis=1).reshape(-1, *image.shape[1:])
        shown = {'reconstructions': beside, 'prior_samples': np.asarray(decode(jax.random.normal(rng, (64, latent))))}
        if latent == 2:  # a grid of equal probabilities, as in figure 4
            z = norm.ppf(jnp.linspace(0.025, 0.975, 20))
            grid = jnp.stack(jnp.meshgrid(z, z), axis=-1).reshape(-1, 2)
            shown['manifold'] = np.asarray(decode(grid))
        return shown

    return samples


if __name__ == '__main__':
    cli.main()
