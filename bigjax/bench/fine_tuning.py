"""A fine-tuning step of BERT-base on sentences, beside `transformers` with the same weights, batch and optimizer.

    python -m bigjax.bench --case=bert_base --against=torch

Dropout is that of fine-tuning (0.1) on both sides. Before the first step, the losses without dropout have to be the same.
"""
import pathlib
import tempfile
from typing import NamedTuple

import jax
import numpy as np

from bigjax import config as configs
from bigjax.bench.peer_process import PeerProcess
from bigjax.data.sources import ArraySource
from bigjax.experiment import Data, Experiment, base_config
from bigjax.models import bert
from bigjax.tasks import classification
from bigjax.train import settings as settings_module
from bigjax.train.program import Program

PEER = 'bigjax.bench.fine_tuning_peer'
OPTIMIZER = {'name': 'adamw', 'lr': 2e-5, 'weight_decay': 0.01}  # Devlin et al. 2019, appendix A.3


class Case(NamedTuple):
    """A model, its batch, the tokens of a text, and the share of the peer's time that a step takes at most."""

    model: bert.BERT
    batch: int
    length: int
    target: float


CASES = {'bert_base': Case(bert.BERT(**bert.VARIANTS['bert_base'], num_classes=2, pool='cls', dropout=0.1), 8, 128, 0.95)}


def program(case: Case) -> Program:
    """The case as an experiment on one made-up batch, through the shared train step; a quarter of the texts is shorter."""
    rng = np.random.default_rng(0)
    lengths = np.where(np.arange(case.batch) % 4 == 3, case.length // 2, case.length)
    mask = np.arange(case.length) < lengths[:, None]
    tokens = np.where(mask, rng.integers(1, case.model.vocab_size, mask.shape), 0).astype(np.int32)
    arrays = {'tokens': tokens, 'mask': mask, 'label': rng.integers(0, 2, case.batch).astype(np.int32)}
    config = base_config()
    config.batch_size, config.mesh, config.optimizer = case.batch, 'data:1', OPTIMIZER
    experiment = Experiment(case.model, classification.softmax('tokens'), Data(ArraySource(arrays), {}, shuffle=False),
                            config.optimizer, {})
    return Program([experiment], settings_module.read(configs.Reader(config), case.batch))


def peer(stack, case: Case, p: Program) -> PeerProcess:
    """transformers on the weights of a case's program, which it reads from a folder, and on its batch.

    Args:
      stack: a `contextlib.ExitStack` that ends it.
    """
    from bigjax import weights
    model, arrays = case.model, p.datas[0].train.arrays
    variables = {'params': jax.device_get(p.init()['state'].params)}
    logits = jax.jit(lambda v: model.apply(v, arrays['tokens'], mask=arrays['mask'], train=False))(variables)
    loss = -jax.nn.log_softmax(logits)[np.arange(len(logits)), arrays['label']].mean()
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    weights.save(model, variables, f'hf:{folder}')
    rate = np.array([OPTIMIZER['lr'], OPTIMIZER['weight_decay']])
    found = PeerProcess(PEER, str(folder), [*(arrays[name] for name in ('tokens', 'mask', 'label')), np.asarray(loss), rate])
    stack.callback(found.close)
    return found
