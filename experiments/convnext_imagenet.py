"""ConvNeXt on ImageNet-1k.

Liu et al., "A ConvNet for the 2020s" (2022), table 1: 82.1 % with the tiny network, 83.1, 83.8 and 84.3 % with the others. The
recipe of their table 5: 300 epochs in batches of 4,096, AdamW with a rate of 4e-3 after 20 epochs of warm-up and a cosine,
decay of 0.05, RandAugment(9), mixup of 0.8 or cutmix of 1 in turn, Random Erasing of 0.25, label smoothing of 0.1, stochastic
depth of 0.1 to 0.5, layer scales that begin at 1e-6, and a moving average of the parameters.

    python -m experiments.convnext_imagenet --workdir=/tmp/convnext --variant=tiny --config.mesh=data:64
    python -m experiments.convnext_imagenet plan --variant=tiny --topology=v5e-64 --config.data=fake
    python -m experiments.convnext_imagenet --workdir=/tmp/mine --variant=tiny --config.data=folder:/path/to/images
"""
import functools

from bigjax import cli, models
from bigjax.data import augment, images, policies
from bigjax.data.datasets import open_data
from bigjax.data.imagenet_classes import words
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.predict import interfaces
from bigjax.tasks import classification

ROWS = {'tiny': (0.821, 0.1), 'small': (0.831, 0.4), 'base': (0.838, 0.5), 'large': (0.843, 0.5)}  # accuracy, stochastic depth
HELP = {'image_size': 'pixels of a side', 'mixup': 'alpha of mixup; 0: none', 'cutmix': 'alpha of cutmix; 0: none',
        'erasing': 'the share of images of which a part is erased', 'label_smoothing': 'the share of all classes in a target',
        'randaugment.layers': 'operations per image; 0: none', 'randaugment.magnitude': 'their strength, 0 to 10'}
PARAMETERS = {'tiny': 28_589_128, 'small': 50_223_688, 'base': 88_591_464, 'large': 197_767_336}
TINY = {'image_size': '32', 'model.blocks': '(1, 1)', 'model.widths': '(8, 16)', 'mixup': '0.0', 'cutmix': '0.0',
        'model.drop_path': '0.0', 'randaugment.layers': '0', 'dtype': 'float32', 'data_threads': '1'}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the training images, by channel


def get_config(variant=''):
    """`variant` is a size; tiny by default."""
    config = base_config()
    accuracy, drop_path = choose('variant', variant or 'tiny', ROWS)
    config.published = {'val/accuracy': dict(value=accuracy, tolerance=0.003, source='Liu et al. 2022, table 1',
                                             better='higher')}
    config.model = models.spec('convnext', variant or 'tiny', drop_path=drop_path, layer_scale=1e-6)
    config.data = 'imagenet2012'
    config.image_size = 224
    config.batch_size = 4096
    config.dtype = 'bfloat16'
    config.data_threads = 16
    config.steps = '300 epochs'
    config.log_every = 50
    config.eval_every = '5 epochs'
    config.checkpoint_every = 1000
    config.ema = 0.9999
    config.randaugment = dict(layers=2, magnitude=9.0)
    config.mixup = 0.8
    config.cutmix = 1.0
    config.erasing = 0.25
    config.label_smoothing = 0.1
    config.optimizer = dict(name='adamw', lr=4e-3, b1=0.9, b2=0.999, weight_decay=0.05, wd_mask='kernels',
                            schedule=dict(name='cosine', warmup='20 epochs', end=0.0))
    return config


def get_experiment(config):
    """A classifier of photographs."""
    splits = open_data(config.data, like='imagenet2012', data_dir=config.data_dir, encoded=True)
    classes = splits.info['classes']
    mixes = [mix(config[mix.__name__], len(classes)) for mix in (augment.mixup, augment.cutmix) if config[mix.__name__]]
    vary = [augment.random_flip(), policies.randaugment(**config.randaugment, mean=MEAN, std=STD),
            augment.random_erasing(config.erasing, sh=1 / 3, low=-2.0, high=2.0),
            *([augment.either(*mixes)] if len(mixes) == 2 else mixes)]
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), dtype=config.dtype),
        task=classification.softmax(label_smoothing=config.label_smoothing),
        data=Data(splits.train, splits.evals, transform=functools.partial(images.cropped, size=config.image_size),
                  preprocess=augment.normalize(MEAN, STD), augment=augment.chain(*vary), info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        expected=published(config),
        interface=interfaces.photographs(functools.partial(interfaces.classes, names=words(classes))),
    )


if __name__ == '__main__':
    cli.main()
