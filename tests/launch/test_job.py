"""A job, its record, the steps of a plan, secrets, and wrong use of the launcher's verbs."""
import dataclasses
import json
import os
import shlex
import shutil

import pytest

from launch import __main__ as command_line
from launch import job, steps
from launch.engines.ssh import bundle
from tests.launch.tools import repository
from tests.refused import refused


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('BIGJAX_JOBS', str(tmp_path / 'jobs'))
    return tmp_path / 'jobs'


COMMAND = 'python', '-m', 'experiments.mnist1d', '--workdir=/w d'
SOME = job.Job('some-job', 'ssh:a,b', COMMAND, ('TOKEN',), 3, created='2026-01-02')


def test_a_job_is_kept_whole_and_its_name_is_its_own(home):
    job.save(SOME, new=True)
    assert job.load('some-job') == SOME and job.known() == [SOME]
    with refused('launch/name-in-use', 'some-job', 'ssh:a,b'):
        job.save(dataclasses.replace(SOME, on='local'), new=True)
    job.save(dataclasses.replace(SOME, restarts=5), new=False)
    assert job.load('some-job').restarts == 5 and [path.name for path in (home / 'some-job').iterdir()] == ['job.json']


@pytest.mark.parametrize('text', ['', '{', '[]', '{"name": "x"}', '{"name": "../../etc", "on": "local", "command": []}'])
def test_a_damaged_record_is_one_line(home, text):
    (home / 'some-job').mkdir(parents=True)
    (home / 'some-job' / 'job.json').write_text(text)
    with refused('launch/damaged-record', 'job.json'):
        job.load('some-job')
    assert job.known() == []


def test_fields_of_another_version_are_passed_over(home):
    assert job.parse({**json.loads(SOME.text()), 'later': 1}) == SOME


@pytest.mark.parametrize('text', ['', 'A', '1a', 'a_b', 'a-', '../a', 'a' * 40])
def test_names_that_some_engine_would_not_take_are_refused(text):
    with refused('launch/bad-name', f'--name={text}'):
        job.checked(text)


@pytest.mark.parametrize('command', ['python -m experiments.mnist1d', './Train_It.sh --x', '/1/2', 'python experiments/a_b.py'])
def test_new_names_are_names(command):
    first, second = (job.new_name(shlex.split(command)) for _ in range(2))
    assert job.checked(first) != job.checked(second)


def test_values_come_from_here_and_are_in_no_record(home, monkeypatch):
    monkeypatch.setenv('TOKEN', 'sesame')
    assert SOME.values() == {'TOKEN': 'sesame'} and 'sesame' not in SOME.text()
    monkeypatch.delenv('TOKEN')
    with refused('launch/env-not-set', 'TOKEN'):
        SOME.values()


def test_a_step_shows_names_and_runs_with_values(tmp_path):
    step = steps.Run(('sh',), 'echo "$TOKEN"\n', ('TOKEN',), 'prints it')
    assert str(step) == '# prints it\nsh <<\'EOF\'\nexport TOKEN=***\necho "$TOKEN"\nEOF'
    assert steps.execute(step, values={'TOKEN': "it's"}) == "it's\n"
    for argv, code, output in ((('sh', '-c', 'echo no such thing >&2; exit 3'), 3, 'no such thing\n'),
                               (('sleep', '9'), None, 'timeout after 0 s')):
        with pytest.raises(steps.Failed) as error:
            steps.execute(steps.Run(argv), seconds=0.4)
        assert (error.value.code, error.value.stderr) == (code, output)
    with refused('launch/no-program', 'no-such'):
        steps.execute(steps.Run(('no-such',)))


SECRETS = ['.env', '.env.local', 'sub/.ENVRC', 'server.pem', 'id_rsa', 'sub/id_ed25519', '.netrc', 'kaggle.json', 'a.key']
CODE = ['.env.example', 'a.py', 'environment.yml', 'id_rsa.pub', 'keys.py', 'sub/env.py']


def test_secrets_are_not_sent_which_is_said(tmp_path, capfd):
    if shutil.which('git') is None:
        pytest.skip('no git')
    root, kept = tmp_path / 'project', tmp_path / 'job'
    (root / 'sub').mkdir(parents=True)
    for name in (*SECRETS, *CODE):
        (root / name).write_text('canary-1' if name in SECRETS else 'x')
    repository(root, 'a.py', '.env', 'sub/id_ed25519')  # whether they are tracked or not
    (root / 'sub' / 'id_ed25519').write_text('canary-2')
    (root / 'a.py').write_text('y')
    sent = bundle.collect(root)
    said = capfd.readouterr().err
    assert [name for name, _ in sent.files] == sorted(CODE)
    assert 'secret: .env, ' in said and 'and 6 more' in said and '--env' in said
    bundle.keep(sent, kept)
    everything = b''.join(path.read_bytes() for path in kept.rglob('*') if path.is_file())
    assert b'canary' not in everything and b'+y' in everything
    for name in SECRETS:
        (root / name).unlink()
    bundle.collect(root)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(('argv', 'words'), [
    (['rum'], 'nearest is run'), ([], '--on=local:2'), (['attach'], 'launch status'), (['kill', 'nothing'], "'nothing'"),
    (['status', 'x', '--on=local:2'], '--on=local:2'), (['logs', 'Bad_name'], '--name=Bad_name'),
    (['run', '--detach', '--on=local', '--', 'true'], '--detach: local'), (['run', '--', 'true'], '--on=local:2'),
    (['run', '--on=local', '--env=SURELY_NOT_SET', '--', 'true'], 'SURELY_NOT_SET'), (['run', '--on=local:2', '--'], '--'),
    (['run', '--on=local:2'], '-- python'), (['run', '--on=local:2', 'true'], "'true'"), (['render', '--on=local'], '--'),
    (['kill', 'a', 'b'], "'b'"), (['run', '--on=local:2', '--max_restarts=-1', '--', 'true'], '--max_restarts'),
    (['run', '--on=local:2', '--max_restart=1', '--', 'true'], 'max_restart'),
    (['run', '--on=local:2', '--logs=/dev/null/logs', '--', 'true'], '--logs=/dev/null/logs')])
def test_wrong_use_is_one_line_and_exit_2(home, capfd, argv, words):
    assert command_line.main(argv) == 2
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if 'note:' not in line]
    assert not out and len(lines) == 1 and lines[0].startswith('launch: ') and words in lines[0], err


def test_status_lists_the_jobs(home, capfd):
    assert command_line.main(['status']) == 0 and 'no jobs' in capfd.readouterr().out
    job.save(SOME, new=True)
    assert command_line.main(['status']) == 0
    assert capfd.readouterr().out.splitlines()[2].split() == f'some-job 2026-01-02 ssh:a,b {shlex.join(SOME.command)}'.split()


def test_jobs_that_cannot_be_kept_are_refused(monkeypatch):
    monkeypatch.setenv('BIGJAX_JOBS', os.devnull)
    with refused('launch/not-writable', 'BIGJAX_JOBS'):
        job.save(SOME, new=True)
