"""What a person gives to a network of strings, and the padding that it does not see."""
import jax
import numpy as np
import pytest

from bigjax.models.rnn import RNNClassifier
from experiments import chomsky
from tests.refused import refused


def test_strings_are_letters_of_the_language():
    interface = chomsky.strings('=+-', ['0', '1', '2', '3', '4'])
    np.testing.assert_array_equal(interface.parse(' +-=\n')['tokens'], [2, 3, 1])
    assert interface.answer(np.array([0, 9, 0, 0, 0.0]))['class'] == '1'
    for text in ('', 'ab', '+ -'):
        with refused('predict/word', '=+-'):
            interface.parse(text)


@pytest.mark.parametrize('cell', ['rnn', 'lstm'])
def test_a_string_has_the_same_answer_in_a_longer_row(cell):
    model = RNNClassifier(cell=cell, features=4, embed=3, vocab_size=3, num_classes=2)
    short = np.array([[1, 2, 2], [2, 1, 0]], np.int32)
    variables = model.init(jax.random.key(0), short, train=False)
    answers = [model.apply(variables, tokens, mask=tokens > 0, train=False) for tokens in
               (short, np.pad(short, ((0, 0), (0, 3))))]
    np.testing.assert_allclose(*answers, rtol=1e-5)
    np.testing.assert_allclose(answers[0][1:], model.apply(variables, short[1:, :2], train=False), rtol=1e-5)
