"""UCI tables: Monte-Carlo dropout on the 20 published splits, and classifiers beside scikit-learn's.

Gal & Ghahramani, "Dropout as a Bayesian Approximation" (ICML 2016), table 1: test RMSE and predictive log-likelihood of
one hidden layer of 50 ReLU. The numbers to meet are those of the authors' corrected code of 2018
(yaringal/DropoutUncertaintyExps, results/log_100_xepochs_1_hidden_layers.txt; the column "new" of its readme): Adam,
batches of 128, 100 x 40 epochs, 10,000 passes. That code searches the dropout rate and the precision tau again in every
split; here each set has one pair, the one with the highest published validation log-likelihood, on average over the
splits. The 20 splits are 20 members trained at once; the paper's "±" is the standard error, std / sqrt(20).

    python -m experiments.uci --workdir=/tmp/uci                              the table
    python -m experiments.uci --workdir=/tmp/e --variant=energy,dropout       SET,MODEL

SET is bostonHousing, concrete, energy, wine-quality-red or yacht, with MODEL dropout, mlp (the same without dropout) or
linear; or breast_cancer, with MODEL mlp or logistic.
"""
import dataclasses
import math
from functools import partial

import numpy as np

from bigjax import cli, models
from bigjax.data.datasets import open_data, standardize
from bigjax.data.sources import derived
from bigjax.errors import UserError
from bigjax.experiment import Data, Evaluator, Experiment, base_config, choose, choose_pair, published
from bigjax.metrics import regression as metrics
from bigjax.models import timeseries
from bigjax.predict import interfaces
from bigjax.tasks import classification, regression

# Set: dropout rate, tau, and over the 20 splits the mean and deviation of the RMSE and of the log-likelihood.
PUBLISHED = {
    'bostonHousing': (0.05, 0.2, (2.9036, 0.7909), (-2.4019, 0.1865)),
    'concrete': (0.005, 0.05, (4.8265, 0.7179), (-2.9367, 0.1110)),
    'energy': (0.005, 0.75, (0.5389, 0.0605), (-1.2115, 0.0238)),
    'wine-quality-red': (0.1, 3.0, (0.6218, 0.0357), (-0.9281, 0.0570)),
    'yacht': (0.005, 0.75, (0.6663, 0.2174), (-1.2501, 0.0684)),
}
SPLITS = 20
EXACT = {  # test RMSE of least squares in closed form (numpy.linalg.lstsq with an intercept), mean of the 20 splits
    'bostonHousing': 4.58797, 'concrete': 10.31426, 'energy': 3.05598, 'wine-quality-red': 0.65444, 'yacht': 8.96946,
}
SKLEARN = {  # test accuracy of scikit-learn 1.9.1's own estimators on the same 20 splits: mean, deviation
    'logistic': ('LogisticRegression()', 0.97611, 0.01725),
    'mlp': ('MLPClassifier((100, 64, 32))', 0.97124, 0.01671),
}
HELP = {'split': 'the published split, of the first member', 'like': 'the set that --config.data=fake imitates',
        'tau': 'the precision of the noise', 'lengthscale': 'of the prior: the weight decay',
        'passes': 'Monte-Carlo samples of a prediction'}
TABLE = ('bostonHousing,dropout', 'concrete,dropout', 'energy,dropout', 'yacht,dropout', 'bostonHousing,linear',
         'breast_cancer,mlp', 'breast_cancer,logistic')
OWN_ROWS = ('',)  # one run of the default model, as the rows of the table are sets
PARAMETERS = {'bostonHousing,dropout': 751, 'concrete,dropout': 501, 'energy,dropout': 501, 'yacht,dropout': 401,
              'bostonHousing,linear': 14, 'breast_cancer,mlp': 11_677, 'breast_cancer,logistic': 31}


def get_config(variant=''):
    """`variant` is SET,MODEL, or one of the two; bostonHousing,dropout by default."""
    name, model = choose_pair(variant, TABLE[0], ('dropout', 'mlp', 'linear', 'logistic'))
    choose('variant', name, {**PUBLISHED, 'breast_cancer': None})
    config = base_config()
    config.split = 0
    config.population = SPLITS
    config.population_over = 'split'
    config.eval_every = 0  # at the end
    config.log_every = '1%'
    if name == 'breast_cancer':
        choose('variant', model, {'mlp': None, 'logistic': None})
        config.data = config.like = name
        config.published = {'test/accuracy': sklearn(model)}
        config.model = models.spec('mlp', features=(100, 64, 32) if model == 'mlp' else ())
        config.batch_size = 200 if model == 'mlp' else 455
        config.steps = '200 epochs' if model == 'mlp' else 2000
        # scikit-learn's penalties: alpha / 2 |W|^2 a batch of 200, with alpha 1e-4; |W|^2 / 2 for C = 1 over all 455.
        config.optimizer = dict(name='adam', lr=1e-3 if model == 'mlp' else 1e-2, wd_mask='kernels',
                                l2=1e-4 / 200 if model == 'mlp' else 1 / 455,
                                schedule='constant' if model == 'mlp' else 'cosine')
        return config
    choose('variant', model, {'dropout': None, 'mlp': None, 'linear': None})
    rate, config.tau, *_ = PUBLISHED[name]
    config.data = config.like = f'uci/{name}'
    config.published = {'linear': least_squares, 'dropout': monte_carlo, 'mlp': lambda name: {}}[model](name)
    config.model = models.spec('mlp', features=() if model == 'linear' else (50,), dropout=rate if model == 'dropout' else 0.0)
    config.batch_size = 128
    config.steps = '4000 epochs' if model != 'linear' else 4000
    config.optimizer = dict(name='adam', lr=1e-3 if model != 'linear' else 1e-2, eps=1e-7, wd_mask='kernels',
                            schedule='constant' if model != 'linear' else 'cosine')
    config.lengthscale = 0.01 if model != 'linear' else 0.0
    if model == 'dropout':
        config.passes = 10_000
    return config


def get_experiment(config):
    """A regression, or the classifier, on split number `config.split`."""
    if config.like == 'breast_cancer':
        return _classifier(config)
    splits = standardized(open_data(config.data, like=config.like, data_dir=config.data_dir, split=config.split,
                                    seed=config.split))
    tau = config.tau
    # Of equation 8 of the paper's appendix: the authors' code adds l^2 (1 - p) / (2 N tau) |W|^2 to the loss.
    l2 = config.lengthscale ** 2 * (1 - config.model.dropout) / (len(splits.train) * tau)
    test = Evaluator('test', compute=in_own_unit(metrics.rmse), sums=False, keep=('target', 'mean', 'std'))
    if 'passes' in config:
        test = dataclasses.replace(test, compute=in_own_unit(partial(metrics.predictive, tau=tau)),
                                   predict=regression.mc_dropout(config.passes))
    return Experiment(
        model=models.make(config.model, num_classes=1, kernel_init=timeseries.glorot, dtype=config.dtype),  # as in Keras
        task=regression.squared_error(),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer={**config.optimizer, 'l2': l2},
        evaluators={split: dataclasses.replace(test, split=split) for split in splits.evals},
        expected=published(config),
        interface=interfaces.regression(splits),
    )


def _classifier(config):
    splits, unit = standardize(open_data(config.data, like=config.like, data_dir=config.data_dir, seed=config.split))
    if len(splits.info['classes']) != 2:
        raise UserError(f'config.data={config.data}: got {len(splits.info["classes"])} classes, expected 2 for one '
                        f'logit; fix: python -m experiments.ucr --config.data={config.data}', code='data/classes')
    unit = {key: value.tolist() for key, value in unit.items()}
    splits = dataclasses.replace(splits, info={**splits.info, 'standardized': unit})
    return Experiment(
        model=models.make(config.model, num_classes=1, kernel_init=timeseries.glorot, dtype=config.dtype),
        task=classification.binary(),
        data=Data(splits.train, splits.evals, info=splits.info),
        optimizer=config.optimizer,
        evaluators={split: Evaluator(split) for split in splits.evals},
        expected=published(config),
        interface=interfaces.classification(splits),
    )


def standardized(splits):
    """Inputs and target in units of the split's own training part, with its 'mean' and 'std' beside each target.

    Members of a population share one task but not one split, so the unit must travel with the examples.
    """
    splits, inputs = standardize(splits, 'x')
    if 'recorded' in splits.info:  # the examples stay with the run; its units are in its record
        mean, std = splits.info['standardized']['target']
    else:
        target = splits.train.arrays['target'].astype(np.float64)
        mean, std = target.mean(), target.std() or 1.0
    unit = {**{key: value.tolist() for key, value in inputs.items()}, 'target': [mean, std]}

    def apply(arrays):
        count = len(arrays['target'])
        return {**arrays, 'target': np.float32((arrays['target'] - mean) / std),
                'mean': np.full(count, mean, np.float32), 'std': np.full(count, std, np.float32)}

    scaled = derived(splits, lambda parts: {split: apply(arrays) for split, arrays in parts.items()})
    return dataclasses.replace(scaled, info={**splits.info, 'standardized': unit})


def in_own_unit(judge):
    """`judge(outputs, examples)` of predictions [N] or [N, T] and targets [N] taken back to the target's own unit."""
    def compute(outputs, examples):
        mean, std = (np.asarray(examples[k], np.float64) for k in ('mean', 'std'))
        back = lambda y: (np.asarray(y, np.float64).T * std + mean).T
        return judge(back(outputs), {'target': back(examples['target'])})
    return compute


def least_squares(name) -> dict:
    """The closed form, to be met within one percent."""
    value = EXACT[name]
    return {'test/rmse': dict(value=value, tolerance=0.01 * value, source='least squares in closed form, the same splits')}


def monte_carlo(name) -> dict:
    """The paper's results, to be met less two of its standard errors."""
    facts = dict(source="Gal & Ghahramani 2016, table 1, by the authors' code of 2018", runs=SPLITS)
    rows = zip((('rmse', 'lower'), ('log_likelihood', 'higher')), PUBLISHED[name][2:], strict=True)
    return {f'test/{metric}': dict(facts, value=mean, tolerance=2 * std / math.sqrt(SPLITS), std=std, better=better)
            for (metric, better), (mean, std) in rows}


def sklearn(kind) -> dict:
    """The accuracy of scikit-learn's estimator, to be met within one point."""
    name, mean, std = SKLEARN[kind]
    return dict(value=mean, tolerance=0.01, source=f'scikit-learn 1.9.1, {name}, the same splits', std=std, runs=SPLITS)


if __name__ == '__main__':
    cli.main()
