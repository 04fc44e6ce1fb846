"""The damaged files that once went wrong, and some hundred new ones for each reader."""
import pathlib

import pytest

from bigjax.errors import UserError
from tests.fuzz import trial
from tests.fuzz.readers import READERS, Reader

CASES = sorted(path for path in (pathlib.Path(__file__).parent / 'cases').glob('*/*/*') if path.is_file())
COUNTS = dict.fromkeys(READERS, 300) | {'npz': 150, 'replay': 100, 'records': 150, 'pages': 8}


@pytest.mark.parametrize('path', CASES, ids=lambda path: f'{path.parts[-3]}-{path.parts[-2]}')
def test_a_kept_case(tmp_path, path):
    name = path.parts[-3]
    reader = READERS[name]
    trial.seeds(reader, tmp_path)
    with trial.quiet():
        assert not trial.verdict(reader, trial.place(tmp_path, path.name, path.read_bytes()))


@pytest.mark.parametrize('name', READERS)
def test_seeded_damage(tmp_path, name):
    tried, found = trial.run(READERS[name], tmp_path, seed=7, count=COUNTS[name])
    assert tried == COUNTS[name]
    assert not found, {wrong: data[:200] for wrong, (_, data) in found.items()}


@pytest.mark.parametrize('error, words', [
    (None, ''), (UserError('a line'), ''), (UserError('two\nlines'), 'not one line'), (UserError('\x1b[2J'), 'not one line'),
    (UserError('x' * 5000), 'not one line'), (ValueError('x'), 'ValueError'), (trial.Slow(), 'Slow')])
def test_only_success_and_a_line_are_allowed(tmp_path, error, words):
    def read(path):
        if error:
            raise error

    found = trial.verdict(Reader(lambda folder: {}, read), tmp_path)
    assert words in found and bool(found) == bool(words)


def test_the_same_seed_gives_the_same_inputs_anywhere_in_the_row(tmp_path):
    valid = trial.seeds(READERS['idx'], tmp_path)
    row, later = trial.inputs(valid, 3), trial.inputs(valid, 3, 5)
    assert [next(row) for _ in range(8)][5:] == [next(later) for _ in range(3)]
    assert next(trial.inputs(valid, 4, 5)) != next(trial.inputs(valid, 3, 5))
