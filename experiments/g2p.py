"""Grapheme to phoneme: how an English word is pronounced, by an encoder and a decoder of one GRU each.

`pretrained` is the network of the package g2p-en==2.1.0 (Park & Kim 2019; pip install --no-deps), with its weights: a word of
plain letters is pronounced as by that package's network, whose dictionary of known words is not used. Weights in that form come
from any place by --init_from=npz:FILE. `gru` is the same network trained from the start on the CMU Pronouncing Dictionary, the
words of plain letters with their first pronunciation, a tenth of them for the test. There is no official split, so that nothing
published is compared. `wer` is the share of words with any mistake, `per` that of phonemes (edits over phonemes).

    python -m experiments.g2p predict --variant=pretrained 'phonology' 'jax'            by the package's weights
    python -m experiments.g2p --workdir=/tmp/g2p --variant=gru                          trained on CMUdict
    python -m experiments.g2p predict --workdir=/tmp/g2p 'phonology'
    python -m experiments.g2p --workdir=/tmp/own --config.data=csv:FILE                 the columns word and phonemes
"""
import unicodedata

import numpy as np

from bigjax import cli, models, weights
from bigjax.data.datasets import open_data
from bigjax.data.loaders import pronunciations
from bigjax.errors import UserError
from bigjax.experiment import Data, Evaluator, Experiment, Interface, base_config, choose
from bigjax.io.text import printable
from bigjax.metrics import speech
from bigjax.predict.interfaces import NOTES
from bigjax.tasks import sequence
from bigjax.weights import packages

PRETRAINED = True
PACKAGE, FILE = 'g2p-en==2.1.0', 'checkpoint20.npz'
ROWS = {'pretrained': (2000, 1e-4), 'gru': (8000, 2e-3)}  # row: steps, learning rate
TABLE = ('gru',)
OWN_ROWS = ('gru',)
HELP = {'pretrained': "whether the weights of the installed package are where the network begins"}
PARAMETERS = dict.fromkeys(ROWS, 834_890)
TINY = {'model.features': '8', 'model.max_length': '6', 'pretrained': 'False'}
SHOWN = 12  # mistakes in the report


def get_config(variant=''):
    """`variant` is a row; 'pretrained' by default."""
    config = base_config()
    row = variant or 'pretrained'
    config.steps, rate = choose('variant', row, ROWS)
    config.model = models.spec('seq2seq', 'g2p')
    config.pretrained = row == 'pretrained'
    config.data = 'cmudict'
    config.batch_size = 128
    config.eval_batch_size = 512
    config.log_every = 100
    config.eval_every = '25%'
    config.optimizer = dict(name='adam', lr=rate, clip_norm=5.0, schedule=dict(name='cosine', warmup='5%'))
    return config


def get_experiment(config):
    """A reader of words."""
    splits = open_data(config.data, like='cmudict', data_dir=config.data_dir)
    graphemes, phonemes = splits.info['graphemes'], splits.info['phonemes']
    model = models.make(config.model, source_vocab=len(graphemes), target_vocab=len(phonemes), dtype=config.dtype)

    def init(variables):
        return {**variables, 'params': weights.into(f'npz:{place()}', model, variables['params'], {})[0]}

    return Experiment(
        model=model,
        task=sequence.teacher_forcing(source_vocab=len(graphemes)),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, compute=lambda outputs, examples: judge(outputs, examples, splits.info),
                                     keep=('source', 'target'), better={'per': 'lower'}) for split in splits.evals},
        init=init if config.pretrained else None,
        interface=words(graphemes, phonemes, splits.train.spec['source'].shape[0]),
    )


def place():
    """The file of the installed package.

    Raises:
      UserError: it is not installed; 'weights/no-package'.
    """
    folder, *_ = packages.folders('g2p', [PACKAGE], [FILE], '--config.pretrained=False --init_from=npz:FILE')
    return folder / FILE


def judge(outputs, examples, info) -> dict:
    """Error rates of words and of phonemes over the split, and some mistakes for the report."""
    text = lambda rows: [' '.join(pronunciations.spelled(row, info['phonemes'])) for row in rows]
    found, expected = text(outputs), text(examples['target'])
    rates = speech.word_errors(found, expected)
    wrong = [i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]
    lines = [f"{''.join(info['graphemes'][t] for t in examples['source'][i] if t > pronunciations.WORD_END)}\n"
             f'  is     {expected[i]}\n  given  {found[i]}' for i in wrong[:: max(1, len(wrong) // SHOWN)][:SHOWN]]
    return {'per': rates['wer'], 'wer': 1 - rates['exact_match'], 'mistakes': '\n\n'.join(lines) or 'none'}


def words(graphemes, phonemes, length: int) -> Interface:
    """A word to its phonemes; accents are left out where no training word has the letter with it, and cases do not count."""
    known = set(graphemes[pronunciations.WORD_END + 1:])

    def parse(raw):
        word = ''.join(part for letter in str(raw).strip() for part in _plain(letter, known))
        if len(word.split()) != 1 or not known & set(word):
            raise UserError(f'a word: got {printable(repr(str(raw)))}, expected one in the letters '
                            f'{printable("".join(sorted(known)))[:60]}; fix: give words one by one', code='predict/word')
        strange = sum(letter not in known for letter in word)
        return {'source': pronunciations.letters(word, graphemes, max(length, len(word) + 1)),
                NOTES: [f'{strange} of {len(word)} letters unknown'] if strange else []}

    return Interface(parse, lambda outputs: {'text': ' '.join(pronunciations.spelled(np.ravel(outputs), phonemes))},
                     ('text', '.txt'))


def _plain(letter: str, known) -> str:
    """A letter as training words have it: in lower case where they lack it, and without its accent where they lack that."""
    if letter in known:
        return letter
    lower = letter.lower()
    return lower if lower in known else ''.join(
        part for part in unicodedata.normalize('NFD', lower) if unicodedata.category(part) != 'Mn')


if __name__ == '__main__':
    cli.main()
