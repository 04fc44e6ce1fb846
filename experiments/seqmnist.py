"""Sequential and permuted MNIST: a digit from its 784 pixels one after the other.

Bai, Kolter & Koltun, "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling" (2018),
table 1, networks of about 70,000 parameters, test accuracy in order and under one fixed permutation of the pixels: LSTM 87.2
and 85.7 %, GRU 96.2 and 87.3 %, TCN 99.0 and 97.2 %. Tables 2 and 3: the TCN has eight levels of 25 channels with kernels of
7; the LSTM has 130 units, RMSprop at 1e-3, gradients clipped to a norm of 1, and forget gates that start with a bias of 1, in
permuted order of 10. The authors' code trains the TCN with Adam at 2e-3 in batches of 64 for 20 epochs, with a tenth of the
rate from the eleventh on; the recurrent networks, whose length they do not give, have the same, and the GRU's units make it as
large. `transformer` is an encoder over the pixel values as tokens, for which nothing published is compared.

    python -m experiments.seqmnist --workdir=/tmp/seqmnist                               the table, on an accelerator
    python -m experiments.seqmnist --workdir=/tmp/one --variant=permuted,tcn             one row: ORDER,NETWORK
    python -m experiments.seqmnist --workdir=/tmp/short --variant=sequential,gru --config.steps='2 epochs'
    python -m experiments.seqmnist predict --workdir=/tmp/one digit.png
"""
from functools import partial

import jax.numpy as jnp
import numpy as np

from bigjax import cli, models
from bigjax.data import augment
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, choose_pair, published
from bigjax.models import bert
from bigjax.predict import interfaces
from bigjax.tasks import classification

TENTH = dict(name='step', boundaries=('10 epochs',), factor=0.1)
RMSPROP = dict(name='rmsprop', lr=1e-3, decay=0.99, eps=1e-8, eps_in_sqrt=False, clip_norm=1.0, schedule=TENTH)
NETWORKS = {  # network: (model, optimizer, the published accuracy and its tolerance in order and permuted)
    'lstm': (models.spec('rnn.RNNClassifier', 'sequential_mnist'), RMSPROP, (0.872, 0.05), (0.857, 0.05)),
    'gru': (models.spec('rnn.RNNClassifier', cell='gru', features=150), RMSPROP, (0.962, 0.02), (0.873, 0.03)),
    'tcn': (models.spec('timeseries.TCN', 'tcn_mnist', dropout=0.05), dict(name='adam', lr=2e-3, schedule=TENTH),
            (0.990, 0.003), (0.972, 0.005)),
    'transformer': (models.spec('bert', num_layers=2, num_heads=4, width=64, mlp_width=128, type_vocab=0, pool='mean',
                                dropout=0.05),
                    dict(name='adam', lr=1e-3, clip_norm=1.0, schedule=dict(name='cosine', warmup='5%')), None, None),
}
ORDERS = ('sequential', 'permuted')
FORGET = {'sequential': 1.0, 'permuted': 10.0}  # the bias of the LSTM's forget gates
ROWS = {f'{order},{network}': (order, network) for order in ORDERS for network in NETWORKS}
TABLE = tuple(ROWS)
OWN_ROWS = ('sequential,tcn',)
HELP = {'permuted': 'whether pixels come in one fixed random order'}
COUNTS = {'lstm': 70_470, 'gru': 70_360, 'tcn': 66_910, 'transformer': 134_282}
PARAMETERS = {row: COUNTS[network] for row, (_, network) in ROWS.items()}
TINY = {'model.features': '4', 'model.channels': '4', 'model.levels': '3', 'model.width': '16', 'model.mlp_width': '16',
        'model.num_layers': '1', 'model.dropout': '0.0'}
MEAN, STD = 0.1307, 0.3081  # of the pixels of the training images
VALUES = 256  # of a pixel


def get_config(variant=''):
    """`variant` is an order and a network, or one of the two; sequential,tcn by default."""
    config = base_config()
    order, network = choose_pair(variant, OWN_ROWS[0], NETWORKS)
    choose('variant', order, FORGET)
    config.model, config.optimizer, *numbers = choose('variant', network, NETWORKS)
    if network == 'lstm':
        config.model = dict(config.model, forget_bias=FORGET[order])
    if numbers[ORDERS.index(order)]:
        value, tolerance = numbers[ORDERS.index(order)]
        config.published = {'test/accuracy': dict(value=value, tolerance=tolerance, source='Bai et al. 2018, table 1',
                                                  better='higher')}
    config.permuted = order == 'permuted'
    config.data = 'mnist'
    config.batch_size = 64
    config.steps = '20 epochs'
    config.log_every = 100
    config.eval_every = '1 epoch'
    return config


def get_experiment(config):
    """A classifier of series of pixels."""
    splits = open_data(config.data, like='mnist', data_dir=config.data_dir)
    classes, shape = splits.info['classes'], splits.train.spec['image'].shape
    is_bert = config.model.name == 'bert'
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), vocab_size=VALUES if is_bert else 0,
                          block_size=int(np.prod(shape)), dtype=config.dtype),
        task=classification.softmax('tokens' if is_bert else 'x'),
        data=Data(splits.train, splits.evals, info=splits.info,
                  preprocess=partial(series, order=permutation(shape) if config.permuted else None, as_tokens=is_bert)),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        expected=published(config),
        partition_rules=bert.PARTITION_RULES if is_bert else (),
        interface=interfaces.classification(splits),
    )


def permutation(shape) -> np.ndarray:
    """The order of the pixels of an image [H, W, C], the same in every run."""
    return np.random.RandomState(0).permutation(shape[0] * shape[1])


def series(batch, order, as_tokens: bool):
    """'image' [B, H, W, C] as standardised 'x' [B, H W, C], or as 'tokens' [B, H W C] of its bytes, in `order` [H W]."""
    image = batch['image'] if as_tokens else augment.normalize(MEAN, STD)(batch)['image']
    B, H, W, C = image.shape
    pixels = image.reshape(B, H * W, C)
    pixels = pixels if order is None else pixels[:, order]
    rest = {name: value for name, value in batch.items() if name != 'image'}
    return {**rest, 'tokens': pixels.reshape(B, -1).astype(jnp.int32)} if as_tokens else {**rest, 'x': pixels}


if __name__ == '__main__':
    cli.main()
