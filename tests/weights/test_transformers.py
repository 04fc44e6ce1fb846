"""Parity with transformers: random models of every family and odd sizes, there and back, with padding on both sides."""
import jax.numpy as jnp
import numpy as np
import pytest

from bigjax import weights

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch', reason='PyTorch is not installed: pip install bigjax[parity]')
hf = pytest.importorskip('transformers', reason='transformers is not installed: pip install bigjax[parity]')

V, T = 61, 13
LLAMA = {'vocab_size': V, 'hidden_size': 24, 'num_hidden_layers': 3, 'num_attention_heads': 6, 'num_key_value_heads': 2,
         'intermediate_size': 37, 'max_position_embeddings': 29, 'bos_token_id': 1, 'eos_token_id': 2}
LLAMA3 = {'rope_type': 'llama3', 'rope_theta': 500.0, 'factor': 4.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0,
          'original_max_position_embeddings': 16}
DECODERS = {
    'gpt2': ('GPT2', {'vocab_size': V, 'n_positions': 23, 'n_embd': 24, 'n_layer': 3, 'n_head': 3, 'n_inner': 37,
                      'bos_token_id': 1, 'eos_token_id': 2}),
    'gpt2 gelu untied': ('GPT2', {'vocab_size': V, 'n_positions': 23, 'n_embd': 18, 'n_layer': 1, 'n_head': 2,
                                  'bos_token_id': 1, 'eos_token_id': 2, 'activation_function': 'gelu',
                                  'tie_word_embeddings': False}),
    'llama2': ('Llama', {**LLAMA, 'num_key_value_heads': 6}),
    'llama3.1': ('Llama', {**LLAMA, 'rope_parameters': LLAMA3, 'tie_word_embeddings': True, 'rms_norm_eps': 1e-5}),
    'llama linear': ('Llama', {**LLAMA, 'rope_parameters': {'rope_type': 'linear', 'rope_theta': 1e4, 'factor': 2.0}}),
    'mistral': ('Mistral', {**LLAMA, 'sliding_window': 5, 'head_dim': 10}),
    'mistral without a window': ('Mistral', {**LLAMA, 'sliding_window': None}),
    'qwen2': ('Qwen2', {**LLAMA, 'tie_word_embeddings': True}),
    'qwen3': ('Qwen3', {**LLAMA, 'head_dim': 10}),
}


def theirs(name: str, kind: str, options: dict):
    """A model of transformers with random parameters in every array, norms and biases included."""
    torch.manual_seed(sum(map(ord, name)))
    model = getattr(hf, kind)(getattr(hf, f'{name}Config')(**options)).eval()
    model.config._attn_implementation = 'eager'
    for path, p in model.named_parameters():
        torch.nn.init.normal_(p, mean=float('norm' in path.lower() or 'ln_' in path) * path.endswith('weight'), std=0.2)
    return model


def masks() -> dict[str, np.ndarray]:
    """{side: [2, T], true where a token counts}: rows of unequal length."""
    lengths = np.array([T, 8])[:, None]
    return {'none': np.ones((2, T), bool), 'right': np.arange(T) < lengths, 'left': np.arange(T) >= T - lengths}


@pytest.mark.parametrize('case', DECODERS)
def test_decoders(case, tmp_path):
    name, options = DECODERS[case]
    kind = f'{name}LMHeadModel' if name == 'GPT2' else f'{name}ForCausalLM'
    reference, said = theirs(name, kind, options), []
    reference.save_pretrained(tmp_path / 'theirs')
    model, variables, _ = weights.load(f'hf:{tmp_path}/theirs', say=said.append)
    weights.save(model, variables, f'hf:{tmp_path}/ours')
    again = getattr(hf, kind).from_pretrained(tmp_path / 'ours', attn_implementation='eager').eval()
    tokens = np.random.default_rng(0).integers(0, V, (2, T))
    for side, mask in masks().items():
        arguments = {'input_ids': torch.tensor(tokens), 'attention_mask': torch.tensor(mask.astype(int)),
                     'position_ids': torch.tensor(np.maximum(mask.cumsum(1) - 1, 0))}
        with torch.no_grad():
            expected = reference(**arguments).logits.numpy()
            assert np.array_equal(again(**arguments).logits.numpy(), expected), side
        got = model.apply(variables, jnp.asarray(tokens), mask=None if side == 'none' else jnp.asarray(mask), train=False)
        assert np.abs(np.asarray(got) - expected)[mask].max() < 1e-4, side
        assert np.abs(expected).max() > 0.5
    assert not said
