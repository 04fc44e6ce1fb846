"""The Transformer on WMT 2014, English to German and to French.

Vaswani, Shazeer, Parmar, Uszkoreit, Jones, Gomez, Kaiser & Polosukhin, "Attention Is All You Need" (2017), tables 2 and 3: BLEU
of 27.3 (base) and 28.4 (big) on newstest2014 for German, 38.1 and 41.8 for French, by beams of four on averaged weights. Six
layers on either side, one embedding for both languages and the output, post norm, sinusoidal positions; batches of about
25,000 tokens a side, 100,000 steps (300,000 for big) of Adam (0.9, 0.98, 1e-9) with a rate that rises for 4,000 steps and
falls with the root of the step, dropout 0.1 (0.3 for big German), labels smoothed by 0.1. Here sentences are rows of 128
tokens, and 900 pairs of the usual length have those tokens; the last weights are judged by their loss and accuracy per token.

    python -m experiments.wmt14 --workdir=/tmp/wmt --variant=base --config.mesh=data:8
    python -m experiments.wmt14 --workdir=/tmp/mine --config.data=jsonl:FILE     "source" and "target" in each line
    python -m experiments.wmt14 plan --variant=big --topology=v5e-8 --config.data=fake
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

ROWS = {  # row: pair, fields, dropout, steps
    'base': ('en-de', 'transformer_base', 0.1, 100_000), 'big': ('en-de', 'transformer_big', 0.3, 300_000),
    'base,en-fr': ('en-fr', 'transformer_base', 0.1, 100_000), 'big,en-fr': ('en-fr', 'transformer_big', 0.1, 300_000)}
HELP = {'tokenizer': 'of texts of your own: bpe:8000 (learned from them, as without it), word, char, hf:FOLDER, …'}
PARAMETERS = {'base': 63_082_496, 'big': 214_245_376}
TINY = {'model.width': '16', 'model.mlp_width': '24', 'model.num_layers': '2', 'model.num_heads': '4', 'model.dropout': '0.0',
        'dtype': 'float32'}
WARMUP = 4000  # steps
LENGTH = 128  # tokens of a row


def get_config(variant=''):
    """`variant` is a size, and 'en-fr' after a comma for French; 'base' by default."""
    config = base_config()
    pair, fields, dropout, steps = choose('variant', variant or 'base', ROWS)
    config.model = models.spec('seq2seq.EncoderDecoder', fields, dropout=dropout, bos=1, eos=2, scan=False, remat='none')
    config.data = f'wmt14/{pair}'
    config.tokenizer = ''
    config.batch_size = 900
    config.dtype = 'bfloat16'
    config.steps = steps
    config.log_every = 50
    config.eval_every = 5000
    config.checkpoint_every = 1000
    config.optimizer = dict(name='adam', lr=(config.model.width * WARMUP) ** -0.5, b1=0.9, b2=0.98, eps=1e-9,
                            schedule=dict(name='rsqrt', warmup=WARMUP))
    return config


def get_experiment(config):
    """A translator of sentences in byte pairs."""
    splits = open_data(config.data, like='wmt14/en-de', data_dir=config.data_dir, fake_records=64, tokenizer=config.tokenizer)
    vocabulary = splits.info.get('vocabulary') or texts.WMT
    model = models.make(config.model, vocab_size=vocabulary, dtype=config.dtype)
    tokenizer = tokenizers.of_splits(splits)
    return Experiment(
        model=model,
        task=sequence.teacher_forcing(label_smoothing=0.1, source_vocab=vocabulary, decode=sequence.greedy(model, LENGTH)),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        interface=interfaces.pairs(Coding(tokenizer, LENGTH, model.eos, model.bos)) if tokenizer else None,
        tokenizer=tokenizer,
        partition_rules=seq2seq.PARTITION_RULES,
    )


if __name__ == '__main__':
    cli.main()
