"""Texts and what they become (translations, summaries) as rows of tokens that both sides share.

The numbers of a row are those of the tokenizer after the special ones of the model: 0 fills a row, EOS ends it, and BOS begins
it where the set has one. A tokenizer that has these already, as T5's has, keeps its numbers.
"""
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bigjax.data.loaders import formats
from bigjax.data.loaders.text_tables import TextTable
from bigjax.data.sources import ArraySource, Splits
from bigjax.errors import UserError
from bigjax.metrics import translation

PAD, EOS = 0, 1
SHOWN = 8  # translations in a report
MULTI30K = {'train': ('train', 29_000), 'val': ('val', 1014), 'test': ('test_2016_flickr', 1000)}  # file, sentences
LENGTH, TOKENS = 64, 8000  # of a row, with its end; of the tokenizer


class Coding(NamedTuple):
    """How texts are written as rows, and read.

    Attributes:
      tokenizer: of both sides.
      length: of a row, with its end.
      eos, bos: the tokens of the model that end and begin a row; None: a row has no first token of its own.
      prefix: before a source, such as 'summarize: '.
    """

    tokenizer: Any
    length: int
    eos: int = EOS
    bos: int | None = None
    prefix: str = ''

    @property
    def shift(self) -> int:
        """The difference between the numbers of the model and of the tokenizer, whose own end token 0 becomes the model's."""
        own = self.tokenizer
        if (own.pad, own.eos) == (PAD, self.eos) and self.bos in (None, own.bos):
            return 0
        return self.eos if own.eos == 0 else self.eos + 1

    @property
    def vocabulary(self) -> int:
        """The fewest tokens that the model may have."""
        return self.tokenizer.vocab_size + self.shift

    def rows(self, texts: Sequence[str]) -> tuple[np.ndarray, int]:
        """(int32 [N, length], how many texts were cut)."""
        out, cut = np.full((len(texts), self.length), PAD, np.int32), 0
        first = [] if self.bos is None else [self.bos]
        room = self.length - len(first) - 1
        for place, numbers in enumerate(self.tokenizer.encode_batch(texts)):
            cut += len(numbers) > room
            row = [*first, *(number + self.shift for number in numbers[:room]), self.eos]
            out[place, :len(row)] = row
        return out, cut

    def source(self, text: str) -> tuple[np.ndarray, int]:
        """(the row [length] of one source, whether it was cut)."""
        (row,), cut = self.rows([self.prefix + text])
        return row, cut

    def text(self, row: Iterable[int]) -> str:
        """The text of a row of tokens, up to its end."""
        row = [int(token) for token in row]
        row = row[:row.index(self.eos)] if self.eos in row else row
        first, past = max(self.eos + 1, self.shift), self.tokenizer.vocab_size + self.shift  # a model may have more tokens
        return self.tokenizer.decode([token - self.shift for token in row if first <= token < past])


class Translations(ArraySource):
    """Rows of tokens and, on the host, the texts that they were.

    Attributes:
      texts: (source, target) of each row.
      coding: of the targets.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], texts: Sequence[tuple[str, str]], coding: Coding):
        super().__init__(arrays)
        self.texts, self.coding = texts, coding

    @property
    def tokenizer(self):
        """The tokenizer of both sides."""
        return self.coding.tokenizer

    def judge(self, outputs, examples) -> dict:
        """{'bleu', 'chrf', and some translations} of decoded rows, as an evaluator's `compute`."""
        found = [self.coding.text(row) for row in outputs]
        shown = [f'{source}\n  is     {target}\n  given  {given}' for (source, target), given
                 in list(zip(self.texts, found, strict=True))[:: max(1, len(found) // SHOWN)][:SHOWN]]
        return {**translation.scores(found, [target for _, target in self.texts]), 'translations': '\n\n'.join(shown)}


def encoded(parts: Mapping[str, tuple[Sequence[str], Sequence[str]]], codings: Mapping[str, Coding]) -> tuple[dict, dict, dict]:
    """({split: Translations}, {split: texts that were cut}, {split: [a note]}) of {split: (sources, targets)}.

    Args:
      codings: of 'source' and of 'target', one tokenizer in both.
    """
    sources, cut, notes = {}, {}, {}
    for split, (given, wanted) in parts.items():
        prefixed = [codings['source'].prefix + text for text in given]
        made = {'source': codings['source'].rows(prefixed), 'target': codings['target'].rows(wanted)}
        sources[split] = Translations({side: rows for side, (rows, _) in made.items()}, list(zip(given, wanted, strict=True)),
                                      codings['target'])
        cut[split] = sum(count for _, count in made.values())
        notes[split] = [f'{count:,} of {len(given):,} {side}s cut to {codings[side].length} tokens'
                        for side, (_, count) in made.items() if count]
    return sources, cut, notes


def multi30k_files(named, name: str, variant: str, data_dir: str, *, tokenizer: str = '') -> Splits | None:
    """`data_dir/multi30k/{train,val,test_2016_flickr}.{en,de}`, gzipped or not.

    Raises:
      UserError: the two sides have different numbers of lines, or the package tokenizers is not installed.
    """
    languages = variant.split('-')
    folder = pathlib.Path(data_dir) / 'multi30k' if data_dir else None
    paths = {split: [folder and formats.find(folder, f'{file}.{language}') for language in languages]
             for split, (file, _) in MULTI30K.items()}
    if any(path is None for pair in paths.values() for path in pair):
        return None
    sides = {}
    for split, pair in paths.items():
        sides[split] = [formats.text(path).removesuffix('\n').split('\n') for path in pair]  # other line ends are letters
        if len(sides[split][0]) != len(sides[split][1]):
            raise UserError(f'{pair[0]}, {pair[1]}: got {len(sides[split][0])} and {len(sides[split][1])} lines, expected as '
                            'many; fix: fetch them again', code='data/damaged')
    coding = Coding(trained(tokenizer, sides['train']), LENGTH)
    sources, cut, _ = encoded(sides, {'source': coding, 'target': coding})
    info = {**named.info(variant), 'name': name, 'source': str(folder), 'cut': cut, 'tokenizer': coding.tokenizer.facts,
            'records': {split: len(source) for split, source in sources.items()}, 'vocabulary': coding.vocabulary}
    return Splits(sources.pop('train'), sources, info)


def trained(spec: str, sides: Sequence[Sequence[str]]):
    """The tokenizer of a spec, by default byte pairs that the training texts of both sides decide."""
    from bigjax.data import tokenize

    def texts() -> Iterator[str]:
        for side in sides:
            yield from side

    return tokenize.of_texts(spec or f'bpe:{TOKENS}', texts())


def own_pairs(named, variant: str, parts: Mapping[str, TextTable], *, columns: tuple[str, str] = ('source', 'target'),
              eos: int = EOS, bos: int | None = None, prefix: str = '', tokenizer: str = '') -> tuple[dict, dict]:
    """`make` of a `text_tables.Reader`: rows of the lengths of the named set, and what is known of them.

    Raises:
      UserError: a source or a target is empty, or no text.
    """
    sides = {split: tuple([text.strip() for text in table.texts(column, code)] for column, code in zip(
        columns, ('data/empty-text', 'data/no-target'), strict=True)) for split, table in parts.items()}
    chosen = trained(tokenizer, sides['train'])
    codings = {side: Coding(chosen, shape[0][0], eos, bos, prefix if side == 'source' else '')
               for side, shape in named.shapes(variant).items()}
    sources, cut, notes = encoded(sides, codings)
    count = codings['target'].vocabulary
    if not codings['target'].shift:  # a pretrained model may be filled up with rows that no token has
        count = max(count, named.info(variant).get('vocabulary', 0))
    return sources, {'cut': cut, 'tokenizer': chosen.facts, 'vocabulary': count, 'notes': notes}
