"""Questions on paragraphs as rows of tokens: windows, places of answers, and predictions back to text."""
import json
import re
import types

import numpy as np
import pytest

from bigjax.data.loaders import questions, registry
from bigjax.data.loaders.questions import Question
from tests.refused import refused

CONTEXT = 'Denver won 24-10. It was the third title of the Broncos, who play in Denver.'


class WordsAndMarks:
    """A tokenizer of words and marks, each with the number of its first occurrence, above the special ones."""

    pad, bos, eos, kind, vocab_size, facts = 0, 1, 2, 'words', 99, {}

    def __init__(self):
        self.known = {}

    def encode(self, text):
        return self.encode_places(text)[0]

    def encode_places(self, text):
        found = list(re.finditer(r'\w+|[^\w\s]', text))
        return [self.known.setdefault(m[0].lower(), len(self.known) + 3) for m in found], [m.span() for m in found]


def asked(text='Who won?', answers=(('the Broncos', 44),), context=CONTEXT):
    return Question(text, context, answers)


def test_a_row_is_the_question_and_the_paragraph():
    (row,) = questions.rows(asked(), WordsAndMarks(), 40, 8)
    words = re.findall(r'\w+|[^\w\s]', CONTEXT)
    tokens = row['tokens']
    assert len(words) == 20 and tokens[:5] == [1, 3, 4, 5, 2] and tokens[25] == 2 and tokens[26:] == [0] * 14
    assert row['types'] == [0] * 5 + [1] * 21 + [0] * 14
    first, last = row['places'][row['start']], row['places'][row['end']]
    assert CONTEXT[first[0]:last[1]] == 'the Broncos' and row['places'][:5] == [None] * 5 and len(row['places']) == 40


@pytest.mark.parametrize('stride', [3, 8, 100])
def test_windows_overlap_and_cover_the_paragraph(stride):
    """Every token is in a window; a window that does not hold the whole answer has both ends at 0."""
    found = list(questions.rows(asked(), WordsAndMarks(), 16, stride))
    room = 16 - 3 - 3
    covered = {place for row in found for place in row['places'] if place}
    assert covered == {m.span() for m in re.finditer(r'\w+|[^\w\s]', CONTEXT)}
    begins = [next(place for place in row['places'] if place)[0] for row in found]
    assert begins == sorted(begins) and len(found) == 1 + -(-(20 - room) // min(room, stride))
    held = [CONTEXT[row['places'][row['start']][0]:row['places'][row['end']][1]] for row in found if row['start']]
    assert held and set(held) == {'the Broncos'}
    assert all(row['end'] == 0 for row in found if row['start'] == 0) and all(len(row['tokens']) == 16 for row in found)


def test_an_answer_within_a_token_is_that_token():
    (row,) = questions.rows(asked(answers=(('Den', 0),)), WordsAndMarks(), 40, 8)
    assert row['start'] == row['end'] == 5
    (row,) = questions.rows(asked(answers=()), WordsAndMarks(), 40, 8)
    assert row['start'] == row['end'] == 0
    with refused('data/too-short'):
        list(questions.rows(asked(), WordsAndMarks(), 6, 8))


def test_predictions_are_judged_as_text():
    """The best window of a question gives its answer, and the least "no answer" is set against it where some have none."""
    both = [asked(), asked('When?', ()), asked('Where?', (('Denver', 69), ('in Denver', 66)))]
    made = questions.windows(both, WordsAndMarks(), 16, 8)
    rows = {number: np.flatnonzero(made.of == number) for number in range(3)}
    full = lambda value: np.full(len(made), value)
    outputs = {'start': full(3), 'end': full(3), 'score': full(-9.0), 'none': full(1.0)}
    right = next(row for row in rows[0] if made.arrays['start'][row])
    for key in ('start', 'end'):
        outputs[key][right] = made.arrays[key][right]
    outputs['score'][right] = 5
    where = rows[2][-1]
    outputs['start'][where] = outputs['end'][where] = max(i for i, place in enumerate(made.places[where]) if place == (69, 75))
    outputs['score'][where], outputs['none'][where] = 2.0, 1.5
    assert made.judge(outputs, {}) == {'exact_match': 100.0, 'f1': 100.0}
    outputs['none'][rows[2]] = 3.0  # in every window
    assert made.judge(outputs, {})['exact_match'] == pytest.approx(200 / 3)
    outputs['none'][rows[2][0]] = 0.5  # one window is surer that there is one
    assert made.judge(outputs, {})['exact_match'] == 100.0
    alone = questions.windows(both[:1], WordsAndMarks(), 40, 8)
    outputs = {'start': np.array([5]), 'end': np.array([5]), 'score': np.array([-50.0]), 'none': np.array([9.0])}
    assert alone.judge(outputs, {})['exact_match'] == 0.0, 'without such questions there is always an answer'


def written(folder, version, data):
    for name in questions.FILES[version]:
        (folder / 'squad').mkdir(exist_ok=True)
        (folder / 'squad' / name).write_text(json.dumps(data))


FILE = {'data': [{'paragraphs': [{'context': CONTEXT, 'qas': [
    {'question': 'Who won?', 'answers': [{'text': 'Denver', 'answer_start': 0}, {'text': 'Denver', 'answer_start': 0}]},
    {'question': 'When?', 'answers': [], 'is_impossible': True}]}]}]}


def test_files_of_squad_are_read(tmp_path, monkeypatch):
    written(tmp_path, 'v2', FILE)
    with refused('data/no-tokenizer', '--config.tokenizer'):
        registry.load('squad/v2', str(tmp_path))
    monkeypatch.setattr('bigjax.data.tokenize.of_texts', lambda spec, texts: WordsAndMarks())
    splits = registry.load('squad/v2', str(tmp_path), tokenizer='hf:bert')
    assert len(splits.train) == 2 and splits.evals['val'].questions[0].answers == (('Denver', 0),)
    assert splits.train[0]['tokens'].shape == (384,) and (splits.train[0]['start'], splits.train[1]['start']) == (5, 0)
    characters = types.SimpleNamespace(pad=0, bos=None, eos=None, kind='char')
    monkeypatch.setattr('bigjax.data.tokenize.of_texts', lambda spec, texts: characters)
    with refused('data/no-tokenizer', 'char'):
        registry.load('squad/v2', str(tmp_path), tokenizer='char:x')


@pytest.mark.parametrize('change', [
    lambda data: data.pop('data'), lambda data: data['data'][0]['paragraphs'][0].pop('context'),
    lambda data: data['data'][0]['paragraphs'][0]['qas'][0]['answers'][0].update(answer_start=3)])
def test_other_files_are_refused(tmp_path, change, monkeypatch):
    monkeypatch.setattr('bigjax.data.tokenize.of_texts', lambda spec, texts: WordsAndMarks())
    data = json.loads(json.dumps(FILE))
    change(data)
    written(tmp_path, 'v1', data)
    with refused('data/damaged', 'train-v1.1.json'):
        registry.load('squad/v1', str(tmp_path), tokenizer='hf:bert')


def test_places_of_a_word_piece_tokenizer(tmp_path):
    pytest.importorskip('tokenizers', reason="the extra 'text'")
    from bigjax.data import tokenizers
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'den', '##ver', 'won', '.', '[MASK]']
    (tmp_path / 'vocab.txt').write_text('\n'.join(words))
    (tmp_path / 'tokenizer_config.json').write_text('{"do_lower_case": true}')
    bert = tokenizers.load(f'hf:{tmp_path}')
    found = bert.encode_places('Dénver  won.')
    assert found == ([4, 5, 6, 7], [(0, 3), (3, 6), (8, 11), (11, 12)])
    (row,) = questions.rows(Question('Won?', 'Dénver  won.', (('Dénver', 0),)), bert, 16, 8)
    assert (row['start'], row['end']) == (4, 5) and row['tokens'][:2] == [2, 6]
