"""Plain Vision Transformers on ImageNet-1k.

Beyer, Zhai & Kolesnikov, "Better plain ViT baselines for ImageNet-1k" (2022): S/16 in 90 epochs reaches 76.5 %. Batches of
1,024, Adam with a rate of 1e-3 after 10,000 steps of warm-up and a cosine to zero, decoupled weight decay of 1e-4 (0.1 of
the rate), clipped to a norm of 1, Inception crops, flips, RandAugment(2, 10), mixup of 0.2; sine-cosine positions, the mean
of the patches, a tanh layer before the head. The other sizes are those of Steiner et al. 2021.

    python -m experiments.vit_imagenet --workdir=/tmp/vit --variant=s16 --config.mesh=data:8
    python -m experiments.vit_imagenet plan --variant=s16 --topology=v5e-64 --config.data=fake
    python -m experiments.vit_imagenet --workdir=/tmp/mine --variant=ti16 --config.data=folder:/path/to/images
"""
import functools

from bigjax import cli, models
from bigjax.data import augment, images, policies
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.models import vit
from bigjax.predict import interfaces
from bigjax.tasks import classification

ROWS = {'ti16': None, 's16': 0.765, 'b16': None, 'l16': None}  # size: published accuracy
HELP = {'image_size': 'pixels of a side', 'mixup': 'alpha of mixup; 0: none',
        'randaugment.layers': 'operations per image; 0: none', 'randaugment.magnitude': 'their strength, 0 to 10'}
PARAMETERS = {'ti16': 5_716_456, 's16': 22_122_472, 'b16': 87_006_184, 'l16': 305_173_480}
TINY = {'image_size': '32', 'model.width': '16', 'model.num_layers': '2', 'model.num_heads': '4', 'mixup': '0.0',
        'randaugment.layers': '0', 'dtype': 'float32', 'data_threads': '1'}


def get_config(variant=''):
    """`variant` is a size; s16 by default."""
    config = base_config()
    size = variant or 's16'
    if accuracy := choose('variant', size, ROWS):
        config.published = {'val/accuracy': dict(value=accuracy, tolerance=0.005, source='Beyer et al. 2022, 90 epochs',
                                                 better='higher')}
    config.model = models.spec('vit', size, patch=16, pool='mean', positions='sincos2d', pre_logits=True, dropout=0.0,
                               scan=False, remat='none', microbatches=0)
    config.data = 'imagenet2012'
    config.image_size = 224
    config.batch_size = 1024
    config.dtype = 'bfloat16'
    config.data_threads = 16
    config.steps = '90 epochs'
    config.log_every = 50
    config.eval_every = '5 epochs'
    config.checkpoint_every = 1000
    config.randaugment = dict(layers=2, magnitude=10.0)
    config.mixup = 0.2
    config.optimizer = dict(name='adamw', lr=1e-3, b1=0.9, b2=0.999, weight_decay=0.1, wd_mask='kernels', clip_norm=1.0,
                            schedule=dict(name='cosine', warmup=10_000, end=0.0))
    return config


def get_experiment(config):
    """A classifier of photographs."""
    splits = open_data(config.data, like='imagenet2012', data_dir=config.data_dir, encoded=True)
    classes = splits.info['classes']
    vary = [augment.random_flip(),
            policies.randaugment(**config.randaugment, operations='tf', fill=policies.GREY, mean=0.5, std=0.5)]
    if config.mixup:
        vary.append(augment.mixup(config.mixup, len(classes)))
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), dtype=config.dtype),
        task=classification.softmax(),
        data=Data(splits.train, splits.evals, transform=functools.partial(images.cropped, size=config.image_size),
                  preprocess=augment.normalize(0.5, 0.5), augment=augment.chain(*vary), info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        expected=published(config),
        interface=interfaces.classification(splits),
        partition_rules=vit.PARTITION_RULES,
    )


if __name__ == '__main__':
    cli.main()
