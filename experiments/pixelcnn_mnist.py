"""PixelCNN on MNIST in black and white: the exact likelihood of an image, pixel after pixel.

van den Oord et al., "Pixel Recurrent Neural Networks" (ICML 2016), table 4: 81.30 nats for a PixelCNN on binarised MNIST. The
network here is the gated one of "Conditional Image Generation with PixelCNN Decoders" (NIPS 2016), which sees all pixels above.
The papers give no recipe for MNIST: `small` has seven layers of 24 features and Adam at 1e-3 with a cosine. Theirs is one fixed
draw of the training images too; here, as in `experiments.iwae_mnist`, a pixel is 1 with a probability of its grey level, drawn
anew whenever a training image is seen and once for the test images.

`test/loss` is -log p(x) of the test images in nats, exactly; `test/bpd` the same in bits per pixel. `samples/` has the figures
of `bigjax.metrics.generated`: `legible` of draws, `legible_real` of test images in black and white. The report shows samples,
and test images whose lower half the model has drawn three times.

    python -m experiments.pixelcnn_mnist --workdir=/tmp/pixelcnn
    python -m experiments.pixelcnn_mnist --workdir=/tmp/wide --variant=wide            on an accelerator
    python -m experiments.pixelcnn_mnist sample --workdir=/tmp/pixelcnn --count=64
"""
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bigjax import cli, models
from bigjax.data import binarize
from bigjax.data.datasets import open_data
from bigjax.data.sources import derived
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.metrics import drawn
from bigjax.models import pixelcnn
from bigjax.predict import interfaces
from bigjax.tasks import density

ROWS = {  # row: (model, minibatch, epochs)
    'small': (models.spec('pixelcnn', 'mnist'), 64, 4),
    'wide': (models.spec('pixelcnn', 'mnist', width=64, head=128), 64, 50),
}
HELP = {'judged': 'test images beside as many samples that the classifier of digits judges'}
TABLE = ('small',)
PARAMETERS = {'small': 79_466, 'wide': 552_386}
TINY = {'judged': '20', 'model.layers': '2', 'model.width': '4', 'model.head': '4', 'model.first_kernel': '3'}
COMPLETED = 16  # test images


def get_config(variant=''):
    """`variant` is a row, 'small' by default."""
    config = base_config()
    config.model, config.batch_size, epochs = choose('variant', variant or 'small', ROWS)
    config.optimizer = dict(name='adam', lr=1e-3, clip_norm=1.0, schedule=dict(name='cosine', warmup='2%'))
    config.published = {'test/loss': dict(value=81.30, tolerance=1.0, better='lower',
                                          source='van den Oord et al. 2016, table 4, PixelCNN')}
    config.data = 'mnist'
    config.judged = 500
    config.steps = f'{epochs} epochs'
    config.log_every = '20%'
    config.eval_every = '20%'
    return config


def get_experiment(config):
    """Both stacks, and the likelihood."""
    given = open_data(config.data, like='mnist', data_dir=config.data_dir)
    splits, split, judge = binarize.splits(given), given.judged, drawn.judge_of(config.data)
    shape = splits.train.spec['image'].shape
    splits = derived(splits, lambda parts: {**parts, 'samples': {'image': parts[split]['image'][:config.judged]}})
    model = models.make(config.model, channels=shape[-1], dtype=config.dtype)
    return Experiment(
        model=model,
        task=density.autoregressive(),
        data=Data(splits.train, splits.evals, preprocess=binarize.to_unit, augment=binarize.draw, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split), **({'samples': Evaluator(
            'samples', every='100%', **drawn.judged(draw(shape, model.levels), judge))} if judge else {})},
        expected=published(config),
        samples=report_images(splits.evals[split], model.levels),
        interface=interfaces.generator(draw(shape, model.levels)),
    )


def draw(shape, levels: int):
    """Images of which every pixel is drawn."""
    sample = jax.jit(partial(pixelcnn.sample, levels=levels), static_argnums=0)

    def images(apply, variables, rng, count):
        return sample(apply, variables, rng, jnp.zeros((count, *shape)))

    return images


def report_images(test, levels: int):
    """The report's images: samples, and originals each followed by three images that share its upper half."""
    def images(apply, variables, rng):
        image = test.arrays['image'][:COMPLETED].astype(np.float32) / 255
        half = image.shape[1] // 2
        complete = jax.jit(partial(pixelcnn.sample, apply, levels=levels, start=half))
        upper = np.repeat(image, 3, axis=0)
        upper[:, half:] = 0
        lower = np.asarray(complete(variables, rng, upper)).reshape(len(image), 3, *image.shape[1:])
        return {'samples': np.asarray(draw(image.shape[1:], levels)(apply, variables, rng, 64)),
                'completions': np.concatenate([image[:, None], lower], axis=1).reshape(-1, *image.shape[1:])}

    return images


if __name__ == '__main__':
    cli.main()
