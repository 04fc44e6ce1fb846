"""Tokenizers: text to tokens and back, special tokens, saving, and tokens of text files."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bigjax.data import corpus, tokenize, tokenizers
from bigjax.data.datasets import open_data
from bigjax.data.text import token_splits
from tests.refused import refused

TEXT = ("To be, or not to be: isn't that the question?\nWhether 'tis nobler in the mind to suffer — 你好 \U0001f600!\n\n"
        '  The end.\n') * 8


def trained(kind, tmp_path, text=TEXT):
    if kind in ('bpe', 'wordpiece', 'unigram'):
        pytest.importorskip('tokenizers', reason='the extra text')
    (tmp_path / 'in.txt').write_text(text, encoding='utf-8')
    return tokenize.train([str(tmp_path / 'in.txt')], kind=kind, size=350 if kind == 'bpe' else 70 if kind != 'word' else 0)


@pytest.mark.parametrize('kind', tokenize.KINDS)
def test_saved_is_the_same_and_special_tokens_are_text_unless_asked(kind, tmp_path):
    it = trained(kind, tmp_path)
    ids = it.encode(TEXT)
    assert ids and min(ids) >= 0 and max(ids) < it.vocab_size and it.encode_batch([TEXT, 'be'])[0] == ids
    if kind in ('char', 'byte', 'bpe'):
        assert it.decode(ids) == TEXT
    it.save(tmp_path / 'saved')
    again = tokenizers.load(str(tmp_path / 'saved'))
    assert again.facts == it.facts and again.encode(TEXT) == ids
    for number in {i for i in (it.pad, it.bos, it.eos, it.mask) if i is not None} if kind != 'word' else ():
        name = it.decode([number], special=True)
        assert number not in it.encode(f'to {name} be') and it.encode(f'to {name} be', special=True).count(number) == 1
        assert it.decode([number]) == ''
    with refused('tokenizer/token-range', str(it.vocab_size)):
        it.decode([0, it.vocab_size])
    it.check_vocabulary(it.vocab_size)
    with refused('tokenizer/other-vocabulary', str(it.vocab_size), '7'):
        it.check_vocabulary(7)


def test_words_are_those_of_the_definition():
    it = tokenizers.Words.train(['a b b, c', "B isn't! (A)"], min_count=1)
    assert it.words == ['b', 'a', '!', '(', ')', ',', 'c', 'is', "n't"]  # by frequency, then by name
    assert it.encode("isn't x") == [9, 10, 1] and it.decode([2, 0, 1, 3]) == 'b a'
    assert tokenizers.Words.train(['a b b'], min_count=2).words == ['b']


def test_an_unknown_character_has_a_token_where_asked():
    with refused('data/character', "'z'"):
        tokenizers.Characters('ab').encode('az')
    assert tokenizers.Characters('ab', unknown=True).encode('bz') == [1, 2]


@pytest.mark.parametrize(('files', 'code'), [
    ({}, 'tokenizer/no-file'), ({'tokenizer.json': b'{"a'}, 'tokenizer/damaged'), ({'vocab.txt': b'a\nb'}, 'tokenizer/damaged'),
    ({'bigjax_tokenizer.json': b'[]'}, 'tokenizer/damaged'), ({'bigjax_tokenizer.json': b'{"kind": "x"}'}, 'tokenizer/kind')])
def test_damaged_files_are_refused(files, code):
    if {'tokenizer.json', 'vocab.txt'} & set(files):
        pytest.importorskip('tokenizers', reason='the extra text')
    with refused(code):
        tokenizers.from_files(files, 'here')


@pytest.mark.parametrize(('place', 'code'), [('spm:x', 'tokenizer/kind'), ('sp:', 'tokenizer/no-place'),
                                             ('gpt2:/nowhere', 'tokenizer/no-file'), ('/nowhere/t.json', 'data/unreadable')])
def test_places_are_refused(place, code):
    if place.startswith('gpt2'):
        pytest.importorskip('tokenizers', reason='the extra text')
    with refused(code):
        tokenizers.load(place)


def test_byte_level_bpe_from_either_pair_of_files(tmp_path):
    trained('bpe', tmp_path).save(tmp_path / 'a')
    state = json.loads((tmp_path / 'a' / 'tokenizer.json').read_text())['model']
    merges = '\n'.join(['#version: 0.2', *(' '.join(pair) for pair in state['merges'])])
    for folder, names in (('b', ('encoder.json', 'vocab.bpe')), ('c', ('vocab.json', 'merges.txt'))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / names[0]).write_text(json.dumps(state['vocab']))
        (tmp_path / folder / names[1]).write_text(merges)
        it = tokenizers.load(f'gpt2:{tmp_path / folder}')
        assert it.encode(TEXT) == tokenizers.load(str(tmp_path / 'a')).encode(TEXT) and it.eos == it.bos == 0


def test_wordpiece_of_a_bert(tmp_path):
    pytest.importorskip('tokenizers', reason='the extra text')
    (tmp_path / 'vocab.txt').write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhe\n##llo\nworld\n!')
    it = tokenizers.load(f'hf:{tmp_path}')
    assert it.encode('Hello WORLD! x', template=True) == [2, 5, 6, 7, 8, 1, 3]
    assert (it.pad, it.unk, it.bos, it.eos, it.mask) == (0, 1, 2, 3, 4)


def test_sentencepiece(tmp_path):
    library = pytest.importorskip('sentencepiece', reason='the extra text')
    (tmp_path / 'in.txt').write_text(TEXT, encoding='utf-8')
    library.SentencePieceTrainer.train(input=str(tmp_path / 'in.txt'), model_prefix=str(tmp_path / 'm'), vocab_size=40,
                                       pad_id=3, minloglevel=2)
    it = tokenizers.load(f'sp:{tmp_path / "m.model"}')
    assert it.vocab_size == 40 and (it.unk, it.bos, it.eos, it.pad) == (0, 1, 2, 3)
    assert it.encode('to be', template=True) == [*it.encode('to be'), 2] and it.decode(it.encode('to be')) == 'to be'
    assert 2 not in it.encode('to </s> be') and it.encode('to</s>be', special=True).count(2) == 1
    assert it.decode(it.encode('to</s>be', special=True), special=True) == 'to</s>be'
    it.save(tmp_path / 's')
    assert tokenizers.load(str(tmp_path / 's')).facts == it.facts
    (tmp_path / 'bad.model').write_bytes(b'nothing')
    with refused('tokenizer/damaged', 'bad.model'):
        tokenizers.load(f'sp:{tmp_path / "bad.model"}')


@pytest.mark.parametrize('kind', ['byte', 'char', 'bpe', 'unigram', 'word'])
def test_tokens_of_parts_are_those_of_the_whole(kind, tmp_path):
    it = trained(kind, tmp_path)
    place = [str(tmp_path / 'in.txt')]
    tokenize.write(place, str(tmp_path / 'out'), it, val=place, part_bytes=90, quiet=True)
    found = np.fromfile(tmp_path / 'out' / 'train.bin', np.uint16).tolist()
    assert found == it.encode(TEXT) + ([it.eos] if it.eos is not None else [])
    assert (len(corpus.parts([tmp_path / 'in.txt'], it.cuttable, 90)) > 5) == it.cuttable
    assert not (tmp_path / 'out' / tokenize.PARTS).exists()


def records(path, texts):
    path.write_text(''.join(json.dumps({'text': text, 'n': 1}) + '\n' for text in texts))
    return str(path)


@pytest.mark.parametrize('jobs', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_written_resumed_and_read(jobs, tmp_path, monkeypatch):
    texts, it = [f'document {i} of many' for i in range(50)], tokenizers.Bytes()
    place, to = records(tmp_path / 'a.jsonl', texts), tmp_path / 'out'
    options = dict(val_fraction=0.2, part_bytes=200, jobs=jobs, quiet=True)
    if jobs == 1:
        done, real = [], tokenize._one
        monkeypatch.setattr(tokenize, '_one', lambda job: done.append(job) or (real(job) if len(done) < 5 else 1 / 0))
        with pytest.raises(ZeroDivisionError):
            tokenize.write([place], str(to), it, **options)
        monkeypatch.setattr(tokenize, '_one', real)
        times = {p.name: p.stat().st_mtime_ns for p in (to / tokenize.PARTS).glob('*.npy')}
        assert len(times) == 4
    manifest = tokenize.write([place], str(to), it, **options)
    whole = [i for text in texts for i in [*it.encode(text), it.eos]]
    parts = [np.fromfile(to / f'{split}.bin', np.uint16).tolist() for split in ('train', 'val')]
    assert parts[0] + parts[1] == whole and 0.7 < len(parts[0]) / len(whole) < 0.9
    assert sum(m['documents'] for m in manifest['splits'].values()) == 50
    assert tokenize.write([place], str(to), it, **options) == manifest  # all done already
    with refused('tokenize/other-tokens'):
        tokenize.write([place], str(to), it, **{**options, 'val_fraction': 0.5})
    splits = open_data(f'tokens:{to}', like='openwebtext', length=8)
    assert splits.info['vocabulary'] == 259 and splits.info['tokenizer'] == it.facts
    assert splits.train[0]['tokens'].tolist() == whole[:8]
    assert tokenizers.of_stream(splits.info).hash == it.hash and tokenizers.of_stream({}) is None
    with refused('tokenizer/other-than-run'):
        tokenizers.of_stream({**splits.info, 'tokenizer': {**it.facts, 'hash': 'another'}})
    tokenizers.keep(it, tmp_path / 'run')
    assert tokenizers.of_stream({'recorded': str(tmp_path / 'run'), 'tokenizer': it.facts}).hash == it.hash
    with refused('tokenizer/other-vocabulary', '259', '50257'):
        token_splits(to, length=8, name='mine', vocabulary=50257)
    with open(to / 'val.bin', 'ab') as file:
        file.write(b'ab')
    with refused('data/damaged', 'val.bin', 'manifest.json'):
        token_splits(to, length=8, name='mine')


@pytest.mark.slow
def test_interrupted_in_several_processes_and_begun_again(tmp_path):
    """Ctrl-C reaches the workers, too; whichever it meets, the command ends, and the next one writes the rest."""
    (tmp_path / 'in').mkdir()
    for i in range(12):
        (tmp_path / 'in' / f'{i:02}.txt').write_text(f'line of file {i}\n' * 200_000)
    command = [sys.executable, '-m', 'bigjax.data.tokenize', '--in', str(tmp_path / 'in'), '--tokenizer=byte', '--jobs=2']
    assert subprocess.run([*command, f'--to={tmp_path / "straight"}']).returncode == 0
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # what a shell starts in the background ignores Ctrl-C
    process = subprocess.Popen([*command, f'--to={tmp_path / "out"}'], start_new_session=True, stderr=subprocess.PIPE,
                               text=True, preexec_fn=heard)
    while process.poll() is None and not list((tmp_path / 'out').glob(f'{tokenize.PARTS}/*.npy')):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75 and 'Traceback' not in errors
    assert subprocess.run([*command, f'--to={tmp_path / "out"}']).returncode == 0
    for file in ('train.bin', 'val.bin'):
        assert (tmp_path / 'out' / file).read_bytes() == (tmp_path / 'straight' / file).read_bytes()


def test_parts_of_whole_files_outlive_one_that_is_corrected(tmp_path, monkeypatch):
    for name in 'abc':
        (tmp_path / f'{name}.txt').write_text(f'text of {name}')
    (tmp_path / 'd.txt').write_bytes(b'ab\xff')
    place, out, it, seen = [str(tmp_path)], str(tmp_path / 'out'), tokenizers.Bytes(), []
    with refused('data/not-utf8', 'd.txt'):
        tokenize.write(place, out, it, val_fraction=0.5, quiet=True)
    (tmp_path / 'd.txt').write_text('abc')
    (tmp_path / 'a.txt').write_text('anew of a')
    real = corpus.texts
    monkeypatch.setattr(corpus, 'texts', lambda unit, key: seen.append(unit.path[-5]) or real(unit, key))
    tokenize.write(place, out, it, val_fraction=0.5, quiet=True)
    assert ''.join(sorted(seen)) == 'ad'
    tokens = np.concatenate([np.fromfile(tmp_path / 'out' / f'{split}.bin', np.uint16) for split in ('train', 'val')])
    assert tokens.tolist() == [i for text in ('anew of a', 'text of b', 'text of c', 'abc') for i in [*text.encode(), it.eos]]


def test_many_tokens_are_wide(tmp_path):
    words = tokenizers.Words([f'w{i}' for i in range(70_000)])
    (tmp_path / 'a.txt').write_text(''.join(f'w{i} ' for i in range(69_000, 70_000)))
    tokenize.write([str(tmp_path / 'a.txt')], str(tmp_path / 'o'), words, val=[str(tmp_path / 'a.txt')], quiet=True)
    splits = token_splits(tmp_path / 'o', length=4, name='wide')
    assert splits.train[0]['tokens'].tolist() == [69_002, 69_003, 69_004, 69_005]


@pytest.mark.parametrize(('name', 'data', 'code', 'names'), [
    ('a.txt', b'x' * 300 + b'\n' + b'ab\xff', 'data/not-utf8', ['303', 'a.txt', '0xff']),
    ('a.jsonl', b'{"text": "a"}\n{"no": 1}\n', 'data/no-text', ['line 2', "'text'"]),
    ('a.jsonl', b'{"text": "a"}\nhm\n', 'data/not-json', ['line 2']), ('a.txt', b'', 'data/empty', ['--in', 'a.txt'])])
def test_texts_are_refused(name, data, code, names, tmp_path):
    (tmp_path / name).write_bytes(data)
    with refused(code, *names):
        place = [str(tmp_path / name)]
        tokenize.write(place, str(tmp_path / 'o'), tokenizers.Bytes(), val=place, part_bytes=100, quiet=True)
    (tmp_path / name).write_text('{"text": "a"}\n')  # a text that was corrected is encoded by the same command
    made = tokenize.write(place, str(tmp_path / 'o'), tokenizers.Bytes(), val=place, quiet=True)
    assert made['splits']['val']['documents'] == 1


def test_command(tmp_path, capsys):
    (tmp_path / 'a.txt').write_text(TEXT)
    run = lambda *argv: tokenize.main([*argv, '--in', str(tmp_path / 'a.txt')])
    assert run('train', '--kind=char', f'--to={tmp_path / "t"}') == 0
    assert run(f'--tokenizer={tmp_path / "t"}', f'--to={tmp_path / "o"}', '--jobs=1') == 0
    assert f'{(len(TEXT)):,}'[:1] in capsys.readouterr().out
    stream = np.concatenate([np.fromfile(tmp_path / 'o' / f'{split}.bin', np.uint16) for split in ('train', 'val')])
    assert tokenizers.load(str(tmp_path / 't')).decode(stream) == TEXT
    assert tokenize.main(['--in', '/nowhere', f'--to={tmp_path}', '--tokenizer=byte']) == 2
    assert tokenize.main(['train', '--kind=bpe', '--size=9', '--in', str(tmp_path / 'a.txt'), f'--to={tmp_path}']) == 2
