"""NumPy archives: any arrays by name, and, of our own, the model that they belong to."""
import json
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bigjax.io import safe_read
from bigjax.io.atomic import explained
from bigjax.io.text import first_line
from bigjax.weights.tensors import Tensor, Tensors, damaged

MODEL = 'model.json'  # the member that holds config.model of one of ours


def read(path: pathlib.Path) -> tuple[Mapping[str, Any] | None, Tensors]:
    """(`config.model` or None, {name: tensor}).

    Raises:
      UserError: a damaged archive, or pickled objects in it; 'data/damaged'.
    """
    spec = None
    try:
        with zipfile.ZipFile(path) as archive:
            if MODEL in archive.namelist():
                spec = safe_read.parsed(archive.read(MODEL))
    except (ValueError, zipfile.BadZipFile, OSError) as error:
        raise damaged(path, first_line(error)) from error
    shapes = safe_read.archive_shapes(path, skip=(MODEL,))
    return spec, {name: Tensor(shape, dtype, lambda n=name: safe_read.archive_member(path, n))
                  for name, (shape, dtype) in shapes.items()}


def write(path: pathlib.Path, spec: Mapping, tensors: Sequence[tuple]) -> None:
    """Writes (name, shape, dtype, function that returns the array), one by one, and the model's description."""
    beside = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        with zipfile.ZipFile(beside, 'w') as archive:
            archive.writestr(MODEL, json.dumps(spec))
            for name, _, _, get in tensors:
                with archive.open(f'{name}.npy', 'w', force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asarray(get(), order='C'), allow_pickle=False)
        os.replace(beside, path)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        beside.unlink(missing_ok=True)
