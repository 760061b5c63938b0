"""What comes from outside is data: it is never run, and nothing is written where nobody asked."""

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import small_celeba
import torch
from test_environment import OUTER, checkout, make, needs_make  # noqa: F401  # a fixture
from torch import nn

from modlib import image_files
from modlib.checkpoints import load_checkpoint
from modlib.datasets import load_celeba
from modlib.errors import ModlibError
from modlib.image_files import Files
from modlib.packed_images import HEADER_BYTES, header_bytes, open_images
from modlib.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from lock_age import AUDIT, lock_date, statement  # noqa: E402

# The source: nothing in it runs what it reads.

RUNNERS = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "tarfile", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load",
         "yaml.full_load", "pd.read_pickle", "pandas.read_pickle", "shutil.unpack_archive",
         "torch.hub.load", "torch.jit.load"}
METHODS = {"extract", "extractall", "read_pickle"}
NEEDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False),
          "numpy.load": ("allow_pickle", False)}


def offences(source: str) -> list[str]:
    """What in a program could run what it reads, or write where an archive says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [
                alias.name for alias in node.names]
            found += [name for name in names if name.split(".")[0] in RUNNERS]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        wanted = NEEDED.get(called)
        if called in CALLS or called.rpartition(".")[2] in METHODS:
            found.append(called)
        if "shell" in given and given["shell"] is not False:
            found.append(f"{called} with a shell")
        if wanted and (wanted[0] not in given or given[wanted[0]] is not wanted[1]):
            found.append(f"{called} without {wanted[0]}={wanted[1]}")
    return found


def sources() -> dict[str, str]:
    """Every program of the project: modules, benchmarks, tools, and each notebook's cells."""
    found = {str(path.relative_to(ROOT)): path.read_text("utf8")
             for folder in ("modlib", "benchmarks", "tools")
             for path in sorted((ROOT / folder).glob("*.py"))}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf8"))["cells"]
        found[path.name] = "\n".join(
            "\n".join(line for line in "".join(cell["source"]).splitlines()
                      if not line.startswith(("%", "!")))
            for cell in cells if cell["cell_type"] == "code")
    return found


def test_no_program_of_the_project_runs_what_it_reads():
    programs = sources()
    assert len(programs) > 90
    assert {name: bad for name, text in programs.items() if (bad := offences(text))} == {}


@pytest.mark.parametrize("source", [
    "import pickle", "from pickle import loads", "import joblib", "eval(text)", "exec(text)",
    "os.system(f'ls {x}')", "subprocess.run(x, shell=True)", "subprocess.run(x, shell=y)",
    "yaml.load(text)", "torch.load(path)", "torch.load(path, weights_only=False)",
    "torch.load(path, weights_only=safe)", "np.load(path)", "np.load(path, allow_pickle=True)",
    "archive.extractall(folder)", "shutil.unpack_archive(path)", "pd.read_pickle(path)"])
def test_each_way_of_running_what_is_read_would_be_found(source):
    assert offences(source)


def test_what_is_safe_is_no_offence():
    assert not offences("torch.load(p, weights_only=True); np.load(p, allow_pickle=False)\n"
                        "yaml.safe_load(t); subprocess.run(['ls', x]); model.eval()")


# Files that would run something


class Evil:
    """Unpickled anywhere, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_malicious_checkpoint_is_refused_and_does_nothing(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "run.pt"
    torch.save({"identity": "it", "network": Evil(mark), "optimiser": {}, "history": []}, path)
    network = nn.Linear(1, 1)
    with pytest.raises(ModlibError, match=r"run\.pt cannot be read .*delete it") as caught:
        load_checkpoint(path, "it", network, torch.optim.SGD(network.parameters()))
    assert "weights_only" not in str(caught.value)  # no advice to load it all the same
    assert not mark.exists()
    torch.load(path, weights_only=False)  # it would have
    assert mark.exists()


def test_a_malicious_cache_is_refused_and_does_nothing(tmp_path):
    mark, path, index = tmp_path / "mark", tmp_path / "a.images", tmp_path / "index.npz"
    np.savez(index, notes=np.array("{}"), ids=np.array([Evil(mark)], object))
    path.write_bytes(header_bytes({
        "format": 1, "identity": "it", "image_size": 16, "count": 1, "pixel_digest": "0" * 64,
        "index_bytes": index.stat().st_size}) + bytes(3 * 16 * 16) + index.read_bytes())
    assert path.read_bytes()[HEADER_BYTES] == 0
    with pytest.raises(ModlibError, match="cannot be opened as packed images"):
        open_images(path, "it", 16)
    assert not mark.exists()


# Archives


@pytest.mark.parametrize("name", [
    "../evil.jpg", "a/../../evil.jpg", "/tmp/evil.jpg", "C:/evil.jpg", "C:evil.jpg",
    r"..\evil.jpg", r"\\host\share\evil.jpg"])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    (tmp_path / "evil.jpg").touch()
    (tmp_path / "inner").mkdir()
    small_celeba.write(tmp_path, {"a.zip": small_celeba.zipped({name: b"x"})})
    for where in (tmp_path / "inner", tmp_path / "a.zip"):
        with pytest.raises(ModlibError, match="leads out of"):
            Files(where).read(name)


def test_an_archive_writes_nothing_outside_the_cache(tmp_path):
    """Names that lead out, and a link to the outside, among those of good images."""
    out = tmp_path / "out"
    small_celeba.write(out, {"a.zip": small_celeba.zipped(small_celeba.official())})
    with zipfile.ZipFile(out / "a.zip", "a") as archive:
        for name in ("../evil.txt", "/evil.txt", r"C:\evil.txt"):
            archive.writestr(name, "x")
        link = zipfile.ZipInfo("img_align_celeba/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "../../../evil")
    before = {path for path in tmp_path.rglob("*")}
    load_celeba(out / "a.zip", image_size=16, cache_dir=tmp_path / "cache", progress=False)
    new = {path for path in tmp_path.rglob("*")} - before
    assert new == {tmp_path / "cache", *(tmp_path / "cache").glob("celeba-*.images*")}


def test_a_file_that_would_unpack_to_gigabytes_is_refused_unread(tmp_path, monkeypatch):
    small_celeba.write(tmp_path, {"a.zip": small_celeba.zipped(small_celeba.official())})
    assert image_files.MOST_BYTES == 2**28
    files = Files(tmp_path / "a.zip")
    size = len(files.read("list_attr_celeba.txt"))
    monkeypatch.setattr(image_files, "MOST_BYTES", size)
    assert len(files.read("list_attr_celeba.txt")) == size
    monkeypatch.setattr(image_files, "MOST_BYTES", size - 1)
    with pytest.raises(ModlibError, match=r"list_attr_celeba\.txt .* would unpack to .* GB"):
        files.read("list_attr_celeba.txt")


# What is written

RUN = """
import json, os, sys

def look(event, arguments):
    if event == "open" and isinstance(arguments[0], str | bytes):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(os.path.abspath(os.fsdecode(arguments[0])))
    elif event in ("os.mkdir", "os.rename", "os.link", "os.symlink"):
        written.extend(os.path.abspath(os.fsdecode(one)) for one in arguments[:2]
                       if isinstance(one, str | bytes))
    elif event == "socket.connect":
        connections.append(arguments[1])

written, connections = [], []
sys.addaudithook(look)
from modlib.experiments import run
from modlib.settings import Places, Settings
run(Settings(**json.loads(sys.argv[1])), Places(**json.loads(sys.argv[2])))
print(json.dumps([sorted(set(written)), list(map(str, connections))]))
"""


def test_a_run_writes_records_checkpoints_and_the_cache_and_nothing_else(tmp_path, tiny):
    """Whatever file a training opens to write to, anywhere; it opens no connection either."""
    home, project, data = (tmp_path / name for name in ("home", "project", "data"))
    for folder in (home, project / "modlib", tmp_path / "tmp"):
        folder.mkdir(parents=True)
    (project / "_toc.yml").touch()
    small_celeba.write(data, small_celeba.official())
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    settings = Settings(**asdict(tiny) | {
        "dataset": "celeba", "tasks": ("Smiling", "Young"), "batch_size": 6, "test_triplets": 5})
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(asdict(settings)),
         json.dumps({"data_root": str(data), "device": "cpu"})],
        cwd=project, capture_output=True, text=True, check=False,
        env=os.environ | {
            "HOME": str(home), "TMPDIR": str(tmp_path / "tmp"), "TQDM_DISABLE": "1",
            "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "MODLIB_CACHE_DIR": ""})
    assert done.returncode == 0, done.stderr
    written, connections = json.loads(done.stdout.splitlines()[-1])
    allowed = (project / "runs", home / ".cache", tmp_path / "tmp", Path(os.devnull))
    outside = [path for path in written
               if not any(Path(path).is_relative_to(folder) for folder in allowed)
               # Folders, left empty, that torch and matplotlib make when they are imported.
               and not Path(path).name.startswith("torchinductor_")
               and not (home / ".config/matplotlib").is_relative_to(path)]
    assert outside == []
    assert connections == []
    left = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")
            if path.is_file()} - {
                "data", "data/img_align_celeba", "project", "home/.cache/matplotlib"}  # its fonts
    assert left == {"project/runs/records", "project/runs/checkpoints", "home/.cache/modlib"}
    assert before == {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}


# The Makefile

HOSTILE = ["a folder", "$(shell touch mark)", "$(touch mark)", "`touch mark`", "; touch mark;",
           '"; touch mark; "', "'; touch mark; '", "a & touch mark", "$${IFS}", "a | touch mark",
           "$$(touch mark)", "#mark", "a%b"]


@needs_make
@pytest.mark.parametrize("name", HOSTILE)
def test_a_folders_name_is_a_name_and_no_command(checkout, name):  # noqa: F811
    (checkout / "data" / name).mkdir(parents=True)
    process, calls = make(checkout, "run", "NB=02", f"DATA=data/{name}", f"RESULTS={name}")
    assert process.returncode == 0, process.stderr
    assert calls[-1].endswith(f"--data data/{name} --results {name}")
    process, calls = make(checkout, "data", f"NAME={name}", f"DATA=data/{name}", f"MIRROR={name}")
    assert calls[-1] == f"-m modlib.download {name} data/{name} --mirror {name}"
    process, calls = make(checkout, "bench", f"DATA=data/{name}")
    assert calls[-1] == f"benchmarks/run.py --data data/{name}"
    assert not (checkout / "mark").exists()


@needs_make
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("variable", ["NB", "SETTINGS", "DATA"])
def test_what_is_no_notebook_settings_or_folder_is_refused(checkout, variable, name):  # noqa: F811
    given = {"NB": "02", "SETTINGS": "quick"} | {variable: name}
    process, calls = make(checkout, "run", *(f"{key}={value}" for key, value in given.items()))
    assert process.returncode != 0
    assert f"make run: {variable}='{name}'" in process.stderr
    assert calls == [] and not (checkout / "mark").exists()


@needs_make
def test_variables_of_the_environment_are_no_commands_either(checkout):  # noqa: F811
    name = "$(shell touch mark)"
    (checkout / name).mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in OUTER}
    subprocess.run(["make", "PYTHON=./stand-in", "run", "NB=02"], cwd=checkout, check=True,
                   env=environment | {"DATA": name}, capture_output=True)
    assert f"--data {name}\n" in (checkout / "calls").read_text()
    assert not (checkout / "mark").exists()


@needs_make
def test_settings_are_those_of_the_project(checkout):  # noqa: F811
    (checkout / "mine.yml").touch()
    process, calls = make(checkout, "run", "NB=02", "SETTINGS=../../mine")
    assert process.returncode != 0 and calls == []


# The lock


def test_the_locks_age_is_told(tmp_path):
    assert statement(date(2025, 3, 1), date(2025, 3, 31)) == (
        "requirements.lock was resolved on 2025-03-01, 30 days ago. With a network, ask for known "
        f"faults: {AUDIT}")
    assert "git does not know" in statement(lock_date(tmp_path), date(2025, 3, 31))


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_locks_date_is_that_of_its_last_commit(tmp_path):
    (tmp_path / "requirements.lock").touch()
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a lock"]):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b",
                        *command], check=True, env=os.environ | {
                            "GIT_COMMITTER_DATE": "2025-03-01T12:00:00"})
    assert lock_date(tmp_path) == date(2025, 3, 1)
