"""The page about one's own images: its example, its runs, its tables and its lines."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import fault_runs
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from study_records import record

from modlib import own_data
from modlib.errors import ModlibError
from modlib.experiments import load_data
from modlib.own_data import (
    NONZERO,
    OURS,
    SHARED,
    STUDY,
    lay_out,
    neighbour_lines,
    queries_of,
    takeaway,
    ucr_table,
    write_example,
)


@pytest.fixture
def example(tmp_path):
    write_example(tmp_path / "example", 150, 48)
    return tmp_path / "example"


def with_ucr(one: dict, counts: dict[str, tuple[int, ...]]) -> dict:
    """A record that has counted these signs, positive, negative, and 0, in its last epoch."""
    one["epochs"] = [epoch | {"ucr": []} for epoch in one["epochs"]]
    one["epochs"][-1]["ucr"] = [
        {"tasks": pair.split("/"), "positive": positive, "negative": negative, "zero": sum(zero)}
        for pair, (positive, negative, *zero) in counts.items()]
    return one


def rows_of(*seeds: int, ours: int = 90, shared: int = 70) -> dict:
    return {name: [with_ucr(record(STUDY, name, seed, accuracy), {"Smiling/Young": (5, 15)})
                   for seed in seeds] for name, accuracy in ((OURS, ours), (SHARED, shared))}


# Runs

def test_without_a_root_the_runs_are_on_an_example_beside_the_records(tmp_path):
    runs, places = lay_out({"dataset": "folder", "data_root": None, "tasks": None,
                            "toy_images": 150, "image_size": 48,
                            "results_dir": str(tmp_path / "records")})
    assert list(runs) == [OURS, SHARED]
    [ours], [shared] = runs.values()
    assert ours.tasks == ("Smiling", "Young", "Hair") and ours.dataset == "folder"
    assert replace(ours, system="fully_shared") == shared
    assert places.results_dir == str(tmp_path / "records" / "your_own_data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["example_photos_150_at_48"]
    assert Path(places.cache_dir).parent == tmp_path
    assert len(load_data(ours, places).ids) == 150


def test_with_a_root_its_columns_are_the_tasks_unless_some_are_named(example):
    given = {"dataset": "folder", "data_root": str(example)}
    assert lay_out(given)[0][OURS][0].tasks == ("Smiling", "Young", "Hair")
    assert lay_out(given | {"tasks": ["Young"]})[0][OURS][0].tasks == ("Young",)
    assert lay_out(given)[1].data_root == str(example)


def test_other_data_are_no_folder(tmp_path):
    runs, places = lay_out({"dataset": "celeba", "tasks": None, "data_root": str(tmp_path / "no")})
    assert runs[OURS][0].tasks == own_data.Settings.tasks
    assert places.data_root == str(tmp_path / "no")


def test_a_mistyped_parameter_is_refused(example):
    with pytest.raises(ModlibError, match="did you mean 'epochs'"):
        lay_out({"dataset": "folder", "data_root": str(example), "epoch": 3})


# The example

def test_the_example_is_a_whole_folder_with_three_ways_to_write_a_column(example, tmp_path):
    header, first, *others = (example / "attributes.csv").read_text("utf8").splitlines()
    assert header == "image,Smiling,Young,Hair" and len(others) == 149
    name, smiling, young, hair = first.split(",")
    assert (example / name).is_file()
    assert smiling in ("0", "1") and young in ("true", "false")
    assert hair in ("bald", "bangs", "wavy", "straight", "other")
    assert [path.name for path in tmp_path.iterdir()] == ["example"]  # nothing is left beside it


def test_the_examples_table_says_what_is_drawn(example):
    runs, places = lay_out({"dataset": "folder", "data_root": str(example), "image_size": 48,
                            "cache_dir": str(example.parent / "cache")})
    data = load_data(runs[OURS][0], places)
    faces = own_data.load_toy_faces(150, 48, ("Smiling", "Young"))
    assert np.array_equal(data.images_NCHW, faces.images_NCHW)
    assert np.array_equal(data.labels_NT[:, :2], faces.labels_NT)


def test_an_example_that_is_there_stays_as_it_is(example):
    table = example / "attributes.csv"
    table.write_text("mine")
    write_example(example, 150, 48)
    assert table.read_text() == "mine"


def test_of_two_that_write_one_example_both_find_it_whole(tmp_path):
    folder, start = tmp_path / "example", fault_runs.SERVER.Barrier(2)
    both = [fault_runs.SERVER.Process(target=write_at, args=(start, folder)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(120)
    assert [one.exitcode for one in both] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["example"]
    assert len(list((folder / "faces").iterdir())) == 150 and (folder / "attributes.csv").is_file()


def write_at(start, folder) -> None:
    """Write the example, and give it its name at the same moment as the other process."""
    replace_file = own_data.os.replace

    def together(*names):
        start.wait(60)
        replace_file(*names)

    own_data.os.replace = together
    write_example(folder, 150, 48)


# What the page says

def test_the_pair_most_at_odds_comes_first():
    pairs = {"A/B": (30, 10), "A/C": (10, 30), "B/C": (20, 20)}
    rows = {name: [with_ucr(record(STUDY, name, tasks=("A", "B", "C")), pairs)]
            for name in (OURS, SHARED)}
    table = ucr_table(rows)
    assert list(table.index) == ["A / C", "B / C", "A / B"]
    assert list(table) == [OURS, OURS + NONZERO, SHARED, SHARED + NONZERO]
    assert table.loc["A / C", SHARED].startswith("25.0 [")


@pytest.fixture
def any_accuracies(monkeypatch):
    """Accuracies and their difference without test triplets, so that pairs are all that counts."""
    monkeypatch.setattr(own_data, "difference", lambda *_: (1.0, 0.5, 1.5))
    monkeypatch.setattr(own_data, "accuracies", lambda rows: pd.DataFrame(
        [(OURS, 80.0), (SHARED, 79.0)], columns=["row", "accuracy"]))


def test_a_task_that_asks_for_nothing_is_not_at_odds(planted, any_accuracies):
    """Of A and B three quarters of the products that are not 0 agree; of all only 30 in 100."""
    pairs = {"A/B": (30, 10, 60), "A/C": (20, 20), "B/C": (0, 0, 100)}
    rows = {name: [with_ucr(record(STUDY, name, tasks=("A", "B", "C")), pairs)]
            for name in (OURS, SHARED)}
    table = ucr_table(rows)
    assert list(table.index) == ["A / C", "A / B", "B / C"]
    assert table.loc["A / B", [SHARED, SHARED + NONZERO]].tolist() == [
        "30.0 [21.9, 39.6]", "75.0 [59.8, 85.8]"]
    assert table.loc["B / C", [SHARED, SHARED + NONZERO]].tolist() == ["0.0 [0.0, 3.7]", "–"]
    assert "**A / C**: where both tasks ask for something" in takeaway(rows, planted)
    assert "No pair is decidedly at odds" in takeaway(rows, planted)
    zeros = {name: [with_ucr(record(STUDY, name, tasks=("A", "B")), {"A/B": (0, 0, 9)})]
             for name in (OURS, SHARED)}
    assert "No probed batch had two tasks" in takeaway(zeros, planted)


def test_queries_are_known_in_every_task_and_hold_most_attributes():
    held = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [1, 1]], bool)
    assert queries_of(held, 3) == [2, 4, 1]
    assert queries_of(np.array([[0, -1], [2, 3], [-1, 0], [1, 1]], np.int16), 5) == [1, 3]


def test_neighbours_are_right_wrong_or_not_known():
    rng = torch.Generator().manual_seed(0)
    embeddings_TND = F.normalize(torch.randn(2, 12, 4, generator=rng), dim=2)
    labels_NT = np.random.default_rng(0).integers(-1, 2, (12, 2)).astype(np.int16)
    asked, lines = neighbour_lines(embeddings_TND, labels_NT, ("A_b", "C"), [3, 7], 5)
    assert asked == [3, 3, 7, 7] and list(lines) == ["1: A b", "1: C", "2: A b", "2: C"]
    for query, t, (found, right) in zip(asked, (0, 1, 0, 1), lines.values(), strict=True):
        nearer = sorted((n for n in range(12) if n != query), reverse=True,
                        key=lambda n: float(embeddings_TND[t, n] @ embeddings_TND[t, query]))
        assert found == nearer[:5]
        assert right == [None if labels_NT[n, t] < 0 else
                         bool(labels_NT[n, t] == labels_NT[query, t]) for n in found]


@pytest.mark.parametrize(("rows", "words"), [
    (rows_of(0, 1, 2), "+20.00 [+1"), (rows_of(0, 1, 2), "**modulation is ahead**"),
    (rows_of(0, 1, 2, ours=60), "**modulation is behind**"),
    (rows_of(0, 1, 2, ours=70), "**neither is decidedly ahead**"),
    (rows_of(0), "**one seed gives no verdict**"),
    (rows_of(0), "**85.0 %**"), (rows_of(0), "**65.0 %**"),
    (rows_of(0), "their updates agree on 25.0 ["),
    ({OURS: [], SHARED: []}, "Not run yet"), (rows_of(0) | {OURS: []}, "Not run yet"),
])
def test_the_takeaway_is_what_the_records_say(planted, rows, words):
    assert words in takeaway(rows, planted)


@pytest.mark.parametrize(("tasks", "words"), [
    ("AB", "At least one pair is decidedly at odds"),
    ("ABCDEFGHIJ", "No pair is decidedly at odds")])
def test_the_lowest_of_many_pairs_needs_more_to_be_decidedly_at_odds(
    planted, any_accuracies, tasks, words
):
    """38 of 100: below 50 % by the interval of one pair, and not by those of 45 together."""
    pairs = {"/".join(pair): (50, 50) for pair in combinations(tasks, 2)} | {"A/B": (38, 62)}
    rows = {name: [with_ucr(record(STUDY, name, tasks=tuple(tasks)), pairs)]
            for name in (OURS, SHARED)}
    assert words in takeaway(rows, planted)


def test_without_probes_nothing_is_said_of_pairs(planted):
    rows = rows_of(0)
    for one in (rows[OURS], rows[SHARED]):
        one[0]["settings"]["ucr_every"] = 0
    assert "at odds" not in takeaway(rows, planted)
