"""BERT (Devlin et al. 2019), RoBERTa (Liu et al. 2019) and DistilBERT; MiniLM and AntiBERTy have the names of BERT."""
import dataclasses
from collections.abc import Mapping

from bigjax.weights.family import Architecture, Family, Field, Row

ACTIVATIONS = {'gelu': 'gelu', 'gelu_new': 'gelu_tanh', 'gelu_pytorch_tanh': 'gelu_tanh', 'relu': 'relu'}


def norm(ours: str, theirs: str) -> tuple[Row, ...]:
    """The two arrays of a layer norm."""
    return Row(f'{ours}/scale', f'{theirs}.weight'), Row(f'{ours}/bias', f'{theirs}.bias')


def dense(ours: str, theirs: str, optional: bool = False) -> tuple[Row, ...]:
    """The two arrays of a dense layer."""
    return (Row(f'{ours}/kernel', f'{theirs}.weight', 'transpose', optional),
            Row(f'{ours}/bias', f'{theirs}.bias', 'same', optional))


def words(ours: str, dense_name: str, norm_name: str, bias: str) -> tuple[Row, ...]:
    """The head of masked words, whose matrix is the token embedding."""
    return (*dense(f'{ours}/dense', dense_name), *norm(f'{ours}/norm', norm_name), Row(f'{ours}/bias', bias))


def classes(config: Mapping) -> int:
    """The number of classes of a config.json, which counts their names, or has the two that are the default."""
    return len(config.get('id2label') or ()) or int(config.get('num_labels') or 2)


def is_words(model) -> bool:
    """Whether a model has the head of masked words."""
    return model.mlm


def is_trunk(model) -> bool:
    """Whether a model has no head, but perhaps a pooled vector."""
    return not model.mlm and not model.num_classes


def is_texts(model) -> bool:
    """Whether a model classifies texts."""
    return bool(model.num_classes) and model.pool == 'cls'


def is_tokens(model) -> bool:
    """Whether a model classifies tokens."""
    return bool(model.num_classes) and model.pool == 'none'


def is_spans(model) -> bool:
    """Whether a model may be one of spans, which has the form of one that classifies tokens, and is written where asked for."""
    return is_tokens(model) and model.num_classes == 2


def write_config(model) -> dict:
    """The keys of heads, and 'pool', which is ours: their trunk always returns both forms."""
    names = {str(i): f'LABEL_{i}' for i in range(model.num_classes)}
    labels = {'id2label': names, 'label2id': {name: int(i) for i, name in names.items()}} if names else {}
    return {**labels, **({'pool': model.pool} if is_trunk(model) else {}), 'attention_probs_dropout_prob': model.dropout}


def architectures(name: str, prefix: str, mlm: tuple, texts: tuple, trunk: tuple = ()) -> dict[str, Architecture]:
    """The classes of a family, from the rows of its heads."""
    labels = {'num_classes': classes}
    head = dense('head', 'classifier')
    return {
        f'{name}ForMaskedLM': Architecture(prefix, {'mlm': True}, mlm, is_words),
        f'{name}Model': Architecture('', {'pool': lambda config: config.get('pool', 'none')}, trunk, is_trunk),
        f'{name}ForSequenceClassification': Architecture(prefix, {**labels, 'pool': 'cls'}, texts, is_texts),
        f'{name}ForTokenClassification': Architecture(prefix, labels, head, is_tokens),
        f'{name}ForQuestionAnswering': Architecture(prefix, {'num_classes': 2}, dense('head', 'qa_outputs'), is_spans),
    }


LAYER = 'encoder.layer.{i}'
ROWS = (
    Row('token_embed/embedding', 'embeddings.word_embeddings.weight'),
    Row('pos_embed/embedding', 'embeddings.position_embeddings.weight', cut=True),
    Row('type_embed/embedding', 'embeddings.token_type_embeddings.weight'), *norm('embed_norm', 'embeddings.LayerNorm'),
    *(row for part in ('query', 'key', 'value') for row in dense(f'block_{{i}}/attn/{part}', f'{LAYER}.attention.self.{part}')),
    *dense('block_{i}/attn/out', f'{LAYER}.attention.output.dense'),
    *norm('block_{i}/attn_norm', f'{LAYER}.attention.output.LayerNorm'),
    *dense('block_{i}/mlp/up', f'{LAYER}.intermediate.dense'), *dense('block_{i}/mlp/down', f'{LAYER}.output.dense'),
    *norm('block_{i}/mlp_norm', f'{LAYER}.output.LayerNorm'))
POOLER = dense('pooler', 'pooler.dense', optional=True)
FIELDS = (Field('vocab_size', 'vocab_size'), Field('hidden_size', 'width'), Field('num_hidden_layers', 'num_layers'),
          Field('num_attention_heads', 'num_heads'), Field('intermediate_size', 'mlp_width'),
          Field('hidden_act', 'hidden', 'gelu', ACTIVATIONS), Field('layer_norm_eps', 'epsilon', 1e-12),
          Field('type_vocab_size', 'type_vocab', 2), Field('hidden_dropout_prob', 'dropout', 0.1))
BERT = Family(
    model='bert.BERT', model_type='bert',
    architectures=architectures(
        'Bert', 'bert.', words('mlm', 'cls.predictions.transform.dense', 'cls.predictions.transform.LayerNorm',
                               'cls.predictions.bias'), dense('head', 'classifier')) | {
        name: Architecture('bert.', {'mlm': True}, (), lambda model: False) for name in ('BertForPreTraining', 'AntiBERTy')},
    fields=(*FIELDS, Field('max_position_embeddings', 'block_size', 512)),
    fixed={'position_embedding_type': ('absolute',), 'is_decoder': (False,), 'add_cross_attention': (False,)},
    write_config=write_config, rows=(*ROWS, *POOLER),
    tied={'cls.predictions.decoder.weight': 'embeddings.word_embeddings.weight',
          'cls.predictions.decoder.bias': 'cls.predictions.bias'},
    ignored=(r'embeddings\.position_ids',),
    spare=(r'cls\.(seq_relationship|species|chain|graft)\.(weight|bias)', r'(classifier|qa_outputs)\..*'),
    renamed=((r'LayerNorm\.gamma$', 'LayerNorm.weight'), (r'LayerNorm\.beta$', 'LayerNorm.bias')))
ROBERTA = dataclasses.replace(
    BERT, model_type='roberta',
    architectures=architectures(
        'Roberta', 'roberta.', words('mlm', 'lm_head.dense', 'lm_head.layer_norm', 'lm_head.bias'),
        (*dense('pooler', 'classifier.dense'), *dense('head', 'classifier.out_proj')), dense('pooler', 'pooler.dense')),
    fields=FIELDS, rows=ROWS,
    read_config=lambda config: {'first_position': config.get('pad_token_id', 1) + 1, 'block_size':
                                config.get('max_position_embeddings', 514) - config.get('pad_token_id', 1) - 1},
    write_config=lambda model: {**write_config(model), 'pad_token_id': model.first_position - 1,
                                'max_position_embeddings': model.block_size + model.first_position},
    tied={'lm_head.decoder.weight': 'embeddings.word_embeddings.weight', 'lm_head.decoder.bias': 'lm_head.bias'},
    ignored=(r'embeddings\.(position_ids|token_type_ids)',))
DISTIL_LAYER = 'transformer.layer.{i}'
DISTILBERT = Family(
    model='bert.BERT', model_type='distilbert',
    architectures=architectures(
        'DistilBert', 'distilbert.', words('mlm', 'vocab_transform', 'vocab_layer_norm', 'vocab_projector.bias'),
        (*dense('pooler', 'pre_classifier'), *dense('head', 'classifier'))),
    fields=(Field('vocab_size', 'vocab_size'), Field('max_position_embeddings', 'block_size', 512), Field('dim', 'width'),
            Field('n_layers', 'num_layers'), Field('n_heads', 'num_heads'), Field('hidden_dim', 'mlp_width'),
            Field('activation', 'hidden', 'gelu', ACTIVATIONS), Field('dropout', 'dropout', 0.1)),
    read_config=lambda config: {'type_vocab': 0, 'pooler': 'relu', 'epsilon': 1e-12},
    write_config=lambda model: {**write_config(model), 'attention_dropout': model.dropout, 'sinusoidal_pos_embds': False},
    rows=(*ROWS[:2], *norm('embed_norm', 'embeddings.LayerNorm'),
          *(row for part in ('query', 'key', 'value', 'out')
            for row in dense(f'block_{{i}}/attn/{part}', f'{DISTIL_LAYER}.attention.{part if part == "out" else part[0]}_lin')),
          *norm('block_{i}/attn_norm', f'{DISTIL_LAYER}.sa_layer_norm'), *dense('block_{i}/mlp/up', f'{DISTIL_LAYER}.ffn.lin1'),
          *dense('block_{i}/mlp/down', f'{DISTIL_LAYER}.ffn.lin2'),
          *norm('block_{i}/mlp_norm', f'{DISTIL_LAYER}.output_layer_norm')),
    tied={'vocab_projector.weight': 'embeddings.word_embeddings.weight'}, ignored=(r'embeddings\.position_ids',),
    spare=(r'(classifier|pre_classifier|qa_outputs)\..*',))
FAMILIES = {'bert': BERT, 'roberta': ROBERTA, 'distilbert': DISTILBERT}
