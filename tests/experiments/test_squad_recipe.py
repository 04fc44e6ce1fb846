"""Where an answer may lie in a row: in the paragraph, not in the question, [SEP] or padding."""
import numpy as np

from bigjax.experiment import published
from experiments import squad


def test_the_context_is_the_paragraph():
    batch = {'tokens': np.array([[101, 7, 102, 8, 9, 102, 0, 0]]), 'types': np.array([[0, 0, 0, 1, 1, 1, 0, 0]])}
    found = squad.with_context(batch)
    np.testing.assert_array_equal(found['mask'], [[1, 1, 1, 1, 1, 1, 0, 0]])
    np.testing.assert_array_equal(found['context'], [[0, 0, 0, 1, 1, 0, 0, 0]])


def test_a_score_is_published_for_version_1_alone():
    assert [row.value for row in published(squad.get_config('v1,large'))] == [90.9]
    assert published(squad.get_config('v2')) == ()
