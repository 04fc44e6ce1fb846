"""What the processes of a job tell each other while `bigjax.doctor` looks: no device is needed for it, as there may be none.

It goes through the store of names that JAX keeps in process 0. Every question has a name of its own, so that a process that
answers late, or never, spoils no other question; who was silent once is not waited for again until the end.
"""
import json
import time
from typing import Any

OWN = 1.0  # seconds that the others wait longer than process 0, which collects what they say


class Together:
    """One process's part.

    Args:
      process, processes: which one of how many this is.
      client: with `key_value_set`, `key_value_try_get` and `blocking_key_value_get`; JAX's own where None is given.

    Attributes:
      silent: the processes that did not answer a question in time.
    """

    def __init__(self, process: int = 0, processes: int = 1, client=None):
        self.process, self.processes, self.silent = process, processes, set()
        self._client = _client() if client is None and processes > 1 else client

    def ask(self, name: str, value: Any, seconds: float, everybody: bool = False) -> dict[int, Any]:
        """{process: its value, which is JSON}, of those that answer in time; all processes ask the same questions.

        Args:
          seconds: to wait.
          everybody: also for those that were silent before.
        """
        if self.processes == 1:
            return {0: value}
        until = time.monotonic() + seconds
        self._client.key_value_set(_key(name, self.process), json.dumps(value))
        among = [i for i in range(self.processes) if everybody or i not in self.silent]
        told = self._get(_key(name, 'all'), until + OWN) if self.process and 0 in among else None
        found = {int(i): v for i, v in told.items()} if told is not None else self._collect(name, among, until)
        if self.process == 0:
            self._client.key_value_set(_key(name, 'all'), json.dumps(found))
        found[self.process] = value
        self.silent |= set(among) - set(found)
        return found

    def _collect(self, name: str, among, until: float) -> dict[int, Any]:
        answers = {i: self._get(_key(name, i), until) for i in among}
        return {i: value for i, value in answers.items() if value is not None}

    def _get(self, key: str, until: float):
        """A value; None where there is none in time."""
        left = until - time.monotonic()
        try:
            text = (self._client.blocking_key_value_get(key, round(1000 * left)) if left > 0.001 else
                    self._client.key_value_try_get(key))
        except RuntimeError:  # no such name (yet), or process 0 is gone
            return None
        return json.loads(text)

    def last(self, seconds: float) -> None:
        """To be called before this process ends: process 0, without whom JAX ends the others, waits until they are ending."""
        if self.processes == 1:
            return
        self._client.key_value_set(_key('left', self.process), '1')
        if self.process == 0:
            self._collect('left', [i for i in range(self.processes) if i not in self.silent], time.monotonic() + seconds)
            time.sleep(0.3)


def _key(name: str, who) -> str:
    return f'doctor/{name}/{who}'


def _client():
    """JAX's; `jax.distributed` has no name for it."""
    from jax._src import distributed
    return distributed.global_state.client


def several(processes) -> str:
    """'process 1', 'processes 1, 3'."""
    numbers = sorted(processes)
    return f"process{'es' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:10]))}{' …' if len(numbers) > 10 else ''}"
