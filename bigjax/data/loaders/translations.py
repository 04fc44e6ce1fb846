"""Sentences and their translations, line by line in two files, in byte pairs that both languages share.

A token is its number in the tokenizer plus one: 0 fills a row, and 1 is the end token, the first of a byte-level BPE that
`bigjax.data.tokenize` trains.
"""
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bigjax.data.loaders import formats
from bigjax.data.sources import ArraySource, Splits
from bigjax.errors import UserError
from bigjax.metrics import translation

PAD, EOS = 0, 1
SHOWN = 8  # translations in a report
MULTI30K = {'train': ('train', 29_000), 'val': ('val', 1014), 'test': ('test_2016_flickr', 1000)}  # file, sentences
LENGTH, TOKENS = 64, 8000  # of a row, with its end; of the tokenizer


class Translations(ArraySource):
    """Rows of tokens and, on the host, the texts that they were.

    Attributes:
      texts: (source, target) of each row.
      tokenizer: of both sides.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], texts: Sequence[tuple[str, str]], tokenizer):
        super().__init__(arrays)
        self.texts, self.tokenizer = texts, tokenizer

    def judge(self, outputs, examples) -> dict:
        """{'bleu', 'chrf', and some translations} of decoded rows, as an evaluator's `compute`."""
        found = [text(row, self.tokenizer) for row in outputs]
        shown = [f'{source}\n  is     {target}\n  given  {given}' for (source, target), given
                 in list(zip(self.texts, found, strict=True))[:: max(1, len(found) // SHOWN)][:SHOWN]]
        return {**translation.scores(found, [target for _, target in self.texts]), 'translations': '\n\n'.join(shown)}


def text(row: Iterable[int], tokenizer) -> str:
    """The text of a row of tokens, up to its end."""
    row = [int(token) for token in row]
    row = row[:row.index(EOS)] if EOS in row else row
    return tokenizer.decode([token - 1 for token in row if token > EOS])


def tokenizer_of(splits: Splits):
    """The tokenizer of both sides, that of the run where its data is described alone; None of other data."""
    if 'recorded' in splits.info and 'tokenizer' in splits.info:
        from bigjax.data import tokenizers
        return tokenizers.of_run(splits.info['recorded'])
    return getattr(splits.train, 'tokenizer', None)


def rows(texts: Sequence[str], tokenizer, length: int) -> tuple[np.ndarray, int]:
    """(int32 [N, length], how many texts were cut)."""
    out, cut = np.full((len(texts), length), PAD, np.int32), 0
    for place, numbers in enumerate(tokenizer.encode_batch(texts)):
        cut += len(numbers) >= length
        row = [number + 1 for number in numbers[:length - 1]] + [EOS]
        out[place, :len(row)] = row
    return out, cut


def multi30k_files(named, name: str, variant: str, data_dir: str) -> Splits | None:
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
    from bigjax.data import tokenize
    tokenizer = tokenize.train(list(map(str, paths['train'])), kind='bpe', size=TOKENS)
    sources, cut = {}, {}
    for split, pair in paths.items():
        sides = [formats.text(path).removesuffix('\n').split('\n') for path in pair]  # other line ends are letters
        if len(sides[0]) != len(sides[1]):
            raise UserError(f'{pair[0]}, {pair[1]}: got {len(sides[0])} and {len(sides[1])} lines, expected as many; fix: '
                            'fetch them again', code='data/damaged')
        made = [rows(side, tokenizer, LENGTH) for side in sides]
        cut[split] = made[0][1] + made[1][1]
        sources[split] = Translations(dict(zip(('source', 'target'), (array for array, _ in made), strict=True)),
                                      list(zip(*sides, strict=True)), tokenizer)
    info = {**named.info(variant), 'name': name, 'source': str(folder), 'cut': cut, 'tokenizer': tokenizer.facts,
            'records': {split: len(source) for split, source in sources.items()}}
    return Splits(sources.pop('train'), sources, info)
