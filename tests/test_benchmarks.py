"""The benchmarks say how they measure, can be run by name, and tell whether a target is missed."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modlib.speed import KEYS, RECORD, benchmark_table, read_benchmark, row

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
FILES = sorted(FOLDER.glob("*.py"))
SPEC = importlib.util.spec_from_file_location("benchmarks_run", FOLDER / "run.py")
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)


def functions_of(path: Path) -> list[str]:
    return [node.name for node in ast.parse(path.read_text("utf8")).body
            if isinstance(node, ast.FunctionDef)]


def status(monkeypatch, *arguments: str) -> object:
    """The exit status of ``python benchmarks/run.py`` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    try:
        bench.main()
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture
def measured(monkeypatch) -> dict[str, dict]:
    """What each benchmark is to have measured; none is run."""
    results = {name: {"rows": []} for name in bench.NAMES}
    monkeypatch.setattr(bench, "one", lambda name, data_root: results[name])
    return results


# What there is


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_begins_with_what_it_is_and_a_benchmark_also_with_how_it_measures(path):
    text = ast.get_docstring(ast.parse(path.read_text("utf8"))) or ""
    sentences = re.findall(r"[.:](?=\s|$)", text.replace("run.py", ""))
    measures = "measure" in functions_of(path) or path.name == "run.py"
    assert len(sentences) >= (2 if measures else 1)


def test_every_benchmark_is_named_and_every_name_is_a_benchmark():
    benchmarks = {path.stem for path in FILES if "measure" in functions_of(path)}
    assert benchmarks == set(bench.NAMES)
    assert len(bench.NAMES) == len(set(bench.NAMES))


# Running them


def test_a_benchmark_that_is_asked_for_alone_writes_a_record(monkeypatch, tmp_path, capsys):
    """Of start-up, in processes of its own; whether it is fast enough depends on the machine."""
    code = status(monkeypatch, "--only", "start_up", "--output", str(tmp_path / RECORD))
    record = read_benchmark(tmp_path)
    assert set(record) == set(KEYS)
    [line] = record["rows"]
    assert line["question"].startswith("start-up")
    assert code == (0 if line["met"] else 1)
    assert 0 < line["low"] <= line["value"] <= line["high"] < 60
    assert set(record["run"]) == {"device", "versions", "git_commit", "seconds", "data"}
    assert len(benchmark_table(record["rows"])) == 1
    assert line["question"] in capsys.readouterr().out


def test_rows_and_curves_of_all_benchmarks_are_one_record(monkeypatch, tmp_path, measured):
    measured["growth"] = {"rows": [row("a", [1.0], ""), row("b", [2.0], "")], "curves": {"a": [1]}}
    measured["batching"] = {"rows": [row("c", [3.0], "", at_least=3)], "curves": {"c": [2]}}
    assert status(monkeypatch, "--output", str(tmp_path / RECORD)) == 0
    record = read_benchmark(tmp_path)
    assert [line["question"] for line in record["rows"]] == ["c", "a", "b"]  # in NAMES' order
    assert record["curves"] == {"a": [1], "c": [2]}


def test_a_missed_target_is_told_and_recorded_and_is_the_exit_status(
        monkeypatch, tmp_path, measured, capsys):
    measured["inference"] = {"rows": [row("all at once", [1.0], "", at_least=2)]}
    measured["precision"] = {"rows": [row("bfloat16", [1.3], "", at_least=1.2)]}
    assert status(monkeypatch, "--output", str(tmp_path / RECORD)) == 1
    assert [line["met"] for line in read_benchmark(tmp_path)["rows"]] == [False, True]
    out = capsys.readouterr().out
    assert out.splitlines()[-2:] == ["missed:", "  all at once"]
    assert "[at least 2: MISSED]" in out
    assert "[at least 1.2: met]" in out


def test_data_that_does_not_exist_is_refused_by_name(monkeypatch, tmp_path, measured, capsys):
    assert status(monkeypatch, "--data", "/nowhere", "--output", str(tmp_path / RECORD)) == 2
    assert "--data '/nowhere' does not exist" in capsys.readouterr().err
    assert not (tmp_path / RECORD).exists()


def test_data_that_exist_are_handed_to_every_benchmark(monkeypatch, tmp_path):
    commands = []

    def run_nothing(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, json.dumps({"rows": []}))

    with monkeypatch.context() as patched:
        patched.setattr(bench.subprocess, "run", run_nothing)
        patched.setattr(bench, "git_commit", lambda *folders: "commit")
        arguments = ("--data", str(tmp_path), "--output", str(tmp_path / RECORD))
        assert status(patched, *arguments, "--only", "growth", "memory_of_no_kind") == 2
        assert status(patched, *arguments, "--only", "growth", "compiled") == 0
    assert [command[2:] for command in commands] == [
        ["--measure", name, "--data", str(tmp_path)] for name in ("growth", "compiled")]
    assert read_benchmark(tmp_path)["run"]["data"] is True


def test_a_benchmark_that_fails_is_another_exit_status_than_a_missed_target(monkeypatch, tmp_path):
    monkeypatch.setattr(bench.subprocess, "run",
                        lambda command, **_: subprocess.CompletedProcess(command, 1, ""))
    assert status(monkeypatch, "--only", "growth", "--output", str(tmp_path / RECORD)) == 2
