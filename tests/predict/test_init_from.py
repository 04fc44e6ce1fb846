"""Weights that are judged and applied without a run of this experiment: `eval` and `predict` with --init_from."""
import json

import pytest

from bigjax import cli, weights
from bigjax.checkpoint import manager
from bigjax.train.job import Job
from experiments import mnist1d

FAKE = ('--config.data=fake', '--config.mesh=data:1', '--population=1')


def run(capsys, *argv):
    code = cli.run(mnist1d, 'experiments.mnist1d', list(argv))
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
    """A run of a few steps."""
    where = tmp_path_factory.mktemp('init_from') / 'run'
    argv = [f'--workdir={where}', '--variant=logistic', '--config.steps=4', '--config.batch_size=8',
            '--config.eval_every=0', *FAKE]
    assert cli.run(mnist1d, 'experiments.mnist1d', argv) == 0
    return where


@pytest.fixture(scope='module')
def places(workdir):
    """The same weights as the workdir and as a file of arrays."""
    job = Job(mnist1d, 'mnist1d', {}, folder=str(workdir), stored=True)
    program = job.build(job.rows[0]).program()
    variables = program.member_variables(program.restore_weights(manager.newest(workdir)), 0)
    weights.save(program.experiment.model, variables, f'npz:{workdir.parent}/w.npz')
    return str(workdir), f'npz:{workdir.parent}/w.npz'


def test_eval_judges_them_as_those_of_a_run(capsys, workdir, places):
    _, expected, _ = run(capsys, 'eval', f'--workdir={workdir}')
    assert 'test/accuracy' in expected
    for place in places:
        code, out, _ = run(capsys, 'eval', '--variant=logistic', f'--init_from={place}', *FAKE)
        assert code == 0 and [line for line in out.splitlines() if line.startswith('test/')] == [
            line for line in expected.splitlines() if line.startswith('test/')]


def test_predict_answers_as_the_run_does(capsys, workdir, places):
    row = json.dumps([0.5] * 40)
    _, expected, _ = run(capsys, 'predict', f'--workdir={workdir}', row)
    for place in places:
        assert run(capsys, 'predict', '--variant=logistic', f'--init_from={place}', *FAKE, row)[:2] == (0, expected)


@pytest.mark.parametrize('verb', ['eval', 'predict'])
@pytest.mark.parametrize('argv, word', [
    (['--workdir=/tmp/x', '--init_from=npz:x'], '--init_from'), (['--init_from=npz:x'], '--variant=ROW'),
    (['--variant=logistic', '--init_from=npz:/nowhere.npz', *FAKE], '/nowhere.npz')])
def test_what_is_refused(capsys, verb, argv, word):
    code, _, err = run(capsys, verb, *argv, *['[0.5]'] * (verb == 'predict'))
    assert code == 2 and word in err and err.count('\n') == 1
