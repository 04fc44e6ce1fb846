"""The metrics of SQuAD, exact match and F1 of answers, as its evaluation script defines them (Rajpurkar et al. 2016; 2018).

An answer is compared in lower case, without ASCII punctuation and the articles a, an and the, with single spaces. Of several
true answers the best match counts. A question without an answer has the true answer '', and a prediction of '' means "none".
"""
import collections
import re
import string
from collections.abc import Sequence

ARTICLES = re.compile(r'\b(a|an|the)\b')
PUNCTUATION = str.maketrans('', '', string.punctuation)


def normalized(answer: str) -> str:
    """The form in which answers are compared."""
    return ' '.join(ARTICLES.sub(' ', answer.lower().translate(PUNCTUATION)).split())


def f1(prediction: str, truth: str) -> float:
    """The F1 of the words of two answers, as bags; of an empty one, whether both are."""
    found, true = normalized(prediction).split(), normalized(truth).split()
    if not found or not true:
        return float(found == true)
    common = sum((collections.Counter(found) & collections.Counter(true)).values())
    return 2 * common / (len(found) + len(true))  # of precision c / len(found) and recall c / len(true)


def scores(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """{'exact_match', 'f1'} in percent, the unit of the paper, of one prediction and the true answers of each question.

    True answers that are empty once normalized do not count beside others; a question with no other has no answer.
    """
    exact, overlap = [], []
    for prediction, true in zip(predictions, answers, strict=True):
        true = [answer for answer in true if normalized(answer)] or ['']
        exact.append(max(normalized(prediction) == normalized(answer) for answer in true))
        overlap.append(max(f1(prediction, answer) for answer in true))
    return {'exact_match': 100.0 * sum(exact) / max(len(exact), 1), 'f1': 100.0 * sum(overlap) / max(len(overlap), 1)}
