"""SkyPilot's program and its queue of managed jobs."""
import json
import re
from typing import Any

from launch import steps
from launch.engines import base
from launch.steps import Failed, Run

INSTALL = "install it here: pip install 'skypilot[gcp]' (or [kubernetes], [aws], …), then sky check"
FINISHED = {'SUCCEEDED', 'CANCELLED', 'FAILED', 'FAILED_SETUP', 'FAILED_PRECHECKS', 'FAILED_NO_RESOURCE', 'FAILED_CONTROLLER'}
TIMEOUT_S = 300.0  # of one command


def sky(*words: str) -> tuple[str, ...]:
    """The argument vector of a `sky` command, with its usage reports switched off."""
    return ('env', 'SKYPILOT_DISABLE_USAGE_COLLECTION=1', 'sky', *words)


QUEUE = sky('jobs', 'queue', '--all', '--output', 'json')


def newest(name: str) -> dict[str, Any] | None:
    """The last job of that name in the queue, None if there is none.

    Raises:
      UserError: sky is not installed.
      Failed: sky failed or timed out.
    """
    base.require('sky', INSTALL)
    return pick(steps.execute(Run(QUEUE), seconds=TIMEOUT_S), name)


def running(name: str) -> dict[str, Any] | None:
    """The last job of that name, if it has not ended; raises as `newest`."""
    found = newest(name)
    return found if found and found['status'] not in FINISHED else None


def cancel(number: Any) -> None:
    """Cancels a job by its number in the queue.

    Raises:
      Failed: sky failed or timed out.
    """
    steps.execute(Run(sky('jobs', 'cancel', '--yes', str(number))), seconds=TIMEOUT_S)


def pick(output: str, name: str) -> dict[str, Any] | None:
    """The last job of that name in the output of `sky jobs queue`, whose JSON may follow other lines.

    Raises:
      Failed: there is no JSON.
    """
    start = re.search(r'^\[', output, re.MULTILINE)
    try:
        rows = json.loads(output[start.start():]) if start else None
    except ValueError:
        rows = None
    if rows is None:
        raise Failed(Run(QUEUE), None, '', 'expected JSON, got other output')
    named = [row for row in rows if row.get('job_name') == name]
    return max(named, key=lambda row: row['job_id']) if named else None
