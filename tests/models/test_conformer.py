"""Models of frames: the published sizes, and outputs that neither padding nor a batch changes."""
import jax
import numpy as np
import pytest
from model_helpers import init, parameters

from bigjax.models.conformer import VARIANTS, Conformer
from bigjax.models.rnn import FrameRNN

SMALL = {'conformer': Conformer(1, 8, 2, 4, 4, num_classes=5), 'lstm': FrameRNN('lstm', 6, num_classes=5),
         'gru': FrameRNN('gru', 6, layers=2, stride=3, num_classes=5)}


def block(width, kernel):
    """The numbers of one block, by section 2 of the paper: two half steps, attention, convolution, six norms of two vectors."""
    mlp = 4 * width * width + 4 * width + 4 * width * width + width
    conv = width * 2 * width + 2 * width + kernel * width + width + width * width + width
    return 2 * mlp + 4 * (width * width + width) + conv + 6 * 2 * width


@pytest.mark.parametrize(('variant', 'rounded'), [('s', 8.7), ('m', 26), ('l', 111)])
def test_sizes(variant, rounded):
    fields = VARIANTS[variant]
    width, layers = fields['width'], fields['num_layers']
    front = 9 * width + width + 9 * width * width + width + 20 * width * width + width  # 80 bands are 20 after two strides
    expected = front + layers * block(width, fields['kernel']) + 29 * width + 29
    count = parameters(Conformer(**fields), np.zeros((1, 16, 80), np.float32))
    assert count == expected and count / 1e6 == pytest.approx(rounded, rel=0.06)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('frames', [13, 16])
def test_padding_is_not_seen(name, frames):
    model, rng = SMALL[name], np.random.default_rng(0)
    x = rng.normal(size=(2, 24, 8)).astype(np.float32)
    mask = np.arange(24) < np.array([24, frames])[:, None]
    variables = init(model, x)
    run = jax.jit(lambda x, mask: model.apply(variables, x, mask=mask, train=False))
    together = np.asarray(run(x, mask))
    x[1, frames:] = 1e3
    np.testing.assert_array_equal(run(x, mask), together)
    alone = np.asarray(run(x[1:, :frames], mask[1:, :frames]))
    np.testing.assert_allclose(together[1:, :alone.shape[1]], alone, atol=2e-5)
