"""Ready-made interfaces: what an experiment page needs to be used on a photograph, a row of a table or a prompt.

    interface=interfaces.classification(splits)        images, series and tables, by what the examples of the data hold
    interface=interfaces.photographs(answer)           images of any size
    interface=interfaces.regression(splits)            tables
    interface=interfaces.texts(splits, tokenizer)      classes of texts
    interface=interfaces.pairs(coding), questions(…)   a text to its translation or summary; the answer to a question
    interface=interfaces.sounds(splits, answer)        sounds; `spoken(splits)` is the answer where they are texts
    interface=interfaces.characters(vocabulary), tokens(tokenizer, count), language(how)    streams of tokens
    interface=interfaces.generator(draw), translation(vocabularies, length)

Classes, columns and fills are those of `splits.info`, which the run has recorded; nothing is decided anew from an input.
What an interface assumes about an input (a resize, an inversion) is in words under `NOTES` of the example.
"""
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.data import audio
from bigjax.data import images as files
from bigjax.data.sources import Splits, array_shapes, first, shapes
from bigjax.data.texts import parser
from bigjax.decode.stream import Language
from bigjax.errors import UserError
from bigjax.experiment import Interface
from bigjax.io.text import counted, printable

NOTES = '_notes'  # a key of a parsed example, which is no part of a batch
GIVEN = '_given'  # another one: the input itself, which `answer` receives beside the outputs
TOP = 3  # classes that an answer names


def classification(splits: Splits) -> Interface:
    """The classes of `splits.info`, for images where an example has one, else for rows of numbers or of a table."""
    answer = functools.partial(classes, names=tuple(map(str, splits.info['classes'])))
    return images(splits, answer) if 'image' in _example(splits) else rows(splits, answer)


def texts(splits: Splits, tokenizer) -> Interface:
    """The classes of `splits.info`, for texts: a sentence, the lines of a file, the key 'text' of a table."""
    answer = functools.partial(classes, names=tuple(map(str, splits.info['classes'])))
    return Interface(parser(tokenizer, splits.info['length']), answer, ('text', '.txt', '.csv', '.tsv', '.jsonl', '.json'))


def regression(splits: Splits) -> Interface:
    """A number per row, in the unit of the target: `splits.info['standardized']` holds what was subtracted and divided out."""
    unit = splits.info.get('standardized', {})
    mean, std = unit.get('target', (0.0, 1.0))

    def answer(outputs) -> dict[str, Any]:
        values = np.asarray(outputs, np.float64).ravel() * std + mean
        spread = {'std': float(values.std())} if values.size > 1 else {}  # several draws of one prediction
        return {'value': float(values.mean()), **spread}

    return rows(splits, answer)


def classes(outputs, names: Sequence[str]) -> dict[str, Any]:
    """The most probable class, its probability, and the `TOP` classes; logits [K], or one logit of the second class of two."""
    logits = np.asarray(outputs, np.float64).ravel()
    if logits.size == 1:
        logits = np.array([0.0, logits[0]])
    p = np.exp(logits - logits.max())
    p /= p.sum()
    top = [{'class': names[k], 'probability': float(p[k])} for k in np.argsort(-p)[:TOP]]
    return {**top[0], 'top': top}


def photographs(answer: Callable) -> Interface:
    """Image files as they are, of any size, for an experiment whose `Data.transform` brings them to that of the model."""
    def parse(raw) -> Mapping[str, Any]:
        path = pathlib.Path(str(raw))
        return {'image': files.decode(path.read_bytes(), str(path))}

    return Interface(parse, answer, tuple(files.EXTENSIONS), needs_data=False)


def images(splits: Splits, answer: Callable) -> Interface:
    """Image files. They become what a training image is: grey where those are grey, resized where those are of one size."""
    shape, ground = _shape(splits), functools.cache(lambda: _ground(splits))  # images are read when there is one to compare

    def parse(raw) -> Mapping[str, Any]:
        path = pathlib.Path(str(raw))
        image, notes = files.decode(path.read_bytes(), str(path)), []
        height, width = image.shape[:2]
        if shape and shape[-1] == 1:
            if np.ptp(image, axis=-1).any():
                notes.append('colours became grey')
            image = np.rint(image @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]
            if {files.ground(image[None]), ground()} == {'dark', 'light'}:
                image = 255 - image
                notes.append(f'inverted, as training images have a {ground()} ground')
        if shape and (height, width) != shape[:2]:
            image = files.resize(image, shape[:2])
            notes.append(f'{width} x {height} resized to {shape[1]} x {shape[0]}')
        return {'image': image, NOTES: notes}

    return Interface(parse, answer, tuple(files.EXTENSIONS))


def _shape(splits: Splits) -> tuple[int, ...] | None:
    """The shape of every training image, None where they are decoded one by one and may differ."""
    arrays = array_shapes(splits.train) or {}
    return tuple(arrays['image'].shape[1:]) if 'image' in arrays else None


def _example(splits: Splits) -> Mapping[str, Any]:
    """Shapes of one training example, or the first one where the source does not have them."""
    return shapes(splits.train) or first(splits.train)


def _ground(splits: Splits) -> str:
    """The ground that training images are drawn on: 'dark', 'light', or '' where they are no drawings."""
    if 'ground' in splits.info:
        return splits.info['ground']
    shape = _shape(splits)
    return files.ground(splits.train.arrays['image']) if shape is not None and shape[-1] == 1 else ''


def sounds(splits: Splits, answer: Callable, longer: bool = False) -> Interface:
    """Sound files, at the rate of the training clips and of their length.

    Args:
      longer: the model takes longer clips as well, in whole seconds; otherwise they are cut, and the answer notes it.
    """
    rate, length = splits.info['sample_rate'], _example(splits)['audio'].shape[0]

    def parse(raw) -> Mapping[str, Any]:
        sound = audio.read(pathlib.Path(str(raw)), rate=rate)
        notes, size = list(sound.notes), length
        if len(sound.samples) > length and longer:
            size = -(-len(sound.samples) // rate) * rate
        elif len(sound.samples) > length:
            notes.append(f'{len(sound.samples) / rate:.2f} s cut to {length / rate:.2f}')
        return {**audio.fitted(sound.samples, size), NOTES: notes}

    return Interface(parse, answer, audio.EXTENSIONS)


def spoken(splits: Splits) -> Callable:
    """The answer {'text', 'greedy', 'log_probability'} of outputs of `bigjax.tasks.ctc`; `text` is the beam search's."""
    def answer(outputs) -> dict[str, Any]:
        (text,), (greedy,) = (spelled(np.atleast_2d(outputs[name]), splits.info) for name in ('beam', 'greedy'))
        return {'text': text, 'greedy': greedy, 'log_probability': float(np.ravel(outputs['score'])[0])}

    return answer


def spelled(tokens, info: Mapping[str, Any]) -> list[str]:
    """The texts of rows of symbol numbers [N, U], of which 0 is none; info has 'symbols' and the separator 'between' them."""
    return [info['between'].join(info['symbols'][k - 1] for k in row if k) for row in np.asarray(tokens)]


def pairs(coding, documents: bool = False) -> Interface:
    """A text to its translation or summary.

    Args:
      coding: of the sources, `bigjax.data.loaders.translations.Coding`.
      documents: a file is one text; otherwise each of its lines is.
    """
    def parse(raw) -> Mapping[str, Any]:
        if not str(raw).strip():
            raise UserError("a text: got '', expected one; fix: write it", code='data/empty-text')
        row, cut = coding.source(str(raw).strip())
        return {'source': row, NOTES: [f'cut to {coding.length} tokens'] if cut else []}

    return Interface(parse, lambda outputs: {'text': coding.text(outputs)},
                     ('text', '.txt', *(['document'] if documents else [])))


def questions(tokenizer, info: Mapping[str, Any]) -> Interface:
    """The answer to a question in a context, which is cut into windows that overlap; see `bigjax.data.loaders.questions`.

    A probability is that among all spans of all windows, and "no answer" where the training data had questions without one.

    Args:
      tokenizer: of the run.
      info: facts of the data: 'length' of a window in tokens, 'stride' between two, 'unanswered'.
    """
    from bigjax.data.loaders.questions import Question
    from bigjax.data.loaders.questions import rows as windows

    def parse(raw) -> list[dict[str, Any]]:
        for name in ('question', 'context'):
            if not isinstance(raw, Mapping) or not isinstance(raw.get(name), str) or not raw[name].strip():
                raise UserError(f'a question: got no {name}, expected a text; fix: write it', code='data/empty-text')
        made = list(windows(Question(raw['question'], raw['context'], ()), tokenizer, info['length'], info['stride']))
        given = {'context': raw['context'], 'places': [row['places'] for row in made]}
        examples = [{key: np.asarray(row[key], np.int32) for key in ('tokens', 'types', 'start', 'end')} for row in made]
        notes = [f'{len(made)} windows of {info["length"]} tokens'] if len(made) > 1 else []
        return [{**example, GIVEN: given, NOTES: notes} for example in examples]

    def answer(outputs, given) -> dict[str, Any]:
        score, total, none = (np.asarray(outputs[name], np.float64) for name in ('score', 'total', 'none'))
        window, scores = int(np.argmax(score)), [*total, *([none.min()] if info['unanswered'] else [])]
        likely = lambda value: float(np.exp(value - np.logaddexp.reduce(scores)))
        absent = {'no_answer': likely(none.min())} if info['unanswered'] else {}
        if absent and none.min() >= score[window]:
            return {'text': '', 'probability': absent['no_answer'], 'start': None, 'end': None, **absent}
        first, last = (given['places'][window][int(outputs[end][window])] for end in ('start', 'end'))
        return {'text': given['context'][first[0]:last[1]], 'probability': likely(score[window]), 'start': first[0],
                'end': last[1], **absent}

    return Interface(parse, answer, ('question', '.csv', '.tsv', '.jsonl', '.json'))


def rows(splits: Splits, answer: Callable) -> Interface:
    """Rows of numbers ([D], in the order of training), or {column: value} of the table that the run was trained on."""
    schema, unit = splits.info.get('schema'), splits.info.get('standardized', {})
    shape = np.shape(_example(splits)['x'])
    columns = splits.info.get('features') or splits.info.get('columns')

    def parse(row) -> Mapping[str, Any]:
        notes = []
        if schema:
            from bigjax.data.schema import Schema
            named, known = isinstance(row, Mapping), Schema.from_json(schema)
            row = _by_column(row, known.inputs, int(np.prod(shape)))
            if isinstance(row, Mapping) and (new := ', '.join(known.unknown(row))):
                if not named:  # numbers in the place of names
                    raise UserError(f'a row: got {new}, which no training record has, expected '
                                    f'{printable(", ".join(known.inputs))}; fix: give one value of each, in this order or by '
                                    'name', code='data/column-kind')
                notes.append(f'{new} is in no training record')
        if isinstance(row, Mapping) and schema:
            x = known.example(row)['x'].reshape(shape)
        elif isinstance(row, Mapping) and set(row) == {'x'}:
            x = _numbers(row['x'], shape)
        elif isinstance(row, Mapping):
            x = _numbers(_named(row, columns, shape), shape)
        else:
            x = _numbers(row, shape)
        if unit:
            x = ((x - np.asarray(unit['mean'])) / np.asarray(unit['std'])).astype(np.float32)
        return {'x': x, NOTES: notes} if notes else {'x': x}

    return Interface(parse, answer, ('row', '.csv', '.tsv', '.jsonl', '.json'))


def _by_column(row, columns: Sequence[str], size: int):
    """A row of a table in the order of its columns as a mapping; mappings and encoded rows as they are.

    Raises:
      UserError: it has neither as many values as the table has columns nor `size` numbers.
    """
    if isinstance(row, Mapping) or np.size(np.asarray(row, object)) == size != len(columns):
        return row
    values = list(row) if isinstance(row, list | tuple) else [row]
    if len(values) != len(columns):
        raise UserError(f'a row: got {counted(len(values), "value")}, expected {printable(", ".join(columns))}; fix: give one '
                        'value of each, in this order or by name', code='data/row-length')
    return dict(zip(columns, values, strict=True))


def _named(row: Mapping, columns: Sequence[str] | None, shape) -> list:
    """The values of a row in the order of training; without names in the record, in the order in which they stand."""
    if not columns:
        return [value for name, value in row.items() if name.strip().lower() not in ('label', 'target')]
    if missing := [name for name in columns if name not in row]:
        raise UserError(f"a row: got no {printable(missing[0])!r}, expected {printable(', '.join(columns))}; fix: add it",
                        code='data/missing-column')
    return [row[name] for name in columns]


def _numbers(values, shape) -> np.ndarray:
    """float32 of the shape of a training example.

    Raises:
      UserError: another number of values, or one that is no finite number.
    """
    try:
        x = np.asarray([float(v) for v in np.ravel(np.asarray(values, object))], np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f'a row: got {printable(error)}, expected numbers', code='data/column-kind') from None
    if x.size != int(np.prod(shape)):
        raise UserError(f'a row: got {x.size} numbers, expected {int(np.prod(shape))} as in training', code='data/row-length')
    if not np.isfinite(x).all():
        place = int(np.argmin(np.isfinite(x)))
        raise UserError(f'a row: got {x[place]} as number {place}, expected finite numbers', code='data/column-kind')
    return x.reshape(shape)


def characters(vocabulary) -> Interface:
    """A language model of the characters of a `bigjax.data.text.CharVocabulary`, which continues a prompt."""
    start = vocabulary.encode('\n' if '\n' in vocabulary.chars else vocabulary.chars[:1])
    return language(Language(vocabulary.encode, vocabulary.decode, start=tuple(map(int, start))))


def token_numbers(count: int) -> Interface:
    """A language model of `count` tokens, whose tokenizer is not part of the run: prompts and samples are numbers."""
    def encode(prompt: str) -> list[int]:
        words = prompt.replace(',', ' ').split()
        wrong = next((word for word in words if not word.isascii() or not word.isdigit() or int(word) >= count), None)
        if wrong is not None:
            raise UserError(f'--prompt: got {printable(wrong)}, expected numbers of tokens from 0 to {count - 1}, as the run '
                            "has no tokenizer; fix: encode the text first, --prompt='464 995'",
                            code='predict/not-tokens')
        return [int(word) for word in words]

    return language(Language(encode, lambda tokens: ''.join(f' {token}' for token in tokens), start=(0,)))


def tokens(tokenizer, count: int) -> Interface:
    """A language model of a stream of tokens: its prompts are text where there is a tokenizer, else numbers.

    Args:
      tokenizer: `bigjax.data.tokenizers.Tokenizer`, or None.
      count: as for `token_numbers`.

    Raises:
      UserError: the tokenizer has another number of tokens than the model.
    """
    if tokenizer is None:
        return token_numbers(count)
    tokenizer.check_vocabulary(count)
    start = next((token for token in (tokenizer.bos, tokenizer.eos) if token is not None), 0)
    return language(Language(tokenizer.encode, tokenizer.decode, () if tokenizer.eos is None else (tokenizer.eos,), (start,)))


def language(how: Language) -> Interface:
    """A language model, which continues a prompt in tokens that `how` reads and writes."""
    return Interface(_no_inputs('continues text', 'sample --prompt=TEXT'), dict, (), language=how)


def generator(draw: Callable) -> Interface:
    """The interface of a model that generates images: `draw(apply, variables, rng, count)`, see `Interface`."""
    return Interface(_no_inputs('draws images', 'sample --count=64'), dict, (), draw=draw)


def _no_inputs(does: str, works: str) -> Callable:
    def parse(raw):
        raise UserError(f'predict: this model {does}, and has no answer to an input; fix: {works}', code='predict/no-inputs')

    return parse


def translation(vocabularies: Mapping[str, Sequence[str]], length: int) -> Interface:
    """Commands in words to a sequence of words: `predict 'jump twice'`.

    Args:
      vocabularies: {'source': words, 'target': words} in the order of their numbers, with <pad>, <s> and </s> first.
      length: of a source, with <s> and </s>.
    """
    from bigjax.data.loaders import formats
    source, target = list(vocabularies['source']), list(vocabularies['target'])

    def parse(raw) -> Mapping[str, Any]:
        words = str(raw).split()
        unknown = [word for word in words if word not in source[3:]]
        if unknown or not words:
            raise UserError(f"a text: got {printable(unknown[0]) if unknown else 'no word'}, expected words among "
                            f'{printable(", ".join(source[3:]))}; fix: correct it', code='predict/word')
        return {'source': formats.pad_words([words], source, max(length, len(words) + 2), 'the text')[0]}

    def answer(outputs) -> dict[str, Any]:
        return {'text': ' '.join(target[t] for t in np.ravel(outputs) if t > 2)}

    return Interface(parse, answer, ('text', '.txt'))
