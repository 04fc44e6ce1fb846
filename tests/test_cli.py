"""The command line: what is refused, with which code and in how many words; and what a run leaves."""
import dataclasses
import errno
import json
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

from bigjax import cli
from bigjax.errors import UserError
from bigjax.experiment import KEYS, OPTIONAL, Expected
from experiments import mnist1d
from tests import tiny


def get_config(variant=''):
    """The tiny experiment as a script."""
    if variant not in ('', 'a', 'b'):
        raise UserError(f"variant: there is no '{variant}'", code='tiny/variant')
    config = tiny.config(population=1, eval_every=6)
    config.variant_ = variant
    config.norm = True
    config.width = 16
    config.optimizer = dict(name='adam', lr=1e-2)
    if variant == 'b':
        config.typo = 3
    return config


def get_experiment(config):
    base = tiny.experiment(norm=config.norm, optimizer=config.optimizer)
    _ = config.variant_
    return dataclasses.replace(
        base, model=base.model.clone(width=config.width), expected=(Expected('test/accuracy', 0.9, 0.3, 'made up'),))


SCRIPT = types.SimpleNamespace(get_config=get_config, get_experiment=get_experiment, __doc__='A tiny script.')
ROWS = types.SimpleNamespace(**{**vars(SCRIPT), 'get_config': lambda variant: get_config('a'), 'TABLE': ('a', 'a2')})


def run(capsys, *argv, script=SCRIPT):
    """(exit code, stdout, stderr)."""
    code = cli.run(script, 'experiments.tiny', list(argv))
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize(('argv', 'code', 'shown'), [
    (['--config.stpes=3'], 'config/unknown-key', 'steps'),
    (['--config.steps=soon'], 'config/type', 'soon'),
    (['--config.optimizer.name=adm'], 'optimizer/unknown-name', 'adam'),
    (['--config.optimizer.schedule=x'], 'schedule/unknown-name', "'x'"),
    (['--config.optimizer.schedul=x'], 'config/unknown-key', 'optimizer.schedule'),
    (['--config.optimizer.frozen=nothing/.*'], 'optimizer/no-match', 'nothing/.*'),
    (['--config.optimizer.nesterov=True', '--config.optimizer.momentum=0.9'], 'optimizer/unknown-key', 'momentum'),
    (['--config.optimizer.momentum=0.9', '--config.optimizer.name=adam'], 'optimizer/unknown-key', 'optimizer.momentum=None'),
    (['--config.optimizer.name=galore', '--config.optimizer.momentum=None', '--config.optimizer.nesterov=None'],
     'checkpoint/empty-array', 'another optimizer'),
    (['--variant=c'], 'tiny/variant', "'c'"),
    (['--variant=b'], 'config/unread-key', 'config.typo'),
    (['--wrkdir=x'], 'cli/flag', 'wrkdir'),
    (['--start_timeout=-1'], 'cli/flag', 'start_timeout'), (['--start_timeout=nan'], 'cli/flag', 'start_timeout'),
    (['--grace=inf'], 'cli/flag', 'grace'), (['--processes=0'], 'cli/flag', 'processes'),
    (['--process=-1'], 'cli/flag', 'process'),
    (['--config.optimizer.schedule=constant', '--config.optimizer.schedule.warmup=13'], 'schedule/beyond',
     'optimizer.schedule.warmup'),
    (['trian'], 'cli/verb', 'train'),
    (['train', 'eval'], 'cli/words', "'eval'"),
    (['--topology=v5e-16'], 'cli/foreign-flag', 'plan'),
    (['eval', '--strict'], 'cli/foreign-flag', 'train'),
    (['--config.steps'], 'cli/no-value', '--config.steps'),
    (['--config.accumulate=3'], 'config/batch-divisible', '--config.batch_size=9'),
    (['--config.mesh=data:3'], 'config/batch-divisible', '3 devices'),
    (['--config.mesh=data:9'], 'mesh/devices', '8'),
    (['--config.mesh=data'], 'mesh/not-axis-size', 'axis:size'),
    (['--config.resident=maybe'], 'config/choice', "'auto', 'yes', 'no'"),
    (['--config.dtype=float8'], 'config/choice', "'bfloat16'"),
    (['--config.wrap=prune:0.5'], 'config/unknown-name', "'prune'"),
    (['--config.ema=1.5'], 'config/range', '[0, 1)'),
    (['--config.batch_size=0'], 'config/range', '1'),
    (['--config.population=2', '--config.population_over=sed'], 'config/population-over', 'seed'),
    (['--config.population=2', '--config.population_over=batch_size'], 'config/population-over', 'batch_size'),
    (['--config.population=2', '--config.population_over=width'], 'config/population-over', 'model'),
    (['--config.population=2', '--config.population_over=optimizer.lr'], 'config/population-over', "'optimizer.lr=…; o"),
    (['--config.log_every=3 weeks'], 'duration/form', 'weeks'),
    (['--replay=/nowhere'], 'replay/no-evidence', 'info.json'),
    (['eval'], 'checkpoint/none', '/run')])
def test_wrong_input_is_one_line_and_exit_2(capsys, tmp_path, refusals, argv, code, shown):
    ended, _, err = run(capsys, f'--workdir={tmp_path}/run', *argv)
    assert ended == 2 and shown in err and err.startswith('tiny: ') and err.count('\n') == 1
    assert refusals[-1] == code, refusals
    assert not (tmp_path / 'run').exists()


def test_workdir_is_asked_for(capsys):
    assert run(capsys)[0] == 2


def test_a_workdir_that_is_no_folder(capsys, tmp_path, monkeypatch, refusals):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, '--workdir=s3://bucket/run')[0] == 2
    assert refusals[-1] == 'storage/scheme' and not list(tmp_path.iterdir())


def test_a_run_and_its_evaluation_and_another_run_in_its_place(capsys, tmp_path, refusals):
    code, out, _ = run(capsys, f'--workdir={tmp_path}/run')
    assert code == 0 and 'test/accuracy' in out and 'made up' in out and 'report.html' in out and 'steps/s' in out
    record = json.loads((tmp_path / 'run' / 'run.json').read_text())
    assert record['status'] == 'done' and record['steps'] == 12 and record['devices']['count'] == 1
    assert record['expected'][0]['measured'] == record['final']['test/accuracy']['mean']
    code, out, _ = run(capsys, 'eval', f'--workdir={tmp_path}/run')
    accuracy = next(line.split()[-1] for line in out.splitlines() if line.startswith('test/accuracy'))
    np.testing.assert_allclose(float(accuracy), record['final']['test/accuracy']['mean'], rtol=1e-3)
    before = (tmp_path / 'run' / 'metrics.jsonl').read_bytes()
    assert run(capsys, f'--workdir={tmp_path}/run')[0] == 0
    assert (tmp_path / 'run' / 'metrics.jsonl').read_bytes() == before  # a run that is done is not run again
    code, _, err = run(capsys, f'--workdir={tmp_path}/run', '--config.optimizer.lr=0.5')
    assert code == 2 and 'optimizer.lr' in err and refusals[-1] == 'workdir/another-config'
    code, _, err = run(capsys, f'--workdir={tmp_path}/run', '--variant=a')
    assert code == 2 and refusals[-1] == 'workdir/another-run'


def test_a_stored_run_needs_its_workdir_only(capsys, tmp_path):
    """eval and report read config.json; flags on top of it are applied and printed; a table's folder is all its rows."""
    assert run(capsys, f'--workdir={tmp_path}/t', '--config.width=5', script=ROWS)[0] == 0
    code, out, err = run(capsys, 'eval', f'--workdir={tmp_path}/t', script=ROWS)
    assert code == 0, err
    assert {line.split()[0] for line in out.splitlines() if line.startswith(('a ', 'a2 '))} == {'a', 'a2'}
    assert "not the paper's setup" in out and 'width 5 (paper: 16)' in out
    code, out, err = run(capsys, 'eval', f'--workdir={tmp_path}/t/a', '--config.eval_batch_size=4', script=ROWS)
    assert code == 0 and 'config.eval_batch_size = 4' in out, err
    assert run(capsys, 'eval', f'--workdir={tmp_path}/t/a', '--config.width=6', script=ROWS)[0] == 2
    code, _, err = run(capsys, 'eval', f'--workdir={tmp_path}/t', '--variant=b', script=ROWS)
    assert code == 2 and "'a'" in err
    (tmp_path / 't' / 'a' / 'report.html').unlink()
    code, out, _ = run(capsys, 'report', f'--workdir={tmp_path}/t', script=ROWS)
    assert code == 0 and (tmp_path / 't' / 'a' / 'report.html').exists() and out.count('report.html') == 3


def test_every_verb_and_key_has_its_meaning(capsys):
    code, out, _ = run(capsys, '--help')
    assert code == 0 and all(f'  {name} ' in out for name in cli.VERBS)
    for verb in cli.VERBS.values():
        assert run(capsys, verb.name, '--help')[0] == 0
        assert all(flag.help for flag in verb.flags) and verb.help
    meanings = {key.help for key in (*KEYS.values(), *OPTIONAL.values())}
    assert '' not in meanings and all(text in out for text in meanings if text in {key.help for key in KEYS.values()})
    assert "'bfloat16'" in out and 'optimizer.frozen' in out


def test_wrappers_are_applied_once_and_in_order(capsys, tmp_path):
    seen = []

    def wrap(name):
        return lambda experiment, *argument: seen.append((name, argument)) or dataclasses.replace(
            experiment, task=dataclasses.replace(experiment.task))

    script = types.SimpleNamespace(**vars(SCRIPT), WRAPPERS={'one': wrap('one'), 'two': wrap('two')})
    argv = (f'--workdir={tmp_path}', '--config.wrap=two:0.5; one', '--config.steps=2')
    assert run(capsys, *argv, script=script)[0] == 0
    assert seen == [('two', ('0.5',)), ('one', ())]


def test_check_says_no_by_exit_4(capsys, tmp_path):
    argv = (f'--workdir={tmp_path}', '--config.optimizer.lr=1e-9', '--check')
    assert run(capsys, *argv)[0] == 4


def test_a_checkpoint_of_another_model(capsys, tmp_path):
    assert run(capsys, f'--workdir={tmp_path}/a')[0] == 0
    code, out, _ = run(capsys, f'--workdir={tmp_path}/b', '--config.norm=False', f'--init_from={tmp_path}/a')
    assert code == 0 and 'norm/bias' in out  # layers of both are taken, others listed


def test_the_table_runs_every_row_and_help_shows_the_config(capsys, tmp_path):
    code, out, _ = run(capsys, f'--workdir={tmp_path}/t', script=ROWS)
    assert code == 0 and (tmp_path / 't' / 'a' / 'run.json').exists() and (tmp_path / 't' / 'a2' / 'run.json').exists()
    assert (tmp_path / 't' / 'report.html').exists()
    code, out, _ = run(capsys, '--help', script=ROWS)
    assert code == 0 and 'optimizer.lr' in out and '0.01' in out and 'a a2' in out and '--workdir' in out


def test_the_workdir_of_a_single_row_takes_no_table(capsys, tmp_path):
    (tmp_path / 'run.json').write_text('{}')
    code, _, err = run(capsys, f'--workdir={tmp_path}', script=ROWS)
    assert code == 2 and '--variant' in err and err.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['run.json']


def test_a_loss_that_is_not_finite_is_exit_3_and_can_be_replayed(capsys, tmp_path):
    huge = '--config.optimizer.lr=1e30'
    code, _, err = run(capsys, f'--workdir={tmp_path}', huge, '--config.log_every=1')
    assert code == 3 and '--replay=' in err and err.count('\n') == 1
    record, bad = (json.loads((tmp_path / path).read_text()) for path in ('run.json', 'nonfinite/info.json'))
    assert record['status'] == 'nonfinite' and record['steps'] == bad['step'] > 0
    code, out, _ = run(capsys, f'--replay={tmp_path}/nonfinite')
    assert code == 0 and 'norm (BatchNorm' in out, out


@pytest.mark.parametrize(('flags', 'code'), [((), 0), (('--strict',), 1)])
def test_a_step_that_is_compiled_twice_is_a_warning_and_with_strict_an_error(capsys, tmp_path, flags, code):
    def forget(outputs, examples):
        jax.clear_caches()  # as a change of JAX's settings would
        return {}

    def experiment(config):
        found = get_experiment(config)
        evaluators = {name: dataclasses.replace(e, compute=forget) for name, e in found.evaluators.items()}
        return dataclasses.replace(found, evaluators=evaluators)

    script = types.SimpleNamespace(**{**vars(SCRIPT), 'get_experiment': experiment})
    ended, out, err = run(capsys, f'--workdir={tmp_path}', '--config.eval_every=4', *flags, script=script)
    assert ended == code
    said = err if code else '\n'.join(line for line in out.splitlines() if line.startswith('warning'))
    assert 'the train step' in said
    assert not code or err.count('\n') == 1


def test_a_full_disk_is_one_line(capsys, tmp_path, monkeypatch):
    assert run(capsys, f'--workdir={tmp_path}/ok')[0] == 0

    def full(*args, **kwargs):
        raise RuntimeError('save failed') from OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr('bigjax.checkpoint.manager.Checkpoints.save', full)
    code, _, err = run(capsys, f'--workdir={tmp_path}/full')
    assert code == 1 and 'no space left' in err and err.count('\n') == 1
    assert json.loads((tmp_path / 'full' / 'run.json').read_text())['status'] == 'failed'


@pytest.mark.parametrize('workdir', ['/proc/nothing/here', '/dev/null/run'])
def test_a_workdir_that_cannot_be_written(capsys, workdir, refusals):
    code, _, err = run(capsys, f'--workdir={workdir}')
    assert code == 2 and workdir in err and refusals[-1] == 'workdir/unwritable'


def python(*argv, **env):
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=300,
                          env={**os.environ, **env}, cwd=os.path.dirname(os.path.dirname(__file__)))


def test_an_unknown_experiment():
    done = python('-m', 'experiments.mnst1d')
    assert done.returncode == 2 and 'mnist1d' in done.stderr and done.stderr.count('\n') == 1


@pytest.mark.parametrize(('argument', 'code', 'named'), [
    ('platform=cpu:0', 'cli/platform', 'cpu:0'), ('platform=cuda:2', 'cli/platform', 'cuda:2'),
    ('config.model.features=(0,)', 'model/size', 'config.model.features'),
    ('config.model.num_classes=3', 'model/decided', 'num_classes'),
    ('config.model.name=cnn', 'model/unknown-field', 'model.features'),
    ('config.model.name=mpl', 'model/unknown-name', "'mpl'"),
    ('config.published.test/accuracy.value=0.1', 'config/fixed', 'published')])
def test_a_model_or_a_platform_that_cannot_be(capsys, tmp_path, refusals, argument, code, named):
    ended, _, err = run(capsys, '--variant=mlp', '--config.data=fake', f'--workdir={tmp_path}/run', f'--{argument}',
                        script=mnist1d)
    assert ended == 2 and named in err and err.count('\n') == 1 and refusals[-1] == code, (err, refusals)
    assert not (tmp_path / 'run').exists()


def test_a_cpu_is_divided_into_devices(tmp_path):
    done = python('-m', 'experiments.mnist1d', '--variant=logistic', '--config.data=fake', f'--workdir={tmp_path}/run',
                  '--config.steps=2', '--platform=cpu:2')
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / 'run' / 'run.json').read_text())['devices']['count'] == 2


def test_the_core_is_light():
    code = ('import jax, flax, optax, bigjax, sys, bigjax.train.loop, bigjax.runs.writer, bigjax.data.datasets, '
            'bigjax.data.augment, bigjax.data.builders; '
            'print(sorted({"tensorflow", "torch", "tensorflow_datasets", "grain", "matplotlib", "cv2", "pyarrow", "sklearn", '
            '"mnist1d", "datasets"} & set(sys.modules)))')
    done = python('-X', 'importtime', '-c', code)
    assert done.stdout.strip() == '[]'
    own = [int(line.split('|')[1]) for line in done.stderr.splitlines() if line.strip().endswith('| bigjax')]
    assert own and own[0] < 500_000  # microseconds over jax, flax and optax


@pytest.mark.slow
def test_own_images_are_one_flag(capsys, tmp_path):
    """Twelve JPEGs in three folders, by the script of another data set; the class names are kept with the run."""
    import cv2

    from experiments import mnist
    rng = np.random.default_rng(0)
    for kind, level in {'cat': 40, 'dog': 120, 'owl': 220}.items():
        (tmp_path / 'images' / kind).mkdir(parents=True)
        for i in range(4):
            image = np.clip(rng.normal(level, 8, (28, 28, 1)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / 'images' / kind / f'{i}.jpg'), image)
    code, _, err = run(
        capsys, f'--workdir={tmp_path / "run"}', '--variant=lenet5', f'--config.data=folder:{tmp_path / "images"}',
        '--config.steps=30', '--config.log_every=5', '--config.batch_size=8', '--config.optimizer.lr=0.003', script=mnist)
    assert code == cli.DONE, err
    facts = json.loads((tmp_path / 'run' / 'run.json').read_text())
    assert facts['info']['classes'] == ['cat', 'dog', 'owl']
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    losses = [row['train/loss'][0] if isinstance(row['train/loss'], list) else row['train/loss']
              for row in rows if 'train/loss' in row]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(('changes', 'code', 'named'), [
    ({'get_experiment': None}, 'experiment/no-function', 'get_experiment(config)'),
    ({'get_config': None}, 'experiment/no-function', 'get_config(variant)'),
    ({'get_experiment': lambda config: None}, 'experiment/no-experiment', 'NoneType'),
    ({'get_experiment': lambda config: 3}, 'experiment/no-experiment', 'int'),
    ({'get_experiment': lambda: None}, 'experiment/signature', 'get_experiment()'),
    ({'get_config': lambda: get_config()}, 'experiment/signature', 'get_config()'),
    ({'get_config': lambda variant: None}, 'config/script', 'NoneType')], ids=range(7))
def test_a_script_that_is_none_is_one_line(capsys, tmp_path, refusals, changes, code, named):
    script = types.SimpleNamespace(**{k: v for k, v in {**vars(SCRIPT), **changes}.items() if v is not None})
    ended, _, err = run(capsys, f'--workdir={tmp_path}/a', script=script)
    assert ended == 2 and err.count('\n') == 1 and named in err and refusals[-1] == code
    assert not (tmp_path / 'a').exists()
