"""A check that all processes of a run have the same data.

Each process picks its examples by index. With other files on one host it would silently train on other batches than were
meant, or hang in a collective where its data ends earlier.
"""
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bigjax.compat import multihost_utils
from bigjax.data import sources
from bigjax.errors import UserError
from bigjax.experiment import Data
from bigjax.sharding import mesh as meshes

SHOWN = 8  # processes that a message names


def check(datas: Sequence[Data]) -> None:
    """Compares the data of all processes, which call it together before anything is compiled or written.

    Args:
      datas: the data of each member, or of all (length 1).

    Raises:
      UserError: a split has another length or other examples (`sources.sample`) on one of them; all raise the same one.
    """
    if jax.process_count() == 1:
        return
    splits = {name + (f' of member {m}' if m else ''): f'{len(split):,} records (sample {sources.sample(split)})'
              for m, data in enumerate(datas) for name, split in {'train': data.train, **data.evals}.items()}
    difference = compare(_gathered({'host': socket.gethostname(), 'splits': splits}))
    if difference:
        raise UserError(f'config.data: got different data: {difference}; expected the same on every process; fix: the same '
                        'files on every host, or a folder that all of them share', code='data/hosts-differ')


def compare(processes: Sequence[Mapping[str, Any]]) -> str:
    """The first split that is not the same on all processes, with who has what; '' where all are.

    Args:
      processes: for each process {'host': its name, 'splits': {split: its length and sample}}.
    """
    for split in dict.fromkeys(name for one in processes for name in one['splits']):
        groups = {}
        for process, one in enumerate(processes):
            groups.setdefault(one['splits'].get(split, 'nothing'), []).append(f"process {process} on {one['host']}")
        if len(groups) > 1:
            return f'{split}: ' + ', and '.join(f'{what} on {_some(who)}' for what, who in groups.items())
    return ''


def _some(names: Sequence[str]) -> str:
    more = f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''
    return ', '.join(names[:SHOWN]) + more


def _gathered(facts: Mapping[str, Any]) -> list[dict]:
    """The JSON facts of every process, in the order of the processes; a collective."""
    text = json.dumps(facts).encode()
    text = text.ljust(max(meshes.allgather_int(len(text))))
    return [json.loads(bytes(row)) for row in multihost_utils.process_allgather(np.frombuffer(text, np.uint8))]
