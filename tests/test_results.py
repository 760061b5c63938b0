"""Records are written whole or not at all, read with care, found, compared and added up."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from modlib import results, whole_files
from modlib.errors import ModlibError
from modlib.results import (
    LATER,
    RECORD_KEYS,
    WITH_RECORD,
    comparable,
    digest_of,
    pair_ucr,
    project_root,
    read_record,
    read_records,
    resolve,
    ucr_counts,
    write_json,
    write_record,
)

ROOT = Path(__file__).resolve().parents[1]
PAIR, OTHER_PAIR = ["Smiling", "Young"], ["Smiling", "Bald"]


def counts(tasks, positive, negative, zero) -> dict:
    return {"tasks": tasks, "positive": positive, "negative": negative, "zero": zero}


@pytest.fixture
def record() -> dict:
    """A record of three epochs whose counts for PAIR are 4, 3, 2 · 1, 0, 8 · 6, 2, 1."""
    return {
        "version": 1, "name": "quick-one", "status": "done",
        "settings": {
            "profile": "quick", "seed": 0, "tasks": ["Smiling", "Young", "Bald"], "epochs": 3},
        "data": {"fingerprint": "f"}, "results": {"top_recall": 0.75},
        "epochs": [
            {"epoch": 1, "loss": 0.3, "seconds": 1.5, "ucr_batches": 9,
             "ucr": [counts(PAIR, 4, 3, 2), counts(OTHER_PAIR, 9, 0, 0)]},
            {"epoch": 2, "loss": 0.2, "seconds": 1.25, "ucr_batches": 9,
             "ucr": [counts(PAIR, 1, 0, 8)]},
            {"epoch": 3, "loss": 0.1, "seconds": 1.0, "ucr_batches": 9,
             "ucr": [counts(PAIR, 6, 2, 1)]},
        ],
        "run": {"git_commit": "unknown"},
    }


def written(folder: Path, record: dict, **changes) -> Path:
    record = record | changes
    write_record(folder / f"{record['name']}.json", record)
    return folder / f"{record['name']}.json"


# Writing

def test_what_is_written_is_read_again(tmp_path, record):
    assert read_record(written(tmp_path / "new/folder", record)) == record


def test_a_file_is_replaced(tmp_path, record):
    written(tmp_path, record)
    path = written(tmp_path, record, status="again")
    assert read_record(path)["status"] == "again"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [{"a": 1, "b": object()}, {"a": 1, "b": float("nan")}])
def test_a_failing_write_leaves_the_old_file(tmp_path, record, content):
    path = written(tmp_path, record)
    with pytest.raises((TypeError, ValueError)):
        write_json(path, content)
    assert read_record(path) == record
    assert list(tmp_path.glob("**/*.json")) == [path]


def test_a_failing_write_leaves_no_file_behind(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "one.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_file_appears_only_when_it_is_whole(tmp_path, record, monkeypatch):
    """Before the rename the content is complete, beside its place, and under no record's name."""
    seen = []

    def look(temporary, path):
        seen.append((json.loads(Path(temporary).read_text()), Path(temporary).parent,
                     list(tmp_path.glob("**/*.json")), path))

    monkeypatch.setattr(whole_files.os, "replace", look)
    path = written(tmp_path, record)
    [(content, *where)] = seen
    assert content | record == content
    assert where == [tmp_path, [], path]


# Reading

def test_a_record_ends_in_a_digest_that_is_not_part_of_it(tmp_path, record):
    path = written(tmp_path, record)
    content = json.loads(path.read_text())
    assert list(content)[-1] == "digest"
    assert content["digest"] == digest_of(record, WITH_RECORD)
    assert read_record(path, signed=True) == record


def test_a_digest_is_sha_256_of_everything_else_with_sorted_keys():
    text = '["with the record",{"a":{"b":1.5},"c":[true,null]}]'
    assert digest_of({"c": [True, None], "a": {"b": 1.5}}, WITH_RECORD) == {
        "sha256": hashlib.sha256(text.encode()).hexdigest(), "written": WITH_RECORD}


@pytest.mark.parametrize(("old", "new"), [
    ('"loss": 0.3', '"loss": 0.2'), ('"negative": 5', '"negative": 4'), ('"seed": 0', '"seed": 1'),
    ('"positive": 4', '"positive": 4.0'), ('"written": "with the record"', '"written": "LATER"'),
    ('"epoch": 2', '"epoch": 1e999'), ('"git_commit": "unknown"', '"git_commit": "abc"'),
    ('"status": "done"', '"status": "done", "more": 1'), ('"sha256": "', '"sha256": "0')])
def test_a_record_that_was_edited_by_hand_is_refused(tmp_path, record, old, new):
    record["epochs"][0]["ucr"][1] = counts(OTHER_PAIR, 4, 5, 0)
    path = written(tmp_path, record)
    assert old in path.read_text()
    new = LATER.join(new.split("LATER"))
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ModlibError, match=r"quick-one\.json was changed after .* fetch the file"):
        read_record(path)


@pytest.mark.parametrize("digest", ["abc", 3, {}, {"sha256": "abc"}, [], {"written": []}])
def test_a_digest_that_is_none_is_refused(tmp_path, record, digest):
    write_json(tmp_path / "one.json", record | {"digest": digest})
    with pytest.raises(ModlibError, match="was changed after"):
        read_record(tmp_path / "one.json")


def test_a_record_of_an_older_run_goes_on_without_a_digest_but_is_not_published(tmp_path, record):
    write_json(tmp_path / "quick-one.json", record)
    assert read_record(tmp_path / "quick-one.json") == record
    with pytest.raises(ModlibError, match=r"has no digest.*call: python tools/sign_records\.py"):
        read_records(tmp_path)


def test_a_published_record_with_a_figure_that_cannot_be_is_refused(tmp_path, record):
    record["results"]["top_recall"] = 75.0
    written(tmp_path, record)
    with pytest.raises(ModlibError, match=r"results\.top_recall is 75\.0; allowed"):
        read_records(tmp_path)


def test_numbers_that_json_does_not_know_are_refused(tmp_path):
    for constant in ("NaN", "Infinity", "-Infinity"):
        (tmp_path / "one.json").write_text(f'{{"a": {constant}}}')
        with pytest.raises(ModlibError, match=rf"cannot be read: {constant} is no number"):
            read_record(tmp_path / "one.json")

@pytest.mark.parametrize("content", [b"", b"not json", b'{"version": 1', b"\xff\xfe\xfa"])
def test_a_file_that_is_not_json_is_named(tmp_path, content):
    (tmp_path / "torn.json").write_bytes(content)
    with pytest.raises(ModlibError, match=r"record .*torn\.json cannot be read"):
        read_record(tmp_path / "torn.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ModlibError, match=r"record .*gone\.json cannot be read"):
        read_record(tmp_path / "gone.json")


@pytest.mark.parametrize("key", RECORD_KEYS)
def test_a_record_without_one_of_its_keys_is_named_with_the_key(tmp_path, record, key):
    path = written(tmp_path, record)
    path.write_text(json.dumps({k: v for k, v in record.items() if k != key}))
    with pytest.raises(ModlibError, match=rf"quick-one\.json lacks {key};"):
        read_record(path)


def test_json_that_is_no_record_is_named(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps(list(RECORD_KEYS)))
    with pytest.raises(ModlibError, match=r"list\.json lacks version, name"):
        read_record(tmp_path / "list.json")


@pytest.mark.parametrize("version", [0, 2, "1"])
def test_a_record_of_another_version_is_named_with_both_versions(tmp_path, record, version):
    path = written(tmp_path, record, version=version)
    with pytest.raises(ModlibError, match=rf"quick-one\.json has version {version}; .* reads 1"):
        read_record(path)


def test_records_come_in_the_order_of_their_names(tmp_path, record):
    for name in ("quick-b", "quick-c", "quick-a"):
        written(tmp_path, record, name=name)
    assert [r["name"] for r in read_records(tmp_path)] == ["quick-a", "quick-b", "quick-c"]


def test_records_are_filtered_by_their_settings(tmp_path, record):
    for name, profile, seed in (("a", "quick", 0), ("b", "quick", 1), ("c", "celeba_gpu", 1)):
        settings = record["settings"] | {"profile": profile, "seed": seed}
        written(tmp_path, record, name=name, settings=settings)

    def names(**wanted):
        return [r["name"] for r in read_records(tmp_path, **wanted)]

    assert names(profile="quick") == ["a", "b"]
    assert names(profile="quick", seed=1) == ["b"]
    assert names(seed=1) == ["b", "c"]
    assert names(seed=2) == []
    assert names(tasks=["Smiling", "Young", "Bald"]) == ["a", "b", "c"]


def test_records_are_filtered_by_tasks_as_settings_hold_them(tmp_path, record):
    written(tmp_path, record)
    assert len(read_records(tmp_path, tasks=("Smiling", "Young", "Bald"))) == 1
    assert read_records(tmp_path, tasks=("Smiling", "Young")) == []


def test_a_folder_that_does_not_exist_holds_no_records(tmp_path):
    assert read_records(tmp_path / "nowhere") == []


def test_only_json_files_are_records(tmp_path, record):
    written(tmp_path, record)
    (tmp_path / "notes.txt").write_text("not a record")
    (tmp_path / ".quick-one.json.17.tmp").write_text("{")
    assert [r["name"] for r in read_records(tmp_path)] == ["quick-one"]


def test_one_broken_record_in_a_folder_is_named(tmp_path, record):
    written(tmp_path, record)
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(ModlibError, match=r"torn\.json"):
        read_records(tmp_path)


# Comparing

def test_times_and_places_do_not_enter_a_comparison(record):
    other = record | {"run": {"git_commit": "abc"},
                      "epochs": [epoch | {"seconds": 9.0} for epoch in record["epochs"]]}
    assert comparable(record) == comparable(other)


@pytest.mark.parametrize("key", [key for key in RECORD_KEYS if key not in ("epochs", "run")])
def test_everything_else_enters_a_comparison(record, key):
    assert comparable(record) != comparable(record | {key: "other"})


@pytest.mark.parametrize("key", ["epoch", "loss", "ucr"])
def test_every_metric_enters_a_comparison(record, key):
    last = record["epochs"][-1] | {key: 0}
    assert comparable(record) != comparable(record | {"epochs": [*record["epochs"][:-1], last]})


def test_comparing_leaves_the_record_alone(record):
    comparable(record)
    assert record["epochs"][0]["seconds"] == 1.5
    assert record["run"] == {"git_commit": "unknown"}


# Update compliance ratio

def test_ucr_counts_add_up_over_epochs_and_records(record):
    assert ucr_counts([record], ("Smiling", "Young")) == {
        "positive": 11, "negative": 5, "zero": 11}
    assert ucr_counts([record, record], ("Smiling", "Young")) == {
        "positive": 22, "negative": 10, "zero": 22}


def test_ucr_counts_do_not_depend_on_the_order_of_the_pair(record):
    assert ucr_counts([record], ("Bald", "Smiling")) == {"positive": 9, "negative": 0, "zero": 0}


def test_ucr_counts_of_chosen_epochs(record):
    assert ucr_counts([record], ("Smiling", "Young"), slice(-2, None)) == {
        "positive": 7, "negative": 2, "zero": 9}


def test_a_pair_that_was_not_counted_has_counts_of_0(record):
    none = {"positive": 0, "negative": 0, "zero": 0}
    assert ucr_counts([record], ("Young", "Bald")) == none
    assert ucr_counts([], ("Smiling", "Young")) == none


@pytest.mark.parametrize(("with_zeros", "count"), [(True, 27), (False, 16)])
def test_pair_ucr_counts_zeros_only_when_asked_to(record, with_zeros, count):
    ucr = pair_ucr([record], ("Smiling", "Young"), with_zeros=with_zeros)
    assert ucr.count == count
    assert ucr.value == pytest.approx(11 / count)
    assert ucr.low < ucr.value < ucr.high


def test_pair_ucr_of_chosen_epochs(record):
    ucr = pair_ucr([record], ("Smiling", "Young"), epochs=slice(2, 3))
    assert (ucr.value, ucr.count) == (pytest.approx(6 / 9), 9)


# Places

@pytest.fixture
def project(tmp_path) -> Path:
    """A folder that looks like the project's root."""
    root = tmp_path / "project"
    for folder in ("modlib", "notebooks/settings"):
        (root / folder).mkdir(parents=True)
    (root / "_toc.yml").touch()
    return root


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As if modlib came from a packages folder and not from a checkout."""
    monkeypatch.setattr(results, "__file__", str(tmp_path / "packages/modlib/results.py"))


@pytest.mark.parametrize("start", [".", "notebooks", "notebooks/settings"])
def test_the_root_is_found_from_within_the_project(project, monkeypatch, start):
    monkeypatch.chdir(project / start)
    assert project_root() == project
    assert resolve("runs/records") == project / "runs/records"


def test_the_book_has_runs_of_its_own(project, monkeypatch):
    """`make book` throws them away; what a user trained lies elsewhere."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("MODLIB_RUNS", "runs/book")
    assert resolve("runs/records") == project / "runs/book/records"
    assert resolve("book/results") == project / "book/results"
    assert resolve("/elsewhere/runs") == Path("/elsewhere/runs")
    recipe = (ROOT / "Makefile").read_text().partition("\nbook:")[2].partition("\n\n")[0]
    assert re.findall(r"rm -rf (.+?)(?:  #|$)", recipe, re.M) == ["runs/book"]
    assert "MODLIB_RUNS=runs/book" in recipe


def test_elsewhere_the_root_is_the_checkout_that_modlib_comes_from(project, monkeypatch):
    monkeypatch.setattr(results, "__file__", str(project / "modlib/results.py"))
    monkeypatch.chdir(project.parent)
    assert project_root() == project
    assert resolve("runs") == project / "runs"


def test_elsewhere_and_without_a_checkout_the_root_is_where_one_is(project, monkeypatch, installed):
    monkeypatch.chdir(project.parent)
    assert project_root() == project.parent
    assert resolve("runs") == project.parent / "runs"


@pytest.mark.parametrize("lacking", ["_toc.yml", "modlib"])
def test_a_folder_with_half_the_signs_is_no_root(project, installed, lacking):
    (project / lacking).rename(project / "renamed")
    assert project_root(project / "notebooks") == project / "notebooks"


def test_the_repository_itself_is_a_root():
    root = Path(__file__).parents[1]
    assert project_root(root / "tests") == root.resolve()


def test_an_absolute_path_stays(project, monkeypatch):
    monkeypatch.chdir(project)
    assert resolve(project.parent / "data") == project.parent / "data"


def test_a_tilde_is_the_users_home(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert resolve("~/data") == tmp_path / "home/data"


def test_records_in_a_relative_folder_are_read_from_the_root(project, record, monkeypatch):
    written(project / "book/results", record)
    monkeypatch.chdir(project / "notebooks")
    assert [r["name"] for r in read_records("book/results")] == ["quick-one"]
