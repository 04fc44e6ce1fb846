"""A task holds the data and the model to the shapes and ranges that it states; terms are checked where they are summed."""
import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import tasks
from bigjax.data.sources import ArraySource
from bigjax.data.windows import WindowSource
from bigjax.experiment import Data
from bigjax.tasks import (
    Range,
    Term,
    check_data,
    classification,
    ctc,
    language,
    loss_metrics,
    masked_language,
    mean,
    regression,
    sequence,
    spans,
    token_classification,
    transcription,
    variational,
)
from tests import tiny
from tests.refused import refused

X = np.ones((8, 5), np.float32)


def identity(variables, x, *rest, train=False, rng=None):
    """An `apply` whose output is its input."""
    return jnp.asarray(x), {}


def traced(task, batch, output):
    """The loss, traced only, of a model with that output."""
    apply = lambda variables, *inputs, train=False, rng=None: (output, {})
    return jax.eval_shape(lambda: loss_metrics(task.loss(apply, {}, batch, None, True)[0]))


LABEL, LOGITS = np.zeros(8, np.int32), np.zeros((8, 4), np.float32)
WRONG = {
    'labels in a column': (classification.softmax('x'), {'x': X, 'label': LABEL[:, None]}, LOGITS),
    'one label for each output': (classification.softmax('x'), {'x': X, 'label': np.zeros((8, 4), np.int32)}, LOGITS),
    'an output for each token': (classification.softmax('x'), {'x': X, 'label': LABEL}, np.zeros((8, 3, 4))),
    'soft targets of more classes': (classification.softmax('x'), {'x': X, 'label': LABEL, 'target': np.zeros((8, 5))}, LOGITS),
    'a column of labels of two': (classification.binary(), {'x': X, 'label': LABEL[:, None]}, LOGITS[:, :1]),
    'two logits of two': (classification.binary(), {'x': X, 'label': LABEL}, LOGITS[:, :2]),
    'a number for a row': (regression.squared_error(), {'x': X, 'target': np.zeros((8, 3))}, LOGITS[:, :1]),
    'a row for a number': (regression.squared_error(), {'x': X, 'target': np.zeros(8)}, LOGITS),
    'targets of another length': (language.next_token(), {'tokens': LABEL.reshape(2, 4), 'targets': LABEL.reshape(4, 2)},
                                  np.zeros((2, 4, 7))),
    'logits of the last token': (language.next_token(), {'tokens': LABEL.reshape(2, 4), 'targets': LABEL.reshape(2, 4)},
                                 np.zeros((2, 7))),
    'logits of all target tokens': (sequence.teacher_forcing(), {'source': LABEL.reshape(2, 4), 'target': LABEL.reshape(2, 4)},
                                    np.zeros((2, 4, 7)))}


@pytest.mark.parametrize('case', WRONG)
def test_shapes_that_would_be_broadcast_are_refused_when_traced(case):
    task, batch, output = WRONG[case]
    with refused('task/shape'):
        traced(task, batch, output)


ONE, THREE = np.zeros((1, 4)), (np.zeros((1, 4)),) * 3


@pytest.mark.parametrize(('task', 'output', 'named'), [
    *((task, (ONE, ONE), 'one array') for task in (
        classification.softmax('x'), classification.binary(), regression.squared_error(), language.next_token(),
        sequence.teacher_forcing(), ctc.ctc(), masked_language.masked_token(3, 4), spans.span(), token_classification.softmax(),
        transcription.transcription(transcription.vocabulary(51_864)))),
    (classification.softmax('x'), {'logits': ONE}, 'dict'), (classification.softmax('x'), (ONE,), 'tuple of 1'),
    (variational.vae(), ONE, 'tuple of 3'), (variational.vae(), THREE[:2], 'tuple of 3')])
def test_a_model_that_returns_another_structure_is_refused(task, output, named):
    data = Data(ArraySource({'x': X, 'label': LABEL}), {})
    with refused('task/output', named):
        check_data(task, output, data)


def test_the_structure_of_an_output_is_that_of_its_task():
    check_data(variational.vae(), THREE, Data(ArraySource({'image': X}), {}))
    check_data(regression.squared_error(), ONE, Data(ArraySource({'x': X}), {}))


@pytest.mark.parametrize(('terms', 'code', 'names'), [
    ({'a': (np.ones((4, 1)), np.ones(4))}, 'task/term-shape', ['a', '[4, 1]', '[4]']),
    ({'a': (np.ones(4), np.ones(4)), 'b': (np.ones((4, 2)), np.ones(4), 0.5)}, 'task/term-shape', ['b']),
    ({}, 'task/no-term', [])])
def test_terms_are_held_to_their_weights(terms, code, names):
    with refused(code, *names):
        loss_metrics({name: Term(*term) for name, term in terms.items()})


def test_an_empty_term_is_zero_and_a_hidden_value_is_not_seen():
    values, weights = jnp.asarray([1.0, jnp.nan, 3.0]), jnp.asarray([1.0, 0.0, 3.0])
    metrics = loss_metrics({'a': Term(values, weights), 'b': Term(values, 0 * weights, 7.0)})
    assert float(mean(metrics['loss'])) == float(mean(metrics['a'])) == 2.5 and float(mean(metrics['b'])) == 0


def data(**arrays):
    source = ArraySource({key: np.asarray(value) for key, value in arrays.items()})
    return Data(source, {'test': source})


LOGITS_OF_4 = jax.ShapeDtypeStruct((1, 4), jnp.float32)
TOKENS_OF_4 = jax.ShapeDtypeStruct((1, 3, 4), jnp.float32)
OUT_OF_RANGE = {
    'more classes than outputs': (classification.softmax('x'), LOGITS_OF_4, dict(label=[0, 4]), ('label', '[1] = 4', '0 to 3')),
    'a negative class': (classification.softmax('x'), LOGITS_OF_4, dict(label=[0, -1]), ('label', '-1')),
    'three classes of two': (classification.binary(), LOGITS_OF_4, dict(label=[0, 2]), ('label', '2', '0 to 1')),
    'a token outside the vocabulary': (language.next_token(), TOKENS_OF_4, dict(tokens=[[0, 1, 2], [0, 4, 1]]),
                                       ('tokens', '[1, 1] = 4')),
    'a negative token': (language.next_token(), TOKENS_OF_4, dict(tokens=[[0, -1, 1]]), ('tokens', '-1')),
    'a target that is not the ignored one': (language.next_token(ignore=-1), TOKENS_OF_4, dict(targets=[[0, -2]]),
                                             ('targets', '-2')),
    'a source token': (sequence.teacher_forcing(source_vocab=3), TOKENS_OF_4, dict(source=[[3]]), ('source', '3', '0 to 2'))}


@pytest.mark.parametrize('case', OUT_OF_RANGE)
def test_numbers_without_an_output_are_refused(case):
    task, output, arrays, names = OUT_OF_RANGE[case]
    with refused('task/range', 'train', *names):
        check_data(task, output, data(**arrays))


def test_numbers_with_an_output_pass():
    check_data(classification.softmax('x'), LOGITS_OF_4, data(label=[0, 3], x=[9, 9]))
    check_data(language.next_token(ignore=-1), TOKENS_OF_4, data(tokens=[[0, 3]], targets=[[3, -1]]))
    check_data(regression.squared_error(), LOGITS_OF_4, data(target=[1e9]))
    check_data(sequence.teacher_forcing(), TOKENS_OF_4, data(source=[[900]], target=[[3]]))
    assert classification.softmax('x').ranges(LOGITS_OF_4) == {'label': Range(4)}


def test_of_a_long_stream_blocks_are_read_to_its_end(monkeypatch):
    monkeypatch.setattr(tasks, 'CHECKED', 256)
    tokens = np.zeros(10_000, np.int32)
    check_data(language.next_token(), TOKENS_OF_4, data(tokens=tokens))
    tokens[-1] = 4
    with refused('task/range', 'tokens', '[9999] = 4'):
        check_data(language.next_token(), TOKENS_OF_4, data(tokens=tokens))


@pytest.mark.parametrize('split', ['train', 'test'])
def test_the_stream_that_windows_are_cut_from_is_read(split):
    streams = {'train': np.arange(40, dtype=np.uint16) % 4, 'test': np.arange(40, dtype=np.uint16) % 4}
    made = lambda: {name: WindowSource(stream, 6, 6) for name, stream in streams.items()}
    check_data(language.next_token(), TOKENS_OF_4, Data(made()['train'], {'test': made()['test']}))
    streams[split][-1] = 60_000
    with refused('task/range', split, 'tokens', '60000'):
        check_data(language.next_token(), TOKENS_OF_4, Data(made()['train'], {'test': made()['test']}))


def test_a_source_that_is_not_in_memory_is_held_to_its_classes():
    closed = types.SimpleNamespace(__len__=lambda: 4)
    named = Data(closed, {}, info={'classes': list('abcde')})
    with refused('task/range', 'label', '4'):
        check_data(classification.softmax(), LOGITS_OF_4, named)
    check_data(classification.softmax(), jax.ShapeDtypeStruct((1, 5), jnp.float32), named)


@pytest.mark.parametrize('label', [[0, 3], [[0], [1]]], ids=['more classes than outputs', 'labels in a column'])
def test_a_run_does_not_start_on_labels_that_do_not_fit(label):
    base = tiny.experiment()
    source = ArraySource({'x': np.ones((2, 5), np.float32), 'label': np.asarray(label, np.int32)})
    experiment = dataclasses.replace(base, data=Data(source, {'test': source}))
    with refused('task/range' if np.ndim(label) == 1 else 'task/shape', 'label'):
        tiny.program([experiment], batch_size=2).init()


@pytest.mark.parametrize('wrong', [np.nan, 0.5, np.inf, 3.0, -1.0])
def test_labels_that_are_no_classes_are_refused_although_they_are_floats(wrong):
    """A one-hot vector of NaN or of 0.5 is all zeros, whose loss is 0."""
    label = np.array([0.0, 1.0, 2.0, wrong], np.float32)
    task, data = classification.softmax('x'), Data(ArraySource({'x': np.zeros((4, 5), np.float32), 'label': label}), {})
    with refused('task/range', 'train', 'label'):
        check_data(task, jax.ShapeDtypeStruct((4, 3), np.float32), data)
    label[3] = 1
    check_data(task, jax.ShapeDtypeStruct((4, 3), np.float32), data)
