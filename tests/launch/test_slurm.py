"""The engine `slurm` without a cluster: the script's requests and decisions under a made-up srun, and the launcher with it.

With one, see test_slurm_cluster.py.
"""
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

from launch import __main__ as command_line
from launch.engines.slurm import slurm, slurm_script, slurm_state
from launch.job import Job
from tests.launch.tools import assert_secret, program
from tests.refused import refused

FAKES = {
    'sbatch': '''
        [ -z "$REFUSE" ] || { echo "sbatch: error: $REFUSE" >&2; exit 1; }
        touch "$FAKE/running"; echo "7;cluster"
        (SLURM_JOB_ID=7 SLURMD_NODENAME=host1 bash "$2" > "$FAKE/out" 2>&1; rm "$FAKE/running") > /dev/null 2>&1 &''',
    'srun': '''
        while [[ $1 == --* ]]; do [[ $1 != --output=* ]] || out=${1#--output=}; shift; done
        touch "$FAKE/srun"
        eval "$SAYS"
        out=${out//%%/%}; "$@" >> "${out/'%t'/0}" 2>&1; code=$?
        ((code == 0)) || echo "srun: error: host1: task 0: Exited with exit code $code" >&2
        exit $code''',
    'squeue': '''
        case "$*" in
            *--format=%T) echo "$STATE";;
            *--jobs=*) touch "$FAKE/asked"; [ ! -e "$FAKE/running" ] || echo '7|RUNNING|None|host1|0:01|1:00';;
        esac''',
    'scontrol': '''
        echo "$@" >> "$FAKE/scontrol"
        case "$*" in *show*) echo 'JobId=7 JobState=FAILED ExitCode=9:0 Restarts=0';; esac''',
    'scancel': 'echo "$@" >> "$FAKE/scancel"',
    'sinfo': '''
        case "$*" in
            *%P*) printf '%s\\n' 'gpu*|up|2-00:00:00' 'cpu|up|infinite' 'old|down|1:00:00';;
            *) printf '%s\\n' 'n1|idle|64|512000|gpu:a100:8(S:0-1)' 'n2|mix|64|512000|gpu:4' 'n3|down|64|512000|gpu:8' \
                'n4|idle*|64|512000|gpu:8';;
        esac''',
}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder that the made-up programs write to; they stand before all others."""
    programs, notes = tmp_path / 'programs', tmp_path / 'notes'
    notes.mkdir()
    for name, text in FAKES.items():
        program(programs / name, text, '/bin/bash')
    monkeypatch.setenv('PATH', f'{programs}:{os.environ["PATH"]}')
    monkeypatch.setenv('FAKE', str(notes))
    monkeypatch.setenv('BIGJAX_JOBS', str(tmp_path / 'all jobs 100%'))
    monkeypatch.setenv('STATE', 'RUNNING')
    return notes


def engine(on='slurm', command=('true',), **job):
    return slurm.Engine(Job('exp7', on, tuple(command), **job))


def text(*args, **kwargs):
    return next(iter(engine(*args, **kwargs).files().values()))


def asked(script):
    """{option: value} as sbatch reads them: until the first line that is no comment."""
    lines = script.splitlines()
    assert lines[0] == '#!/bin/bash'
    words = []
    for line in lines[1:]:
        if not line.startswith('#'):
            break
        if line.startswith('#SBATCH '):
            words += shlex.split(line.removeprefix('#SBATCH '))
    pairs = [word.removeprefix('--').partition('=') for word in words]
    assert len({name for name, _, _ in pairs}) == len(pairs)
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize(('on', 'expected'), [
    ('slurm', {'nodes': '1', 'ntasks-per-node': '1', 'signal': 'TERM@120', 'requeue': '', 'open-mode': 'append'}),
    ('slurm:nodes=2,gpus=8', {'nodes': '2', 'ntasks-per-node': '1', 'gres': 'gpu:8'}),
    ('slurm:nodes=2,gpus=a100:4,tasks=gpu', {'ntasks-per-node': '4', 'gres': 'gpu:a100:4'}),
    ('slurm:partition=gpu,account=me,qos=long', {'partition': 'gpu', 'account': 'me', 'qos': 'long'}),
    ('slurm:constraint="a100|h100",time=24:00:00', {'constraint': 'a100|h100', 'time': '24:00:00'}),
    ('slurm:cpus=6,memory=64G,notice=300,time=2-00', {'cpus-per-task': '6', 'mem': '64G', 'signal': 'TERM@300'}),
    ("slurm:extra='--exclusive --nodelist=a,b'", {'exclusive': '', 'nodelist': 'a,b'})])
def test_what_a_target_asks_for(fake, on, expected):
    found = asked(text(on))
    assert expected.items() <= found.items() and found['job-name'] == 'exp7'
    assert subprocess.run(['bash', '-n'], input=text(on), text=True).returncode == 0


def test_names_of_folders_are_as_slurm_reads_them(fake, tmp_path):
    found = asked(text())
    assert found['comment'] == f'bigjax:{tmp_path}/all jobs 100%/exp7'
    assert found['output'] == f'{tmp_path}/all jobs 100%%/exp7/logs/batch.log'


@pytest.mark.parametrize(('written', 'seconds'), [
    ('90', 5400), ('1:30', 90), ('1:00:00', 3600), ('2-00', 172800), ('1-1:1', 90060), ('1-0:0:1', 86401), ('infinite', None)])
def test_times_of_slurm(written, seconds):
    assert slurm_state.seconds(written) == seconds


def run(script, fake, tmp_path, *, says='', seconds=20, **variables):
    """(exit code, what the script printed) under the made-up programs, job 7."""
    path = tmp_path / 'script'
    path.write_text(script)
    env = {**os.environ, 'SAYS': says, 'SLURM_JOB_ID': '7', 'SLURMD_NODENAME': 'host1', **variables}
    done = subprocess.run(['bash', path], env=env, capture_output=True, text=True, timeout=seconds)
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def ends(name='ends'):
    return slurm_script.read_ends((pathlib.Path(os.environ['BIGJAX_JOBS']) / 'exp7' / name).read_text())


def requeued(fake):
    return (fake / 'scontrol').exists() and (fake / 'scontrol').read_text().splitlines() == ['requeue 7']


SAY = 'echo "srun: error: {}" >&2;'
DIED = SAY.format('host2: task 1: Exited with exit code {}')


@pytest.mark.parametrize(('says', 'limits', 'count', 'before', 'code', 'then'), [
    ('exit 0', {}, 0, '', 0, 'over'),
    *((DIED.format(code) + f'exit {code}', {'restarts': 9}, 0, '', code, 'over') for code in (2, 3, 4)),
    (DIED.format(75) + 'exit 75', {}, 0, '', 75, 'preempted'),
    (DIED.format(75) + 'exit 75', {'preemptions': 2}, 2, '', 75, 'over'),
    (DIED.format(75) + 'exit 75', {'preemptions': 2}, 2, '1 99 failed 0 host1\n75 9 preempted 0 host1\n', 75, 'preempted'),
    (DIED.format(1) + 'exit 1', {}, 0, '', 1, 'over'),
    (DIED.format(1) + 'exit 1', {'restarts': 1}, 0, '', 1, 'failed'),
    (DIED.format(1) + 'exit 1', {'restarts': 1}, 1, '1 99 failed 0 host1\n', 1, 'over'),
    (DIED.format(1) + 'exit 1', {'restarts': 9}, 2, '1 99 failed 0 a\n1 9 failed 0 a\n', 1, 'failed'),
    (DIED.format(1) + 'exit 1', {'restarts': 9}, 2, '1 2 failed 0 a\n1 9 failed 0 a\n', 1, 'over'),
    ('exit 1', {'restarts': 1}, 0, '', 1, 'failed'),  # srun itself
    (DIED.format(3) + SAY.format('host1: task 0: Killed') + 'exit 137', {}, 0, '', 3, 'over'),  # the first is the cause
    (SAY.format('host2: tasks 1,3: Killed') + 'exit 137', {'restarts': 1}, 0, '', 137, 'failed'),
    (SAY.format('host2: task 1: Segmentation fault (core dumped)') + 'exit 139', {}, 0, '', 139, 'over'),
    (SAY.format('host2: task 1: Out Of Memory') + 'exit 1', {}, 0, '', 137, 'over'),
    (DIED.format(1) + SAY.format('Timed out waiting for job step to complete') + 'exit 1', {}, 0, '', 75, 'lost'),
    (DIED.format(3) + SAY.format('Timed out waiting for job step to complete') + 'exit 1', {}, 0, '', 3, 'over')])
def test_what_the_script_does_with_an_end(fake, tmp_path, says, limits, count, before, code, then):
    script = text('slurm:nodes=2', **limits)
    folder = pathlib.Path(os.environ['BIGJAX_JOBS']) / 'exp7'
    folder.mkdir(parents=True)
    (folder / 'ends').write_text(before)
    assert run(script, fake, tmp_path, says=says, SLURM_RESTART_COUNT=str(count))[0] == code
    assert len(ends()) == before.count('\n') + 1 and (ends()[-1].code, ends()[-1].then) == (code, then)
    assert requeued(fake) == (then in ('preempted', 'lost', 'failed'))
    if says.startswith('echo "srun: error: host2:'):
        assert (ends()[-1].task, ends()[-1].where) == (1, 'host2')


@pytest.mark.parametrize('state', ['CANCELLED', 'COMPLETING', 'PREEMPTED'])
def test_what_somebody_else_has_ended_is_left_to_slurm(fake, tmp_path, state):
    assert run(text(), fake, tmp_path, says=DIED.format(75) + 'exit 75', STATE=state)[0] == 75
    assert ends()[-1].then == 'left' and not requeued(fake)


def test_a_job_that_is_to_stop_is_not_started_again(fake, tmp_path):
    folder = pathlib.Path(os.environ['BIGJAX_JOBS']) / 'exp7'
    folder.mkdir(parents=True)
    assert run(text(), fake, tmp_path, says=f'touch {shlex.quote(str(folder))}/stop; {DIED.format(75)} exit 75')[0] == 75
    assert ends()[-1].then == 'over' and not requeued(fake)
    (fake / 'srun').unlink()
    assert run(text(), fake, tmp_path)[0] == 75 and not (fake / 'srun').exists()


@pytest.mark.parametrize(('code', 'courtesy', 'told'), [(1, 9, True), (75, 0, True), (75, 9, False)])
def test_when_one_process_ends_badly_the_others_are_asked_to_end(fake, tmp_path, monkeypatch, code, courtesy, told):
    monkeypatch.setattr(slurm_script, 'JOINT_EXIT_S', courtesy)
    stays = 'trap "exit 1" TERM; for _ in {1..300}; do sleep 0.1; done' if told else 'sleep 0.2; exit 75'
    run(text('slurm:nodes=2', grace=1.0), fake, tmp_path, says=DIED.format(code) + stays)
    assert (fake / 'scancel').exists() == told and ends()[-1].code == code
    assert not told or (fake / 'scancel').read_text() == '--quiet --signal=TERM 7\n'


def test_the_script_outlives_sigterm_until_srun_has_ended(fake, tmp_path):
    says = f'kill -TERM $PPID; sleep 0.3; {DIED.format(75)} exit 75'
    assert run(text(), fake, tmp_path, says=says, STATE='CANCELLED')[0] == 75
    assert ends()[-1] == slurm_script.Attempt(75, ends()[-1].seconds, 'left', 1, 'host2')


def test_what_a_process_finds(fake, tmp_path):
    tell = [sys.executable, '-c', 'import os, sys; print(os.environ["PATH"], os.environ["JAX_LOCAL_DEVICE_IDS"], sys.argv[1:])',
            "it's", 'a\nb $HOME `id` "', '', '*', '@TASKS@']
    assert run(text("slurm:gpus=4,path=/first:/a b,setup='X=1; test $X = 1'", command=tell), fake, tmp_path)[0] == 0
    header, said = (pathlib.Path(os.environ['BIGJAX_JOBS']) / 'exp7' / 'logs' / '0.log').read_text().splitlines()
    assert header.startswith('--- ') and 'job 7, start 0, process 0 of 1' in header
    assert said.startswith('/first:/a b:/') and said.endswith(f' 0,1,2,3 {tell[3:]!r}')


@pytest.mark.parametrize(('on', 'devices'), [('slurm:gpus=8', '0,1,2,3,4,5,6,7'), ('slurm', None),
                                             ('slurm:gpus=8,tasks=gpu', None)])
def test_one_process_a_node_is_told_of_all_its_gpus(fake, on, devices):
    found = re.findall(r'export JAX_LOCAL_DEVICE_IDS=(\S+)', text(on))
    assert found == ([devices] if devices else [])


def test_a_setup_that_fails_is_a_failure(fake, tmp_path):
    code, said = run(text('slurm:setup="echo no such module; false"'), fake, tmp_path)
    assert code == 1 and 'setup ended with exit code 1' in said and not (fake / 'srun').exists()


def test_a_share_of_an_array_is_started_again_alone(fake, tmp_path):
    script = text(command=['sh', '-c', 'echo I am $BIGJAX_SHARE; exit 75'], array=6)
    assert asked(script)['array'] == '0-5' and asked(script)['output'].endswith('/batch.%a.log')
    assert run(script, fake, tmp_path, SLURM_ARRAY_JOB_ID='7', SLURM_ARRAY_TASK_ID='5')[0] == 75
    assert ends('ends.5')[-1].task == 5 and (fake / 'scontrol').read_text() == 'requeue 7_5\n'
    assert 'I am 5/6' in (pathlib.Path(os.environ['BIGJAX_JOBS']) / 'exp7' / 'logs' / '5.log').read_text()


def launch(capfd, *argv):
    code = command_line.main(list(argv))
    return code, *capfd.readouterr()


@pytest.mark.parametrize(('code', 'kind'), [(0, 'done'), (4, 'the answer is no'), (7, 'failed (process 0 on host1 ended '),
                                          (137, 'failed (process 0 on host1 was killed by SIGKILL)')])
def test_a_job_from_its_start_to_its_end(fake, capfd, monkeypatch, code, kind):
    monkeypatch.setenv('TOKEN', 'open sesame')
    monkeypatch.setattr('launch.engines.slurm.slurm_group.MIN_POLL_S', 0.2)
    found, out, err = launch(capfd, 'run', '--on=slurm', '--name=exp7', '--env=TOKEN', '--', 'sh', '-c',
                             f'until [ -e "$FAKE/asked" ]; do sleep 0.1; done; echo hello $TOKEN; exit {code}')
    assert found == (1 if code > 4 else code) and f' · {kind}' in err.splitlines()[-1], err
    assert 'hello open sesame' in out and 'exp7 is SLURM job 7' in err and 'SLURM job 7: RUNNING on host1' in err
    folder = pathlib.Path(os.environ['BIGJAX_JOBS']) / 'exp7'
    assert err.splitlines()[-1].endswith(f'logs {folder}/logs · nothing is left that costs money')
    assert_secret('sesame', folders=[folder])
    assert 'TOKEN' in asked((folder / 'job.sbatch').read_text())['export'].split(',')
    assert launch(capfd, 'logs', 'exp7')[1].endswith('hello open sesame\n')
    status = launch(capfd, 'status', 'exp7')[1]
    assert 'SLURM job 7' in status and 'over: FAILED, exit code 9' in status and '[0]  hello open sesame' in status


def test_what_slurm_alone_knows_of_an_end(fake, capfd, monkeypatch):
    """The script was killed, and has written nothing."""
    monkeypatch.setattr('launch.engines.slurm.slurm_group.MIN_POLL_S', 0.2)
    monkeypatch.setenv('SAYS', 'kill -KILL $PPID; exit')
    code, _, err = launch(capfd, 'run', '--on=slurm', '--name=exp7', '--', 'true')
    assert code == 1 and 'process 0 ended with exit code 9' in err


def test_what_sbatch_refuses_is_said_first_and_the_name_is_free_again(fake, capfd, monkeypatch):
    monkeypatch.setenv('REFUSE', 'Batch job submission failed: no account')
    for _ in range(2):
        code, _, err = launch(capfd, 'run', '--on=slurm', '--name=exp7', '--', 'true')
        assert code == 2 and err.splitlines()[-1].endswith('sbatch: Batch job submission failed: no account')


def test_an_unknown_partition(fake):
    with refused('launch/unknown-partition', "'gpus'", 'nearest is gpu', 'gpu, cpu, old'):
        engine('slurm:partition=gpus').check()


@pytest.mark.parametrize(('on', 'code', 'wrong'), [
    ('slurm', 0, ''), ('slurm:nodes=2,gpus=4', 0, ''), ('slurm:nodes=2,gpus=8', 4, 'nodes: 1 of 2 that are up have 8 GPUs'),
    ('slurm:memory=501G', 4, 'nodes: 0 of 2'), ('slurm:cpus=65', 4, 'nodes: 0 of 2'), ('slurm:partition=old', 4, 'old is down'),
    ('slurm:partition=opu', 4, "'opu'"), ('slurm:time=3-00', 4, 'time: 3-00 of at most 48.0 h')])
def test_the_doctor(fake, capfd, on, code, wrong):
    found, out, _ = launch(capfd, 'doctor', f'--on={on}')
    failed = [line for line in out.splitlines() if line.startswith('FAIL')]
    assert found == code and len(failed) == bool(wrong) and wrong in ''.join(failed), out
