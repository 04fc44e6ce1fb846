"""What a person is told."""
import io
import time

import numpy as np
import pytest

from bigjax.data.pipeline import Stages
from bigjax.io.text import clock, table
from bigjax.runs.progress import Progress
from bigjax.sharding import mesh as meshes
from tests import tiny


def test_an_interval_is_one_line_with_everything_in_it():
    out = io.StringIO()
    progress = Progress('row', out, quiet=0)
    progress.start(0, 100)
    progress.metrics(10, {'train/loss': [1.0, 3.0], 'train/grad_norm': [9.0]})
    progress.speed(10, {'steps_per_second': 20.0, 'tokens_per_second': 640.0, 'tflops': 0.002, 'mfu': 0.31, 'data_wait': 0.01},
                   Stages())
    line, = out.getvalue().splitlines()
    for part in ('[row] step 10/100', 'train/loss 2', '20 steps/s', '640 tokens/s', '2 GFLOP/s', 'MFU 31.0%',
                 'data_wait 1%', 'GB', 'left 0:0'):
        assert part in line
    assert 'grad_norm' not in line and 'warning' not in line


def test_waiting_is_warned_of_once_and_the_slow_stage_named(tmp_path):
    def slow(example, rng, train):
        time.sleep(0.005)
        return example

    out = io.StringIO()
    tiny.train(tmp_path, [tiny.experiment(transform=slow)], Progress(stream=out, quiet=0), log_every=2, data_threads=1,
               steps=40, eval_every=40, checkpoint_every=40)
    warnings = [line for line in out.getvalue().splitlines() if 'warning' in line]
    assert len(warnings) == 1 and 'the slow stage is transforming examples' in warnings[0]


@pytest.mark.parametrize(('stages', 'warned'), [(Stages(), 1), (None, 0)])
def test_waiting_for_data_that_is_on_the_device_has_no_advice_of_threads(stages, warned):
    out = io.StringIO()
    progress = Progress(stream=out, quiet=0)
    progress.start(0, 100)
    progress.speed(10, {'steps_per_second': 20.0, 'data_wait': 0.9}, stages)
    assert out.getvalue().count('warning') == warned


def test_a_transfer_that_waits_for_the_device_is_no_wait_for_data(monkeypatch):
    program = tiny.program()
    feed, put = program.feed(0), meshes.device_put_global

    def late(*args):
        time.sleep(0.2)
        return put(*args)

    monkeypatch.setattr(meshes, 'device_put_global', late)
    feed.at(0, 1)
    assert feed.stages is None and feed.taken() < 0.1
    feed.host_batch(0, 0)
    feed.close()


@pytest.mark.parametrize(('seconds', 'text'), [(7.9, '0:07'), (61, '1:01'), (3723, '1:02:03')])
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_tables_align():
    lines = table(['a', 'bcd'], [['xyz', '1'], ['q', np.int64(2)]]).splitlines()
    assert lines[0] == 'a    bcd' and lines[2] == 'xyz  1' and lines[3] == 'q    2'
