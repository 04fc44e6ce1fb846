"""BERT fine-tuned on GLUE.

Devlin, Chang, Lee & Toutanova, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (2019),
section 4.1 and appendix A.3: batches of 32, three epochs, Adam with a decay of 0.01 and a rate of 5e-5 to 2e-5, which rises
over a tenth of the steps and falls to zero, dropout 0.1; the vector of [CLS] goes into one new layer. MNLI is judged on its
matched part, CoLA by Matthews' correlation, MRPC and QQP by F1 as well, STS-B by rank correlation. Their table is that of the
test server, whose labels are not public, so that nothing published is compared.

    python -m experiments.bert_glue --workdir=/tmp/sst2 --variant=sst2 --init_from=hf:/path/to/bert-base-uncased
    python -m experiments.bert_glue plan --variant=mnli,large --topology=v5e-8 --config.data=fake
"""
from bigjax import cli, models
from bigjax.data import padding
from bigjax.data.datasets import open_data
from bigjax.data.loaders.texts import GLUE
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose
from bigjax.metrics import glue
from bigjax.models import bert
from bigjax.tasks import classification, regression

JUDGED = {'cola': glue.matthews, 'mrpc': glue.f1, 'qqp': glue.f1, 'stsb': glue.correlations}  # beside accuracy
SIZES = {'base': ('bert_base', 3e-5, 109_482_240), 'large': ('bert_large', 2e-5, 335_141_888)}  # fields, rate, parameters
ROWS = {(task if size == 'base' else f'{task},{size}'): (task, size) for task in GLUE for size in SIZES}
PARAMETERS = {row: SIZES[size][2] + len(GLUE[task][2] or [0]) * (769 if size == 'base' else 1025)
              for row, (task, size) in ROWS.items() if row in ('sst2', 'sst2,large', 'mnli', 'stsb')}
HELP = {'like': 'the task whose examples --config.data=fake imitates, and whose metric is computed'}
TINY = {'model.width': '16', 'model.num_layers': '2', 'model.num_heads': '4', 'model.dropout': '0.0', 'dtype': 'float32'}


def get_config(variant=''):
    """`variant` is a task, and 'large' after a comma for the larger network; 'sst2' by default."""
    config = base_config()
    task, size = choose('variant', variant or 'sst2', ROWS)
    fields, rate, _ = SIZES[size]
    config.model = models.spec('bert', fields, pool='cls', dropout=0.1, scan=False, remat='none')
    config.data = config.like = f'glue/{task}'
    config.batch_size = 32
    config.steps = '3 epochs'
    config.dtype = 'bfloat16'
    config.log_every = 20
    config.eval_every = '1 epoch'
    config.optimizer = dict(name='adamw', lr=rate, weight_decay=0.01, wd_mask='kernels', clip_norm=1.0,
                            schedule=dict(name='linear', warmup='10%', end=0.0))
    return config


def get_experiment(config):
    """A classifier of sentences and pairs, or a regression of how similar two are."""
    splits = open_data(config.data, like=config.like, data_dir=config.data_dir)
    classes = splits.info.get('classes', ())
    judge, answer = JUDGED.get(config.like.rpartition('/')[2]), 'label' if classes else 'target'
    return Experiment(
        model=models.make(config.model, num_classes=len(classes) or 1, dtype=config.dtype),
        task=classification.softmax('tokens') if classes else regression.squared_error('tokens'),
        data=Data(splits.train, splits.evals, preprocess=padding.masked(), info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split, compute=judge, keep=(answer,)) for split in splits.evals},
        partition_rules=bert.PARTITION_RULES,
    )


if __name__ == '__main__':
    cli.main()
