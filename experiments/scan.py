"""SCAN: commands to actions, and where networks stop understanding them.

Lake & Baroni, "Generalization without Systematicity" (ICML 2018), train 180 recurrent networks on commands such as "jump twice
and walk left". Of held-out commands, the best network of each experiment gets 99.8 % right where they are chosen at random
(experiment 1), 20.8 % where all that need more than 22 actions are held out (experiment 2), and 1.2 % where "jump" is seen
alone in training and composed in the test (experiment 3).

`SPLIT,lstm` is the network that does best over all of them: an LSTM encoder and decoder of two layers of 200 without attention,
dropout 0.5, Adam at 1e-3, gradients clipped to a norm of 5. Its numbers are 13.8 and 0.08 % in experiments 2 and 3; without
dropout it is the best of experiment 1. In the rows without a network's name its decoder attends to the encoder's outputs, and
`SPLIT,transformer` is an encoder-decoder of three layers on either side with norms before each part, for which nothing
published is compared. Theirs sees 100,000 examples one by one and half of the time its own output; here batches have 64
examples, and the input is always the right output so far. Evaluation decodes greedily and compares whole sequences.

    python -m experiments.scan --workdir=/tmp/scan                                     the table
    python -m experiments.scan --workdir=/tmp/jump --variant=addprim_jump,transformer  one row: SPLIT or SPLIT,NETWORK
    python -m experiments.scan predict --workdir=/tmp/jump 'jump twice'
"""
import numpy as np

from bigjax import cli, models
from bigjax.data.datasets import open_data
from bigjax.errors import UserError
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.metrics import sequence as metrics
from bigjax.models import seq2seq
from bigjax.predict import interfaces
from bigjax.tasks import sequence

SPLITS = ('simple', 'length', 'addprim_jump')
NETWORKS = {  # network: (model, steps)
    'attention': (models.spec('seq2seq', 'scan_attention'), 2000),
    'lstm': (models.spec('seq2seq', 'scan'), 5000),
    'transformer': (models.spec('seq2seq.EncoderDecoder', 'transformer_base', num_layers=3, num_heads=8, width=128,
                                mlp_width=256, post_norm=False, block_size=64, bos=1, eos=2, tie_head=False, scan=False), 2000),
}
ADAM = dict(name='adam', lr=1e-3, clip_norm=5.0)
PUBLISHED = {  # row: (exact match, tolerance, where, which direction is a match)
    'simple': (0.998, 0.008, 'experiment 1, the best network', 'higher'),
    'length': (0.208, 0.08, 'experiment 2, the best network', None),
    'addprim_jump': (0.012, 0.05, 'experiment 3, the best network', None),
    'simple,lstm': (0.998, 0.008, 'experiment 1, the best network', 'higher'),
    'length,lstm': (0.138, 0.07, 'experiment 2, the best network over all', None),
    'addprim_jump,lstm': (0.0008, 0.01, 'experiment 3, the best network over all', None),
}
ROWS = {f'{split},{network}'.removesuffix(',attention'): (split, network) for network in NETWORKS for split in SPLITS}
TABLE = tuple(ROWS)
COUNTS = {'attention': 1_413_409, 'lstm': 1_293_209, 'transformer': 998_400}
PARAMETERS = {row: COUNTS[network] for row, (_, network) in ROWS.items()}
TINY = {'model.features': '8', 'model.layers': '1', 'model.max_length': '6', 'model.dropout': '0.0', 'model.width': '16',
        'model.mlp_width': '24', 'model.num_layers': '2', 'model.num_heads': '4'}


def get_config(variant=''):
    """`variant` is a split, or a split and a network; 'simple' by default."""
    config = base_config()
    row = variant or 'simple'
    split, network = choose('variant', row, ROWS)
    if row in PUBLISHED:
        value, tolerance, where, better = PUBLISHED[row]
        config.published = {'test/exact_match': dict(value=value, tolerance=tolerance, source=f'Lake & Baroni 2018, {where}',
                                                     better=better)}
    config.model, config.steps = NETWORKS[network]
    if split == 'simple' and network != 'transformer':
        config.model = dict(config.model, dropout=0.0)
    config.data = f'scan/{split}'
    config.batch_size = 64
    config.eval_batch_size = 512
    config.log_every = 50
    config.eval_every = '25%'
    config.optimizer = dict(ADAM, schedule=dict(name='cosine', warmup='5%')) if network == 'transformer' else ADAM
    return config


def get_experiment(config):
    """A translator of commands."""
    splits = open_data(config.data, like='scan/simple', data_dir=config.data_dir)
    words = splits.info.get('vocabularies')
    if words is None:
        raise UserError(f'config.data={config.data}: got numbers of words that are not known, expected a split of SCAN; fix: '
                        '--config.data=scan/simple, or another split', code='data/no-vocabulary')
    sizes = {side: len(words[side]) for side in ('source', 'target')}
    is_transformer = config.model.name == 'seq2seq.EncoderDecoder'
    if is_transformer:  # one embedding; its numbers are words in the encoder and actions in the decoder
        model = models.make(config.model, vocab_size=max(sizes.values()), dtype=config.dtype)
        decode = sequence.greedy(model, splits.train.spec['target'].shape[0] - 1, sizes['target'])
    else:
        model, decode = models.make(config.model, **{f'{side}_vocab': n for side, n in sizes.items()}, dtype=config.dtype), None
    return Experiment(
        model=model,
        task=sequence.teacher_forcing(source_vocab=sizes['source'], decode=decode),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer=config.optimizer,
        evaluators={'test': Evaluator('test', compute=lambda outputs, examples: judge(outputs, examples, words),
                                      keep=('source', 'target'))},
        expected=published(config),
        interface=interfaces.translation(words, splits.train.spec['source'].shape[0]),
        partition_rules=seq2seq.PARTITION_RULES if is_transformer else (),
    )


def judge(outputs, examples, words, shown: int = 12) -> dict:
    """Exact match over the split, and some mistakes for the report."""
    def text(side, tokens):
        return ' '.join(words[side][t] for t in tokens if words[side][t][0] != '<')

    pairs = zip(outputs, examples['target'], strict=True)
    wrong = np.flatnonzero([text('target', a) != text('target', b) for a, b in pairs])
    lines = [f"{text('source', examples['source'][i])}\n  is     {text('target', examples['target'][i])}\n"
             f"  given  {text('target', outputs[i])}" for i in wrong[:: max(1, len(wrong) // shown)][:shown]]
    return {**metrics.exact_match(outputs, examples), 'mistakes': '\n\n'.join(lines) or 'none'}


if __name__ == '__main__':
    cli.main()
