"""Overrides keep the type of what they replace, and every key must be read."""
import pytest

from bigjax import config as configs
from bigjax.errors import UserError
from bigjax.experiment import base_config


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
    before = configs.leaves(config)
    after = configs.leaves(configs.override(config, {key: text}))
    assert after.pop(key) == value and type(configs.leaves(configs.override(config, {key: text}))[key]) is type(value)
    before.pop(key)
    assert after == before


@pytest.mark.parametrize(('text', 'value'), [("('trunk/.*',)", ('trunk/.*',)), ('trunk/.*', 'trunk/.*')])
def test_an_optional_key_of_the_optimizer_may_be_set_though_the_script_does_not_set_it(config, text, value):
    assert configs.override(config, {'optimizer.frozen': text}).optimizer.frozen == value
    with pytest.raises(UserError, match='no such key'):
        configs.override(config, {'frozen': text})


@pytest.mark.parametrize(('key', 'text', 'message'), [
    ('stpes', '3', 'the nearest is steps'), ('optimizer.lrr', '3', 'the nearest is optimizer.lr'),
    ('lrr', '3', 'the nearest is optimizer.lr'), ('epochs', '3', "--config.steps='10 epochs'"),
    ('optimizer', '3', 'it is a section'), ('seed', 'x', 'wants a number'), ('seed', '1.5', 'wants a whole number'),
    ('optimizer.lr', 'fast', 'wants a number'), ('optimizer.nesterov', '3', 'wants True or False'),
    ('batch_size', 'True', 'wants a number')])
def test_bad_overrides_name_the_mend(config, key, text, message):
    with pytest.raises(UserError, match=message) as error:
        configs.override(config, {key: text})
    assert '\n' not in str(error.value) and key in str(error.value)


def test_a_wrong_type_inside_a_script_is_refused(config):
    with pytest.raises(TypeError, match='seed'):
        config.seed = 'zero'


def test_reader_knows_what_was_not_read(config):
    reader = configs.Reader(config)
    dict(**reader.optimizer)
    for key in set(configs.leaves(config)) - {'steps'}:
        if '.' not in key:
            reader[key]
    assert reader.unread() == ['steps']
    with pytest.raises(UserError, match=r'config\.steps: set, and never read'):
        reader.check()
    assert reader.steps == 1000 and reader.unread() == []
    reader.check()


def test_reader_counts_get_and_names_the_nearest_missing_key(config):
    reader = configs.Reader(config)
    assert reader.get('nothing', 3) == 3 and reader.optimizer.get('lr') == 1e-3
    assert 'optimizer.lr' not in reader.unread()
    with pytest.raises(UserError, match='the nearest is optimizer'):
        _ = reader.optimiser


def test_plain_is_json(config):
    assert configs.plain(config)['optimizer']['betas'] == [0.9, 0.99]
