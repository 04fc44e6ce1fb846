"""`Data.collate`: a classifier of texts of any length is trained, resumed and evaluated like every other model."""
import dataclasses
import io

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax.data import pipeline
from bigjax.experiment import Data, Evaluator, Experiment
from bigjax.runs.progress import Progress
from bigjax.tasks import classification
from tests import tiny
from tests.refused import refused

LONGEST, WORDS, CLASSES = 12, 20, 3


class Texts:
    """Words 1 … WORDS-1 of texts of 1 to LONGEST words; the class is that of most of its words, modulo CLASSES."""

    def __init__(self, count, seed):
        rng = np.random.default_rng(seed)
        self.texts = [rng.integers(1, WORDS, rng.integers(1, LONGEST + 1)).astype(np.int32) for _ in range(count)]

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        text = self.texts[index]
        return {'tokens': text, 'label': np.int32(np.bincount(text % CLASSES, minlength=CLASSES).argmax())}


def padded(examples):
    """Texts padded with 0 to LONGEST, their lengths beside them."""
    tokens = np.zeros((len(examples), LONGEST), np.int32)
    for row, example in zip(tokens, examples, strict=True):
        row[:len(example['tokens'])] = example['tokens']
    return {'tokens': tokens, 'length': np.array([len(e['tokens']) for e in examples], np.int32),
            'label': np.stack([e['label'] for e in examples])}


class Bag(nn.Module):
    """The mean of word vectors, without the padding."""

    @nn.compact
    def __call__(self, tokens, *, train):
        inside = (tokens > 0)[..., None]
        words = nn.Embed(WORDS, 8, name='embed')(tokens)
        return nn.Dense(CLASSES, name='head')(jnp.where(inside, words, 0).sum(1) / inside.sum(1))


def gather(outputs, examples):
    assert set(examples) == {'label', 'length'} and len(outputs) == len(examples['label'])
    return {'words': float(examples['length'].sum()), 'hits': float((outputs.argmax(1) == examples['label']).sum())}


def experiment(test=21, collate=padded):
    return Experiment(
        model=Bag(), task=classification.softmax('tokens'), data=Data(Texts(50, 0), {'test': Texts(test, 1)}, collate=collate),
        optimizer={'name': 'adam', 'lr': 0.05},
        evaluators={'test': Evaluator('test', compute=gather, keep=('label', 'length'))})


class Killed(Progress):
    def metrics(self, step, values):
        if step == 9:
            raise RuntimeError('killed')


@pytest.mark.parametrize('options', [{}, {'mesh': 'data:4', 'accumulate': 2}], ids=['alone', 'mesh'])
def test_killed_and_resumed_is_straight(tmp_path, options):
    straight, carry = tiny.train(tmp_path / 'straight', [experiment()], **options)
    with pytest.raises(RuntimeError, match='killed'):
        tiny.train(tmp_path / 'killed', [experiment()], progress=Killed(stream=io.StringIO()), **options)
    resumed, again = tiny.train(tmp_path / 'killed', [experiment()], **options)
    assert straight.final == resumed.final and tiny.equal(carry, again)


@pytest.mark.parametrize(('count', 'batch', 'mesh'), [(21, 8, 'data:1'), (21, 8, 'data:4'), (7, 64, 'data:2')])
def test_the_padded_last_batch_is_exact(count, batch, mesh):
    p = tiny.program([experiment(count)], eval_batch_size=batch, mesh=mesh)
    variables = p.init()['state'].variables()
    found = p.evaluation.run('test', variables)[0]
    source, nats, hits = Texts(count, 1), [], 0
    for i in range(count):  # one by one and without padding
        logits = np.asarray(p.apply(variables, source[i]['tokens'][None])[0], np.float64)[0]
        nats.append(np.log(np.exp(logits).sum()) - logits[source[i]['label']])
        hits += int(logits.argmax() == source[i]['label'])
    np.testing.assert_allclose(found['test/loss'], np.mean(nats), rtol=1e-5)
    assert found['test/hits'] == [hits] and found['test/examples'] == [count]
    assert found['test/words'] == [sum(len(text) for text in source.texts)]


def test_a_collate_of_changing_shapes_is_refused():
    def longest(examples):
        batch = padded(examples)
        return {**batch, 'tokens': batch['tokens'][:, :batch['length'].max()]}

    data = experiment(collate=longest).data
    elements = pipeline.TrainBatches(data.train, 0, 2, True, 0, 30, collate=data.collate, spec=data.spec)
    with refused('data/collate', 'tokens'):
        list(pipeline.read(elements, threads=1, workers=0))
    with refused('data/collate', "'label'", '2 rows'):
        pipeline.TrainBatches(data.train, 0, 2, True, 0, 30, collate=lambda examples: {'label': np.zeros(3)})[0]
    with refused('data/ragged', 'tokens'):
        pipeline.TrainBatches(data.train, 0, 8, True, 0, 30)[0]


def test_shapes_without_reading_a_text():
    class Described(Texts):
        def __getitem__(self, index):
            pytest.fail('a text was read')

    source = Described(5, 0)
    source.spec = {'tokens': jax.ShapeDtypeStruct((None,), np.int32), 'label': jax.ShapeDtypeStruct((), np.int32)}
    assert dataclasses.replace(experiment().data, train=source).spec['tokens'].shape == (LONGEST,)
