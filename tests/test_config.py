"""Overrides keep the type of what they replace, and every key must be read."""
import json

import pytest

from bigjax import config as configs
from bigjax.experiment import OPTIONAL, base_config
from bigjax.io import nested
from tests.refused import refused


@pytest.fixture
def config():
    config = base_config()
    config.optimizer = dict(name='adam', lr=1e-3, nesterov=False, betas=(0.9, 0.99), extra=None)
    return config


@pytest.mark.parametrize(('key', 'text', 'value'), [
    ('steps', '10', 10), ('steps', '10 epochs', '10 epochs'), ('optimizer.lr', '3e-4', 3e-4), ('optimizer.lr', '1', 1.0),
    ('optimizer.nesterov', 'true', True), ('optimizer.betas', '(0.5, 0.9)', (0.5, 0.9)), ('optimizer.name', 'sgd', 'sgd'),
    ('optimizer.extra', '7', 7), ('log_every', '5%', '5%'), ('optimizer.betas', '0.5', (0.5,))])
def test_override(config, key, text, value):
    before = nested.leaves(config)
    after = nested.leaves(configs.override(config, {key: text}))
    assert after.pop(key) == value and type(nested.leaves(configs.override(config, {key: text}))[key]) is type(value)
    before.pop(key)
    assert after == before


@pytest.mark.parametrize(('key', 'text', 'code', 'fix'), [
    ('stpes', '3', 'config/unknown-key', 'steps'), ('optimizer.lrr', '3', 'config/unknown-key', 'optimizer.lr'),
    ('lrr', '3', 'config/unknown-key', 'optimizer.lr'), ('epochs', '3', 'config/unknown-key', "--config.steps='10 epochs'"),
    ('optimizer', '3', 'config/unknown-key', 'optimizer.lr'), ('seed.x', '3', 'config/unknown-key', 'seed'),
    ('seed', 'x', 'config/type', 'number'), ('seed', '1.5', 'config/type', 'whole number'),
    ('optimizer.lr', 'fast', 'config/type', 'number'), ('optimizer.nesterov', '3', 'config/type', 'True or False'),
    ('batch_size', 'True', 'config/type', 'number'), ('published.test/accuracy.value', '0.5', 'config/fixed', 'published')])
def test_bad_overrides_name_the_key_and_the_fix(config, key, text, code, fix):
    with refused(code, key, fix):
        configs.override(config, {key: text})


@pytest.mark.parametrize('key', ['seed', 'split', 'cv.fold', 'cv.deep.fold'])
def test_override_leaves_its_argument_alone_at_every_depth(key):
    config = base_config()
    config.split, config.cv, config.groups = 0, dict(fold=0, deep=dict(fold=0)), (('a', {'lr': 1.0}),)
    before = nested.plain(config)
    for member in range(1, 4):
        now = nested.leaves(config)[key]
        changed = configs.override(config, {key: str(now + member)})
        assert nested.leaves(changed)[key] == member
        changed.groups[0][1]['lr'] = 2.0
    assert nested.plain(config) == before


@pytest.mark.parametrize(('key', 'text', 'value'), [
    ('optimizer.frozen', 'encoder/.*', ('encoder/.*',)), ('optimizer.frozen', "('a', 'b')", ('a', 'b')),
    ('optimizer.weight_decay', '0.1', 0.1), ('optimizer.schedule', 'cosine', 'cosine')])
def test_an_optional_key_can_be_set_though_it_is_absent(config, key, text, value):
    optional = {name: entry.default for name, entry in OPTIONAL.items()}
    assert nested.leaves(configs.override(config, {key: text}, optional))[key] == value
    del config.optimizer
    with refused('config/unknown-key', key):
        configs.override(config, {key: text}, optional)


def test_a_schedule_that_is_a_name_becomes_a_section(config):
    config.optimizer.schedule = 'cosine'
    optional = {name: entry.default for name, entry in OPTIONAL.items()}
    changed = configs.override(config, {'optimizer.schedule.warmup': '5%'}, optional)
    assert changed.optimizer.schedule.to_dict() == {'name': 'cosine', 'warmup': '5%'}
    assert config.optimizer.schedule == 'cosine'


def test_a_stored_config_is_restored(config):
    changed = configs.override(config, {'optimizer.betas': '(0.5, 0.9)', 'steps': '7 epochs'})
    stored = json.loads(json.dumps(nested.plain(changed)))
    again = configs.restore(config, stored)
    assert again.optimizer.betas == (0.5, 0.9) and again.steps == '7 epochs' and config.steps == 1000
    assert nested.difference(again, config) == {'optimizer.betas': ((0.5, 0.9), (0.9, 0.99)), 'steps': ('7 epochs', 1000)}


def test_a_wrong_type_inside_a_script_is_refused(config):
    with pytest.raises(TypeError, match='seed'):
        config.seed = 'zero'


def test_reader_knows_what_was_not_read(config):
    reader = configs.Reader(config)
    dict(**reader.optimizer)
    for key in set(nested.leaves(config)) - {'steps'}:
        if '.' not in key:
            reader[key]
    assert reader.unread() == ['steps']
    with refused('config/unread-key', 'config.steps'):
        reader.check()
    assert reader.steps == 1000 and reader.unread() == []
    reader.check()


def test_reader_counts_get_and_names_the_nearest_missing_key(config):
    reader = configs.Reader(config)
    assert reader.get('nothing', 3) == 3 and reader.optimizer.get('lr') == 1e-3
    assert 'optimizer.lr' not in reader.unread()
    with refused('config/missing-key', 'optimizer'):
        _ = reader.optimiser


def test_plain_is_json(config):
    assert nested.plain(config)['optimizer']['betas'] == [0.9, 0.99]
