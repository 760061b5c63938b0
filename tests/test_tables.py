"""Numbers as people read them, and what is said where there is none."""

from math import inf, nan
from pathlib import Path

import nbformat
import pytest

from modlib.gradients import wilson
from modlib.missing_records import not_run_yet, some_not_run_yet
from modlib.results import read_records
from modlib.tables import (
    count_seeds,
    mean_and_spread,
    percent,
    points,
    short_commit,
    versions_in_words,
    with_sign,
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("values", "said"), [
    ([], "not run yet"), ([81.24], "81.2"), ([80.0, 82.0], "81.0 ± 1.4"),
    ([70.0, 80.0, 90.0], "80.0 ± 10.0"),
])
def test_a_mean_comes_with_the_sample_deviation_of_two_or_more(values, said):
    assert mean_and_spread(values) == said


def test_a_ratio_comes_with_its_interval():
    assert percent(wilson(5, 10)) == "50.0 [23.7, 76.3]"
    assert percent(wilson(0, 0)) == "not run yet"


@pytest.mark.parametrize(("value", "digits", "said"), [
    (1.234, 2, "+1.23"), (-1.234, 1, "−1.2"), (-12345.6, 0, "−12,346"), (0.0, 0, "+0"),
    (-0.004, 2, "+0.00"), (nan, 2, "+nan")])
def test_a_number_has_its_sign(value, digits, said):
    assert with_sign(value, digits) == said


@pytest.mark.parametrize(("value", "low", "high", "said"), [
    (1.234, 0.5, 1.968, "+1.23 [+0.50, +1.97]"), (-12.3, -20.0, -4.6, "−12.30 [−20.00, −4.60]"),
    (-0.5, -1.25, 0.25, "−0.50 [−1.25, +0.25]"), (0.0, 0.0, 0.0, "+0.00 [+0.00, +0.00]"),
    (-0.001, -0.004, 0.0, "+0.00 [+0.00, +0.00]"),
    (2.5, -inf, inf, "+2.50 (one seed)"), (-2.5, -inf, inf, "−2.50 (one seed)"),
    (nan, nan, nan, "not run yet"),
])
def test_a_difference_has_its_sign_and_its_interval_where_there_is_one(value, low, high, said):
    assert points(value, low, high) == said


@pytest.mark.parametrize(("folder", "notebook", "module"), [
    ("three_attributes", "02", "three_attributes.study"),
    ("any_network", "07", "any_network.study"),
])
def test_what_is_missing_names_its_folder_and_the_command_that_fills_it(folder, notebook, module):
    said = not_run_yet("celeba_gpu", folder, notebook)
    assert f"`book/results/{folder}`" in said
    assert f"make run NB={notebook} SETTINGS=celeba_gpu DATA=/path/to/celeba" in said
    [path] = ROOT.glob(f"notebooks/{notebook}*.ipynb")
    assert module in path.read_text("utf8")


@pytest.mark.parametrize(("profile", "folder", "notebook", "about"), [
    ("celeba_gpu", "three_attributes", "02", " CelebA by the paper's protocol on a GPU: 150×150, "),
    ("zappos_cpu", "products", "12", " UT-Zappos50K at 64×64 on two CPU cores, "),
])
def test_what_is_missing_is_told_by_its_settings_file_and_its_notebooks_title(
    profile, folder, notebook, about
):
    said = not_run_yet(profile, folder, notebook)
    [path] = ROOT.glob(f"notebooks/{notebook}*.ipynb")
    title = nbformat.read(path, 4).cells[0].source.split("\n")[0].removeprefix("# ")
    assert about in said and f"“{title}”" in said
    assert "data_root" not in said


def test_a_profile_without_a_settings_file_is_told_by_its_name_alone():
    said = not_run_yet("mine", "three_attributes", "02")
    assert said.startswith("> **Not run yet: `mine`.** No record of it is in ")


def test_what_other_profiles_took_is_told_for_scale_where_there_are_any():
    minutes = [record["run"]["training_seconds"] / 60
               for record in read_records("book/results/three_attributes", profile="celeba_cpu")]
    said = not_run_yet("celeba_cpu_7", "three_attributes", "02")
    assert (f"the runs of `celeba_cpu` took {min(minutes):.0f} to {max(minutes):.0f} minutes each "
            "on cpu") in said
    assert "For scale" not in not_run_yet("celeba_cpu_7", "a folder without records", "02")


def test_what_runs_took_on_a_cpu_is_no_scale_for_a_gpu():
    assert "For scale" not in not_run_yet("celeba_gpu", "three_attributes", "02")


@pytest.mark.parametrize(("seeds", "said"), [
    ([], "0 seeds"), ([3], "1 seed"), ([3, 3], "1 seed"), ([0, 3], "2 seeds")])
def test_seeds_are_counted_once_each(seeds, said):
    assert count_seeds([{"settings": {"seed": seed}} for seed in seeds]) == said


def of_seeds(*seeds, minutes=2.0):
    return [{"settings": {"seed": seed},
             "run": {"training_seconds": 60 * minutes, "device": "an abacus"}} for seed in seeds]


def test_rows_that_lack_a_seed_are_named_with_the_call_that_runs_only_them():
    rows = {"ours": of_seeds(0, 1, 2), "CSN": of_seeds(0, 2), "independent": []}
    said = some_not_run_yet(rows, "celeba_cpu_20", "03")
    assert "**Not run yet:** *CSN* (seed 1); all seeds of *independent*. The" in said
    assert "make run NB=03 SETTINGS=celeba_cpu_20 DATA=/path/to/celeba RESULTS=book/results" in said


def test_what_is_missing_of_a_row_takes_as_long_as_its_other_seeds():
    rows = {"ours": of_seeds(0, 1, 2), "CSN": of_seeds(2, minutes=7), "branches": of_seeds(0, 1),
            "independent": []}
    said = some_not_run_yet(rows, "mine", "03")
    # of the row that nobody has run, nobody knows
    assert "CSN, branches: about 16 minutes of training in all" in said and "an abacus" in said
    assert "minutes" not in some_not_run_yet(
        {"ours": of_seeds(0), "independent": []}, "mine", "03")


@pytest.mark.parametrize(("rows", "said"), [
    ({"ours": of_seeds(0, 1), "CSN": of_seeds(0, 1)}, "seeds 2, 7 of every row"),
    ({"ours": of_seeds(0, 1), "CSN": of_seeds(0)}, "*ours* (seeds 2, 7); *CSN* (seeds 1, 2, 7)"),
    ({"ours": of_seeds(0, 1), "CSN": []}, "*ours* (seeds 2, 7); all seeds of *CSN*"),
    ({"ours": of_seeds(0, 2), "CSN": of_seeds(2, 0), "masks": of_seeds(0, 2, 7)},
     "*ours*, *CSN* (seeds 1, 7); *masks* (seed 1)"),
    ({"ours": of_seeds(0, 1)}, "*ours* (seeds 2, 7)")])
def test_seeds_that_no_row_has_are_named_where_rows_are_to_have_them(rows, said):
    assert f"**Not run yet:** {said}. The" in some_not_run_yet(
        rows, "celeba_cpu_20", "03", seeds=[0, 1, 2, 7])


@pytest.mark.parametrize("rows", [
    {"ours": of_seeds(0, 1), "CSN": of_seeds(1, 0)}, {"ours": [], "CSN": []}])
def test_where_no_row_lacks_what_another_has_nothing_is_said(rows):
    assert some_not_run_yet(rows, "mine", "03") == ""  # no settings file asks for others


def test_every_row_is_to_have_the_seeds_of_the_settings_file():
    rows = {"ours": of_seeds(0, 1), "CSN": of_seeds(0, 1)}
    assert "*Not run yet:** seed 2 of every row" in some_not_run_yet(rows, "celeba_cpu_20", "03")
    assert some_not_run_yet(rows, "celeba_cpu_20", "03", seeds=()) == ""


def test_a_commit_keeps_its_mark_when_it_is_cut_short():
    assert short_commit("0123456789abcdef") == "0123456789"
    assert short_commit("0123456789abcdef-dirty") == "0123456789-dirty"


def test_every_commit_and_every_torch_that_made_records_is_named():
    records = [{"run": {"git_commit": commit, "versions": {"torch": torch}}}
               for commit, torch in (("b" * 40, "2.11"), ("a" * 40, "2.12"), ("b" * 40, "2.12"))]
    assert versions_in_words(records) == f"torch 2.11 and 2.12, commits `{'a' * 10}`, `{'b' * 10}`"
    assert versions_in_words(records[:1]) == f"torch 2.11, commit `{'b' * 10}`"


def test_the_call_names_other_data_than_faces_where_that_is_meant():
    for said in (not_run_yet("mine", "top_down", "10", "/path/to/MNIST"),
                 some_not_run_yet({"a": of_seeds(0), "b": []}, "mine", "10", "/path/to/MNIST")):
        assert "make run NB=10 SETTINGS=mine DATA=/path/to/MNIST RESULTS=book/results" in said
        assert "celeba" not in said
