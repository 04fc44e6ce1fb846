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


BERT = {'vocab_size': V, 'hidden_size': 24, 'num_hidden_layers': 2, 'num_attention_heads': 3, 'intermediate_size': 37,
        'max_position_embeddings': 21, 'pad_token_id': 1, 'num_labels': 5}
DISTILBERT = {'vocab_size': V, 'dim': 24, 'n_layers': 2, 'n_heads': 3, 'hidden_dim': 37, 'max_position_embeddings': 21,
              'num_labels': 5}
KINDS = ('Model', 'ForMaskedLM', 'ForSequenceClassification', 'ForTokenClassification', 'ForQuestionAnswering')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name, options', [('Bert', BERT), ('Roberta', BERT), ('DistilBert', DISTILBERT)])
def test_encoders(name, options, kind, tmp_path):
    if kind == 'ForQuestionAnswering':
        options = {**options, 'num_labels': 2}
    reference, said = theirs(name, name + kind, options), []
    reference.save_pretrained(tmp_path / 'theirs')
    model, variables, _ = weights.load(f'hf:{tmp_path}/theirs', say=said.append)
    weights.save(model, variables, f'hf:{tmp_path}/ours', architecture=name + kind)
    again = getattr(hf, name + kind).from_pretrained(tmp_path / 'ours', attn_implementation='eager').eval()
    tokens = np.random.default_rng(0).integers(2, V, (2, T))
    for side, mask in masks().items():
        padded = np.where(mask, tokens, 1)  # RoBERTa counts positions by this token
        arguments = {'input_ids': torch.tensor(padded), 'attention_mask': torch.tensor(mask.astype(int))}
        with torch.no_grad():
            expected, returned = reference(**arguments), again(**arguments)
        spans = (lambda out: torch.stack([out.start_logits, out.end_logits], -1)) if kind == KINDS[-1] else lambda out: out[0]
        expected, returned = spans(expected).numpy(), spans(returned).numpy()
        assert np.array_equal(returned, expected), side
        got = model.apply(variables, jnp.asarray(padded), mask=jnp.asarray(mask), train=False)
        counts = mask if expected.ndim == 3 else np.ones(2, bool)
        assert np.abs(np.asarray(got) - expected)[counts].max() < 1e-4, side
    assert len(said) == (kind == 'Model' and name != 'DistilBert')  # the pooler is left out


T5 = {'vocab_size': V, 'd_model': 24, 'd_kv': 5, 'd_ff': 37, 'num_layers': 2, 'num_heads': 3, 'decoder_start_token_id': 0,
      'relative_attention_num_buckets': 8, 'relative_attention_max_distance': 11}


@pytest.mark.parametrize('options', [{}, {'feed_forward_proj': 'gated-gelu', 'd_kv': 8}], ids=['t5', 't5 1.1'])
def test_encoder_decoders(options, tmp_path):
    kind = 'T5ForConditionalGeneration'
    reference, said = theirs('T5', kind, {**T5, **options}), []
    if options:  # the head of its own that T5 1.1 has, which is not scaled
        reference.config.tie_word_embeddings = reference.config.scale_decoder_outputs = False
        reference.lm_head.weight = torch.nn.Parameter(torch.randn(V, 24))
    reference.save_pretrained(tmp_path / 'theirs')
    model, variables, _ = weights.load(f'hf:{tmp_path}/theirs', say=said.append)
    assert model.tie_head != bool(options) and not said
    weights.save(model, variables, f'hf:{tmp_path}/ours')
    again = getattr(hf, kind).from_pretrained(tmp_path / 'ours').eval()
    rng = np.random.default_rng(0)
    source, target = rng.integers(2, V, (2, T)), rng.integers(2, V, (2, 9))
    for side, mask in masks().items():
        arguments = {'input_ids': torch.tensor(source), 'attention_mask': torch.tensor(mask.astype(int)),
                     'decoder_input_ids': torch.tensor(target)}
        with torch.no_grad():
            expected = reference(**arguments).logits.numpy()
            assert np.array_equal(again(**arguments).logits.numpy(), expected), side
        got = model.apply(variables, jnp.asarray(source), jnp.asarray(target), source_mask=jnp.asarray(mask), train=False)
        assert np.abs(np.asarray(got) - expected).max() < 1e-4, side
