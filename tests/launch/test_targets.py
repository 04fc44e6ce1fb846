"""The values of --on: how they are read and written, and what each engine refuses, by the code of the error."""
import dataclasses

import pytest

from launch import __main__ as command_line
from launch import target
from launch.engines import base
from launch.engines.tpu_vm import tpu_vm
from launch.job import Job
from tests.refused import refused


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


@pytest.mark.parametrize('text', ['v5e-16,zone=z,spot=yes', "v5e-16,queued=no,slices=2,setup='a, b=c'", 'node=mine', ''])
def test_a_target_is_written_as_it_is_read(text):
    read = target.parse('tpu_vm', text, tpu_vm.Target)
    assert target.write(read) == text and target.parse('tpu_vm', target.write(read), tpu_vm.Target) == read


@pytest.mark.parametrize(('cls', 'text', 'code', 'value'), [
    (Hosts, 'a,ports=2', 'launch/unknown-key', 'nearest is port'), (Hosts, 'a,port=2,b', 'launch/bad-order', "'b'"),
    (Hosts, 'port=x', 'launch/bad-value', 'port=x'), (Hosts, 'spot=perhaps', 'launch/bad-value', 'spot=perhaps'),
    (Hosts, 'setup="a', 'launch/open-quote', '"'), (Slice, 'zone=a', 'launch/missing-key', 'type'),
    (Slice, 'v5e-8,zon', 'launch/unknown-key', 'nearest is zone'), (Slice, 'v5e-8,zone', 'launch/unknown-key', 'zone=…'),
    (Slice, 'v5e-8,hours=long', 'launch/bad-value', 'hours=long')])
def test_a_wrong_target_is_refused(cls, text, code, value):
    with refused(code, '--on=kind:', value):
        target.parse('kind', text, cls)


def test_a_target_describes_itself():
    assert target.describe(Slice) == [('type', 'the accelerator'), ('zone', 'where'), ('hours=1.5', 'how long')]


WRONG = [
    ('', 'launch/no-engine', '--on=local:2'), ('loca:2', 'launch/unknown-engine', 'nearest is local'),
    *((f'local:{text}', 'launch/bad-value', text) for text in ('two', '0', '-1', '1.5', '²')),
    ('ssh:', 'launch/missing-key', 'hosts'), ('ssh:h1,h1', 'launch/duplicate-host', 'h1'),
    ('ssh:h1,usr=me', 'launch/unknown-key', 'nearest is user'), ('ssh:h1,port=a', 'launch/bad-value', 'port=a'),
    ('ssh:h1,per_host=0', 'launch/bad-value', 'per_host=0'), ('ssh:@nowhere.txt', 'launch/no-file', 'nowhere.txt'),
    ('ssh:h1,identity=nokey', 'launch/no-file', 'identity=nokey'), ('ssh:-v', 'launch/bad-host', "'-v'"),
    ('ssh:-oProxyCommand=x', 'launch/unknown-key', '-oProxyCommand'), ('ssh:h1,setup=a, b', 'launch/bad-order', "'b'"),
    ('tpu_vm:', 'launch/missing-key', 'v5e-16'), ('tpu_vm:v5e-16,project=p', 'launch/missing-key', 'zone='),
    ('tpu_vm:tpu7x-64,zone=z', 'launch/other-engine', '--on=jobset'),
    ('tpu_vm:v5e-17,zone=z', 'launch/no-such-size', 'v5e-16'),
    ('tpu_vm:v5e-16,zone=z,sport', 'launch/unknown-key', 'nearest is spot'),
    ('tpu_vm:v5e-16,zone=z,spot,reserved', 'launch/conflict', 'reserved'),
    ('tpu_vm:v5e-16,zone=z,queued=no,slices=2', 'launch/conflict', 'queued=no'),
    ('tpu_vm:v5e-16,zone=z,slices=0', 'launch/conflict', 'slices'),
    ('tpu_vm:node=mine,zone=z,spot', 'launch/conflict', 'leave out spot'),
    ('tpu_vm:v5e-16,zone=z,wait=day', 'launch/bad-value', 'wait=day'),
    ('tpu_vm:v5e-16,zone=z,valid_until=6', 'launch/bad-value', 'valid_until=6'),
    ('slurm:nodes=0', 'launch/bad-value', 'nodes=0'), ('slurm:gpus=many', 'launch/bad-value', 'gpus=many'),
    ('slurm:tasks=cpu', 'launch/bad-value', 'tasks=cpu'), ('slurm:tasks=gpu', 'launch/bad-value', 'gpus='),
    ('slurm:time=tomorrow', 'launch/bad-value', 'time=tomorrow'), ('slurm:time=1,notice=60', 'launch/bad-value', 'time=1'),
    ('slurm:memory=much', 'launch/bad-value', 'memory=64G'), ('slurm:cpus=-1', 'launch/bad-value', 'cpus=-1'),
    ('slurm:partition="a b"', 'launch/bad-value', "partition='a b'"),
    ('slurm:extra="exclusive"', 'launch/bad-value', 'exclusive'),
    ('slurm:partition="a\n#SBATCH --uid=0"', 'launch/bad-value', 'partition='),
    ('slurm:extra="--a \'b"', 'launch/bad-value', ''), ('slurm:node=2', 'launch/unknown-key', 'nearest is nodes'),
    ('slurm:folder="a\nb"', 'launch/bad-folder', 'BIGJAX_JOBS'),
    ('jobset:v9e-16,image=i', 'launch/unknown-machine', 'v9e-16'),
    ('jobset:v3-8,image=i', 'launch/other-engine', '--on=tpu_vm:'), ('jobset:v6e-16', 'launch/missing-key', 'image='),
    ('jobset:image=i', 'launch/missing-key', 'type='), ('jobset:v6e-16,image=i,nodes=2', 'launch/conflict', 'nodes'),
    ('jobset:h100:8,image=i,slices=2', 'launch/conflict', 'nodes=2'),
    ('jobset:v6e-4,image=i,slices=2', 'launch/conflict', 'v6e-4'),
    ('jobset:v6e-16,image=i,topology=4x5', 'launch/bad-topology', '4x4'),
    ('jobset:v5p-128,image=i,topology=8x8', 'launch/bad-topology', '4x4x4'),
    ('jobset:v6e-16,image=i,chips=8', 'launch/bad-value', 'chips=8'), ('jobset:h100,image=i', 'launch/bad-value', 'h100:8'),
    ('jobset:h101:8,image=i', 'launch/unknown-machine', 'nearest is h100'),
    ('jobset:h100:0,image=i', 'launch/bad-value', 'h100:8'),
    ('jobset:v6e-16,image=i,slices=0', 'launch/bad-value', 'slices=0'),
    ('jobset:v6e-16,image=i,xpk', 'launch/missing-key', 'cluster'),
    ('jobset:v6e-16,image=i,selector=a', 'launch/bad-value', 'KEY=VALUE'),
    ('jobset:v6e-16,image=i,imge=3', 'launch/unknown-key', 'nearest is image'),
    ('jobset:h100:8,image=i,chips=4', 'launch/conflict', 'chips'), ('sky:', 'launch/missing-key', 'sky:A100:8'),
    ('sky:v9e-16', 'launch/unknown-machine', 'v9e-16'), ('sky:tpu7x-8', 'launch/other-engine', '--on=jobset:'),
    ('sky:v5e-16,nodes=2', 'launch/conflict', 'nodes'), ('sky:A100:8,nodes=0', 'launch/bad-value', 'nodes=0'),
    ('sky:A100:x', 'launch/unknown-machine', 'A100:x'), ('sky:A100:8,spt', 'launch/unknown-key', 'nearest is spot')]


@pytest.mark.parametrize(('on', 'code', 'value'), WRONG, ids=[on for on, *_ in WRONG])
def test_a_target_that_an_engine_does_not_take(monkeypatch, tmp_path, on, code, value):
    monkeypatch.setenv('CLOUDSDK_CONFIG', str(tmp_path))
    with refused(code, value):
        base.engine(Job('exp7', on, ('python',))).plan()


@pytest.mark.parametrize('on', ['slurm:nodes=2', 'slurm:tasks=gpu,gpus=4', 'jobset:v6e-16,image=i',
                                'jobset:h100:8,nodes=2,image=i', 'sky:A100:8,nodes=2', 'tpu_vm:v5e-16,zone=z'])
def test_shares_of_a_sweep_need_machines_of_their_own(on):
    with refused('launch/bad-value' if on.startswith('slurm') else 'launch/no-array'):
        base.engine(Job('exp7', on, ('python',), array=4)).plan()


@pytest.mark.parametrize(('on', 'program', 'install'), [
    ('local:2', 'no-such-program', 'PATH'), ('slurm', 'sbatch', 'apt install slurm-client'), ('ssh:h1', 'ssh', 'apt install'),
    ('tpu_vm:v5e-16,zone=z,project=p', 'gcloud', 'curl'), ('jobset:v6e-16,image=i', 'kubectl', 'install kubectl'),
    ('sky:A100:8', 'sky', 'pip install')])
def test_a_missing_program_is_refused_with_how_to_install_it(monkeypatch, tmp_path, on, program, install):
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.setenv('BIGJAX_JOBS', str(tmp_path / 'jobs'))
    with refused('launch/no-program', program, install):
        base.engine(Job('exp7', on, ('no-such-program',))).check()
    assert not (tmp_path / 'jobs').exists()


@pytest.mark.parametrize(('on', 'workdir', 'warned'), [
    ('tpu_vm:v5e-16,zone=z,project=p', '/tmp/x', True), ('tpu_vm:v5e-16,zone=z,project=p', 'gs://b/x', False),
    ('tpu_vm:v5e-16,zone=z,project=p,keep', '/tmp/x', False), ('tpu_vm:node=mine,zone=z,project=p', '/tmp/x', False),
    ('jobset:v6e-16,image=i', '/tmp/x', True), ('sky:A100:8', '/tmp/x', True),
    ('local', '/tmp/x', False), ('slurm', '/tmp/x', False)])
def test_a_workdir_that_is_lost_with_its_machine_is_warned_of(capfd, on, workdir, warned):
    command = ['python', '-m', 'experiments.mnist1d', f'--workdir={workdir}']
    assert command_line.main(['run', f'--on={on}', '--name=exp7', '--dry_run', '--', *command]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:5]] == ['what', 'where', 'processes', 'code', 'cost']
    assert lines[5].startswith(f'# warning: --workdir={workdir}') == warned


def test_every_engine_can_be_described(capfd):
    for kind in base.ENGINES:
        assert command_line.main(['--help', f'--on={kind}']) == 0
        assert f'--on={kind}:KEY=VALUE' in capfd.readouterr().out
