"""The top-down study: its runs on each data set, what is published, what tables say."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from hand_made_answers import IMAGES, first_right

from modlib import top_down_study
from modlib.backbones import lenet, vgg_11
from modlib.comparison_figures import maps_over_images
from modlib.errors import ModlibError
from modlib.results import plain, resolve, write_record
from modlib.tables import NOT_COMPLETE
from modlib.task_readers import ReaderSettings
from modlib.top_down import count_weights
from modlib.top_down_study import (
    CLEVR,
    CUB_200,
    LENET_WEIGHTS,
    MULTI_MNIST,
    OURS,
    OURS_2,
    STUDIES,
    VGG_11_WEIGHTS,
    accuracy_table,
    by_seed,
    how_it_ran,
    lay_out,
    paper_rows,
    weight_table,
)
from modlib.top_down_verdicts import CLAIMS, takeaway, verdicts, weight_sentence
from modlib.verdicts import table_of

CHANNEL_2 = "2 tasks, channel modulation"


def record(row: str, seed: int, accuracy: float, study=MULTI_MNIST, weights: int = 31_525,
           **changes) -> dict:
    """A hand-made record with that accuracy in % on its first task, and one point less on each
    one that follows; on the validation split half of it."""
    settings = ReaderSettings(**{"profile": "mine", "dataset": "mnist", "seed": seed}
                              | study.changes(row) | changes)
    test = {task: (accuracy - n) / 100 for n, task in enumerate(settings.tasks)}
    return {
        "version": 1, "name": settings.run_name("data"), "status": "done",
        "settings": plain(settings.as_dict()),
        "data": {"fingerprint": "data", "source": "digits of a test",
                 "images": {"train": 2000, "valid": 100, "test": IMAGES}},
        "results": {"test_accuracy": test, "test_answers": first_right(list(test.values())),
                    "parameters": {"weights": weights}},
        "epochs": [{"epoch": n + 1, "valid_accuracy": {task: v / 2 for task, v in test.items()}}
                   for n in range(settings.epochs)],
        "run": {"training_seconds": 90.0, "device": "a test's device",
                "versions": {"torch": "2.12.0"}, "git_commit": "0123456789abcdef"}}


@pytest.fixture
def rows():
    """Three seeds: top-down 2 ± 0.5 points above channel modulation; one seed of uniform."""
    return MULTI_MNIST.by_row([
        *(record(OURS_2, seed, value) for seed, value in enumerate((92, 93, 94))),
        *(record(CHANNEL_2, seed, value) for seed, value in enumerate((90.5, 91, 91.5))),
        record("2 tasks, uniform scaling", 1, 93.5)])


# Runs


def test_the_embedded_digits_get_the_five_systems_on_two_tasks():
    study, runs, places = lay_out({"seeds": [0, 3], "results_dir": "r", "epochs": 2})
    assert study is MULTI_MNIST and places.results_dir == "r/top_down"
    assert [settings.system for settings, _ in runs.values()] == [
        "single", "uniform", "moo", "channel", "top_down"]
    assert {settings.tasks for settings, _ in runs.values()} == {("LU", "RL")}
    assert {settings.epochs for settings, _ in runs.values()} == {2}


@pytest.mark.parametrize(("dataset", "count", "folder"), [
    ("mnist", 32, "top_down"), ("clevr", 12, "top_down_clevr"), ("cub_200", 7, "top_down_cub_200")])
def test_each_data_set_has_its_study_and_all_its_rows_are_valid_runs(dataset, count, folder):
    study, runs, places = lay_out({"dataset": dataset, "seeds": [1]})
    assert places.results_dir.endswith(f"/{folder}")
    assert list(runs) == list(study.rows) and len(runs) == count
    names = {settings.run_name("data") for [settings] in runs.values()}
    assert len(names) == count


def test_the_ablations_change_what_their_names_say():
    changed = {name: {key: value for key, value in changes.items()
                      if key not in ("system", "tasks")}
               for part in top_down_study.ABLATIONS.values() for name, changes in part.items()}
    assert changed == {
        "channels alone, image seen": {"spatial": False},
        "places, image not seen": {"image_aware": False},
        "top-down maps of 10": {"td_channels": 10}, "top-down maps of 6": {"td_channels": 6},
        "top-down maps of 2": {"td_channels": 2}, "top-down maps of 1": {"td_channels": 1},
        "+ into TD, + into BU2": {"into_bu2": "add"},
        "+ into TD, × into BU2": {"into_bu2": "multiply"},
        "× into TD, ⊗ into BU2": {"into_td": "multiply"},
        "⊗ into TD, ⊗ into BU2": {"into_td": "gate_sigmoid"},
        "+ into TD, ⊗ with tanh": {"into_bu2": "gate_tanh"},
        "with a loss on BU1": {"bu1_weight": 1.0}, "with a loss on TD": {"td_weight": 1.0},
        "with both losses": {"bu1_weight": 1.0, "td_weight": 1.0}}


@pytest.mark.parametrize("count", [2, 3, 4])
def test_channel_modulation_is_run_at_both_rates(count):
    _, runs, _ = lay_out({"dataset": "mnist"})
    [slow], [fast] = (runs[f"{count} tasks, channel modulation{more}"] for more in (
        "", ", scales at 20 times the rate"))
    assert (slow.scale_rate_factor, fast.scale_rate_factor) == (1.0, 20.0)
    assert slow == replace(fast, scale_rate_factor=1.0) and len(slow.tasks) == count


def test_the_digits_settings_compose_as_many_images_as_the_paper_has():
    values = yaml.safe_load(resolve("notebooks/settings/multi_mnist_cpu.yml").read_text("utf8"))
    _, runs, places = lay_out(values)
    assert {(one.train_images, one.batch_size, one.epochs, one.batches_per_epoch)
            for of_row in runs.values() for one in of_row} == {(60_000, 128, 12, 156)}
    assert {len(of_row) for of_row in runs.values()} == {5} and places.workers == 2


@pytest.mark.parametrize(("parameters", "said"), [
    ({"dataset": "celeba"}, r"value of dataset: 'celeba' is not known.*mnist, clevr"),
    ({"epoch": 1}, "did you mean 'epochs'"), ({"width": "wide"}, "width must be a number"),
    ({"rows": ["2 tasks, topdown"]}, "did you mean '2 tasks, top-down'"),
    ({"system": "single"}, "system is not a parameter of this study"),
    ({"seeds": [1, 1]}, "seeds must be one or more distinct numbers")])
def test_wrong_parameters_are_refused_by_name(parameters, said):
    with pytest.raises(ModlibError, match=said):
        lay_out(parameters)


# What the paper prints


def test_every_claim_is_about_rows_of_its_study_that_the_paper_prints():
    assert {study.folder for study in STUDIES.values()} == CLAIMS.keys()
    for study in STUDIES.values():
        for _, better, worse in CLAIMS[study.folder]:
            assert {better, worse} <= study.rows.keys() & paper_rows(study.folder).keys()


@pytest.mark.parametrize(("study", "row", "task", "printed"), [
    (MULTI_MNIST, "4 tasks, top-down", "RU", 95.11), (MULTI_MNIST, "2 tasks, MOO", "LU", 96.25),
    (MULTI_MNIST, "places, image not seen", "RL", 93.29),
    (MULTI_MNIST, "with both losses", "LU", 96.84),
    (MULTI_MNIST, "× into TD, ⊗ into BU2", "RL", 95.39),
    (CLEVR, "3 tasks, single task", "red sphere", 99.93),
    (CUB_200, "top-down + localisation", "bill", 75.61)])
def test_the_papers_figures_are_where_they_belong(study, row, task, printed):
    assert paper_rows(study.folder)[row]["accuracy"][task] == printed


def test_tables_2b_and_2d_have_a_reference_of_their_own():
    own = pytest.approx((97.09 + 96.11) / 2)
    for part, reference in (("b", own), ("d", own), ("c", pytest.approx((97.16 + 96.19) / 2))):
        rows = [OURS_2, *top_down_study.ABLATIONS[part]]
        assert np.mean(list(paper_rows("top_down", rows)[OURS_2]["accuracy"].values())) == reference
    shown = accuracy_table({}, [OURS_2, "with a loss on BU1"], "top_down")["paper's mean"]
    assert shown.tolist() == ["96.6", "96.2"]
    printed = {one.claim: one.paper for one in verdicts({}, "top_down")}
    assert printed["Top-down maps of 6 lose accuracy"] == pytest.approx(96.6 - (96.88 + 96.05) / 2)
    assert printed["Accuracy is higher without auxiliary losses than with both losses"] == (
        pytest.approx(96.6 - (96.84 + 95.53) / 2))


def test_both_rates_are_judged_by_the_one_figure_that_the_paper_prints():
    printed = {one.claim: one.paper for one in verdicts({}, "top_down")}
    for claim, slow in printed.items():
        if "passes channel modulation, " in claim and "20" not in claim:
            fast = claim.replace("modulation, ", "modulation, scales at 20 times the rate, ")
            assert printed[fast] == slow > 0
    assert len([claim for claim in printed if "20 times the rate" in claim]) == 3 + 2


def test_the_papers_rows_have_the_tasks_of_ours():
    for study in (MULTI_MNIST, CLEVR, CUB_200):
        for name, printed in paper_rows(study.folder).items():
            if name in study.rows:
                assert tuple(printed["accuracy"]) == tuple(study.rows[name]["tasks"])


def test_the_table_of_weights_sets_ours_beside_the_papers():
    table = weight_table()
    assert (table["LeNet", "ours"] == table["LeNet", "paper"]).all()
    assert table["VGG-11", "ours"].tolist() == ["7,448,256", "7,473,152", "8,181,449", "1,568"]


# What records say


def test_records_go_to_their_rows(rows):
    assert {name: len(of_row) for name, of_row in rows.items() if of_row} == {
        OURS_2: 3, CHANNEL_2: 3, "2 tasks, uniform scaling": 1}


def test_published_records_are_read_and_must_be_of_one_kind(tmp_path, monkeypatch):
    (tmp_path / "modlib").mkdir()
    (tmp_path / "_toc.yml").touch()
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "book/results/top_down"
    write_record(folder / "0.json", record(OURS_2, 0, 90))
    write_record(folder / "1.json", record("4 tasks, top-down", 0, 90))
    assert len(MULTI_MNIST.published("mine")[OURS_2]) == 1
    write_record(folder / "2.json", record(CHANNEL_2, 0, 90, epochs=9))
    with pytest.raises(ModlibError, match="differ in epochs"):
        MULTI_MNIST.published("mine")


def test_a_seeds_figure_is_the_mean_over_its_tasks(rows):
    assert by_seed(rows, OURS_2) == pytest.approx({0: 91.5, 1: 92.5, 2: 93.5})


def test_the_accuracy_table_has_each_task_the_mean_and_the_papers(rows):
    table = accuracy_table(rows, [OURS_2, "2 tasks, MOO"], "top_down")
    assert table.loc[OURS_2].tolist() == [
        "93.0 ± 1.0", "92.0 ± 1.0", "92.5 ± 1.0", "96.7", "×1.300", "×1.29", "×6.9"]
    assert table.loc["2 tasks, MOO"].tolist() == [
        "", "", "not run yet", "95.8", "–", "×1.12", "–"]


@pytest.mark.parametrize(("make", "classes", "unit"), [
    (lenet, 10, LENET_WEIGHTS), (vgg_11, 2, VGG_11_WEIGHTS)])
def test_a_multiple_is_of_one_backbone_with_one_classifier(make, classes, unit):
    backbone = make()
    assert count_weights(backbone) + count_weights(backbone.new_head(classes)) == unit


def test_weights_are_multiples_where_the_paper_has_them_else_counts():
    """Uniform scaling with two questions: a VGG-11 with two classifiers."""
    row, weights = "2 tasks, uniform scaling", 7_448_256 + 2 * 7_473_152
    scenes = CLEVR.by_row([record(row, 0, 90, CLEVR, weights, dataset="clevr")])
    table = accuracy_table(scenes, [row], CLEVR.folder)
    assert table.loc[row, ["weights", "paper's"]].tolist() == ["×1.501", "×1.5"]
    birds = CUB_200.by_row([record("uniform scaling", 0, 90, CUB_200, weights, dataset="cub_200")])
    assert accuracy_table(birds, ["uniform scaling"], CUB_200.folder).weights.tolist() == [
        "22.39 M"]


def test_verdicts_compare_over_images_and_seeds(rows):
    judged = {v.claim: v for v in verdicts(rows, "top_down")}
    held = judged["Top-down modulation passes channel modulation, 2 tasks"]
    assert held.word == "held"
    assert held.difference == pytest.approx(2)
    # Of a thousand images the same twenty are read by one system alone, whatever the task.
    of_images = 100 * (0.02 * 0.98 / IMAGES) ** 0.5
    half = ((1.96 * of_images) ** 2 + (4.302653 * 0.5) ** 2 / 3) ** 0.5
    assert held.high - held.low == pytest.approx(2 * half, rel=0.1)
    assert held.paper == pytest.approx((97.16 + 96.19 - 96.53 - 95.21) / 2)
    shown = table_of(verdicts(rows, "top_down"), digits=2).loc[held.claim]
    assert shown.tolist() == ["+0.80", f"+2.00 [{held.low:+.2f}, {held.high:+.2f}]", "held"]
    one_seed = judged["Top-down modulation passes uniform scaling, 2 tasks"]
    assert one_seed.word == "not decided" and one_seed.difference == pytest.approx(-0.5)
    assert judged["Top-down modulation passes MOO, 2 tasks"].word == "not run yet"


def test_fewer_weights_than_networks_of_their_own_is_told_from_the_records(rows):
    assert weight_sentence(rows).endswith("records will tell.")
    rows["2 tasks, single task"] = [record("2 tasks, single task", 0, 90, weights=48_500)]
    assert "in 1 of 1 cases (×1.30 against ×2.00 for 2 tasks)" in weight_sentence(rows)
    rows[OURS[3]] = [record(OURS[3], 0, 90, weights=80_000)]
    rows["3 tasks, single task"] = [record("3 tasks, single task", 0, 90, weights=72_750)]
    assert "in 1 of 2 cases" in weight_sentence(rows)


def test_the_takeaway_answers_the_pages_question_once_every_row_has_two_seeds(rows):
    assert takeaway(rows) == NOT_COMPLETE
    accuracies = {OURS[4]: 90, "4 tasks, single task": 93, "places, image not seen": 90,
                  "channels alone, image seen": 80}
    every = MULTI_MNIST.by_row([
        record(row, seed, accuracies.get(row, 85) + 0.1 * seed)
        for row in MULTI_MNIST.rows for seed in (0, 1)])
    said = takeaway(every)
    own, uniform = (next(line for line in said.splitlines() if f"over {name}:" in line)
                    for name in ("a network for each task", "uniform scaling"))
    # Two tasks and three: as good as all others, so nothing is bold but the four tasks.
    assert own.split(": ")[1].startswith("+0.00 [") and "**\N{MINUS SIGN}3.00 [" in own
    assert own.count("**") == uniform.count("**") == 2 and "**+5.00 [" in uniform
    assert "so modulating places helps. Without" in said
    assert "that seeing the image helps is not shown" in said
    assert said.count("in 1 of 3 cases") == 2 and "each task in 0 of 3 cases." in said
    assert "modulation has ×1.300 the weights of one LeNet and does ×12.8 its work" in said
    judged = [one.word for one in verdicts(every, "top_down")]
    assert f"**{judged.count('held')} held**" in said.splitlines()[-1]
    swapped = every | {"places, image not seen": every["4 tasks, single task"],
                       "channels alone, image seen": every["4 tasks, single task"]}
    assert "so it is better without modulating places" in takeaway(swapped)
    every[OURS[4]] = every[OURS[4]][:1]
    assert takeaway(every) == NOT_COMPLETE


def test_how_it_ran_says_what_is_missing_and_how_to_run_it(rows):
    said = how_it_ran(rows, "mine", "top_down", "/path/to/MNIST")
    assert ("7 runs, 3 seeds, 1.5 to 1.5 minutes each by the clock, pauses included (median 1.5), "
            "on a test's device") in said
    assert "2,000 images to train on" in said
    assert "*2 tasks, uniform scaling* (seeds 0, 2)" in said
    for text in (said, how_it_ran({}, "mine", "top_down", "/path/to/MNIST")):
        assert "make run NB=10 SETTINGS=mine DATA=/path/to/MNIST RESULTS=book/results" in text


def test_maps_are_drawn_over_their_images():
    images_BHW = np.zeros((3, 4, 4), np.uint8)
    maps_TBHW = np.arange(2 * 3 * 16).reshape(2, 3, 4, 4)
    maps_over_images(images_BHW, maps_TBHW, ("LU", "RL"))
    axes = np.reshape(plt.gcf().axes, (3, 3))
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["image", "map of LU", "map of RL"]
    assert [len(ax.images) for ax in axes[:, 1]] == [1, 2, 2]
    assert np.array_equal(axes[2, 1].images[1].get_array(), maps_TBHW[1, 1])
    plt.close("all")
