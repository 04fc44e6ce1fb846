"""Data sets of other libraries as sources: TFDS (without TensorFlow) and Hugging Face."""
import functools
import inspect
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bigjax.data.loaders.records import finish
from bigjax.data.schema import Schema
from bigjax.data.sources import Map
from bigjax.errors import UserError
from bigjax.io.text import first_line, printable

CONFIG = r'\w[\w.+-]*'
TFDS_NAME = re.compile(rf'\w+(/{CONFIG})?(:[\d*]+(\.[\d*]+)*)?', re.ASCII)


def prepare_command(name: str) -> str:
    """The command that prepares a TFDS data set in the format that is read without TensorFlow."""
    if name in ('mnist', 'fashion_mnist'):
        return f'python -m bigjax.data.builders {name} --from=FOLDER_OF_IDX_FILES --to=TFDS_FOLDER'
    return (f'python -c "import tensorflow_datasets as tfds; tfds.builder(\'{name}\', file_format=\'array_record\')'
            '.download_and_prepare()"')


def tfds_folders(data_dir: str | os.PathLike = '') -> list[str]:
    """The folders of TFDS data: `data_dir`, the variable TFDS_DATA_DIR, TFDS's own default."""
    places = [str(data_dir), os.environ.get('TFDS_DATA_DIR', ''), '~/tensorflow_datasets']
    return [os.path.expanduser(place) for place in places if place]


def tfds_folder(name: str, data_dir: str | os.PathLike = '') -> str | None:
    """The first TFDS folder that holds a prepared `name`, found without importing TFDS."""
    return next((folder for folder in tfds_folders(data_dir) if prepared(name, folder)), None)


def prepared(name: str, folder: str | os.PathLike) -> bool:
    """Whether a TFDS folder holds a prepared version of `name` ('mnist', 'scan/simple', 'mnist:3.0.1')."""
    return any(pathlib.Path(folder, name.partition(':')[0]).rglob('dataset_info.json'))


def tfds_module():
    """tensorflow_datasets, which does not import TensorFlow.

    Raises:
      UserError: it is not installed.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise UserError('TFDS data needs its package; fix: pip install tensorflow-datasets importlib_resources',
                        code='data/package') from error
    return tensorflow_datasets


def tfds_builder(name: str, data_dir: str | os.PathLike = ''):
    """The read-only builder of a prepared TFDS data set.

    Raises:
      UserError: not prepared in any TFDS folder, with the command that does it; a name with a namespace, for which TFDS
        downloads code.
    """
    if not TFDS_NAME.fullmatch(name):
        raise UserError(f'tfds:{printable(name)}: got no name of a TFDS data set, expected NAME, NAME/CONFIG or NAME:1.0.0; '
                        'fix: correct the name', code='data/tfds-name')
    library, folder, command = tfds_module(), tfds_folder(name, data_dir), prepare_command(name)
    if folder is None:
        raise UserError(f'tfds:{name}: not prepared in {" or ".join(tfds_folders(data_dir))}; fix: {command}',
                        code='data/not-prepared')
    try:
        return library.builder(name, data_dir=folder)
    except Exception as error:  # TFDS raises many kinds
        raise UserError(f'tfds:{name} in {folder} cannot be opened ({first_line(error)}); fix: {command}',
                        code='data/damaged') from error


def _numbers32(example: dict[str, Any]) -> dict[str, Any]:
    """int64 and float64, which devices do not hold, as 32 bits; numbers of Python as arrays."""
    narrow = {'int64': np.int32, 'float64': np.float32}
    arrays = {name: value if isinstance(value, str | bytes) else np.asarray(value) for name, value in example.items()}
    return {name: value.astype(narrow[str(value.dtype)]) if str(getattr(value, 'dtype', '')) in narrow else value
            for name, value in arrays.items()}


def read_all(source: Map, keys: tuple[str, ...], chunk: int = 1000) -> dict[str, np.ndarray]:
    """Some features of a whole split of `tfds`, {name: [N, …]}; in chunks, which is faster than one by one."""
    parts = []
    for start in range(0, len(source), chunk):
        examples = source.source.__getitems__(list(range(start, min(start + chunk, len(source)))))
        parts.append([_numbers32({key: example[key] for key in keys}) for example in examples])
    return {key: np.stack([example[key] for part in parts for example in part]) for key in keys}


def tfds(name: str, split: str, data_dir: str | os.PathLike = '', encoded: bool = False) -> Map:
    """One split of a data set that TFDS has prepared as array_record, read without TensorFlow.

    Args:
      encoded: the feature 'image' is the bytes of its file.

    Raises:
      UserError: not prepared; prepared as tfrecord, which only TensorFlow reads; no such split.
    """
    builder = tfds_builder(name, data_dir)
    try:
        decoders = {'image': tfds_module().decode.SkipDecoding()} if encoded else None
        source = builder.as_data_source(split=split, decoders=decoders)
    except NotImplementedError as error:
        raise UserError(f'tfds:{name} in {builder.data_dir}: got a format that only TensorFlow reads, expected array_record; '
                        f'fix: prepare it in another folder: {prepare_command(name)}', code='data/tfrecord') from error
    except Exception as error:
        raise UserError(f'tfds:{name}: got split {split!r} ({first_line(error)}), expected one of '
                        f'{", ".join(builder.info.splits)}; fix: correct the name', code='data/no-split') from error
    return Map(source, _numbers32)


def hf(name_or_path: str) -> Mapping[str, Any]:
    """Every split of a Hugging Face data set: split -> `datasets.Dataset`; from disk (`save_to_disk`), or by hub name.

    Raises:
      UserError: the package is missing, or cannot load it.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError("hf: needs Hugging Face datasets; fix: pip install 'bigjax[hf]'", code='data/package') from error
    try:
        on_disk = pathlib.Path(name_or_path).is_dir() and any(pathlib.Path(name_or_path).glob('*.json'))
        load = datasets.load_from_disk if on_disk else functools.partial(datasets.load_dataset, **_no_scripts(datasets))
        data = load(name_or_path)
    except UserError:
        raise
    except Exception as error:  # the package raises many kinds
        raise UserError(f'hf:{printable(name_or_path)} cannot be loaded ({first_line(error)}); fix: check the name, or give a '
                        'folder written by save_to_disk', code='data/hf') from error
    return data if isinstance(data, dict) else {'train': data}


def _no_scripts(library) -> dict[str, bool]:
    """The arguments that keep `load_dataset` from running a script that comes with the data; version 4 runs none.

    Raises:
      UserError: a version that cannot be kept from it.
    """
    if 'trust_remote_code' in inspect.signature(library.load_dataset).parameters:
        return {'trust_remote_code': False}
    if int(getattr(library, '__version__', '4').partition('.')[0]) < 4:
        raise UserError(f"hf: datasets {library.__version__} runs code of the data; fix: pip install 'datasets>=4'",
                        code='data/runs-code')
    return {}


class HFSource:
    """A split of a Hugging Face data set, read by a schema: images become uint8 [H, W, 3], numbers 32-bit arrays.

    Attributes:
      labels: int32 [N], or None.
    """

    def __init__(self, data: Any, where: str, schema: Schema, image_size: int | None = None, labels: np.ndarray | None = None):
        self.data, self.where, self.schema, self.image_size, self.labels = data, where, schema, image_size, labels

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        where = f'{self.where} (record {index})'
        try:
            row = self.data[int(index)]
        except ImportError as error:  # images need Pillow, sound a decoder
            raise UserError(f'{where}: another package is needed ({first_line(error)}); fix: install it',
                            code='data/package') from error
        return finish(self.schema.example(row, where, labelled=True), pathlib.Path(), where, self.image_size)

    def __repr__(self) -> str:
        return f'HFSource({self.where!r}, {len(self)} records)'
