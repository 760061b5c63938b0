"""The notebooks run from their cells alone, by papermill, twice, and again after being killed."""

import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from modlib import (
    ablations,
    any_network,
    branching_study,
    later_tasks,
    own_data,
    products,
    three_views,
    time_to_accuracy,
    top_down_study,
    tuning,
    twenty_attributes,
)
from modlib.adaptive_branching import BranchingSettings
from modlib.batch import notebooks_for
from modlib.classifiers import ClassifierSettings
from modlib.parameters import split_parameters
from modlib.results import comparable, read_record
from modlib.settings import Places, Settings
from modlib.studies import Choice
from modlib.task_readers import ReaderSettings
from modlib.three_attributes import Table1Study, study
from modlib.time_to_accuracy import TimeStudy

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PROFILES = sorted((ROOT / "notebooks/settings").glob("*.yml"))
TAKERS = {profile: notebooks_for(profile) for profile in PROFILES}
SMOKE = yaml.safe_load((ROOT / "notebooks/settings/smoke.yml").read_text("utf8"))
TABLE_1 = ROOT / "notebooks/02_three_attributes.ipynb"
ANY_NETWORK = ROOT / "notebooks/07_any_network.ipynb"
SPEED = ROOT / "notebooks/08_speed_and_memory.ipynb"
TOP_DOWN = ROOT / "notebooks/10_top_down.ipynb"
OWN_DATA = ROOT / "notebooks/15_your_own_data.ipynb"
STUDIES = {  # notebooks that lay out a modlib.studies.Study
    "03": twenty_attributes.STUDY, "04": ablations.STUDY, "05": twenty_attributes.STUDY,
    "06": twenty_attributes.STUDY, "09": later_tasks.STUDY, "11": branching_study.STUDY,
    "12": products.STUDY, "13": three_views.STUDY, "14": tuning.STUDY,
    "15": own_data.STUDY}
TUNED = tuning.chosen(tuning.STUDY.published("celeba_cpu_20_tuning"))
LAY_OUTS = {  # the runs of those that decide which parameters or choices count
    "03": lambda values: twenty_attributes.lay_out(values, TUNED)[1],
    "05": lambda values: twenty_attributes.lay_out(values, TUNED)[1],
    "06": lambda values: twenty_attributes.lay_out(values, TUNED)[1],
    "04": lambda values: ablations.lay_out(values)[1],
    "09": lambda values: later_tasks.lay_out(values, TUNED)[0],
    "12": lambda values: products.lay_out(values, TUNED)[0]}
KNOWN = {field.name for cls in (
    Settings, Places, Table1Study, ClassifierSettings, TimeStudy, Choice,
    BranchingSettings, ReaderSettings)
    for field in fields(cls)}
QUIET = os.environ | {"TQDM_DISABLE": "1"}


def places(folder: Path) -> dict[str, str]:
    return {"results_dir": str(folder / "records"), "checkpoint_dir": str(folder / "checkpoints")}


def execute(notebook: Path, output: Path, parameters: dict) -> None:
    papermill.execute_notebook(
        str(notebook), str(output), parameters, cwd=str(ROOT), kernel_name="python3",
        progress_bar=False)


def records(folder: Path, study: str = "three_attributes") -> dict[str, Path]:
    return {path.name: path for path in (folder / "records" / study).glob("*.json")}


def own_parameters(notebook: Path) -> dict:
    """The names and values that the notebook's parameters cell sets."""
    cells = nbformat.read(notebook, 4).cells
    [cell] = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return {node.target.id: ast.literal_eval(node.value) for node in ast.parse(cell.source).body}


# What the cells say

@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_parameter_is_known_and_explained(notebook):
    cells = nbformat.read(notebook, 4).cells
    [cell] = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert cell.source.startswith("# Parameters:")
    assert set(own_parameters(notebook)) <= KNOWN
    told = papermill.inspect_notebook(str(notebook))  # as `papermill --help-notebook` tells them
    assert list(told) == list(own_parameters(notebook))
    types = {"str", "int", "float", "bool", "list"}
    for name, of in told.items():
        assert of["inferred_type_name"].removesuffix(" or None") in types, name
        assert re.search("[a-z]{2}", of["help"]), name


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_reaches_a_file_but_through_modlib(notebook):
    """Whose relative folders start at the project, wherever the kernel does."""
    code = "\n".join(cell.source for cell in nbformat.read(notebook, 4).cells
                     if cell.cell_type == "code" and cell.id != "on-colab")
    names = {part.id if isinstance(part, ast.Name) else part.attr
             for part in ast.walk(ast.parse(re.sub("(?m)^%.*$", "", code)))
             if isinstance(part, ast.Name | ast.Attribute)}
    assert names & {"open", "Path", "read_csv", "to_csv", "savefig", "listdir", "glob"} == set()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_later_cell_sets_a_parameter(notebook):
    """Or running the first cells again, as one does in JupyterLab, would find another value."""
    parameters = set(own_parameters(notebook))
    for cell in nbformat.read(notebook, 4).cells:
        if cell.cell_type != "code" or "parameters" in cell.metadata.get("tags", []):
            continue
        source = "\n".join(line for line in cell.source.splitlines() if line[:1] != "%")
        top = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
        names = {part.id for node in top for part in ast.walk(node)
                 if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        assert names & parameters == set()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_figure_has_a_name_of_its_own_a_caption_and_alt_text(notebook):
    shown = [cell for cell in nbformat.read(notebook, 4).cells
             if cell.cell_type == "code" and re.search(r"figures\.|heat_maps\.", cell.source)
             and "use_style" not in cell.source]
    assert shown
    for cell in shown:
        figure, image = cell.metadata.mystnb.figure, cell.metadata.mystnb.image
        assert len(figure.caption) > 20 and len(image.alt) > 20
    names = [cell.metadata.mystnb.figure.name for path in NOTEBOOKS
             for cell in nbformat.read(path, 4).cells if "mystnb" in cell.metadata]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_asks_shows_checks_and_ends_with_what_to_take_away(notebook):
    cells = nbformat.read(notebook, 4).cells
    headings = [line for cell in cells if cell.cell_type == "markdown"
                for line in cell.source.splitlines() if line.startswith(("# ", "## "))]
    assert headings[0].startswith("# ") and headings[0].endswith("?")
    assert [line[:2] for line in headings[1:]] == ["##"] * (len(headings) - 1)
    assert headings[-2:] == ["## Check against the paper", "## Takeaway"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_picture_comes_before_the_published_numbers(notebook):
    cells = nbformat.read(notebook, 4).cells
    first_picture = next(n for n, cell in enumerate(cells) if "mystnb" in cell.metadata)
    published = ("how_it_ran(", "read_benchmark(", "## Check against the paper")
    first_number = next(n for n, cell in enumerate(cells)
                        if any(shown in cell.source for shown in published))
    assert first_picture < first_number


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_profile_is_accepted_by_the_notebooks_that_it_is_for(notebook, profile, tmp_path):
    if notebook not in TAKERS[profile]:
        pytest.skip("the settings file says that it is for other notebooks")
    values = own_parameters(notebook) | yaml.safe_load(profile.read_text("utf8"))
    if notebook == TOP_DOWN:
        _, runs, _ = top_down_study.lay_out(values)
        assert {one.profile for of_row in runs.values() for one in of_row} == {profile.stem}
        return
    if notebook in (ANY_NETWORK, SPEED):
        runs, _ = (any_network if notebook == ANY_NETWORK else time_to_accuracy).study(values)
        assert {one.profile for of_system in runs.values() for one in of_system} == {profile.stem}
        return
    if notebook == OWN_DATA:
        runs, _ = own_data.lay_out(values | places(tmp_path))
        assert {one.profile for of_row in runs.values() for one in of_row} == {profile.stem}
        return
    if table := STUDIES.get(notebook.stem[:2]):
        lay_out = LAY_OUTS.get(notebook.stem[:2], lambda values: table.lay_out(values)[0])
        assert {one.profile for of_row in lay_out(values).values() for one in of_row} == {
            profile.stem}
        return
    own, where, settings = split_parameters(values, Table1Study, Places, Settings)
    Places(**where)
    assert Settings(**{k: v for k, v in settings.items() if k not in own}).profile == profile.stem


@pytest.mark.parametrize("profile", ["celeba_cpu_20_paper", "celeba_gpu"])
@pytest.mark.parametrize("notebook", [one for one in NOTEBOOKS if one.stem[:2] in LAY_OUTS],
                         ids=lambda path: path.stem)
def test_the_papers_recipe_is_taken_as_it_is(notebook, profile):
    """Whatever the notebook's own parameters are, and whatever was chosen for Adam."""
    [path] = [one for one in PROFILES if one.stem == profile]
    values = own_parameters(notebook) | yaml.safe_load(path.read_text("utf8"))
    runs = LAY_OUTS[notebook.stem[:2]](values)
    for one in (one for of_row in runs.values() for one in of_row):
        assert one.scale_rate_factor == 1
        assert (one.learning_rate, one.margin) == (values["learning_rate"], 0.2)
        own = 60 * len(one.tasks) if one.system == "independent" else values["batch_size"]
        assert one.batch_size == own
        assert (one.shift, one.zoom, one.colour_jitter, one.horizontal_flip) == (0, 0, 0, False)
        assert (one.optimiser, one.batching) == ("adagrad", "triplets")
        assert one.test_triplets == 10_000


@pytest.mark.parametrize("profile", [one for one in PROFILES if TABLE_1 in TAKERS[one]],
                         ids=lambda path: path.stem)
def test_every_profile_lays_out_table_1(profile):
    values = own_parameters(TABLE_1) | yaml.safe_load(profile.read_text("utf8"))
    rows, _ = study(values)
    assert {len(row) for row in rows.values()} == {len(values["seeds"])}


# Running them

def nbval(notebook: Path, folder: Path) -> subprocess.CompletedProcess:
    """The notebook under nbval with the smoke settings; its records go to the folder."""
    prepared = folder / notebook.name
    papermill.execute_notebook(
        str(notebook), str(prepared), SMOKE | places(folder), prepare_only=True,
        kernel_name="python3", progress_bar=False)
    # One thread: threads of several processes that wait for each other wait long.
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env",
         "--nbval-cell-timeout", "120", "-p", "no:cacheprovider", "-q", str(prepared)],
        env=QUIET | {"OMP_NUM_THREADS": "1"}, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_nbval_runs_every_cell(notebook, tmp_path):
    done = nbval(notebook, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    # Its kernel started there, as JupyterLab's starts in notebooks/, and left nothing beside it.
    asked_for = {notebook.name, "records", "checkpoints"}
    if notebook == OWN_DATA:  # it draws an example and takes a network away
        asked_for |= {"example_photos_300_at_48", "example_cache", "weights"}
    assert {path.name for path in tmp_path.iterdir()} <= asked_for
    if notebook == TABLE_1:  # the smoke settings were heard: its runs are where they said
        assert len(records(tmp_path)) == 6
    if notebook == ANY_NETWORK:
        assert len(records(tmp_path, any_network.FOLDER)) == 3
    if notebook == TOP_DOWN:
        assert len(records(tmp_path, "top_down")) == 5
    if notebook == SPEED:
        assert len(records(tmp_path, time_to_accuracy.FOLDER)) == 2
    if table := STUDIES.get(notebook.stem[:2]):
        wanted = own_parameters(notebook)["rows"] or list(table.rows)[:table.quick]
        assert len(records(tmp_path, table.folder)) == len(wanted)


@pytest.mark.parametrize("start", ["", "notebooks"])
def test_a_second_call_trains_nothing_wherever_it_is_started(tmp_path, start):
    execute(TABLE_1, tmp_path / "one.ipynb", SMOKE | places(tmp_path))
    before = {name: path.stat().st_mtime_ns for name, path in records(tmp_path).items()}
    papermill.execute_notebook(
        str(TABLE_1), str(tmp_path / "two.ipynb"), SMOKE | places(tmp_path),
        cwd=str(ROOT / start), kernel_name="python3", progress_bar=False)
    after = {name: path.stat().st_mtime_ns for name, path in records(tmp_path).items()}
    assert len(before) == 6
    assert after == before


def test_the_five_lines_run_as_they_are_pasted(tmp_path):
    """In a new process outside the project, with nothing but what the cell itself brings."""
    [cell] = [cell.source for cell in nbformat.read(ANY_NETWORK, 4).cells
              if "model = insert_modulation(" in cell.source]
    before, _, lines = cell.partition("model = insert_modulation(")
    assert len(lines.strip().splitlines()) == 5
    assert "import" in before and "import" not in lines
    seen = "\nprint(model.tasks, len(adam.state), loss.item())"
    done = subprocess.run([sys.executable, "-c", cell + seen], cwd=tmp_path, capture_output=True,
                          text=True, env=QUIET)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("('Smiling', 'Young') 65 ")  # every parameter was trained
    assert "Warning" not in done.stderr


def test_the_ten_lines_run_as_they_are_pasted(tmp_path):
    """In a new process, in a project of its own, with only the path and the columns put in."""
    [text] = [cell.source for cell in nbformat.read(OWN_DATA, 4).cells
              if "```python" in cell.source]
    lines = text.partition("```python\n")[2].partition("```")[0]
    assert len(list(filter(None, lines.splitlines()))) <= 10
    own_data.write_example(tmp_path / "photos", 150, 64)
    (tmp_path / "modlib").mkdir()
    (tmp_path / "_toc.yml").write_text("")  # so that runs/ is made here
    done = subprocess.run(
        [sys.executable, "-c", lines.replace("/path/to/photos", str(tmp_path / "photos"))],
        cwd=tmp_path, capture_output=True, text=True,
        env=QUIET | {"MODLIB_CACHE_DIR": str(tmp_path / "cache")})
    assert done.returncode == 0, done.stderr[-3000:]
    assert ast.literal_eval(done.stdout).keys() == {"Smiling", "Hair"}
    assert sorted(path.name for path in (tmp_path / "runs/weights").iterdir()) == [
        "mine.json", "mine.onnx", "mine.safetensors"]


def test_a_mistyped_parameter_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'epochs'"):
        execute(TABLE_1, tmp_path / "x.ipynb", SMOKE | places(tmp_path) | {"epoch": 3})
    assert records(tmp_path) == {}


def test_a_killed_call_goes_on_to_the_same_records(tmp_path):
    longer = SMOKE | {"epochs": 4, "batches_per_epoch": 6}
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    settings = tmp_path / "settings.yml"
    settings.write_text(yaml.safe_dump(longer | places(broken)))
    command = [sys.executable, "-m", "papermill", str(TABLE_1), str(tmp_path / "x.ipynb"), "-k",
               "python3", "--cwd", str(ROOT), "-f", str(settings), "--no-progress-bar"]
    call = subprocess.Popen(command, env=QUIET, cwd=ROOT, start_new_session=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kernels = []
    try:
        deadline = time.monotonic() + 300
        while not list((broken / "checkpoints").glob("*.pt")):
            assert call.poll() is None and time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.05)
        kernels = children(call.pid)
    finally:
        for process in [call.pid, *kernels]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        call.wait()
    done_before = len(records(broken))
    assert done_before < 6
    execute(TABLE_1, tmp_path / "again.ipynb", longer | places(broken))
    execute(TABLE_1, tmp_path / "unbroken.ipynb", longer | places(unbroken))
    assert set(records(broken)) == set(records(unbroken)) and len(records(broken)) == 6
    for name, path in records(broken).items():
        assert comparable(read_record(path)) == comparable(read_record(records(unbroken)[name]))


def children(parent: int) -> list[int]:
    """The processes that a process has started: papermill's kernel is a session of its own."""
    if not shutil.which("pgrep"):
        pytest.skip("pgrep is not installed")
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]
