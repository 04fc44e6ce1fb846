"""Trained models on inputs of a person's own: photographs, rows, tables, folders, prompts."""
import dataclasses
import json

import cv2
import numpy as np
import pytest

from bigjax import cli
from bigjax.data import images, tokenizers
from bigjax.data.columns import Column
from bigjax.data.datasets import open_data
from bigjax.data.loaders.named import SCAN_VOCABULARIES as WORDS
from bigjax.data.schema import Schema
from bigjax.data.sources import ArraySource, Splits
from bigjax.decode.stream import continue_text
from bigjax.predict import inputs, interfaces
from experiments import dcgan_mnist, mnist, mnist1d, scan, sentiment, tiny_shakespeare, uci, vae_mnist
from tests.decode.table import following
from tests.refused import refused


def run(capsys, script, name, *argv):
    code = cli.run(script, f'experiments.{name}', list(argv))
    out = capsys.readouterr()
    return code, out.out, out.err


def trained(tmp_path_factory, script, name, *argv):
    """The workdir of a run of a few steps on made-up data."""
    workdir = tmp_path_factory.mktemp(name) / 'run'
    assert cli.run(script, f'experiments.{name}', [f'--workdir={workdir}', '--config.data=fake', '--config.steps=4',
                                                   '--config.batch_size=8', '--config.mesh=data:1', *argv]) == 0
    return workdir


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    return trained(tmp_path_factory, mnist, 'mnist', '--variant=lenet5')


@pytest.fixture(scope='module')
def series(tmp_path_factory):
    return trained(tmp_path_factory, mnist1d, 'mnist1d', '--variant=logistic', '--population=2')


def dark_digits(shape=(28, 28, 1)):
    """Splits whose images are light strokes on a dark ground."""
    images = np.zeros((20, *shape), np.uint8)
    images[:, 8:20, 12:16] = 255
    return Splits(ArraySource({'image': images, 'label': np.arange(20, dtype=np.int32) % 3}), {}, {'classes': ['a', 'b', 'c']})


def photo(path, ground=250, stroke=10, size=(90, 60)):
    """A drawing in colours, larger than the training images."""
    image = np.full((*size, 3), ground, np.uint8)
    image[30:60, 25:35] = (stroke, stroke, min(255, stroke + 20))
    assert cv2.imwrite(str(path), image)
    return path


@pytest.mark.parametrize(('ground', 'stroke'), [(250, 10), (5, 240)])
def test_a_photograph_becomes_what_training_images_are(tmp_path, ground, stroke):
    example = interfaces.classification(dark_digits()).parse(photo(tmp_path / 'x.png', ground, stroke))
    image, notes = example['image'], ' '.join(example[interfaces.NOTES])
    assert image.shape == (28, 28, 1) and image.dtype == np.uint8
    assert image[0, 0, 0] <= 5 and image[14, 14, 0] > 200  # light strokes on a dark ground, either way
    assert 'grey' in notes and '60 x 90' in notes and ('inverted' in notes) == (ground > 200)


@pytest.mark.parametrize('logits', [[2.0, -1.0, 0.5, 0.0], [0.3]])
def test_the_answer_is_the_softmax(logits):
    names = ['a', 'b', 'c', 'd'][:max(2, len(logits))]
    found = interfaces.classes(np.array(logits), names)
    z = np.exp(logits if len(logits) > 1 else [0.0, *logits])
    assert found['class'] == names[np.argmax(z)] and found['probability'] == pytest.approx(max(z) / z.sum())
    assert [t['class'] for t in found['top']] == [names[k] for k in np.argsort(-z)[:3]]


def test_digits_answer_with_class_and_probability(capsys, digits, tmp_path):
    (tmp_path / 'more' / '.hidden').mkdir(parents=True)
    for name in ('one.png', 'more/two.png', 'more/three.jpg', 'more/.hidden/four.png'):
        photo(tmp_path / name)
    code, out, err = run(capsys, mnist, 'mnist', 'predict', f'--workdir={digits}', f'{tmp_path}/one.png', f'{tmp_path}/more')
    assert code == 0, err
    assert [line.split()[0].rsplit('/', 1)[-1] for line in out.splitlines()] == ['one.png', 'three.jpg', 'two.png']
    assert all(line.count('%') == 3 for line in out.splitlines())
    code, out, _ = run(capsys, mnist, 'mnist', 'predict', '--json', f'--workdir={digits}', f'{tmp_path}/one.png')
    answer = json.loads(out)
    assert code == 0 and answer['class'] in '0123456789' and 0 < answer['probability'] <= 1 and len(answer['top']) == 3


def test_series_from_every_form_of_a_row(capsys, series, tmp_path):
    x = open_data('fake', like='mnist1d').train[3]['x'].ravel().astype(float)
    (tmp_path / 'row.csv').write_text(','.join(map(str, x)) + '\n')
    (tmp_path / 'named.csv').write_text(','.join(f't{i}' for i in range(40)) + ',label\n' + ','.join(map(str, x)) + ',3\n')
    (tmp_path / 'rows.jsonl').write_text(json.dumps({'x': list(x)}) + '\n' + json.dumps(list(x)) + '\n')
    words = [json.dumps(list(x)), ','.join(map(str, x)), *(f'{tmp_path}/{n}' for n in ('row.csv', 'named.csv', 'rows.jsonl'))]
    code, out, err = run(capsys, mnist1d, 'mnist1d', 'predict', '--json', '--member=1', f'--workdir={series}', *words)
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0, err
    assert len(answers) == 6 and len({json.dumps({k: a[k] for k in ('class', 'top')}) for a in answers}) == 1


@pytest.mark.parametrize(('word', 'named'), [
    ('nothing.csv', 'nothing.csv'), ('[1, 2]', '40'), ('[1, ', 'JSON'), ('text.csv', 'text.csv'), ('words.csv', 'word'),
    ('data.bin', '.bin'), ('empty', 'empty'), ('', "''"), ('x' * 5000, 'xxx')])
def test_bad_inputs_are_one_line_and_no_input_is_answered(capsys, series, tmp_path, monkeypatch, word, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.csv').write_text('a,b\n1\n')
    (tmp_path / 'words.csv').write_text(','.join(['word'] + ['0'] * 39) + '\n' + ','.join(['word'] * 40) + '\n')
    (tmp_path / 'data.bin').write_bytes(b'\0')
    (tmp_path / 'empty').mkdir()
    good = ','.join(['0'] * 40)
    code, out, err = run(capsys, mnist1d, 'mnist1d', 'predict', f'--workdir={series}', good, word)
    assert code == 2 and not out and err.count('\n') == 1 and named in err


@pytest.mark.parametrize('argv', [('predict', '1,2'), ('predict',), ('predict', '--member=7', '1,2'), ('sample', '--prompt=x')])
def test_what_a_run_does_not_offer(capsys, series, argv):
    code, out, err = run(capsys, mnist1d, 'mnist1d', *argv, f'--workdir={series}')
    assert code == 2 and not out and err.count('\n') == 1


def test_a_damaged_image_and_an_image_that_is_none(tmp_path):
    (tmp_path / 'x.png').write_bytes(b'no image')
    with refused('data/image', 'x.png'):
        interfaces.classification(dark_digits()).parse(tmp_path / 'x.png')
    with refused('predict/kind', 'x.txt'):
        (tmp_path / 'x.txt').write_text('')
        inputs.expanded([f'{tmp_path}/x.txt'], ('.png',))


def test_a_folder_of_images_is_walked_as_one_to_train_on_is(tmp_path):
    image = cv2.imencode('.png', np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    for name in ('all/b.PNG', 'all/no_ending', 'all/.h/x.png', 'all/__MACOSX/x.png', 'all/._x.png', 'other/c.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image)
    (tmp_path / 'all' / 'notes').write_text('no image')
    (tmp_path / 'all' / 'link').symlink_to(tmp_path / 'other')
    found = inputs.expanded([f'{tmp_path}/all', f'{tmp_path}/all/no_ending'], images.EXTENSIONS)
    assert [name.removeprefix(f'{tmp_path}/all/') for name, _ in found] == ['b.PNG', 'link/c.png', 'no_ending', 'no_ending']
    with refused('predict/kind', 'notes'):
        inputs.expanded([f'{tmp_path}/all/notes'], images.EXTENSIONS)


def test_regression_answers_in_the_unit_of_the_target():
    splits = Splits(ArraySource({'x': np.zeros((4, 2), np.float32), 'target': np.zeros(4, np.float32)}), {},
                    {'standardized': {'mean': [1.0, 2.0], 'std': [2.0, 4.0], 'target': [100.0, 10.0]}})
    interface = interfaces.regression(splits)
    np.testing.assert_allclose(interface.parse(['3', '-2'])['x'], [1.0, -1.0])
    assert interface.answer(np.float32(0.5)) == {'value': 105.0}
    assert interface.answer(np.array([0.0, 1.0])) == {'value': 105.0, 'std': 5.0}
    for row, code in ((['1'], 'data/row-length'), (['1', 'nan'], 'data/column-kind'), (['1', 'x'], 'data/column-kind')):
        with refused(code):
            interface.parse(row)


SHAKESPEARE = ('--variant=gpt', '--config.model.num_layers=1', '--config.model.width=16', '--config.length=8',
               '--config.sample.tokens=2')


@pytest.mark.slow
def test_shakespeare_with_filters_and_beams(capsys, tmp_path_factory):
    workdir = trained(tmp_path_factory, tiny_shakespeare, 'tiny_shakespeare', *SHAKESPEARE)
    capsys.readouterr()
    go = lambda *argv: run(capsys, tiny_shakespeare, 'tiny_shakespeare', 'sample', f'--workdir={workdir}', *argv)
    filters = ('--temperature=2', '--top_k=9', '--top_p=0.9', '--min_p=0.1', '--repetition_penalty=1.5')
    texts = [go('--prompt=ab', '--tokens=20', *flags)[1] for flags in (filters, filters[:1], ('--temperature=2', '--seed=4'))]
    assert len(set(texts)) == 3
    assert len(go('--prompt=ab', '--tokens=6', '--num_beams=3')[1]) == 9


def test_shakespeare_continues_a_prompt(capsys, tmp_path_factory):
    workdir = trained(tmp_path_factory, tiny_shakespeare, 'tiny_shakespeare', *SHAKESPEARE)
    capsys.readouterr()
    go = lambda *argv: run(capsys, tiny_shakespeare, 'tiny_shakespeare', 'sample', f'--workdir={workdir}', *argv)
    code, out, err = go('--prompt=ab', '--tokens=20', '--seed=1')
    assert code == 0, err
    assert out.startswith('ab') and len(out) == 2 + 20 + 1
    assert go('--prompt=ab', '--tokens=20', '--seed=1')[1] == out != go('--prompt=ab', '--tokens=20', '--seed=2')[1]
    likeliest = ('--prompt=ab', '--tokens=20', '--temperature=0')
    code, found, err = go(*likeliest)
    assert code == 0 and found == go(*likeliest, '--seed=3')[1] == go(*likeliest, '--lookup=3')[1] and '20 tokens' in err
    stops = found[5:7], '@@', found[7:9]
    first = min(found.index(text, 2) for text in (stops[0], stops[2]))
    assert go(*likeliest, *(f'--stop={text}' for text in stops))[1] == found[:first] + '\n'
    for flags in (('--top_p=2',), ('--num_beams=2', '--temperature=1'), ('--num_beams=2', '--tokens=40')):
        code, out, err = go('--prompt=ab', *flags)
        assert code == 2 and not out and err.count('\n') == 1
    code, out, err = go('--prompt=\u4e00')
    assert code == 2 and not out and err.count('\n') == 1
    code, _, err = run(capsys, tiny_shakespeare, 'tiny_shakespeare', 'predict', f'--workdir={workdir}', 'x.txt')
    assert code == 2 and err.count('\n') == 1


def own_npz(path):
    rng = np.random.default_rng(0)
    np.savez(path, image=rng.integers(0, 40, (60, 12, 12), np.uint8), label=np.arange(60) % 3)
    return ('--config.steps=2', f'--config.data=npz:{path}', '--config.model.features=(4,)')


@pytest.mark.parametrize('name', ['mnist', 'uci'])
def test_a_run_answers_without_its_data(capsys, tmp_path, tmp_path_factory, name):
    """On another machine, with the workdir alone: the same answers, of every member, as with the data."""
    if name == 'mnist':
        data, script, word, argv = tmp_path / 'd.npz', mnist, str(photo(tmp_path / 'x.png')), ('--variant=standard',)
        argv += own_npz(data)
    else:
        data, script, word = tmp_path / 'd.csv', uci, '{"a": "", "b": "v"}'
        rows = [f'{i},{"uvw"[i % 3]},{10 * i * i}' for i in range(40)]
        data.write_text('\n'.join(['a,b,target', *rows]) + '\n')
        argv = (f'--config.data=csv:{data}', '--population=3', '--config.passes=20', '--config.model.features=(4,)')
    workdir = trained(tmp_path_factory, script, name, *argv)
    capsys.readouterr()
    members = (0, 2) if name == 'uci' else (0,)
    ask = lambda member, *more: run(capsys, script, name, 'predict', '--json', f'--workdir={workdir}', f'--member={member}',
                                    word, *more)
    kind = 'npz' if name == 'mnist' else 'csv'
    there = [ask(member, f'--config.data={kind}:{data}') for member in members]
    data.rename(tmp_path / 'elsewhere')
    for member, (code, out, err) in zip(members, there, strict=True):
        assert code == 0, err
        assert ask(member)[:2] == (0, out)
    assert len({out for _, out, _ in there}) == len(members)
    code, _, err = ask(0, f'--config.data={kind}:{data}')
    assert code == 2 and err.count('\n') <= 2 and 'd.' in err


def test_members_answer_in_the_units_of_their_own_data(capsys, tmp_path, tmp_path_factory):
    (tmp_path / 'd.csv').write_text('a,target\n' + ''.join(f'{i},{1000 * i * i}\n' for i in range(40)))
    workdir = trained(tmp_path_factory, uci, 'uci', '--variant=yacht,linear', f'--config.data=csv:{tmp_path}/d.csv',
                      '--population=3', '--config.optimizer.lr=1e-30', '--config.steps=1')
    info = json.loads((workdir / 'run.json').read_text())['info']
    units = [info['standardized'], *(member['standardized'] for member in info['members'])]
    assert len({unit['target'][0] for unit in units}) == 3
    for member, unit in enumerate(units):  # an input at the mean of its training part is 0 to the network, whose bias is 0
        capsys.readouterr()
        row = json.dumps({'a': unit['mean'][0]})
        _, out, err = run(capsys, uci, 'uci', 'predict', '--json', f'--workdir={workdir}', f'--member={member}', row)
        assert json.loads(out)['value'] == pytest.approx(unit['target'][0], rel=1e-5), err


MIXED = Schema((Column('size', 'number'), Column('colour', 'category', values=('red', 'green', 'blue'), fill='red'),
                Column('target', 'target')), folded=True)


@pytest.mark.parametrize(('row', 'code', 'names'), [
    (['3'], 'data/row-length', ('size, colour', '1 value')), ([3, 1, 0], 'data/row-length', ('size, colour', '3 values')),
    (['3', '1'], 'data/column-kind', ('colour', '1')), ({'size': 3}, 'data/missing-column', ('colour',))])
def test_a_row_of_a_table_with_categories_names_the_columns(row, code, names):
    splits = Splits(ArraySource({'x': np.zeros((4, 4), np.float32)}), {}, {'schema': MIXED.to_json()})
    parse = interfaces.regression(splits).parse
    with refused(code, *names):
        parse(row)
    for given in ([3, 'green'], {'size': '3', 'colour': 'green'}, [3, 0, 1, 0]):
        np.testing.assert_array_equal(parse(given)['x'], [3, 0, 1, 0])
    assert any('pink' in note for note in parse({'size': 3, 'colour': 'pink'})[interfaces.NOTES])


def test_a_mesh_that_this_machine_does_not_have_is_no_hindrance(capsys, tmp_path, tmp_path_factory):
    workdir = trained(tmp_path_factory, mnist, 'mnist', '--variant=standard', *own_npz(tmp_path / 'd.npz'))
    config = json.loads((workdir / 'run.json').read_text())
    config['config']['mesh'] = 'fsdp:4096'
    (workdir / 'run.json').write_text(json.dumps(config))
    capsys.readouterr()
    code, out, err = run(capsys, mnist, 'mnist', 'predict', f'--workdir={workdir}', str(photo(tmp_path / 'x.png')))
    assert code == 0 and '%' in out, err


@pytest.mark.parametrize(('script', 'name', 'argv'), [
    (dcgan_mnist, 'dcgan_mnist',
     ('--variant=hinge', '--config.model.width=4', '--config.model.latent=5', '--config.judged=20')),
    (vae_mnist, 'vae_mnist', ('--variant=nz2', '--config.model.hidden=(16,)', '--config.importance_samples=3'))])
@pytest.mark.slow
def test_generative_models_draw_a_grid(capsys, tmp_path_factory, script, name, argv):
    workdir = trained(tmp_path_factory, script, name, *argv)
    capsys.readouterr()
    code, out, err = run(capsys, script, name, 'sample', f'--workdir={workdir}', '--count=9')
    assert code == 0 and 'samples.png' in out, err
    grid = cv2.imread(str(workdir / 'samples.png'))
    assert grid.shape == (3 * 29 - 1, 3 * 29 - 1, 3)
    run(capsys, script, name, 'sample', f'--workdir={workdir}', '--count=9', '--seed=1')
    other = cv2.imread(str(workdir / 'samples.png'))
    assert name == 'dcgan_mnist' or (other != grid).any()  # a generator of four steps gives one grey, whatever its input
    for words in (('predict', 'x.png'), ('sample', '--prompt=a'), ('sample', '--count=0')):
        code, out, err = run(capsys, script, name, *words, f'--workdir={workdir}')
        assert code == 2 and not out and err.count('\n') == 1


def test_commands_are_translated(capsys, tmp_path, tmp_path_factory):
    workdir = trained(tmp_path_factory, scan, 'scan', '--variant=simple', '--config.model.features=8',
                      '--config.model.layers=1', '--config.model.max_length=6')
    (tmp_path / 'c.txt').write_text('jump twice\r\n\r\nrun\r\n')
    capsys.readouterr()
    go = lambda *words: run(capsys, scan, 'scan', *words, f'--workdir={workdir}')
    code, out, err = go('predict', '--json', 'jump twice', f'{tmp_path}/c.txt')
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and len(answers) == 3, err
    assert answers[0]['text'] == answers[1]['text'] and set(answers[0]['text'].split()) <= set(WORDS['target'][3:])
    for words in (('predict', 'fly'), ('predict', ''), ('sample',)):
        code, out, err = go(*words)
        assert code == 2 and not out and err.count('\n') == 1


def test_a_model_of_tokens_reads_and_writes_numbers():
    language = interfaces.token_numbers(7).language
    parts = continue_text(following(0, 1, 2, 3, 4, 5, 6), {}, language, '2, 3', max_new_tokens=5)
    assert ''.join(piece.part for piece in parts) == ' 4 5 6 0 1'
    for prompt in ('7', 'ab', '-1', '٣'):
        with refused('predict/not-tokens', '--prompt'):
            language.encode(prompt)


def test_an_experiment_without_an_interface(capsys, monkeypatch, series):
    found = mnist1d.get_experiment
    monkeypatch.setattr(mnist1d, 'get_experiment', lambda config: dataclasses.replace(found(config), interface=None))
    for words in (('predict', '1,2'), ('sample',)):
        code, _, err = run(capsys, mnist1d, 'mnist1d', *words, f'--workdir={series}')
        assert code == 2 and 'interface' in err and err.count('\n') == 1


@pytest.fixture(scope='module')
def sentences(tmp_path_factory):
    folder = tmp_path_factory.mktemp('texts')
    rows = [{'text': f'{word} film number {i}', 'label': label} for i in range(20) for word, label in
            (('fine', 'good'), ('dull', 'bad'))]
    (folder / 'a.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    workdir = folder / 'run'
    assert cli.run(sentiment, 'experiments.sentiment', [
        f'--workdir={workdir}', f'--config.data=jsonl:{folder}/a.jsonl', '--variant=trec,average', '--config.steps=40',
        '--config.batch_size=20', '--config.mesh=data:1', '--config.model.dropout=0.0', '--config.optimizer.lr=0.05',
        '--config.length=6', '--config.model.embed=8', '--config.best=']) == 0
    (folder / 'a.jsonl').unlink()  # the tokenizer and the shapes are in the workdir
    return workdir


def test_texts(sentences, tmp_path, capsys):
    (tmp_path / 'more.txt').write_text('a dull film\n\na fine film\n')
    (tmp_path / 'more.jsonl').write_text('{"text": "dull"}\n')
    capsys.readouterr()
    place = f'--workdir={sentences}'
    code, out, err = run(capsys, sentiment, 'sentiment', 'predict', place, '--json', 'what a fine film number one',
                         f'@{tmp_path}/more.txt', f'{tmp_path}/more.jsonl', 'fine fine fine fine fine fine fine')
    assert code == 0, err
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer['class'] for answer in answers] == ['good', 'bad', 'good', 'bad', 'good']
    assert all(answer['probability'] > 0.5 for answer in answers) and answers[1]['input'].endswith('more.txt:1')
    assert answers[0]['assumed'] == ['3 of 6 tokens unknown'] and answers[4]['assumed'] == ['cut: 6 of 7 tokens']
    code, out, _ = run(capsys, sentiment, 'sentiment', 'predict', place, 'a fine film')
    assert code == 0 and out.startswith('a fine film  good ') and '%' in out
    (tmp_path / 'odd.txt').write_bytes(b'ab\xff')
    (tmp_path / 'odd.jsonl').write_bytes(b'{"text": "\xff"}')
    (tmp_path / 'empty.txt').write_text('\n')
    for word in (' ', f'@{tmp_path}/none.txt', f'@{tmp_path}/odd.txt', f'{tmp_path}/odd.jsonl', f'@{tmp_path}/empty.txt'):
        code, _, err = run(capsys, sentiment, 'sentiment', 'predict', place, word)
        assert code == 2 and len(err.strip().splitlines()) == 1
    for word in ('@friend you are fine', '@friend'):
        assert list(inputs.expanded([word], ('text', '.txt'))) == [(word, word)]


def test_another_tokenizer_than_the_runs_is_refused(sentences, tmp_path, capsys):
    saved = sentences / 'tokenizer' / 'bigjax_tokenizer.json'
    before = saved.read_text()
    saved.write_text(before.replace('film', 'flim'))
    code, _, err = run(capsys, sentiment, 'sentiment', 'predict', f'--workdir={sentences}', 'a fine film')
    assert code == 2 and 'tokenizer' in err
    with refused('tokenizer/other-than-run'):
        tokenizers.keep(tokenizers.Bytes(), sentences)
    saved.write_text(before)


def test_prompts_are_text_where_a_stream_has_its_tokenizer():
    it, model = tokenizers.Bytes(), following(*range(259))

    def sample(interface, prompt):
        return ''.join(piece.part for piece in continue_text(model, {}, interface.language, prompt, max_new_tokens=3))

    assert sample(interfaces.tokens(it, 259), 'a') == 'bcd' and sample(interfaces.tokens(None, 259), '97') == ' 98 99 100'
    with refused('tokenizer/other-vocabulary', '300', '259'):
        interfaces.tokens(it, 300)
