"""The command that continues a prompt with weights of another library's format."""
import types

import jax
import numpy as np
import pytest

from bigjax import decode, weights
from bigjax.decode.__main__ import language_of, main
from bigjax.models.gpt import GPT
from tests.refused import refused

MODEL = GPT(vocab_size=17, block_size=16, num_layers=1, num_heads=2, width=8, bias=True)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    variables = jax.jit(lambda: MODEL.init(jax.random.key(0), np.zeros((1, 4), np.int32), train=False))()
    place = tmp_path_factory.mktemp('gpt')
    weights.save(MODEL, variables, f'hf:{place}')
    return place, variables


def test_numbers_of_tokens_are_continued(folder, capsys):
    place, variables = folder
    argv = [f'hf:{place}', '--prompt=3 4 5', '--tokens=6', '--temperature=0']
    expected = decode.generate(MODEL, variables, [[3, 4, 5]], max_new_tokens=6)[0, 3:]
    for more in ([], ['--lookup=2'], [f'--draft=hf:{place}']):
        assert main([*argv, *more]) == 0
        out, err = capsys.readouterr()
        assert out == '3 4 5' + ''.join(f' {token}' for token in expected) + '\n' and '6 tokens' in err


@pytest.mark.parametrize('argv', [
    ('--prompt=17',), ('--prompt=1', '--top_p=2'), ('--prompt=1', '--tokens=30', '--num_beams=2')])
def test_wrong_input_is_a_line(folder, capsys, argv):
    assert main([f'hf:{folder[0]}', *argv]) == 2
    out, err = capsys.readouterr()
    assert not out and err.splitlines()[-1].startswith('decode: ')


def test_the_tokenizer_of_another_model():
    tokenizer = types.SimpleNamespace(vocab_size=18, encode=list, decode=str, eos=2, bos=None,
                                      check_vocabulary=lambda size: None)
    with refused('decode/other-vocabulary', '18', '17'):
        language_of(tokenizer, MODEL)
    tokenizer.vocab_size = 17
    assert language_of(tokenizer, MODEL)[2:] == ((2,), (2,))
