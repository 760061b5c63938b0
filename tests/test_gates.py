"""What is said of the gates of hand-made records."""

import pytest
from test_top_down_study import record

from modlib.gates import gate_sentence, gate_table
from modlib.top_down_study import MULTI_MNIST, OURS


def looking(row: str, seed: int, **own) -> dict:
    """A record whose gates are 0.5 but on the own digit's pixels of each task."""
    one = record(row, seed, 90)
    one["results"]["gates"] = {
        task: {"own digit": value, "other digits": 0.5, "background": 0.4}
        for task, value in own.items()}
    return one


@pytest.fixture
def rows():
    """LU looks at its digit, RL looks away from it; of LL in three tasks the seeds disagree."""
    return MULTI_MNIST.by_row([
        *(looking(OURS[2], seed, LU=0.7 + seed / 100, RL=0.3) for seed in range(3)),
        *(looking(OURS[3], seed, LU=0.7, RL=0.3, LL=0.4 + seed / 10) for seed in range(3))])


def test_the_table_has_a_line_for_each_task_with_its_difference(rows):
    table = gate_table(rows)
    assert table.index.tolist() == [(2, "LU"), (2, "RL"), (3, "LU"), (3, "RL"), (3, "LL")]
    assert table.loc[(2, "LU")].tolist() == ["71.0", "50.0", "40.0", "+21.00 [+18.52, +23.48]"]
    assert table.loc[(3, "RL"), "own above others"] == "−20.00 [−20.00, −20.00]"


def test_what_does_not_see_the_image_stands_beside_what_does(rows):
    blind, four = "places, image not seen", OURS[4]
    rows = dict(rows) | {blind: [looking(blind, 0, LU=0.6, RL=0.6, LL=0.6, RU=0.6)]}
    assert gate_table(rows).index.get_level_values(0).unique().tolist() == [2, 3]
    rows[four] = [looking(four, 0, LU=0.7, RL=0.7, LL=0.7, RU=0.7)]
    table = gate_table(rows)
    assert table.index.get_level_values(0).unique().tolist() == [2, 3, 4, "4, image not seen"]
    assert table.loc[("4, image not seen", "RU"), "own digit"] == "60.0"
    assert gate_sentence(rows) == gate_sentence({k: v for k, v in rows.items() if k != blind})


def test_the_sentence_counts_what_the_intervals_decide(rows):
    said = gate_sentence(rows)
    assert said.startswith("Of 5 gates")
    assert "**2** let the pixels" in said and "**2** less strongly" in said
    assert "for **1** the interval over the seeds leaves it open" in said


def test_nothing_is_concluded_from_one_seed_or_none(rows):
    one = {name: records[:1] for name, records in rows.items()}
    for few in (one, {}):
        assert gate_sentence(few) == "Nothing is concluded before two seeds have told."
    assert gate_table({}).empty
    assert gate_table(one).loc[(2, "RL"), "own above others"] == "−20.00 (one seed)"
