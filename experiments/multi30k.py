"""Captions of photographs translated from English to German by a small Transformer.

Elliott, Frank, Sima'an & Specia, "Multi30K: Multilingual English-German Image Descriptions" (2016); the network is the
"Transformer-tiny" of Wu, Kong, Bi, Li & Kao, "Good for Misconceived Reasons" (2021): four layers on either side, 128 wide, four
heads, dropout 0.3, labels smoothed by 0.1, 8,000 steps of about 8,192 tokens a side at a rate that rises to 0.005 in 2,000
steps. Their score is of beams on byte pairs and tokenised text; here sacrebleu scores plain text, cased, of greedy decoding, so
that it is not compared. `cpu` is the same network in a quarter of the steps with batches of a quarter, whose sentences are cut
after 32 tokens in training: one in a hundred is longer. About 40 minutes on two CPU cores, and 10 BLEU, are expected of it.

    python -m experiments.multi30k --workdir=/tmp/multi30k --variant=full        on an accelerator
    python -m experiments.multi30k --workdir=/tmp/small --variant=cpu            on two CPU cores
    python -m experiments.multi30k predict --workdir=/tmp/small 'A dog runs.'
    python -m experiments.multi30k --workdir=/tmp/mine --config.data=jsonl:FILE     "source" and "target" in each line
"""
from bigjax import cli, models
from bigjax.data import tokenizers
from bigjax.data.datasets import open_data
from bigjax.data.loaders import translations
from bigjax.data.loaders.translations import LENGTH, TOKENS
from bigjax.errors import UserError
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.models import seq2seq
from bigjax.predict import interfaces
from bigjax.tasks import sequence

NETWORK = models.spec('seq2seq.EncoderDecoder', 'transformer_base', num_layers=4, num_heads=4, width=128, mlp_width=256,
                      dropout=0.3, scan=False)
ROWS = {  # row: minibatch, steps, warm-up, rate, tokens of a training sentence
    'full': (512, 8000, 2000, 5e-3, LENGTH), 'cpu': (128, 2000, 500, 2e-3, 32)}
HELP = {'longest': 'tokens of a sentence in training, after which it is cut',
        'tokenizer': 'of both languages: bpe:8000 (learned from the training texts, as without it), word, char, hf:FOLDER, …'}
PARAMETERS = dict.fromkeys(ROWS, 2_349_184)
TINY = {'model.width': '16', 'model.mlp_width': '24', 'model.num_layers': '2', 'model.dropout': '0.0'}


def get_config(variant=''):
    """`variant` is a row; 'cpu' by default."""
    config = base_config()
    config.batch_size, config.steps, warmup, rate, config.longest = choose('variant', variant or 'cpu', ROWS)
    config.model = NETWORK
    config.data = 'multi30k/en-de'
    config.tokenizer = ''
    config.log_every = 50
    config.eval_every = '25%'
    config.optimizer = dict(name='adam', lr=rate, b1=0.9, b2=0.98, eps=1e-9, schedule=dict(name='rsqrt', warmup=warmup))
    return config


def get_experiment(config):
    """A translator of captions."""
    splits = open_data(config.data, like='multi30k/en-de', data_dir=config.data_dir, tokenizer=config.tokenizer)
    vocabulary = splits.info.get('vocabulary') or TOKENS + 1
    model = models.make(config.model, vocab_size=vocabulary, dtype=config.dtype)
    tokenizer = tokenizers.of_splits(splits)
    return Experiment(
        model=model,
        task=sequence.teacher_forcing(start=model.bos, label_smoothing=0.1, source_vocab=vocabulary,
                                      decode=sequence.greedy(model, LENGTH)),
        data=Data(splits.train, splits.evals, augment=cut(config.longest), info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: judged(split, source) for split, source in splits.evals.items()},
        interface=interfaces.pairs(translations.Coding(tokenizer, LENGTH)) if tokenizer else None,
        tokenizer=tokenizer,
        partition_rules=seq2seq.PARTITION_RULES,
    )


def cut(longest: int):
    """Training rows of their first tokens alone: most of a row of 64 is padding, which costs as much as words.

    Raises:
      UserError: no token is left.
    """
    if longest < 1:
        raise UserError(f'config.longest: got {longest}, expected at least one token; fix: --config.longest={LENGTH}',
                        code='config/value')
    return lambda batch, rng: {**batch, **{side: batch[side][:, :longest] for side in ('source', 'target')}}


def judged(split: str, source) -> Evaluator:
    """The loss of a split, and at the end of the run the scores of the test's translations."""
    if split != 'test' or not hasattr(source, 'judge'):
        return Evaluator(split)
    return Evaluator(split, compute=source.judge, keep=(), every='100%')


if __name__ == '__main__':
    cli.main()
