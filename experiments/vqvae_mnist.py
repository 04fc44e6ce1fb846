"""VQ-VAE on MNIST: images as 7 x 7 numbers of a learned codebook.

van den Oord, Vinyals & Kavukcuoglu, "Neural Discrete Representation Learning" (NIPS 2017): two strided convolutions and two
residual blocks on both sides, a codebook of 512 vectors, a commitment factor of 0.25, Adam at 2e-4 in minibatches of 128 (row
`paper`, 250,000 steps there for CIFAR-10 and ImageNet). `small` has 64 features, 128 codes and a rate of 1e-3, for two CPU
cores. The paper has no number for MNIST, so nothing is expected.

`test/reconstruction` is the mean squared error of pixels in 0..1; `test/code_perplexity` the exponential of the entropy of the
codes over the test images, at most the size of the codebook; `test/codes_used` how many occur at all.

    python -m experiments.vqvae_mnist --workdir=/tmp/vqvae
    python -m experiments.vqvae_mnist --workdir=/tmp/clothes --config.data=fashion_mnist
    python -m experiments.vqvae_mnist --workdir=/tmp/paper --variant=paper             on an accelerator
"""
import jax
import jax.numpy as jnp
import numpy as np

from bigjax import cli, models
from bigjax.data import binarize
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.tasks import variational

ROWS = {  # row: (model, learning rate, epochs)
    'small': (models.spec('vqvae', 'small'), 1e-3, 5),
    'paper': (models.spec('vqvae', 'paper'), 2e-4, 100),
}
HELP = {'commitment': 'the factor of the term that keeps latents near their codes'}
TABLE = ('small',)
PARAMETERS = {'small': 227_985, 'paper': 4_926_529}
TINY = {'model.width': '4', 'model.inner': '4', 'model.codes': '8'}


def get_config(variant=''):
    """`variant` is a row, 'small' by default."""
    config = base_config()
    config.model, lr, epochs = choose('variant', variant or 'small', ROWS)
    config.optimizer = dict(name='adam', lr=lr)
    config.commitment = 0.25
    config.data = 'mnist'
    config.batch_size = 128
    config.steps = f'{epochs} epochs'
    return config


def get_experiment(config):
    """Encoder, codebook and decoder."""
    splits = open_data(config.data, like='mnist', data_dir=config.data_dir)
    split = splits.judged
    return Experiment(
        model=models.make(config.model, channels=splits.train.spec['image'].shape[-1], dtype=config.dtype),
        task=variational.vq(commitment=config.commitment),
        data=Data(splits.train, splits.evals, preprocess=binarize.to_unit, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, predict=codes, compute=usage, keep=(),
                                     better={'code_perplexity': 'higher', 'codes_used': 'higher'})},
        samples=report_images(splits.evals[split]),
    )


def codes(apply, variables, batch, rng):
    """The numbers of the codes, [B, h, w]."""
    return apply(variables, batch['image'], method='encode')[0][1]


def usage(outputs, examples) -> dict[str, float]:
    """How evenly the codebook is used by codes [N, h, w]."""
    counts = np.bincount(np.ravel(outputs))
    share = counts[counts > 0] / counts.sum()
    return {'code_perplexity': float(np.exp(-np.sum(share * np.log(share)))), 'codes_used': float(len(share))}


def report_images(test):
    """The report's images: originals beside their reconstructions."""
    def images(apply, variables, rng):
        image = jnp.asarray(test.arrays['image'][:48] / 255, jnp.float32)
        found = jax.jit(lambda v: apply(v, image)[0].image)(variables)
        beside = np.stack([image, jnp.clip(found, 0, 1)], axis=1)
        return {'reconstructions': beside.reshape(-1, *image.shape[1:])}

    return images


if __name__ == '__main__':
    cli.main()
