"""A record whose figures cannot be is refused, with the place, what is there and what is allowed;
every committed record is signed, named by its settings and data, and holds figures that can be."""

import re
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from modlib.arrays import to_json
from modlib.committed import all_committed, is_of_a_run, read_committed
from modlib.errors import ModlibError
from modlib.record_checks import check_name, check_record
from modlib.results import plain
from modlib.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
COMMITTED = sorted((ROOT / "book/results").glob("*/*.json"))
TASKS = ("Smiling", "Young")
SIGNS = to_json(np.array([[[3, 1], [1, 3]], [[0, 2], [2, 0]]], np.int32))  # of 3 probes
STAGES = to_json(np.ones((2, 2, 2, 2), np.int32))
SETTINGS = Settings(tasks=TASKS, epochs=2)


@pytest.fixture
def record() -> dict:
    """With every measure that is checked."""
    def pair(**counts):
        return {"tasks": list(TASKS), "mean_cosine": -0.5, **counts}

    return {
        "version": 1, "name": SETTINGS.run_name("data"), "status": "done",
        "settings": plain(SETTINGS.as_dict()),
        "data": {"fingerprint": "data", "images": {"test": 5}},
        "results": {
            "test_accuracy": {"Smiling": 1.0, "Young": 0.0},
            "test_auc": dict.fromkeys(TASKS, 0.5), "top_recall": 0.25,
            "test_answers": {"right": to_json(np.array([[True] * 5, [False] * 5])),
                             "parts": to_json(np.arange(10, dtype=np.int32).reshape(5, 2)),
                             "wrong": {"Smiling": {"count": 0, "of_others": 0, "by_chance": 0.0},
                                       "Young": {"count": 5, "of_others": 2, "by_chance": 0.5}}},
            "test_top": {"right": to_json(np.eye(2, 5, dtype=bool)),
                         "asked": to_json(np.array([[True, True, False, False, False],
                                                    [True, False, True, False, False]]))},
            "hard": dict.fromkeys(TASKS, 0.25),
            "retrieval": {"Smiling": {"queries": 3, "mAP": 1, "recall@1": 0.0},
                          "Young": {"queries": 0, "mAP": None, "recall@1": None}},
            "parameters": {"total": 12, "shared": 10, "task": 2, "weights": 9},
            "dead_scales": 0,
            "test_triplets": {"correct": to_json(np.array([[True] * 4, [False] * 4])),
                              "labels": to_json(np.zeros((5, 2), bool)), "digest": "0"},
            "probes": {"batches": 3, "modes": {
                mode: {"counts": SIGNS, "agreement": {"joint": 0.5, "frozen": None, "own": 1.0}}
                for mode in ("joint", "frozen", "own")}},
            "w_distance": [{"tasks": ["Young", "Smiling"], "mean": 0.5, "variance": 0.0}]},
        "epochs": [
            {"epoch": 1, "loss": 0.5, "task_losses": {"Smiling": 0.0, "Young": 1.0}, "images": 9,
             "seconds": 0.1, "ucr_batches": 3, "ucr": [pair(positive=1, negative=2, zero=0)],
             "ucr_stages": {"stages": ["one", "two"], "counts": STAGES},
             "train_accuracy": dict.fromkeys(TASKS, 0.75),
             "task_weights": dict.fromkeys(TASKS, 0.5),
             "largest_weight": 0.5, "cosine_to_mean": -0.5, "tasks_uphill": 0.5,
             "valid_accuracy": dict.fromkeys(TASKS, 0.5)},
            {"epoch": 2, "loss": 0, "images": 9, "seconds": 2, "ucr_batches": 0, "ucr": [],
             "valid_accuracy": dict.fromkeys(TASKS, 1), "valid_auc": dict.fromkeys(TASKS, 1)}],
        "run": {"training_seconds": 2.1, "images_per_second": 18 / 2.1,
                "milliseconds": {"network": 1.5}},
    }


def at(holder, path: str):
    """Where a path as messages write it leads: the holder and the last key."""
    *steps, last = [int(step) if step.isdigit() else step
                    for step in re.findall(r"[^.\[\]]+", path)]
    for step in steps:
        holder = holder[step]
    return holder, last


def test_a_record_with_figures_that_can_be_is_left_alone(record):
    before = deepcopy(record)
    check_record(record)
    check_name(record, Settings)
    assert record == before


def test_what_a_kind_of_run_does_not_measure_may_be_missing(record):
    record["results"] = {}
    record["settings"]["final_test"] = False
    record["run"] = {}
    record["epochs"] = [{"epoch": 1}, {"epoch": 2}]
    check_record(record)


NO_SHARES = [-0.01, 1.01, 76.5, float("nan"), float("inf"), None, "0.5", True]
NO_COUNTS = [-1, 1.5, None, "3", True, float("nan")]
NO_TIMES = [0, 0.0, -1.0, float("nan"), float("inf"), None, "2"]


@pytest.mark.parametrize(("path", "values"), [
    *((path, NO_SHARES) for path in (
        "results.test_accuracy.Smiling", "results.test_auc.Young", "results.top_recall",
        "results.retrieval.Smiling.mAP", "results.retrieval.Smiling.recall@1",
        "results.hard.Young", "epochs[0].train_accuracy.Young",
        "epochs[0].valid_accuracy.Young", "epochs[1].valid_auc.Smiling")),
    *((path, NO_COUNTS) for path in (
        "results.parameters.total", "results.parameters.shared", "results.parameters.task",
        "results.parameters.weights", "results.retrieval.Smiling.queries", "results.dead_scales",
        "epochs[0].images", "epochs[0].ucr_batches", "epochs[0].ucr[0].positive",
        "epochs[0].ucr[0].negative", "epochs[0].ucr[0].zero")),
    *((path, [0]) for path in ("results.parameters.weights", "epochs[0].images",
                               "epochs[0].ucr_batches")),
    *((path, NO_TIMES) for path in (
        "epochs[0].seconds", "run.training_seconds", "run.images_per_second",
        "run.milliseconds.network")),
    ("data.images.test", NO_COUNTS),
    ("epochs[0].ucr[0].mean_cosine", [1.1, -1.1, float("nan"), None]),
    ("epochs[0].loss", [-0.1, float("nan"), float("inf"), None]),
    ("epochs[0].task_losses.Young", [-0.1, float("nan"), None]),
    ("epochs[0].largest_weight", [-0.1, 1.1, None]), ("epochs[0].tasks_uphill", [-0.1, 1.1, "0"]),
    ("epochs[0].cosine_to_mean", [-1.1, 1.1, float("nan")]),
    ("epochs[0].task_weights.Young", [float("nan"), float("inf"), None, "0.5"]),
    ("results.w_distance[0].mean", [-0.1, float("nan"), None]),
    ("results.w_distance[0].variance", [-0.1, float("inf")]),
    ("epochs[1].epoch", [1, 3, 0, None]),
    ("results.w_distance[0].tasks", [["Smiling", "Smiling"], ["Smiling"], ["Smiling", "Bald"], 3]),
    ("epochs[0].ucr[0].tasks", [["Young", "Young"], None]),
    ("status", ["running", None]), ("settings.tasks", [[], "Smiling", [3], None]),
    ("results.retrieval", [[], 3]), ("results.parameters", [[3]]), ("run.milliseconds", [3]),
    ("epochs", [{}, 3]), ("results", [[], None]),
])
def test_a_figure_that_cannot_be_is_refused_with_its_place(record, path, values):
    for value in values:
        broken = deepcopy(record)
        holder, key = at(broken, path)
        holder[key] = value
        with pytest.raises(ModlibError) as caught:
            check_record(broken)
        said = str(caught.value)
        assert said.startswith(f"record {record['name']}: {path} is {value}; allowed: "), said


@pytest.mark.parametrize(("path", "value", "place"), [
    ("results.parameters.total", 11, "results.parameters.total is 11; allowed: the sum"),
    ("epochs[0].ucr_batches", 4, r"epochs\[0\].ucr\[0\] is \[1, 2, 0\]; allowed: a sum of 4"),
    ("results.test_accuracy", {"Smiling": 1.0}, "results.test_accuracy is .*one share for each of"),
    ("results.retrieval", {"Bald": {}}, "results.retrieval.Bald is"),
    ("run.images_per_second", 1e12, "images_per_second is 1000.*18 images over 2.1 seconds, 8.6"),
    ("results", {}, "results.test_accuracy is None; allowed: a share for each task: final_test"),
    ("settings.epochs", 3, "epochs is 2 of them; allowed: 3, as the settings say"),
    ("epochs[0]", None, r"epochs\[0\] is None; allowed: an epoch"),
])
def test_figures_that_do_not_fit_each_other_are_refused(record, path, value, place):
    holder, key = at(record, path)
    holder[key] = value
    with pytest.raises(ModlibError, match=place):
        check_record(record)


def packed(*shape: int, value: int = 1) -> dict:
    return to_json(np.full(shape, value, np.int32))


@pytest.mark.parametrize(("path", "value", "said"), [
    *((path, value, said) for path, shape in (
        ("epochs[0].ucr_stages.counts", (2, 2, 2, 2)),
        ("results.probes.modes.own.counts", (2, 2, 2)))
      for value, said in (
          (packed(*shape[:-1]), "of shape"), (packed(*shape, 1), "of shape"),
          (packed(3, *shape[1:]), "of shape"), (packed(*shape, value=-1), "-1 to"),
          (packed(*shape, value=2), "4 a pair; allowed: 0 to 3"), (None, "cannot be read"))),
    ("epochs[0].ucr_stages.stages", ["one"], "ucr_stages.counts is of shape"),
    ("epochs[0].ucr_stages", [], "ucr_stages is"),
    ("results.probes.batches", 0, "batches is 0"), ("results.probes.batches", 2, "0 to 2"),
    ("results.probes.modes", [], "modes is"), ("results.probes.modes.own", 3, "own is 3"),
    ("results.probes.modes.own.agreement", 0.5, "agreement is 0.5; allowed: a share for joint"),
    ("results.probes.modes.own.agreement", {"joint": 1}, "allowed: a share for joint, frozen, own"),
    ("results.probes.modes.own.agreement.joint", -1, "own.agreement.joint is -1"),
    ("results.test_triplets", [], "test_triplets is"),
    ("results.test_triplets.correct", to_json(np.ones((3, 4), bool)), "of shape (3, 4)"),
    ("results.test_triplets.correct", to_json(np.ones((2, 0), bool)), "one triplet a task"),
    ("results.test_triplets.correct", packed(2, 4), "correct is int32"),
    ("results.test_triplets.correct", to_json(np.ones((2, 4), bool)), "Young is 0.0; allowed: the"),
    ("results.test_triplets.labels", to_json(np.ones((4, 2), bool)), "allowed: shape (5, 2)"),
    ("results.test_triplets.labels", {"dtype": "object"}, "labels is a record's array cannot be"),
    ("results.test_answers", [], "test_answers is"),
    ("results.test_answers.right", to_json(np.ones((2, 4), bool)), "allowed: shape (2, 5)"),
    ("results.test_answers.right", packed(2, 5), "test_answers.right is int32; allowed: bool"),
    ("results.test_answers.wrong", [], "test_answers.wrong is"),
    ("results.test_answers.wrong.Young", {"count": 4}, "a count of 5, the wrong answers"),
    ("results.test_answers.wrong.Young.of_others", 6, "wrong.Young.of_others is 6; allowed: a num"),
    ("results.test_answers.wrong.Bald", {"count": 4}, "wrong.Bald is"),
    ("results.test_answers.right", to_json(np.ones((2, 5), bool)), "Young is 0.0; allowed: the sh"),
    ("results.test_answers.parts", packed(4, 2), "allowed: shape (5, any)"),
    ("results.test_top.asked", to_json(np.ones((2, 5), bool)), "top_recall is 0.25; allowed: the"),
    ("results.test_top.asked", to_json(np.eye(2, 5, dtype=bool) & False), "no image for Smiling"),
    ("results.test_top.asked", to_json(np.ones((1, 5), bool)), "allowed: shape (2, 5)"),
    ("results.top_recall", 0.5, "top_recall is 0.5; allowed: the share that results.test_top hol"),
])
def test_packed_counts_and_triplets_that_cannot_be_are_refused(record, path, value, said):
    holder, key = at(record, path)
    holder[key] = value
    with pytest.raises(ModlibError, match=re.escape(said)):
        check_record(record)


def test_the_labels_of_any_number_of_images_are_right_where_it_is_not_told(record):
    del record["data"]["images"]
    record["results"]["test_triplets"]["labels"] = to_json(np.zeros((9, 2), bool))
    check_record(record)


def test_a_pair_that_is_counted_twice_is_refused(record):
    [pair] = record["epochs"][0]["ucr"]
    record["epochs"][0]["ucr"].append(pair | {"tasks": pair["tasks"][::-1]})
    with pytest.raises(ModlibError, match=r"ucr is 2 pairs; allowed: each pair of tasks once"):
        check_record(record)


@pytest.mark.parametrize("changes", [{"margin": 0.3}, {"seed": 4}, {"tasks": ["Smiling", "Bald"]}])
def test_a_record_whose_settings_were_changed_is_refused(record, changes):
    record["settings"] |= changes
    with pytest.raises(ModlibError, match=f"{record['name']}: by its settings and data its name"):
        check_name(record, Settings)


def test_a_record_whose_data_was_changed_is_refused(record):
    record["data"]["fingerprint"] = "other"
    with pytest.raises(ModlibError, match="by its settings and data its name is"):
        check_name(record, Settings)


@pytest.mark.parametrize("changes", [{"margn": 0.2}, {"system": "gone"}, {"margin": 9.0}])
def test_a_record_whose_settings_no_longer_exist_is_refused(record, changes):
    record["settings"] |= changes
    with pytest.raises(ModlibError, match="its settings are none of this modlib's"):
        check_name(record, Settings)


def test_a_record_older_than_a_setting_keeps_its_name(record):
    del record["settings"]["final_probes"]
    check_name(record, Settings)


# Those that are committed

PROFILES = {path.stem for path in (ROOT / "notebooks/settings").glob("*.yml")} | {"verify"}


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_committed_record_is_signed_and_can_be(path):
    """Where this fails for want of a digest: python tools/sign_records.py"""
    record = read_committed(path)
    if is_of_a_run(path):
        assert record["settings"]["profile"] in PROFILES  # or no page would ask for it


def test_records_are_committed():
    assert len(all_committed()) == len(COMMITTED) >= 100
