"""Prompts: padded on either side, moved and moved back; wrong ones refused with their place."""
import numpy as np
import pytest

from bigjax.decode.prompts import prepare, restore
from tests.refused import refused


def test_right_padding_is_moved_to_the_left_and_back():
    tokens = np.array([[1, 2, 3, 9], [4, 9, 9, 9], [9, 5, 6, 9], [9, 9, 7, 8], [1, 2, 3, 4]])
    prompts = prepare(tokens, tokens != 9, 9, pad=0)
    np.testing.assert_array_equal(prompts.tokens, [[0, 1, 2, 3], [0, 0, 0, 4], [0, 0, 5, 6], [0, 0, 7, 8], [1, 2, 3, 4]])
    np.testing.assert_array_equal(prompts.mask, prompts.tokens > 0)
    new = np.array([[10, 11]] * 5)
    found = restore(np.concatenate([prompts.tokens, new], 1), prompts, 0)
    np.testing.assert_array_equal(found, [[1, 2, 3, 10, 11, 0], [4, 10, 11, 0, 0, 0], [0, 5, 6, 10, 11, 0],
                                          [0, 0, 7, 8, 10, 11], [1, 2, 3, 4, 10, 11]])


@pytest.mark.parametrize('tokens, mask, code, names', [
    ([[1, 2], [3, 7]], None, 'decode/token-range', ('token 7', 'place 1 of row 1')),
    ([[1, -1]], None, 'decode/token-range', ('token -1',)),
    ([1, 2], None, 'decode/tokens', ('[2]',)), ([[0.5]], None, 'decode/tokens', ('float',)),
    (np.zeros((1, 0), int), None, 'decode/empty-prompt', ()),
    ([[1, 2], [1, 2]], [[1, 1], [0, 0]], 'decode/empty-prompt', ('row 1',)),
    ([[1, 2, 3]], [[1, 0, 1]], 'decode/mask', ('row 0',)), ([[1, 2]], [[1]], 'decode/mask', ('[1, 1]', '[1, 2]'))])
def test_wrong_prompts(tokens, mask, code, names):
    with refused(code, *names):
        prepare(tokens, mask, 7)


def test_what_padding_holds_is_not_looked_at():
    assert prepare([[-100, 1]], [[0, 1]], 7, pad=3).tokens.tolist() == [[3, 1]]
