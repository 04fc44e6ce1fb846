"""EfficientNet on ImageNet-1k.

Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (2019), table 2: 77.1 % with B0, to 84.3 %
with B7. Section 5.2: RMSProp with a decay and a momentum of 0.9, a rate of 0.256 in batches of 4,096 that is multiplied by
0.97 every 2.4 epochs, l2 of 1e-5, SiLU, stochastic depth of 0.2, dropout of 0.2 to 0.5, AutoAugment; the published code adds
5 epochs of warm-up, 350 epochs, label smoothing of 0.1 and a moving average of the parameters.

    python -m experiments.efficientnet_imagenet --workdir=/tmp/b0 --variant=b0 --config.mesh=data:64
    python -m experiments.efficientnet_imagenet plan --variant=b7 --topology=v5e-64 --config.data=fake
    python -m experiments.efficientnet_imagenet --workdir=/tmp/mine --variant=b0 --config.data=folder:/path/to/images
"""
import functools

from bigjax import cli, models
from bigjax.data import augment, images, policies
from bigjax.data.datasets import open_data
from bigjax.data.imagenet_classes import words
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.models.efficientnet import SCALES
from bigjax.predict import interfaces
from bigjax.tasks import classification

ROWS = {'b0': 0.771, 'b1': 0.791, 'b2': 0.801, 'b3': 0.816, 'b4': 0.829, 'b5': 0.836, 'b6': 0.840, 'b7': 0.843}
HELP = {'image_size': 'pixels of a side', 'label_smoothing': 'the share of all classes in a target',
        'autoaugment': 'vary images by the policy that was found for ImageNet'}
PARAMETERS = {'b0': 5_288_548, 'b1': 7_794_184}
TINY = {'image_size': '32', 'model.width_factor': '0.25', 'model.depth_factor': '0.1', 'model.drop_path': '0.0',
        'model.dropout': '0.0', 'autoaugment': 'False', 'dtype': 'float32', 'data_threads': '1'}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the training images, by channel


def get_config(variant=''):
    """`variant` is a size; b0 by default."""
    config = base_config()
    size = variant or 'b0'
    config.published = {'val/accuracy': dict(value=choose('variant', size, ROWS), tolerance=0.005,
                                             source='Tan & Le 2019, table 2', better='higher')}
    config.model = models.spec('efficientnet', size, drop_path=0.2)
    config.data = 'imagenet2012'
    config.image_size = SCALES[size][2]
    config.batch_size = 4096
    config.dtype = 'bfloat16'
    config.data_threads = 16
    config.steps = '350 epochs'
    config.log_every = 50
    config.eval_every = '5 epochs'
    config.checkpoint_every = 1000
    config.ema = 0.9999
    config.autoaugment = True
    config.label_smoothing = 0.1
    config.optimizer = dict(
        name='rmsprop', lr=0.256, decay=0.9, momentum=0.9, eps=1e-3, initial_scale=1.0, l2=1e-5,
        wd_mask='kernels',
        schedule=dict(name='exponential', factor=0.97, every='2.4 epochs', warmup='5 epochs'))
    return config


def get_experiment(config):
    """A classifier of photographs."""
    splits = open_data(config.data, like='imagenet2012', data_dir=config.data_dir, encoded=True)
    classes = splits.info['classes']
    vary = [augment.random_flip(), *([policies.autoaugment(mean=MEAN, std=STD)] if config.autoaugment else [])]
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
