"""The connection to a machine: its messages however they are cut, and the background check of a silent machine."""
import concurrent.futures

import pytest

from launch.engines.ssh import link
from launch.engines.ssh.link import GREETING, Data, GoneCheck, Messages
from tests.launch.tools import Clock

STREAM = b'motd\nE 9 9\n' + GREETING + b'\nD 0 5 12\none\nI\ntwo\n\n3\nE 1 0 2.5 3.5\nI\n\nD 1 0 3\nabcG 1\nQ\n'


def received(*parts):
    """(messages without data, {process: [position, bytes]}) of a connection that delivers these parts."""
    messages, words, logs = Messages(), [], {}
    for part in parts:
        for message in messages.feed(part):
            if isinstance(message, Data):
                at, data = logs.setdefault(message.process, [message.at, b''])
                assert message.at == at + len(data)
                logs[message.process][1] += message.data
            elif message:
                words.append(b' '.join(message))
    return words, logs


@pytest.mark.parametrize('size', [1, 2, 3, 7, 20, len(STREAM)])
def test_messages_are_the_same_however_they_are_cut(size):
    words, logs = received(*(STREAM[i:i + size] for i in range(0, len(STREAM), size)))
    assert words == [GREETING, b'D 0 5 12', b'E 1 0 2.5 3.5', b'I', b'D 1 0 3', b'G 1', b'Q']
    assert logs == {0: [5, b'one\nI\ntwo\n\n3'], 1: [0, b'abc']}


def test_a_connection_without_its_greeting_has_no_messages():
    assert received(b'profile\nE 0 1 1 1\nGOODBYE\n') == ([], {})


@pytest.mark.parametrize('gone', [True, False, None])
def test_a_silent_machine_is_checked_now_and_then_and_an_error_is_no_answer(monkeypatch, gone):
    clock, calls = Clock(), []
    monkeypatch.setattr(link, 'time', clock)

    def query():
        calls.append(clock.now)
        if gone is None:
            raise OSError
        return gone

    class AtOnce(concurrent.futures.Executor):
        def submit(self, function):
            future = concurrent.futures.Future()
            try:
                future.set_result(function())
            except OSError as error:
                future.set_exception(error)
            return future

    check, found = GoneCheck(AtOnce(), query), []
    for _ in range(48):
        clock.sleep(1.0)
        found.append(check(0.0))
    assert calls == [16.0, 32.0, 48.0]
    assert any(found) == bool(gone) and not any(found[:16])
    clock.sleep(1.0)
    assert not check(48.5), 'a message has come since the query'
