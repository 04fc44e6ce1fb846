"""MNIST-1D: four architectures on digits of 40 samples.

Greydanus & Kobak, "Scaling Down Deep Learning with MNIST-1D" (ICML 2024): test accuracies of 32 % (logistic regression),
68 % (MLP), 94 % (CNN) and 91 % (GRU). The setup is that of the paper's code: Adam at 1e-2, batches of 100 in the order of
the data, 6,000 steps; four seeds are trained at once where the paper has one.

    python -m experiments.mnist1d --workdir=/tmp/m1d                  the table, four seeds a row
    python -m experiments.mnist1d --workdir=/tmp/cnn --variant=cnn    one row
    python -m launch sweep run --on=local:2 -- python -m experiments.mnist1d --workdir=/tmp/lr --variant=cnn
"""
from functools import partial

from bigjax import cli, models
from bigjax.data.datasets import open_data
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.metrics import confusion
from bigjax.predict import interfaces
from bigjax.sweep import grid
from bigjax.tasks import classification

ROWS = {  # row: (model, the paper's accuracy)
    'logistic': (models.spec('mlp', 'mnist1d_logistic'), 0.32),
    'mlp': (models.spec('mlp', 'mnist1d'), 0.68),
    'cnn': (models.spec('cnn', 'mnist1d'), 0.94),
    'gru': (models.spec('rnn.RNNClassifier', 'mnist1d'), 0.91),
}
SOURCE = 'Greydanus & Kobak 2024, the table of section 2'
TABLE = tuple(ROWS)
PARAMETERS = {'logistic': 410, 'mlp': 15_210, 'cnn': 5_210, 'gru': 5_134}


def get_config(variant=''):
    """`variant` is a row of the table; the MLP by default."""
    config = base_config()
    config.model, accuracy = choose('variant', variant or 'mlp', ROWS)
    config.published = {'test/accuracy': dict(value=accuracy, tolerance=0.03, source=SOURCE)}
    config.data = 'mnist1d'
    config.batch_size = 100
    config.steps = 6000
    config.population = 4
    config.optimizer = dict(name='adam', lr=1e-2)
    return config


def sweep():
    """Learning rates around the paper's, four seeds each."""
    return grid({'optimizer.lr': (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)})


def get_experiment(config):
    """A classifier of series."""
    splits = open_data(config.data, like='mnist1d', data_dir=config.data_dir)
    classes = splits.info['classes']
    judge = partial(confusion.confusion, classes=classes)
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), dtype=config.dtype),
        task=classification.softmax('x'),
        data=Data(splits.train, splits.evals, shuffle=False, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, compute=judge) for split in splits.evals},
        expected=published(config),
        interface=interfaces.classification(splits),
    )


if __name__ == '__main__':
    cli.main()
