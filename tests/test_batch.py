"""Notebooks are run one after the other, whatever becomes of each, and a table says what did."""

import json
import os
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import nbformat
import pytest

from modlib import batch
from modlib.batch import notebooks_for, run_notebook
from modlib.errors import ModlibError
from modlib.executed_copies import executed_copy, status_table
from modlib.settings_files import read_settings, settings_file

ROOT = Path(__file__).resolve().parents[1]
PARAMETERS = "# Parameters: of a test\nseeds = [0]\ndata_root = None\nresults_dir = 'records'"
TRAINS = """
from pathlib import Path
from modlib.experiments import run_many
from modlib.progress import RunBar
from modlib.settings import Places, Settings
print(data_root, Path.cwd().name)
places = Places(results_dir=results_dir, checkpoint_dir="checkpoints", device="cpu")
queue = [Settings(
    toy_images=60, image_size=48, width=0.05, batch_size=9, batches_per_epoch=1, epochs=1,
    test_triplets=20, seed=seed) for seed in seeds]
with RunBar(queue, places) as bar:
    run_many(queue, places, on_epoch=bar.epoch, on_done=bar.done)
"""
FAILS = TRAINS.replace("run_many(queue,", "run_many(queue[:1],") + "raise OSError('no room')"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's folder with two notebooks and settings for both, as the working directory."""
    root = tmp_path / "project"
    settings = root / "notebooks/settings"
    settings.mkdir(parents=True)
    (root / "modlib").symlink_to(ROOT / "modlib")
    (root / "_toc.yml").touch()
    for name, code in (("01_fails", FAILS), ("02_trains", TRAINS)):
        notebook = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}}, cells=[
            nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(code)])
        nbformat.write(notebook, root / "notebooks" / f"{name}.ipynb")
    (settings / "two.yml").write_text("# Two seeds.\n# Notebooks: all\nseeds: [0, 1]\n")
    monkeypatch.chdir(root)
    return root


def called(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["batch", *arguments])
    with pytest.raises(SystemExit) as ended:
        batch.main()
    return ended.value.code


# Where nothing can be written


def test_a_folder_of_copies_that_cannot_be_written_to_is_said(project, monkeypatch, capsys):
    (project / "runs").write_text("a file in the folder's place")
    assert called(monkeypatch, "run", "two", "--notebook", "02") == 2
    said = capsys.readouterr().err
    assert f"the folder of executed copies {project}/runs cannot be written: " in said
    assert "Traceback" not in said


@pytest.mark.parametrize("full", ["open", "write"])
def test_a_disk_that_is_full_for_the_log_is_said(project, monkeypatch, full):
    """``/dev/full`` takes the place of the log, or the system refuses to open it."""
    log = executed_copy(project / "notebooks/02_trains.ipynb", settings_file("two")).with_suffix(
        ".log")
    log.parent.mkdir()
    if full == "open":
        log.mkdir()
    else:
        log.symlink_to("/dev/full")
    with pytest.raises(ModlibError, match=r"the log .*02_trains\.two\.log cannot be written: "):
        run_notebook(project / "notebooks/02_trains.ipynb", settings_file("two"))


# Which notebooks

@pytest.mark.parametrize(("said", "names"), [
    ("all", ["01_fails", "02_trains"]), ("all but 01", ["02_trains"]), ("01", ["01_fails"]),
    ("01 02", ["01_fails", "02_trains"])])
def test_a_settings_file_says_which_notebooks_it_is_for(project, said, names):
    settings_file("two").write_text(f"# Of a test.\n# Notebooks: {said}\nseeds: [0]\n")
    assert [path.stem for path in notebooks_for(settings_file("two"))] == names


@pytest.mark.parametrize("said", ["", "# Notebooks: most\n", "# for all notebooks\n"])
def test_a_settings_file_that_does_not_say_so_is_refused(project, said):
    settings_file("two").write_text(f"{said}seeds: [0]\n")
    with pytest.raises(ModlibError, match=r"two\.yml does not say .*'# Notebooks: all but 10'"):
        notebooks_for(settings_file("two"))


def test_a_notebook_that_there_is_not_is_refused(project):
    settings_file("two").write_text("# Notebooks: all but 07\n")
    with pytest.raises(ModlibError, match=r"notebook of two\.yml: '07' is not known"):
        notebooks_for(settings_file("two"))


@pytest.mark.parametrize("arguments", [("tow",), ("two", "--notebook", "0")])
def test_a_slip_of_the_pen_is_answered_without_a_traceback(
        project, monkeypatch, capsys, arguments):
    assert called(monkeypatch, "run", *arguments) == 2
    said = capsys.readouterr().err
    assert "did you mean 'two'" in said or "'0' must begin the name of exactly one" in said
    assert "Traceback" not in said


def test_a_notebook_that_the_settings_are_not_for_is_refused(project, monkeypatch, capsys):
    settings_file("two").write_text("# Notebooks: 01\nseeds: [0]\n")
    assert called(monkeypatch, "run", "two", "--notebook", "02") == 2
    assert "two.yml is not for notebook 02; it is for 01" in capsys.readouterr().err
    assert not (project / "runs").exists()


def test_settings_that_need_data_say_so_before_anything_runs(project, monkeypatch, capsys):
    settings_file("two").write_text("# Notebooks: all\ndataset: celeba\n")
    assert called(monkeypatch, "run", "two") == 2
    assert "two.yml needs data (celeba): give DATA=/path/to/it" in capsys.readouterr().err
    assert not (project / "runs").exists()


@pytest.mark.parametrize("name", ["two", "two.yml", "notebooks/settings/two.yml"])
def test_settings_may_be_named_by_their_file(project, name):
    assert settings_file(name) == project / "notebooks/settings/two.yml"


@pytest.mark.parametrize(("content", "message"), [
    (b"# Notebooks: all\nseeds: [0\n", "cannot be read as YAML"),
    (b"# Notebooks: all\nday: 2030-02-31\n", "cannot be read as YAML"),
    (b"# Notebooks: all\nseeds: " + b"[" * 2000, "cannot be read as YAML"),
    (b"# Notebooks: all\n- seeds\n", "must map names to values.*given \\['seeds'\\]"),
    (b"# Notebooks: all\n0: 1\n", "must map names to values"),
    (b"# Notebooks: all\nprofile: caf\xe9\n", "cannot be read as text in UTF-8"),
])
def test_a_settings_file_that_is_broken_is_answered_without_a_traceback(
        project, monkeypatch, capsys, content, message):
    settings_file("two").write_bytes(content)
    assert called(monkeypatch, "run", "two") == 2
    said = capsys.readouterr().err
    assert re.search(rf"settings {settings_file('two')} {message}", said)
    assert "Traceback" not in said and not (project / "runs").exists()


def test_a_settings_file_of_comments_alone_has_no_parameters(project):
    settings_file("two").write_text("# Notebooks: all\n")
    assert read_settings(settings_file("two")) == {}
    with pytest.raises(ModlibError, match="cannot be read as text in UTF-8"):
        settings_file("two").write_bytes(b"# Notebooks: all\n# caf\xe9\n")
        notebooks_for(settings_file("two"))


@pytest.mark.parametrize(("changes", "message"), [
    ("seeds", "must map names to values, such as '{epochs: 2, seeds: [0]}'; given seeds"),
    ("{seeds: [0", "cannot be read as YAML"),
    ("{dataset: celeba}", "needs data (celeba)")])
def test_single_parameters_that_are_no_such_are_answered_before_anything_runs(
        project, monkeypatch, capsys, changes, message):
    assert called(monkeypatch, "run", "two", "--set", changes) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not (project / "runs").exists()


# Running them

def test_after_a_notebook_that_fails_comes_the_next_and_a_table_of_both(
        project, monkeypatch, capsys):
    assert called(monkeypatch, "run", "two", "--data", "faces") == 1
    said = capsys.readouterr().out
    assert "OSError: no room" in said
    assert "faces project" in said  # data_root, and the working directory
    assert "\r" not in said
    assert "2/2" in said and "all runs done" in said
    table = status_table(sorted((project / "runs").glob("*.ipynb"))).set_index("notebook")
    assert list(table.state) == ["failed", "done"]
    assert list(table["runs done"]) == ["2", "2"]  # the second notebook has done the same runs
    for name in ("01_fails", "02_trains"):
        assert (project / table["executed copy"][name]).is_file()
        assert (project / table["log"][name]).read_text("utf8") in said
        assert f"runs/{name}.two.ipynb" in said and f"runs/{name}.two.log" in said


def test_a_second_call_trains_nothing_and_ends_well(project, monkeypatch, capsys):
    settings, notebook = settings_file("two"), project / "notebooks/02_trains.ipynb"
    assert run_notebook(notebook, settings, results="mine")
    before = {path: path.stat().st_mtime_ns for path in (project / "mine").iterdir()}
    assert len(before) == 2
    assert called(monkeypatch, "run", "two", "--notebook", "02", "--results", "mine") == 0
    assert {path: path.stat().st_mtime_ns for path in (project / "mine").iterdir()} == before
    capsys.readouterr()
    batch._print_status([executed_copy(notebook, settings)])
    [_, line] = capsys.readouterr().out.strip().splitlines()
    assert line.split()[:5] == ["02_trains", "two", "done", "2", "0"]


def test_single_parameters_override_those_of_the_settings(project, monkeypatch):
    given = ("--notebook", "02", "--results", "mine", "--set", "{seeds: [7]}")
    assert called(monkeypatch, "run", "two", *given) == 0
    [record] = (project / "mine").glob("*.json")
    assert "-seed7-" in record.name


def test_an_interrupt_ends_in_the_table_and_begins_no_other(project):
    sleeps = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}}, cells=[
        nbformat.v4.new_code_cell("import time\nprint('asleep')\ntime.sleep(300)")])
    nbformat.write(sleeps, project / "notebooks/01_fails.ipynb")
    call = subprocess.Popen(
        [sys.executable, "-m", "modlib.batch", "run", "two"], cwd=project, text=True,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        while "asleep" not in (line := call.stdout.readline()):
            assert line, "it ended before it slept"
        os.killpg(call.pid, signal.SIGINT)
        said, _ = call.communicate(timeout=120)
    finally:
        call.kill()
    assert call.returncode == 130
    assert "The same call goes on from here" in said
    assert list(status_table([project / "runs/01_fails.two.ipynb"]).state) == ["stopped"]
    assert not (project / "runs/02_trains.two.ipynb").exists()


# What has come of them

def written(project: Path, outputs: list, **papermill) -> Path:
    """An executed copy whose only cell has these outputs."""
    (project / "runs").mkdir(exist_ok=True)
    copy = project / "runs/01_fails.two.ipynb"
    copy.write_text(json.dumps({"metadata": {"papermill": papermill},
                                "cells": [{"source": [], "outputs": outputs}]}))
    return copy


def error(name: str) -> dict:
    return {"output_type": "error", "ename": name, "evalue": "why", "traceback": []}


@pytest.mark.parametrize(("outputs", "ended", "state"), [
    ([], "2030-01-01", "done"), ([], None, "not finished"), ([error("OSError")], None, "failed"),
    ([error("OSError")], "2030-01-01", "failed"), ([error("Stopped")], "2030-01-01", "stopped")])
def test_the_state_is_told_by_how_the_copy_ends(project, outputs, ended, state):
    [row] = status_table([written(project, outputs, end_time=ended)]).to_dict("records")
    assert row["state"] == state and row["runs done"] == row["runs left"] == row["minutes"] == ""
    assert row["error"] == (f"{outputs[0]['ename']}: why" if outputs else "")


def test_runs_are_counted_by_the_records_that_are_there(project):
    bar = {"output_type": "display_data", "data": {},
           "metadata": {"modlib": {"records": ["records/a.json", "records/b.json"]}}}
    (project / "records").mkdir()
    record = dict.fromkeys(("name", "status", "settings", "data", "results", "epochs"), "")
    (project / "records/b.json").write_text(json.dumps(
        record | {"version": 1, "run": {"training_seconds": 90}}))
    [row] = status_table([written(project, [bar], end_time=None)]).to_dict("records")
    assert (row["runs done"], row["runs left"], row["minutes"]) == ("1", "1", "1.5")


def test_the_status_says_when_the_log_got_its_last_line(project):
    copy = written(project, [], end_time=None)
    assert list(status_table([copy])["last line"]) == [""]
    copy.with_suffix(".log").touch()
    at = datetime(2029, 12, 31, 23, 58).timestamp()
    os.utime(copy.with_suffix(".log"), (at, at))
    assert list(status_table([copy])["last line"]) == ["2029-12-31 23:58"]


def test_a_copy_that_is_being_written_is_not_finished(project):
    copy = written(project, [], end_time="2030-01-01")
    copy.write_text(copy.read_text()[:40])
    assert list(status_table([copy]).state) == ["not finished"]


def test_a_copy_with_a_broken_letter_is_told_as_any(project):
    copy = written(project, [error("OSErré")], end_time="2030-01-01")
    content = json.dumps(json.loads(copy.read_text()), ensure_ascii=False).encode()
    copy.write_bytes(content.replace("é".encode(), b"\xe9"))
    assert list(status_table([copy]).state) == ["failed"]
    copy.write_bytes(content.partition(b"\xa9")[0])  # cut within it, as papermill writes
    assert list(status_table([copy]).state) == ["not finished"]


@pytest.mark.parametrize("content", [
    b"[]", b"{}", b"3", b'{"cells": [3], "metadata": {}}', b'{"cells": [], "metadata": []}',
    b'{"cells": [{"outputs": [{}]}], "metadata": {}}',
    b'{"caf\xe9": 1}', b'{"cells": ' + b"[" * 100_000,
    b'{"cells": [{"outputs": [{"metadata": {"modlib": {"records": [3]}}}]}], "metadata": {}}'])
def test_a_copy_that_is_no_notebook_is_named(project, monkeypatch, capsys, content):
    written(project, []).write_bytes(content)
    assert called(monkeypatch, "status") == 2
    said = capsys.readouterr().err
    assert f"{project}/runs/01_fails.two.ipynb is no notebook" in said
    assert "Traceback" not in said


def test_before_anything_was_run_the_status_says_so(project, capsys):
    batch._print_status([])
    assert "nothing was run yet" in capsys.readouterr().out
