"""Every notebook runs from top to bottom, takes its settings, and goes on where it was stopped."""

import ast
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from modlib.results import comparable, read_record
from modlib.settings import Places, Settings, split_parameters
from modlib.three_attributes import Study, study

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((ROOT / "notebooks/settings").glob("*.yml"))
[STUDY] = (path for path in NOTEBOOKS if path.name.startswith("02"))
PATIENCE = 240  # seconds for one notebook on a busy machine
EPOCHS = 4  # of the runs that are killed, repeated and compared

each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
each_profile = pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)


def code_cells(notebook) -> list[dict]:
    cells = json.loads(notebook.read_text("utf8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells
            if cell["cell_type"] == "code"]


def parameters(notebook) -> dict:
    """What the notebook's parameters cell sets; every value must be a literal."""
    [cell] = [cell for cell in code_cells(notebook)
              if "parameters" in cell["metadata"].get("tags", [])]
    return {node.targets[0].id: ast.literal_eval(node.value)
            for node in ast.parse(cell["source"]).body}


def settings_file(path) -> dict:
    return yaml.safe_load(path.read_text("utf8"))


# Parameters and settings files

@each_notebook
def test_the_parameters_are_settings_places_or_the_studys_own(notebook):
    own, places, shared = split_parameters(parameters(notebook), Study, Places, Settings)
    Study(**own)
    Places(**places)
    Settings(**shared)
    assert shared["profile"] == "quick"


@each_notebook
def test_the_parameters_cell_begins_as_it_is_looked_for(notebook):
    [*others, cell] = [cell for cell in code_cells(notebook)
                       if cell["source"].startswith("# Parameters")]
    assert not others
    assert cell["metadata"]["tags"] == ["parameters"]


def test_the_studys_own_parameters_lay_out_its_runs():
    rows, _ = study(parameters(STUDY))
    assert {name: len(runs) for name, runs in rows.items()} == dict.fromkeys("abcdef", 1)


@each_profile
def test_the_study_takes_every_settings_file(profile):
    rows, _ = study(parameters(STUDY) | settings_file(profile))
    assert {run.profile for runs in rows.values() for run in runs} == {profile.stem}


@each_profile
@each_notebook
def test_a_settings_file_is_of_known_names_and_right_values(notebook, profile):
    """Values that YAML reads as text, such as 1e-3, are refused here."""
    given = parameters(notebook) | settings_file(profile)
    own, places, shared = split_parameters(given, Study, Places, Settings)
    Study(**own)
    Places(**places)
    Settings(**shared)


def test_quick_is_the_notebooks_own_defaults():
    assert study(parameters(STUDY) | settings_file(ROOT / "notebooks/settings/quick.yml")) \
        == study(parameters(STUDY))


# Figures

NOT_DRAWING = {"use_style", "new_axes"}


def draws(cell) -> bool:
    called = set(re.findall(r"\bfigures\.(\w+)\(", cell["source"]))
    return bool(called - NOT_DRAWING) or "draw_headline(" in cell["source"]


@each_notebook
def test_every_figure_has_a_caption_a_name_and_a_text_for_those_who_do_not_see_it(notebook):
    cells = code_cells(notebook)
    drawing = [cell for cell in cells if draws(cell)]
    assert drawing
    assert [cell["source"] for cell in cells if "mystnb" in cell["metadata"]] == [
        cell["source"] for cell in drawing]
    for cell in drawing:
        of_figure = cell["metadata"]["mystnb"]["figure"]
        assert re.fullmatch(r"fig-[a-z0-9-]+", of_figure["name"])
        assert len(of_figure["caption"]) > 20
        assert len(cell["metadata"]["mystnb"]["image"]["alt"]) > 20


def test_every_figure_has_a_name_of_its_own():
    names = [cell["metadata"]["mystnb"]["figure"]["name"] for notebook in NOTEBOOKS
             for cell in code_cells(notebook) if "mystnb" in cell["metadata"]]
    for page in (ROOT / "book").glob("*.md"):
        names += re.findall(r"^ *:?name: (fig-\S+)", page.read_text("utf8"), re.MULTILINE)
    assert len(names) >= len(NOTEBOOKS)
    assert sorted(names) == sorted(set(names))


# Running

@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict:
    """The shell's variables, without progress bars, and with one thread: the cores may be busy."""
    home = tmp_path_factory.mktemp("ipython")
    return os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "IPYTHONDIR": str(home)}


def call(*arguments, cwd, environment) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *map(str, arguments)], cwd=cwd, env=environment,
                          capture_output=True, text=True, timeout=PATIENCE)


# nbval keeps no history of the cells, and there notebook_parameters looks for the parameters.
NBVAL_WITH_HISTORY = """
from nbval.kernel import RunningKernel

def execute_cell_input(self, cell_input, allow_stdin=None):
    return self.kc.execute(cell_input, allow_stdin=allow_stdin, stop_on_error=False)

RunningKernel.execute_cell_input = execute_cell_input
"""
THE_SETTINGS_ARRIVED = """
from modlib.settings import notebook_parameters
assert notebook_parameters(globals())["profile"] == "smoke", notebook_parameters(globals())
"""


@each_notebook
def test_every_cell_runs(notebook, tmp_path, environment):
    for part in ("_toc.yml", "modlib", "book"):  # a project whose runs/ is not the user's
        (tmp_path / part).symlink_to(ROOT / part)
    (tmp_path / "with_history.py").write_text(NBVAL_WITH_HISTORY)
    prepared = tmp_path / notebook.name
    done = call("papermill", "--prepare-only", "-k", "python3", "-f",
                ROOT / "notebooks/settings/smoke.yml", "-y", "device: cpu", notebook, prepared,
                cwd=ROOT, environment=environment)
    assert done.returncode == 0, done.stderr
    content = json.loads(prepared.read_text("utf8"))
    content["cells"].append({"cell_type": "code", "id": "check", "metadata": {}, "outputs": [],
                             "execution_count": None, "source": THE_SETTINGS_ARRIVED})
    prepared.write_text(json.dumps(content))
    done = call("pytest", "-p", "with_history", "-p", "no:cacheprovider", "--nbval-lax",
                "--nbval-current-env", "--nbval-cell-timeout", "120", prepared,
                cwd=tmp_path, environment=environment | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0, done.stdout[-4000:]
    cells = len(code_cells(notebook)) + 2  # papermill's parameters and the check
    assert f" {cells} passed" in done.stdout


class Run:
    """A folder in which papermill runs the study's notebook, as `make run` does."""

    def __init__(self, folder, environment):
        self.folder, self.environment = folder, environment
        self.output = folder / "output.ipynb"
        self.checkpoints = folder / "checkpoints"

    def command(self, **changes) -> list[str]:
        changes = {"epochs": EPOCHS, "device": "cpu", "results_dir": str(self.folder / "records"),
                   "checkpoint_dir": str(self.checkpoints)} | changes
        return ["papermill", "-k", "python3", "--cwd", ".", "-f",
                "notebooks/settings/smoke.yml", "-y", yaml.safe_dump(changes),
                str(STUDY), str(self.output)]

    def papermill(self, **changes) -> subprocess.CompletedProcess:
        return call(*self.command(**changes), cwd=ROOT, environment=self.environment)

    def kill_within(self) -> None:
        """Start, and kill papermill and its kernel at once when a checkpoint appears."""
        papermill = psutil.Popen(
            [sys.executable, "-m", *self.command()], cwd=ROOT, env=self.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + PATIENCE
            while not list(self.checkpoints.glob("*.pt")):
                assert papermill.poll() is None, "it ended without a checkpoint"
                assert time.monotonic() < deadline, "no checkpoint came"
                time.sleep(0.002)
        finally:  # the kernel is no member of papermill's process group
            for process in (*papermill.children(recursive=True), papermill):
                process.kill()
            papermill.wait()

    def records(self) -> dict[str, dict]:
        return {path.stem: read_record(path)
                for path in (self.folder / "records/three_attributes").glob("*.json")}

    def written(self) -> dict[str, int]:
        """When each record and checkpoint was last written."""
        return {path.name: path.stat().st_mtime_ns for path in self.folder.rglob("*")
                if path.is_file() and path != self.output}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, environment) -> Run:
    """The study, run once from start to end."""
    run = Run(tmp_path_factory.mktemp("unbroken"), environment)
    done = run.papermill()
    assert done.returncode == 0, done.stderr[-4000:]
    return run


def test_papermill_runs_the_study_and_leaves_a_record_a_row(unbroken):
    records = unbroken.records().values()
    runs = sorted((r["settings"]["system"], len(r["settings"]["tasks"]),
                   r["settings"]["regulariser_weight"]) for r in records)
    assert runs == [("fully_shared", 2, 0), ("fully_shared", 2, 0), ("fully_shared", 3, 0),
                    ("independent", 3, 0), ("modulated", 3, 0), ("modulated", 3, 0.001)]
    assert {(r["status"], r["settings"]["profile"], len(r["epochs"])) for r in records} == {
        ("done", "smoke", EPOCHS)}
    cells = code_cells(unbroken.output)
    assert all(cell["execution_count"] for cell in cells)
    assert [output for cell in cells for output in cell["outputs"]
            if output["output_type"] == "error"] == []


def test_a_second_call_trains_nothing(unbroken):
    before = unbroken.written()
    done = unbroken.papermill()
    assert done.returncode == 0, done.stderr[-4000:]
    assert unbroken.written() == before
    assert len(before) == 12  # a record and a checkpoint a row


def test_an_unknown_parameter_ends_the_run_with_the_nearest_name(tmp_path, environment):
    run = Run(tmp_path, environment)
    done = run.papermill(epoch=1)
    assert done.returncode != 0
    assert "parameter 'epoch' is not known; did you mean 'epochs'?" in done.stderr
    assert run.written() == {}


def test_a_killed_run_goes_on_and_gives_what_an_unbroken_one_gives(
        unbroken, tmp_path, environment):
    run = Run(tmp_path, environment)
    run.kill_within()
    done_before = run.written()
    half_done = {
        path.stem: torch.load(path, weights_only=True)["history"]
        for path in run.checkpoints.glob("*.pt") if path.stem not in run.records()}
    assert half_done, "it was killed too late: every run had ended"
    done = run.papermill()
    assert done.returncode == 0, done.stderr[-4000:]
    records = run.records()
    for name, history in half_done.items():  # with their seconds: these epochs were not run again
        assert 1 <= len(history) <= EPOCHS
        assert records[name]["epochs"][: len(history)] == history
    assert {name: time for name, time in run.written().items()
            if name in done_before and name.endswith(".json")} == {
        name: time for name, time in done_before.items() if name.endswith(".json")}
    assert {name: comparable(record) for name, record in records.items()} == {
        name: comparable(record) for name, record in unbroken.records().items()}
