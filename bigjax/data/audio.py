"""Sounds: encoded bytes to one channel of samples, at one rate and of one length.

Wave files are read here; .flac, .ogg, .mp3 and wave files of rare codecs by the package `soundfile`, where it is installed.
In memory a clip is 16 bits per sample, which is exact for the files that data sets consist of.

Glossary: S samples of a clip.
"""
import functools
import io
import math
import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from bigjax.errors import UserError
from bigjax.io import safe_read
from bigjax.io.text import first_line, printable

EXTENSIONS = ('.wav', '.wave', '.flac', '.ogg', '.mp3')
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE  # format tags of a wave file
STREAMED = 0xFFFFFFFF  # the size of a chunk whose writer could not go back to fill it in
HIGHEST_HZ = 768_000
LOBES, BETA, ROLLOFF = 32, 12.0, 0.94  # zero crossings on each side, shape of the Kaiser window, share of the band that is kept
FULL_SCALE = 32768  # of 16 bits
LONGEST_S = 30  # seconds that are kept of a clip without a text


class Sound(NamedTuple):
    """A decoded clip: `samples` float32 [S] within -1 … 1, `rate` in Hz, and `notes`, what was assumed, in words."""

    samples: np.ndarray
    rate: int
    notes: tuple[str, ...] = ()


def is_audio(name: str) -> bool:
    """Whether a file is a sound, by its ending."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def read(path: str | os.PathLike, record: str = '', rate: int | None = None) -> Sound:
    """The clip of a file at `rate`, or at its own; `record` names the example in messages.

    Raises:
      UserError: as `decode`, or the file cannot be read.
    """
    where = f'{printable(path)} ({record})' if record else str(path)
    return decode(safe_read.content(path, record), where, rate)


def decode(data: bytes, where: str, rate: int | None = None) -> Sound:
    """The clip of encoded bytes: channels averaged, resampled to `rate` where it is given.

    Raises:
      UserError: no sound, one that is cut short, one without a sample, or a codec that is not read here.
    """
    samples, own = _wave(data, where) if data[:4] in (b'RIFF', b'RF64', b'RIFX') else _by_soundfile(data, where)
    if not samples.size:
        raise UserError(f'{where}: got a sound without a sample, expected at least one; fix: replace or remove it',
                        code='data/audio-empty')
    if not np.isfinite(samples).all():
        raise UserError(f'{where}: got a sample that is not finite, expected numbers within -1 … 1; fix: replace or remove it',
                        code='data/audio')
    notes = []
    if samples.shape[1] > 1:
        notes.append(f'{samples.shape[1]} channels averaged')
    mono = samples.mean(axis=1, dtype=np.float64)
    if rate and own != rate:
        notes.append(f'{own:,} Hz resampled to {rate:,}')
        mono = resample(mono, own, rate)
    return Sound(mono.astype(np.float32), rate or own, tuple(notes))


class Form(NamedTuple):
    """The format of a wave file, and where its samples stand: bytes `start` to `start + size`."""

    tag: int
    channels: int
    rate: int
    bits: int
    start: int
    size: int


def _form(data: bytes, where: str, whole: int) -> Form:
    """Reads the chunks of a wave file of `whole` bytes, of which `data` is the beginning, up to its samples.

    Raises:
      UserError: no format or no samples, a rate that is none, or fewer bytes than announced.
    """
    at, form = 12, None
    while at + 8 <= len(data):
        name, size = data[at:at + 4], struct.unpack('<I', data[at + 4:at + 8])[0]
        at += 8
        if name == b'fmt ' and size >= 16 and at + 16 <= len(data):
            tag, channels, rate, _, _, bits = struct.unpack('<HHIIHH', data[at:at + 16])
            if tag == EXTENSIBLE and size >= 26 and at + 26 <= len(data):
                tag = struct.unpack('<H', data[at + 24:at + 26])[0]
            form = tag, channels, rate, bits
        if name == b'data':
            break
        at += size + size % 2
    else:
        raise _damaged(where, 'no chunk of samples')
    if form is None or not form[1] or not 0 < form[2] <= HIGHEST_HZ:
        raise _damaged(where, 'no format' if form is None else f'{form[1]} channels at {form[2]} Hz')
    if size == STREAMED:
        size = whole - at
    if size > whole - at:
        raise UserError(f'{where}: got {whole - at:,} bytes of samples, expected {size:,} as its header states; fix: copy the '
                        'file again, it is cut short', code='data/audio-cut')
    return Form(*form, at, size)


def _wave(data: bytes, where: str) -> tuple[np.ndarray, int]:
    """(float64 samples [S, channels], rate) of a wave file."""
    if data[:4] != b'RIFF' or data[8:12] != b'WAVE':
        return _by_soundfile(data, where)
    form = _form(data, where, len(data))
    kinds = {(PCM, 8): ('u1', 128), (PCM, 16): ('<i2', 2**15), (PCM, 24): ('u1', 2**31), (PCM, 32): ('<i4', 2**31),
             (FLOAT, 32): ('<f4', 1), (FLOAT, 64): ('<f8', 1)}
    if (form.tag, form.bits) not in kinds:
        return _by_soundfile(data, where)
    kind, full_scale = kinds[form.tag, form.bits]
    frame = form.channels * form.bits // 8
    if form.size % frame:
        raise UserError(f'{where}: got {form.size:,} bytes of samples, expected a multiple of {frame}; fix: copy the file '
                        'again, it is cut short', code='data/audio-cut')
    numbers = np.frombuffer(data, kind, form.size // np.dtype(kind).itemsize, form.start)
    if form.bits == 24:  # the upper three bytes of 32 bits
        wide = np.zeros((len(numbers) // 3, 4), np.uint8)
        wide[:, 1:] = numbers.reshape(-1, 3)
        numbers = wide.view('<i4')
    middle = 128 if form.bits == 8 else 0
    return (numbers.astype(np.float64).reshape(-1, form.channels) - middle) / full_scale, form.rate


def _soundfile(where: str):
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package without its library
        raise UserError(f"{where}: got a sound that is not a plain wave file, expected .wav; fix: pip install 'bigjax[audio]', "
                        'or convert it', code='data/audio-codec') from error
    return soundfile


def _by_soundfile(data: bytes, where: str) -> tuple[np.ndarray, int]:
    soundfile = _soundfile(where)
    try:
        facts = soundfile.info(io.BytesIO(data))
        safe_read.check_unpacked(where, 8 * facts.frames * facts.channels, len(data), 'replace or remove it')
        return soundfile.read(io.BytesIO(data), dtype='float64', always_2d=True)
    except (RuntimeError, ValueError, TypeError) as error:
        raise _damaged(where, first_line(error)) from error


def _damaged(where: str, why: str) -> UserError:
    return UserError(f'{where}: got no sound, or a damaged one ({why}), expected a wave file; fix: replace or remove it',
                     code='data/audio')


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Samples [S] of one rate at another, [ceil(S · wanted / rate)]: convolution with a sinc under a Kaiser window.

    What lies above 0.94 of the lower of the two bands is attenuated; a constant stays exactly the same constant.
    """
    if rate == wanted or not len(samples):
        return samples
    common = math.gcd(rate, wanted)
    up, down = wanted // common, rate // common
    cutoff = min(1.0, wanted / rate) * ROLLOFF
    half = math.ceil(LOBES / cutoff)
    count = -(-len(samples) * up // down)
    padded = np.concatenate([np.full(half, samples[0]), samples, np.full(half + down, samples[-1])])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half)
    taps = np.arange(1 - half, half + 1)
    out = np.empty(count)
    for phase in range(min(up, count)):  # outputs phase, phase + up, … lie at one place between two inputs
        whole, part = divmod(phase * down, up)
        at = taps - part / up
        weights = np.sinc(cutoff * at) * np.i0(BETA * np.sqrt(np.maximum(0, 1 - np.square(at / half))))
        rows = -(-(count - phase) // up)
        out[phase::up] = windows[whole + 1::down][:rows] @ (weights / weights.sum())
    return out


def to_int16(samples: np.ndarray) -> np.ndarray:
    """Samples within -1 … 1 as 16 bits; what lies beyond is clipped."""
    return np.clip(np.rint(np.asarray(samples, np.float64) * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def fitted(samples: np.ndarray, length: int) -> dict[str, np.ndarray]:
    """{'audio': int16 [length], 'length': int32}: cut at the end or followed by zeros."""
    kept = to_int16(samples[:length])
    return {'audio': np.pad(kept, (0, length - len(kept))), 'length': np.int32(len(kept))}


@functools.lru_cache(maxsize=1 << 17)
def facts(path: str) -> tuple[int, int]:
    """(samples, rate) of a file; of a wave or .flac file its header alone is read.

    Raises:
      UserError: as `read`.
    """
    try:
        with open(path, 'rb') as file:
            head = file.read(1 << 12)
    except OSError:
        head = b''
    if head[:4] == b'RIFF' and head[8:12] == b'WAVE' and b'data' in head:
        form = _form(head, path, os.path.getsize(path))
        if form.bits >= 8:
            return form.size // (form.channels * form.bits // 8), form.rate
    if head[:4] == b'fLaC' and len(head) >= 26:  # 20 bits of rate, 8 of channels and depth, 36 of samples
        known = int.from_bytes(head[18:26], 'big')
        samples, rate = known & (2**36 - 1), known >> 44
        if samples and 0 < rate <= HIGHEST_HZ:
            return samples, rate
    sound = read(path)
    return len(sound.samples), sound.rate


class AudioSource:
    """Files of sounds as {'audio': int16 [length], 'length': int32, …}, decoded at `source[i]`, after `same_form` has set the
    rate and the length.

    Args:
      files: paths.
      columns: what else an example has, {name: [N, …]}, such as {'label': int32 [N]}.
      where: the table or folder, for messages.
      texts: what is said in each, where it is known.
      names: those of a table beside which the files lie.

    Attributes:
      files, columns, where, texts, names: as given. labels: the column 'label', or None. rate: in Hz. length: in samples;
        longer clips are cut, shorter ones are followed by zeros.
    """

    def __init__(self, files: Sequence[str], columns: Mapping[str, np.ndarray], where: str, texts: Sequence[str] | None = None,
                 names: Sequence[str] = ()):
        self.files, self.columns, self.where, self.texts = list(map(str, files)), dict(columns), where, texts
        self.names, self.labels, self.rate, self.length = names, self.columns.get('label'), None, None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def spec(self) -> dict[str, jax.ShapeDtypeStruct] | None:
        """Shapes of one example."""
        if self.length is None:
            return None
        found = {name: jax.ShapeDtypeStruct(np.shape(values)[1:], values.dtype) for name, values in self.columns.items()}
        return {'audio': jax.ShapeDtypeStruct((self.length,), np.dtype(np.int16)),
                'length': jax.ShapeDtypeStruct((), np.dtype(np.int32)), **found}

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        sound = read(self.files[index], f'record {index} of {self.where}', self.rate)
        return {**fitted(sound.samples, self.length), **{name: values[index] for name, values in self.columns.items()}}

    def __repr__(self) -> str:
        return f'AudioSource({self.where!r}, {len(self)} sounds)'


def same_form(parts: Mapping[str, Any], rate: int | None = None) -> tuple[dict[str, Any], list[str]]:
    """Gives the examples of all splits one rate and length, and their texts one alphabet: (facts of the data, notes).

    The rate is the first training clip's where none is given, the length the longest training clip's: at most LONGEST_S where
    clips have no text, of which a part would be lost.

    Raises:
      UserError: as `read` and `encoded_texts`.
    """
    train = parts['train']
    found = [facts(file) for file in train.files]
    rate = rate or found[0][1]
    lengths = np.array([-(-count * rate // own) for count, own in found])
    others, longest = sum(own != rate for _, own in found), LONGEST_S * rate
    notes = [f'{others:,} of {len(found):,} sounds are resampled to {rate:,} Hz'] if others else []
    if train.texts is None and lengths.max() > longest:
        notes.append(f'{int((lengths > longest).sum()):,} sounds are cut to {LONGEST_S} s')
        lengths = np.minimum(lengths, longest)
    for source in parts.values():
        source.rate, source.length = rate, int(lengths.max())
    known = {'sample_rate': rate}
    if train.texts is not None:
        symbols = sorted(set(''.join(map(tidy, train.texts))))
        known |= {'symbols': symbols, 'between': ''}
        for split, coded in encoded_texts({split: source.texts for split, source in parts.items()}, symbols, {
                split: source.where for split, source in parts.items()}).items():
            parts[split].columns |= coded
    return known, notes


def tidy(text: str) -> str:
    """A text with single blanks between its words."""
    return ' '.join(text.split())


def encoded_texts(texts: Mapping[str, Sequence[str]], symbols: Sequence[str],
                  where: Mapping[str, str]) -> dict[str, dict[str, np.ndarray]]:
    """{split: {'text': int32 [N, U], 'text_length': int32 [N]}}: 1 + the place of each character among `symbols`, then 0.

    Raises:
      UserError: an empty text, or a character that no training text has.
    """
    number = {symbol: i + 1 for i, symbol in enumerate(symbols)}
    rows = {split: [tidy(text) for text in found] for split, found in texts.items()}
    for split, found in rows.items():
        for i, text in enumerate(found):
            strange = sorted(set(text) - set(number))
            if not text or strange:
                got = f'the character {printable(strange[0])!r}' if strange else 'an empty text'
                expected = 'those of the training texts' if strange else 'what is said'
                raise UserError(f'{where[split]}: record {i}: got {got}, expected {expected}; fix: correct or remove the '
                                'record', code='data/unknown-symbol' if strange else 'data/empty-text')
    longest = max(len(text) for found in rows.values() for text in found)
    return {split: {'text': np.array([[*map(number.get, text), *[0] * (longest - len(text))] for text in found], np.int32),
                    'text_length': np.array(list(map(len, found)), np.int32)} for split, found in rows.items()}
