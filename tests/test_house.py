"""The structure of the code: imports go down the floors, version churn has one address, and every refusal has a code."""
import ast
import functools
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FLOORS = (  # from the ground up; a module imports from its own floor or a lower one
    {'errors', 'io', 'config', 'compat'}, {'sharding'}, {'nn'}, {'models', 'tasks', 'metrics'}, {'data', 'weights'},
    {'experiment'}, {'distributed'}, {'checkpoint', 'runs', 'watchdog'}, {'train'})
VERBS = len(FLOORS)  # of every other room, and of `verb.py` in any room
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms} | {'cli': VERBS + 1}
CHANGING = re.compile(r'jax\.(_src|experimental|extend|monitoring|interpreters|core|custom_batching)\b')  # between versions


@functools.cache
def trees() -> dict[str, ast.AST]:
    """{path: syntax tree} of the code."""
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text())
            for folder in ('bigjax', 'experiments', 'launch') for path in sorted((ROOT / folder).rglob('*.py'))}


@functools.cache
def imported(path: str) -> set[str]:
    """The full names that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(trees()[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f'{node.module}.{alias.name}' for alias in node.names}
    return names


def name_of(node) -> str:
    return node.id if isinstance(node, ast.Name) else getattr(node, 'attr', '')


def test_imports_go_down():
    climbing = []
    for path in trees():
        parts = pathlib.Path(path).with_suffix('').parts
        if parts[0] != 'bigjax' or parts[1] == '__init__':
            continue
        floor = VERBS if parts[-1] == 'verb' else FLOOR.get(parts[1], VERBS)
        climbing += [f'{path} imports {name}' for name in imported(path)
                     if name.startswith('bigjax.') and FLOOR.get(name.split('.')[1], VERBS) > floor]
    assert not climbing


def test_no_two_files_import_each_other():
    """A package that exports its files' names is not imported by these files: they name one another."""
    names = {'.'.join(pathlib.Path(path).with_suffix('').parts).removesuffix('.__init__'): path for path in trees()}
    imports = {name: names.keys() & {part for full in imported(path) for part in (full, full.rpartition('.')[0])}
               for name, path in names.items()}
    assert not [(name, other) for name, found in imports.items() for other in found if name < other and name in imports[other]]


@pytest.mark.parametrize('changing, home', (
    (CHANGING, 'bigjax/compat.py'), (re.compile(r'orbax\b'), 'bigjax/checkpoint/manager.py'),
    (re.compile(r'grain\b'), 'bigjax/data/pipeline.py')))
def test_what_changes_between_versions_has_one_address(changing, home):
    found = {path for path in trees() if any(changing.match(name) for name in imported(path))}
    assert found == {home}


def test_every_refusal_has_a_code():
    classes = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    kinds = {'UserError'}
    while more := {c.name for c in classes if kinds & set(map(name_of, c.bases))} - kinds:
        kinds |= more
    own = {c.name for c in classes if any(isinstance(node, ast.keyword) and node.arg == 'code' for node in ast.walk(c))}
    wrong = []
    for path, tree in trees().items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and name_of(call.func) in kinds - own:
                code = next((k.value for k in call.keywords if k.arg == 'code'), None)
                if code is None or (isinstance(code, ast.Constant) and not re.fullmatch(r'[a-z-]+/[a-z0-9-]+', code.value)):
                    wrong.append(f'{path}:{call.lineno}')
    assert not wrong
