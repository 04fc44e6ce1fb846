"""Families of text models beside `transformers` with the same random weights: odd sizes, padding left and right, positions."""
import hugging_face as names
import jax
import numpy as np
import pytest
from model_helpers import contrasted

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
COMMON = {'vocab_size': 13, 'hidden_size': 16, 'intermediate_size': 24, 'num_hidden_layers': 2, 'num_attention_heads': 4,
          'num_key_value_heads': 2, 'max_position_embeddings': 16, 'rms_norm_eps': 1e-6, 'tie_word_embeddings': False,
          'pad_token_id': 0, 'attn_implementation': 'eager'}
PLAIN = {'rope_parameters': {'rope_type': 'default', 'rope_theta': 100.0}}
SCALED = {'rope_parameters': {'rope_type': 'llama3', 'rope_theta': 100.0, 'factor': 4.0, 'low_freq_factor': 1.0,
                              'high_freq_factor': 4.0, 'original_max_position_embeddings': 16}}
DECODERS = {  # name: (our fields, their class, their config)
    'llama3': ({**LLAMA, 'rope_scaling': 'llama3', 'rope_factor': 4.0, 'rope_window': 16}, 'Llama', SCALED),
    'mistral': ({**LLAMA, 'window': 3}, 'Mistral', {**PLAIN, 'sliding_window': 3}),
    'qwen2': ({**LLAMA, 'qkv_bias': True, 'tie_head': True}, 'Qwen2', {**PLAIN, 'tie_word_embeddings': True}),
    'qwen3': ({**LLAMA, 'qk_norm': True, 'head_width': 6}, 'Qwen3', {**PLAIN, 'head_dim': 6}),
}
BERT_HEAD = names.bert_head('cls.predictions.', 'transform.dense', 'transform.LayerNorm')
ROBERTA = {'type_vocab': 1, 'first_position': 2, 'epsilon': 1e-5}
DISTIL = {'type_vocab': 0, 'pooler': 'relu'}
CLASSIFIER = ('head', 'classifier')
ENCODERS = [  # (our fields, their class, what it returns, rows of names)
    ({}, 'BertModel', 'last_hidden_state', names.bert('')), ({'pool': 'cls'}, 'BertModel', 'pooler_output', names.bert('')),
    ({'mlm': True}, 'BertForMaskedLM', 'logits', (*names.bert('bert.'), *BERT_HEAD)),
    ({'num_classes': 3}, 'BertForTokenClassification', 'logits', (*names.bert('bert.'), CLASSIFIER)),
    ({'num_classes': 3, 'pool': 'cls'}, 'BertForSequenceClassification', 'logits', (*names.bert('bert.'), CLASSIFIER)),
    (ROBERTA, 'RobertaModel', 'last_hidden_state', names.bert('')),
    ({**ROBERTA, 'mlm': True}, 'RobertaForMaskedLM', 'logits', (*names.bert('roberta.'), *names.bert_head('lm_head.'))),
    ({**ROBERTA, 'num_classes': 3, 'pool': 'cls'}, 'RobertaForSequenceClassification', 'logits',
     (('pooler', 'classifier.dense'), ('head', 'classifier.out_proj'), *names.bert('roberta.'))),
    ({**DISTIL, 'mlm': True}, 'DistilBertForMaskedLM', 'logits',
     (*names.DISTILBERT, *names.bert_head('vocab', '_transform', '_layer_norm', '_projector.bias'))),
    ({**DISTIL, 'num_classes': 3, 'pool': 'cls'}, 'DistilBertForSequenceClassification', 'logits',
     (*names.DISTILBERT, CLASSIFIER)),
]


@pytest.fixture(scope='module')
def hf():
    """The library and torch, without gradients."""
    torch = pytest.importorskip('torch', reason='torch is the reference')
    library = pytest.importorskip('transformers', reason='transformers is the reference')
    with torch.no_grad():
        yield library


def ours(model, *inputs):
    """(parameters, the jitted call)."""
    variables = contrasted(model, *(inputs or (TOKENS,)))
    return variables['params'], lambda **given: jax.jit(model.apply)(variables, *(inputs or (TOKENS,)), **given)


def close(found, expected, where=None):
    found, expected = np.asarray(found), expected.detach().numpy()
    found, expected = (found, expected) if where is None else (found[where], expected[where])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def tensors(**arrays):
    import torch
    return {name: torch.tensor(np.asarray(a)).long() for name, a in arrays.items()}


def decoder(library, name):
    """(the call of ours, the call of theirs) with the same weights."""
    if name == 'gpt2':
        model = GPT(**SMALL, bias=True)
        params, call = ours(model)
        config = library.GPT2Config(vocab_size=13, n_positions=16, n_embd=16, n_layer=2, n_head=4, attn_implementation='eager')
        return call, names.load(library.GPT2LMHeadModel(config), params, names.GPT2, transposed=False)
    fields, family, config = DECODERS[name]
    params, call = ours(GPT(**fields))
    config = getattr(library, f'{family}Config')(**{**COMMON, **config})
    return call, names.load(getattr(library, f'{family}ForCausalLM')(config), params, names.LLAMA)


@pytest.mark.parametrize('name', ['gpt2', *DECODERS])
def test_decoders(hf, name):
    call, theirs = decoder(hf, name)
    close(call(), theirs(**tensors(input_ids=TOKENS)).logits)
    close(call(mask=RIGHT), theirs(**tensors(input_ids=TOKENS, attention_mask=RIGHT)).logits, RIGHT)
    positions = np.maximum(LEFT.cumsum(1) - 1, 0)
    expected = theirs(**tensors(input_ids=TOKENS, attention_mask=LEFT, position_ids=positions)).logits
    close(call(mask=LEFT), expected, LEFT)
    close(call(positions=positions + 3), theirs(**tensors(input_ids=TOKENS, position_ids=positions + 3)).logits)


def encoder_config(library, theirs, first_position):
    """Their configuration of the small encoder."""
    family = theirs.partition('For')[0].removesuffix('Model')
    if family == 'DistilBert':
        return library.DistilBertConfig(vocab_size=13, dim=16, hidden_dim=24, n_layers=2, n_heads=4, max_position_embeddings=16,
                                        pad_token_id=0, num_labels=3, attn_implementation='eager')
    return getattr(library, f'{family}Config')(**{
        **COMMON, 'max_position_embeddings': 16 + first_position, 'pad_token_id': 1 if first_position else 0, 'num_labels': 3,
        'type_vocab_size': 1 if first_position else 2, 'layer_norm_eps': 1e-5 if first_position else 1e-12,
        'tie_word_embeddings': True})


@pytest.mark.parametrize(('fields', 'theirs', 'output', 'rows'), ENCODERS, ids=[f'{case[1]}-{case[2]}' for case in ENCODERS])
def test_encoders(hf, fields, theirs, output, rows):
    model = BERT(**{**SMALL, **fields}, mlp_width=24)
    params, call = ours(model)
    config = encoder_config(hf, theirs, model.first_position)
    other = names.load(getattr(hf, theirs)(config), params, rows, partial=theirs.endswith('Model'))
    pairs = {'types': np.arange(9) % 4 // 2 * np.ones((3, 1), int)} if model.type_vocab == 2 else {}
    for mask in (RIGHT, LEFT):
        if mask is LEFT and model.pool == 'cls':
            continue  # the first token is padding
        given = {'input_ids': np.where(mask, TOKENS, config.pad_token_id), 'attention_mask': mask}
        expected = other(**tensors(**given, **({'token_type_ids': pairs['types']} if pairs else {})))
        close(call(mask=mask, **pairs), expected[output], None if model.pool == 'cls' else mask)


@pytest.mark.parametrize('gated', [False, True], ids=['t5', 't5_v11'])
def test_t5(hf, gated):
    """Keys of both sides further apart than the last bucket, sources of three lengths."""
    fields = {'hidden': 'geglu_tanh', 'tie_head': False, 'scale_head': False} if gated else {}
    target = np.random.default_rng(1).integers(2, 13, (3, 7)).astype(np.int32)
    model = EncoderDecoder(**{**SMALL, **fields}, head_width=6, mlp_width=24, relative_buckets=8, relative_distance=6)
    params, call = ours(model, TOKENS, target)
    config = hf.T5Config(vocab_size=13, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_heads=4, pad_token_id=0,
                         relative_attention_num_buckets=8, relative_attention_max_distance=6, tie_word_embeddings=not gated,
                         feed_forward_proj='gated-gelu' if gated else 'relu', decoder_start_token_id=0)
    theirs = hf.T5ForConditionalGeneration(config)
    if gated:  # version 5 ties the head whatever the configuration holds
        theirs.lm_head.weight = type(theirs.lm_head.weight)(theirs.lm_head.weight.detach().clone())
    theirs = names.load(theirs, params, (*names.t5(), *names.t5_up(gated)))
    expected = theirs(**tensors(input_ids=TOKENS, attention_mask=RIGHT, decoder_input_ids=target)).logits
    close(call(source_mask=RIGHT), expected)


@pytest.mark.parametrize('bidirectional', [True, False])
@pytest.mark.parametrize(('buckets', 'distance'), [(32, 128), (8, 20), (16, 64)])
def test_relative_buckets(hf, bidirectional, buckets, distance):
    from transformers.models.t5.modeling_t5 import T5Attention
    offsets = np.arange(-300, 301)
    expected = T5Attention._relative_position_bucket(*tensors(x=offsets).values(), bidirectional, buckets, distance)
    np.testing.assert_array_equal(bucket(offsets, buckets, distance, bidirectional), expected)
