"""The metrics of SQuAD against values worked out by hand from the definition."""
import pytest

from bigjax.metrics import squad


@pytest.mark.parametrize(('answer', 'form'), [
    ('The  Panthers!', 'panthers'), ('a-an the', 'aan'), ('  An\tapple a day\n', 'apple day'), ('theory', 'theory'),
    ("it's", 'its'), ('the', ''), ('“Saint” Bernadette', '“saint” bernadette'), ('U.S.', 'us'), ('the.a', 'thea')])
def test_the_form_in_which_answers_are_compared(answer, form):
    assert squad.normalized(answer) == form


@pytest.mark.parametrize(('prediction', 'answers', 'exact', 'f1'), [
    ('the Denver Broncos', ['Denver Broncos'], 1, 1.0),
    ('Broncos', ['Denver Broncos', 'The Broncos!'], 1, 1.0),  # the best of several
    ('Denver Broncos of Denver', ['Denver Denver'], 0, 2 * (2 / 4) * (2 / 2) / (2 / 4 + 2 / 2)),  # words as bags
    ('in 1998', ['1999'], 0, 0.0),
    ('of the 10 cats', ['10 dogs'], 0, 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)),
    ('', [], 1, 1.0), ('something', [], 0, 0.0), ('', [''], 1, 1.0),  # no answer
    ('', ['Denver'], 0, 0.0), ('', ['the', 'Denver'], 0, 0.0),  # an empty true answer does not count beside others
    ('the', ['a'], 1, 1.0)])
def test_one_question(prediction, answers, exact, f1):
    assert squad.scores([prediction], [answers]) == {'exact_match': 100.0 * exact, 'f1': pytest.approx(100.0 * f1)}


def test_the_mean_is_over_questions():
    found = squad.scores(['a b', 'c'], [['b'], ['d']])
    assert found == {'exact_match': 50.0, 'f1': 50.0}
    with pytest.raises(ValueError):
        squad.scores(['one'], [])
