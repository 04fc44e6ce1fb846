"""gcloud's commands as data, its errors in words, and a command that is interrupted; with small programs in its place."""
import signal
import subprocess
import sys
import time

import pytest

from launch.engines.tpu_vm import gcloud
from launch.steps import Run
from tests.launch import tools
from tests.refused import refused

WHERE = {'zone': 'us-west4-a', 'project': 'p'}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a shell script in gcloud's place."""
    def put(script):
        path = tools.program(tmp_path / 'bin' / 'gcloud', script)
        monkeypatch.setenv('PATH', f'{path.parent}:/usr/bin:/bin')
    return put


LOGIN = """ERROR: (gcloud.compute.tpus.queued-resources.create) You do not currently have an active account selected.
Please run:

  $ gcloud auth login

to obtain new credentials."""


@pytest.mark.parametrize('text, code, status, message', [
    ("ERROR: (gcloud.compute.tpus.queued-resources.create) RESOURCE_EXHAUSTED: Quota limit 'X' has been exceeded. Limit: 8 in "
     "region\nus-west4.\n- '@type': type.googleapis.com/google.rpc.QuotaFailure\n  violations: []", 1, 'RESOURCE_EXHAUSTED',
     "RESOURCE_EXHAUSTED: Quota limit 'X' has been exceeded. Limit: 8 in region us-west4.; fix: request more at https://console"),
    ('Create request issued for: [exp7]\nERROR: (gcloud.compute.tpus.tpu-vm.create) {\n  "code": 8,\n  "message": "There is no '
     'more capacity in the zone"\n}', 1, '', '{ "code": 8, "message": "There is no more capacity'),
    (LOGIN, 1, '', "You do not currently have an active account selected. Please run: $ gcloud auth login to obtain new "
     "credentials.; fix: log in with 'gcloud auth login'"),
    ("ERROR: (gcloud.x) PERMISSION_DENIED: Permission 'tpu.nodes.create' denied", 1, 'PERMISSION_DENIED',
     "PERMISSION_DENIED: Permission 'tpu.nodes.create' denied; fix: switch the API on with 'gcloud services enable tpu.google"),
    ("ERROR: (gcloud.compute.tpus.tpu-vm.create) unrecognized arguments:\n  --sport\n\nTo search the help text of gcloud "
     'commands, run:\n  gcloud help -- SEARCH_TERMS', 2, '', 'unrecognized arguments: --sport; fix: update gcloud'),
    ('Retrying: SSH command error\nssh: connect to host 10.0.0.1 port 22: Connection refused\nException in thread\n  File', 1,
     '', 'ssh: connect to host 10.0.0.1 port 22: Connection refused'),
    ('', 3, '', 'gcloud exited with 3'),
])
def test_the_message_of_the_api_comes_first(text, code, status, message):
    error = gcloud.refused(Run(('gcloud', '--project=p')), code, text)
    assert error.status == status and str(error).startswith(message)


def test_settings(monkeypatch, tmp_path):
    for name in ('CLOUDSDK_CORE_PROJECT', 'CLOUDSDK_COMPUTE_ZONE', 'CLOUDSDK_CORE_ACCOUNT', 'CLOUDSDK_ACTIVE_CONFIG_NAME'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('CLOUDSDK_CONFIG', str(tmp_path))
    assert gcloud.settings() == {'project': '', 'zone': '', 'account': ''}
    (tmp_path / 'configurations').mkdir()
    (tmp_path / 'configurations' / 'config_work').write_text('[core]\nproject = mine\naccount = me@x\n[compute]\nzone = z-1\n')
    (tmp_path / 'active_config').write_text('work')
    assert gcloud.settings() == {'project': 'mine', 'zone': 'z-1', 'account': 'me@x'}
    monkeypatch.setenv('CLOUDSDK_CORE_PROJECT', 'other')
    assert gcloud.settings()['project'] == 'other'
    (tmp_path / 'configurations' / 'config_work').write_bytes(b'\xff\xfe nonsense')
    assert gcloud.settings() == {'project': 'other', 'zone': '', 'account': ''}


def test_answers(program):
    program('echo "[{\\"name\\": \\"x\\"}]"')
    assert gcloud.query(gcloud.queue('x', WHERE)) == [{'name': 'x'}]
    program('echo')
    assert gcloud.query(gcloud.queue('x', WHERE)) is None
    program('echo Updates are available')
    with refused('launch/google-refused', 'Updates are available'):
        gcloud.query(gcloud.queue('x', WHERE))
    program('sleep 60')
    with refused('launch/google-refused', 'no answer'):
        gcloud.query(gcloud.queue('x', WHERE), 0.3)


INTERRUPTED = """
import pathlib, sys
sys.path.insert(0, {root!r})
from launch.engines.tpu_vm import gcloud
from launch.steps import Run
print('up', flush=True)
try:
    gcloud.execute(Run(('gcloud', 'x')), 60, {until})
except KeyboardInterrupt:
    print('interrupted', flush=True)
"""


def interrupted(until='None', ready=lambda: time.sleep(0.15) or True, times=1):
    """(stdout, stderr) of a process that runs gcloud, and gets Ctrl-C once it is ready, so many times."""
    process = subprocess.Popen([sys.executable, '-c', INTERRUPTED.format(root=str(tools.ROOT), until=until)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'up\n'
    for _ in range(times):
        tools.until(ready)
        process.send_signal(signal.SIGINT)
    return process.communicate(timeout=10)


@pytest.mark.parametrize('there', [True, False])
def test_interrupted_while_something_is_made(program, tmp_path, there):
    """It is killed as soon as the thing that it makes exists; until then it runs on. Another Ctrl-C changes nothing."""
    program(f'sleep 0.5; touch {tmp_path}/made; {"sleep 60" if there else "true"}; touch {tmp_path}/ended')
    out, errors = interrupted(f"lambda: {there} and pathlib.Path({str(tmp_path)!r}, 'made').exists()", times=2)
    assert out == 'interrupted\n', errors
    assert errors.count('waits for gcloud') == 1
    assert (tmp_path / 'made').exists() and (tmp_path / 'ended').exists() == (not there)


def test_interrupted_while_it_asks(program, tmp_path):
    """It is killed, with the programs that it has started."""
    pid = tmp_path / 'pid'
    program(f'sleep 60 & echo $! > {pid}; wait')
    assert interrupted(ready=lambda: pid.exists() and pid.read_text().strip())[0] == 'interrupted\n'
    assert not tools.alive(int(pid.read_text()))


def test_doctor(monkeypatch, program, tmp_path):
    from tests.launch.fake_tpu import Cloud
    program('true')
    monkeypatch.setenv('CLOUDSDK_CORE_ACCOUNT', 'me@x')
    monkeypatch.setattr(gcloud, 'execute', Cloud().gcloud)
    assert all(check.ok for check in gcloud.doctor(WHERE, 'v6e-8'))
    last = gcloud.doctor(WHERE, 'v5litepod-64')[-1]
    assert not last.ok and 'us-west4-a' in last.found and 'v5litepod-16, v5litepod-8' in last.fix
    assert 'another generation' in gcloud.doctor(WHERE, 'v4-8')[-1].fix
    assert [check.what for check in gcloud.doctor({'zone': 'z', 'project': ''}, 'v4-8') if not check.ok] == ['project']
