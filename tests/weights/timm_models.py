"""timm's models, small and with random numbers, in folders as timm writes them; for tests of parity.

timm imports torchvision for its transforms alone, and the one that an index has does not load beside a CPU build of torch:
where it does not, an empty package in its place, whose every attribute is a class, lets timm's models be imported.
"""
import importlib
import importlib.abc
import importlib.machinery
import json
import sys
import types

import numpy as np
import pytest


class _Named(type):
    """A class whose attributes are their own names."""

    def __getattr__(cls, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return name


class _Empty(types.ModuleType):
    """A package with a class under every name."""

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return _Named(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torchvision and everything in it."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition('.')[0] == 'torchvision':
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Empty(spec.name)

    def exec_module(self, module):
        module.__path__ = []


def timm():
    """The package; the test is skipped without it."""
    pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
    try:
        importlib.import_module('torchvision')
    except (ImportError, RuntimeError, OSError):
        for name in [name for name in sys.modules if name.partition('.')[0] == 'torchvision']:
            del sys.modules[name]
        sys.meta_path.insert(0, _Finder())
    pytest.importorskip('timm', reason='timm is not installed: pip install --no-deps timm')
    importlib.import_module('timm.models')
    return importlib.import_module('timm')


def randomised(model, seed: int = 0):
    """The model with random numbers in every array, statistics included, small enough that no layer saturates."""
    import torch
    rng = np.random.default_rng(seed)
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if name.endswith('running_var'):
            new = rng.uniform(0.5, 1.5, value.shape)
        elif value.ndim > 1:
            new = rng.normal(size=value.shape) / np.sqrt(value[0].numel())
        else:
            new = rng.normal(size=value.shape) * 0.2 + (name.endswith('weight'))
        value.copy_(torch.from_numpy(np.asarray(new)))
    return model.eval()


def written(model, architecture: str, folder, **config) -> str:
    """The place 'timm:FOLDER' with the model's arrays and a config.json."""
    from safetensors.torch import save_file
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / 'model.safetensors')
    (folder / 'config.json').write_text(json.dumps({'architecture': architecture, **config}))
    return f'timm:{folder}'


def logits(model, image: np.ndarray) -> np.ndarray:
    """The result of a model of theirs for images [B, H, W, C]."""
    import torch
    with torch.no_grad():
        return model(torch.from_numpy(image.transpose(0, 3, 1, 2).copy())).numpy()
