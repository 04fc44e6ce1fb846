"""Handwritten digits of 8 x 8 pixels: a classifier, a variational autoencoder and a diffusion model, each in one minute.

The 1,797 digits come with scikit-learn (Alpaydin & Kaynak 1998), so nothing is fetched; a fifth of each class is held out.
Every row takes up to a minute on two CPU cores, compilation included: the smallest complete run of each kind.

    python -m experiments.digits --workdir=/tmp/digits                               the table: all three
    python -m experiments.digits --workdir=/tmp/diffusion --variant=diffusion
    python -m experiments.digits sample --workdir=/tmp/diffusion --variant=diffusion --count=100

classifier   two convolutions; `test/accuracy`
vae          an encoder and a decoder of one hidden layer (Kingma & Welling 2014); `test/loss` is the negative bound in nats
diffusion    a DiT (Peebles & Xie 2023) that sees the class, on the cosine schedule (Nichol & Dhariwal 2021), predicting
             velocities (Salimans & Ho 2022); samples by 20 steps of DPM-Solver++ (Lu et al. 2022) with guidance

The judge of the samples is the nearest training digit, which names 98 % of the test digits rightly:
    intended       the share of samples whose nearest training digit has the class that was to be drawn; intended_real is
                   that of the test digits themselves
    two_sample     the accuracy with which the nearest neighbour tells samples from test digits (Xu et al. 2018): 0.5 is best
"""
import dataclasses

import numpy as np

from bigjax import cli, models
from bigjax.data import augment
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.models import diffusion as networks
from bigjax.predict import interfaces
from bigjax.tasks import classification, diffusion, variational
from bigjax.tasks import diffusion_samplers as samplers
from experiments import vae_mnist

COSINE = dict(name='cosine', warmup='2%')
ROWS = {  # row: (model, epochs, optimizer, other keys)
    'classifier': (models.spec('cnn', channels=(32, 64), kernels=(3, 3), pool='max', dense=(128,), dropout=0.3), 30,
                   dict(name='adam', lr=2e-3, schedule=COSINE), {}),
    'vae': (models.spec('vae', hidden=(256,), latent=10, activation='relu'), 100,
            dict(name='adam', lr=2e-3, schedule=COSINE), {}),
    'diffusion': (models.spec('diffusion.DiT', patch=2, width=128, num_layers=4, num_heads=4), 60,
                  dict(name='adam', lr=1e-3, clip_norm=1.0, schedule=COSINE),
                  {'ema': 0.99, 'process': dataclasses.asdict(diffusion.Process('cosine', 'velocity')),
                   'sampler': dataclasses.asdict(samplers.Sampler('dpm', steps=20, guidance=1.2))}),
}
HELP = samplers.HELP
TABLE = tuple(ROWS)
PARAMETERS = {'classifier': 53_002, 'vae': 41_044, 'diffusion': 1_272_324}
TINY = {'model.channels': '(4, 4)', 'model.hidden': '(16,)', 'model.width': '16', 'model.num_layers': '1'}


def get_config(variant=''):
    """`variant` is a row; the classifier by default."""
    config = base_config()
    config.model, epochs, config.optimizer, others = choose('variant', variant or 'classifier', ROWS)
    config.data = 'digits'
    config.batch_size = 64
    config.steps = f'{epochs} epochs'
    for key, value in others.items():
        config[key] = value
    return config


def get_experiment(config):
    """One of the three kinds, by the model's name."""
    splits = open_data(config.data, like='digits', data_dir=config.data_dir)
    kinds = {'cnn': classifier, 'vae': autoencoder, 'diffusion': denoiser}
    make = choose('config.model.name', config.model.name.partition('.')[0], kinds)
    return make(config, splits, splits.train.spec['image'].shape, splits.info['classes'])


def classifier(config, splits, shape, classes):
    """Softmax over ten classes."""
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), dtype=config.dtype), task=classification.softmax(),
        data=Data(splits.train, splits.evals, preprocess=augment.to_float(), augment=augment.translate(1.0), info=splits.info),
        optimizer=config.optimizer, evaluators={split: Evaluator(split) for split in splits.evals},
        interface=interfaces.classification(splits))


def autoencoder(config, splits, shape, classes):
    """The bound, with grey levels as the probabilities of ink."""
    model = models.make(config.model, shape=shape, dtype=config.dtype)
    return Experiment(
        model=model, task=variational.vae(),
        data=Data(splits.train, splits.evals, preprocess=augment.to_float(), info=splits.info),
        optimizer=config.optimizer, evaluators={split: Evaluator(split) for split in splits.evals},
        samples=vae_mnist.report_images(splits.evals[splits.judged], model.latent),
        interface=interfaces.generator(vae_mnist.prior(model.latent)))


def denoiser(config, splits, shape, classes):
    """A diffusion model of each class, judged by the nearest training digit."""
    process, sampler = diffusion.Process(**config.process), samplers.Sampler(**config.sampler)
    draw = samplers.drawer(process, sampler, shape, len(classes))
    model, known = models.make(config.model, num_classes=len(classes), dtype=config.dtype), splits.train
    return Experiment(
        model=model, task=diffusion.diffusion(process, len(classes)),
        data=Data(splits.train, splits.evals, preprocess=augment.normalize(0.5, 0.5), info=splits.info),
        optimizer=config.optimizer,
        evaluators={
            **{split: Evaluator(split) for split in splits.evals},
            'samples': Evaluator(splits.judged, predict=samplers.predictor(process, sampler, len(classes)), sums=False,
                                 compute=lambda found, examples: judge(found, examples, known), keep=('image', 'label'),
                                 every='100%')},
        samples=samplers.report_images(draw, shape, len(classes)), interface=interfaces.generator(draw),
        partition_rules=networks.partition_rules(model))


def judge(found, examples, known) -> dict[str, float]:
    """How samples [N, H, W, C] in 0..1 of the classes of test digits compare with these; see the top."""
    rows = lambda image: np.asarray(image, np.float32).reshape(len(image), -1)
    fake, real, train = rows(found), rows(examples['image']) / 255, rows(known.arrays['image']) / 255
    squares = lambda a, b: np.sum(a * a, 1)[:, None] + np.sum(b * b, 1) - 2 * a @ b.T
    named = lambda a: known.arrays['label'][squares(a, train).argmin(1)]
    both, own = np.concatenate([real, fake]), np.repeat([0, 1], [len(real), len(fake)])
    distance = squares(both, both)
    np.fill_diagonal(distance, np.inf)
    return {'intended': float(np.mean(named(fake) == examples['label'])),
            'intended_real': float(np.mean(named(real) == examples['label'])),
            'two_sample': float(np.mean(own[distance.argmin(1)] == own))}


if __name__ == '__main__':
    cli.main()
