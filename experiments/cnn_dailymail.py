"""T5 fine-tuned on CNN / Daily Mail: summaries of news.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (2020), sections 2.4 and
3.1.2: the article after "summarize: ", cut to 512 tokens, its highlights as the target, 262,144 steps of Adafactor at 1e-3 in
batches of 128, dropout 0.1. Nothing published is compared: here a run is judged by loss and accuracy per token. A table of your
own has the columns text and summary.

    python -m experiments.cnn_dailymail --workdir=/tmp/news --variant=small --init_from=hf:/path/to/t5-small
    python -m experiments.cnn_dailymail --workdir=/tmp/mine --config.data=jsonl:FILE --init_from=hf:T5 --config.tokenizer=hf:T5
    python -m experiments.cnn_dailymail predict --workdir=/tmp/mine @document.txt
    python -m experiments.cnn_dailymail plan --variant=base --topology=v5e-8 --config.data=fake
"""
from bigjax import cli, models
from bigjax.data import tokenizers
from bigjax.data.datasets import open_data
from bigjax.data.loaders import texts
from bigjax.data.loaders.translations import Coding
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.models import seq2seq
from bigjax.predict import interfaces
from bigjax.tasks import sequence

ROWS = {'small': 't5_small', 'base': 't5_base'}  # size: its fields
HELP = {'tokenizer': 'of texts of your own: that of the pretrained network (hf:FOLDER, sp:FILE), or bpe:8000, learned'}
PARAMETERS = {'small': 60_506_624, 'base': 222_903_552}
TINY = {'model.width': '16', 'model.mlp_width': '24', 'model.num_layers': '2', 'model.num_heads': '4', 'model.dropout': '0.0',
        'dtype': 'float32'}
PAD = 0  # the number of <pad>, with which a target begins in T5


def get_config(variant=''):
    """`variant` is a size; 'small' by default."""
    config = base_config()
    fields = choose('variant', variant or 'small', ROWS)
    config.model = models.spec('seq2seq.EncoderDecoder', fields, dropout=0.1, scan=False, remat='none')
    config.data = 'cnn_dailymail'
    config.tokenizer = ''
    config.batch_size = 128
    config.dtype = 'bfloat16'
    config.steps = 262_144
    config.log_every = 50
    config.eval_every = 5000
    config.checkpoint_every = 5000
    config.optimizer = dict(name='adafactor', lr=1e-3)
    return config


def get_experiment(config):
    """A writer of summaries."""
    splits = open_data(config.data, like='cnn_dailymail', data_dir=config.data_dir, fake_records=64, tokenizer=config.tokenizer)
    vocabulary = splits.info.get('vocabulary') or texts.T5
    model = models.make(config.model, vocab_size=vocabulary, dtype=config.dtype)
    tokenizer, (longest, summary) = tokenizers.of_splits(splits), texts.SUMMARY
    return Experiment(
        model=model,
        task=sequence.teacher_forcing(pad=PAD, start=PAD, source_vocab=vocabulary, decode=sequence.greedy(model, summary)),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        interface=interfaces.pairs(Coding(tokenizer, longest, prefix=texts.SUMMARIZE), True) if tokenizer else None,
        tokenizer=tokenizer,
        partition_rules=seq2seq.PARTITION_RULES,
    )


if __name__ == '__main__':
    cli.main()
