"""The bar over runs: counts what is there, what ends, and says when the rest will be done."""

import io
import re
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from modlib.experiments import load_data, record_path
from modlib.progress import RunBar
from modlib.settings import Places, Settings

SETTINGS = Settings(toy_images=60, image_size=48)
RUNS = [replace(SETTINGS, seed=seed) for seed in range(4)]


@pytest.fixture
def places(tmp_path):
    return Places(results_dir=str(tmp_path))


def write_record(settings, places):
    path = record_path(settings, places, load_data(settings, places).fingerprint)
    path.write_text("{}")


def test_runs_that_are_there_are_done_and_do_not_count_for_the_rate(places):
    write_record(RUNS[1], places)
    shown = io.StringIO()
    with RunBar(RUNS, places, file=shown) as bar:
        assert (bar.n, bar.total, bar.initial) == (1, 4, 1)
        bar.done(RUNS[1], {})
        assert bar.n == 1
        bar.done(RUNS[0], {})
        assert bar.n == 2
    assert "1 done before, 3 left" in shown.getvalue()


def test_runs_of_another_kind_bring_their_own_data(places):
    data = type("Data", (), {"fingerprint": "of another kind"})
    record_path(RUNS[2], places, "of another kind").write_text("{}")
    with RunBar(RUNS, places, lambda settings, places: data, file=io.StringIO()) as bar:
        assert (bar.n, bar.total) == (1, 4)


def test_it_says_when_the_last_run_will_have_ended(places):
    shown = io.StringIO()
    with RunBar(RUNS, places, file=shown, mininterval=0) as bar:
        for one in RUNS[:3]:
            bar.done(one, {})
        bar.refresh()
        assert re.search(r"3/4 .*1 left, until about \w{3} \d\d:\d\d", shown.getvalue())
        bar.done(RUNS[3], {})
    assert re.search(r"4/4 .*all done", shown.getvalue())


def test_the_last_run_is_expected_after_as_long_as_each_has_taken(places):
    with RunBar(RUNS, places, file=io.StringIO()) as bar:
        bar.start_t -= 7 * 24 * 3600  # one run has taken a week: three weeks are left
        bar.done(RUNS[0], {})
        assert (datetime.now() + timedelta(weeks=3)).strftime("%a %H") in bar.postfix


def test_a_clock_that_is_set_back_or_forth_does_not_move_the_end(places, monkeypatch):
    with RunBar(RUNS, places, file=io.StringIO()) as bar:
        monkeypatch.setattr("time.time", lambda: 4e9)
        monkeypatch.setattr("tqdm.std.time", lambda: -4e9)
        bar.start_t -= 7 * 24 * 3600
        bar.done(RUNS[0], {})
        assert (datetime.now() + timedelta(weeks=3)).strftime("%a %H") in bar.postfix


def test_without_anything_left_it_says_nothing_of_the_rest(places):
    for one in RUNS:
        write_record(one, places)
    with RunBar(RUNS, places, file=io.StringIO()) as bar:
        assert bar.n == 4 and not bar.postfix


def test_switched_off_it_is_silent(places):
    shown = io.StringIO()
    with RunBar(RUNS, places, file=shown, disable=True) as bar:
        bar.done(RUNS[0], {})
    assert not shown.getvalue()
