"""Tasks on tokens: smoothing and z-loss against torch, packed documents, masked tokens, labels of tokens, spans, padding."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from bigjax.models.gpt import GPT
from bigjax.tasks import MASK, bind, language, masked_language, sequence, spans, token_classification
from bigjax.tasks.tokens import IGNORE, beside, cross_entropy, segments_between
from tests.refused import refused
from tests.tasks.terms import evaluated, mean, objective, only

RNG = np.random.default_rng(0)
V, B, T = 7, 4, 6
TABLE = {'params': {'table': jnp.asarray(RNG.normal(size=(V, V)) * 2, jnp.float32)}}
TOKENS = RNG.integers(1, V, (B, T)).astype(np.int32)
TARGETS = RNG.integers(1, V, (B, T)).astype(np.int32)
TARGETS[0, 3:] = IGNORE
TARGETS[2] = IGNORE


def bigram(variables, tokens, *, train=False, rng=None, **named):
    """Logits are a row of a table; what a model is given by name is left alone."""
    return variables['params']['table'][tokens], {}


def encoder_decoder(variables, source, target, *, train=False, rng=None, **named):
    """Logits [B, T, V] of the last target token, moved by the mean row of the source."""
    table, shown = variables['params']['table'], (source != 0)[..., None]
    return table[target] + ((table[source] * shown).sum(1) / shown.sum(1))[:, None], {}


def of_start_and_end(variables, tokens, **named):
    return variables['params']['table'][tokens][..., :2], {}


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_equals_torch_and_its_formula(smoothing):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    logits, labels = RNG.normal(size=(3, 5, V)) * 9, RNG.integers(0, V, (3, 5))
    found = cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels), smoothing)
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits).flatten(0, 1), torch.tensor(labels).flatten(),
                                                 reduction='none', label_smoothing=smoothing).numpy().reshape(3, 5)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.log_z, logsumexp(logits, -1), rtol=1e-5)
    np.testing.assert_allclose(found.nats, -np.take_along_axis(log_softmax(logits, -1), labels[..., None], -1)[..., 0],
                               rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', ['language', 'sequence'])
def test_smoothing_and_z_loss_are_those_of_training(kind):
    if kind == 'language':
        task, plain, apply = language.next_token(label_smoothing=0.2, z_loss=0.01), language.next_token(), bigram
        batch, truth, rows = {'tokens': TOKENS, 'targets': TARGETS}, TARGETS, TOKENS
    else:
        task, plain = sequence.teacher_forcing(label_smoothing=0.2, z_loss=0.01), sequence.teacher_forcing()
        apply, target = (lambda v, source, target, **named: bigram(v, target, **named)), np.where(TARGETS < 0, 0, TARGETS)
        batch, truth, rows = {'source': TOKENS, 'target': target}, target[:, 1:], target[:, :-1]
    logits = np.asarray(TABLE['params']['table'], np.float64)[rows]
    counted = truth > 0
    p, safe = log_softmax(logits, -1), np.where(counted, truth, 0)
    nats = -np.take_along_axis(p, safe[..., None], -1)[..., 0]
    smooth = 0.8 * nats - 0.2 * p.mean(-1)
    terms, aux = evaluated(task, apply, TABLE, batch)
    z = np.square(logsumexp(logits, -1))
    np.testing.assert_allclose(objective((terms, aux)), (smooth[counted] + 0.01 * z[counted]).mean(), rtol=1e-5)
    np.testing.assert_allclose(terms['z'].values, z, rtol=1e-4)
    np.testing.assert_allclose(objective(evaluated(task, apply, TABLE, batch, train=False)), nats[counted].mean(), rtol=1e-5)
    np.testing.assert_array_equal(objective(evaluated(task, apply, TABLE, batch, train=False)),
                                  objective(evaluated(plain, apply, TABLE, batch)))


def test_a_loss_without_logits_has_no_smoothing():
    with refused('task/option', 'label_smoothing=0.1'):
        language.next_token(chunked=True, label_smoothing=0.1)


def test_no_loss_crosses_from_one_document_to_the_next():
    """A packed batch has the loss of its documents alone, whether their numbers are given or found by the separator."""
    documents = [[3, 4, 1], [5, 1], [2, 6, 2, 1]]
    stream = np.array([[*itertools.chain(*documents), 5, 5, 1]], np.int32)
    given = {'tokens': stream[:, :10], 'segments': np.array([[1, 1, 1, 2, 2, 3, 3, 3, 3, 0]])}
    seen = {}

    def apply(variables, tokens, **named):
        seen.update(named)
        return bigram(variables, tokens)

    values, weights, _ = only(language.next_token().loss(apply, TABLE, given, None, True))
    np.testing.assert_array_equal(seen['segments'], given['segments'][:, :-1])
    p = log_softmax(np.asarray(TABLE['params']['table'], np.float64), -1)
    alone = [-p[a, b] for document in documents for a, b in itertools.pairwise(document)]
    np.testing.assert_allclose((np.asarray(values) * weights).sum(), sum(alone), rtol=1e-5)
    assert weights.sum() == len(alone) == 6
    np.testing.assert_array_equal(segments_between(stream, 1), [[1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4]])
    found = language.next_token(separator=1)
    parted, more, _ = only(found.loss(bigram, TABLE, {'tokens': stream[:, :9]}, None, True))
    np.testing.assert_array_equal(np.asarray(parted)[np.asarray(more) > 0], np.asarray(values)[np.asarray(weights) > 0])
    shifted = {'tokens': stream[:, :-1], 'targets': stream[:, 1:]}
    assert only(evaluated(found, bigram, TABLE, shifted))[1].tolist() == [[1, 1, 0, 1, 0, 1, 1, 1, 0, 1, 1]]


def test_padding_within_a_row_is_not_predicted():
    counts = np.arange(T)[None] < np.array([[6], [2], [1], [4]])
    weights = only(evaluated(language.next_token(), bigram, TABLE, {'tokens': TOKENS, 'mask': counts}))[1]
    np.testing.assert_array_equal(weights, counts[:, 1:])


# masked language modelling

MANY = np.random.default_rng(1).integers(0, 50, (200, 60)).astype(np.int32)
CORRUPT = dict(mask_token=3, vocab_size=50, special=(0, 1, 2))


def test_tokens_are_hidden_as_in_bert():
    """Of those that may be chosen 15 % are: 80 % of these become the mask, 10 % any token, 10 % stay; within 5 deviations."""
    counts = np.arange(60)[None] < np.random.default_rng(2).integers(1, 61, (200, 1))
    seen, targets = map(np.asarray, masked_language.corrupt(jax.random.key(0), MANY, counts, **CORRUPT))
    open_ = counts & ~np.isin(MANY, (0, 1, 2, 3))
    chosen = targets != IGNORE
    assert not chosen[~open_].any() and (targets[chosen] == MANY[chosen]).all() and (seen[~chosen] == MANY[~chosen]).all()

    def near(share, expected, of):
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / of), (share, expected)

    near(chosen[open_].mean(), 0.15, open_.sum())
    hidden, same = seen[chosen] == 3, seen[chosen] == MANY[chosen]
    near(hidden.mean(), 0.8 + 0.1 / 50, chosen.sum())
    near(same.mean(), 0.1 + 0.1 / 50, chosen.sum())
    drawn = seen[chosen][~hidden & ~same]
    assert set(drawn) <= set(range(50)) and len(set(drawn)) > 30
    again, other = (masked_language.corrupt(jax.random.key(k), MANY, counts, **CORRUPT)[0] for k in (0, 1))
    assert (again == seen).all() and (other != seen).any()


def test_hidden_tokens_alone_are_counted_and_hidden_anew_by_the_key():
    task = masked_language.masked_token(3, V, special=(1,), rate=0.5)
    shown = {}

    def apply(variables, tokens, **named):
        shown[len(shown)] = tokens
        return bigram(variables, tokens)

    values, weights, aux = only(task.loss(apply, TABLE, {'tokens': TOKENS}, jax.random.key(1), True))
    counted, p = np.asarray(weights) > 0, log_softmax(np.asarray(TABLE['params']['table'], np.float64), -1)
    assert 0 < counted.sum() < TOKENS.size and not counted[(TOKENS == 1) | (TOKENS == 3)].any()
    expected = -p[np.asarray(shown[0]), TOKENS][counted]
    np.testing.assert_allclose(mean(values, weights), expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics['bits'][0], expected.sum() / np.log(2), rtol=1e-5)
    task.loss(apply, TABLE, {'tokens': TOKENS}, jax.random.key(2), True)
    first, second = (task.loss(apply, TABLE, {'tokens': TOKENS}, None, False) and shown[k] for k in (2, 3))
    assert (shown[0] != shown[1]).any() and (first == second).all()
    np.testing.assert_array_equal(task.predict(bigram, TABLE, {'tokens': TOKENS}, None), p.argmax(1)[TOKENS])


def test_tokens_that_were_hidden_before_are_taken_as_they_are():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    batch = {'tokens': TOKENS, 'targets': TARGETS}
    values, weights, _ = only(evaluated(masked_language.masked_token(3, V), bigram, TABLE, batch, jax.random.key(0), True))
    logits = torch.tensor(np.asarray(TABLE['params']['table'])[TOKENS]).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(TARGETS).long().flatten(), ignore_index=IGNORE)
    np.testing.assert_allclose(mean(values, weights), float(expected), rtol=1e-5)


# labels of tokens, and spans

@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_labels_of_tokens_equal_torch(smoothing):
    torch = pytest.importorskip('torch', reason='torch is the reference')
    task = token_classification.softmax(label_smoothing=smoothing)
    values, weights, aux = only(evaluated(task, bigram, TABLE, {'tokens': TOKENS, 'labels': TARGETS}))
    logits = np.asarray(TABLE['params']['table'])[TOKENS]
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits).flatten(0, 1), torch.tensor(TARGETS).long().flatten(),
                                                 ignore_index=IGNORE, label_smoothing=smoothing)
    np.testing.assert_allclose(mean(values, weights), float(expected), rtol=1e-5)
    assert tuple(map(float, aux.metrics['accuracy'])) == ((logits.argmax(-1) == TARGETS).sum(), (TARGETS != IGNORE).sum())
    np.testing.assert_array_equal(task.predict(bigram, TABLE, {'tokens': TOKENS}, None), logits)


def test_spans_equal_torch_and_an_answer_outside_the_row_has_no_loss():
    torch = pytest.importorskip('torch', reason='torch is the reference')
    start, end = np.array([1, 0, IGNORE, 2]), np.array([3, 0, IGNORE, 5])
    result = evaluated(spans.span(), of_start_and_end, TABLE, {'tokens': TOKENS, 'start': start, 'end': end})
    logits = np.asarray(TABLE['params']['table'])[TOKENS][..., :2]
    entropy = torch.nn.functional.cross_entropy
    both = [entropy(torch.tensor(logits[..., i]), torch.tensor(t), ignore_index=IGNORE) for i, t in enumerate((start, end))]
    np.testing.assert_allclose(objective(result), float(sum(both)) / 2, rtol=1e-5)
    right = (logits[..., 0].argmax(1) == start) & (logits[..., 1].argmax(1) == end)
    assert tuple(map(float, result[1].metrics['exact'])) == (right[start >= 0].sum(), 3)


@pytest.mark.parametrize('longest', [1, 3, 30])
def test_the_best_span_is_that_of_all_pairs(longest):
    starts, ends = RNG.normal(size=(2, 5, 9)).astype(np.float32)
    allowed = RNG.random((5, 9)) < 0.7
    allowed[:, 0], allowed[4] = False, False
    found = jax.tree.map(np.asarray, spans.best(jnp.asarray(starts), jnp.asarray(ends), jnp.asarray(allowed), longest))
    for row in range(4):
        pairs = {(i, j): starts[row, i] + ends[row, j] for i in range(9) for j in range(i, min(9, i + longest))
                 if allowed[row, i:j + 1].all()}
        best = max(pairs, key=pairs.get)
        assert (found['start'][row], found['end'][row]) == best and found['score'][row] == pytest.approx(pairs[best])
    np.testing.assert_allclose(found['none'], starts[:, 0] + ends[:, 0])
    assert found['score'][4] == spans.NEVER < found['none'][4], 'where there is no place, there is no answer'


def test_an_answer_lies_in_the_context_and_not_in_padding():
    batch = {'tokens': TOKENS, 'mask': np.arange(T)[None] < np.array([[6], [2], [4], [3]])}
    found = spans.span().predict(of_start_and_end, TABLE, batch, None)
    assert (np.asarray(found['start']) >= 1).all() and (np.asarray(found['end']) < batch['mask'].sum(1)).all()
    context = np.zeros((B, T), bool)
    context[:, 1] = True
    found = spans.span().predict(of_start_and_end, TABLE, dict(batch, context=context), None)
    assert (np.asarray(found['start']) == 1).all() and (np.asarray(found['end']) == 1).all()


# all of them

LENGTHS = np.array([[6], [3], [5], [1]])
COUNTS = np.arange(T)[None] < LENGTHS
TASKS = {
    'next token': (language.next_token(), bigram, {'tokens': TOKENS}),
    'masked': (masked_language.masked_token(3, V), bigram, {'tokens': TOKENS, 'targets': np.where(COUNTS, TARGETS, IGNORE)}),
    'labels': (token_classification.softmax(), bigram, {'tokens': TOKENS, 'labels': np.where(COUNTS, TARGETS, IGNORE)}),
    'spans': (spans.span(), of_start_and_end,
              {'tokens': TOKENS, 'start': np.array([2, 0, 1, 0]), 'end': np.array([5, 2, 3, 0])}),
    'sequence': (sequence.teacher_forcing(start=0), encoder_decoder,
                 {'source': np.where(COUNTS, TOKENS, 0), 'target': np.where(COUNTS, TOKENS, 0)})}


def padded(batch, value, more=3):
    """Longer rows whose padding is `value`, of which the mask tells; no target is there."""
    fill = {'tokens': value, 'targets': IGNORE, 'labels': IGNORE, 'mask': 0}
    return {k: np.pad(x, ((0, 0), (0, more)), constant_values=fill.get(k, 0)) if x.ndim == 2 else x for k, x in batch.items()}


@pytest.mark.parametrize('name', TASKS)
def test_padding_of_rows_and_of_examples_changes_nothing(name):
    """Loss, gradient and metrics of longer rows, more examples and parts of a batch are those of the batch."""
    task, apply, batch = TASKS[name]
    batch = batch if 'source' in batch else {**batch, 'mask': COUNTS}

    def loss(variables, *parts):
        results = [task.loss(apply, variables, part, None, True) for part in parts]
        terms, metrics = [next(iter(r[0].values())) for r in results], [r[1].metrics for r in results]
        total = sum(jnp.sum(t.values * t.weights) for t in terms) / sum(jnp.sum(t.weights) for t in terms)
        return total, jax.tree.map(lambda *x: sum(x), *metrics)

    gradient = jax.value_and_grad(loss, has_aux=True)
    rows = {k: np.concatenate([x, x[:2]]) for k, x in batch.items()} | {MASK: np.array([1] * B + [0, 0], np.float32)}
    parts = [{k: x[s] for k, x in batch.items()} for s in (slice(0, 1), slice(1, 4))]
    ways = [batch], [padded(batch, 5)], [rows], parts
    whole, *others = jax.jit(lambda variables, ways: [gradient(variables, *way) for way in ways])(TABLE, ways)
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), whole, other)


@pytest.mark.parametrize('name', TASKS)
def test_low_precision_logits_give_a_float32_loss(name):
    task, apply, batch = TASKS[name]
    low = lambda *args, **named: (apply(*args, **named)[0].astype(jnp.bfloat16), {})
    values, weights, aux = only(evaluated(task, low, TABLE, batch))
    assert values.dtype == weights.dtype == next(iter(aux.metrics.values()))[0].dtype == jnp.float32


def test_a_model_receives_what_stands_beside_its_tokens():
    batch = {'tokens': TOKENS, 'types': TOKENS, 'mask': COUNTS, 'label': TOKENS[:, 0]}
    assert set(beside(batch)) == {'types', 'mask'}


@pytest.mark.parametrize('start', [None, 0])
def test_a_target_is_shifted_once(start):
    """With a start token the model predicts every token of the target, without one all but the first."""
    target = np.array([[4, 5, 2, 0], [3, 2, 0, 0]], np.int32)
    task = sequence.teacher_forcing(start=start)
    _, seen = task.inputs({'source': target, 'target': target})
    np.testing.assert_array_equal(seen, target[:, :-1] if start is None else [[0, 4, 5, 2], [0, 3, 2, 0]])
    assert int(only(task.loss(lambda v, s, t, **named: bigram(v, t), TABLE, {'source': target, 'target': target}, None,
                              True))[1].sum()) == (3 if start is None else 5)
    decode = lambda apply, variables, source, rng: source[:, :2]
    found = sequence.teacher_forcing(decode=decode).predict(None, TABLE, {'source': target}, None)
    np.testing.assert_array_equal(found, target[:, :2])


@pytest.mark.parametrize('chunked', [False, True])
def test_a_packed_row_has_the_loss_of_its_documents(chunked):
    """A small GPT gives the tokens of a packed row what it gives each document alone, whole and through its chunked head."""
    model = GPT(vocab_size=V, block_size=12, num_layers=1, num_heads=2, width=8, chunk=5)
    documents = [[3, 4, 2, 1], [5, 1], [2, 6, 2, 5, 1]]
    row = np.array([list(itertools.chain(*documents))], np.int32)
    variables = jax.jit(lambda key: model.init(key, row))(jax.random.key(0))
    variables = jax.tree.map(lambda x: x * 10, variables)  # so that what a token sees matters
    task = language.next_token(chunked=chunked, separator=1)
    terms, _ = jax.jit(lambda variables: task.loss(bind(model), variables, {'tokens': row}, None, False))(variables)
    mine = float(jnp.sum(terms['nats'].values * terms['nats'].weights))
    alone = 0.0
    logits = jax.jit(model.apply)  # a document is seen up to its token: what follows it changes nothing
    for document in documents:
        padded = np.array([(document[:-1] + [0] * 4)[:4]])
        p = log_softmax(np.asarray(logits(variables, padded), np.float64)[0], -1)
        alone -= sum(p[t, token] for t, token in enumerate(document[1:]))
    assert terms['nats'].weights.sum() == 8 and mine == pytest.approx(alone, rel=1e-4)
