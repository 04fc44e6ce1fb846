"""A variational autoencoder on MNIST.

Kingma & Welling, "Auto-Encoding Variational Bayes" (ICLR 2014): perceptrons of 500 tanh units on both sides,
minibatches of 100, one latent sample an example, Nz of 3, 5, 10, 20 and 200 latents (figure 2) and the manifold of
Nz = 2 (figure 4). Two things differ: Adam at 1e-3 takes the place of Adagrad (row `adagrad` has it, without the paper's
N(0, 1) prior on the weights), and 20 epochs take that of the figure's 10^8 samples. A pixel is 1 with a probability of
its grey level, drawn anew whenever a training image is seen and once for the test images.

`test/loss` is the negative bound in nats. The paper prints it as curves only, so no number is expected; `test/nll` is
-log p(x) by importance sampling. The row `beta4` is Higgins et al., "beta-VAE" (ICLR 2017): the KL term times
4 and 10 latents, of which the report shows one after the other moved from -3 to 3. `experiments.iwae_mnist` has published
numbers.

    python -m experiments.vae_mnist --workdir=/tmp/vae                    the table: Nz = 20 and Nz = 2
    python -m experiments.vae_mnist --workdir=/tmp/nz5 --variant=nz5      another Nz
    python -m experiments.vae_mnist --workdir=/tmp/beta --variant=beta4
"""
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm

from bigjax import cli, models
from bigjax.data import binarize
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.metrics import likelihood
from bigjax.predict import interfaces
from bigjax.tasks import variational

NZ = (2, 3, 5, 10, 20, 200)
ADAM = dict(name='adam', lr=1e-3)
ROWS = {  # row: (model, the factor of the KL term, optimizer)
    **{f'nz{n}': (models.spec('vae', 'mnist', latent=n), 1.0, ADAM) for n in NZ},
    'adagrad': (models.spec('vae', 'mnist'), 1.0, dict(name='adagrad', lr=0.02)),
    'beta4': (models.spec('vae', 'mnist', latent=10), 4.0, ADAM),
}
HELP = {'importance_samples': 'draws of the estimate of -log p(x)', 'beta': 'the factor of the KL term'}
TABLE = ('nz20', 'nz2')
PARAMETERS = {'nz20': 815_824, 'nz2': 788_788, 'adagrad': 815_824, 'beta4': 800_804}
TINY = {'model.hidden': '(16,)', 'importance_samples': '3'}


def get_config(variant=''):
    """`variant` is a row; Nz = 20 by default."""
    config = base_config()
    config.model, config.beta, config.optimizer = choose('variant', variant or 'nz20', ROWS)
    config.data = 'mnist'
    config.batch_size = 100
    config.steps = '20 epochs'
    config.importance_samples = 50
    return config


def get_experiment(config):
    """Encoder and decoder, and the likelihood."""
    given = open_data(config.data, like='mnist', data_dir=config.data_dir)
    splits, split = binarize.splits(given), given.judged
    model = models.make(config.model, shape=splits.train.spec['image'].shape, dtype=config.dtype)
    return Experiment(
        model=model,
        task=variational.vae(beta=config.beta),
        data=Data(splits.train, splits.evals, preprocess=binarize.to_unit, augment=binarize.draw, info=splits.info),
        optimizer=config.optimizer,
        evaluators={
            split: Evaluator(split),
            'nll': Evaluator(split, predict=variational.importance(config.importance_samples), compute=likelihood.nll,
                             keep=(), sums=False, every='100%')},
        samples=report_images(splits.evals[split], model.latent, traversed=config.beta != 1),
        interface=interfaces.generator(prior(model.latent)),
    )


def prior(latent: int):
    """Mean images of latents that are drawn from the prior."""
    def images(apply, variables, rng, count):
        z = jax.random.normal(rng, (count, latent))
        return jax.nn.sigmoid(apply(variables, z, method='decode')[0].astype(jnp.float32))

    return images


def report_images(test, latent: int, traversed: bool = False):
    """The report's images: originals beside their reconstructions, samples of the prior, the manifold of Nz = 2, and where
    `traversed` a row for each latent, which goes from -3 to 3 while the others keep the first original's mean."""

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
        if traversed:
            way = jnp.linspace(-3, 3, 10)
            z = jnp.where(jnp.eye(latent)[:, None], way[:, None], mean[0])
            shown['traversals'] = np.asarray(decode(z.reshape(-1, latent)))
        return shown

    return samples


if __name__ == '__main__':
    cli.main()
