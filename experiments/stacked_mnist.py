"""Stacked MNIST: how many of 1,000 modes a generative adversarial network finds.

Lin, Khetan, Fanti & Oh, "PacGAN: The Power of Two Samples in Generative Adversarial Networks" (NeurIPS 2018): three random
digits are the red, green and blue channels of one image, which makes 1,000 modes. A classifier reads the three digits of 26,000
samples. Their DCGAN finds 99.0 modes at a divergence of 3.40 nats from the uniform distribution, and PacDCGAN2, whose
discriminator sees two images at once, 1000.0 at 0.06. `test/modes` and `test/kl` are these figures; 26,000 samples of an even
distribution have a divergence of 0.02 themselves.

As in the authors' code there are 128,000 training images, 64 packs a step, Adam of 2e-4 with a momentum of 0.5, and two
updates of the generator for one of the discriminator (a step here is one of the generator, so their 50 epochs are 200,000
steps). Three things differ: the networks are those of this repository, half as wide, which halve 28 pixels twice, with kernels
of 4 x 4, where theirs halve them four times, with kernels of 5 x 5; the judge is ours; training digits are of the training set.

    python -m experiments.stacked_mnist --workdir=/tmp/stacked                       both rows, the first tenth of the recipe
    python -m experiments.stacked_mnist --workdir=/tmp/pac3 --variant=pac3           another pack, 1 (dcgan) to 4
    python -m experiments.stacked_mnist --workdir=/tmp/full --config.steps=200000    the whole, on an accelerator
"""
import numpy as np

from bigjax import cli, models
from bigjax.data.datasets import open_data
from bigjax.data.sources import derived
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.metrics import generated
from bigjax.predict import interfaces
from bigjax.tasks import adversarial
from experiments.dcgan_mnist import draw, samples, to_tanh

TABLE_2 = 'Lin et al. 2018, table 2'
ROWS = {  # row: (images in a pack, the paper's modes, its tolerance)
    'dcgan': (1, 99.0, 50.0), 'pac2': (2, 1000.0, 5.0), 'pac3': (3, 1000.0, 5.0), 'pac4': (4, 1000.0, 5.0),
}
HELP = {'images': 'training images, three random digits each', 'judged': 'samples whose modes are counted'}
TABLE = ('dcgan', 'pac2')
PARAMETERS = {'dcgan': 385_664, 'pac2': 387_200, 'pac3': 388_736, 'pac4': 390_272}
TINY = {'model.width': '4', 'model.latent': '5', 'images': '60', 'judged': '50'}
PACKS = 64  # of a step


def get_config(variant=''):
    """`variant` is a row; pac2 by default."""
    config = base_config()
    pack, modes, tolerance = choose('variant', variant or 'pac2', ROWS)
    config.model = models.spec('gan', 'mnist', channels=3, width=32, pack=pack)
    config.published = {'test/modes': dict(value=modes, tolerance=tolerance, source=TABLE_2)}
    config.data = 'mnist'
    config.images = 128_000
    config.judged = 26_000
    config.batch_size = PACKS * pack
    config.steps = 20_000
    config.eval_every = '25%'
    config.optimizer = dict(name='adam', lr=2e-4, b1=0.5, groups=(('generator/.*', {}), ('discriminator/.*', {'every': 2})))
    return config


def get_experiment(config):
    """Both networks in one model, and the count of modes."""
    splits = open_data(config.data, like='mnist', data_dir=config.data_dir)
    generated.check_shape(splits.train.spec['image'].shape)
    model = models.make(config.model, dtype=config.dtype)
    split = splits.judged
    splits = derived(splits, lambda parts: {'train': stacked(parts['train'], config.images, 0),
                                            split: stacked(parts[split], config.judged, 1)})
    return Experiment(
        model=model,
        task=adversarial.gan(model.latent),
        data=Data(splits.train, splits.evals, preprocess=to_tanh(model.size), info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, compute=modes, keep=(), sums=False, better={'kl': 'lower'})},
        expected=published(config),
        samples=samples(model.latent, model.classes),
        interface=interfaces.generator(draw(model.latent, model.classes)),
    )


def stacked(digits, count: int, seed: int) -> dict[str, np.ndarray]:
    """Three random digits as the channels of each of `count` images; the label is the number that they make, 0 to 999."""
    chosen = np.random.default_rng(seed).integers(0, len(digits['label']), (3, count))
    image = np.concatenate([digits['image'][row] for row in chosen], axis=-1)
    return {'image': image, 'label': (np.array([100, 10, 1]) @ digits['label'][chosen]).astype(np.int32)}


def modes(images, examples) -> dict:
    """The number of modes among samples [N, 28, 28, 3] in -1..1, their divergence from 1,000 equally frequent ones in nats, and
    the share of channels that are legible."""
    channels = [generated.see(np.asarray(images[..., k:k + 1], np.float32) / 2 + 0.5).logits for k in range(3)]
    numbers = np.array([100, 10, 1]) @ np.stack([logits.argmax(1) for logits in channels])
    counts = np.bincount(numbers, minlength=1000)
    return {'modes': int((counts > 0).sum()), 'kl': float(np.log(1000) - generated.entropy(counts / counts.sum())),
            'legible': generated.legibility(np.concatenate(channels))}


if __name__ == '__main__':
    cli.main()
