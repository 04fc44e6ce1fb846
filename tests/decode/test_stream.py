"""Text as it comes: stop strings across tokens, characters of several bytes, the end of a text."""
import numpy as np
import pytest

from bigjax import decode
from bigjax.decode.stream import Language, continue_text
from tests.decode.table import following
from tests.refused import refused

LETTERS = Language(lambda text: [ord(c) - 97 for c in text], lambda tokens: ''.join(chr(97 + t) for t in tokens), start=(0,))
BYTES = Language(lambda text: list(text.encode()), lambda tokens: bytes(tokens).decode('utf-8', 'replace'))


def parts(language, model, prompt, **how):
    return [piece.part for piece in continue_text(model, {}, language, prompt, **how)]


@pytest.mark.parametrize('stop, expected', [
    ((), 'bcdeab'), (('d',), 'bc'), (('dea',), 'bc'), (('x', 'ea', 'de'), 'bc'), (('dx',), 'bcdeab')])
def test_a_stop_string_is_never_shown_in_part(stop, expected):
    found = parts(LETTERS, following(0, 1, 2, 3, 4), 'a', max_new_tokens=6, stop=stop)
    assert ''.join(found) == expected


def test_what_may_begin_a_stop_string_is_held_back():
    found = list(continue_text(following(0, 1, 2, 3, 4), {}, LETTERS, '', max_new_tokens=5, stop=('cdx',)))
    assert [piece.part for piece in found if piece.part] == ['b', 'cde', 'a'] and found[-1].tokens == 5


def test_a_character_is_shown_whole():
    text = 'aé€b'
    found = parts(BYTES, following(*text.encode()), 'a', max_new_tokens=6)
    assert [part for part in found if part] == ['é', '€', 'b']


def test_a_space_that_a_tokenizer_drops_at_the_beginning_is_shown_between_prompt_and_text():
    words = Language(lambda text: LETTERS.encode(text.split()), lambda tokens: ' '.join(LETTERS.decode(tokens)))
    assert ''.join(parts(words, following(0, 1, 2, 3), 'a b', max_new_tokens=3)) == ' c d a'


def test_the_token_that_ends_a_text_is_no_part_of_it():
    assert ''.join(parts(LETTERS._replace(eos=(3,)), following(0, 1, 2, 3), 'a', max_new_tokens=9)) == 'bc'


def test_without_a_token_to_begin_with():
    with refused('decode/empty-prompt', '--prompt'):
        parts(BYTES, following(0, 1), '', max_new_tokens=2)
    with refused('decode/range', 'stop'):
        parts(BYTES, following(0, 1), 'a', max_new_tokens=2, stop=('',))


CYCLE = following(0, 1, 2, 3, 4)
PROMPTS = np.array([[0, 1], [0, 3], [2, 0]])
STOPPED = {  # options: new tokens of each row
    '': ([2, 3, 4, 0, 1], [4, 0, 1, 2, 3], [1, 2, 3, 4, 0]), 'de': ([2, 3, 4], [4, 0, 1, 2, 3], [1, 2, 3, 4]),
    'c': ([2], [4, 0, 1, 2], [1, 2])}


@pytest.mark.parametrize('how', [{}, {'num_beams': 2}, {'eos': 1, 'pad': 7}], ids=str)
@pytest.mark.parametrize('stop', STOPPED)
def test_a_row_ends_with_the_token_that_completes_a_stop_string(how, stop, monkeypatch):
    """However it is generated, at once and as it comes; padding follows, and a row that has ended before stays as it is."""
    monkeypatch.setattr('bigjax.decode.generation.STOP_EVERY', 2)
    how = dict(how, max_new_tokens=5, stop=[stop] if stop else (), tokenizer=LETTERS)
    rows = [row[:row.index(1) + 1] if 'eos' in how and 1 in row else row for row in STOPPED[stop]]
    mask = np.array([[True, True], [True, True], [False, True]])
    found = decode.run(CYCLE, {}, PROMPTS, mask=mask, **how)
    assert found.counts.tolist() == [*map(len, rows)]
    assert found.tokens[:, 2:].tolist() == [row + [how.get('pad', 0)] * (5 - len(row)) for row in rows]
    streamed = [np.concatenate([*decode.stream(CYCLE, {}, prompt, **how)]).tolist() for prompt in PROMPTS]
    assert streamed == rows


def test_a_generation_ends_when_every_row_has_its_stop_string():
    assert decode.run(CYCLE, {}, PROMPTS, max_new_tokens=500, stop='c', tokenizer=LETTERS).passes < 20
    with refused('decode/no-cache', 'object'):
        decode.generate(object(), {}, PROMPTS, max_new_tokens=2)
    with refused('decode/no-tokenizer', "'c'"):
        decode.generate(CYCLE, {}, PROMPTS, max_new_tokens=2, stop='c')
