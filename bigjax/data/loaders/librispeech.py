"""LibriSpeech as it is unpacked: LibriSpeech/PART/SPEAKER/CHAPTER/*.flac, and the texts of a chapter in one *.trans.txt."""
import pathlib
import string
from typing import NamedTuple

from bigjax.data import audio
from bigjax.data.loaders import formats
from bigjax.data.sources import Splits
from bigjax.errors import UserError
from bigjax.io.text import printable

RATE_HZ = 16_000
LONGEST_S = 17  # seconds of a training utterance; longer ones are left out
LENGTH, LETTERS = LONGEST_S * RATE_HZ, 300  # samples and characters of a made-up utterance
SYMBOLS = [' ', "'", *string.ascii_lowercase]


class Part(NamedTuple):
    """A part of the corpus (Panayotov et al. 2015, table 1): hours of speech, and utterances."""

    hours: float
    utterances: int


PARTS = {
    'train-clean-100': Part(100.6, 28_539), 'train-clean-360': Part(363.6, 104_014), 'train-other-500': Part(496.7, 148_688),
    'dev-clean': Part(5.4, 2703), 'dev-other': Part(5.3, 2864), 'test-clean': Part(5.4, 2620), 'test-other': Part(5.1, 2939)}
EVALS = {'val': ('dev-clean',), 'val_other': ('dev-other',), 'test': ('test-clean',), 'test_other': ('test-other',)}
SETS = {'960h': {'train': ('train-clean-100', 'train-clean-360', 'train-other-500'), **EVALS},
        '100h': {'train': ('train-clean-100',), **EVALS}}


def utterances(variant: str) -> dict[str, int]:
    """{split: utterances, of any length}."""
    return {split: sum(PARTS[name].utterances for name in names) for split, names in SETS[variant].items()}


def _read(folder: pathlib.Path) -> tuple[list[str], list[str]]:
    """(files, texts in lower case) of a part, in the order of the names.

    Raises:
      UserError: a line without a text, or an utterance without its file.
    """
    files, texts = [], []
    for path in sorted(folder.glob('*/*/*.trans.txt')):
        for number, line in enumerate(formats.lines(path), 1):
            name, _, text = line.strip().partition(' ')
            if not text:
                raise UserError(f'{path}: line {number}: got {printable(line)!r}, expected the number of an utterance and its '
                                'text; fix: unpack it again', code='data/table-line')
            file = path.with_name(f'{name}.flac')
            if not file.is_file():
                raise UserError(f'{path}: line {number}: got no {file.name} beside it, expected it; fix: unpack it again',
                                code='data/no-file')
            files.append(str(file))
            texts.append(text.lower())
    return files, texts


def files(named, name: str, variant: str, data_dir: str) -> Splits | None:
    """`data_dir/LibriSpeech` or `data_dir/librispeech/LibriSpeech`; a part for evaluation that is not there is left out.

    Examples are 'audio' int16 [S], 'length', 'text' int32 [U] and 'text_length', where S is `LENGTH` in training and the
    longest of the split in evaluation.

    Raises:
      UserError: as `_read`, or a text with other characters.
    """
    roots = [pathlib.Path(data_dir) / place for place in ('LibriSpeech', 'librispeech/LibriSpeech', 'librispeech')]
    split_parts = SETS[variant]
    root = next((root for root in roots if all((root / part).is_dir() for part in split_parts['train'])), None)
    if not data_dir or root is None:
        return None
    made, notes = {}, {}
    for split, parts in split_parts.items():
        found = [_read(root / part) for part in parts]
        pairs = [pair for one in found for pair in zip(*one, strict=True)]
        lengths = {file: -(-count * RATE_HZ // rate) for file, _ in pairs for count, rate in [audio.facts(file)]}
        if split == 'train':
            kept = [(file, text) for file, text in pairs if lengths[file] <= LENGTH]
            notes['left_out'] = len(pairs) - len(kept)
            pairs = kept
        if not pairs and split != 'train':
            continue
        if not pairs:
            raise UserError(f'{root}: got no utterance of at most {LONGEST_S} s in {", ".join(parts)}, expected some; fix: '
                            'unpack it again', code='data/empty')
        source = audio.AudioSource([file for file, _ in pairs], {}, f'{root} ({", ".join(parts)})', [text for _, text in pairs])
        source.rate = RATE_HZ
        source.length = LENGTH if split == 'train' else max(lengths[file] for file in source.files)
        made[split] = source
    coded = audio.encoded_texts({split: source.texts for split, source in made.items()}, SYMBOLS,
                                {split: source.where for split, source in made.items()})
    for split, source in made.items():
        source.columns |= coded[split]
    info = {**named.info(variant), **notes, 'name': name, 'source': str(root),
            'records': {split: len(source) for split, source in made.items()}}
    return Splits(made.pop('train'), made, info)
