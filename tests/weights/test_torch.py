"""State dicts of torch: its recurrent networks under the names of a program, against torch itself."""
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import weights
from bigjax.models.rnn import RNNClassifier
from tests.refused import refused

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
