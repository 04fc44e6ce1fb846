"""What an engine does, as data: printed by --dry_run, kept with the job, and run as it was printed."""
import dataclasses
import shlex
import subprocess
from collections.abc import Sequence

from bigjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Run:
    """A command, with what it reads on stdin. `secret`: variables (by name) that are written before `stdin`, as shell
    assignments; a printed plan shows NAME=*** for each."""

    argv: tuple[str, ...]
    stdin: str = ''
    secret: tuple[str, ...] = ()
    why: str = ''

    def __str__(self) -> str:
        text = shlex.join(self.argv)
        body = ''.join(f'export {name}=***\n' for name in self.secret) + self.stdin
        return (f'# {self.why}\n' if self.why else '') + (f"{text} <<'EOF'\n{body.rstrip()}\nEOF" if body else text)


@dataclasses.dataclass(frozen=True)
class Write:
    """A file that is written here."""

    path: str
    text: str
    why: str = ''

    def __str__(self) -> str:
        return (f'# {self.why}\n' if self.why else '') + f"cat > {shlex.quote(self.path)} <<'EOF'\n{self.text.rstrip()}\nEOF"


@dataclasses.dataclass(frozen=True)
class Wait:
    """Until something is so; a remark in a plan."""

    text: str

    def __str__(self) -> str:
        return f'# wait: {self.text}'


Step = Run | Write | Wait


def show(steps: Sequence[Step]) -> str:
    """As a shell would take them."""
    return '\n'.join(map(str, steps))


def execute(step: Run, *, values: dict[str, str] | None = None, seconds: float = 120.0, data: bytes | None = None) -> str:
    """Runs one to its end; returns its stdout.

    Args:
      values: of the step's secret variables.
      seconds: after which it is killed.
      data: stdin where it is not text.

    Raises:
      UserError: there is no such program.
      Failed: it ended with another code than 0, or did not end.
    """
    secret = ''.join(f'export {name}={shlex.quote((values or {})[name])}\n' for name in step.secret)
    given = (secret + step.stdin).encode() if data is None else data
    try:
        done = subprocess.run(step.argv, input=given, capture_output=True, timeout=seconds, check=False)
    except FileNotFoundError:
        raise UserError(f"'{step.argv[0]}': no such program here; install it, or look at PATH",
                        code='launch/no-program') from None
    except subprocess.TimeoutExpired:
        raise Failed(step, None, '', f'it did not end within {seconds:.0f} s') from None
    if done.returncode:
        raise Failed(step, done.returncode, done.stdout.decode(errors='replace'), done.stderr.decode(errors='replace'))
    return done.stdout.decode(errors='replace')


class Failed(Exception):
    """A command that did not do what it should; what it said comes first.

    Attributes:
      step, code (None: it was killed after its time), stdout, stderr.
    """

    def __init__(self, step: Run, code: int | None, stdout: str, stderr: str):
        words = ' '.join((stderr.strip() or stdout.strip() or 'it said nothing').split())
        super().__init__(f"{words} ({step.argv[0]}{'' if code is None else f' exited {code}'})")
        self.step, self.code, self.stdout, self.stderr = step, code, stdout, stderr
