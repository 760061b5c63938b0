"""Recall, mean average precision and neighbours against a plain loop over sorted galleries."""

from itertools import pairwise
from math import cos, radians, sin

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from modlib.arrays import to_json
from modlib.errors import ModlibError
from modlib.retrieval import (
    nearest_neighbours,
    retrieval_scores,
    retrieval_table,
    scores_by_task,
)

TASKS = ("Smiling", "Young", "Bald")
NAMES = ("recall@1", "recall@5", "recall@10", "mAP")


def random_embeddings(images: int, seed: int = 0) -> Tensor:
    """Of length 1, spread over all directions: about half of all similarities are negative."""
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(3, images, 4, generator=generator), dim=2)


def random_labels(images: int, seed: int = 0) -> Tensor:
    """Few hold the first attribute, most the last one."""
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.rand(images, 3, generator=generator) < torch.tensor([0.1, 0.3, 0.7])


def on_a_circle(*degrees: float) -> Tensor:
    return torch.tensor([[cos(radians(angle)), sin(radians(angle))] for angle in degrees])


def gallery(embeddings: list[list[float]], query: int) -> list[int]:
    """All other images, nearest first; no two are equally near."""
    def similarity(n):
        return sum(x * y for x, y in zip(embeddings[query], embeddings[n], strict=True))

    others = sorted((n for n in range(len(embeddings)) if n != query), key=similarity, reverse=True)
    for near, far in pairwise(others):
        assert similarity(near) - similarity(far) > 1e-6
    return others


def plain_scores(embeddings_ND: Tensor, labels_N: Tensor) -> dict:
    """Manning, Raghavan and Schütze, 2008, section 8.4: precision at every holder, averaged."""
    labels, sums = labels_N.tolist(), dict.fromkeys(NAMES, 0.0)
    queries = [n for n, holds in enumerate(labels) if holds]
    for query in queries:
        found = [labels[n] for n in gallery(embeddings_ND.tolist(), query)]
        for depth in (1, 5, 10):
            sums[f"recall@{depth}"] += any(found[:depth])
        precisions = [sum(found[:place]) / place
                      for place in range(1, len(found) + 1) if found[place - 1]]
        sums["mAP"] += sum(precisions) / len(precisions)
    return {"queries": len(queries)} | {name: sums[name] / len(queries) for name in NAMES}


def scores_of(embeddings_ND: Tensor, holders: list[int]) -> dict:
    labels_N1 = torch.tensor([[n in holders] for n in range(len(embeddings_ND))])
    return retrieval_scores(embeddings_ND[None], labels_N1, ("Bald",))["Bald"]


# Recall and mean average precision


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("images", [7, 40])
def test_scores_equal_a_loop_over_sorted_galleries(images, seed):
    embeddings_TND, labels_NT = random_embeddings(images, seed), random_labels(images, seed)
    labels_NT[:2] = True
    given = retrieval_scores(embeddings_TND, labels_NT, TASKS)
    assert list(given) == list(TASKS)
    for t, task in enumerate(TASKS):
        assert list(given[task]) == ["queries", *NAMES]
        assert given[task] == pytest.approx(plain_scores(embeddings_TND[t], labels_NT[:, t]))


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_categories_equal_a_loop_over_sorted_galleries(seed):
    """A query's category is to be found among the images of known category, query by query."""
    embeddings_ND, rng = random_embeddings(30, seed)[0], np.random.default_rng(seed)
    labels = [*rng.integers(-1, 4, 29), 4]  # the last one stands alone in its category
    known = [n for n in range(30) if labels[n] >= 0]
    sums, queries = dict.fromkeys(NAMES, 0.0), 0
    for query in known:
        others = gallery(embeddings_ND.tolist(), query)
        found = [labels[n] == labels[query] for n in others if n in known]
        if not any(found):
            continue
        queries += 1
        for depth in (1, 5, 10):
            sums[f"recall@{depth}"] += any(found[:depth])
        precisions = [sum(found[:place]) / place
                      for place in range(1, len(found) + 1) if found[place - 1]]
        sums["mAP"] += sum(precisions) / len(precisions)
    labels_N1 = torch.tensor(np.array(labels, np.int16))[:, None]
    given = retrieval_scores(embeddings_ND[None], labels_N1, ("Bald",))["Bald"]
    assert queries == len(known) - 1
    assert given == pytest.approx(
        {"queries": queries} | {name: sums[name] / queries for name in NAMES})


@pytest.mark.parametrize("labels", [[-1] * 5, [0, 1, 2, 3, -1]])
def test_categories_with_no_other_image_to_find_have_no_scores(labels):
    labels_N1 = torch.tensor(labels, dtype=torch.int16)[:, None]
    given = retrieval_scores(random_embeddings(5)[:1], labels_N1, ("Bald",))["Bald"]
    assert given == {"queries": 0} | dict.fromkeys(NAMES)


def test_the_loops_scores_tell_depths_and_tasks_apart():
    embeddings_TND, labels_NT = random_embeddings(40), random_labels(40)
    expected = [plain_scores(embeddings_TND[t], labels_NT[:, t]) for t in range(3)]
    assert 0 < expected[1]["recall@1"] < expected[1]["recall@5"] < expected[1]["recall@10"]
    assert expected[0]["mAP"] < expected[1]["mAP"] < expected[2]["mAP"] < 1


def test_scores_by_hand():
    # From 0° the others lie in the order 10° –, 30° +, 70° –, 130° +; from 30°: 10° –, 0° +,
    # 70° –, 130° +; from 130°: 70° –, 30° +, 10° –, 0° +.
    given = scores_of(on_a_circle(0, 10, 30, 70, 130), holders=[0, 2, 4])
    assert given == pytest.approx({
        "queries": 3, "recall@1": 0, "recall@5": 1, "recall@10": 1, "mAP": (1 / 2 + 2 / 4) / 2})


def test_a_query_does_not_find_itself():
    given = scores_of(on_a_circle(0, 5, 60, 65), holders=[0, 2])
    assert (given["queries"], given["recall@1"]) == (2, 0)


def test_a_holder_on_the_far_side_is_found_all_the_same():
    """Its similarity is below 0, and it is the last of three."""
    given = scores_of(on_a_circle(0, 10, 120, 180), holders=[0, 3])
    assert (given["recall@1"], given["recall@5"]) == (0, 1)
    assert given["mAP"] == pytest.approx(1 / 3)


def test_a_holder_at_a_right_angle_is_found_all_the_same():
    """Its similarity is exactly 0, as between embeddings without a channel in common."""
    embeddings_ND = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    assert scores_of(embeddings_ND, holders=[0, 1])["mAP"] == pytest.approx(1 / 2)


def test_holders_that_are_nearest_to_each_other_score_1():
    given = scores_of(on_a_circle(0, 1, 3, 100, 190, 250), holders=[0, 1, 2])
    assert given == {"queries": 3} | dict.fromkeys(NAMES, 1.0)


@pytest.mark.parametrize("holders", [[], [2]])
def test_fewer_than_two_holders_leave_nothing_to_find(holders):
    given = scores_of(on_a_circle(0, 10, 30, 70), holders)
    assert given == {"queries": 0} | dict.fromkeys(NAMES)


def test_a_task_without_holders_does_not_keep_the_others_from_their_scores():
    embeddings_TND, labels_NT = random_embeddings(12), random_labels(12)
    labels_NT[:, 1] = False
    labels_NT[:2, [0, 2]] = True
    given = retrieval_scores(embeddings_TND, labels_NT, TASKS)
    assert given["Young"]["mAP"] is None
    for t in (0, 2):
        assert given[TASKS[t]] == pytest.approx(plain_scores(embeddings_TND[t], labels_NT[:, t]))


def test_two_images_are_a_gallery():
    assert scores_of(on_a_circle(0, 50), [0, 1]) == {"queries": 2} | dict.fromkeys(NAMES, 1.0)


# Neighbours


@pytest.mark.parametrize("count", [1, 4, 11])
def test_neighbours_are_the_first_of_the_sorted_gallery(count):
    embeddings_ND = random_embeddings(12)[0]
    for query in range(12):
        given = nearest_neighbours(embeddings_ND, query, count)
        assert given.dtype == torch.int64
        assert given.tolist() == gallery(embeddings_ND.tolist(), query)[:count]


@pytest.mark.parametrize("query", [0, 1])
def test_of_two_images_that_are_alike_each_is_the_others_nearest(query):
    embeddings_ND = on_a_circle(20, 20, 60)
    assert nearest_neighbours(embeddings_ND, query, 2).tolist() == [1 - query, 2]


def test_looking_for_neighbours_leaves_the_embeddings_as_they_are():
    embeddings_ND = random_embeddings(5)[0]
    before = embeddings_ND.clone()
    nearest_neighbours(embeddings_ND, 0, 4)
    assert torch.equal(embeddings_ND, before)


@pytest.mark.parametrize("count", [-1, 0, 5, 6])
def test_more_neighbours_than_there_are_others_or_none_are_refused(count):
    with pytest.raises(ModlibError, match=f"count must be 1 to 4; given {count}"):
        nearest_neighbours(random_embeddings(5)[0], 0, count)


# Tables of records


def scores(*values: float) -> dict:
    """Recall at 1, 5 and 10 and mAP of ten queries; of none where nothing is given."""
    return {"queries": 10 if values else 0} | dict(
        zip(NAMES, values or [None] * 4, strict=True))


def record(tasks=TASKS, **by_task) -> dict:
    """Scores by task, ``(nothing)`` for the others; one, two and three of four hold the tasks."""
    labels_NT = np.arange(4)[:, None] <= np.arange(3)[None]
    columns = [TASKS.index(task) for task in tasks]
    return {"settings": {"tasks": list(tasks)}, "results": {
        "retrieval": {task: by_task.get(task, scores()) for task in tasks},
        "test_triplets": {"labels": to_json(labels_NT[:, columns].copy())}}}


ROWS = {
    "modulated": [record(Smiling=scores(0.5, 0.7, 0.9, 0.4), Young=scores(0.3, 0.5, 0.7, 0.2)),
                  record(Smiling=scores(0.1, 0.3, 0.5, 0.6), Young=scores(0.7, 0.9, 1.0, 0.4))],
    "not run": [],
    "CSN": [record(Smiling=scores(0.2, 0.3, 0.4, 0.1), Young=scores(0.2, 0.3, 0.4, 0.3),
                   Bald=scores(0.2, 0.3, 0.4, 0.8))]}


def test_the_table_averages_over_tasks_and_seeds_that_have_queries():
    table = retrieval_table(ROWS)
    assert list(table.index) == list(ROWS)
    assert table.loc["modulated"].to_dict() == {
        "recall@1": "40.0", "recall@5": "60.0", "recall@10": "77.5", "mAP": "40.0"}
    assert table.loc["CSN"].tolist() == ["20.0", "30.0", "40.0", "40.0"]
    assert table.loc["not run"].tolist() == ["not run yet"] * 4


def test_a_row_without_any_query_has_no_figures():
    assert retrieval_table({"one": [record()]}).loc["one"].tolist() == ["–"] * 4


def test_scores_by_task_is_a_mean_over_seeds_beside_what_guessing_gives():
    table = scores_by_task(ROWS)
    assert list(table) == ["modulated", "CSN", "guessing"]  # no column of nothing
    assert table["CSN"].to_dict() == {"Smiling": "10.0", "Young": "30.0", "Bald": "80.0"}
    assert table["guessing"].to_dict() == {"Smiling": "25.0", "Young": "50.0", "Bald": "75.0"}
    assert table["modulated"].dropna().to_dict() == {"Smiling": "50.0", "Young": "30.0"}


def test_guessing_among_categories_finds_the_share_of_the_querys_own():
    """Five known images: each of three has two others like it among four, each of two has one."""
    labels_N1 = np.array([0, 0, 0, 1, -1, 1], np.int16)[:, None]
    one = record(("Bald",), Bald=scores(0.1, 0.1, 0.1, 0.1))
    one["results"]["test_triplets"]["labels"] = to_json(labels_N1)
    expected = 100 * (3 * 2 / 4 + 2 * 1 / 4) / 5
    assert scores_by_task({"CSN": [one]})["guessing"].to_dict() == {"Bald": f"{expected:.1f}"}


def test_guessing_finds_the_share_of_holders():
    """Mean average precision of a random order of many, as of 40 % holders."""
    rng = torch.Generator().manual_seed(0)
    labels_N1 = torch.rand(400, 1, generator=rng) < 0.4
    embeddings_ND = normalize(torch.randn(400, 64, generator=rng), dim=1)
    found = retrieval_scores(embeddings_ND[None], labels_N1, ("Bald",))["Bald"]
    one = record()
    one["settings"]["tasks"] = ["Bald"]
    one["results"] = {"retrieval": {"Bald": found},
                      "test_triplets": {"labels": to_json(labels_N1.numpy())}}
    guessed, measured = (float(scores_by_task({"random": [one]}).loc["Bald", name])
                         for name in ("guessing", "random"))
    assert measured == pytest.approx(guessed, abs=1.5)


def test_names_of_tasks_are_written_with_spaces():
    one = record(("Bald",), Bald=scores(0, 0, 0, 0.5))
    one["settings"]["tasks"], one["results"]["retrieval"] = ["Wavy_Hair"], {
        "Wavy_Hair": scores(0, 0, 0, 0.5)}
    assert scores_by_task({"one": [one]}).loc["Wavy Hair"].tolist() == ["50.0", "75.0"]


def test_precision_of_no_records_is_empty():
    assert scores_by_task({"modulated": [], "CSN": []}).empty


def test_recall_at_1_by_task_is_that_of_the_records():
    table = scores_by_task(ROWS, "recall@1")
    assert table["modulated"].dropna().to_dict() == {"Smiling": "30.0", "Young": "50.0"}
    assert table["guessing"].equals(scores_by_task(ROWS)["guessing"])
