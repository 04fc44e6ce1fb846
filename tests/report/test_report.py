"""The report: its contents, that it is one file, and that it survives whatever records there are."""
import html.parser
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from bigjax.io import atomic
from bigjax.metrics.confusion import Confusion
from bigjax.report import charts
from bigjax.report import html as report
from bigjax.report.charts import Series
from bigjax.report.spikes import spikes
from bigjax.runs import artifacts, reader, summary, writer
from tests import workdirs
from tests.refused import refused


class Page(html.parser.HTMLParser):
    """Text, tags and links of a page; fails on tags that do not close."""

    VOID = ('meta', 'img', 'line', 'circle', 'polyline', 'polygon')

    def __init__(self, path):
        super().__init__()
        self.open, self.text, self.tags, self.links, self.sources = [], [], [], [], []
        self.source = path.read_text(encoding='utf-8')
        self.feed(self.source)
        assert not self.open, f'not closed: {self.open}'

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [attrs[k] for k in ('href',) if k in attrs]
        self.sources += [attrs[k] for k in ('src', 'data') if k in attrs]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def __contains__(self, words):
        return words in re.sub(r'\s+', ' ', ' '.join(self.text))


def test_a_run(tmp_path):
    page = Page(report.write(workdirs.make(tmp_path)))
    run = reader.read_run(tmp_path)
    measured = summary.spread(run['expected'][0]['measured'], run['expected'][0]['spread'])
    for words in ('mnist1d cnn', f'Matches what was published: test/accuracy {measured}, published 0.94', '4 seeds',
                  '5,210 parameters', 'Greydanus & Kobak 2024', '± 0.03', 'learning rate', 'steps per second',
                  'Once upon a time there was a <small> network & it learned.', 'optimizer.lr', '"adam"'.strip('"'),
                  run['versions']['jax'], 'python -m experiments.mnist1d --variant=cnn --workdir=/tmp/run'):
        assert words in page, words
    assert page.tags.count('svg') == 4  # loss, accuracy, speed, learning rate
    assert page.tags.count('polygon') == 3  # bands of train loss, test loss, test accuracy
    confusion = artifacts.load(tmp_path)['confusion']
    assert f'title="3 taken for 3: {confusion.counts[3, 3] / confusion.counts[3].sum():.1%}"' in page.source


@pytest.mark.parametrize('rate, wait, shown', [([1.0, 1.0], [0.001, 0.002], ['loss']),
                                              ([1.0, 0.5], [0.001, 0.5], ['loss', 'data wait', 'learning rate'])])
def test_only_charts_that_tell_something(rate, wait, shown):
    lines = [{'step': i, 'val/loss': 1.0, 'train/loss': 1.0, 'train/learning_rate': rate[i], 'time/data_wait': wait[i],
              'train/examples': 7} for i in range(2)]
    groups = report.grouped(lines)
    assert list(groups) == shown
    assert [s.name for s in groups['loss']] == ['train', 'val']


def test_it_stands_alone(tmp_path):
    page = Page(report.write(workdirs.make(tmp_path)))
    assert 'script' not in page.tags
    assert 'link' not in page.tags
    assert all(source.startswith('data:image/png;base64,') for source in page.sources)
    assert len(page.sources) == 1
    assert not re.search(r'https?:|url\(|@import', page.source)
    assert 'prefers-color-scheme:dark' in page.source
    assert 'width=device-width' in page.source
    assert len(page.source) < 200_000


@pytest.mark.parametrize('options, kind, shown', [
    ({'accuracy': 0.8}, 'miss', 'test/accuracy 0.'), ({'status': 'running'}, 'running', '6,000'),
    ({'status': 'failed'}, 'failed', 'RuntimeError: the device is gone'),
    ({'expected': False, 'artifacts': False, 'members': 1}, 'done', ''),
])
def test_the_verdict(tmp_path, options, kind, shown):
    page = Page(report.write(workdirs.make(tmp_path, **options)))
    assert shown in page
    assert f'class="verdict {kind}"' in page.source


def test_a_population_of_one_has_no_bands(tmp_path):
    page = Page(report.write(workdirs.make(tmp_path, members=1)))
    assert 'polygon' not in page.tags
    assert 'spread of the seeds' not in page
    assert 'each seed' not in page


def test_a_table_of_runs(tmp_path):
    page = Page(report.write(workdirs.table(tmp_path)))
    assert '3 of 4 rows match what was published.' in page
    assert sorted(page.links) == [f'{row}/report.html' for row in ('cnn', 'gru', 'logistic', 'mlp')]
    assert page.source.count('class="miss" title') == 1
    assert page.tags.count('svg') == 2
    for row, accuracy in (('gru', 0.91), ('cnn', 0.94)):
        run = reader.read_run(tmp_path / row)
        assert summary.spread(run['final']['test/accuracy']['mean'], run['final']['test/accuracy']['std']) in page
        assert f'{accuracy}' in page


def test_bare_records(tmp_path):
    """Only the keys that make it a run record, no metrics, no artifacts."""
    atomic.write_json(tmp_path / 'run.json', {'experiment': 'x', 'status': 'done', 'config': {}})
    assert 'Done' in Page(report.write(tmp_path))
    other = tmp_path / 'row'
    other.mkdir()
    (tmp_path / 'run.json').rename(other / 'run.json')
    assert '1 run' in Page(report.write(tmp_path))


def test_what_is_not_finite_is_a_gap(tmp_path):
    run = writer.Records(tmp_path, experiment='x', variant='', config={}, command='c')
    for step, loss in enumerate([3.0, float('nan'), 2.0, 1.0]):
        run.metrics(step, {'train/loss': [loss]})
    run.fail(RuntimeError('</script><b>'))
    page = Page(report.write(tmp_path))
    assert page.tags.count('polyline') == 1
    assert page.tags.count('circle') == 1
    assert '<b>' not in page.source.split('verdict failed')[1].split('</p>')[0]
    assert 'nan' not in page.source.lower().replace('bad interpreter', '')


def test_many_classes_are_listed_not_drawn(tmp_path):
    workdirs.make(tmp_path, artifacts=False)
    counts = np.eye(40) * 10
    counts[7, 9] = 30
    artifacts.save(tmp_path, 'confusion', Confusion(counts, [f'class{i}' for i in range(40)]))
    page = Page(report.write(tmp_path))
    assert 'class="confusion"' not in page.source
    assert 'class7 class9 30 75%' in page


def test_no_run_there(tmp_path, capsys):
    with refused('runs/none', str(tmp_path)):
        report.write(tmp_path)
    assert report.main([str(tmp_path)]) == 2
    assert report.main([]) == 2
    workdirs.make(tmp_path / 'run', artifacts=False)
    assert report.main([str(tmp_path / 'run')]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / 'run' / 'report.html')


@pytest.mark.parametrize('value, text', [
    (None, '–'), (float('nan'), '–'), (0.9432, '0.9432'), (0.94, '0.9400'), (12.3456, '12.35'), (1234.5, '1,234'),
    (6000, '6,000'), (2.0, '2'), (1e-5, '1.000e-05'), (0.0, '0'), (-0.5, '-0.5000'), ('x', 'x')])
def test_number(value, text):
    assert summary.number(value) == text


@pytest.mark.parametrize('mean, std, text', [
    (0.94317, 0.0043, '0.9432 ± 0.0043'), (0.94317, 0.0012, '0.9432 ± 0.0012'), (0.9, None, '0.9000'),
    (0.9, 0.0, '0.9000'),
    (1234.5, 25.0, '1,234 ± 25'), (None, 0.1, '–'), (3.0, 0.9, '3.00 ± 0.90'), (1e-9, 2e-10, '1.000e-09 ± 2.0e-10')])
def test_spread(mean, std, text):
    assert summary.spread(mean, std) == text


@pytest.mark.parametrize('row, text', [
    ({'value': 0.94, 'std': None, 'runs': None, 'better': None}, '0.94'),
    ({'value': 97.1, 'std': 0.25, 'runs': 5, 'better': 'higher'}, '≥ 97.1 ± 0.25 (5 runs)'),
    ({'value': 3706, 'std': None, 'runs': None, 'better': 'lower'}, '≤ 3,706')])
def test_the_published_number_is_as_it_was_published(row, text):
    assert summary.paper(row) == text


def coordinates(svg, tag='polyline'):
    points = re.findall(rf'<{tag}[^>]*points="([^"]*)"', svg)
    return [[tuple(map(float, p.split(','))) for p in line.split()] for line in points]


@pytest.mark.parametrize('log', [False, True])
def test_a_chart_is_to_scale(log):
    x, y = [0, 10, 40], [1.0, 10.0, 100.0]
    (a, b, c), = coordinates(charts.chart([Series('s', x, y)], log=log))
    assert (b[0] - a[0]) / (c[0] - a[0]) == pytest.approx(0.25, abs=0.01)
    assert (a[1] - b[1]) / (a[1] - c[1]) == pytest.approx(0.5 if log else 9 / 99, abs=0.01)
    assert a[1] > b[1] > c[1]  # larger is higher


def test_the_band_is_the_spread():
    svg = charts.chart([Series('s', [0, 1], [4.0, 6.0], [1.0, 2.0])], log=False)
    (a, b), = coordinates(svg)
    (upper_a, upper_b, lower_b, lower_a), = coordinates(svg, 'polygon')
    unit = (a[1] - b[1]) / 2
    assert a[1] - upper_a[1] == pytest.approx(unit, abs=0.2)
    assert lower_b[1] - b[1] == pytest.approx(2 * unit, abs=0.2)
    assert lower_a[1] - a[1] == pytest.approx(unit, abs=0.2)
    assert b[1] - upper_b[1] == pytest.approx(2 * unit, abs=0.2)


@pytest.mark.parametrize('y', [[1.0], [0.0, 0.0], [5.0, 5.0], [-1.0, 1.0], [1e-9, 1e9], [None, 1.0], [None, None], []])
def test_a_chart_of_anything(y):
    svg = charts.chart([Series('s', list(range(len(y))), y, [0.5] * len(y))])
    assert ('<svg' in svg) == any(v is not None for v in y)
    for points in coordinates(svg) + coordinates(svg, 'polygon'):
        assert all(0 <= px <= charts.WIDTH and 0 <= py <= charts.HEIGHT for px, py in points)


def test_long_series_are_thinned_to_their_ends():
    s = charts.thin(Series('s', list(range(100_000)), [float(v) for v in range(100_000)]))
    assert len(s.x) <= charts.POINTS
    assert (s.x[0], s.x[-1], s.y[-1]) == (0, 99_999, 99_999.0)


def test_the_command_needs_neither_matplotlib_nor_a_device(tmp_path):
    workdirs.make(tmp_path, artifacts=False)
    code = ('import sys; sys.modules["matplotlib"] = None; from bigjax.report import html as report; '
            'import jax._src.xla_bridge as b; '
            f'report.write({json.dumps(str(tmp_path))}); print(len(b._backends))')
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                         cwd=report.__file__.rsplit('/', 3)[0])
    assert out.stdout.strip() == '0'


def falling(seed, noise, count=600):
    t = np.arange(count) / count
    return (2.3 * np.exp(-5 * t) + 0.05) * np.maximum(1 + noise * np.random.default_rng(seed).normal(size=count), 0.01)


STEPS = [40 * i for i in range(600)]


@pytest.mark.parametrize('noise', [0.0, 0.05, 0.2])
@pytest.mark.parametrize('seed', range(5))
def test_a_noisy_falling_loss_has_no_spikes(seed, noise):
    assert spikes(STEPS, falling(seed, noise)) == []
    assert spikes(STEPS, falling(seed, noise) - 0.4) == []  # below zero at the end


@pytest.mark.parametrize('seed', range(5))
def test_exactly_the_injected_spikes_are_found(seed):
    values = [float(v) for v in falling(seed, 0.05)]
    usual = {i: values[i] for i in (12, 200, 203, 599)}
    for i, value in usual.items():
        values[i] = 4 * value
    values[5], values[300], values[400], values[500] = None, math.nan, math.inf, -math.inf
    found = spikes(STEPS, values)
    assert [step // 40 for step, *_ in found] == [5, 12, 200, 203, 300, 400, 500, 599]
    for step, value, typical in found:
        if step // 40 in usual:
            assert value == values[step // 40] and typical == pytest.approx(usual[step // 40], rel=0.6)
        else:
            assert not math.isfinite(value)


@pytest.mark.parametrize('values, found', [
    ([], []), ([1.0], []), ([None], [0]), ([1.0] * 9 + [9.0], []), ([1.0] * 10 + [9.0], [10]), ([1.0] * 10 + [1.4], []),
    ([1.0] * 10 + [0.1], []), ([0.0] * 10 + [1.0], [10]), ([-2.0] * 20 + [3.0], [20]),
    ([1.0] * 20 + [4.0, 9.0, None, 5.0] + [1.0] * 9, [22]), ([1.0] * 20 + [4.0, 9.0, 5.0] + [1.0] * 9, [21]),
    ([1.0] * 20 + [9.0] * 200, [20])])  # a level that stays is one spike, and then the usual
def test_spikes_of_small_series(values, found):
    assert [step for step, *_ in spikes(range(len(values)), values)] == found


def test_what_is_usual_is_what_came_before_a_spike():
    assert spikes(range(23), [1.9, 2.1] * 10 + [9.0, 11.0, 10.0]) == [(21, 11.0, 2.0)]
    assert spikes([7], [None])[0][2] is None


@pytest.mark.parametrize('count', [0, 1, 10, 13])
def test_spikes_are_marked_in_the_chart_and_listed_under_it(tmp_path, count):
    run = writer.Records(tmp_path, experiment='x', variant='', config={}, command='c')
    jumps = [100 + 50 * i for i in range(count)]
    for step in range(800):
        run.metrics(step * 10, {'train/loss': [7.3 if step in jumps else 2.1 + 0.01 * (step % 3)], 'val/loss': [2.2]})
    run.finish('done', 8000, {})
    page = Page(report.write(tmp_path))
    assert page.source.count('class="mark"') == count
    assert page.source.count('loss spike at step') == min(count, 10)
    assert ('loss spike at step 1,000: 7.3, about 2.11 before' in page) == (count > 0)
    assert ('and 3 more' in page) == (count == 13)


def test_a_loss_that_is_not_finite_is_marked(tmp_path):
    run = writer.Records(tmp_path, experiment='x', variant='', config={}, command='c')
    for step in range(30):
        run.metrics(step, {'train/loss': [float('nan') if step in (0, 20) else 1234.5]})
    run.finish('done', 30, {})
    page = Page(report.write(tmp_path))
    assert page.source.count('class="mark"') == 2
    assert re.search(r'step 0: not finite</div><div>loss spike at step 20: not finite, about 1,234 before<', page.source)


@pytest.mark.parametrize('at', [0, 777, 1234, 1999])
def test_a_mark_points_at_its_step_and_the_curve_is_there(at):
    y = [1.0] * 2000
    y[at] = 5.0
    svg = charts.chart([Series('s', list(range(2000)), y)], marks=[at], log=False)
    (line,) = coordinates(svg)
    top = min(line, key=lambda p: p[1])
    assert float(re.search(r'class="mark"[^>]* d="M([0-9.]+),', svg)[1]) == top[0]
    assert top[1] < sum(p[1] for p in line) / len(line) - 50
