"""The sketches are drawn from the networks, and the table counts what they add."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch, Rectangle

from modlib.networks import SYSTEMS, build_network
from modlib.systems import TASK_COLOURS, VARIANTS, draw_system, extra_parameter_table


@pytest.fixture
def sketch():
    """From the arguments of a system to its boxes (stages) and its marks (a task's own)."""
    figure, ax = plt.subplots()

    def draw(**arguments):
        draw_system(ax, "a label", build_network(
            tasks=["a", "b", "c"], image_size=48, width=0.1, **arguments))
        boxes = [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]
        marks = [patch for patch in ax.patches if type(patch) is Rectangle]
        return boxes, marks

    yield draw
    plt.close(figure)


def test_every_system_has_a_sketch_and_a_line():
    assert {arguments["system"] for _, arguments, _ in VARIANTS} == set(SYSTEMS)


@pytest.mark.parametrize(("arguments", "stages_with_marks"), [
    ({"system": "fully_shared"}, 0), ({"system": "modulated"}, 3),
    ({"system": "modulated", "modulate_from": 2}, 5), ({"system": "csn"}, 1),
    ({"system": "branches"}, 1), ({"system": "mask_only"}, 3), ({"system": "projection"}, 3),
])
def test_a_shared_trunk_is_six_boxes_with_a_mark_a_task_after_each_modulated_stage(
    sketch, arguments, stages_with_marks
):
    boxes, marks = sketch(**arguments)
    assert len(boxes) == 6
    assert len(marks) == 3 * stages_with_marks
    assert len({round(mark.get_x(), 3) for mark in marks}) == stages_with_marks
    for colour in TASK_COLOURS:
        drawn = [mark for mark in marks if to_hex(mark.get_facecolor()) == colour.lower()]
        assert len(drawn) == stages_with_marks


def test_independent_networks_are_three_coloured_trunks(sketch):
    boxes, marks = sketch(system="independent")
    assert len(boxes) == 18 and marks == []
    assert {to_hex(box.get_facecolor()) for box in boxes} == {c.lower() for c in TASK_COLOURS}


def test_only_a_frozen_trunk_is_hatched(sketch):
    boxes, _ = sketch(system="mask_only")
    assert all(box.get_hatch() for box in boxes)


def test_a_trunk_that_is_trained_is_not_hatched(sketch):
    boxes, _ = sketch(system="modulated")
    assert not any(box.get_hatch() for box in boxes)


def test_matrices_are_drawn_wider_than_scales(sketch):
    _, scales = sketch(system="modulated")
    _, both = sketch(system="projection")
    assert both[-1].get_width() > scales[0].get_width()


def test_the_table_counts_20_tasks_beside_what_the_paper_prints():
    table = extra_parameter_table(20)
    assert dict(zip(table.index, table.extra, strict=True)) == {
        "fully shared": 0, "independent": 56_150_624, "modulated": 10_240, "mask only": 10_240,
        "CSN": 5_120, "branches, 256": 1_310_720, "branches, 25": 128_000,
        "projection": 1_966_080,
        "modulated branches": 20 * (128 + 128 + 256 * 256), "low rank": 20 * 9 * (128 + 128 + 256)}
    assert list(table.paper) == ["0", "51M", "10k", "10k", "3k", "1.3M", "128k", "–", "–", "–"]
