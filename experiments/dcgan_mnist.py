"""Generative adversarial networks on MNIST: four games with the networks of DCGAN.

    dcgan        Radford, Metz & Chintala (ICLR 2016): batch normalisation in both networks, the non-saturating loss, Adam of
                 2e-4 with a momentum of 0.5
    hinge        Miyato, Kataoka, Koyama & Yoshida (ICLR 2018): spectral normalisation and the hinge loss
    wgan_gp      Gulrajani, Ahmed, Arjovsky, Dumoulin & Courville (NeurIPS 2017): Wasserstein loss, a gradient penalty of 10,
                 five updates of the critic for one of the generator, Adam of 1e-4 with b1 = 0.5 and b2 = 0.9
    conditional  Miyato & Koyama (ICLR 2018): the class for the generator, and a projection discriminator, as row `hinge`
    dcgan64      the paper's sizes, images of 64 x 64 and 128 of them a step; wants an accelerator

The first four have 28 x 28 images and half the paper's width, for two CPU cores. The papers have no number for MNIST, so
nothing is expected. The two networks are two groups of parameters of one model with an optimizer each; the step is the one of
every model, and samples are drawn with a moving average of the generator.

    python -m experiments.dcgan_mnist --workdir=/tmp/gan                            the four rows
    python -m experiments.dcgan_mnist --workdir=/tmp/dcgan64 --variant=dcgan64
    python -m experiments.dcgan_mnist --workdir=/tmp/clothes --config.data=fashion_mnist --variant=hinge

Neither loss shows whether the samples are good (in evaluation of row `dcgan` they mean nothing at all: the discriminator has
learned to judge batches that are normalised apart), so `test/` has the figures of `bigjax.metrics.generated`, of as many
samples as there are test digits taken: `legible` (`legible_real` is that of real digits), `class_entropy`, `rarest_class`,
`frechet`, `precision` and `recall`, and of row `conditional` `intended`, the share of samples that look like the class they
were made for.
"""
import jax
import jax.numpy as jnp
import numpy as np

from bigjax import cli, models
from bigjax.data.datasets import open_data
from bigjax.data.sources import derived
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.metrics import generated
from bigjax.predict import interfaces
from bigjax.tasks import adversarial

ADAM = dict(name='adam', lr=2e-4, b1=0.5, groups=(('generator/.*', {}), ('discriminator/.*', {})))
CRITIC = dict(name='adam', lr=1e-4, b1=0.5, b2=0.9, groups=(('generator/.*', {'every': 5}), ('discriminator/.*', {})))
ROWS = {  # row: (model, game, gradient penalty, optimizer, minibatch, epochs)
    'dcgan': (models.spec('gan', latent=64, width=32), 'non_saturating', 0.0, ADAM, 64, 25),
    'hinge': (models.spec('gan', latent=64, width=32, norm='spectral'), 'hinge', 0.0, ADAM, 64, 25),
    'wgan_gp': (models.spec('gan', latent=64, width=32, norm='none'), 'wasserstein', 10.0, CRITIC, 64, 25),
    'conditional': (models.spec('gan', latent=64, width=32, norm='spectral'), 'hinge', 0.0, ADAM, 64, 25),
    'dcgan64': (models.spec('gan', size=64), 'non_saturating', 0.0, ADAM, 128, 25),
}
HELP = {'conditional': 'whether both networks are given the classes',
        'game': 'the losses of the two networks: non_saturating, hinge or wasserstein',
        'penalty': 'the factor of the gradient penalty',
        'judge': "the classifier that judges samples: mnist or fashion_mnist; '' is that of the data, none for your own",
        'judged': 'test images that samples are compared with, and as many samples'}
TABLE = ('dcgan', 'hinge', 'wgan_gp', 'conditional')
PARAMETERS = {'dcgan': 270_720, 'hinge': 270_689, 'wgan_gp': 270_689, 'conditional': 333_409, 'dcgan64': 6_338_176}
TINY = {'model.width': '4', 'model.latent': '5', 'judged': '50'}


def get_config(variant=''):
    """`variant` is a row; dcgan by default."""
    config = base_config()
    (config.model, config.game, config.penalty, config.optimizer, config.batch_size,
     epochs) = choose('variant', variant or 'dcgan', ROWS)
    config.conditional = variant == 'conditional'
    config.data = 'mnist'
    config.judge = ''
    config.steps = f'{epochs} epochs'
    config.ema = 0.999
    config.judged = 2000
    return config


def get_experiment(config):
    """Both networks in one model, and the judge."""
    splits = open_data(config.data, like='mnist', data_dir=config.data_dir)
    shape, classes = splits.train.spec['image'].shape, splits.info['classes']
    model = models.make(config.model, channels=shape[-1], classes=len(classes) if config.conditional else 0,
                        dtype=config.dtype)
    judge = config.judge or {'fake': 'mnist', **dict(zip(generated.NAMES, generated.NAMES, strict=True))}.get(config.data)
    if judge:
        generated.weights(judge)  # that there is no such judge is found before the training
        generated.check_shape(shape)
    split = splits.judged
    splits = derived(splits, lambda parts: {
        'train': parts['train'], split: {name: array[:config.judged] for name, array in parts[split].items()}})
    return Experiment(
        model=model,
        task=adversarial.gan(model.latent, config.game, config.penalty, label='label' if model.classes else ''),
        data=Data(splits.train, splits.evals, preprocess=to_tanh(model.size), info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, compute=judged(judge, classes, bool(model.classes)), keep=('image', 'label'),
                                     sums=False, better={'intended': 'higher', 'class_entropy': 'higher'})
                    if judge else Evaluator(split)},
        samples=samples(model.latent, model.classes),
        interface=interfaces.generator(draw(model.latent, model.classes)),
    )


def to_tanh(size: int):
    """Grey levels to -1..1, and images to size x size."""
    def apply(batch):
        image = batch['image'].astype(jnp.float32) / 127.5 - 1
        if image.shape[1] != size:
            image = jax.image.resize(image, (image.shape[0], size, size, image.shape[-1]), 'linear')
        return {**batch, 'image': image}

    return apply


def judged(name: str, classes, conditional: bool):
    """The evaluator's `compute`: samples [N, H, W, C] in -1..1 beside real images [N, 28, 28, 1] of uint8."""
    def compute(images, examples):
        images = np.asarray(images, np.float32) / 2 + 0.5
        if images.shape[1:] != generated.SHAPE:
            images = np.asarray(jax.image.resize(images, (len(images), *generated.SHAPE), 'linear'))
        found = generated.compared(images, examples['image'].astype(np.float32) / 255, name, classes)
        if conditional:
            found['intended'] = float(np.mean(generated.see(images, name).logits.argmax(1) == examples['label']))
        return found

    return compute


def generate(apply, variables, z, classes: int):
    """Images in 0..1 of latents; those of a conditional model are of the classes 0, 1, …, K - 1, 0, …"""
    label = (jnp.arange(len(z)) % classes,) if classes else ()
    return jax.jit(lambda v: apply(v, z, *label, method='generate')[0].astype(jnp.float32) / 2 + 0.5)(variables)


def draw(latent: int, classes: int):
    """Samples in 0..1."""
    def images(apply, variables, rng, count):
        return generate(apply, variables, jax.random.normal(rng, (count, latent)), classes)

    return images


def samples(latent: int, classes: int):
    """The report's images: samples, and the way between four of them, or from one style to another for every class."""

    def shown(apply, variables, rng):
        t = jnp.linspace(0, 1, 8)
        weight = jnp.sqrt(jnp.stack([1 - t, t], axis=1))  # mixtures keep the prior's variance
        if classes:
            ends = jax.random.normal(jax.random.fold_in(rng, 1), (2, latent))
            between = jnp.repeat(weight @ ends, classes, axis=0)
        else:
            corner = jax.random.normal(jax.random.fold_in(rng, 1), (2, 2, latent))
            between = jnp.einsum('ia,jb,abz->ijz', weight, weight, corner).reshape(-1, latent)
        z = jnp.concatenate([jax.random.normal(rng, (100, latent)), between])
        images = generate(apply, variables, z, classes)
        return {'samples': np.asarray(images[:100]), 'between_samples': np.asarray(images[100:])}

    return shown


if __name__ == '__main__':
    cli.main()
