"""Questions about a text, translations and summaries, asked of models that were trained on the user's own tables."""
import json

import numpy as np
import pytest

from bigjax import cli
from bigjax.predict import inputs, interfaces
from bigjax.predict.verb import line
from experiments import cnn_dailymail, multi30k, squad
from tests.data.test_own_pairs import ASKED, PAIRS, written
from tests.data.test_questions import CONTEXT, WordsAndMarks
from tests.refused import refused

INFO = {'length': 16, 'stride': 8, 'unanswered': False}


def test_questions_come_before_the_text_that_they_are_asked_about(tmp_path):
    (tmp_path / 'a.txt').write_text('One text.\nTwo lines.\n')
    (tmp_path / 'b.jsonl').write_text('{"question": "q", "context": "c"}\n')
    given = lambda *words: [(raw['question'], raw['context']) for _, raw in inputs.expanded(words, ('question', '.jsonl'))]
    whole = 'One text.\nTwo lines.\n'
    assert given('x', 'y', f'@{tmp_path}/a.txt', 'z', f'@{tmp_path}/a.txt') == [('x', whole), ('y', whole), ('z', whole)]
    assert given('x', 'y', 'a text') == [('x', 'a text'), ('y', 'a text')] and given(f'{tmp_path}/b.jsonl') == [('q', 'c')]
    for code, *words in (('predict/no-question', 'x'), ('predict/no-question', f'@{tmp_path}/a.txt'),
                         ('predict/nothing', 'x', ' '), ('predict/no-file', 'x', f'@{tmp_path}/none.txt')):
        with refused(code):
            given(*words)
    accepts = interfaces.pairs(None, documents=True).accepts
    assert inputs.expanded([f'@{tmp_path}/a.txt'], accepts) == [(f'{tmp_path}/a.txt', whole)]


@pytest.mark.parametrize('unanswered', [False, True])
def test_the_best_span_of_all_windows_is_the_answer(unanswered):
    """Its probability is that among all spans of all windows, by a formula of its own."""
    interface = interfaces.questions(WordsAndMarks(), {**INFO, 'unanswered': unanswered})
    examples = interface.parse({'question': 'Who won?', 'context': CONTEXT})
    assert len(examples) == 3 and examples[0][interfaces.NOTES] == ['3 windows of 16 tokens']
    given = examples[0][interfaces.GIVEN]
    window = next(i for i, places in enumerate(given['places']) if (48, 55) in places)
    place = given['places'][window].index((48, 55))
    outputs = {'start': np.full(3, place), 'end': np.full(3, place), 'score': np.array([1.0, 1.0, 1.0]),
               'total': np.array([2.0, 2.5, 3.0]), 'none': np.array([0.5, 1.5, 4.0])}
    outputs['score'][window] = 2.0
    answer = interface.answer(outputs, given)
    whole = np.exp([2.0, 2.5, 3.0]).sum() + np.exp(0.5) * unanswered
    assert (answer['text'], answer['start'], answer['end']) == ('Broncos', 48, 55) and CONTEXT[48:55] == 'Broncos'
    assert answer['probability'] == pytest.approx(np.exp(2.0) / whole)
    assert line('q', answer) == f'q  Broncos {answer["probability"]:.1%} · characters 48 to 55'
    outputs['none'] += 5.0
    absent = interface.answer(outputs, given)
    assert absent['text'] == ('' if unanswered else 'Broncos') and line('q', absent).startswith('q  (none) ') == unanswered
    for raw in ('no pair', {'question': 'q'}, {'question': 'q', 'context': ' '}):
        with refused('data/empty-text'):
            interface.parse(raw)


def run(capsys, script, *argv):
    capsys.readouterr()
    code = cli.run(script, f'experiments.{script.__name__}', list(argv))
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


SMALL = ('--config.model.width=16', '--config.model.num_layers=1', '--config.model.num_heads=2', '--config.model.dropout=0.0',
         '--config.dtype=float32', '--config.batch_size=8', '--config.mesh=data:1')


@pytest.mark.slow
def test_answers_of_a_model_of_ones_own(tmp_path, capsys):
    pytest.importorskip('tokenizers', reason="the extra 'text'")
    data = written(tmp_path / 'a.jsonl', [row for row in ASKED if row['answers'] == 'sky'])
    run(capsys, squad, f'--workdir={tmp_path}/run', f'--config.data={data}', '--config.tokenizer=wordpiece:100',
        '--config.length=24', '--config.stride=8', '--config.optimizer.lr=0.01', '--config.steps=40', *SMALL)
    (tmp_path / 'a.jsonl').unlink()
    text = 'Bob lives in Oslo. The sky is blue. ' * 3
    (tmp_path / 'text.txt').write_text(text)
    found = [*map(json.loads, run(capsys, squad, 'predict', f'--workdir={tmp_path}/run', '--json', 'What is blue?', 'What?',
                                  f'@{tmp_path}/text.txt').splitlines())]
    assert len(found) == 2 and 'windows of 24' in found[0]['assumed'][0]
    assert all(each['text'] == 'sky' == text[each['start']:each['end']] and each['probability'] > 0.1 for each in found)


@pytest.mark.slow
@pytest.mark.parametrize('script', [multi30k, cnn_dailymail])
def test_texts_of_a_model_of_ones_own(script, tmp_path, capsys):
    rows = PAIRS if script is multi30k else [{'text': row['source'], 'summary': row['target']} for row in PAIRS]
    data = written(tmp_path / 'a.jsonl', rows)
    run(capsys, script, f'--workdir={tmp_path}/run', f'--config.data={data}', '--config.tokenizer=word', '--config.steps=4',
        *SMALL)
    (tmp_path / 'a.jsonl').unlink()
    (tmp_path / 'text.txt').write_text('the red dog\nthe old cat\n')
    found = run(capsys, script, 'predict', f'--workdir={tmp_path}/run', '--json', 'the red dog', f'@{tmp_path}/text.txt')
    assert [json.loads(each).keys() for each in found.splitlines()] == [{'input', 'text'}] * (3 if script is multi30k else 2)
