"""Where weights are: `hf:FOLDER`, `timm:FOLDER`, `torch:FILE`, `npz:FILE`, `keras:FILE`,
`pip:PACKAGE`, and the files behind each."""
import importlib.util
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from bigjax.errors import UserError
from bigjax.io import local_copy, safe_read, storage
from bigjax.io.text import first_line, printable
from bigjax.weights.keras_format import read as read_keras
from bigjax.weights.npz_format import read as read_npz
from bigjax.weights.packages import known
from bigjax.weights.safetensors_format import INDEX as SAFETENSORS_INDEX
from bigjax.weights.safetensors_format import ONE as SAFETENSORS
from bigjax.weights.safetensors_format import read as read_safetensors
from bigjax.weights.safetensors_format import read_folder
from bigjax.weights.tensors import Tensors, damaged, sharded
from bigjax.weights.torch_format import read as read_torch

FORMS = {'hf': 'FOLDER', 'timm': 'FOLDER', 'torch': 'FILE', 'npz': 'FILE', 'keras': 'FILE.weights.h5', 'pip': 'PACKAGE'}
FOLDERS = ('hf', 'timm')  # config.json beside the arrays, or an id of the hub
CONFIG = 'config.json'
TORCH_NAMES, TORCH_INDEX = ('pytorch_model.bin', 'model.pth'), 'pytorch_model.bin.index.json'
WANTED = ('*.json', '*.safetensors', '*.txt', '*.model')  # files of a hub's repository: no pickles


class Opened(NamedTuple):
    """The files of a place, of which no array has been read yet.

    Attributes:
      path: the folder or file.
      config: config.json, None where there is none.
      tensors: {key: tensor}.
      spec: `config.model` of our own file or of a package, None for another's.
      inputs: shapes that the model is initialised with, () for those of its family.
    """

    path: pathlib.Path
    config: Mapping | None
    tensors: Tensors
    spec: Mapping[str, Any] | None = None
    inputs: tuple[tuple[int, ...], ...] = ()


def is_place(text: str) -> bool:
    """Whether a text names weights of another library; gs://… and folders of runs do not."""
    return str(text).partition(':')[0] in FORMS


def parts(text: str) -> tuple[str, str]:
    """('hf', 'FOLDER') of 'hf:FOLDER'.

    Raises:
      UserError: no such kind, or nothing after it; 'weights/place'.
    """
    kind, _, name = str(text).partition(':')
    if kind not in FORMS or not name.strip():
        forms = ', '.join(f'{kind}:{form}' for kind, form in FORMS.items())
        raise UserError(f'{printable(text)}: got no place of weights, expected one of {forms}; fix: write it so',
                        code='weights/place')
    return kind, name


def opened(text: str) -> Opened:
    """The files of a place.

    Raises:
      UserError: as `parts` and `bigjax.weights.packages.known`; nothing there ('weights/not-found'), or a file that is
        damaged ('weights/damaged').
    """
    kind, name = parts(text)
    if kind in FOLDERS:
        return _folder(folder(name, kind))
    if kind == 'pip':
        return _package(name)
    path = local_copy.copied(storage.place(name))
    if not path.is_file():
        raise UserError(f'{printable(text)}: got no such file; check the path', code='weights/not-found')
    if kind == 'npz':
        spec, tensors = read_npz(path)
        return Opened(path, None, tensors, spec)
    if kind == 'keras':
        return Opened(path, None, read_keras(path))
    return Opened(path, _config(path.with_name(CONFIG)), read_torch(path))


def _folder(path: pathlib.Path) -> Opened:
    config = _config(path / CONFIG)
    if config is None:
        raise UserError(f'{printable(path)}: got a folder without {CONFIG}; fix: name the folder that holds it beside the '
                        'weights', code='weights/not-found')
    for name in (SAFETENSORS_INDEX, SAFETENSORS):
        if (path / name).exists():
            return Opened(path, config, read_folder(path))
    if (path / TORCH_INDEX).exists():
        return Opened(path, config, sharded(path, TORCH_INDEX, read_torch))
    for name in TORCH_NAMES:
        if (path / name).exists():
            return Opened(path, config, read_torch(path / name))
    raise UserError(f'{printable(path)}: got a folder with neither {SAFETENSORS} nor {TORCH_NAMES[0]}; fix: '
                    'name the folder that holds the weights', code='weights/not-found')


def _package(name: str) -> Opened:
    package, path = known(name)
    if package.model is None:
        return _folder(path.parent)
    read = read_safetensors if path.suffix == '.safetensors' else read_torch
    return Opened(path, None, read(path), package.model, package.inputs)


def _config(path: pathlib.Path) -> Mapping | None:
    if not path.exists():
        return None
    try:
        found = safe_read.parsed(safe_read.content(path))
    except ValueError as error:
        raise damaged(path, first_line(error)) from error
    if not isinstance(found, dict):
        raise damaged(path, 'no table of keys')
    return found


def folder(name: str, kind: str = 'hf') -> pathlib.Path:
    """The folder that `hf:` or `timm:` names: one of the file system, of a store or of the hub's cache, or fetched.

    Raises:
      UserError: there is none, and no way to the hub; 'weights/not-found'.
    """
    path = storage.place(name)
    if storage.children(path):
        return local_copy.copied(path)
    parts = name.split('/')
    if len(parts) > 2 or not all(part.replace('-', '').replace('_', '').replace('.', '').isalnum() for part in parts):
        raise UserError(f'{kind}:{printable(name)}: got no such folder; check the path', code='weights/not-found')
    if found := cached(name):
        return found
    why = 'the package huggingface_hub is not installed'
    if importlib.util.find_spec('huggingface_hub'):
        import huggingface_hub
        try:
            return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=list(WANTED)))
        except Exception as error:  # of its HTTP client, of the hub, of the disk
            why = first_line(error)
    raise UserError(f"{kind}:{printable(name)}: got a hub's id, which is neither a folder here nor in the hub's cache, and it "
                    f'cannot be fetched ({why}); fix: {kind}:FOLDER with a folder that holds {CONFIG} and {SAFETENSORS}',
                    code='weights/not-found')


def cached(name: str) -> pathlib.Path | None:
    """The snapshot of a model in the hub's cache that its main branch names, None where there is none."""
    home = os.environ.get('HF_HOME') or os.path.join(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'huggingface')
    cache = pathlib.Path(os.environ.get('HF_HUB_CACHE') or os.path.join(home, 'hub')).expanduser()
    model = cache / f'models--{name.replace("/", "--")}'
    try:
        found = model / 'snapshots' / (model / 'refs' / 'main').read_text().strip()
    except OSError:
        return None
    return found if (found / CONFIG).exists() else None
