"""Denoising diffusion of MNIST: a U-Net that draws the digit of a given class.

Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models" (NeurIPS 2020): noise is added in 1,000 steps of β from 1e-4 to
0.02, a U-Net with attention predicts it, and samples follow the process back (row `ddpm`, without classes, which wants an
accelerator; the paper has CIFAR-10 and no number for MNIST). Row `small`, for two CPU cores, sees patches of two by two
pixels as one place, predicts velocities (Salimans & Ho 2022) on the cosine schedule (Nichol & Dhariwal 2021), sees the
class, and samples by 25 steps of DPM-Solver++ (Lu et al. 2022) with classifier-free guidance (Ho & Salimans 2022). Samples
are those of a moving average of the weights.

    python -m experiments.ddpm_mnist --workdir=/tmp/ddpm                                    the table: `small`
    python -m experiments.ddpm_mnist sample --workdir=/tmp/ddpm --count=100
    python -m experiments.ddpm_mnist eval --workdir=/tmp/ddpm --config.sampler.method=ddim --config.sampler.steps=50
    python -m experiments.ddpm_mnist --workdir=/tmp/full --variant=ddpm                     on an accelerator

`test/loss` is the squared error of the predictions. Samples are judged by a classifier of our own
(`bigjax.metrics.generated`), as many as there are test digits taken: `legible` (`legible_real` is that of real digits),
`class_entropy`, `rarest_class`, `frechet`, `precision`, `recall`, and of a model that sees the class `intended`, the share of
samples in which the judge finds it. Images of one's own are not judged, but for `--config.judge`.
"""
import dataclasses

import numpy as np

from bigjax import cli, models
from bigjax.data import augment
from bigjax.data.datasets import open_data
from bigjax.data.sources import derived
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.metrics import generated
from bigjax.models import diffusion as networks
from bigjax.predict import interfaces
from bigjax.tasks import diffusion_samplers as samplers
from bigjax.tasks.diffusion import Process, diffusion
from bigjax.tasks.diffusion_samplers import Sampler

ROWS = {  # row: (model, whether it sees the class, process, sampler, batch, epochs, optimizer, decay of the average)
    'small': (models.spec('diffusion.UNet', width=48, multipliers=(1, 2), blocks=1, attention=(7,), heads=2, groups=8, patch=2),
              True, Process('cosine', 'velocity'), Sampler('dpm', steps=25, guidance=1.5), 64, 6,
              dict(name='adam', lr=1e-3, clip_norm=1.0, schedule=dict(name='cosine', warmup='2%')), 0.995),
    'ddpm': (models.spec('diffusion.UNet', width=64, multipliers=(1, 2, 2), blocks=2, attention=(14,), groups=32, dropout=0.1),
             False, Process('linear', 'noise'), Sampler('ddpm', steps=1000), 128, 200,
             dict(name='adam', lr=2e-4, clip_norm=1.0, schedule=dict(name='constant', warmup=5000)), 0.9999),
}
HELP = {
    'conditional': 'whether the network sees the class',
    'judge': 'the classifier that judges samples: mnist or fashion_mnist; that of the data where empty',
    'judged': 'test images that samples are compared with, and as many samples', **samplers.HELP}
TABLE = ('small',)
PARAMETERS = {'small': 1_578_196, 'ddpm': 6_469_889}
TINY = {'model.width': '8', 'model.multipliers': '(1, 2)', 'model.blocks': '1', 'model.groups': '4', 'sampler.steps': '2',
        'judged': '8'}


def get_config(variant=''):
    """`variant` is a row; small by default."""
    config = base_config()
    (config.model, config.conditional, process, sampler, config.batch_size, epochs, config.optimizer,
     config.ema) = choose('variant', variant or 'small', ROWS)
    config.process, config.sampler = dataclasses.asdict(process), dataclasses.asdict(sampler)
    config.data = 'mnist'
    config.steps = f'{epochs} epochs'
    config.judge, config.judged = '', 2000
    return config


def get_experiment(config, like='mnist'):
    """A network that parts images from noise, and the judge of what it draws."""
    splits = open_data(config.data, like=like, data_dir=config.data_dir)
    classes = len(splits.info['classes']) if config.conditional else 0
    process, sampler, shape = Process(**config.process), Sampler(**config.sampler), splits.train.spec['image'].shape
    draw = samplers.drawer(process, sampler, shape, classes)
    split, judge = splits.judged, config.judge or {name: name for name in generated.NAMES}.get(
        like if config.data == 'fake' else config.data)
    if judge:
        generated.weights(judge)  # that there is no such judge is found before the training
        generated.check_shape(shape)
    splits = derived(splits, lambda parts: {
        'train': parts['train'], split: {key: array[:config.judged] for key, array in parts[split].items()}})
    model = models.make(config.model, num_classes=classes, dtype=config.dtype)
    return Experiment(
        model=model,
        task=diffusion(process, classes),
        data=Data(splits.train, splits.evals, preprocess=augment.normalize(0.5, 0.5), info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split)} | ({} if not judge else {'samples': Evaluator(
            split, predict=samplers.predictor(process, sampler, classes),
            compute=judged(judge, splits.info['classes'], classes), keep=('image', 'label'), sums=False, every='100%',
            better={'intended': 'higher', 'class_entropy': 'higher'})}),
        samples=samplers.report_images(draw, shape, classes),
        interface=interfaces.generator(draw),
        partition_rules=networks.partition_rules(model),
    )


def judged(name: str, names, classes: int):
    """The evaluator's `compute`: samples [N, H, W, C] in 0..1 beside as many real images of uint8."""
    def compute(found, examples):
        metrics = generated.compared(found, examples['image'].astype(np.float32) / 255, name, names)
        if classes:
            metrics['intended'] = float(np.mean(generated.see(found, name).logits.argmax(1) == examples['label']))
        return metrics

    return compute


if __name__ == '__main__':
    cli.main()
