"""The actions of an engine as data: printed by --dry_run, kept with the job, and executed as printed."""
import dataclasses
import shlex
import subprocess
from collections.abc import Sequence

from bigjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Run:
    """A command and its stdin.

    Attributes:
      secret: names of variables whose assignments precede `stdin`; a printed plan shows NAME=*** for each.
      why: a comment for the printed plan.
    """

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
    """A local file to write."""

    path: str
    text: str
    why: str = ''

    def __str__(self) -> str:
        return (f'# {self.why}\n' if self.why else '') + f"cat > {shlex.quote(self.path)} <<'EOF'\n{self.text.rstrip()}\nEOF"


@dataclasses.dataclass(frozen=True)
class Wait:
    """A remark in a plan: the condition that the launcher waits for."""

    text: str

    def __str__(self) -> str:
        return f'# wait: {self.text}'


Step = Run | Write | Wait


def show(steps: Sequence[Step]) -> str:
    """The steps as shell text."""
    return '\n'.join(map(str, steps))


def execute(step: Run, *, values: dict[str, str] | None = None, seconds: float = 120.0) -> str:
    """Runs a step to its end; returns its stdout.

    Args:
      values: values of the step's secret variables.
      seconds: timeout, after which the command is killed.

    Raises:
      UserError: the program is not installed.
      Failed: it exited with a code other than 0, or timed out.
    """
    secret = ''.join(f'export {name}={shlex.quote((values or {})[name])}\n' for name in step.secret)
    given = (secret + step.stdin).encode()
    try:
        done = subprocess.run(step.argv, input=given, capture_output=True, timeout=seconds, check=False)
    except FileNotFoundError:
        raise UserError(f"'{step.argv[0]}': no such program here; fix: install it, or check PATH",
                        code='launch/no-program') from None
    except subprocess.TimeoutExpired:
        raise Failed(step, None, '', f'timeout after {seconds:.0f} s') from None
    if done.returncode:
        raise Failed(step, done.returncode, done.stdout.decode(errors='replace'), done.stderr.decode(errors='replace'))
    return done.stdout.decode(errors='replace')


class Failed(Exception):
    """A command that failed; the message begins with its own output.

    Attributes:
      step, code (None after a timeout), stdout, stderr.
    """

    def __init__(self, step: Run, code: int | None, stdout: str, stderr: str):
        words = ' '.join((stderr.strip() or stdout.strip() or 'no output').split())
        super().__init__(f"{words} ({step.argv[0]}{'' if code is None else f' exited {code}'})")
        self.step, self.code, self.stdout, self.stderr = step, code, stdout, stderr
