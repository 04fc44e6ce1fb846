"""Writes our models in the formats of other libraries."""
import json
from collections.abc import Mapping

import numpy as np

from bigjax.checkpoint import convert
from bigjax.errors import UserError
from bigjax.io import atomic, storage
from bigjax.weights import config_json, match, npz_format, safetensors_format
from bigjax.weights.place import CONFIG, parts
from bigjax.weights.reader import leaves, own

WRITTEN = ('hf', 'npz')


def save(model, variables: Mapping, place: str, tokenizer=None, architecture: str = '',
         shard: int = safetensors_format.SHARD) -> None:
    """Writes a model, its arrays one by one, in the dtype that they have.

    Args:
      place: 'hf:FOLDER', which transformers reads, or 'npz:FILE', which holds any model by our own names.
      tokenizer: is written beside it, in a folder.
      architecture: of config.json, such as 'BertForQuestionAnswering'; '' for the first that has the form of the model.
      shard: bytes of a file of safetensors before the next is begun.

    Raises:
      UserError: a kind that is only read ('weights/read-only'); weights are there already ('weights/exists'); no family has
        such a model ('weights/no-family').
    """
    kind, name = parts(place)
    if kind not in WRITTEN:
        raise UserError(f'{place}: got a kind that is only read, expected hf:FOLDER or npz:FILE; fix: write one of these',
                        code='weights/read-only')
    path = storage.place(name)
    if storage.remote(path):
        raise UserError(f'{place}: got a place in a store, expected a local one; fix: write it here, and copy it',
                        code='weights/read-only')
    arrays = leaves(convert.unstack(variables))
    if kind == 'npz':
        if path.exists():
            raise _exists(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        npz_format.write(path, config_json.spec(model), match.entries(own(arrays), '', arrays))
        return
    family, name, config = config_json.matching(model, architecture)
    written = family.architectures[name]
    entries = match.entries(family, written.prefix, arrays, written.heads)
    if any((path / file).exists() for file in (CONFIG, safetensors_format.ONE, safetensors_format.INDEX)):
        raise _exists(place)
    path.mkdir(parents=True, exist_ok=True)
    dtypes = {np.dtype(dtype).name for _, _, dtype, _ in entries}
    config |= {'dtype': dtypes.pop()} if len(dtypes) == 1 else {}
    safetensors_format.write_folder(path, entries, shard)
    if tokenizer is not None:
        tokenizer.save(path)
    atomic.write_text(path / CONFIG, json.dumps(config, indent=2) + '\n')  # last: a folder without it is incomplete


def _exists(place: str) -> UserError:
    return UserError(f'{place}: got a place that holds weights already; fix: name another, or remove them',
                     code='weights/exists')
