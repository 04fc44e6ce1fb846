"""Keras 3's .weights.h5: one group per layer, named by its class, with its variables as '0', '1', … in `vars`.

Names are flattened to 'lstm_0/cell/vars/0': the folder of layers is left out, and the first layer of a class, which Keras
writes without a number, has the number 0.
"""
import importlib.util
import pathlib
import re

import numpy as np

from bigjax.errors import UserError
from bigjax.io.text import first_line
from bigjax.weights.tensors import Tensor, Tensors, damaged


def read(path: pathlib.Path) -> Tensors:
    """{name: tensor}.

    Raises:
      UserError: h5py is not installed ('weights/missing-package'), or the file is damaged ('weights/damaged').
    """
    if importlib.util.find_spec('h5py') is None:
        raise UserError("keras:… needs h5py: pip install 'bigjax[keras]'", code='weights/missing-package')
    import h5py
    found = {}
    try:
        with h5py.File(path, 'r') as file:
            def visit(name, node):
                if isinstance(node, h5py.Dataset):
                    if node.external or node.is_virtual:
                        raise ValueError(f'{name} is in another file')
                    found[flat(name)] = Tensor(tuple(node.shape), np.dtype(node.dtype), lambda: _array(path, name))
            file.visititems(visit)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise damaged(path, first_line(error)) from error
    return found


def _array(path, name: str) -> np.ndarray:
    import h5py
    try:
        with h5py.File(path, 'r') as file:
            return file[name][()]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise damaged(path, f'{name}: {first_line(error)}') from error


def flat(name: str) -> str:
    """'lstm_0/cell/vars/0' of 'layers/lstm/cell/vars/0'."""
    parts = name.removeprefix('_layer_checkpoint_dependencies/').removeprefix('layers/').split('/')
    first = parts[0] if re.search(r'_\d+$', parts[0]) else f'{parts[0]}_0'
    return '/'.join([first, *parts[1:]])
