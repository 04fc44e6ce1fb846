"""BERT fine-tuned on SQuAD: where in a paragraph is the answer to a question.

Devlin, Chang, Lee & Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (2019),
sections 4.2 and 4.3, with the settings of the authors' code: windows of 384 tokens, batches of 12 (24 for the larger network),
two epochs, Adam with a decay of 0.01 and a rate of 3e-5, which rises over a tenth of the steps and falls to zero, dropout
0.1; answers of at most 30 tokens. The published F1 on the development set of version 1.1 is 88.5 for the smaller network; for
the larger one the authors' README states a run of 90.9. The best span of all windows of a paragraph is the answer, and is
compared as text. In version 2 a question may have no answer. A table of your own has the columns question, context and answers.

    python -m experiments.squad --workdir=/tmp/squad --init_from=hf:/path/to/bert --config.tokenizer=hf:/path/to/bert
    python -m experiments.squad --workdir=/tmp/mine --config.data=jsonl:FILE --init_from=hf:BERT --config.tokenizer=hf:BERT
    python -m experiments.squad predict --workdir=/tmp/mine 'Who won?' 'When?' @document.txt
    python -m experiments.squad plan --variant=v1,large --topology=v5e-8 --config.data=fake
"""
import jax.numpy as jnp

from bigjax import cli, models
from bigjax.data import padding, tokenizers
from bigjax.data.datasets import open_data
from bigjax.data.loaders import questions, texts
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.models import bert
from bigjax.predict import interfaces
from bigjax.tasks import spans

SIZES = {  # fields, minibatch, published F1 on version 1.1
    'base': ('bert_base', 12, (88.5, 'Devlin et al. 2019, table 2')),
    'large': ('bert_large', 24, (90.9, 'google-research/bert, README, one run')),
}
ROWS = {'v1': ('v1', 'base'), 'v1,large': ('v1', 'large'), 'v2': ('v2', 'base'), 'v2,large': ('v2', 'large')}
HELP = {'tokenizer': 'of the pretrained network: hf:FOLDER; or wordpiece:8000, learned from the paragraphs',
        'length': 'tokens of a window', 'stride': 'tokens between the beginnings of two windows of a paragraph'}
PARAMETERS = {'v1': 108_893_186, 'v1,large': 334_094_338}  # without the pooler, which only reads the first token
TINY = {'model.width': '16', 'model.num_layers': '2', 'model.num_heads': '4', 'model.dropout': '0.0', 'dtype': 'float32'}
LONGEST = 30  # tokens of an answer


def get_config(variant=''):
    """`variant` is a version, and 'large' after a comma for the larger network; 'v1' by default."""
    config = base_config()
    version, size = choose('variant', variant or 'v1', ROWS)
    fields, minibatch, (value, source) = SIZES[size]
    if version == 'v1':
        config.published = {'val/f1': dict(value=value, tolerance=0.5, source=source, better='higher')}
    config.model = models.spec('bert', fields, dropout=0.1, scan=False, remat='none')
    config.data = f'squad/{version}'
    config.tokenizer = ''
    config.length, config.stride = texts.SQUAD_LENGTH, questions.STRIDE
    config.batch_size = minibatch
    config.steps = '2 epochs'
    config.dtype = 'bfloat16'
    config.log_every = 50
    config.eval_every = '50%'
    config.optimizer = dict(name='adamw', lr=3e-5, weight_decay=0.01, wd_mask='kernels', clip_norm=1.0,
                            schedule=dict(name='linear', warmup='10%', end=0.0))
    return config


def get_experiment(config):
    """The begin and the end of an answer among the tokens of a window."""
    splits = open_data(config.data, like='squad/v1', data_dir=config.data_dir, fake_records=64, tokenizer=config.tokenizer,
                       length=config.length, stride=config.stride)
    vocabulary, tokenizer = splits.info.get('vocabulary') or texts.BERT, tokenizers.of_splits(splits)
    return Experiment(
        model=models.make(config.model, vocab_size=vocabulary, num_classes=2, dtype=config.dtype),
        task=spans.span(longest=LONGEST),
        data=Data(splits.train, splits.evals, preprocess=with_context, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, compute=getattr(source, 'judge', None), keep=())
                    for split, source in splits.evals.items()},
        expected=published(config),
        interface=interfaces.questions(tokenizer, splits.info) if tokenizer else None,
        tokenizer=tokenizer,
        partition_rules=bert.PARTITION_RULES,
    )


def with_context(batch):
    """The batch with its mask and its context, where an answer may lie: the second sentence of the pair, without [SEP]."""
    batch = padding.masked()(batch)
    before_sep = jnp.arange(batch['tokens'].shape[1]) < batch['mask'].sum(axis=1, keepdims=True) - 1
    return {**batch, 'context': before_sep & (batch['types'] == 1)}


if __name__ == '__main__':
    cli.main()
