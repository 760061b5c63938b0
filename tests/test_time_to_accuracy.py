"""The study of training time: its runs, its records sorted by what they change, its verdicts."""

from dataclasses import replace

import pytest

from modlib import time_to_accuracy
from modlib.errors import ModlibError
from modlib.results import plain, write_record
from modlib.settings import Settings
from modlib.time_to_accuracy import (
    FLOAT32,
    FOLDER,
    RECIPE,
    TRIPLETS,
    VARIANTS,
    by_variant,
    changes,
    missing_runs,
    precision_verdict,
    score_table,
    scores,
    study,
    what_mattered,
)

TASKS = ("Smiling", "Young")
BASE = Settings(
    profile="mine", dataset="celeba", batches_per_epoch=30, tasks=TASKS, width=0.5, shift=4,
    zoom=0.1, colour_jitter=0.2, schedule="cosine", batch_size=60, learning_rate=2e-3)


def record(settings: Settings, valid: float, test: float, images_per_second: float = 100.0) -> dict:
    """What a run of these settings might have left."""
    return {
        "version": 1, "name": settings.run_name("data"), "status": "done",
        "settings": settings.as_dict(),
        "data": {"fingerprint": "data", "source": "drawn", "images": {"train": 9}},
        "results": {"test_accuracy": dict.fromkeys(TASKS, test)},
        "epochs": [*({"epoch": n, "valid_accuracy": dict.fromkeys(TASKS, 0.5)}
                     for n in range(1, settings.epochs)),
                   {"epoch": settings.epochs,
                    "valid_accuracy": {"Smiling": valid + 0.01, "Young": valid - 0.01}}],
        "run": {"training_seconds": 120.0, "images_per_second": images_per_second,
                "device": "cpu (2 threads of 2 cores)"},
    }


def of(variant: str, seed: int = 0) -> Settings:
    return replace(BASE, seed=seed, **changes(variant, BASE.as_dict()))


# The runs


def test_each_variant_changes_what_it_says_and_nothing_else():
    runs, _ = study({"tasks": list(TASKS), "shift": 4, "zoom": 0.1, "colour_jitter": 0.2,
                     "width": 0.5, "schedule": "cosine", "dataset": "celeba",
                     "batch_size": 60, "learning_rate": 2e-3, "variants": list(VARIANTS),
                     "seeds": [3]})
    assert list(runs) == list(VARIANTS)
    [recipe] = runs[RECIPE]
    for name, [settings] in runs.items():
        assert settings == replace(recipe, **VARIANTS[name])
        assert (settings == recipe) == (name == RECIPE)


def test_a_larger_batch_means_fewer_of_them():
    parameters = {"tasks": list(TASKS), "batch_size": 60, "batches_per_epoch": 30, "seeds": [0],
                  "variants": ["batches of 180 images"]}
    [larger] = study(parameters)[0]["batches of 180 images"]
    assert (larger.batch_size, larger.batches_per_epoch) == (180, 10)
    [whole] = study(parameters | {"batches_per_epoch": None})[0]["batches of 180 images"]
    assert (whole.batch_size, whole.batches_per_epoch) == (180, None)


def test_the_recipe_and_float32_have_every_seed_and_the_others_the_first():
    runs, _ = study({"tasks": list(TASKS), "seeds": [5, 1],
                     "variants": [RECIPE, TRIPLETS, FLOAT32]})
    assert {name: [one.seed for one in row] for name, row in runs.items()} == {
        RECIPE: [5, 1], TRIPLETS: [5], FLOAT32: [5, 1]}


def test_all_variants_are_trained_on_faces_and_two_on_drawings():
    parameters = {"tasks": list(TASKS), "shift": 4, "zoom": 0.1, "colour_jitter": 0.2,
                  "width": 0.5, "schedule": "cosine", "batch_size": 60, "learning_rate": 2e-3}
    assert list(study(parameters)[0]) == [RECIPE, TRIPLETS]
    assert list(study(parameters | {"dataset": "celeba"})[0]) == list(VARIANTS)


def test_a_change_that_changes_nothing_is_left_out():
    runs, _ = study({"tasks": list(TASKS), "shift": 0, "variants": ["no shifts", TRIPLETS]})
    assert list(runs) == [RECIPE, TRIPLETS]


def test_batches_and_toy_faces_are_enough_for_the_tasks():
    tasks = [f"task {t}" for t in range(20)]
    small, _ = study({"tasks": tasks, "batch_size": 18, "toy_images": 300, "seeds": [0]})
    assert (small[RECIPE][0].batch_size, small[RECIPE][0].toy_images) == (60, 2000)
    large, _ = study({"tasks": tasks, "batch_size": 120, "toy_images": 3000, "seeds": [0]})
    assert (large[RECIPE][0].batch_size, large[RECIPE][0].toy_images) == (120, 3000)


def test_records_go_to_a_folder_of_their_own():
    _, places = study({"tasks": list(TASKS), "results_dir": "somewhere"})
    assert places.results_dir == f"somewhere/{FOLDER}"


@pytest.mark.parametrize(("wrong", "said"), [
    ({"variants": ["the recipee"]}, "did you mean 'the recipe'"),
    ({"seeds": []}, "seeds must be"), ({"seeds": [1, 1]}, "seeds must be"),
    ({"seeds": [-1]}, "seeds must be"), ({"system": "csn"}, "system is not a parameter"),
    ({"seed": 1}, "seed is not a parameter"), ({"epoch": 1}, "did you mean 'epochs'"),
    ({"batch_size": "60"}, "batch_size must be"), ({"margin": 9.0}, "margin must be"),
])
def test_what_is_wrong_is_refused_by_name(wrong, said):
    with pytest.raises(ModlibError, match=said):
        study({"tasks": list(TASKS)} | wrong)


# The records


def test_records_are_sorted_by_what_they_change():
    records = [record(of(name, seed), 0.8, 0.7) for name in VARIANTS for seed in (1, 0)]
    rows = by_variant(records, BASE.as_dict())
    assert {name: [r["settings"]["seed"] for r in row] for name, row in rows.items()} == {
        name: [0, 1] for name in VARIANTS}


def test_a_record_that_changes_something_else_is_of_no_variant():
    other = record(replace(BASE, margin=0.3), 0.8, 0.7)
    assert by_variant([other], BASE.as_dict()) is None


def test_variants_without_their_recipe_are_not_sorted():
    assert by_variant([record(of(TRIPLETS), 0.8, 0.7)], BASE.as_dict()) is None


@pytest.mark.parametrize("names", [(RECIPE, TRIPLETS), tuple(VARIANTS)])
def test_the_recipe_is_found_whatever_lies_beside_it(folder, names):
    for name in names:
        one = record(of(name), 0.8, 0.7)
        write_record(folder / f"{one['name']}.json", one)
    [recipe] = time_to_accuracy.published("mine")[RECIPE]
    assert recipe["settings"] == plain(BASE.as_dict())


def test_records_of_two_recipes_are_refused(folder):
    for settings in (BASE, replace(BASE, margin=0.3)):
        one = record(settings, 0.8, 0.7)
        write_record(folder / f"{one['name']}.json", one)
    with pytest.raises(ModlibError, match="not one recipe"):
        time_to_accuracy.published("mine")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project's root with an empty folder of published records."""
    (tmp_path / "modlib").mkdir()
    (tmp_path / "_toc.yml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "book/results" / FOLDER


def test_published_records_find_their_recipe_themselves(folder):
    for name in VARIANTS:
        one = record(of(name), 0.8, 0.7)
        write_record(folder / f"{one['name']}.json", one)
    rows = time_to_accuracy.published("mine")
    assert [len(row) for row in rows.values()] == [1] * len(VARIANTS)
    assert not any(time_to_accuracy.published("other").values())


def test_published_records_of_another_profile_are_checked_too(folder):
    for settings in (BASE, replace(BASE, profile="other", margin=0.3),
                     replace(BASE, profile="other", margin=0.4)):
        one = record(settings, 0.8, 0.7)
        write_record(folder / f"{one['name']}.json", one)
    with pytest.raises(ModlibError, match=r"records of profile other .* are not one recipe"):
        time_to_accuracy.published("mine")


def test_published_records_of_other_data_are_refused(folder):
    for seed, source in ((0, "drawn"), (1, "elsewhere")):
        one = record(of(RECIPE, seed), 0.8, 0.7)
        one["data"]["source"] = source
        write_record(folder / f"{one['name']}.json", one)
    with pytest.raises(ModlibError, match="data source"):
        time_to_accuracy.published("mine")


# What they say


def test_scores_are_means_over_tasks_in_percent():
    [line] = scores({RECIPE: [record(BASE, 0.8, 0.7)]}).to_dict("records")
    assert line == pytest.approx({"variant": RECIPE, "seed": 0, "valid": 80.0,
                                  "speed": 100.0})


def test_nothing_is_said_of_the_test_split_by_which_nothing_may_be_chosen():
    rows = {RECIPE: [record(of(RECIPE, s), 0.8, 0.8) for s in (0, 1)],
            FLOAT32: [record(of(FLOAT32, s), 0.8, 0.4) for s in (0, 1)]}
    assert list(score_table(rows)) == ["validation, %", "against the recipe"]
    assert precision_verdict(rows).startswith("bfloat16 minus float32: +0.00 points of mean valid")


def test_the_table_gives_each_change_against_the_recipes_mean():
    rows = {RECIPE: [record(BASE, 0.8, 0.7), record(of(RECIPE, 1), 0.9, 0.7)],
            TRIPLETS: [record(of(TRIPLETS), 0.6, 0.5)], FLOAT32: []}
    table = score_table(rows)
    assert list(table.index) == [RECIPE, TRIPLETS, FLOAT32]
    assert list(table["against the recipe"]) == ["", "−20.0", ""]
    assert table.loc[FLOAT32, "validation, %"] == "not run yet"
    assert table.loc[RECIPE, "validation, %"] == "85.0 ± 7.1"
    assert score_table({RECIPE: []}).empty


def test_a_variant_or_a_seed_without_a_record_is_named_with_its_call():
    rows = {RECIPE: [record(of(RECIPE, s), 0.8, 0.7) for s in (0, 1, 2)],
            TRIPLETS: [record(of(TRIPLETS), 0.6, 0.5)],
            FLOAT32: [record(of(FLOAT32, s), 0.8, 0.7) for s in (0, 1, 2)]}
    assert missing_runs(rows, "celeba_cpu_20_ablation") == ""
    both = {name: rows[name][:2] for name in (RECIPE, FLOAT32)}  # the settings file has three seeds
    assert "seed 2 of every row" in missing_runs(rows | both, "celeba_cpu_20_ablation")
    said = missing_runs(rows | {FLOAT32: rows[FLOAT32][:1]}, "celeba_cpu_20_ablation")
    assert f"*{FLOAT32}* (seeds 1, 2)" in said and TRIPLETS not in said
    said = missing_runs(rows | {TRIPLETS: []}, "celeba_cpu_20_ablation")
    assert f"all seeds of *{TRIPLETS}*" in said and FLOAT32 not in said
    assert "make run NB=08 SETTINGS=celeba_cpu_20_ablation DATA=/path/to/celeba " in said
    assert missing_runs({name: [] for name in rows}, "celeba_cpu_20_ablation") == ""
    later = {RECIPE: rows[RECIPE][1:], FLOAT32: rows[FLOAT32][1:],
             TRIPLETS: [record(of(TRIPLETS, 1), 0.6, 0.5)]}  # whatever the first seed is
    assert TRIPLETS not in missing_runs(later, "celeba_cpu_20_ablation")
    assert f"all seeds of *{TRIPLETS}*" in missing_runs(
        later | {TRIPLETS: []}, "celeba_cpu_20_ablation")


@pytest.mark.parametrize(("low", "high", "said"), [
    ((0.80, 0.82), (0.81, 0.82), "within"), ((0.80, 0.801), (0.85, 0.851), "beyond")])
def test_precision_is_judged_by_the_seeds_own_range(low, high, said):
    rows = {RECIPE: [record(of(RECIPE, s), v, 0.8) for s, v in enumerate(low)],
            FLOAT32: [record(of(FLOAT32, s), v, 0.8) for s, v in enumerate(high)]}
    assert said in precision_verdict(rows)
    assert "no conclusion" in precision_verdict({RECIPE: rows[RECIPE], FLOAT32: []})


def test_what_moves_accuracy_by_more_than_the_seeds_is_said_with_its_sign():
    rows = {RECIPE: [record(BASE, 0.80, 0.7), record(of(RECIPE, 1), 0.82, 0.7)],
            TRIPLETS: [record(of(TRIPLETS), 0.60, 0.9)],
            "no zoom": [record(of("no zoom"), 0.85, 0.1)],
            "no shifts": [record(of("no shifts"), 0.81, 0.1)]}
    assert what_mattered(rows).splitlines() == [
        "The recipe's 2 seeds lie 2.0 points apart. By more than that, in points of mean "
        "validation accuracy:", "",
        "- **Better than the recipe:** no zoom (+5.0).", "- **Worse:** triplets batching (−20.0).",
        "- **Within it, so undecided:** no shifts."]


def test_one_seed_of_the_recipe_decides_nothing():
    assert "no conclusion" in what_mattered({RECIPE: [record(BASE, 0.8, 0.7)]})
