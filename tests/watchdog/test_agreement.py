"""Decisions of several processes: they stop at the same poll, though some are ahead, and end together."""
import random
import threading
import time

import pytest

from bigjax.watchdog.agreement import EndBarrier, StopAgreement


class Network:
    """Ranks whose messages arrive late, each receiver's in order and in a thread of its own, as over peer links."""

    def __init__(self, kind, ranks, seed):
        self.random, self.ranks = random.Random(seed), ranks
        self.members = [kind(ranks if rank == 0 else 0, lambda kind, text, rank=rank: self.send(rank, kind, text))
                        for rank in range(ranks)]
        self.queues, self.open = [[] for _ in range(ranks)], True
        self.threads = [threading.Thread(target=self.receive, args=(rank,), daemon=True) for rank in range(ranks)]
        for thread in self.threads:
            thread.start()

    def send(self, sender, kind, text):
        for rank in range(1, self.ranks) if sender == 0 else (0,):
            self.queues[rank].append((kind, text, f'process {sender}'))

    def receive(self, rank):
        while self.open:
            time.sleep(self.random.uniform(0, 0.01))
            if self.queues[rank]:
                kind, text, sender = self.queues[rank].pop(0)
                member = self.members[rank]
                member.handle(kind, text, sender) if isinstance(member, StopAgreement) else member.handle(kind, sender)


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('ranks', [1, 2, 4])
def test_all_stop_at_the_same_poll(ranks, seed):
    """Rank 0 decides while every rank polls at its own pace, some well ahead of it."""
    network, stopped = Network(StopAgreement, ranks, seed), [0] * ranks
    paces = [random.Random(seed * 10 + rank).uniform(0.0005, 0.004) for rank in range(ranks)]

    def loop(rank):
        for poll in range(1, 2000):
            time.sleep(paces[rank])
            if network.members[rank].poll():
                stopped[rank] = poll
                return

    threads = [threading.Thread(target=loop, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    network.members[0].request()
    for thread in threads:
        thread.join(20)
    network.open = False
    assert stopped[0] > 0 and len(set(stopped)) == 1, stopped


def test_a_second_request_changes_nothing():
    sent = []
    agreement = StopAgreement(2, lambda kind, text: sent.append((kind, text)))
    assert not agreement.poll()
    agreement.request()
    agreement.request()
    assert sent == [('propose', '')]
    agreement.handle('polls', '5', 'process 1')
    assert sent[-1] == ('stop_at', '6') and [agreement.poll() for _ in range(6)] == [False] * 4 + [True, True]


@pytest.mark.parametrize('late', [0, 1, 2])
def test_no_process_leaves_before_all_have_come(late):
    network, left = Network(EndBarrier, 3, late), []

    def end(rank):
        time.sleep(0.3 * (rank == late))
        network.members[rank].wait()
        left.append(time.monotonic())

    began, threads = time.monotonic(), [threading.Thread(target=end, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    network.open = False
    assert len(left) == 3 and min(left) - began >= 0.3
