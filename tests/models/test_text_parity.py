"""Families of text models beside `transformers` with the same random weights: odd sizes, padding left and right, positions."""
import jax
import numpy as np
import pytest
from model_helpers import contrasted

from bigjax import weights
from bigjax.models.bert import BERT
from bigjax.models.gpt import GPT
from bigjax.models.seq2seq import EncoderDecoder
from bigjax.nn.relative import bucket

pytestmark = pytest.mark.parity
TOKENS = np.random.default_rng(0).integers(2, 13, (3, 9)).astype(np.int32)
LEFT, RIGHT = np.arange(9) >= np.array([[0], [2], [5]]), np.arange(9) < np.array([[9], [7], [4]])
SMALL = {'vocab_size': 13, 'block_size': 16, 'num_layers': 2, 'num_heads': 4, 'width': 16}
LLAMA = {**SMALL, 'norm': 'rmsnorm', 'hidden': 'swiglu', 'rope_base': 100.0, 'tie_head': False, 'num_kv_heads': 2,
         'mlp_width': 24, 'epsilon': 1e-6}
DECODERS = {  # name: (our fields, their class)
    'gpt2': ({'bias': True}, 'GPT2LMHeadModel'),
    'llama3': ({**LLAMA, 'rope_scaling': 'llama3', 'rope_factor': 4.0, 'rope_window': 16}, 'LlamaForCausalLM'),
    'mistral': ({**LLAMA, 'window': 3}, 'MistralForCausalLM'),
    'qwen2': ({**LLAMA, 'qkv_bias': True, 'tie_head': True}, 'Qwen2ForCausalLM'),
    'qwen3': ({**LLAMA, 'qk_norm': True, 'head_width': 6}, 'Qwen3ForCausalLM'),
}
ROBERTA = {'type_vocab': 1, 'first_position': 2, 'epsilon': 1e-5}
DISTIL = {'type_vocab': 0, 'pooler': 'relu'}
TEXTS = {'num_classes': 3, 'pool': 'cls'}
ENCODERS = [  # (our fields, their class, what it returns)
    ({}, 'BertModel', 'last_hidden_state'), ({'pool': 'cls'}, 'BertModel', 'pooler_output'),
    ({'mlm': True}, 'BertForMaskedLM', 'logits'), ({'num_classes': 3}, 'BertForTokenClassification', 'logits'),
    (TEXTS, 'BertForSequenceClassification', 'logits'), (ROBERTA, 'RobertaModel', 'last_hidden_state'),
    ({**ROBERTA, 'mlm': True}, 'RobertaForMaskedLM', 'logits'),
    ({**ROBERTA, **TEXTS}, 'RobertaForSequenceClassification', 'logits'),
    ({**DISTIL, 'mlm': True}, 'DistilBertForMaskedLM', 'logits'),
    ({**DISTIL, **TEXTS}, 'DistilBertForSequenceClassification', 'logits'),
]


@pytest.fixture(scope='module')
def hf():
    """The library and torch, without gradients."""
    torch = pytest.importorskip('torch', reason='torch is the reference')
    library = pytest.importorskip('transformers', reason='transformers is the reference')
    with torch.no_grad():
        yield library


def both(library, model, kind, folder, *inputs):
    """(the call of ours, their model), which has read our weights from a folder."""
    inputs = inputs or (TOKENS,)
    variables = contrasted(model, *inputs)
    weights.save(model, variables, f'hf:{folder}', architecture=kind)
    theirs = getattr(library, kind).from_pretrained(folder, attn_implementation='eager').eval()
    return lambda **given: jax.jit(model.apply)(variables, *inputs, **given), theirs


def close(found, expected, where=None):
    found, expected = np.asarray(found), expected.detach().numpy()
    found, expected = (found, expected) if where is None else (found[where], expected[where])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def tensors(**arrays):
    import torch
    return {name: torch.tensor(np.asarray(a)).long() for name, a in arrays.items()}


@pytest.mark.parametrize('name', DECODERS)
def test_decoders(hf, name, tmp_path):
    fields, kind = DECODERS[name]
    call, theirs = both(hf, GPT(**{**SMALL, **fields}), kind, tmp_path)
    close(call(), theirs(**tensors(input_ids=TOKENS)).logits)
    close(call(mask=RIGHT), theirs(**tensors(input_ids=TOKENS, attention_mask=RIGHT)).logits, RIGHT)
    positions = np.maximum(LEFT.cumsum(1) - 1, 0)
    expected = theirs(**tensors(input_ids=TOKENS, attention_mask=LEFT, position_ids=positions)).logits
    close(call(mask=LEFT), expected, LEFT)
    close(call(positions=positions + 3), theirs(**tensors(input_ids=TOKENS, position_ids=positions + 3)).logits)


@pytest.mark.parametrize(('fields', 'kind', 'output'), ENCODERS, ids=[f'{case[1]}-{case[2]}' for case in ENCODERS])
def test_encoders(hf, fields, kind, output, tmp_path):
    model = BERT(**{**SMALL, **fields}, mlp_width=24)
    call, theirs = both(hf, model, kind, tmp_path)
    pairs = {'types': np.arange(9) % 4 // 2 * np.ones((3, 1), int)} if model.type_vocab == 2 else {}
    for mask in (RIGHT, LEFT):
        if mask is LEFT and model.pool == 'cls':
            continue  # the first token is padding
        given = {'input_ids': np.where(mask, TOKENS, theirs.config.pad_token_id or 0), 'attention_mask': mask}
        expected = theirs(**tensors(**given, **({'token_type_ids': pairs['types']} if pairs else {})))
        close(call(mask=mask, **pairs), expected[output], None if model.pool == 'cls' else mask)


@pytest.mark.parametrize('gated', [False, True], ids=['t5', 't5_v11'])
def test_t5(hf, gated, tmp_path):
    """Keys of both sides further apart than the last bucket, sources of three lengths."""
    fields = {'hidden': 'geglu_tanh', 'tie_head': False, 'scale_head': False} if gated else {}
    target = np.random.default_rng(1).integers(2, 13, (3, 7)).astype(np.int32)
    model = EncoderDecoder(**{**SMALL, **fields}, head_width=6, mlp_width=24, relative_buckets=8, relative_distance=6)
    call, theirs = both(hf, model, 'T5ForConditionalGeneration', tmp_path, TOKENS, target)
    expected = theirs(**tensors(input_ids=TOKENS, attention_mask=RIGHT, decoder_input_ids=target)).logits
    close(call(source_mask=RIGHT), expected)


@pytest.mark.parametrize('bidirectional', [True, False])
@pytest.mark.parametrize(('buckets', 'distance'), [(32, 128), (8, 20), (16, 64)])
def test_relative_buckets(hf, bidirectional, buckets, distance):
    from transformers.models.t5.modeling_t5 import T5Attention
    offsets = np.arange(-300, 301)
    expected = T5Attention._relative_position_bucket(*tensors(x=offsets).values(), bidirectional, buckets, distance)
    np.testing.assert_array_equal(bucket(offsets, buckets, distance, bidirectional), expected)
