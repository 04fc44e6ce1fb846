"""Strings longer than those of training: which networks learn the rule of a regular language.

Delétang, Ruoss, Grau-Moya, Genewein, Wenliang, Catt, Cundy, Hutter, Legg, Veness & Ortega, "Neural Networks and the Chomsky
Hierarchy" (ICLR 2023): networks are trained on strings of up to 40 letters and tested on 41 to 500. Recurrent networks, which
can keep a state, solve regular tasks; Transformers do not. The tasks: whether the number of ab and ba in a string is even,
whether that of b is even, and the place on a cycle of five after a walk.

The paper trains networks of 256 features for 1,000,000 steps of 128 strings with Adam, and reports the best of several seeds
and rates. Here a run is made for two CPU cores: 64 features and a few thousand steps at one rate, one seed, so that nothing
published is compared; `--config.model.features=256 --config.steps=1_000_000` is the paper's size. test/accuracy is the mean
over lengths, each with as many strings; a guess is right in half of the cases, on the cycle in a fifth.

    python -m experiments.chomsky --workdir=/tmp/chomsky                                 the table
    python -m experiments.chomsky --workdir=/tmp/one --variant=parity_check,lstm         one row
    python -m experiments.chomsky predict --workdir=/tmp/one abbaab
"""
import functools

import numpy as np

from bigjax import cli, models
from bigjax.data import padding
from bigjax.data.datasets import open_data
from bigjax.data.loaders.formal import LANGUAGES
from bigjax.errors import UserError
from bigjax.experiment import Data, Evaluator, Experiment, Interface, base_config, choose
from bigjax.predict import interfaces
from bigjax.tasks import classification

NETWORKS = {  # network: (its fields, learning rate)
    'rnn': (models.spec('rnn.RNNClassifier', cell='rnn', features=64, embed=16), 1e-3),
    'lstm': (models.spec('rnn.RNNClassifier', cell='lstm', features=64, embed=16), 3e-3),
}
ROWS = {f'{language},{network}': (language, network) for language in LANGUAGES for network in NETWORKS}
TABLE = tuple(ROWS)
PARAMETERS = {row: {'rnn': 5_426, 'lstm': 21_170}[network] + (211 if language == 'cycle_navigation' else 0)
              for row, (language, network) in ROWS.items()}
TINY = {'model.features': '8', 'model.embed': '4'}


def get_config(variant=''):
    """`variant` is a task and a network, 'parity_check,lstm' by default."""
    config = base_config()
    language, network = choose('variant', variant or 'parity_check,lstm', ROWS)
    config.model, rate = NETWORKS[network]
    config.data = f'formal/{language}'
    config.batch_size = 128
    config.steps = 4000
    config.log_every = 100
    config.eval_every = '25%'
    config.eval_batch_size = 460
    config.optimizer = dict(name='adam', lr=rate, clip_norm=1.0)
    return config


def get_experiment(config):
    """A classifier of strings."""
    splits = open_data(config.data, like='formal/parity_check', data_dir=config.data_dir)
    classes, letters = splits.info['classes'], splits.info.get('letters', '')
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), vocab_size=len(letters) + 1, dtype=config.dtype),
        task=classification.softmax('tokens'),
        data=Data(splits.train, splits.evals, preprocess=padding.masked(), info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        interface=strings(letters, classes),
    )


def strings(letters: str, classes) -> Interface:
    """A string of letters to the property of it."""
    def parse(raw):
        text = str(raw).strip()
        if not text or not set(text) <= set(letters):
            raise UserError(f'a string: got {text!r}, expected letters among {letters}; fix: correct it', code='predict/word')
        return {'tokens': np.array([letters.index(letter) + 1 for letter in text], np.int32)}

    return Interface(parse, functools.partial(interfaces.classes, names=classes), ('text',))


if __name__ == '__main__':
    cli.main()
