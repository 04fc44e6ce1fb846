"""State dicts of torch: its recurrent networks under the names of a program, against torch itself."""
import json

import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import weights
from bigjax.models.rnn import RNNClassifier
from bigjax.weights import safetensors_format
from bigjax.weights.place import TORCH_INDEX
from tests.refused import refused
from tests.weights.test_load import MODELS, equal, variables

V, E, H, K, T = 11, 3, 5, 2, 7


@pytest.mark.parametrize('cell, both', [('LSTM', True), ('GRU', False)])
def test_recurrent_networks(tmp_path, cell, both):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
    torch.manual_seed(0)

    class Program(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(V, E)
            setattr(self, cell.lower(), getattr(torch.nn, cell)(E, H, 2, batch_first=True, bidirectional=both))
            self.fc = torch.nn.Linear((1 + both) * H, K)

        def forward(self, tokens):
            return self.fc(getattr(self, cell.lower())(self.embedding(tokens))[0].mean(1))

    reference = Program()
    torch.save({'model': reference.state_dict(), 'epoch': 3}, tmp_path / 'x.pt')
    tokens = np.random.default_rng(0).integers(0, V, (4, T))
    model = RNNClassifier(cell.lower(), H, 2, both, K, 'mean', V, E)
    _, variables, _ = weights.load(f'torch:{tmp_path}/x.pt', model=model)
    expected = reference(torch.tensor(tokens)).detach().numpy()
    assert np.abs(model.apply(variables, jnp.asarray(tokens), train=False) - expected).max() < 1e-5
    with refused('weights/keys', 'weight_ih_l1'):
        weights.load(f'torch:{tmp_path}/x.pt', model=model.clone(layers=1))
    with refused('weights/no-model'):
        weights.load(f'torch:{tmp_path}/x.pt')


def test_a_folder_with_several_files(tmp_path):
    torch = pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
    model, ours = MODELS['gpt2'], variables(MODELS['gpt2'])
    weights.save(model, ours, f'hf:{tmp_path}/x')
    arrays = {name: torch.tensor(t.read()) for name, t in safetensors_format.read_folder(tmp_path / 'x').items()}
    (tmp_path / 'x' / safetensors_format.ONE).unlink()
    torch.save(arrays, tmp_path / 'x' / 'pytorch_model.bin')
    assert equal(weights.load(f'hf:{tmp_path}/x')[1], ours)
    assert equal(weights.load(f'torch:{tmp_path}/x/pytorch_model.bin')[1], ours)  # its config.json is beside it
    (tmp_path / 'x' / 'pytorch_model.bin').unlink()
    names = {name: f'{i % 2}.bin' for i, name in enumerate(arrays)}
    for file in ('0.bin', '1.bin'):
        torch.save({name: array for name, array in arrays.items() if names[name] == file}, tmp_path / 'x' / file)
    (tmp_path / 'x' / TORCH_INDEX).write_text(json.dumps({'weight_map': names}))
    assert equal(weights.load(f'hf:{tmp_path}/x')[1], ours)
