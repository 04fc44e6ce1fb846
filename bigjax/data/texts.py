"""Texts as rows of tokens: what a classifier of texts is trained on.

    splits, tokenizer = open_texts(config.data, like='sentiment/trec', tokenizer='word', length=64)

Every text becomes `length` tokens and its own length, in memory, so that batches have one shape and may stay on the device;
`masked` makes the mask there. A longer text is cut, and the lines that report the data give their number.
"""
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from bigjax.data import recorded, tokenize, tokenizers
from bigjax.data.datasets import open_data
from bigjax.data.fake import made_up_words
from bigjax.data.lazy import LazySource
from bigjax.data.sources import ArraySource, Splits
from bigjax.errors import UserError
from bigjax.io.text import printable

VOCABULARY_OF = ('train', 'val')  # whose words have a token; those of the test text that they lack are unknown
NARROW_TOKENS = 2**16


class Texts(NamedTuple):
    """Splits of {'tokens' [N, T], 'length' [N], 'label' [N]}, and the tokenizer that made them."""

    splits: Splits
    tokenizer: tokenizers.Tokenizer


def open_texts(spec: str, *, like: str, tokenizer: str = 'word', length: int = 64, vocabulary: int = 0,
               **options) -> Texts:
    """The texts that `config.data` names, as tokens.

    Args:
      spec, like: as for `open_data`; data of the user's own has the columns text and label.
      tokenizer: see `bigjax.data.tokenize.of_texts`.
      length: T.
      vocabulary: tokens of the tokenizer, where the texts are made up or not there; 0: those of the published texts' words.
      **options: of `open_data`.

    Returns:
      (splits, tokenizer); of the data of a run that is described alone, the tokenizer that the run has saved. info has
      'tokenizer' (its facts), 'length', and 'cut', {split: texts that are longer}.

    Raises:
      UserError: a text is empty; the tokenizer cannot be loaded, or is not the one that the run states.
    """
    if length < 1:
        raise UserError(f'config.length: got {length}, expected at least 1; fix: such as 64', code='data/length')
    splits = open_data(spec, like=like, **options)
    if 'recorded' in splits.info:
        return Texts(splits, tokenizers.of_splits(splits))
    made_up = str(splits.info.get('source', '')).startswith('made up')
    given = {'train': splits.train, **splits.evals}
    sized = tokenizer == 'word' or vocabulary or str(tokenizer).partition(':')[0] not in tokenize.TRAINED  # without a text
    if sized and any(isinstance(source, LazySource) and not source.opened for source in given.values()):
        return _later(splits, tokenizer, length, vocabulary)
    columns = {split: _columns(source, f'{splits.info["name"]} ({split})') for split, source in given.items()}
    it = _made_up(tokenizer, splits.info, vocabulary) if made_up else None
    it = it or _tokenizer(tokenizer, columns, splits.info)
    return _encoded(splits, columns, it, length)


def _later(splits: Splits, spec: str, length: int, vocabulary: int) -> Texts:
    """Tokens of texts that are opened when they are used; the vocabulary has the published number of tokens."""
    stand_in = _made_up(spec, splits.info, vocabulary) or _tokenizer(spec, {}, splits.info)
    given = {'train': splits.train, **splits.evals}

    @functools.cache
    def opened():
        columns = {split: _columns(source.source, f'{splits.info["name"]} ({split})') for split, source in given.items()}
        real = _tokenizer(spec, columns, splits.info)
        real.check_vocabulary(stand_in.vocab_size, 'the published texts')
        return {split: _arrays(columns[split], real, length)[0] for split in columns}

    def late(split, source):
        zeros = np.broadcast_to(np.zeros((), _dtype(stand_in)), (len(source), length))
        arrays = {'tokens': zeros, 'length': np.zeros(len(source), np.int32), 'label': np.zeros(len(source), np.int32)}
        return LazySource(ArraySource(arrays), lambda: ArraySource(opened()[split]))

    made = {split: late(split, source) for split, source in given.items()}
    return Texts(Splits(made.pop('train'), made, {**splits.info, 'length': length}), stand_in)


def _columns(source: Any, where: str) -> dict[str, Any]:
    """{'text': list of str, 'label': int32 [N]} of a source.

    Raises:
      UserError: a text is empty.
    """
    arrays = getattr(source, 'arrays', None)
    if arrays is None:
        examples = [source[i] for i in range(len(source))]
        arrays = {key: [example[key] for example in examples] for key in ('text', 'label')}
    texts = list(map(str, arrays['text']))
    empty = next((i for i, text in enumerate(texts) if not text.strip()), None)
    if empty is not None:
        raise UserError(f'{printable(where)}: record {empty}: got an empty text, expected one; fix: add it or remove the '
                        'record', code='data/empty-text')
    return {'text': texts, 'label': np.asarray(arrays['label'], np.int32)}


def _made_up(spec: str, info: Mapping, vocabulary: int) -> tokenizers.Tokenizer | None:
    """A tokenizer of made-up words with the published number of tokens; None where neither states their number."""
    size = vocabulary or (info.get('vocabulary_size') if str(spec).partition(':')[0] == 'word' else 0)
    return tokenizers.Words(made_up_words(size)) if size else None


def _tokenizer(spec: str, columns: Mapping[str, Mapping], info: Mapping) -> tokenizers.Tokenizer:
    """The tokenizer of a spec, made from the texts where they decide it."""
    texts = (text for split in info.get('vocabulary_of', VOCABULARY_OF) if split in columns for text in columns[split]['text'])
    return tokenize.of_texts(spec, texts)


def _encoded(splits: Splits, columns: Mapping[str, Mapping], tokenizer: tokenizers.Tokenizer, length: int) -> Texts:
    made, cut = {}, {}
    for split, texts in columns.items():
        arrays, cut[split] = _arrays(texts, tokenizer, length)
        made[split] = ArraySource(arrays)
    total = {split: len(source) for split, source in made.items()}
    found = [f'tokens: {tokenizer.kind}, {tokenizer.vocab_size:,}; ' + ', '.join(
        f'{cut[split]:,} of {total[split]:,} texts of {split} cut' for split in cut) + f' to {length} tokens']
    splits = Splits(made.pop('train'), made, splits.info)
    facts = {'tokenizer': tokenizer.facts, 'length': length, 'cut': cut, 'found': [*splits.info.get('found', ()), *found]}
    return Texts(Splits(splits.train, splits.evals, {**splits.info, **facts, **recorded.described(splits)}), tokenizer)


def _dtype(tokenizer: tokenizers.Tokenizer):
    return np.uint16 if tokenizer.vocab_size <= NARROW_TOKENS else np.int32


def _arrays(columns: Mapping[str, Any], tokenizer: tokenizers.Tokenizer, length: int) -> tuple[dict[str, np.ndarray], int]:
    """({'tokens', 'length', 'label'}, how many texts were cut)."""
    rows = tokenizer.encode_batch(columns['text'], template=True)
    cut = sum(len(row) > length for row in rows)
    tokens, lengths = tokenizers.padded([fit(row, length, tokenizer) for row in rows], length, tokenizer.pad or 0)
    return {'tokens': tokens.astype(_dtype(tokenizer)), 'length': lengths, 'label': columns['label']}, cut


def fit(row: Sequence[int], length: int, tokenizer: tokenizers.Tokenizer) -> list[int]:
    """At most `length` tokens of a text, the last of which stays the end token, and at least one."""
    row = list(row) or [tokenizer.unk or 0]
    if len(row) <= length:
        return row
    return [*row[:length - 1], row[-1]] if row[-1] == tokenizer.eos else row[:length]


def masked(batch: Mapping[str, Any]) -> dict[str, Any]:
    """`Data.preprocess`: 'tokens' as int32, and the bool 'mask' [B, T] of those within a text's own length."""
    tokens = batch['tokens'].astype(jnp.int32)
    within = jnp.arange(tokens.shape[1], dtype=jnp.int32) < batch['length'][:, None].astype(jnp.int32)
    return {**batch, 'tokens': tokens, 'mask': within}


def parser(tokenizer: tokenizers.Tokenizer, length: int) -> Callable[[Any], dict[str, Any]]:
    """`parse(raw)` of an interface: one text, or {'text': it}, as a training example without its label.

    Raises (when called):
      UserError: the text is empty.
    """
    def parse(raw) -> dict[str, Any]:
        text = raw.get('text') if isinstance(raw, Mapping) else raw
        if not isinstance(text, str) or not text.strip():
            raise UserError(f'a text: got {printable(repr(text))}, expected one; fix: write it', code='data/empty-text')
        row, notes = tokenizer.encode(text, template=True), []
        if len(row) > length:
            notes.append(f'cut: {length} of {len(row):,} tokens')
        unknown = row.count(tokenizer.unk) if tokenizer.unk is not None else 0
        if unknown:
            notes.append(f'{unknown} of {len(row)} tokens unknown')
        tokens, lengths = tokenizers.padded([fit(row, length, tokenizer)], length, tokenizer.pad or 0)
        return {'tokens': tokens[0].astype(_dtype(tokenizer)), 'length': lengths[0], '_notes': notes}

    return parse
