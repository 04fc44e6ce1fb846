"""Pronunciation: what a person gives and gets, what counts as an error, and the package whose network this is."""
import importlib
import importlib.metadata
import types

import jax
import numpy as np
import pytest

from bigjax import cli
from bigjax import config as configs
from bigjax.data.loaders import pronunciations
from bigjax.errors import UserError
from bigjax.tasks import bind
from bigjax.weights import packages
from experiments import g2p
from tests.refused import refused

WORDS = ['phonology', 'activationist', 'a', 'strengths', 'jax', 'antidisestablishmentarianism', "o'clock", 'zzyzx']


def interface():
    return g2p.words(pronunciations.GRAPHEMES, pronunciations.PHONEMES, 6)


@pytest.mark.parametrize(('word', 'row', 'notes'), [
    ('Ab', [3, 4, 2, 0, 0, 0], []), (' né\n', [16, 7, 2, 0, 0, 0], []),
    ("o'clock", [17, 1, 5, 14, 17, 5, 13, 2], ['1 of 7 letters unknown'])])
def test_a_word_becomes_its_letters(word, row, notes):
    found = interface().parse(word)
    assert found['source'].tolist() == row and found['_notes'] == notes


@pytest.mark.parametrize('word', ['', '  ', 'two words', '12', '-'])
def test_what_is_no_word_is_refused(word):
    with refused('predict/word', repr(word)):
        interface().parse(word)


def test_letters_of_an_alphabet_with_accents_keep_them():
    parse = g2p.words(['<pad>', '<unk>', '</s>', 'e', 'é', 'É'], pronunciations.PHONEMES, 4).parse
    assert parse('ÉéeE')['source'].tolist() == [5, 4, 3, 3, 2]


def test_a_row_becomes_phonemes():
    row = [pronunciations.PHONEMES.index(name) for name in ('K', 'AE1', 'T', '</s>', 'K')]
    assert interface().answer(np.array(row)) == {'text': 'K AE1 T'}


def test_what_counts_as_an_error():
    info = pronunciations.ENGLISH.facts
    number = {name: i for i, name in enumerate(info['phonemes'])}
    rows = lambda texts: np.array([[*map(number.get, text.split()), 3, 0, 0][:4] for text in texts])
    expected = np.pad(rows(['K AE1 T', 'B IY1']), ((0, 0), (1, 0)), constant_values=2)
    examples = {'source': np.array([[5, 3, 22, 2], [4, 7, 2, 0]]), 'target': expected}
    found = g2p.judge(rows(['K AE1', 'B IY1']), examples, info)
    assert (found['per'], found['wer']) == (pytest.approx(1 / 5), 0.5)
    assert found['mistakes'] == 'cat\n  is     K AE1 T\n  given  K AE1'


def test_without_the_package_the_line_names_it(capsys, monkeypatch):
    def none(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'distribution', none)
    assert cli.run(g2p, 'experiments.g2p', ['predict', '--variant=pretrained', '--config.data=fake', 'word']) == 2
    err = capsys.readouterr().err
    assert 'pip install g2p-en==2.1.0' in err and err.count('\n') == 1


@pytest.fixture
def package(monkeypatch):
    """`g2p_en.G2p` without its dictionary of known words, which is no part of the package."""
    try:
        packages.folders('g2p', [g2p.PACKAGE], [g2p.FILE])
        nltk = importlib.import_module('nltk')
        monkeypatch.setattr(nltk.data, 'find', lambda *_: '')  # it would be fetched at the import
        module = importlib.import_module('g2p_en.g2p')
    except (ImportError, UserError) as error:
        pytest.skip(f'needs {g2p.PACKAGE} ({error})')
    monkeypatch.setattr(module, 'cmudict', types.SimpleNamespace(dict=dict))
    return module.G2p()


@pytest.mark.parity
def test_words_are_pronounced_as_by_the_package(package):
    rng = np.random.default_rng(0)
    words = WORDS + [''.join(rng.choice(list('abcdefghijklmnopqrstuvwxyz'), rng.integers(1, 15))) for _ in range(200)]
    config = configs.override(g2p.get_config('pretrained'), {'data': 'fake'})
    experiment = g2p.get_experiment(configs.Reader(config))
    batch = {'source': np.stack([pronunciations.letters(word, pronunciations.GRAPHEMES, 32) for word in words])}
    shapes = jax.eval_shape(lambda: experiment.model.init(jax.random.key(0), batch['source'], batch['source'], train=False))
    variables = experiment.init({'params': jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes['params'])})
    predict = jax.jit(lambda variables: experiment.task.predict(bind(experiment.model), variables, batch, jax.random.key(0)))
    found = [pronunciations.spelled(row, pronunciations.PHONEMES) for row in np.asarray(predict(variables))]
    assert found == [package.predict(word) for word in words]
    assert found[0] == ['F', 'AH0', 'N', 'AA1', 'L', 'AH0', 'JH', 'IY0']
