"""ResNet-50 on ImageNet-1k, in batches of 256 and of 8,192.

Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour" (2017), table 1: the validation error is 23.60 %
in batches of 256 and 23.74 % in batches of 8,192 with a rate 32 times as large, reached in five epochs of warm-up. SGD with
Nesterov momentum, 90 epochs, a tenth of the rate after 30, 60 and 80; decay of 1e-4, not of the norms; crops of random size
and flips; the last norm of each block starts at zero, the last layer at a deviation of 0.01. The other depths are those of
He et al. 2016, with the recipe of the small batch.

    python -m experiments.resnet_imagenet --workdir=/tmp/resnet --variant=b8192 --config.mesh=data:256
    python -m experiments.resnet_imagenet plan --variant=b8192 --topology=v5e-64 --config.data=fake
    python -m experiments.resnet_imagenet --workdir=/tmp/mine --variant=resnet18 --config.data=folder:/path/to/images
"""
import functools

import flax.linen as nn

from bigjax import cli, models
from bigjax.data import augment, images
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.predict import interfaces
from bigjax.tasks import classification

ROWS = {  # row: (network, batch, accuracy and its deviation over five runs)
    'b256': ('resnet50', 256, (0.7640, 0.0012)), 'b8192': ('resnet50', 8192, (0.7626, 0.0009)),
    'resnet18': ('resnet18', 256, None), 'resnet101': ('resnet101', 256, None), 'resnet152': ('resnet152', 256, None)}
HELP = {'image_size': 'pixels of a side'}
PARAMETERS = {'b256': 25_557_032, 'b8192': 25_557_032, 'resnet18': 11_689_512, 'resnet101': 44_549_160,
              'resnet152': 60_192_808}
TINY = {'image_size': '32', 'model.blocks': '(1, 1)', 'model.widths': '(4, 8)', 'dtype': 'float32', 'data_threads': '1'}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the training images, by channel


def get_config(variant=''):
    """`variant` is a row; the small batch by default."""
    config = base_config()
    network, batch, accuracy = choose('variant', variant or 'b256', ROWS)
    config.model = models.spec('resnet', network, zero_last=True)
    if accuracy:
        config.published = {'val/accuracy': dict(value=accuracy[0], tolerance=0.003, source='Goyal et al. 2017, table 1',
                                                 std=accuracy[1], runs=5, better='higher')}
    config.data = 'imagenet2012'
    config.image_size = 224
    config.batch_size = batch
    config.dtype = 'bfloat16'
    config.data_threads = 16
    config.steps = '90 epochs'
    config.log_every = 50
    config.eval_every = '5 epochs'
    config.checkpoint_every = 1000
    config.optimizer = dict(
        name='sgd', lr=0.1 * batch / 256, momentum=0.9, nesterov=True, l2=1e-4, wd_mask='kernels',
        schedule=dict(name='step', boundaries=('30 epochs', '60 epochs', '80 epochs'), factor=0.1, warmup='5 epochs'))
    return config


def get_experiment(config):
    """A classifier of photographs."""
    splits = open_data(config.data, like='imagenet2012', data_dir=config.data_dir, encoded=True)
    classes = splits.info['classes']
    crop = functools.partial(images.cropped, size=config.image_size, area=(0.08, 1.0))
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), head_init=nn.initializers.normal(0.01), dtype=config.dtype),
        task=classification.softmax(),
        data=Data(splits.train, splits.evals, transform=crop, preprocess=augment.normalize(MEAN, STD),
                  augment=augment.random_flip(), info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        expected=published(config),
        interface=interfaces.classification(splits),
    )


if __name__ == '__main__':
    cli.main()
