"""NumPy archives: any arrays by name, and, of our own, the model that they belong to.

NumPy has no bfloat16, and would read its bytes as a type without numbers: such arrays are kept as unsigned integers of the same
bits, and a member names their type.
"""
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from bigjax.io import safe_read
from bigjax.io.atomic import explained
from bigjax.io.text import first_line
from bigjax.weights.tensors import Tensor, Tensors, damaged

MODEL = 'model.json'  # the member that holds config.model of one of ours
DTYPES = 'dtypes.json'  # {name: dtype} of the arrays whose type NumPy does not have


def read(path: pathlib.Path) -> tuple[Mapping[str, Any] | None, Tensors]:
    """(`config.model` or None, {name: tensor}).

    Raises:
      UserError: a damaged archive, or pickled objects in it; 'data/damaged'.
    """
    spec, foreign = None, {}
    try:
        with zipfile.ZipFile(path) as archive:
            if MODEL in archive.namelist():
                spec = safe_read.parsed(archive.read(MODEL))
            if DTYPES in archive.namelist():
                foreign = {name: jnp.dtype(dtype) for name, dtype in safe_read.parsed(archive.read(DTYPES)).items()}
    except (ValueError, TypeError, AttributeError, zipfile.BadZipFile, OSError) as error:
        raise damaged(path, first_line(error)) from error
    tensors = {}
    for name, (shape, stored) in safe_read.archive_shapes(path, skip=(MODEL, DTYPES)).items():
        dtype = foreign.get(name, stored)
        if dtype.itemsize != stored.itemsize or (name in foreign and not jnp.issubdtype(dtype, jnp.number)):
            raise damaged(path, f'{name}: {stored} does not hold {dtype}')
        tensors[name] = Tensor(shape, dtype, lambda name=name, dtype=dtype: safe_read.archive_member(path, name).view(dtype))
    return spec, tensors


def write(path: pathlib.Path, spec: Mapping, tensors: Sequence[tuple]) -> None:
    """Writes (name, shape, dtype, function that returns the array), one by one, and the model's description."""
    beside = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with zipfile.ZipFile(beside, 'w') as archive:
            archive.writestr(MODEL, json.dumps(spec))
            foreign = {name: np.dtype(dtype).name for name, _, dtype, _ in tensors if np.dtype(dtype).kind == 'V'}
            if foreign:
                archive.writestr(DTYPES, json.dumps(foreign))
            for name, _, _, get in tensors:
                with archive.open(f'{name}.npy', 'w', force_zip64=True) as file:
                    array = np.asarray(get(), order='C')
                    array = array.view(f'u{array.itemsize}') if name in foreign else array
                    np.lib.format.write_array(file, array, allow_pickle=False)
        os.replace(beside, path)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        beside.unlink(missing_ok=True)
