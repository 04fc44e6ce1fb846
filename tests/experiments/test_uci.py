"""UCI: members of the population see their own split in its own unit; the references are what they claim to be."""
import os

import numpy as np
import pytest

from bigjax import cli
from bigjax import config as configs
from bigjax.data.datasets import open_data, standardize
from bigjax.experiment import published
from bigjax.metrics import regression
from experiments import uci, ucr

real = pytest.mark.skipif(not os.environ.get('BIGJAX_DATA'), reason='BIGJAX_DATA names no folder with data')


def experiment(variant, **overrides):
    config = configs.override(uci.get_config(variant), {k: str(v) for k, v in overrides.items()})
    return uci.get_experiment(configs.Reader(config))


def test_members_have_splits_of_their_own_in_units_of_their_own_training_part():
    one, two = (experiment('yacht,dropout', data='fake', split=k).data for k in (0, 1))
    assert not np.array_equal(one.train.arrays['x'], two.train.arrays['x'])
    for data in (one, two):
        x, target = data.train.arrays['x'].astype(np.float64), data.train.arrays['target'].astype(np.float64)
        np.testing.assert_allclose([x.mean(0), x.std(0)], [np.zeros(6), np.ones(6)], atol=1e-5)
        np.testing.assert_allclose([target.mean(), target.std()], [0, 1], atol=1e-5)
    assert one.train.arrays['mean'][0] != two.train.arrays['mean'][0]


def test_metrics_are_in_the_unit_of_the_table():
    rng = np.random.default_rng(0)
    truth, draws, mean, std = rng.normal(size=7), rng.normal(size=(7, 5)), 22.5, 9.2
    examples = {'target': truth, 'mean': np.full(7, mean), 'std': np.full(7, std)}
    found = uci.in_own_unit(lambda o, e: regression.predictive(o, e, tau=0.2))(draws, examples)
    assert found['rmse'] == pytest.approx(std * np.sqrt(np.mean((truth - draws.mean(1)) ** 2)))
    error = std * (truth[:, None] - draws)
    density = np.sqrt(0.2 / (2 * np.pi)) * np.exp(-0.1 * error ** 2)
    assert found['log_likelihood'] == pytest.approx(np.log(density.mean(1)).mean())


def test_the_tolerance_is_two_standard_errors():
    found = {row.metric: row for row in published(uci.get_config('bostonHousing,dropout'))}
    assert found['test/rmse'].tolerance / 2 == pytest.approx(0.1768, abs=1e-4)  # as the authors' log prints it
    assert found['test/log_likelihood'].tolerance / 2 == pytest.approx(0.0417, abs=1e-4)


def test_weight_decay_is_that_of_the_authors_code():
    spec = experiment('bostonHousing,dropout', data='fake').optimizer
    rate, tau, examples = 0.05, 0.2, 256
    keras = 0.01 ** 2 * (1 - rate) / (2 * examples * tau)  # keras.regularizers.l2(c) is c |W|^2
    assert spec['l2'] == pytest.approx(2 * keras) and spec['wd_mask'] == 'kernels'


@pytest.mark.parametrize(('script', 'role'), [(uci, 'target'), (ucr, 'label')])
def test_one_file_of_the_user_s_own_is_one_run_to_its_end(capsys, tmp_path, script, role):
    rows = [f'{i},{"uvw"[i % 3] if i % 7 else ""},{i % 2 if role == "label" else i * 0.5}' for i in range(40)]
    (tmp_path / 'own.csv').write_text('\n'.join([f'a,b,{role}', *rows]) + '\n')
    name, small = script.__name__, {uci: '--config.passes=20', ucr: '--config.model.channels=(4, 8, 4)'}
    code = cli.run(script, name, [f'--workdir={tmp_path}/run', f'--config.data=csv:{tmp_path}/own.csv', '--config.steps=4',
                                  '--config.batch_size=8', '--config.mesh=data:1', small[script]])
    out = capsys.readouterr()
    assert code == 0, out.err
    assert 'filled' in out.out and 'val/' in out.out  # the empty cells are reported, and the held-out part is judged
    assert (tmp_path / 'run' / 'report.html').is_file()
    assert cli.run(script, name, ['report', f'--workdir={tmp_path}/run']) == 0


@real
@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(uci.EXACT))
def test_least_squares_is_the_stated_number(name):
    found = []
    for split in range(uci.SPLITS):
        splits = open_data('', like=f'uci/{name}', split=split)
        train, test = splits.train.arrays, splits.evals['test'].arrays
        table = lambda x: np.c_[x.astype(np.float64), np.ones(len(x))]
        weights = np.linalg.lstsq(table(train['x']), train['target'].astype(np.float64), rcond=None)[0]
        found.append(np.sqrt(np.mean((table(test['x']) @ weights - test['target']) ** 2)))
    assert np.mean(found) == pytest.approx(uci.EXACT[name], abs=1e-4)


@pytest.mark.slow
def test_scikit_learn_gives_the_stated_number():
    linear_model = pytest.importorskip('sklearn.linear_model', reason='scikit-learn is the reference')
    found = []
    for split in range(uci.SPLITS):
        splits, _ = standardize(open_data('breast_cancer', seed=split))
        train, test = splits.train.arrays, splits.evals['test'].arrays
        model = linear_model.LogisticRegression(max_iter=1000).fit(train['x'], train['label'])
        found.append(model.score(test['x'], test['label']))
    _, mean, std = uci.SKLEARN['logistic']
    assert [np.mean(found), np.std(found, ddof=1)] == pytest.approx([mean, std], abs=5e-4)
