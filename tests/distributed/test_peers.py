"""Links between processes: messages are relayed, a silent end is reported, a stuck peer does not block."""
import os
import resource
import socket
import time

import pytest

from bigjax.distributed import peers
from bigjax.distributed.peers import Message, PeerLinks


class Job:
    """The links of a job whose processes are all in this one."""

    def __init__(self, ranks, pairs=None):
        pairs = pairs or [socket.socketpair() for _ in range(1, ranks)]
        self.links = [PeerLinks({f'process {i + 1}': pair[0] for i, pair in enumerate(pairs)}, relays=True)]
        self.links += [PeerLinks({'process 0': pair[1]}, relays=False) for pair in pairs]

    def read(self, rank):
        """The messages that have arrived at a rank."""
        return [message for connection in self.links[rank].sockets() for message in self.links[rank].read(connection)]


@pytest.fixture(autouse=True)
def unix_sockets(monkeypatch):
    """Socket pairs have no keep-alive of TCP."""
    monkeypatch.setattr(peers, 'keep_alive', lambda connection, heartbeat: None)


def test_rank_0_passes_messages_on_to_all_but_the_sender():
    job = Job(3)
    job.links[1].send('failed', 'Traceback')
    assert job.read(0) == [Message('failed', 'Traceback', 'process 1')]
    assert job.read(2) == [Message('failed', 'Traceback', 'process 1')] and job.read(1) == []
    job.links[2].send('polls', '7')  # is for rank 0 only
    assert job.read(0) == [Message('polls', '7', 'process 2')] and job.read(1) == []
    job.links[0].send('stop_at', '8')
    assert job.read(1) == job.read(2) == [Message('stop_at', '8', 'process 0')]


def test_an_end_without_a_message_is_a_death_and_with_one_it_is_not():
    job = Job(3)
    job.links[2].close()
    assert job.read(0) == [] and job.read(1) == []
    job.links[1].sockets()[0].close()
    [found] = job.read(0)
    assert found.kind == 'dead' and found.sender == 'process 1' and found.text.startswith('process 1 is gone')
    assert job.links[0].sockets() == []


def test_messages_that_come_in_parts_and_nonsense():
    ours, theirs = socket.socketpair()
    links = PeerLinks({'process 1': ours}, relays=True)
    theirs.sendall(b'{"kind": "notice", "te')
    assert links.read(ours) == []
    theirs.sendall(b'xt": "SIGTERM", "sender": ""}\nGET / HTTP/1.1\n[1]\n{"kind": "at"}\n')
    assert links.read(ours) == [Message('notice', 'SIGTERM', 'process 1')]


def test_a_peer_that_does_not_read_holds_up_a_message_for_a_limited_time(monkeypatch):
    monkeypatch.setattr(peers, 'SEND_S', 0.2)
    job, began = Job(2), time.monotonic()
    for _ in range(3):
        job.links[0].send('failed', 'x' * 200_000)
    assert time.monotonic() - began < 3


def test_links_whose_files_have_high_numbers():
    """`select.select` takes none above 1,023; a job of thousands of processes, or one with many open files, has them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3000:
        pytest.skip('the limit of open files is too low')
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    try:
        high = []
        for i, end in enumerate(socket.socketpair()):
            os.dup2(end.fileno(), 2000 + i)
            end.close()
            high.append(socket.socket(fileno=2000 + i))
        job = Job(2, [tuple(high)])
        job.links[1].send('notice', 'SIGTERM')
        assert job.read(0) == [Message('notice', 'SIGTERM', 'process 1')]
        job.links[1].end(1.0)
        high[1].close()
        os.close(2001)
        began = time.monotonic()
        job.links[0].end(5.0)
        assert time.monotonic() - began < 4
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
