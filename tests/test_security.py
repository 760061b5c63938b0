"""What comes from outside is data: it is never run, and nothing is written where nobody asked."""

import ast
import json
import os
import re
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

RUNNERS = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "tarfile", "jsonpickle",
           "pty", "commands"}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput",
         "subprocess.getstatusoutput", "asyncio.create_subprocess_shell", "yaml.load",
         "yaml.load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "yaml.full_load",
         "yaml.full_load_all", "pandas.read_pickle", "shutil.unpack_archive", "torch.hub.load",
         "torch.jit.load"}
FAMILIES = ("os.exec", "os.spawn", "os.posix_spawn")  # and whatever ends their names
METHODS = {"extract", "extractall", "read_pickle"}
NEEDED = {"torch.load": ("weights_only", True), "numpy.load": ("allow_pickle", False)}
SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "cmd", "cmd.exe", "powershell"}


def full_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: np → numpy, load → torch.load."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name.split(".")[0]:
                      alias.name if alias.asname else alias.name.split(".")[0]
                      for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}"
                      for alias in node.names}
    return found


def resolved(node: ast.expr, names: dict[str, str]) -> str:
    """A name, or the attribute of one, by its full name."""
    first, dot, rest = ast.unparse(node).partition(".")
    return (names.get(first, first) + dot + rest).removeprefix("builtins.")


def is_shell(node: ast.AST) -> bool:
    """Whether a list or tuple begins with a shell that is told to read the next text."""
    words = [getattr(one, "value", None) for one in getattr(node, "elts", ())[:2]]
    return (len(words) == 2 and Path(str(words[0])).name in SHELLS
            and str(words[1]).lower().lstrip("-/") in ("c", "lc", "ec", "command", "k"))


def offences(source: str) -> list[str]:
    """What in a program could run what it reads, or write where an archive says."""
    tree, found = ast.parse(source), []
    names = full_names(tree)
    found += [name for name in names.values() if name.split(".")[0] in RUNNERS]
    for node in ast.walk(tree):
        if isinstance(node, ast.List | ast.Tuple) and is_shell(node):
            found.append(ast.unparse(node))
        if isinstance(node, ast.Name | ast.Attribute):  # as it is called, or given away to be
            name = resolved(node, names)
            if name in CALLS or name.startswith(FAMILIES):
                found.append(name)
        if not isinstance(node, ast.Call):
            continue
        called = resolved(node.func, names)
        given = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
        wanted = NEEDED.get(called)
        if called.rpartition(".")[2] in METHODS:
            found.append(called)
        if "shell" in given and given["shell"] is not False:
            found.append(f"{called} with a shell")
        if wanted and (wanted[0] not in given or given[wanted[0]] is not wanted[1]):
            found.append(f"{called} without {wanted[0]}={wanted[1]}")
    return found


CELL = re.compile(r"^```\{code-(?:cell|block)\} i?python3?\n(?:---\n.*?^---\n)?(.*?)^```",
                  re.DOTALL | re.MULTILINE)


def python_of(cells: list[str]) -> str:
    """The cells' code, without options of cells and lines that are IPython's own."""
    return "\n".join(line for cell in cells for line in cell.splitlines()
                     if not line.startswith(("%", ":")))


def sources() -> dict[str, str]:
    """Every program of the project: modules, benchmarks, tools, cells of notebooks and pages."""
    found = {str(path.relative_to(ROOT)): path.read_text("utf8")
             for folder in ("modlib", "benchmarks", "tools")
             for path in sorted((ROOT / folder).glob("*.py"))}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf8"))["cells"]
        found[path.name] = python_of(
            ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"])
    for path in sorted((ROOT / "book").glob("*.md")):
        if cells := CELL.findall(path.read_text("utf8")):
            found[path.name] = python_of(cells)
    return found


def test_no_program_of_the_project_runs_what_it_reads():
    programs = sources()
    assert len(programs) > 90
    assert {"many_machines.md", "claims.md", "02_three_attributes.ipynb"} <= programs.keys()
    assert {name: bad for name, text in programs.items() if (bad := offences(text))} == {}


@pytest.mark.parametrize("source", [
    "import pickle", "from pickle import loads", "import joblib", "eval(text)", "exec(text)",
    "os.system(f'ls {x}')", "subprocess.run(x, shell=True)", "subprocess.run(x, shell=y)",
    "yaml.load(text)", "torch.load(path)", "torch.load(path, weights_only=False)",
    "torch.load(path, weights_only=safe)", "import numpy as np\nnp.load(path)",
    "archive.extractall(folder)", "shutil.unpack_archive(path)",
    "import pandas as pd; pd.read_pickle(path)",
    # by another name
    "from torch import load\nload(path)", "from torch import load as get\nget(path)",
    "import torch as t\nt.load(path)", "from numpy import load\nload(path)",
    "import numpy as np\nnp.load(path, allow_pickle=True)", "from os import system\nsystem(x)",
    "from os import system as run\nrun(x)", "import os as o\no.popen(x)",
    "from yaml import load\nload(text)", "import builtins\nbuiltins.eval(x)",
    "from subprocess import getoutput\ngetoutput(x)", "run = eval", "map(os.system, commands)",
    # a program, or a module, in the place of this one
    "subprocess.getoutput(x)", "subprocess.getstatusoutput(x)", "os.execv(x, y)", "os.execlp(x)",
    "os.spawnl(os.P_WAIT, x)", "os.spawnvpe(0, x, y, z)", "os.posix_spawn(x, y, z)",
    "from os import execvp\nexecvp(x, y)", "__import__(name)", "__import__('os').system(x)",
    "import pty",
    # a shell by its own name
    "subprocess.run(['sh', '-c', x])", "subprocess.run(('bash', '-c', f'ls {x}'))",
    "command = ['/bin/sh', '-c', x]", "subprocess.run(['bash', '-lc', x])",
    "subprocess.run(['cmd.exe', '/c', x])"])
def test_each_way_of_running_what_is_read_would_be_found(source):
    assert offences(source)


def test_what_is_safe_is_no_offence():
    assert not offences("import numpy as np\nfrom torch import load\nload(p, weights_only=True)\n"
                        "torch.load(p, weights_only=True); np.load(p, allow_pickle=False)\n"
                        "yaml.safe_load(t); subprocess.run(['ls', x]); model.eval()\n"
                        "re.compile(x); torch.compile(f); names = ['sh', 'is', 'a name']")


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
    process, calls = make(
        checkout, "run", "NB=02", f"DATA=data/{name}", f"RESULTS={name}", f"SET={name}")
    assert process.returncode == 0, process.stderr
    assert calls[-1].endswith(f"--data data/{name} --results {name} --set {name}")
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


def test_without_git_the_locks_age_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lock_date(tmp_path) is None


def test_the_page_of_promises_shows_the_locks_age_and_the_command():
    """As its cell makes it, wherever the page is built from."""
    page = (ROOT / "book/promises.md").read_text("utf8")
    [cell] = [cell for cell in CELL.findall(page) if "lock_age" in cell]
    code, _, shown = python_of([cell]).rstrip().rpartition("\n\n")
    done = subprocess.run([sys.executable, "-c", f"{code}\nprint(({shown}).data)"], check=True,
                          cwd=ROOT / "book", env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True)
    assert done.stdout.startswith("requirements.lock was resolved ")
    assert done.stdout.endswith(f".\n\n    {AUDIT}\n\n")
    assert "`.venv/bin/python tools/lock_age.py`" in page


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_the_locks_date_is_that_of_its_last_commit(tmp_path):
    (tmp_path / "requirements.lock").touch()
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "a lock"]):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b",
                        *command], check=True, env=os.environ | {
                            "GIT_COMMITTER_DATE": "2025-03-01T12:00:00"})
    assert lock_date(tmp_path) == date(2025, 3, 1)
