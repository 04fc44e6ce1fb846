"""The libraries against each other, for `bigjax.doctor`: what bigjax asks for, what the parts of JAX ask of one another, and
pairs that are known to break a run. A pair found later is a line of `PAIRS`.
"""
import dataclasses
import re
from collections.abc import Mapping, Sequence

from bigjax.doctor.host import FAILED, OK, WARNING, Check

CORE = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'absl-py', 'ml-collections', 'numpy')  # what training imports
SHOWN = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
PART = re.compile(r'jax-(cuda|rocm)(\d*)-(plugin|pjrt)')
ABSENT = 'absent'


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two distributions that do not go together.

    Attributes:
      name, versions: one of them, of which versions ('<1.2,>=1.1').
      other, others: the other one, of which versions or `ABSENT`; '' where the first one is enough.
      why: what happens.
      mend: what to do.
    """

    name: str
    versions: str
    other: str
    others: str
    why: str
    mend: str


PAIRS = (
    # tensorflow/datasets#11212: the wheel asks for it before Python 3.9 only
    Pair('tensorflow-datasets', '==4.9.10', 'importlib-resources', ABSENT, 'it is imported while data is prepared',
         'pip install importlib_resources'),
    Pair('orbax-checkpoint', '<0.12.3', '', '', 'orbax.checkpoint.v1, which writes the checkpoints, is not yet what it is here',
         "pip install 'orbax-checkpoint>=0.12.3,<1.0'"),
    # the bounds that these wheels state themselves; pip installs past them when it is told to
    Pair('jax', '>=0.10', 'numpy', '<2', 'jax is compiled against numpy 2', "pip install 'numpy>=2'"),
    Pair('jax', '>=0.10', 'scipy', '<1.14', 'jax asks for 1.14', "pip install 'scipy>=1.14'"),
    Pair('jax', '>=0.10', 'ml-dtypes', '<0.5', 'jax asks for 0.5', "pip install 'ml_dtypes>=0.5'"),
    Pair('numpy', '>=2', 'opencv-python-headless', '<4.10', 'it is compiled against numpy 1, and import cv2 fails',
         "pip install 'opencv-python-headless>=4.10'"),
)


def versions(packages: Mapping[str, str], requires: Sequence[str], python: str) -> Check:
    """The libraries against each other, and against what the package asks for.

    Args:
      packages: {distribution: version}.
      requires: lines such as 'jax>=0.10.2,<0.13', with markers; none where the package is not installed.
      python: the version of Python.
    """
    wrong = [*_outside(packages, requires), *_parts(packages), *_pairs(packages)]
    if wrong:
        return Check('versions', FAILED, '; '.join(wrong))
    text = ', '.join([f'python {python}', *(f'{name} {packages[name]}' for name in SHOWN if name in packages)])
    if not requires:
        return Check('versions', WARNING, f'{text}; bigjax itself is not installed, so its bounds were not compared: '
                                          'pip install -e . in its folder')
    return Check('versions', OK, text)


def _outside(packages, requires) -> list[str]:
    """What is missing, or outside the bounds of the package."""
    from packaging.requirements import Requirement
    wanted = [r for r in map(Requirement, requires) if r.marker is None or r.marker.evaluate({'extra': ''})]
    wrong = []
    for r in {r.name: r for r in wanted}.values():
        name = r.name.lower().replace('_', '-')
        have = packages.get(name)
        if have is None and name in CORE:
            wrong.append(f"{name} is not installed; pip install '{r.name}{r.specifier}'")
        elif have is not None and not r.specifier.contains(have, prereleases=True):
            wrong.append(f"{name} {have} is outside {r.specifier}; pip install '{r.name}{r.specifier}'")
    return wrong


def _parts(packages) -> list[str]:
    """JAX, its library and its plugins, which are released together."""
    jax, jaxlib = packages.get('jax'), packages.get('jaxlib')
    wrong = [f"jax {jax} with jaxlib {jaxlib}; pip install 'jaxlib=={jax}'"] if jax != jaxlib else []
    parts = {name: found for name in sorted(packages) if (found := PART.fullmatch(name))}
    for name, found in parts.items():
        half = name.removesuffix(found[3]) + {'plugin': 'pjrt', 'pjrt': 'plugin'}[found[3]]
        if packages[name] != jaxlib:
            wrong.append(f"{name} {packages[name]} with jaxlib {jaxlib}; pip install '{name}=={jaxlib}'")
        if half not in packages:
            wrong.append(f"{name} without {half}; pip install '{half}=={jaxlib}'")
    for kind in ('cuda', 'rocm'):
        mine = [name for name, found in parts.items() if found[1] == kind]
        majors = sorted({parts[name][2] for name in mine}, key=int)
        if len(majors) > 1:
            old = ' '.join(name for name in mine if parts[name][2] != majors[-1])
            wrong.append(f"{' and '.join(f'{kind} {major}' for major in majors)} side by side ({', '.join(mine)}): which one "
                         f'JAX takes is chance; keep the one that the driver is for, for example pip uninstall {old}')
    return wrong


def _pairs(packages) -> list[str]:
    """Those of `PAIRS` that are there."""
    from packaging.specifiers import SpecifierSet
    among = lambda have, bounds: have is not None and SpecifierSet(bounds).contains(have, prereleases=True)
    wrong = []
    for p in PAIRS:
        have, other = packages.get(p.name), packages.get(p.other)
        if among(have, p.versions) and (not p.other or (other is None if p.others == ABSENT else among(other, p.others))):
            beside = '' if not p.other else f' without {p.other}' if other is None else f' with {p.other} {other}'
            wrong.append(f'{p.name} {have}{beside}: {p.why}; {p.mend}')
    return wrong
