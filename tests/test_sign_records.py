"""Records without a digest get one, and nothing else in them changes."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from modlib.errors import ModlibError
from modlib.results import LATER, read_record, write_json

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from sign_records import main, sign  # noqa: E402

COMMITTED = sorted((ROOT / "book/results/three_attributes").glob("*.json"))[:3]


@pytest.fixture
def folder(tmp_path):
    """Three committed records and the benchmark's, as older runs wrote them: without a digest."""
    for path in (*COMMITTED, ROOT / "book/results/speed/benchmark.json"):
        content = json.loads(path.read_text())
        del content["digest"]
        write_json(tmp_path / path.parent.name / path.name, content)
    return tmp_path


def test_unsigned_records_are_signed_and_change_in_nothing_else(folder):
    before = {path: path.read_text() for path in folder.rglob("*.json")}
    assert sign(folder) == (4, 4)
    for path, text in before.items():
        signed = path.read_text()
        assert signed.startswith(text.removesuffix("\n}\n") + ',\n "digest": {')
        assert json.loads(signed)["digest"]["written"] == LATER
    assert read_record(folder / "three_attributes" / COMMITTED[0].name, signed=True) == {
        key: value for key, value in json.loads(COMMITTED[0].read_text()).items()
        if key != "digest"}


def test_a_signed_record_is_left_as_it_is(folder):
    sign(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    shutil.copy(COMMITTED[0], folder / "three_attributes")
    assert sign(folder) == (0, 4)
    assert before == {path: path.read_bytes() for path in folder.rglob("*.json")}


def wrong_digest(path: Path) -> None:
    text = COMMITTED[0].read_text()
    path.write_text(text.replace('"loss": 0.', '"loss": 0.9', 1))


def wrong_figure(path: Path) -> None:
    content = json.loads(path.read_text())
    content["results"]["test_accuracy"]["Smiling"] = 98.7
    write_json(path, content)


def wrong_name(path: Path) -> None:
    path.rename(path.with_name("celeba_cpu-mine-seed0.json"))


@pytest.mark.parametrize(("spoil", "said"), [
    (wrong_digest, "was changed after it was written"), (wrong_name, "calls itself"),
    (wrong_figure, r"results.test_accuracy.Smiling is 98\.7")])
def test_where_one_record_is_refused_none_is_signed(folder, spoil, said, capsys, monkeypatch):
    spoil(folder / "three_attributes" / COMMITTED[0].name)
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    with pytest.raises(ModlibError, match=said):
        sign(folder)
    monkeypatch.setattr("sys.argv", ["sign_records.py", str(folder)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert before == {path: path.read_bytes() for path in folder.rglob("*.json")}


def test_the_command_says_what_it_did(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sign_records.py", str(folder), str(folder / "speed")])
    main()
    assert capsys.readouterr().out.splitlines() == [
        f"{folder}: 4 records, 4 of them signed now",
        f"{folder / 'speed'}: 1 records, 0 of them signed now"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModlibError, match=r"no folder .*nowhere"):
        sign(tmp_path / "nowhere")
