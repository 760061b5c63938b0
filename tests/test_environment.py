"""What to install is said once, the Makefile installs it, and what is committed is clean."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
RANGES = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["all"]]
PYTHONS = ["3.11", "3.12", "3.13"]
PLATFORMS = ["linux", "darwin"]
# Of the make that runs these tests.
OUTER = {"MAKEFLAGS", "MAKELEVEL", "NB", "SETTINGS", "DATA", "RESULTS", "SET", "MIRROR"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@cache
def read_lock():
    """List (requirement, number of hashes) for every pin in requirements.lock."""
    pins = []
    for line in (ROOT / "requirements.lock").read_text("utf8").splitlines():
        if not line.startswith(" "):
            pins.append([Requirement(line.rstrip(" \\")), 0])
        elif re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line):
            pins[-1][1] += 1
    return pins


def pinned_version(name, python, platform):
    """The one version that the lock gives to a Python and a platform."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": platform,
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[platform],
    }
    pins = [
        requirement
        for requirement, _ in read_lock()
        if canonicalize_name(requirement.name) == canonicalize_name(name)
        and (requirement.marker is None or requirement.marker.evaluate(environment))
    ]
    assert len(pins) == 1, f"{name} has {len(pins)} pins for Python {python} on {platform}"
    (pin,) = pins[0].specifier
    assert pin.operator == "=="
    return Version(pin.version)


def test_supported_pythons_are_those_of_the_metadata():
    allowed = Requirement(f"python{PROJECT['requires-python']}").specifier
    assert [minor for minor in range(8, 20) if allowed.contains(f"3.{minor}.9")] == [11, 12, 13]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_range_has_a_pin_inside_it(python, platform):
    for requirement in map(Requirement, RANGES):
        version = pinned_version(requirement.name, python, platform)
        assert requirement.specifier.contains(version), f"{requirement} but {version} is pinned"


def test_every_pin_has_a_hash():
    assert [str(requirement) for requirement, hashes in read_lock() if hashes == 0] == []


@pytest.mark.parametrize("python", PYTHONS)
def test_torch_and_torchvision_are_a_pair(python):
    """torch 2.13 resolves to a build that torchvision cannot be imported with."""
    torch = pinned_version("torch", python, "linux")
    torchvision = pinned_version("torchvision", python, "linux")
    assert Version("2.11") <= torch < Version("2.13")
    assert torchvision.minor == torch.minor + 15


def test_conda_gives_python_and_pip_and_nothing_else():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf8"))
    assert environment["name"] == "modlib"
    python, *others = environment["dependencies"]
    assert others == ["pip", {"pip": ["-e .[all]"]}]
    name, _, version = python.partition("=")
    assert name == "python"
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(f"{version}.9")


# The Makefile


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the Makefile reads, with a stand-in for Python that logs how it is called.

    Its `-m venv` puts the same stand-in into .venv/bin; its installs fail while the file
    `no-network` exists.
    """
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    settings = tmp_path / "notebooks" / "settings"
    settings.mkdir(parents=True)
    (settings / "quick.yml").touch()
    for name in ("01_first.ipynb", "02_second.ipynb"):
        (tmp_path / "notebooks" / name).touch()
    stand_in = tmp_path / "stand-in"
    stand_in.write_text(
        "#!/bin/sh\n"
        'echo "$*" >> calls\n'
        'if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp stand-in "$3/bin/python"; fi\n'
        'if [ "$1 $2 $3" = "-m pip install" ] && [ -e no-network ]; then exit 1; fi\n'
    )
    stand_in.chmod(0o755)
    return tmp_path


def make(folder, *arguments):
    """Run make; return the finished process and the calls of Python that it made."""
    (folder / "calls").write_text("")
    process = subprocess.run(
        ["make", "PYTHON=./stand-in", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in OUTER},
        capture_output=True,
        text=True,
    )
    return process, (folder / "calls").read_text().splitlines()


def installs(calls):
    return [call for call in calls if call.startswith("-m pip install")]


@needs_make
def test_make_alone_lists_the_targets(checkout):
    process, calls = make(checkout)
    assert re.findall(r"^  make (\w+)  ", process.stdout, re.M) == [
        "help", "book", "test", "data", "run", "status", "verify", "soak", "bench", "clean",
    ]  # fmt: skip
    assert calls == []


@needs_make
def test_make_test_makes_the_environment_once(checkout):
    process, calls = make(checkout, "test")
    assert process.returncode == 0, process.stderr
    assert "-m venv .venv" in calls
    assert installs(calls) == [
        "-m pip install --require-hashes -r requirements.lock",
        "-m pip install --no-deps --no-build-isolation -e .",
    ]
    [call] = make(checkout, "test")[1]
    assert call.startswith("-m pytest ")


@needs_make
def test_a_failed_install_does_not_count_as_done(checkout):
    (checkout / "no-network").touch()
    process, calls = make(checkout, "test")
    assert process.returncode != 0
    assert not [call for call in calls if "pytest" in call]
    (checkout / "no-network").unlink()
    process, calls = make(checkout, "test")
    assert process.returncode == 0
    assert "-m venv .venv" not in calls
    assert len(installs(calls)) == 2


@needs_make
def test_an_environment_made_by_hand_is_kept(checkout):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(checkout / "stand-in", checkout / ".venv" / "bin" / "python")
    (checkout / ".venv" / "theirs").touch()
    process, calls = make(checkout, "test")
    assert process.returncode == 0
    assert (checkout / ".venv" / "theirs").exists()
    assert "-m venv .venv" not in calls
    assert len(installs(calls)) == 2


@needs_make
def test_a_changed_lock_is_installed(checkout):
    make(checkout, "test")
    later = (checkout / ".venv" / ".installed").stat().st_mtime + 10
    os.utime(checkout / "requirements.lock", (later, later))
    assert len(installs(make(checkout, "test")[1])) == 2


@needs_make
def test_a_python_that_does_not_fit_makes_no_environment(checkout):
    (checkout / "stand-in").write_text("#!/bin/sh\nexit 1\n")
    process, _ = make(checkout, "test")
    assert process.returncode != 0
    assert not (checkout / ".venv").exists()


@needs_make
def test_make_run_hands_on_what_it_is_given(checkout):
    data = checkout / "a folder"
    data.mkdir()
    process, calls = make(checkout, "run", "NB=02", f"DATA={data}", "RESULTS=book/results",
                          "SET={seeds: [0], epochs: 2}")
    assert process.returncode == 0, process.stderr
    assert calls[-1] == (
        f"-m modlib.batch run quick --notebook 02_second --data {data} --results book/results "
        "--set {seeds: [0], epochs: 2}"
    )
    assert make(checkout, "run")[1][-1] == "-m modlib.batch run quick"
    assert make(checkout, "status")[1][-1] == "-m modlib.batch status"


@needs_make
@pytest.mark.parametrize(
    "arguments, shown",
    [
        (["NB=0"], "02_second.ipynb"),
        (["NB=07"], "02_second.ipynb"),
        (["NB=01", "SETTINGS=quik"], "quick"),
        (["NB=01", "DATA=nowhere"], "nowhere"),
    ],
)
def test_make_run_says_what_there_is(checkout, arguments, shown):
    process, calls = make(checkout, "run", *arguments)
    assert process.returncode != 0
    assert shown in process.stderr
    assert calls == []


@needs_make
def test_make_data_fetches_to_a_folder_that_git_ignores(checkout):
    assert make(checkout, "data")[1][-1] == "-m modlib.download celeba data/celeba"
    assert make(checkout, "data", "NAME=mnist", "DATA=a folder", "MIRROR=http://b/")[1][-1] == (
        "-m modlib.download mnist a folder --mirror http://b/"
    )
    assert "/data/" in (ROOT / ".gitignore").read_text("utf8").split()


# What is committed


def lines(cell):
    return "".join(cell["source"]).splitlines()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_source_only(path):
    cells = json.loads(path.read_text("utf8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells) == 1
    title = lines(cells[0])[0]
    assert title.startswith("# ") and title.endswith("?"), f"{title!r} is not a question"


def test_no_committed_text_has_a_path_of_one_machine():
    git = ["git", "-c", f"safe.directory={ROOT}"]
    listing = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run([*git, *listing], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    homes = "|".join(["root", "work", "home/[a-z]", "Users/[A-Za-z]"])
    machine_path = re.compile(rf"(?<![\w.~/-])/(?:{homes})[\w.-]*/".encode())
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        data = path.read_bytes() if path.is_file() else b""
        if b"\0" not in data and (match := machine_path.search(data)):
            found.append(f"{name}: {match[0].decode()}")
    assert found == []
