"""The doctor's look at the libraries: bounds, the parts of JAX, and every pair that is known to break a run."""
import platform

import pytest
from packaging.specifiers import SpecifierSet

from bigjax.distributed import accelerators
from bigjax.doctor import verb as doctor
from bigjax.doctor import versions as doctor_versions
from tests.doctor.test_doctor import line

GOOD = {'jax': '0.10.2', 'jaxlib': '0.10.2', 'flax': '0.12.8', 'optax': '0.2.8', 'orbax-checkpoint': '0.12.8', 'numpy': '2.4.6'}
CUDA13 = {'jax-cuda13-plugin': '0.10.2', 'jax-cuda13-pjrt': '0.10.2'}
REQUIRES = ['jax>=0.10.2,<0.13', 'flax>=0.12.8,<0.13', 'grain>=0.2.18', 'jax[cuda12]; extra == "cuda"']


@pytest.mark.parametrize(('changes', 'requires', 'said'), [
    ({}, REQUIRES, 'ok versions python 3.11.9, jax 0.10.2, jaxlib 0.10.2, flax 0.12.8, optax 0.2.8, orbax-checkpoint 0.12.8, '
                   'numpy 2.4.6'),
    ({'jaxlib': '0.10.1'}, REQUIRES, "FAILED versions jax 0.10.2 with jaxlib 0.10.1; pip install 'jaxlib==0.10.2'"),
    ({'jax-cuda12-plugin': '0.10.1', 'jax-cuda12-pjrt': '0.10.2'}, REQUIRES,
     "FAILED versions jax-cuda12-plugin 0.10.1 with jaxlib 0.10.2; pip install 'jax-cuda12-plugin==0.10.2'"),
    ({**CUDA13, 'libtpu': '0.0.42'}, REQUIRES, 'ok versions'),
    ({**CUDA13, 'jax-cuda13-pjrt': '0.9.2'}, REQUIRES,
     "FAILED versions jax-cuda13-pjrt 0.9.2 with jaxlib 0.10.2; pip install 'jax-cuda13-pjrt==0.10.2'"),
    ({'jax-cuda13-plugin': '0.10.2'}, REQUIRES,
     "FAILED versions jax-cuda13-plugin without jax-cuda13-pjrt; pip install 'jax-cuda13-pjrt==0.10.2'"),
    ({**CUDA13, 'jax-cuda12-plugin': '0.10.2', 'jax-cuda12-pjrt': '0.10.2'}, REQUIRES,
     'FAILED versions cuda 12 and cuda 13 side by side (jax-cuda12-pjrt, jax-cuda12-plugin, jax-cuda13-pjrt, '
     'jax-cuda13-plugin): which one JAX takes is chance; keep the one that the driver is for, for example pip uninstall '
     'jax-cuda12-pjrt jax-cuda12-plugin'),
    ({'numpy': '1.26.4'}, REQUIRES, 'FAILED versions jax 0.10.2 with numpy 1.26.4: jax is compiled against numpy 2; pip'),
    ({'numpy': '1.26.4'}, [*REQUIRES, 'numpy>=2'], "FAILED versions numpy 1.26.4 is outside >=2; pip install 'numpy>=2'"),
    ({'flax': '0.13.0'}, REQUIRES, "FAILED versions flax 0.13.0 is outside <0.13,>=0.12.8; pip install 'flax<0.13,>=0.12.8'"),
    ({'jax': '0.9.0', 'jaxlib': '0.9.0'}, REQUIRES, 'FAILED versions jax 0.9.0 is outside <0.13,>=0.10.2'),
    ({'jax': None}, REQUIRES, 'FAILED versions jax is not installed; pip install'),
    ({'grain': '0.2.1'}, REQUIRES, 'FAILED versions grain 0.2.1 is outside >=0.2.18'),
    ({}, [], 'warning versions python 3.11.9, jax 0.10.2')])
def test_versions(changes, requires, said):
    packages = {k: v for k, v in (GOOD | changes).items() if v}
    assert line(doctor_versions.versions(packages, requires, '3.11.9')).startswith(said)


@pytest.mark.parametrize('pair', doctor_versions.PAIRS, ids=lambda p: f'{p.name}-{p.other}')
def test_known_bad_pairs(pair):
    """Each at the bounds of its versions, and no longer where the mend was done."""
    at = lambda bounds, candidates: next(v for v in candidates if SpecifierSet(bounds).contains(v))
    versions = ('4.9.10', '0.10.2', '0.12.2', '2.4.6')
    packages = GOOD | {pair.name: at(pair.versions, [GOOD.get(pair.name, ''), *versions])}
    others = at(pair.others, ('4.9.0', '1.26.4', '1.13.1', '0.4.1')) if pair.others not in ('', 'absent') else None
    bad = packages | ({pair.other: others} if others else {})
    beside = f' with {pair.other} {others}' if others else f' without {pair.other}' if pair.other else ''
    said = line(doctor_versions.versions(bad, [], '3.11'))
    assert said.startswith('FAILED') and f'{pair.name} {packages[pair.name]}{beside}: {pair.why}; {pair.mend}' in said
    good = bad | ({pair.other: '99'} if pair.other else {pair.name: '0.12.3'})
    assert not line(doctor_versions.versions(good, [], '3.11')).startswith('FAILED')


def test_what_is_installed_here_goes_together():
    found = doctor_versions.versions(accelerators.installed(), doctor._requires(), platform.python_version())
    assert found.status != 'FAILED', found.text
