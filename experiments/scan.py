"""SCAN: commands to actions, and where recurrent networks stop understanding them.

Lake & Baroni, "Generalization without Systematicity" (ICML 2018): exact match on held-out commands is 99.8 % on a
random split (experiment 1), 13.8 % where longer actions are held out (experiment 2; 20.8 % by their best for it, a GRU
with attention) and 1.2 % where the command "jump" was only seen alone (experiment 3; 0.08 % by the network below).

The network is their best over all experiments: an LSTM encoder and decoder of two layers of 200, dropout 0.5, Adam at
1e-3, gradients clipped to a norm of 5; `--config.model.attention=False` is theirs exactly, here the decoder attends.
The row `simple` has no dropout, which its few steps do not need. Theirs sees 100,000 examples one by one and half of
the time its own output; here it sees 128,000 in batches of 64, always with the right output so far. Evaluation decodes
greedily and compares whole sequences.

    python -m experiments.scan --workdir=/tmp/scan                         the table
    python -m experiments.scan --workdir=/tmp/simple --variant=simple      one row
"""
import numpy as np

from bigjax import cli, models
from bigjax.data.datasets import open_data
from bigjax.errors import UserError
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, published
from bigjax.metrics import sequence as metrics
from bigjax.predict import interfaces
from bigjax.tasks import sequence

ROWS = {  # row: (published exact match, tolerance, where, which direction is a match)
    'simple': (0.998, 0.008, 'experiment 1, the best network', 'higher'),
    'length': (0.138, 0.07, 'experiment 2, the best network over all', None),
    'addprim_jump': (0.012, 0.05, 'experiment 3, the best network', None),
}
TABLE = tuple(ROWS)
PARAMETERS = dict.fromkeys(ROWS, 1_413_409)
TINY = {'model.features': '8', 'model.layers': '1', 'model.max_length': '6', 'model.dropout': '0.0'}


def get_config(variant=''):
    """`variant` is a split; 'simple' by default."""
    config = base_config()
    split = variant or 'simple'
    value, tolerance, where, better = choose('variant', split, ROWS)
    config.published = {'test/exact_match': dict(value=value, tolerance=tolerance, source=f'Lake & Baroni 2018, {where}',
                                                 better=better)}
    config.model = models.spec('seq2seq', 'scan_attention', **({'dropout': 0.0} if split == 'simple' else {}))
    config.data = f'scan/{split}'
    config.batch_size = 64
    config.eval_batch_size = 512
    config.steps = 2000
    config.log_every = 50
    config.eval_every = '25%'
    config.optimizer = dict(name='adam', lr=1e-3, clip_norm=5.0)
    return config


def get_experiment(config):
    """An encoder and a decoder."""
    splits = open_data(config.data, like='scan/simple', data_dir=config.data_dir)
    words = splits.info.get('vocabularies')
    if words is None:
        raise UserError(f'config.data={config.data}: got numbers of words that are not known, expected a split of SCAN; fix: '
                        '--config.data=scan/simple, or another split', code='data/no-vocabulary')
    vocabularies = {f'{side}_vocab': len(words[side]) for side in ('source', 'target')}
    return Experiment(
        model=models.make(config.model, **vocabularies, dtype=config.dtype),
        task=sequence.teacher_forcing(),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer=config.optimizer,
        evaluators={'test': Evaluator('test', compute=lambda outputs, examples: judge(outputs, examples, words),
                                      keep=('source', 'target'))},
        expected=published(config),
        interface=interfaces.translation(words, splits.train.spec['source'].shape[0]),
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
