"""The bar over runs: counts what is there and what ends; interrupted, it says how to go on."""

import io
import re
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import torch
from torch import nn

from modlib.checkpoints import save_checkpoint
from modlib.experiments import load_data, run_many
from modlib.kept_runs import checkpoint_path, record_path
from modlib.progress import RunBar, Stopped
from modlib.results import comparable
from modlib.settings import Places, Settings

SETTINGS = Settings(toy_images=60, image_size=48, epochs=5)
RUNS = [replace(SETTINGS, seed=seed) for seed in range(4)]


@pytest.fixture
def places(tmp_path):
    return Places(results_dir=str(tmp_path), checkpoint_dir=str(tmp_path))


def write_record(settings, places):
    path = record_path(settings, places, load_data(settings, places).fingerprint)
    path.write_text("{}")


def write_checkpoint(settings, places, epochs):
    """Of a run that was stopped after so many epochs."""
    fingerprint, network = load_data(settings, places).fingerprint, nn.Linear(1, 1)
    save_checkpoint(
        checkpoint_path(settings, places, fingerprint), settings.run_name(fingerprint), network,
        torch.optim.Adam(network.parameters()), [metrics(n) for n in range(1, epochs + 1)])


def metrics(epoch, loss=0.25, accuracy=(0.5, 0.75)):
    return {"epoch": epoch, "loss": loss,
            "valid_accuracy": {str(n): value for n, value in enumerate(accuracy)}}


def test_what_is_there_is_done_and_does_not_count_for_the_rate(places):
    write_record(RUNS[1], places)
    write_checkpoint(RUNS[2], places, 3)
    shown = io.StringIO()
    with RunBar(RUNS, places, file=shown) as bar:
        assert (bar.n, bar.total, bar.initial) == (8, 20, 8)
        bar.done(RUNS[1], {})
        bar.epoch(RUNS[2], metrics(3))
        assert bar.n == 8
        bar.epoch(RUNS[2], metrics(4))
        assert bar.n == 9
    assert "3 of 4 runs left" in shown.getvalue()


def test_runs_of_another_kind_bring_their_own_data(places):
    data = type("Data", (), {"fingerprint": "of another kind"})
    record_path(RUNS[2], places, "of another kind").write_text("{}")
    with RunBar(RUNS, places, lambda settings, places: data, file=io.StringIO()) as bar:
        assert (bar.n, bar.total) == (5, 20)


def test_it_says_how_well_it_goes_and_when_the_last_run_will_have_ended(places):
    shown = io.StringIO()
    with RunBar(RUNS, places, file=shown, mininterval=0) as bar:
        bar.epoch(RUNS[0], metrics(1))
        assert re.search(r"1/20 .*epoch.* modulated: loss 0\.250, accuracy 62\.5 %; "
                         r"4 of 4 runs left, until about \w{3} \d\d:\d\d", shown.getvalue())
        for one in RUNS:
            bar.done(one, {})
        bar.refresh()
    assert re.search(r"20/20 .*all runs done", shown.getvalue())


def test_the_last_epoch_is_expected_after_as_long_as_each_has_taken(places):
    write_record(RUNS[3], places)
    with RunBar(RUNS, places, file=io.StringIO()) as bar:
        bar.start_t -= 7 * 24 * 3600  # five epochs have taken a week: ten are left
        bar.done(RUNS[0], {})
        assert (datetime.now() + timedelta(weeks=2)).strftime("%a %H") in bar.postfix


def test_a_clock_that_is_set_back_or_forth_does_not_move_the_end(places, monkeypatch):
    with RunBar(RUNS, places, file=io.StringIO()) as bar:
        monkeypatch.setattr("time.time", lambda: 4e9)
        monkeypatch.setattr("tqdm.std.time", lambda: -4e9)
        bar.start_t -= 7 * 24 * 3600
        bar.done(RUNS[0], {})
        assert (datetime.now() + timedelta(weeks=3)).strftime("%a %H") in bar.postfix


def test_without_anything_left_it_says_that_it_was_done_before(places):
    for one in RUNS:
        write_record(one, places)
    with RunBar(RUNS, places, file=io.StringIO()) as bar:
        assert bar.n == 20 and bar.postfix == "all runs were done before"


def test_switched_off_it_is_silent(places):
    shown = io.StringIO()
    with RunBar(RUNS, places, file=shown, disable=True) as bar:
        bar.epoch(RUNS[0], metrics(1))
        bar.done(RUNS[0], {})
    assert not shown.getvalue()


# Interrupted

@pytest.mark.parametrize("disable", [False, True])
def test_an_interrupt_becomes_a_message_that_says_how_it_goes_on(places, disable):
    write_record(RUNS[1], places)
    with pytest.raises(Stopped) as caught, RunBar(
            RUNS, places, file=io.StringIO(), disable=disable):
        write_checkpoint(RUNS[2], places, 4)
        raise KeyboardInterrupt
    assert str(caught.value) == (
        "Stopped. 1 of 4 runs are done and kept. Run this cell again to go on: modulated, seed 2, "
        "goes on after epoch 4 of 5.")
    assert caught.value._render_traceback_() == [str(caught.value)]
    assert caught.value.__suppress_context__


def test_another_error_is_left_as_it_is(places):
    with pytest.raises(ZeroDivisionError), RunBar(RUNS, places, file=io.StringIO()):
        _ = 1 / 0


def test_a_run_that_is_interrupted_goes_on_to_the_same_record(loaded, tiny, places, tmp_path):
    def stop(settings, metrics):
        bar.epoch(settings, metrics)
        raise KeyboardInterrupt

    with pytest.raises(Stopped, match="goes on after epoch 1 of 2"), RunBar(
            [tiny], places, lambda *_: loaded, file=io.StringIO()) as bar:
        run_many([tiny], places, on_epoch=stop)
    with RunBar([tiny], places, lambda *_: loaded, file=io.StringIO()) as bar:
        assert bar.initial == 1
        [record] = run_many([tiny], places, on_epoch=bar.epoch, on_done=bar.done)
        assert bar.n == 2
    [unbroken] = run_many([tiny], replace(places, results_dir=str(tmp_path / "unbroken"),
                                          checkpoint_dir=str(tmp_path / "other")))
    assert comparable(record) == comparable(unbroken)
