"""The slice of a job, made and unmade against a model of Google's API, with a made-up clock."""
import json
import types

import pytest

from launch.engines.tpu_vm import gcloud, resources, tpu_slice, tpu_types
from launch.engines.tpu_vm.resources import READY, Resources
from launch.engines.tpu_vm.tpu_slice import Allocation
from launch.job import Job
from tests.launch.fake_tpu import Cloud, Error
from tests.launch.tools import Clock
from tests.refused import refused

WHERE = {'zone': 'us-west4-a', 'project': 'p'}
QUOTA = Error(429, 'RESOURCE_EXHAUSTED', "Quota limit 'TPUV5sLitepodPerProjectPerZone' has been exceeded. Limit: 8")


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A cloud, a clock, and what makes an allocation; what is said is in `said`."""
    monkeypatch.setenv('BIGJAX_JOBS', str(tmp_path))
    cloud, clock, said = Cloud(), Clock(), []
    monkeypatch.setattr(gcloud, 'execute', cloud.gcloud)
    monkeypatch.setattr(tpu_slice, 'time', clock)
    monkeypatch.setattr(tpu_slice, 'log', said.append)

    def allocation(name='exp7', created='2026-01-01', *, queued=True, slices=1, wait=86400.0, **flags):
        job = Job(name, 'tpu_vm:v5e-16', ('python',), created=created)
        own = Resources(job, WHERE, tpu_types.parse('v5e-16', 'tpu_vm'), slices=slices, queued=queued, flags=flags)
        return Allocation(own, tpu_slice.record(job), wait)

    def fails(*values, made=None):
        """A start is refused with a message that has these values; afterwards no new resource is left, and no record."""
        before, made = cloud.live, made or allocation()
        with refused('launch/google-refused', *values), made.or_nothing(False):
            made.ensure()
        assert cloud.live == before and not record.exists()

    record = tmp_path / 'exp7' / 'slice.json'
    return types.SimpleNamespace(cloud=cloud, clock=clock, said=said, allocation=allocation, record=record, fails=fails)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize('queued, things', [(True, ['nodes/exp7', 'queuedResources/exp7']), (False, ['nodes/exp7'])])
def test_made_waited_for_and_deleted(world, queued, things):
    made = world.allocation(queued=queued)
    found = made.ensure()
    assert (found.state, world.cloud.live) == (READY, things)
    assert [resources.endpoints(node) for node in found.nodes] == [[('10.0.0.1', '10.0.0.1'), ('10.0.0.2', '10.0.0.2')]]
    assert json.loads(world.record.read_text())['zone'] == 'us-west4-a'
    assert len(made.resources.exists()) == len(things)
    assert made.delete() and world.cloud.live == [] and made.resources.exists() == [] and not world.record.exists()
    assert made.delete() == []


def test_several_slices(world):
    found = world.allocation(slices=12).ensure()
    assert [resources.short(node) for node in found.nodes] == [f'exp7-{i}' for i in range(12)]
    assert len(world.cloud.bodies) == 1 and len(world.cloud.live) == 13


def test_every_change_is_said(world):
    world.allocation().ensure()
    told = ' '.join(world.said)
    for state in ('CREATING', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE', 'READY'):
        assert told.count(state) >= 1
    assert len(world.said) < 8


@pytest.mark.parametrize('path, state', [
    (['CREATING', 'WAITING_FOR_RESOURCES'], 'WAITING_FOR_RESOURCES'), (['CREATING', 'ACCEPTED'], 'ACCEPTED'),
    (['CREATING', 'PROVISIONING'], 'PROVISIONING'), (['A_NEW_WORD'], 'A_NEW_WORD'), (['CREATING', 'ACTIVE'], 'ACTIVE')])
def test_waits_are_bounded(world, path, state):
    world.cloud.queue_path, world.cloud.node_path = path, ['CREATING']
    world.fails(state, made=world.allocation(wait=7200.0))
    free = state != 'ACTIVE'  # with no machines that are ready: they may cost money
    assert (7200 < world.clock.now < 7400) if free else (1800 < world.clock.now < 2000)


@pytest.mark.parametrize('state', ['SUSPENDED', 'SUSPENDING', 'FAILED'])
def test_dead_when_it_starts(world, state):
    made = world.allocation()
    made.ensure()
    world.cloud.queues['exp7']['state'] = {'state': state}
    assert made.ensure().state == READY
    assert [line.split('/')[0] for line in world.cloud.log] == [
        'POST queuedResources', 'DELETE queuedResources', 'POST queuedResources']


@pytest.mark.parametrize('state', ['PREEMPTED', 'TERMINATED', 'STOPPED', 'STOPPING', 'HIDDEN', 'HIDING', 'DELETING'])
@pytest.mark.parametrize('queued', [True, False])
def test_a_dead_node(world, queued, state):
    made = world.allocation(queued=queued)
    made.ensure()
    world.cloud.nodes['exp7']['state'] = state
    assert made.ensure().state == READY and len(world.cloud.bodies) == 2


@pytest.mark.parametrize('state', ['REPAIRING', 'RESTARTING', 'REIMAGING', 'STARTING', 'UNHIDING', 'UNKNOWN'])
def test_a_node_that_comes_back(world, state):
    made = world.allocation()
    made.ensure()
    world.cloud.nodes['exp7'] |= {'state': state, 'path': [state, 'READY']}
    assert made.ensure().state == READY and len(world.cloud.bodies) == 1


def test_suspended_before_it_was_used(world):
    world.cloud.queue_path = ['CREATING', 'SUSPENDED']
    world.fails('3 times')
    assert len(world.cloud.bodies) == 3


def test_failed(world):
    world.cloud.queue_path, world.cloud.failure = ['CREATING', 'FAILED'], 'There is no more capacity in the zone'
    world.fails('There is no more capacity in the zone (v5litepod-16)')


@pytest.mark.parametrize('queued', [True, False])
def test_quota(world, queued):
    world.cloud.refuse['POST queuedResources' if queued else 'POST nodes'] = QUOTA
    world.fails("RESOURCE_EXHAUSTED: Quota limit 'TPUV5s", 'project=p', made=world.allocation(queued=queued))
    assert not any('deletes' in line for line in world.said)


@pytest.mark.parametrize('queued', [True, False])
def test_a_name_in_use_is_not_touched(world, queued):
    other = world.allocation(created='2025-12-31', queued=queued)
    other.ensure()
    world.record.unlink()  # is on another machine
    mine = world.allocation(queued=queued)
    world.fails('exp7: in use in us-west4-a', '--name', made=mine)
    assert mine.delete() == [] and mine.resources.exists() == []
    assert not any(line.startswith('DELETE') for line in world.cloud.log)


def test_a_name_taken_meanwhile(world):
    world.cloud.refuse['POST queuedResources'] = Error(409, 'ALREADY_EXISTS', "Resource 'exp7' already exists")
    world.fails("ALREADY_EXISTS: Resource 'exp7' already exists")
    assert not any(line.startswith('DELETE') for line in world.cloud.log)


@pytest.mark.parametrize('sleeps', range(1, 6))
@pytest.mark.parametrize('queued', [True, False])
def test_interrupted_while_it_waits(world, queued, sleeps):
    world.cloud.node_path = ['CREATING', 'CREATING', 'CREATING', 'READY']
    world.cloud.queue_path = ['CREATING', 'ACCEPTED', 'PROVISIONING', 'ACTIVE']
    world.clock.at[sleeps] = interrupt
    made = world.allocation(queued=queued)
    try:
        with made.or_nothing(False):
            made.ensure()
            world.clock.at.clear()
            interrupt()
    except KeyboardInterrupt:
        pass
    assert world.cloud.live == [] and not world.record.exists()


@pytest.mark.parametrize('comes', ['never', 'at once', 'later'])
def test_interrupted_in_the_command_that_makes_it(world, monkeypatch, comes):
    """A resource may come to exist after the command that requested it was interrupted; `execute` waits for that."""
    made, real = world.allocation(), world.cloud.gcloud

    def execute(step, seconds, until=None):
        if 'create' not in step.argv:
            return real(step, seconds)
        assert until is not None and not until()
        if comes == 'at once':
            real(step, seconds)
            assert until()
        elif comes == 'later':
            world.clock.at[1] = lambda: real(step, seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(gcloud, 'execute', execute)
    with pytest.raises(KeyboardInterrupt), made.or_nothing(False):
        made.ensure()
    assert bool(world.cloud.bodies) == (comes != 'never')
    assert world.cloud.live == [] and not world.record.exists()
    assert any('looks for resources' in line for line in world.said)


def test_killed_before_it_could_delete(world):
    world.cloud.queue_path = ['WAITING_FOR_RESOURCES']
    with pytest.raises(KeyboardInterrupt):  # as kill -9: nothing is cleaned up
        world.clock.at[1] = interrupt
        world.allocation().ensure()
    assert world.cloud.live == ['queuedResources/exp7'] and world.record.exists()
    again = world.allocation()  # as 'launch down' makes it from the job's record
    assert again.resources.exists() == ['queued resource exp7 in us-west4-a']
    assert again.delete() == ['queued resource exp7 deleted'] and world.cloud.live == []


def test_deletion_that_is_refused_at_first(world):
    made = world.allocation()
    made.ensure()
    world.cloud.refuse['DELETE queuedResources'] = Error(400, 'FAILED_PRECONDITION', 'not now')
    world.clock.at[world.clock.sleeps + 3] = world.cloud.refuse.clear
    assert made.delete() and world.cloud.live == []


def test_deletion_that_is_refused_always(world):
    made = world.allocation()
    made.ensure()
    world.cloud.refuse['DELETE queuedResources'] = Error(403, 'PERMISSION_DENIED', 'you may not')
    with refused('launch/google-refused', 'PERMISSION_DENIED: you may not', 'launch down exp7', 'queued-resources delete exp7'):
        made.delete()
    assert world.record.exists()


def test_nobody_can_tell(world):
    made = world.allocation()
    made.ensure()
    world.cloud.refuse['GET queuedResources'] = Error(503, 'UNAVAILABLE', 'try later')
    assert made.resources.exists()[0].startswith('? ') and 'UNAVAILABLE: try later' in made.resources.exists()[0]
    with refused('launch/google-refused', 'exp7'):
        made.delete()
    assert world.record.exists()


def test_a_place_in_the_queue_outlives_silence(world):
    world.cloud.queue_path = ['CREATING', *['WAITING_FOR_RESOURCES'] * 10, 'ACTIVE']
    refuse = lambda: world.cloud.refuse.update({'GET queuedResources': Error(503, 'UNAVAILABLE', 'try later')})
    world.clock.at = {3: refuse, 9: world.cloud.refuse.clear}
    assert world.allocation().ensure().state == READY and len(world.cloud.bodies) == 1
    assert sum('retries' in line for line in world.said) == 1


@pytest.mark.parametrize('keep, left', [(False, 0), (True, 2)])
def test_an_error_after_it_is_ready(world, keep, left):
    made = world.allocation()
    with pytest.raises(ZeroDivisionError), made.or_nothing(keep):
        made.ensure()
        raise ZeroDivisionError
    assert len(world.cloud.live) == left


def test_keep_is_for_what_is_ready(world):
    world.clock.at[1] = interrupt
    made = world.allocation()
    with pytest.raises(KeyboardInterrupt), made.or_nothing(True):
        made.ensure()
    assert world.cloud.live == []


@pytest.mark.parametrize('text, seconds', [('90m', 5400), ('24h', 86400), ('1.5d', 129600), ('30s', 30)])
def test_durations(text, seconds):
    assert tpu_slice.seconds(text, 'wait') == seconds


@pytest.mark.parametrize('text', ['', '24', 'h', '24 hours', '-1h', '1h30m'])
def test_no_durations(text):
    with refused('launch/bad-value', f'wait={text}: '):
        tpu_slice.seconds(text, 'wait')
