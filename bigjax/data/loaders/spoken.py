"""Free Spoken Digit Dataset: single digits, and sequences of digits that are composed of them while a batch is gathered.

Glossary: B examples of a batch · N sequences · P digits of a sequence at most · S samples.
"""
import pathlib
import re
import tarfile
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bigjax.data import audio
from bigjax.data.sources import ArraySource, Splits
from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import printable

RATE_HZ = 8000
CLIP = 10_560  # samples of an example, 1.32 s: all clips but two of training are shorter
SEQUENCE = 36_000  # samples of a sequence, 4.5 s
LONGEST = 5  # digits of a sequence
GAP = 2000  # samples of silence at most before, between and after digits
SEQUENCES = {'train': 20_000, 'test': 300}
NAME = re.compile(r'([0-9])_([a-z]+)_([0-9]+)\.wav')
TESTED = 5  # the repetitions 0 … 4 of each digit and speaker are the official test set
ARCHIVES = ('fsdd_recordings.tar.gz', 'fsdd/recordings.tar.gz', 'fsdd.tar.gz')


def _files(data_dir: str) -> tuple[Any, list[tuple[str, bytes]]] | None:
    """(where, [(name, encoded bytes)] in the order of the names) of the recordings, or None."""
    root = pathlib.Path(data_dir)
    for folder in (root / 'fsdd' / 'recordings', root / 'fsdd', root / 'free-spoken-digit-dataset' / 'recordings'):
        names = sorted(path for path in folder.glob('*.wav') if NAME.fullmatch(path.name)) if folder.is_dir() else []
        if names:
            return folder, [(path.name, safe_read.content(path)) for path in names]
    for archive in (root / name for name in ARCHIVES):
        if archive.is_file():
            return archive, sorted(_packed(archive))
    return None


def _packed(archive: pathlib.Path) -> list[tuple[str, bytes]]:
    found = []
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = pathlib.PurePosixPath(member.name).name
                if member.isfile() and NAME.fullmatch(name):
                    safe_read.check_unpacked(f'{archive}: {name}', member.size, archive.stat().st_size, 'fetch it again')
                    found.append((name, tar.extractfile(member).read()))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f'{archive}: got a damaged archive ({printable(error)}), expected the recordings; fix: fetch it again',
                        code='data/damaged') from error
    return found


def _clips(data_dir: str) -> tuple[Any, dict[str, dict[str, Any]]] | None:
    """(where, {split: {'clips': [int16], 'label', 'speaker': int32 [N]}}) of the recordings, or None."""
    files = _files(data_dir) if data_dir else None
    if files is None:
        return None
    where, recordings = files
    speakers = sorted({NAME.fullmatch(name)[2] for name, _ in recordings})
    parts = {split: {'clips': [], 'label': [], 'speaker': []} for split in ('train', 'test')}
    for name, data in recordings:
        digit, speaker, repetition = NAME.fullmatch(name).groups()
        part = parts['test' if int(repetition) < TESTED else 'train']
        part['clips'].append(audio.to_int16(audio.decode(data, f'{where}: {name}', RATE_HZ).samples[:CLIP]))
        part['label'].append(int(digit))
        part['speaker'].append(speakers.index(speaker))
    for split, part in parts.items():
        if len(set(part['label'])) < 10:
            raise UserError(f'{where}: got the digits {sorted(set(part["label"]))} for {split}, expected all ten; fix: fetch '
                            'the recordings again', code='data/damaged')
    return where, {split: {name: np.array(values, np.int32) if name != 'clips' else values for name, values in part.items()}
                   for split, part in parts.items()}


def _padded(clips: list[np.ndarray], length: int) -> np.ndarray:
    out = np.zeros((len(clips), length), np.int16)
    for row, clip in zip(out, clips, strict=True):
        row[:len(clip)] = clip
    return out


def single_digits(named, name: str, variant: str, data_dir: str) -> Splits | None:
    """`data_dir/fsdd/recordings/*.wav`, or the archive `fsdd_recordings.tar.gz`; repetitions 0 … 4 are the test set."""
    found = _clips(data_dir)
    if found is None:
        return None
    where, parts = found
    made = {split: ArraySource({'audio': _padded(part['clips'], CLIP), 'label': part['label'],
                                'length': np.array([len(clip) for clip in part['clips']], np.int32)})
            for split, part in parts.items()}
    return _splits(named, name, variant, where, made)


def connected_digits(named, name: str, variant: str, data_dir: str) -> Splits | None:
    """Sequences of one to five digits of one speaker with random silence; test sequences consist of test recordings alone."""
    found = _clips(data_dir)
    if found is None:
        return None
    where, parts = found
    made = {split: ConnectedSource(part, SEQUENCES[split], seed) for seed, (split, part) in enumerate(parts.items())}
    return _splits(named, name, variant, where, made)


def _splits(named, name, variant, where, made: dict[str, Any]) -> Splits:
    info = {**named.info(variant), 'name': name, 'source': str(where),
            'records': {split: len(source) for split, source in made.items()}}
    return Splits(made.pop('train'), made, info)


class ConnectedSource:
    """Sequences of clips with silence between them: {'audio': int16 [SEQUENCE], 'length', 'text': int32 [P], 'text_length'}.

    A sequence is P numbers of clips and P lengths of silence; its samples are gathered out of one row of all clips when a batch
    is made, so that tens of thousands of sequences take the memory of the clips alone. Text is 1 + the digit, followed by 0.

    Args:
      part: {'clips': [int16], 'label', 'speaker': int32}.
      count: N.
      seed: of the draw.
    """

    cut_from: ClassVar = {'text': 'text'}

    def __init__(self, part: Mapping[str, Any], count: int, seed: int):
        sizes = np.array([len(clip) for clip in part['clips']], np.int32)
        starts = np.concatenate([[0], np.cumsum(sizes[:-1])]).astype(np.int32)
        rng = np.random.default_rng([seed, count])
        of_speaker = [np.flatnonzero(part['speaker'] == k) for k in range(int(part['speaker'].max()) + 1)]
        of_speaker = [clips for clips in of_speaker if len(clips)]
        speaker = rng.integers(len(of_speaker), size=count)
        pieces = np.stack([rng.choice(of_speaker[k], LONGEST) for k in speaker])
        gaps = rng.integers(0, GAP + 1, (count, LONGEST)).astype(np.int32)
        ends = np.cumsum(gaps + sizes[pieces], axis=1)
        digits = np.minimum(rng.integers(1, LONGEST + 1, count), (ends <= SEQUENCE).sum(1)).astype(np.int32)
        after = rng.integers(0, GAP + 1, count)
        length = np.minimum(ends[np.arange(count), digits - 1] + after, SEQUENCE).astype(np.int32)
        spoken = np.arange(LONGEST) < digits[:, None]
        self.arrays = {
            'stream': np.concatenate(part['clips']), 'first': starts[pieces], 'size': np.where(spoken, sizes[pieces], 0),
            'end': ends.astype(np.int32), 'length': length, 'text_length': digits,
            'text': np.where(spoken, part['label'][pieces] + 1, 0).astype(np.int32)}

    def __len__(self) -> int:
        return len(self.arrays['length'])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        index = range(len(self))[index]
        return {name: values[0] for name, values in self.take(self.arrays, np.array([index])).items()}

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of one example."""
        whole = jax.ShapeDtypeStruct((), np.dtype(np.int32))
        return {'audio': jax.ShapeDtypeStruct((SEQUENCE,), np.dtype(np.int16)), 'length': whole,
                'text': jax.ShapeDtypeStruct((LONGEST,), np.dtype(np.int32)), 'text_length': whole}

    @staticmethod
    def take(arrays: Mapping[str, Any], indices) -> dict[str, Any]:
        """Sequences `indices` [B], composed of their clips."""
        xp = np if isinstance(indices, np.ndarray) and isinstance(arrays['stream'], np.ndarray) else jnp
        end, size, first = (arrays[name][indices] for name in ('end', 'size', 'first'))
        position = xp.arange(SEQUENCE, dtype=np.int32)
        source = xp.full((len(indices), SEQUENCE), -1, np.int32)
        for p in range(LONGEST):
            into = position - (end[:, p:p + 1] - size[:, p:p + 1])
            inside = (into >= 0) & (into < size[:, p:p + 1])
            source = xp.where(inside, first[:, p:p + 1] + into, source)
        samples = xp.where(source >= 0, arrays['stream'][xp.maximum(source, 0)], np.int16(0))
        return {'audio': samples, **{name: arrays[name][indices] for name in ('length', 'text', 'text_length')}}

    def __repr__(self) -> str:
        return f'ConnectedSource({len(self)} sequences)'
