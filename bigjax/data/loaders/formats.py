"""The file formats of the named data sets, read into arrays: idx, UCR tsv, UCI splits, SCAN, plain text.

Every reader accepts the file as it is or gzipped (`name` or `name.gz`), checks what it read against what the format
promises, and raises a UserError that names the file and the record.
"""
import gzip
import io
import math
import os
import pathlib
import zlib

import numpy as np

from bigjax.data.sources import check_labels
from bigjax.errors import UserError
from bigjax.io import safe_read

PAD, BOS, EOS = '<pad>', '<s>', '</s>'  # 0, 1, 2 of every word vocabulary


def find(folder: str | os.PathLike, *names: str) -> pathlib.Path | None:
    """The first of `names`, or of `names` with .gz, that is a file in `folder`."""
    for name in names:
        for path in (pathlib.Path(folder) / name, pathlib.Path(folder) / f'{name}.gz'):
            if path.is_file():
                return path
    return None


def read(path: str | os.PathLike) -> bytes:
    """The bytes of a file, unpacked where its name ends in .gz.

    Raises:
      UserError: the file is missing or unreadable, or its gzip stream is damaged, cut short, or as `untrusted.check_unpacked`.
    """
    data = safe_read.content(path)
    if not str(path).endswith('.gz'):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            unpacked = file.read(max(safe_read.MAX_UNPACKED, safe_read.MAX_RATIO * len(data)) + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f'{path}: a damaged or incomplete gzip file ({error}); fix: fetch it again',
                        code='data/damaged') from error
    safe_read.check_unpacked(str(path), len(unpacked), len(data), 'fetch it again, or unpack it first')
    return unpacked


def text(path: str | os.PathLike) -> str:
    """A UTF-8 text file without its byte-order mark.

    Raises:
      UserError: as `read`, and for bytes that are not UTF-8.
    """
    return decoded(read(path), path)


def decoded(data: bytes, path: str | os.PathLike) -> str:
    """Bytes of a file as UTF-8 text without its byte-order mark.

    Raises:
      UserError: a byte is not UTF-8; names the file and the byte.
    """
    try:
        return data.decode().removeprefix('\ufeff')
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: byte {error.start} is not UTF-8; fix: save the file as UTF-8',
                        code='data/not-utf8') from error


def lines(path: str | os.PathLike) -> list[str]:
    """The lines of a UTF-8 text file, without their ends."""
    return text(path).splitlines()


def idx(path: str | os.PathLike, rank: int) -> np.ndarray:
    """The uint8 array of an idx file (the format of MNIST: LeCun, Cortes and Burges 1998).

    Four bytes 0, 0, 8 (unsigned byte), rank; then `rank` big-endian uint32 dimensions; then the bytes in C order.

    Raises:
      UserError: another magic number, or more or fewer bytes than the dimensions say.
    """
    data = read(path)
    magic, start = bytes([0, 0, 8, rank]), 4 + 4 * rank
    if data[:4] != magic or len(data) < start:
        raise UserError(f'{path}: got {data[:4].hex() or "nothing"} at its start, expected {magic.hex()}, an idx file of '
                        f'{rank} dimensions; fix: fetch it again', code='data/damaged')
    shape = tuple(int(d) for d in np.frombuffer(data, '>u4', rank, 4))
    want, have, record = math.prod(shape), len(data) - start, math.prod(shape[1:])
    if have != want:
        raise UserError(f'{path}: {shape[0]} records of {record} bytes promised, and the file '
                        + (f'ends in record {have // max(record, 1)}' if have < want else f'has {have - want} bytes more')
                        + '; fix: fetch it again', code='data/damaged')
    try:
        return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
    except ValueError:  # empty and too large at once
        raise UserError(f'{path}: {shape} promised, which no array can be; fix: fetch it again', code='data/damaged') from None


def idx_pair(folder: str | os.PathLike, prefix: str, shape: tuple[int, ...],
             classes: int) -> dict[str, np.ndarray] | None:
    """Images [N, H, W, 1] uint8 and labels [N] int32 of `prefix` ('train' or 't10k'), or None where a file is missing.

    Raises:
      UserError: as `idx`; other image sizes than `shape`; unequal counts; a label outside the classes.
    """
    image_path, label_path = find(folder, f'{prefix}-images-idx3-ubyte'), find(folder, f'{prefix}-labels-idx1-ubyte')
    if image_path is None or label_path is None:
        return None
    image, label = idx(image_path, 3)[..., None], idx(label_path, 1).astype(np.int32)
    if image.shape[1:] != shape:
        raise UserError(f'{image_path}: got images of {list(image.shape[1:])}, expected {list(shape)}; fix: fetch the files of '
                        'this data set', code='data/damaged')
    if len(image) != len(label):
        raise UserError(f'{label_path}: got {len(label)} labels for the {len(image)} images of {image_path.name}; fix: fetch '
                        'both again', code='data/damaged')
    check_labels(label, classes, str(label_path))
    return {'image': image, 'label': label}


def table(path: str | os.PathLike, delimiter: str | None = None) -> np.ndarray:
    """A table of numbers [N, D] in float64; 'NaN' is kept; blank lines are skipped.

    Raises:
      UserError: an empty file, a line with another number of columns, or something that is no number.
    """
    rows = []
    for number, line in enumerate(lines(path), 1):
        if not line.strip():
            continue
        try:
            rows.append(np.array([float(cell) for cell in line.strip().split(delimiter)]))
        except ValueError as error:
            raise UserError(f'{path}: line {number}: {safe_read.first_line(error)}; fix: correct the line',
                            code='data/table-line') from error
        if len(rows[-1]) != len(rows[0]):
            raise UserError(f'{path}: line {number}: got {len(rows[-1])} columns, expected {len(rows[0])} as in the first; '
                            'fix: correct the line', code='data/table-line')
    if not rows:
        raise UserError(f'{path}: got no records; fix: fetch it again', code='data/empty')
    return np.stack(rows)


def series(x_NxT: np.ndarray) -> tuple[np.ndarray, str]:
    """Series of the UCR archive, z-normalised one by one: (float32 [N, T, 1], what was done about missing values).

    Ismail Fawaz et al. 2019 normalise every series of the 2018 archive with its own mean and standard deviation
    (population form; a constant series is only centred). Most sets come normalised with the sample form, and some
    (BME, Chinatown, InsectEPG) not at all, so this is not a repetition. NaN inside a series is a missing value:
    linear interpolation, as in the archive's own adjusted copies. NaN from some point to the end is a shorter series:
    normalised over what is there, then filled with zeros, the mean.
    """
    x_NxT = np.array(x_NxT, np.float64)
    missing = np.isnan(x_NxT)
    notes = []
    if missing.any():
        time = np.arange(x_NxT.shape[1])
        ends = x_NxT.shape[1] - np.argmin(missing[:, ::-1], axis=1)  # one past the last value of each series
        tail = time >= ends[:, None]
        inside = missing & ~tail
        for n in np.flatnonzero(inside.any(axis=1)):
            known = ~missing[n]
            x_NxT[n, inside[n]] = np.interp(time[inside[n]], time[known], x_NxT[n, known])
        if inside.any():
            notes.append(f'{inside.sum()} missing values in {inside.any(1).sum()} series interpolated linearly')
        if tail.any():
            notes.append(f'{tail.any(1).sum()} shorter series filled with zeros at the end')
    mean, std = np.nanmean(x_NxT, axis=1, keepdims=True), np.nanstd(x_NxT, axis=1, keepdims=True)
    x_NxT = np.nan_to_num((x_NxT - mean) / np.where(std == 0, 1.0, std))
    return x_NxT.astype(np.float32)[..., None], '; '.join(notes) or 'none missing'


def ucr(folder: str | os.PathLike, name: str) -> tuple[dict, dict, list[str], str] | None:
    """One set of the UCR archive (Dau et al. 2018): `NAME_{TRAIN,TEST}.tsv`, label first, in `folder` or `folder/NAME`.

    Returns:
      (train, test, classes, missing): arrays {'x': float32 [N, T, 1], 'label': int32 [N]}; the archive's own label
      values, whose sorted order numbers the classes 0 … K-1; what was done about missing values. None where a file is
      missing.

    Raises:
      UserError: a damaged file, another length in test than in train, a label in test that train does not have.
    """
    paths = [find(folder, f'{name}_{part}.tsv', f'{name}/{name}_{part}.tsv') for part in ('TRAIN', 'TEST')]
    if None in paths:
        return None
    return ucr_arrays(*(table(path, '\t') for path in paths), [str(path) for path in paths])


def ucr_arrays(train: np.ndarray, test: np.ndarray, where: list[str]) -> tuple[dict, dict, list[str], str]:
    """The result of `ucr` from the tables [N, 1 + T] (label, values) of the two files named in `where`."""
    if train.shape[1] != test.shape[1]:
        raise UserError(f'{where[1]}: got series of {test.shape[1] - 1}, expected {train.shape[1] - 1} as in {where[0]}; fix: '
                        'fetch both again', code='data/damaged')
    classes, label = np.unique(train[:, 0], return_inverse=True)
    strange = np.flatnonzero(~np.isin(test[:, 0], classes))
    if strange.size:
        raise UserError(f'{where[1]}: record {strange[0]}: got label {test[strange[0], 0]:g}, expected one of the '
                        f'{len(classes)} classes of {where[0]}; fix: fetch both again', code='data/unknown-class')
    for path, part in zip(where, (train, test), strict=True):
        empty = np.flatnonzero(np.isnan(part[:, 1:]).all(axis=1))
        if empty.size:
            raise UserError(f'{path}: record {empty[0]}: got no value; fix: fetch it again', code='data/empty')
    (x_train, note), (x_test, note_test) = series(train[:, 1:]), series(test[:, 1:])
    missing = note if note == note_test else f'train: {note}; test: {note_test}'
    return ({'x': x_train, 'label': label.astype(np.int32)},
            {'x': x_test, 'label': np.searchsorted(classes, test[:, 0]).astype(np.int32)},
            [f'{value:g}' for value in classes], missing)


def uci(folder: str | os.PathLike) -> tuple[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """One set of the UCI regression benchmark (Hernández-Lobato and Adams 2015), with its published splits.

    Files: `data.txt`; `index_features.txt`, `index_target.txt` (columns); `index_{train,test}_K.txt` (rows of split K).

    Returns:
      (x float64 [N, D], y float64 [N], [(train rows, test rows) of each split]).

    Raises:
      UserError: a damaged or missing file, or a number outside the table.
    """
    folder = pathlib.Path(folder)

    def numbers(name: str, bound: int) -> np.ndarray:
        path = folder / name
        values = table(path).ravel()
        if (values != values.astype(np.int64)).any() or (values < 0).any() or (values >= bound).any():
            raise UserError(f'{path}: expected whole numbers from 0 to {bound - 1}; fix: fetch it again', code='data/damaged')
        return values.astype(np.int64)

    data = table(folder / 'data.txt')
    x = data[:, numbers('index_features.txt', data.shape[1])]
    y = data[:, numbers('index_target.txt', data.shape[1])[0]]
    splits = []
    while (folder / f'index_train_{len(splits)}.txt').is_file():
        splits.append(tuple(numbers(f'index_{part}_{len(splits)}.txt', len(data)) for part in ('train', 'test')))
    if not splits:
        raise UserError(f'{folder}: got no index_train_0.txt; fix: fetch the folder with its splits again', code='data/no-file')
    return x, y, splits


def scan(path: str | os.PathLike) -> tuple[list[list[str]], list[list[str]]]:
    """One file of SCAN (Lake and Baroni 2018): lines `IN: words OUT: ACTIONS` as (commands, actions), lists of words.

    Raises:
      UserError: a line of another form.
    """
    commands, actions = [], []
    for number, line in enumerate(lines(path), 1):
        left, found, right = line.partition(' OUT: ')
        if not (left.startswith('IN: ') and found):
            raise UserError(f'{path}: line {number}: expected "IN: … OUT: …"; fix: fetch it again', code='data/table-line')
        commands.append(left[len('IN: '):].split())
        actions.append(right.split())
    if not commands:
        raise UserError(f'{path}: got no records; fix: fetch it again', code='data/empty')
    return commands, actions


def words(sentences: list[list[str]]) -> list[str]:
    """A vocabulary: <pad>, <s>, </s>, then the words in alphabetical order."""
    return [PAD, BOS, EOS, *sorted({word for sentence in sentences for word in sentence})]


def pad_words(sentences: list[list[str]], vocabulary: list[str], length: int, where: str) -> np.ndarray:
    """Word numbers int32 [N, length]: `<s> words </s>`, filled up with <pad>.

    Raises:
      UserError: a word outside the vocabulary, or a sentence longer than `length` - 2.
    """
    number = {word: i for i, word in enumerate(vocabulary)}
    out = np.zeros((len(sentences), length), np.int32)
    for n, sentence in enumerate(sentences):
        if len(sentence) > length - 2:
            raise UserError(f'{where}: record {n}: got {len(sentence)} words, expected at most {length - 2}; fix: fetch it '
                            'again', code='data/too-long')
        try:
            out[n, :len(sentence) + 2] = [1, *(number[word] for word in sentence), 2]
        except KeyError as error:
            raise UserError(f'{where}: record {n}: {safe_read.printable(error)} is not in the vocabulary; fix: '
                            'fetch it again', code='data/vocabulary') from error
    return out
