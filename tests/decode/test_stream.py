"""Text as it comes: stop strings across tokens, characters of several bytes, the end of a text."""
import pytest

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
    with refused('decode/range', '--stop'):
        parts(BYTES, following(0, 1), 'a', max_new_tokens=2, stop=('',))
