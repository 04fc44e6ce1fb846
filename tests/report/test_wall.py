"""The time of a table: rows side by side overlap."""
import pytest

from bigjax.report import html


@pytest.mark.parametrize('runs, seconds', [
    ([('10:00:00', 60), ('10:00:05', 20)], 60),  # side by side
    ([('10:00:00', 10), ('10:00:10', 20)], 30),  # one after the other
    ([('10:00:00', 10), ('18:00:00', 20)], 30)])  # the second one hours later
def test_the_time_of_a_table(runs, seconds):
    records = {str(i): {'started': f'2026-11-29T{began}+00:00', 'wall_seconds': taken} for i, (began, taken) in enumerate(runs)}
    assert html._wall_seconds(list(records.values())) == seconds
