"""Compiling: once a function, and once a machine."""
import io
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from bigjax.runs.progress import Progress
from bigjax.train import compile_cache
from tests import tiny
from tests.refused import refused


def watched(strict=False):
    """(a watched function, what was said)."""
    said = []
    watch = compile_cache.Watch(said.append, strict)
    return watch('the step', jax.jit(lambda state, batch: state + batch['x'].sum(), donate_argnums=0)), said


def test_the_first_compilation_and_calls_of_the_same_shapes_are_no_news():
    fn, said = watched()
    for _ in range(3):
        fn(jnp.float32(1), {'x': jnp.ones((3, 4))})
    assert not said


@pytest.mark.parametrize(('x', 'words'), [
    (jnp.ones((5, 4)), '1/x was float32[3, 4], is float32[5, 4]'),
    (jnp.ones((3, 4), jnp.int32), '1/x was float32[3, 4], is int32[3, 4]')])
def test_another_compilation_names_what_changed(x, words):
    fn, said = watched()
    fn(jnp.float32(1), {'x': jnp.ones((3, 4))})
    fn(jnp.float32(1), {'x': x})
    assert len(said) == 1 and 'the step' in said[0] and words in said[0]


def test_strict_is_an_error():
    fn, _ = watched(strict=True)
    fn(jnp.float32(1), {'x': jnp.ones((3, 4))})
    with pytest.raises(compile_cache.StrictError, match=r'float32\[2, 4\]'):
        fn(jnp.float32(1), {'x': jnp.ones((2, 4))})


def test_a_cause_outside_the_arguments_is_said():
    fn, said = watched()
    fn(jnp.float32(1), {'x': jnp.ones((3, 4))})
    jax.clear_caches()
    fn(jnp.float32(1), {'x': jnp.ones((3, 4))})
    assert len(said) == 1 and 'the step' in said[0] and 'float32' not in said[0]


def test_a_run_compiles_its_step_and_its_evaluators_once(tmp_path):
    out = io.StringIO()
    tiny.train(tmp_path, progress=Progress(stream=out, quiet=0), population=2, best='test/accuracy')
    assert 'compiled again' not in out.getvalue() and re.search(r'compiled \d+ programs in [\d.]+ s', out.getvalue())


@pytest.mark.slow
def test_the_second_start_compiles_nothing(tmp_path):
    told = []
    for workdir in ('a', 'b'):
        done = subprocess.run(
            [sys.executable, '-m', 'experiments.mnist1d', '--variant=mlp', f'--workdir={tmp_path / workdir}',
             f'--compile_cache={tmp_path / "cache"}', '--config.data=fake', '--config.steps=4', '--config.population=1'],
            capture_output=True, text=True, env={**os.environ, 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'})
        assert done.returncode == 0, done.stderr
        told.append(re.search(r'compiled (\d+) programs in ([\d.]+) s, (\d+) of them found in (.*)', done.stdout).groups())
    (first, _, none, place), (second, _, found, _) = told
    assert place == str(tmp_path / 'cache') and none == '0' and first == second == found


def test_a_cache_that_is_off(monkeypatch):
    before = jax.config.jax_enable_compilation_cache
    try:
        compile_cache.enable('off')
        assert not jax.config.jax_enable_compilation_cache
        assert compile_cache.describe({'programs': 2, 'hits': 0, 'seconds': 1.5}) == (
            'compiled 2 programs in 1.5 s, kept nowhere (--compile_cache)')
    finally:
        jax.config.update('jax_enable_compilation_cache', before)


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with refused('compile-cache/unwritable', str(tmp_path / 'file' / 'cache')):
        compile_cache.enable(str(tmp_path / 'file' / 'cache'))


@pytest.mark.parametrize(('variables', 'place'), [
    ({'JAX_COMPILATION_CACHE_DIR': '/a/b', 'XDG_CACHE_HOME': '/c'}, '/a/b'),
    ({'XDG_CACHE_HOME': '/c'}, r'/c/bigjax/\w+-[0-9a-f]{8}'),
    ({'HOME': '/home/me'}, r'/home/me/\.cache/bigjax/\w+-[0-9a-f]{8}')])
def test_where_programs_are_kept(monkeypatch, variables, place):
    for name in ('JAX_COMPILATION_CACHE_DIR', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert re.fullmatch(place, str(compile_cache.default()))


def test_processors_with_other_instructions_keep_their_own(monkeypatch):
    places = set()
    for able in ('sse avx', 'sse avx avx512f'):
        text = f'model : x\nflags : {able}\nbugs :\n'
        monkeypatch.setattr(compile_cache.hardware.pathlib.Path, 'read_text', lambda self, text=text: text)
        monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
        places.add(compile_cache.default())
    assert len(places) == 2
