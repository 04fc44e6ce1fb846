"""MNIST: LeNet-5, and the perceptrons of the Dropout paper.

Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov, "Dropout: A Simple Way to Prevent Neural Networks from
Overfitting" (JMLR 2014), table 2, test error without augmentation or pre-training: a standard network of 2 x 800
logistic units 1.60 % (Simard et al. 2003), dropout with 3 x 1024 ReLU 1.25 %, and with max-norm 1.06 %. Inputs are kept
with probability 0.8, hidden units with 0.5; momentum 0.95; the incoming weights of a unit are held to a norm of 2
(appendix B.1). The paper makes a million updates; these are 14,000 of 256 examples (60 epochs), with a learning rate that
falls to zero.
LeCun, Bottou, Bengio & Haffner, "Gradient-Based Learning Applied to Document Recognition" (1998): LeNet-5 0.95 %.

    python -m experiments.mnist --workdir=/tmp/mnist                          the table
    python -m experiments.mnist --workdir=/tmp/drop --variant=dropout         one row
"""
from functools import partial

from bigjax import cli, models
from bigjax.data import augment
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.metrics import confusion
from bigjax.predict import interfaces
from bigjax.tasks import classification

DROPOUT = models.spec('mlp', 'dropout_mnist')
SGD = dict(name='sgd', lr=0.1, momentum=0.95, schedule=dict(name='linear', warmup='1 epoch'))
ADAM = dict(name='adam', lr=1e-3, schedule='cosine')
TABLE_2 = 'Srivastava et al. 2014, table 2'
ROWS = {  # row: (model, optimizer, minibatch, epochs, the paper's test error, %, source)
    'lenet5': (models.spec('cnn', 'lenet5'), ADAM, 128, 20, 0.95, 'LeCun et al. 1998, section III'),
    'standard': (models.spec('mlp', features=(800, 800), activation='sigmoid'), SGD, 256, 60, 1.60, TABLE_2),
    'dropout': (DROPOUT, SGD, 256, 60, 1.25, TABLE_2),
    'maxnorm': (DROPOUT, dict(SGD, max_norm=2.0), 256, 60, 1.06, TABLE_2),
}
TABLE = tuple(ROWS)
PARAMETERS = {'lenet5': 61_706, 'standard': 1_276_810, 'dropout': 2_913_290, 'maxnorm': 2_913_290}


def get_config(variant=''):
    """`variant` is a row of the table; dropout by default."""
    config = base_config()
    config.model, config.optimizer, config.batch_size, epochs, error, source = choose('variant', variant or 'dropout', ROWS)
    config.published = {'test/error': dict(value=error, tolerance=0.10, source=source, better='lower')}
    config.data = 'mnist'
    config.steps = f'{epochs} epochs'
    return config


def get_experiment(config):
    """A classifier of images."""
    splits = open_data(config.data, like='mnist', data_dir=config.data_dir)
    classes = splits.info['classes']
    judge = partial(confusion.error_rate, classes=classes)
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), dtype=config.dtype),
        task=classification.softmax(),
        data=Data(splits.train, splits.evals, preprocess=augment.to_float(), info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, compute=judge) for split in splits.evals},
        expected=published(config),
        interface=interfaces.classification(splits),
    )


if __name__ == '__main__':
    cli.main()
