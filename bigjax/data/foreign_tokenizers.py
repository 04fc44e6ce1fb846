"""Tokenizers of other libraries: `tokenizers` (BPE, WordPiece, unigram) and `sentencepiece`, both of the extra `text`."""
import json
import re
from collections.abc import Mapping
from typing import Any

from bigjax.data.loaders import formats
from bigjax.data.vocabularies import Tokenizer, as_json
from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import first_line, printable

HF_FILE, HF_CONFIG, SP_FILE = 'tokenizer.json', 'tokenizer_config.json', 'tokenizer.model'
ROLES = {  # what a special token is for: its usual names, tried where no file states it
    'pad': ('[PAD]', '<pad>', '<|pad|>'), 'unk': ('[UNK]', '<unk>'), 'mask': ('[MASK]', '<mask>'),
    'bos': ('<s>', '<|begin_of_text|>', '[CLS]', '<|endoftext|>'), 'eos': ('</s>', '<|end_of_text|>', '[SEP]', '<|endoftext|>')}


class HuggingFace(Tokenizer):
    """A tokenizer of the library `tokenizers`: BPE, WordPiece, unigram.

    Args:
      data: tokenizer.json, which is kept as it is: the library may write the same tokenizer in other bytes.
      names: {'bos': '<s>', …}; roles that are missing are looked up under their usual names.
      where: for messages.
    """

    kind = 'hf'

    def __init__(self, data: bytes, names: Mapping[str, str] | None = None, where: str = 'the tokenizer'):
        try:
            self._model = model = _hf_library().Tokenizer.from_str(data.decode())
        except UserError:
            raise
        except Exception as error:  # the library raises Exception itself
            raise damaged(where, error) from error
        self._data, vocabulary = data, model.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise UserError(f'{where}: got no tokens; fix: another tokenizer.json', code='tokenizer/damaged')
        model.no_truncation()
        model.no_padding()
        self.vocab_size = max(vocabulary.values()) + 1
        self.names = {}
        for role, usual in ROLES.items():
            stated = (names or {}).get(role)
            found = next((name for name in ([stated] if stated else usual) if name in vocabulary), None)
            if found is not None:
                self.names[role] = found
                setattr(self, role, vocabulary[found])
        state = json.loads(data)
        self._spelled = {}  # a unigram model finds the names of special tokens among its own pieces
        if state['model'].get('type') == 'Unigram':
            special = {token['id']: token['content'] for token in state.get('added_tokens', ()) if token.get('special')}
            spell = lambda name: [i for i in map(model.token_to_id, name) if i is not None] or [self.unk or 0]
            self._spelled = {i: spell(name) for i, name in special.items() if i != self.unk}
        parts = json.dumps(state.get('pre_tokenizer'))  # a prefix space would be added to every part
        self.cuttable = '"ByteLevel"' in parts and '"add_prefix_space": true' not in parts and not state.get('normalizer')

    def encode(self, text, special=False, template=False):
        self._model.encode_special_tokens = not special
        found = self._model.encode(_encodable(text), add_special_tokens=template)
        return found.ids if special else self._as_text(found)

    def encode_batch(self, texts, template=False):
        self._model.encode_special_tokens = True
        return [*map(self._as_text, self._model.encode_batch(list(map(_encodable, texts)), add_special_tokens=template))]

    def encode_places(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The numbers of a text, and of each the first character that it covers and one past the last."""
        self._model.encode_special_tokens = True
        found = self._model.encode(_encodable(text), add_special_tokens=False)
        return found.ids, found.offsets

    def _as_text(self, found: Any) -> list[int]:
        """The numbers of an encoding, with the special tokens whose names are in the text spelled in characters."""
        if not self._spelled:
            return found.ids
        pairs = zip(found.ids, found.special_tokens_mask, strict=True)
        return [j for i, added in pairs for j in ([i] if added or i not in self._spelled else self._spelled[i])]

    def decode(self, ids, special=False):
        return self._model.decode(self._check_ids(ids), skip_special_tokens=not special)

    def files(self):
        return {HF_FILE: self._data,
                HF_CONFIG: as_json({f'{role}_token': name for role, name in sorted(self.names.items())})}


class SentencePiece(Tokenizer):
    """A model of SentencePiece, from the bytes of its file."""

    kind = 'sp'

    def __init__(self, data: bytes, where: str = 'the tokenizer'):
        library, self._data = _sp_library(), data
        try:
            self._model = library.SentencePieceProcessor(model_proto=data)
            self.vocab_size = self._model.get_piece_size()
        except Exception as error:  # the library raises RuntimeError of many kinds
            raise UserError(f'{where}: it is no model of SentencePiece ({first_line(error)}); fix: fetch it again',
                            code='tokenizer/damaged') from error
        for role in ('pad', 'bos', 'eos', 'unk'):
            number = getattr(self._model, f'{role}_id')()
            setattr(self, role, number if number >= 0 else None)
        self._control = {self._model.id_to_piece(i): i for i in range(self.vocab_size) if self._model.is_control(i)}
        self.mask = next((self._control[name] for name in ROLES['mask'] if name in self._control), None)

    def encode(self, text, special=False, template=False):
        text = _encodable(text)
        if special and self._control:
            parts = re.split('(' + '|'.join(map(re.escape, self._control)) + ')', text)
            ids = [i for part in parts if part
                   for i in ([self._control[part]] if part in self._control else self._model.encode(part))]
        else:
            ids = self._model.encode(text)
        return [*ids, self.eos] if template and self.eos is not None else ids  # T5's template

    def decode(self, ids, special=False):
        ids = self._check_ids(ids)
        if not special:
            return self._model.decode(ids)
        runs, text = [[]], []
        for i in ids:  # control tokens have no text in the library's own decoder
            runs += [i, []] if self._model.is_control(i) else []
            if not self._model.is_control(i):
                runs[-1].append(i)
        for run in runs:
            text.append(self._model.decode(run) if isinstance(run, list) else self._model.id_to_piece(run))
        return ''.join(text)

    def files(self):
        return {SP_FILE: self._data}


def gpt2(path: str) -> Tokenizer:
    """Byte-level BPE of GPT-2 (Radford et al. 2019), from the files of OpenAI or of Hugging Face."""
    library = _hf_library()
    pairs = [formats.find(path, *names) for names in (('encoder.json', 'vocab.json'), ('vocab.bpe', 'merges.txt'))]
    if None in pairs:
        raise UserError(f'{path}: got no {"encoder.json or vocab.json" if pairs[0] is None else "vocab.bpe or merges.txt"}, '
                        'expected both files of a byte-level BPE; fix: name their folder', code='tokenizer/no-file')
    try:
        vocabulary = {str(token): int(i) for token, i in safe_read.parsed(formats.text(pairs[0])).items()}
        lines = [line for line in formats.text(pairs[1]).split('\n') if line and not line.startswith('#version')]
        merges = [tuple(line.split(' ')) for line in lines]
        model = library.Tokenizer(library.models.BPE(vocab=vocabulary, merges=merges))
    except UserError:
        raise
    except Exception as error:  # also the library's own
        raise damaged(str(pairs[0]), error) from error
    model.pre_tokenizer, model.decoder = library.pre_tokenizers.ByteLevel(add_prefix_space=False), library.decoders.ByteLevel()
    end = '<|endoftext|>'
    if end in vocabulary:
        model.add_special_tokens([library.AddedToken(end, special=True, normalized=False)])
    return HuggingFace(model.to_str().encode(), {'bos': end, 'eos': end}, path)


def bert(data: bytes, config: bytes, where: str) -> Tokenizer:
    """WordPiece of BERT (Devlin et al. 2019) from a vocab.txt; `do_lower_case` of tokenizer_config.json is True by default."""
    library = _hf_library()
    words = data.decode('utf-8', 'replace').splitlines()
    numbers = {word: i for i, word in enumerate(words)}
    missing = [name for name in ('[UNK]', '[CLS]', '[SEP]') if name not in numbers]
    if missing:
        raise UserError(f'{where}/vocab.txt: got no {missing[0]}, expected the vocabulary of a BERT; fix: another file',
                        code='tokenizer/damaged')
    lower = bool(_parsed(config, where).get('do_lower_case', True))
    model = library.Tokenizer(library.models.WordPiece(vocab=numbers, unk_token='[UNK]'))
    model.normalizer = library.normalizers.BertNormalizer(lowercase=lower)
    model.pre_tokenizer, model.decoder = library.pre_tokenizers.BertPreTokenizer(), library.decoders.WordPiece()
    model.add_special_tokens([library.AddedToken(name, special=True, normalized=False)
                              for name in ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]') if name in numbers])
    model.post_processor = library.processors.TemplateProcessing(
        single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1',
        special_tokens=[(name, numbers[name]) for name in ('[CLS]', '[SEP]')])
    return HuggingFace(model.to_str().encode(), where=where)


def role_names(config: bytes, where: str) -> dict[str, str]:
    """{'bos': '<s>', …} as a tokenizer_config.json states them, as texts or as {'content': text}."""
    state, found = _parsed(config, where), {}
    for role in ROLES:
        value = state.get(f'{role}_token') or (state.get({'bos': 'cls_token', 'eos': 'sep_token'}.get(role, '')))
        value = value.get('content') if isinstance(value, dict) else value
        if isinstance(value, str):
            found[role] = value
    return found


def _parsed(data: bytes, where: str) -> dict:
    try:
        state = safe_read.parsed(data)
    except ValueError as error:
        raise damaged(where, error) from error
    return state if isinstance(state, dict) else {}


def _encodable(text: str) -> str:
    """The text without lone surrogates, which have no UTF-8 form."""
    return text if text.isascii() else text.encode('utf-8', 'replace').decode()


def _hf_library():
    try:
        import tokenizers
    except ImportError as error:
        raise _no_package('tokenizers') from error
    return tokenizers


def _sp_library():
    try:
        import sentencepiece
    except ImportError as error:
        raise _no_package('sentencepiece') from error
    return sentencepiece


def _no_package(name: str) -> UserError:
    return UserError(f"the tokenizer needs the package {name}; fix: pip install 'bigjax[text]'", code='tokenizer/package')


def damaged(where: str, error: Exception) -> UserError:
    return UserError(f'{printable(where)}: it is no tokenizer ({first_line(error)}); fix: fetch it again',
                     code='tokenizer/damaged')
