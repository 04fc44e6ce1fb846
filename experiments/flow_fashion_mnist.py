"""Flow matching of clothes: a Transformer that draws the article of a given class.

Lipman, Chen, Ben-Hamu, Nickel & Le, "Flow Matching for Generative Modeling" (ICLR 2023), with their straight paths, which are
those of Liu, Gong & Liu, "Flow Straight and Fast" (ICLR 2023): an image x and noise e are mixed as (1 - t) x + t e, the network
learns the velocity e - x, and samples follow it from noise to an image. The network is DiT (Peebles & Xie, ICCV 2023), training
times are logit-normal (Esser et al. 2024), the class is hidden in a tenth of the examples, for classifier-free guidance (Ho &
Salimans 2022), and samples are those of a moving average of the weights. None of the papers has Fashion-MNIST, so nothing is
expected. Row `small` is for two CPU cores: patches of 4, and 16 steps of Heun's method; `full` wants an accelerator.

    python -m experiments.flow_fashion_mnist --workdir=/tmp/flow                                   the table: `small`
    python -m experiments.flow_fashion_mnist sample --workdir=/tmp/flow --count=100
    python -m experiments.flow_fashion_mnist --workdir=/tmp/digits --config.data=mnist
    python -m experiments.flow_fashion_mnist --workdir=/tmp/full --variant=full                    on an accelerator

`test/loss` is the squared error of the velocities; samples are judged as in experiments/ddpm_mnist.py.
"""
import dataclasses

from bigjax import cli, models
from bigjax.experiment import base_config, choose
from bigjax.tasks.diffusion import Process
from bigjax.tasks.diffusion_samplers import Sampler
from experiments import ddpm_mnist

ADAM = dict(name='adam', lr=1e-3, clip_norm=1.0, schedule=dict(name='cosine', warmup='2%'))
ROWS = {  # row: (model, batch, epochs, optimizer, decay of the average)
    'small': (models.spec('diffusion.DiT', patch=4, width=192, num_layers=6, num_heads=6), 64, 8, ADAM, 0.998),
    'full': (models.spec('diffusion.DiT', 'dit_s2'), 256, 200, dict(ADAM, lr=3e-4), 0.9995),
}
HELP = ddpm_mnist.HELP
TABLE = ('small',)
PARAMETERS = {'small': 4_167_568, 'full': 32_469_508}
TINY = {'model.width': '16', 'model.num_layers': '1', 'model.num_heads': '2', 'model.patch': '7', 'sampler.steps': '2',
        'judged': '8'}


def get_config(variant=''):
    """`variant` is a row; small by default."""
    config = base_config()
    config.model, config.batch_size, epochs, config.optimizer, config.ema = choose('variant', variant or 'small', ROWS)
    config.conditional = True
    config.process = dataclasses.asdict(Process('flow', 'velocity', times='logit_normal'))
    config.sampler = dataclasses.asdict(Sampler('heun', steps=16, guidance=2.0, clip=0.0))
    config.data = 'fashion_mnist'
    config.steps = f'{epochs} epochs'
    config.judge, config.judged = '', 2000
    return config


def get_experiment(config):
    """A network that learns velocities, and the judge of what it draws."""
    return ddpm_mnist.get_experiment(config, like='fashion_mnist')


if __name__ == '__main__':
    cli.main()
