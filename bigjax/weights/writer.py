"""Writes our models in the formats of other libraries."""
import json
from collections.abc import Mapping

import numpy as np

from bigjax.errors import UserError
from bigjax.io import atomic, storage
from bigjax.nn import stacking
from bigjax.weights.config_json import matching, spec
from bigjax.weights.match import entries
from bigjax.weights.npz_format import write as write_npz
from bigjax.weights.place import CONFIG, FOLDERS, parts
from bigjax.weights.reader import leaves, own
from bigjax.weights.safetensors_format import INDEX as SAFETENSORS_INDEX
from bigjax.weights.safetensors_format import ONE as SAFETENSORS
from bigjax.weights.safetensors_format import SHARD, write_folder

WRITTEN = (*FOLDERS, 'npz')


def save(model, variables: Mapping, place: str, tokenizer=None, architecture: str = '',
         shard: int = SHARD) -> None:
    """Writes a model, its arrays one by one, in the dtype that they have.

    Args:
      place: 'hf:FOLDER', which transformers reads, 'timm:FOLDER', or 'npz:FILE', which holds any model by our own names.
      tokenizer: is written beside it, in a folder.
      architecture: of config.json, such as 'BertForQuestionAnswering'; '' for the first that has the form of the model.
      shard: bytes of a file of safetensors before the next is begun.

    Raises:
      UserError: a kind that is only read ('weights/read-only'); weights are there already ('weights/exists'); no family has
        such a model ('weights/no-family').
    """
    kind, name = parts(place)
    if kind not in WRITTEN:
        raise UserError(f'{place}: got a kind that is only read, expected hf:FOLDER, timm:FOLDER or npz:FILE; fix: write one '
                        'of these', code='weights/read-only')
    path = storage.place(name)
    if storage.remote(path):
        raise UserError(f'{place}: got a place in a store, expected a local one; fix: write it here, and copy it',
                        code='weights/read-only')
    arrays = leaves(stacking.unstack(variables))
    if kind == 'npz':
        if path.exists():
            raise _exists(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_npz(path, spec(model), entries(own(arrays), '', arrays))
        return
    family, name, config = matching(model, architecture, kind)
    written = family.architectures[name]
    rows = entries(family, written.prefix, arrays, written.heads)
    if any((path / file).exists() for file in (CONFIG, SAFETENSORS, SAFETENSORS_INDEX)):
        raise _exists(place)
    path.mkdir(parents=True, exist_ok=True)
    dtypes = {np.dtype(dtype).name for _, _, dtype, _ in rows}
    config |= {'dtype': dtypes.pop()} if len(dtypes) == 1 and kind == 'hf' else {}
    write_folder(path, rows, shard)
    if tokenizer is not None:
        tokenizer.save(path)
    atomic.write_text(path / CONFIG, json.dumps(config, indent=2) + '\n')  # last: a folder without it is incomplete


def _exists(place: str) -> UserError:
    return UserError(f'{place}: got a place that holds weights already; fix: name another, or remove them',
                     code='weights/exists')
