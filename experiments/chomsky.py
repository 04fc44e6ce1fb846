"""Strings longer than those of training: which networks learn the rule of a regular language.

Delétang, Ruoss, Grau-Moya, Genewein, Wenliang, Catt, Cundy, Hutter, Legg, Veness & Ortega, "Neural Networks and the Chomsky
Hierarchy" (ICLR 2023): networks are trained on strings of up to 40 letters and tested on 41 to 500. They find that an LSTM
solves regular tasks, and that plain recurrent networks and Transformers fail on tasks that are not regular. Three regular ones
are here: whether the number of ab and ba in a string is even, whether that of b is even, and the place on a cycle of five after
a walk.

The paper trains for 1,000,000 steps of 128 strings with Adam, recurrent networks of 256 features and Transformers of five
blocks, 64 wide, and reports the best of several seeds, rates and positions. Here a run is made for a few minutes of two CPU
cores: 64 features, 2,000 steps, one seed, one rate and rotary positions, so that nothing published is compared. Recurrent
networks answer from their last state, the causal Transformer at the last letter. test/accuracy is the mean over lengths, each
with as many strings; a guess is right in half of the cases, on the cycle in a fifth.

    python -m experiments.chomsky --workdir=/tmp/chomsky                                 the table
    python -m experiments.chomsky --workdir=/tmp/one --variant=parity_check,lstm         one row
    python -m experiments.chomsky predict --workdir=/tmp/one abbaab
"""
import jax.numpy as jnp
import numpy as np

from bigjax import cli, models
from bigjax.data import padding
from bigjax.data.datasets import open_data
from bigjax.data.loaders.formal import LANGUAGES
from bigjax.errors import UserError
from bigjax.experiment import Data, Evaluator, Experiment, Interface, base_config, choose
from bigjax.predict import interfaces
from bigjax.tasks import classification, token_classification
from bigjax.tasks.tokens import IGNORE

NETWORKS = {  # network: (its fields, learning rate)
    'rnn': (models.spec('rnn.RNNClassifier', cell='rnn', features=64, embed=16), 1e-3),
    'lstm': (models.spec('rnn.RNNClassifier', cell='lstm', features=64, embed=16), 3e-3),
    'transformer': (models.spec('gpt', num_layers=5, num_heads=8, width=64, rope_base=10000.0, tie_head=False), 1e-3),
}
HELP = {'like': 'the set that --config.data=fake imitates'}
ROWS = {f'{language},{network}': (language, network) for language in LANGUAGES for network in NETWORKS}
TABLE = tuple(ROWS)
PARAMETERS = {f'{language},{network}': count + (more if language == 'cycle_navigation' else 0) for language in LANGUAGES
              for network, count, more in (('rnn', 5_426, 211), ('lstm', 21_170, 211), ('transformer', 246_848, 256))}
TINY = {'model.features': '8', 'model.embed': '4', 'model.width': '16', 'model.num_layers': '2', 'model.num_heads': '4'}


def get_config(variant=''):
    """`variant` is a task and a network, 'parity_check,lstm' by default."""
    config = base_config()
    language, network = choose('variant', variant or 'parity_check,lstm', ROWS)
    config.model, rate = NETWORKS[network]
    config.data = config.like = f'formal/{language}'
    config.batch_size = 128
    config.steps = 2000
    config.log_every = 100
    config.eval_every = '25%'
    config.eval_batch_size = 460
    config.optimizer = dict(name='adam', lr=rate, clip_norm=1.0)
    return config


def get_experiment(config):
    """A classifier of strings."""
    splits = open_data(config.data, like=config.like, data_dir=config.data_dir)
    classes, letters = splits.info['classes'], splits.info.get('letters', '')
    at_last = config.model.name == 'gpt'
    vocabulary = max(len(letters) + 1, len(classes)) if at_last else len(letters) + 1
    return Experiment(
        model=models.make(config.model, num_classes=len(classes), vocab_size=vocabulary, block_size=512, dtype=config.dtype),
        task=token_classification.softmax() if at_last else classification.softmax('tokens'),
        data=Data(splits.train, splits.evals, preprocess=with_labels, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        interface=strings(letters, classes),
    )


def with_labels(batch):
    """The batch with its mask, and with its label as that of the last letter."""
    batch = padding.masked()(batch)
    T = batch['tokens'].shape[1]
    last = jnp.arange(T) == batch['mask'].sum(axis=1, keepdims=True) - 1
    return {**batch, 'labels': jnp.where(last, batch['label'][:, None], IGNORE)} if 'label' in batch else batch


def strings(letters: str, classes) -> Interface:
    """A string of letters to the property of it."""
    def parse(raw):
        text = str(raw).strip()
        if not text or not set(text) <= set(letters):
            raise UserError(f'a string: got {text!r}, expected letters among {letters}; fix: correct it', code='predict/word')
        return {'tokens': np.array([letters.index(letter) + 1 for letter in text], np.int32)}

    def answer(outputs):
        return interfaces.classes(outputs if outputs.ndim == 1 else outputs[-1, :len(classes)], classes)

    return Interface(parse, answer, ('text',))


if __name__ == '__main__':
    cli.main()
