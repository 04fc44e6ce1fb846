"""CIFAR-10: residual networks, and the small network of tutorials.

He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016), section 4.2 and table 6: test error of
ResNet-20 8.75 %, ResNet-56 6.97 %. SGD with momentum, 64,000 steps of 128, a tenth of the rate at 32,000 and 48,000,
crops out of four pixels of padding, flips; shortcuts without parameters. (The paper subtracts the mean of each pixel;
here the mean of each channel is subtracted and its deviation divided out.)

    python -m experiments.cifar10 --workdir=/tmp/cifar --variant=resnet20      cnn, resnet20 or resnet56
    python -m experiments.cifar10 --workdir=/tmp/try --variant=cnn --config.data=fake

The data is TFDS's 'cifar10'; where it is missing, the error gives the command that gets it.
"""
from functools import partial

from bigjax import cli, models
from bigjax.data import augment
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.metrics import confusion
from bigjax.predict import interfaces
from bigjax.tasks import classification

SGD = dict(name='sgd', lr=0.1, momentum=0.9, l2=1e-4, schedule=dict(name='step', boundaries=('50%', '75%'), factor=0.1))
ADAM = dict(name='adam', lr=1e-3, schedule='cosine')
ROWS = {  # row: (model, optimizer, steps, pixels of padding to crop out of, the paper's test error in percent)
    'cnn': (models.spec('cnn', 'cifar'), ADAM, '10 epochs', 0, None),
    'resnet20': (models.spec('resnet', 'resnet20'), SGD, 64_000, 4, 8.75),
    'resnet56': (models.spec('resnet', 'resnet56'), SGD, 64_000, 4, 6.97),
}
HELP = {'crop': 'pixels of padding that a training image is cropped out of; 0 leaves it as it is'}
TABLE = tuple(ROWS)
PARAMETERS = {'cnn': 545_098, 'resnet20': 269_722, 'resnet56': 853_018}
TINY = {'model.blocks': '(1, 1, 1)', 'model.widths': '(4, 8, 8)', 'model.channels': '(4, 4)'}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training images, by channel


def get_config(variant=''):
    """`variant` is a row of the table; the tutorial's network by default."""
    config = base_config()
    config.model, config.optimizer, config.steps, config.crop, error = choose('variant', variant or 'cnn', ROWS)
    if error:
        config.published = {'test/error': dict(value=error, tolerance=0.50, source='He et al. 2016, table 6', better='lower')}
    config.data = 'cifar10'
    config.batch_size = 128
    return config


def get_experiment(config):
    """A classifier of images."""
    splits = open_data(config.data, like='cifar10', data_dir=config.data_dir)
    classes = splits.info['classes']
    judge = partial(confusion.error_rate, classes=classes)
    vary = augment.chain(augment.random_crop(config.crop), augment.random_flip()) if config.crop else None
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), dtype=config.dtype),
        task=classification.softmax(),
        data=Data(splits.train, splits.evals, preprocess=augment.normalize(MEAN, STD), augment=vary, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, compute=judge) for split in splits.evals},
        expected=published(config),
        interface=interfaces.classification(splits),
    )


if __name__ == '__main__':
    cli.main()
