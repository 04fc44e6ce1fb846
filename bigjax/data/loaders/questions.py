"""Questions on paragraphs, in the JSON of SQuAD, as rows of tokens: [CLS] question [SEP] a part of the paragraph [SEP].

A paragraph that is longer than a row is cut into windows that overlap. What a window's tokens are in the paragraph stays on the
host, with the paragraphs and the true answers, so that a prediction becomes text and is judged as SQuAD is.
"""
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigjax.data.loaders import formats
from bigjax.data.sources import ArraySource, Splits
from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.metrics import squad

QUESTION_TOKENS = 64  # of a question, at most
FILES = {'v1': ('train-v1.1.json', 'dev-v1.1.json'), 'v2': ('train-v2.0.json', 'dev-v2.0.json')}


class Question(NamedTuple):
    """A question, its paragraph, and its true answers: (text, number of its first character) each; none where it has none."""

    text: str
    context: str
    answers: tuple[tuple[str, int], ...]


class Windows(ArraySource):
    """Rows of tokens and, on the host, the questions that they belong to.

    Attributes:
      questions: of the file, in its order.
      of: int [N], the question of each row.
      places: [N] lists of (first character, one past the last) of the row's tokens in the paragraph, None for other tokens.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], questions: Sequence[Question], of: np.ndarray, places: Sequence[Any]):
        super().__init__(arrays)
        self.questions, self.of, self.places = questions, of, places

    def judge(self, outputs, examples) -> dict[str, float]:
        """{'exact_match', 'f1'} of the predictions of `bigjax.tasks.spans`, as an evaluator's `compute`.

        The best span of all windows of a question is its answer, and the least score of "no answer" among them is set against
        it, where the file has questions without one.
        """
        answers, best = [''] * len(self.questions), np.full(len(self.questions), -np.inf)
        none = np.full(len(self.questions), np.inf)
        for row, question in enumerate(self.of):
            none[question] = min(none[question], outputs['none'][row])
            if outputs['score'][row] > best[question]:
                first, last = self.places[row][outputs['start'][row]], self.places[row][outputs['end'][row]]
                best[question] = outputs['score'][row]
                answers[question] = self.questions[question].context[first[0]:last[1]] if first and last else ''
        if any(not question.answers for question in self.questions):
            answers = [answer if score > limit else '' for answer, score, limit in zip(answers, best, none, strict=True)]
        return squad.scores(answers, [[text for text, _ in question.answers] for question in self.questions])


def read(path: pathlib.Path) -> list[Question]:
    """The questions of a file of SQuAD, version 1.1 or 2.0.

    Raises:
      UserError: the file is not JSON of that form, or an answer is not where it is said to be.
    """
    try:
        articles = json.loads(formats.read(path).decode())['data']
        found = [Question(asked['question'], paragraph['context'],
                          tuple(dict.fromkeys((answer['text'], int(answer['answer_start'])) for answer in asked['answers'])))
                 for article in articles for paragraph in article['paragraphs'] for asked in paragraph['qas']]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path}: got {safe_read.printable(error)}, expected the JSON of SQuAD (data, paragraphs, qas, '
                        'answers); fix: fetch it again', code='data/damaged') from None
    for number, question in enumerate(found):
        for text, start in question.answers:
            if question.context[start:start + len(text)] != text:
                raise UserError(f"{path}: question {number}: got the answer '{safe_read.printable(text)}' at character "
                                f'{start}, where the paragraph has another text; fix: fetch it again', code='data/damaged')
    return found


def rows(question: Question, tokenizer, length: int, stride: int) -> Iterator[dict[str, Any]]:
    """The windows of one question: 'tokens' and 'types' [length], 'start' and 'end', and 'places'.

    Start and end are those of the first answer, and 0 where the window does not hold all of it.
    """
    asked = tokenizer.encode(question.text)[:QUESTION_TOKENS]
    tokens, places = tokenizer.encode_places(question.context)
    room, before = length - len(asked) - 3, len(asked) + 2
    if room < 1:
        raise UserError(f'length={length}: got a row without room for a paragraph, expected more than {len(asked) + 3}; fix: a '
                        'longer row', code='data/too-short')
    answer = None
    if question.answers:
        text, start = question.answers[0]
        inside = [i for i, (first, past) in enumerate(places) if past > start and first < start + len(text)]
        answer = (inside[0], inside[-1]) if inside else None
    begin = 0
    while True:
        part = tokens[begin:begin + room]
        row = [tokenizer.bos, *asked, tokenizer.eos, *part, tokenizer.eos]
        fits = answer is not None and begin <= answer[0] and answer[1] < begin + len(part)
        start, end = (before + place - begin for place in answer) if fits else (0, 0)
        pad = length - len(row)
        yield {'tokens': row + [tokenizer.pad] * pad, 'types': [0] * before + [1] * (len(part) + 1) + [0] * pad, 'start': start,
               'end': end, 'places': [None] * before + places[begin:begin + room] + [None] * (pad + 1)}
        if begin + room >= len(tokens):
            return
        begin += min(room, stride)


def windows(questions: Sequence[Question], tokenizer, length: int, stride: int) -> Windows:
    """All rows of questions."""
    found = [(number, row) for number, question in enumerate(questions) for row in rows(question, tokenizer, length, stride)]
    arrays = {key: np.asarray([row[key] for _, row in found], np.int32) for key in ('tokens', 'types', 'start', 'end')}
    return Windows(arrays, questions, np.asarray([number for number, _ in found]), [row['places'] for _, row in found])


def squad_files(named, name: str, variant: str, data_dir: str, *, tokenizer: str = '', stride: int = 128) -> Splits | None:
    """`data_dir/squad/{train,dev}-v1.1.json` or -v2.0.json, as Stanford has them, in the tokens of `tokenizer`.

    Raises:
      UserError: no tokenizer is named, or it is not BERT's kind; as `read`.
    """
    folder = pathlib.Path(data_dir) / 'squad' if data_dir else None
    paths = [folder and formats.find(folder, file) for file in FILES[variant]]
    if None in paths:
        return None
    if not tokenizer:
        raise UserError(f'{name}: got the texts of {folder} and no tokenizer, expected one; fix: '
                        '--config.tokenizer=hf:FOLDER of a BERT', code='data/no-tokenizer')
    from bigjax.data import tokenizers
    chosen = tokenizers.load(tokenizer)
    if None in (chosen.pad, chosen.bos, chosen.eos) or not hasattr(chosen, 'encode_places'):
        raise UserError(f'{name}: got the tokenizer {tokenizer} ({chosen.kind}), expected one with [CLS], [SEP] and [PAD]; '
                        'fix: that of a BERT', code='data/no-tokenizer')
    length = named.shapes(variant)['tokens'][0][0]
    train, val = (windows(read(path), chosen, length, stride) for path in paths)
    info = {**named.info(variant), 'vocabulary': chosen.vocab_size, 'name': name, 'source': str(folder),
            'records': {'train': len(train), 'val': len(val)}, 'tokenizer': chosen.facts}
    return Splits(train, {'val': val}, info)
