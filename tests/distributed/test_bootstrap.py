"""The part of a process in a job, from made-up environments; and wrong coordinators, refused in seconds with the reason."""
import contextlib
import json
import re
import socket
import threading
import time

import pytest

from bigjax.distributed import rendezvous
from bigjax.distributed.bootstrap import Flags, Start, decide, first_node, split, start, tasks_per_node
from bigjax.errors import UserError
from tests.refused import refused

EIGHT = ','.join(map(str, range(8)))


def slurm(process, local, *, tasks=16, nodes=2, per_node='8(x2)', **more):
    """Task `process` of a step of two nodes, as srun sets its environment."""
    return {'SLURM_JOB_ID': '5000', 'SLURM_STEP_NODELIST': 'gpu[07-08]', 'SLURM_NTASKS': '99',
            'SLURM_STEP_NUM_TASKS': str(tasks), 'SLURM_PROCID': str(process), 'SLURM_LOCALID': str(local),
            'SLURM_STEP_NUM_NODES': str(nodes), 'SLURM_STEP_TASKS_PER_NODE': per_node,
            'SLURM_NODEID': str(process // 8), **more}


def mpi(rank, local, *, size=4, local_size=2, **more):
    """A rank that mpirun of Open MPI 4 started."""
    return {'OMPI_COMM_WORLD_SIZE': str(size), 'OMPI_COMM_WORLD_RANK': str(rank), 'OMPI_COMM_WORLD_LOCAL_RANK': str(local),
            'OMPI_COMM_WORLD_LOCAL_SIZE': str(local_size),
            'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911', **more}


def table(decided):
    """(coordinator, processes, process, devices of this process)."""
    return decided.coordinator, decided.processes, decided.process, decided.local_devices


ALONE = ('', 1, 0, None)
SLURM = f'gpu07:{61440 + 5000 % 4096}'
MPI = f'10.96.0.1:{61440 + (1531576320 >> 12) % 4096}'
MPI6 = f'[fe80::b9b]:{61440 + (1314521088 >> 12) % 4096}'
GKE = {'TPU_WORKER_HOSTNAMES': 'job-0-0.s,job-0-1.s', 'TPU_WORKER_ID': '1'}
SLICES = {'MEGASCALE_NUM_SLICES': '2', 'MEGASCALE_SLICE_ID': '1', 'MEGASCALE_COORDINATOR_ADDRESS': 'job-0-0.s:8081'}
POD = {'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'JOB_COMPLETION_INDEX': '3', 'BIGJAX_PROCESSES': '4'}


@pytest.mark.parametrize(('environ', 'expected'), [
    ({}, ALONE),
    ({'CUDA_VISIBLE_DEVICES': EIGHT}, ALONE),
    (slurm(9, 1, CUDA_VISIBLE_DEVICES=EIGHT), (SLURM, 16, 9, (1,))),
    (slurm(9, 1, CUDA_VISIBLE_DEVICES='0', SLURM_GPUS_PER_TASK='1'), (SLURM, 16, 9, None)),
    (slurm(9, 1, CUDA_VISIBLE_DEVICES='1'), (SLURM, 16, 9, None)),
    (slurm(3, 1, tasks=4, per_node='2(x2)', CUDA_VISIBLE_DEVICES='0,1,2,3', SLURM_TRES_PER_TASK='cpu=4,gres/gpu=4'),
     (SLURM, 4, 3, None)),
    (slurm(3, 1, tasks=4, per_node='2(x2)', CUDA_VISIBLE_DEVICES=EIGHT), (SLURM, 4, 3, (4, 5, 6, 7))),
    (slurm(1, 0, tasks=2, per_node='1(x2)', CUDA_VISIBLE_DEVICES=EIGHT), (SLURM, 2, 1, None)),
    (slurm(9, 1, CUDA_VISIBLE_DEVICES=EIGHT, SLURM_GPU_BIND='none'), (SLURM, 16, 9, (1,))),
    (slurm(1, 1, tasks=2, nodes=1, per_node='2'), (f'127.0.0.1:{61440 + 904}', 2, 1, (1,))),
    (slurm(0, 0, tasks=1, nodes=1, per_node='1', CUDA_VISIBLE_DEVICES=EIGHT), ALONE),
    ({'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '8', 'SLURM_PROCID': '0', 'SLURM_LOCALID': '0'}, ALONE),
    (slurm(9, 1, JAX_LOCAL_DEVICE_IDS='2,3', JAX_COORDINATOR_PORT='5555'), ('gpu07:5555', 16, 9, (2, 3))),
    (mpi(3, 1, CUDA_VISIBLE_DEVICES='0,1'), (MPI, 4, 3, (1,))),
    (mpi(1, 1, size=2, OMPI_MCA_orte_hnp_uri='', PMIX_NAMESPACE='prterun-a@1'), ('127.0.0.1', 2, 1, (1,))),
    (mpi(0, 0, OMPI_MCA_orte_hnp_uri='1314521088.0;tcp6://[fe80::b9b,2620::2]:43370'), (MPI6, 4, 0, (0,))),
    (GKE, ('job-0-0.s:8482', 2, 1, None)),
    ({**GKE, **SLICES}, ('job-0-0.s:8482', 4, 3, None)),
    ({'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_WORKER_ID': '0'}, ALONE),
    (POD, ('train-w-0-0.train.ns.svc:55527', 4, 3, None)),
    ({**POD, 'BIGJAX_PROCESSES': '1', 'JOB_COMPLETION_INDEX': '0'}, ALONE),
    ({**POD, 'BIGJAX_PROCESSES': '1'}, ALONE),
    ({'KUBERNETES_SERVICE_HOST': '10.0.0.1'}, ALONE),
    ({'BIGJAX_COORDINATOR': 'a:1', 'BIGJAX_PROCESSES': '2', 'BIGJAX_PROCESS': '1'}, ('a:1', 2, 1, None)),
    (slurm(9, 1, JAX_COORDINATOR_ADDRESS='login:99', CUDA_VISIBLE_DEVICES=EIGHT), ('login:99', 16, 9, (1,)))])
def test_the_environment_decides(environ, expected):
    found = table(decide(environ, fqdn=lambda: 'train-w-0-3.train.ns.svc'))
    if expected[0] == '127.0.0.1':  # the port is made of a name
        assert re.fullmatch(r'127\.0\.0\.1:6\d{4}', found[0])
        found = ('127.0.0.1', *found[1:])
    assert found == expected


def test_the_metadata_of_a_tpu_vm_decides():
    values = {'agent-worker-number': '1', 'worker-network-endpoints': 'a:0:10.0.0.2,b:1:10.0.0.3', 'tpu-env': "X: 'y'\n"}
    assert table(decide({}, metadata=values.get)) == ('10.0.0.2:8482', 2, 1, None)
    values |= {'worker-network-endpoints': '10.0.0.2,10.0.0.3',
               'tpu-env': "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.0.9'\n"}
    assert table(decide({}, metadata=values.get)) == ('10.0.0.9:8482', 4, 3, None)
    values |= {'worker-network-endpoints': '10.0.0.2', 'agent-worker-number': '0', 'tpu-env': ''}
    assert table(decide({}, metadata=values.get)) == ALONE
    assert table(decide({}, metadata=lambda name: '')) == ALONE


def test_flags_come_before_the_environment():
    flags = Flags('10.0.0.1:77', 4, 2)
    assert table(decide(slurm(9, 1, CUDA_VISIBLE_DEVICES=EIGHT), flags)) == ('10.0.0.1:77', 4, 2, None)
    assert table(decide({'BIGJAX_PROCESS': '3'}, Flags('a:1', 4, 0))) == ('a:1', 4, 0, None)
    assert table(decide({}, Flags('', 1, 0))) == ALONE


@pytest.mark.parametrize(('environ', 'flags', 'code', 'name'), [
    ({}, Flags('a:1'), 'distributed/incomplete', '--processes and --process'),
    ({}, Flags('', 2), 'distributed/incomplete', '--coordinator and --process'),
    ({}, Flags('', 2, 0), 'distributed/incomplete', '--coordinator'),
    ({}, Flags('a:1', 2, 2), 'distributed/rank', '0 … 1'),
    ({}, Flags('a:1', 0, 0), 'distributed/rank', '--processes=0'),
    ({}, Flags('a', 2, 0), 'distributed/coordinator', 'HOST:PORT'),
    ({}, Flags('a:b', 2, 0), 'distributed/coordinator', 'a:b'),
    ({}, Flags('::1:99', 2, 0), 'distributed/coordinator', '::1:99'),
    ({'BIGJAX_PROCESSES': 'two'}, Flags(), 'distributed/variable', 'BIGJAX_PROCESSES: got two'),
    ({'KUBERNETES_SERVICE_HOST': 'x', 'JOB_COMPLETION_INDEX': '0'}, Flags(), 'distributed/incomplete', 'BIGJAX_PROCESSES'),
    (POD, Flags(), 'distributed/incomplete', 'without spec.subdomain'),
    (mpi(0, 0, OMPI_MCA_orte_hnp_uri=''), Flags(), 'distributed/incomplete', 'Open MPI')])
def test_incomplete_or_wrong_values_are_refused(environ, flags, code, name):
    with refused(code, name):
        decide(environ, flags)


def test_lists_of_nodes_and_addresses():
    lists = ('node001', 'node001,host2', 'node[001-015],x', 'node[003,007-9]', 'r[1-2]n[04-5]-ib,z')
    assert [first_node(nodes) for nodes in lists] == ['node001', 'node001', 'node001', 'node003', 'r1n04-ib']
    assert tasks_per_node('8(x2),4') == [8, 8, 4] and tasks_per_node('2') == [2]
    assert split('[fe80::1]:99') == ('fe80::1', 99) and split('a.b:1') == ('a.b', 1)


def test_alone_nothing_happens(monkeypatch):
    for name in ('SLURM_JOB_ID', 'OMPI_COMM_WORLD_SIZE', 'BIGJAX_PROCESSES', 'JOB_COMPLETION_INDEX', 'TPU_WORKER_HOSTNAMES'):
        monkeypatch.delenv(name, raising=False)
    lines = []
    assert start(log=lines.append) == Start() and not lines
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    monkeypatch.setenv('SLURM_NTASKS', '8')
    assert start(log=lines.append).processes == 1 and 'start it with srun' in lines[0]


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def meet(process, port, *, processes=2, host='127.0.0.1', hosts=None, seconds=30.0, command='train', log=lambda text: None,
         late_names=False):
    """One process at the rendezvous."""
    who = Start(f'{host}:{port}', processes, process, None, 'a test', hosts, late_names)
    return rendezvous.rendezvous(who, (host, port), command=command, seconds=seconds, log=log)[0]


def together(*calls):
    """The result of each of several processes, here threads: an error or what `meet` returned."""
    results = [None] * len(calls)

    def run(i, call):
        try:
            results[i] = call()
        except UserError as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join(30)
    return results


@contextlib.contextmanager
def refused_in_five_seconds(code, *names):
    """The block is refused in time."""
    began = time.monotonic()
    with refused(code, *names):
        yield
    assert time.monotonic() - began < 5


@pytest.mark.parametrize('process', [0, 1])
def test_a_loopback_coordinator_of_several_hosts_is_refused(process):
    with refused_in_five_seconds('distributed/loopback', '2 hosts'):
        meet(process, 9999, host='localhost', hosts=2)


def test_a_loopback_coordinator_of_another_machine_is_refused():
    with refused_in_five_seconds('distributed/no-answer', 'loopback'):
        meet(1, free_port())


@pytest.mark.parametrize(('process', 'host', 'code'), [
    (1, 'no-such-host.invalid', 'distributed/no-address'), (0, 'no-such-host.invalid', 'distributed/no-address'),
    (0, '203.0.113.7', 'distributed/coordinator'), (1, '0.0.0.0', 'distributed/coordinator')])
def test_an_address_that_cannot_be_is_refused(process, host, code):
    with refused_in_five_seconds(code, host):
        meet(process, 9999, host=host, hosts=2)


def test_a_name_service_that_is_silent_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *a, **k: time.sleep(20) or [])
    with refused_in_five_seconds('distributed/no-address', '3 s'):
        meet(1, 9999, host='node7', hosts=2)


def test_a_name_that_comes_with_its_pod_is_waited_for(monkeypatch):
    real, began = socket.getaddrinfo, time.monotonic()

    def late(host, *args, **options):
        if host == 'job-0.s' and time.monotonic() - began < 1.5:
            raise socket.gaierror(-2, 'Name or service not known')
        return real('127.0.0.1' if host == 'job-0.s' else host, *args, **options)

    monkeypatch.setattr(socket, 'getaddrinfo', late)
    port = free_port()
    results = together(*[lambda p=p: meet(p, port, host='job-0.s', late_names=True) for p in (0, 1)])
    assert results == [f'[::]:{port}', '']


def test_two_coordinators_are_refused():
    with socket.create_server(('127.0.0.1', 0)) as other, refused_in_five_seconds('distributed/port'):
        meet(0, other.getsockname()[1])


@pytest.mark.parametrize('answer', [b'SSH-2.0-OpenSSH_9.2\r\n', b''])
def test_another_service_at_the_address_is_refused(answer):
    with socket.create_server(('127.0.0.1', 0)) as server:
        def serve():
            connection = server.accept()[0]
            connection.sendall(answer)
            connection.recv(4096)
            connection.close()
        thread = threading.Thread(target=serve)
        thread.start()
        with refused_in_five_seconds('distributed/stranger'):
            meet(1, server.getsockname()[1])
        thread.join(5)


def test_the_same_process_twice_is_refused_everywhere():
    port, began = free_port(), time.monotonic()
    results = together(*[lambda p=p: meet(p, port, processes=4) for p in (0, 1, 1)])
    assert time.monotonic() - began < 5
    assert all(r.code == 'distributed/twice' and re.search(r'process 1 on \S+ \(pid \d+\)', str(r)) for r in results)


def test_different_counts_are_refused_everywhere():
    port = free_port()
    results = together(lambda: meet(0, port, processes=3), lambda: meet(1, port, processes=2))
    assert all(r.code == 'distributed/counts' for r in results)


def test_another_job_is_refused_and_this_one_continues():
    port, lines = free_port(), []
    results = together(lambda: meet(0, port, log=lines.append), lambda: meet(1, port, command='eval'), lambda: meet(1, port))
    assert results[0] == f'127.0.0.1:{port}' and results[1].code == 'distributed/other-job' and results[2] == ''
    assert lines == [f'all 2 processes are here: {socket.gethostname()}: 0 1']


def test_strangers_and_the_dead_do_not_count(monkeypatch):
    monkeypatch.setattr(rendezvous, 'LOOPBACK_S', 30.0)  # on a busy machine the strangers take their time
    port, gone = free_port(), threading.Event()

    def send(text):
        until = time.monotonic() + 10
        while True:
            try:
                with socket.create_connection(('127.0.0.1', port)) as connection:
                    return connection.sendall(text)
            except ConnectionRefusedError:  # process 0 is not listening yet
                assert time.monotonic() < until
                time.sleep(0.1)

    def strangers_then_process_1():
        for text in (b'GET / HTTP/1.1\r\n\r\n', b'{"process": "x"}\n', b'[1]\n'):
            send(text)
        hello = {'process': 1, 'processes': 3, 'host': 'a', 'pid': 1, 'command': 'train'}
        send(json.dumps(hello).encode() + b'\n')
        time.sleep(1)
        gone.set()
        return meet(1, port, processes=3)

    results = together(lambda: meet(0, port, processes=3), strangers_then_process_1,
                       lambda: gone.wait() and meet(2, port, processes=3))
    assert results == [f'127.0.0.1:{port}', '', '']


def test_the_ranks_that_have_arrived_are_logged_while_waiting(monkeypatch):
    monkeypatch.setattr(rendezvous, 'LOG_EVERY_S', 0.3)
    port, lines = free_port(), []
    results = together(lambda: meet(0, port, processes=4, seconds=2, log=lines.append), lambda: meet(2, port, processes=4))
    host = socket.gethostname()
    assert f'waiting at 127.0.0.1:{port}: {host}: 0 2; process 1, 3 to come' in lines
    assert all(r.code == 'distributed/missing' and 'process 1, 3' in str(r) for r in results)
