"""Engines whose processes run detached on machines that ssh reaches (`ssh`, `tpu_vm`).

A subclass says which machines (`hosts`) and what each process finds in its environment (`variables`); the rest is here: the
code is sent (`launch.bundle`), a script there starts each process in a session of its own and keeps its log and exit code
(`remote.sh`), a group follows them (`launch.follow`). On a machine all is below one folder:

    ~/.bigjax/code/HASH/        what was sent
    ~/.bigjax/jobs/NAME/        job.json  remote.sh  stop  0.log  0.pid  0.rc
"""
import dataclasses

from launch import engine
from launch.transport import Hosts


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is the same for all engines of this kind.

    Attributes:
      path: put before PATH there.
      setup: a line of shell that runs in the code's folder before each start, once a machine.
      code: the folder there, in the home folder ('~/…') or absolute.
      wait: seconds to wait for a machine that does not answer, at a restart.
      lost: seconds of silence after which a machine counts as lost.
      per_host: processes on each machine.
    """

    path: str = ''
    setup: str = ''
    code: str = '~/.bigjax'
    wait: float = 1800.0
    lost: float = 90.0
    per_host: int = 1


class RemoteEngine(engine.Engine):
    """Base. To be overridden: `hosts`, `settings`; where others tell the processes how they meet, `variables`; where a machine
    that does not answer can be asked about elsewhere, `gone`; around them `check`, `start` (allocate, then super().start()),
    `plan` (its own steps, then super().plan()), `down`, `exists`, `doctor`."""

    def hosts(self) -> Hosts:
        """The machines as they are now; may ask a cloud. Asked again at each start and attach."""
        raise NotImplementedError

    def settings(self) -> Settings:
        """Made of the target."""
        raise NotImplementedError

    def planned(self) -> Hosts:
        """The machines as a plan writes them; asks nobody."""
        return self.hosts()

    def variables(self, process: int, coordinator: str) -> dict[str, str]:
        """What a process finds in its environment; nothing of it is secret. `coordinator` is '' where nobody has to meet."""
        raise NotImplementedError

    def gone(self, host: int) -> bool:
        """Whether a machine that does not answer is known to be gone, so that nobody waits for it."""
        return False
