"""What the evaluation of SCAN counts as a mistake, and shows."""
import numpy as np
import pytest

from bigjax.data.loaders.formats import pad_words
from bigjax.data.loaders.named import SCAN_VOCABULARIES as WORDS
from experiments import scan
from tests.refused import refused

COMMANDS = ['walk', 'jump twice', 'run left']
ACTIONS = ['I_WALK', 'I_JUMP I_JUMP', 'I_TURN_LEFT I_RUN']


def test_numbers_of_unknown_words_are_refused(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"source": [1, 2], "target": [1, 2]}\n' * 20)
    config = scan.get_config('simple')
    config.data = f'jsonl:{tmp_path}/a.jsonl'
    with refused('data/no-vocabulary', 'scan/simple'):
        scan.get_experiment(config)


def tokens(side, sentences):
    return pad_words([s.split() for s in sentences], WORDS[side], 8, 'here')


@pytest.mark.parametrize(('given', 'share', 'wrong'), [
    (ACTIONS, 1.0, []),
    (['I_WALK', 'I_JUMP', 'I_TURN_LEFT I_RUN'], 2 / 3, [1]),
    (['I_WALK I_WALK', 'I_JUMP I_JUMP I_JUMP', 'I_RUN'], 0.0, [0, 1, 2]),
])
def test_exact_match_and_mistakes(given, share, wrong):
    examples = {'source': tokens('source', COMMANDS), 'target': tokens('target', ACTIONS)}
    outputs = np.roll(tokens('target', given), -1, axis=1)  # what is decoded has no <s>
    outputs[:, -1] = 0
    found = scan.judge(outputs, examples, WORDS)
    assert found['exact_match'] == pytest.approx(share)
    lines = [f'{COMMANDS[i]}\n  is     {ACTIONS[i]}\n  given  {given[i]}' for i in wrong]
    assert found['mistakes'] == ('\n\n'.join(lines) or 'none')
