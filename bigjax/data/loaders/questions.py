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
from bigjax.data.loaders.text_tables import TextTable
from bigjax.data.sources import ArraySource, Splits
from bigjax.errors import UserError
from bigjax.io.text import printable
from bigjax.metrics import squad

QUESTION_TOKENS = 64  # of a question, at most
STRIDE = 128  # tokens between the beginnings of two windows of a paragraph
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
      tokenizer: that made the tokens.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], questions: Sequence[Question], of: np.ndarray, places: Sequence[Any],
                 tokenizer=None):
        super().__init__(arrays)
        self.questions, self.of, self.places, self.tokenizer = questions, of, places, tokenizer

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
        raise UserError(f'{path}: got {printable(error)}, expected the JSON of SQuAD (data, paragraphs, qas, '
                        'answers); fix: fetch it again', code='data/damaged') from None
    for number, question in enumerate(found):
        for text, start in question.answers:
            if question.context[start:start + len(text)] != text:
                raise UserError(f"{path}: question {number}: got the answer '{printable(text)}' at character "
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
    return Windows(arrays, questions, np.asarray([number for number, _ in found]), [row['places'] for _, row in found],
                   tokenizer)


def squad_files(named, name: str, variant: str, data_dir: str, *, tokenizer: str = '', length: int = 0,
                stride: int = STRIDE) -> Splits | None:
    """`data_dir/squad/{train,dev}-v1.1.json` or -v2.0.json, as Stanford has them, in the tokens of `tokenizer`.

    Raises:
      UserError: no tokenizer is named, or it is not BERT's kind; as `read`.
    """
    folder = pathlib.Path(data_dir) / 'squad' if data_dir else None
    paths = [folder and formats.find(folder, file) for file in FILES[variant]]
    if None in paths:
        return None
    found = {split: read(path) for split, path in zip(('train', 'val'), paths, strict=True)}
    made, facts = encoded(found, tokenizer, length or named.shapes(variant)['tokens'][0][0], stride)
    info = {**named.info(variant), **facts, 'name': name, 'source': str(folder),
            'records': {split: len(source) for split, source in made.items()}}
    return Splits(made.pop('train'), made, info)


def encoded(found: Mapping[str, Sequence[Question]], tokenizer: str, length: int, stride: int) -> tuple[dict, dict]:
    """({split: Windows}, facts) of questions.

    Raises:
      UserError: no tokenizer is named, or it is not BERT's kind.
    """
    fix = ('fix: --config.tokenizer=hf:FOLDER, that of the BERT with whose weights the model begins, or wordpiece:8000, '
           'learned from the paragraphs')
    if not tokenizer:
        raise UserError(f'config.tokenizer: got none with texts, expected one; {fix}', code='data/no-tokenizer')
    from bigjax.data import tokenize
    chosen = tokenize.of_texts(tokenizer, (text for question in found['train'] for text in (question.text, question.context)))
    if chosen.pad != 0 or None in (chosen.bos, chosen.eos) or not hasattr(chosen, 'encode_places'):
        raise UserError(f'config.tokenizer={tokenizer}: got a tokenizer of the kind {chosen.kind}, expected one with [CLS], '
                        f'[SEP] and [PAD], which is 0; {fix}', code='data/no-tokenizer')
    made = {split: windows(questions, chosen, length, stride) for split, questions in found.items()}
    notes = {split: [f'{len(found[split]):,} questions in {len(source):,} windows of {length} tokens'] if
             len(source) != len(found[split]) else [] for split, source in made.items()}
    return made, {'vocabulary': chosen.vocab_size, 'tokenizer': chosen.facts, 'notes': notes, 'length': length,
                  'stride': stride, 'unanswered': any(not question.answers for question in found['train'])}


def own_questions(named, variant: str, parts: Mapping[str, TextTable], *, tokenizer: str = '', length: int = 0,
                  stride: int = STRIDE) -> tuple[dict, dict]:
    """`make` of a `text_tables.Reader`: an answer is a text of the context, or has its first character beside it.

    Raises:
      UserError: an answer that the context does not hold, an empty question or context; as `encoded`.
    """
    found = {}
    for split, table in parts.items():
        asked, contexts = table.texts('question'), table.texts('context')
        found[split] = [Question(*pair, _answers(value, pair[1], table.record(i)))
                        for i, (pair, value) in enumerate(zip(zip(asked, contexts, strict=True), table.columns['answers'],
                                                              strict=True))]
    return encoded(found, tokenizer, length or named.shapes(variant)['tokens'][0][0], stride)


def _answers(value: Any, context: str, where: str) -> tuple[tuple[str, int], ...]:
    """The answers of a record: a text, a list of texts, {'text': …, 'answer_start': …} with one or many, or a list of these.

    Raises:
      UserError: another form, or a text that is not at its place in the context.
    """
    try:
        if isinstance(value, Mapping):
            texts, starts = value['text'], value.get('answer_start')
            texts = [texts] if isinstance(texts, str) else list(texts)
            starts = [starts] * len(texts) if starts is None else list(np.ravel(starts))
            pairs = list(zip(texts, starts, strict=True))
        else:
            many = [value] if isinstance(value, str) else [] if value is None else list(value)
            pairs = [(one['text'], one.get('answer_start')) if isinstance(one, Mapping) else (one, None) for one in many]
        pairs = [(text.strip() if start is None else text, start) for text, start in pairs if text.strip()]
        places = [context.find(text) if start is None else int(start) for text, start in pairs]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f'{where}: got the answers {printable(repr(value))}, expected texts of the context, or '
                        "{'text': […], 'answer_start': […]}; fix: correct them", code='data/answers') from None
    for (text, start), place in zip(pairs, places, strict=True):
        if place < 0 or context[place:place + len(text)] != text:
            at = '' if start is None else f' at character {start}'
            raise UserError(f"{where}: got the answer '{printable(text)}'{at}, expected a text of the context; fix: copy it "
                            'from there, letter by letter', code='data/answers')
    return tuple(dict.fromkeys((text, place) for (text, _), place in zip(pairs, places, strict=True)))
