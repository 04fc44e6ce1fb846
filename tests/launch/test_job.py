"""What --on says, what a job is, where it is kept, and what the launcher's verbs say where there is none."""
import dataclasses
import json
import os
import shlex
import shutil
import subprocess

import pytest

from bigjax.errors import UserError
from launch import __main__ as command_line
from launch import job, steps, target
from launch.engines import base
from launch.engines.ssh import bundle


@dataclasses.dataclass(frozen=True)
class Hosts:
    hosts: tuple[str, ...] = target.text('names', ())
    port: int = target.text('of sshd', 22)
    spot: bool = target.text('may be taken away', False)
    setup: str = target.text('a line', '')


@dataclasses.dataclass(frozen=True)
class Slice:
    type: str = target.text('the accelerator')
    zone: str = target.text('where', '')
    hours: float = target.text('how long', 1.5)


@pytest.mark.parametrize(('text', 'expected'), [
    ('', Hosts()), ('a', Hosts(('a',))), ('a,b,c,port=2', Hosts(('a', 'b', 'c'), 2)), ('a,spot', Hosts(('a',), spot=True)),
    ('a, spot=no', Hosts(('a',))), ('a,setup="x, y=1"', Hosts(('a',), setup='x, y=1')), ('hosts=a+b', Hosts(('a', 'b')))])
def test_a_target_is_read(text, expected):
    assert target.parse('kind', text, Hosts) == expected


@pytest.mark.parametrize(('cls', 'text', 'words'), [
    (Hosts, 'a,ports=2', "no 'ports'; the nearest is port; there are hosts, port, spot, setup"),
    (Hosts, 'a,port=2,b', "'b' stands after key=value"),
    (Hosts, 'port=x', 'port=x is not a whole number'), (Hosts, 'spot=perhaps', 'spot=perhaps is neither yes nor no'),
    (Hosts, 'setup="a', 'the quote " is not closed'), (Slice, 'zone=a', 'type is missing (the accelerator)'),
    (Slice, 'v5e-8,zon', "'zon' is not key=value; the nearest is zone"), (Slice, 'v5e-8,hours=long', 'is not a number')])
def test_a_wrong_target_is_one_line(cls, text, words):
    with pytest.raises(UserError) as error:
        target.parse('kind', text, cls)
    assert words in str(error.value) and str(error.value).startswith('--on=kind:')


def test_a_target_describes_itself():
    assert target.describe(Slice) == [('type', 'the accelerator'), ('zone', 'where'), ('hours=1.5', 'how long')]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('BIGJAX_JOBS', str(tmp_path / 'jobs'))
    return tmp_path / 'jobs'


COMMAND = 'python', '-m', 'experiments.mnist1d', '--workdir=/w d'
SOME = job.Job('some-job', 'ssh:a,b', COMMAND, ('TOKEN',), 3, created='2026-01-02')


def test_a_job_is_kept_whole_and_its_name_is_its_own(home):
    job.save(SOME, new=True)
    assert job.load('some-job') == SOME and job.known() == [SOME]
    with pytest.raises(UserError, match=r'in use on this machine .ssh:a,b.; attach to it'):
        job.save(dataclasses.replace(SOME, on='local'), new=True)
    job.save(dataclasses.replace(SOME, restarts=5), new=False)
    assert job.load('some-job').restarts == 5 and [path.name for path in (home / 'some-job').iterdir()] == ['job.json']


@pytest.mark.parametrize('text', ['', '{', '[]', '{"name": "x"}', '{"name": "../../etc", "on": "local", "command": []}'])
def test_a_damaged_record_is_one_line(home, text):
    (home / 'some-job').mkdir(parents=True)
    (home / 'some-job' / 'job.json').write_text(text)
    with pytest.raises(UserError):
        job.load('some-job')
    assert job.known() == []


def test_fields_of_another_version_are_passed_over(home):
    assert job.parse({**json.loads(SOME.text()), 'later': 1}) == SOME


@pytest.mark.parametrize('name', ['', 'A', '1a', 'a_b', 'a-', '../a', 'a' * 40, 'a\n'])
def test_names_that_some_engine_would_not_take_are_refused(name):
    with pytest.raises(UserError, match='a name has lower-case letters'):
        job.checked(name)


@pytest.mark.parametrize('command', ['python -m experiments.mnist1d', './Train_It.sh --x', '/1/2', 'python experiments/a_b.py'])
def test_new_names_are_names(command):
    first, second = (job.new_name(shlex.split(command)) for _ in range(2))
    assert job.checked(first) != job.checked(second)


def test_values_come_from_here_and_are_in_no_record(home, monkeypatch):
    monkeypatch.setenv('TOKEN', 'sesame')
    assert SOME.values() == {'TOKEN': 'sesame'} and 'sesame' not in SOME.text()
    monkeypatch.delenv('TOKEN')
    with pytest.raises(UserError, match='TOKEN is not set here'):
        SOME.values()


def test_a_step_shows_names_and_runs_with_values(tmp_path):
    step = steps.Run(('sh',), 'echo "$TOKEN"\n', ('TOKEN',), 'says it')
    assert str(step) == '# says it\nsh <<\'EOF\'\nexport TOKEN=***\necho "$TOKEN"\nEOF'
    assert steps.execute(step, values={'TOKEN': "it's"}) == "it's\n"
    with pytest.raises(steps.Failed, match=r'no such thing .sh exited 3'):
        steps.execute(steps.Run(('sh', '-c', 'echo no such thing >&2; exit 3')))
    with pytest.raises(steps.Failed, match='did not end within 0 s'):
        steps.execute(steps.Run(('sleep', '9')), seconds=0.1)
    with pytest.raises(UserError, match="'no-such': no such program here"):
        steps.execute(steps.Run(('no-such',)))


SECRETS = ['.env', '.env.local', 'sub/.ENVRC', 'server.pem', 'id_rsa', 'sub/id_ed25519', '.netrc', 'kaggle.json', 'a.key']
CODE = ['.env.example', 'a.py', 'environment.yml', 'id_rsa.pub', 'keys.py', 'sub/env.py']


def test_secrets_are_not_sent_which_is_said(tmp_path, capfd):
    if shutil.which('git') is None:
        pytest.skip('no git')
    root, kept = tmp_path / 'project', tmp_path / 'job'
    git = lambda *words: subprocess.run(['git', '-C', root, '-c', 'user.name=x', '-c', 'user.email=x', *words], check=True)
    (root / 'sub').mkdir(parents=True)
    for name in (*SECRETS, *CODE):
        (root / name).write_text('canary-1' if name in SECRETS else 'x')
    git('init', '-q')
    git('add', 'a.py', '.env', 'sub/id_ed25519')  # whether they are tracked or not
    git('commit', '-q', '-m', 'one')
    (root / 'sub' / 'id_ed25519').write_text('canary-2')
    (root / 'a.py').write_text('y')
    sent = bundle.collect(root)
    said = capfd.readouterr().err
    assert [name for name, _ in sent.files] == sorted(CODE)
    assert 'not sent, as a name for secrets: .env, ' in said and 'and 6 more; what a job needs goes by --env' in said
    bundle.keep(sent, kept)
    everything = b''.join(path.read_bytes() for path in kept.rglob('*') if path.is_file())
    assert b'canary' not in everything and b'+y' in everything
    for name in SECRETS:
        (root / name).unlink()
    bundle.collect(root)
    assert not capfd.readouterr().err


@pytest.mark.parametrize(('argv', 'words'), [
    (['attach'], 'which job?'), (['kill', 'nothing'], "no job 'nothing' is known on this machine"),
    (['status', 'x', '--on=local:2'], 'is not found from elsewhere'), (['logs', 'Bad_name'], 'a name has lower-case letters'),
    (['run', '--detach', '--on=local', '--', 'true'], '--detach: local runs with its launcher'),
    (['run', '--on=local', '--env=SURELY_NOT_SET', '--', 'true'], 'SURELY_NOT_SET is not set here'),
    (['render', '--on=local'], 'no command after --'), (['kill', 'a', 'b'], "'b': the command to run stands after --")])
def test_wrong_use_is_one_line_and_exit_2(home, capfd, argv, words):
    assert command_line.main(argv) == 2
    out, err = capfd.readouterr()
    assert not out and [line for line in err.splitlines() if 'note' not in line] == [err.splitlines()[-1]] and words in err


def test_every_engine_can_be_described(capfd):
    for kind in base.ENGINES:
        assert command_line.main(['--help', f'--on={kind}']) == 0
        assert f'--on={kind}:KEY=VALUE' in capfd.readouterr().out


def test_status_lists_the_jobs(home, capfd):
    assert command_line.main(['status']) == 0 and 'no jobs' in capfd.readouterr().out
    job.save(SOME, new=True)
    assert command_line.main(['status']) == 0
    assert capfd.readouterr().out.split() == [*f"some-job 2026-01-02 ssh:a,b {shlex.join(SOME.command)}".split()]


def test_jobs_that_cannot_be_kept_are_refused(monkeypatch):
    monkeypatch.setenv('BIGJAX_JOBS', os.devnull)
    with pytest.raises(UserError, match='set BIGJAX_JOBS to a folder that can'):
        job.save(SOME, new=True)
