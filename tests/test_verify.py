"""An altered record is found out; another kind of device is forgiven a little, and no more."""

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest

from modlib import verify as module
from modlib.arrays import from_json, to_json
from modlib.errors import ModlibError
from modlib.experiments import run
from modlib.results import read_records, resolve, write_record
from modlib.verify import (
    COUNT_TOLERANCE,
    FOLDER,
    SAMPLE,
    SHARE_TOLERANCE,
    TOLERANCE,
    differences,
    same_kind,
    settings_of,
    verify,
)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified")
    settings = replace(SAMPLE[0], toy_images=150, epochs=1, batches_per_epoch=1)
    places = module.Places(results_dir=str(folder / "r"), checkpoint_dir=str(folder / "c"),
                           device="cpu")
    return run(settings, places)


@pytest.fixture
def altered(record):
    return copy.deepcopy(record)


def found_at(record, altered, exactly: bool) -> list[str]:
    return [one.where for one in differences(record, altered, exactly)]


def test_a_record_that_was_not_touched_comes_out_again_to_the_last_digit(record):
    assert verify(record) == (True, [])


def test_a_last_digit_that_was_altered_is_found_by_running_again(record, altered):
    loss = altered["epochs"][0]["loss"]
    altered["epochs"][0]["loss"] = float(np.nextafter(loss, 1))
    exactly, [difference] = verify(altered)
    assert exactly and difference.where == "epochs/0/loss" and difference.found == loss
    assert str(loss) in str(difference)


def test_of_another_kind_of_device_a_last_digit_is_forgiven(record, altered):
    altered["epochs"][0]["loss"] += TOLERANCE / 2
    altered["run"]["processor"] = "another"
    assert verify(altered) == (False, [])


@pytest.mark.parametrize(("part", "tolerance"), [
    (lambda one: (one["epochs"][0], "loss"), TOLERANCE),
    (lambda one: (one["epochs"][0]["task_losses"], "Young"), TOLERANCE),
    (lambda one: (one["epochs"][0]["ucr"][0], "mean_cosine"), TOLERANCE),
    (lambda one: (one["epochs"][0]["valid_accuracy"], "Young"), SHARE_TOLERANCE),
    (lambda one: (one["results"]["retrieval"]["Young"], "mAP"), SHARE_TOLERANCE),
    (lambda one: (one["epochs"][0]["ucr"][0], "positive"), COUNT_TOLERANCE),
])
def test_a_number_may_differ_by_its_tolerance_and_no_more(record, altered, part, tolerance):
    holder, key = part(altered)
    before = holder[key]
    holder[key] = before + tolerance * (1 if isinstance(before, int) else 0.99)
    assert found_at(record, altered, exactly=False) == []
    assert len(found_at(record, altered, exactly=True)) == 1
    holder[key] = before + (tolerance + 1 if isinstance(before, int) else 1.01 * tolerance)
    assert len(found_at(record, altered, exactly=False)) == 1


@pytest.mark.parametrize("change", [
    lambda one: one["settings"].update(seed=9),
    lambda one: one["data"].update(fingerprint="other"),
    lambda one: one["epochs"][0].update(images=1),
    lambda one: one["results"]["parameters"].update(total=1),
    lambda one: one["results"].pop("scales"),
    lambda one: one["results"].update(more=1),
    lambda one: one["epochs"].append(one["epochs"][0]),
    lambda one: one["epochs"][0].update(loss=None),
])
def test_what_no_device_may_change_must_be_equal(record, altered, change):
    change(altered)
    assert found_at(record, altered, exactly=True)
    assert found_at(record, altered, exactly=False)


def test_arrays_are_compared_by_their_numbers(record, altered):
    scales = from_json(record["results"]["scales"]["fc"])
    for change, alike in ((0.5 * TOLERANCE, True), (2 * TOLERANCE, False)):
        changed = scales.copy()
        changed[0, 0] += change
        altered["results"]["scales"]["fc"] = to_json(changed)
        assert (found_at(record, altered, exactly=False) == []) is alike
        assert found_at(record, altered, exactly=True) == ["results/scales/fc"]
    altered["results"]["scales"]["fc"] = to_json(scales[:, :-1])
    assert found_at(record, altered, exactly=False) == ["results/scales/fc"]


def test_answers_to_triplets_are_compared_by_the_share_that_turned_round(record, altered):
    where = next(key for key, value in record["results"]["test_triplets"].items()
                 if isinstance(value, dict))
    answers = from_json(record["results"]["test_triplets"][where])
    for share, alike in ((SHARE_TOLERANCE / 2, True), (2 * SHARE_TOLERANCE, False)):
        changed = answers.copy()
        changed.flat[: int(share * answers.size)] ^= True
        altered["results"]["test_triplets"][where] = to_json(changed)
        assert (found_at(record, altered, exactly=False) == []) is alike


@pytest.mark.parametrize("change", [
    lambda run: run.update(processor="another"), lambda run: run.pop("processor"),
    lambda run: run.update(device="cpu (2 threads of 2 cores)"),
    lambda run: run["versions"].update(torch="1.0"),
    lambda run: run["versions"].update(numpy="1.0"),
])
def test_a_kind_of_device_is_its_processor_threads_and_versions(record, altered, change):
    altered["run"]["training_seconds"] = 99
    altered["run"]["device"] = record["run"]["device"].split(" of ")[0] + " of 99 cores)"
    assert same_kind(altered["run"], record["run"])
    change(altered["run"])
    assert not same_kind(altered["run"], record["run"])


def test_what_cannot_be_repeated_is_named(altered):
    altered["settings"]["dataset"] = "celeba"
    with pytest.raises(ModlibError, match=r"needs data: 'celeba'; allowed: toy_faces"):
        verify(altered)
    altered["settings"]["thinness"] = 32
    with pytest.raises(ModlibError, match="cannot be run again"):
        settings_of(altered)


def test_the_sample_is_written_from_a_clean_commit_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "git_commit", lambda: f"{'a' * 40}-dirty")
    with pytest.raises(ModlibError, match=r"clean commit .*-dirty"):
        module.write_sample(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("change", "code"), [(0.0, 0), (1.0, 1)])
def test_the_command_exits_with_1_where_a_record_was_altered(
        altered, tmp_path, monkeypatch, capsys, change, code):
    altered["epochs"][0]["loss"] += change
    write_record(tmp_path / "one.json", altered)
    monkeypatch.setattr(sys, "argv", ["verify", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit) as exit_:
        module.main()
    printed = capsys.readouterr()
    assert exit_.value.code == code
    assert altered["name"] in printed.out
    assert ("epochs/0/loss" in printed.err) is bool(code)


def test_the_committed_sample_is_whole_and_clean():
    records = read_records(FOLDER)
    assert {settings_of(record) for record in records} == set(SAMPLE)
    for record in records:
        assert (resolve(FOLDER) / f"{record['name']}.json").exists()
        assert len(record["run"]["git_commit"]) == 40  # not -dirty
        assert record["run"]["processor"]


def again(record) -> None:
    """Run a committed record again: it comes out the same, as far as this machine can tell."""
    exactly, found = verify(record)
    assert found == [], f"{record['name']}, {'exactly' if exactly else 'within tolerances'}"


def test_a_committed_record_comes_out_again():
    [record] = [one for one in read_records(FOLDER) if settings_of(one) == SAMPLE[1]]
    again(record)
    record["epochs"][-1]["loss"] += 1.01 * TOLERANCE  # and one with another figure does not
    with pytest.raises(AssertionError, match="epochs/1/loss"):
        again(record)


@pytest.mark.soak
@pytest.mark.parametrize("settings", SAMPLE, ids=lambda one: f"{type(one).__name__}-{one.system}")
def test_every_committed_record_of_the_sample_comes_out_again(settings):
    [record] = [one for one in read_records(FOLDER) if settings_of(one) == settings]
    again(record)
