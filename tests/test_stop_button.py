"""JupyterLab's stop button: a short message, no process left; run again, the cell goes on."""

import shutil
import subprocess
import time
from pathlib import Path
from threading import Thread

import papermill
import pytest
import yaml
from jupyter_client.manager import start_new_kernel

from modlib.results import comparable, read_record

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks/02_three_attributes.ipynb"
SMOKE = yaml.safe_load((ROOT / "notebooks/settings/smoke.yml").read_text("utf8"))


class Kernel:
    """A kernel as JupyterLab starts it: in the notebook's folder."""

    def __init__(self, folder: Path):
        self.manager, self.client = start_new_kernel(kernel_name="python3", cwd=str(folder))

    def run(self, cell: str) -> list[dict]:
        """The contents of what the cell puts out."""
        outputs: list[dict] = []
        self.client.execute_interactive(
            cell, timeout=300, allow_stdin=False,
            output_hook=lambda message: outputs.append(message["content"]))
        return outputs

    def errors(self, cell: str) -> list[dict]:
        return [content for content in self.run(cell) if "traceback" in content]

    def workers(self) -> list[str]:
        of_kernel = ["pgrep", "-P", str(self.manager.provisioner.pid), "-af", "spawn_main"]
        return subprocess.run(of_kernel, capture_output=True, text=True).stdout.splitlines()


@pytest.fixture
def kernel():
    kernel = Kernel(NOTEBOOK.parent)
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def cells(folder: Path, **parameters) -> list[str]:
    """The notebook's code with these parameters, up to the cell that trains."""
    notebook = papermill.execute_notebook(
        str(NOTEBOOK), str(folder / "prepared.ipynb"), SMOKE | parameters | {
            "results_dir": str(folder / "records"), "checkpoint_dir": str(folder / "checkpoints")},
        prepare_only=True, progress_bar=False, kernel_name="python3")
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    [training] = [number for number, source in enumerate(code) if "run_many(" in source
                  and "import" not in source]
    return code[:training + 1]


def records(folder: Path) -> dict[str, dict]:
    return {path.name: comparable(read_record(path))
            for path in (folder / "records").rglob("*.json")}


@pytest.mark.skipif(not shutil.which("pgrep"), reason="pgrep is not installed")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_cell_says_how_it_goes_on_and_does(tmp_path, kernel, workers):
    stopped, unbroken = tmp_path / "stopped", tmp_path / "unbroken"
    for folder in (stopped, unbroken):
        folder.mkdir()
    *before, training = cells(stopped, epochs=3, workers=workers)
    assert [kernel.errors(cell) for cell in before] == [[] for _ in before]

    def press() -> None:
        deadline = time.monotonic() + 200
        while not list((stopped / "checkpoints").glob("*.pt")) and time.monotonic() < deadline:
            time.sleep(0.02)
        kernel.manager.interrupt_kernel()

    button = Thread(target=press)
    button.start()
    outputs = kernel.run(training)
    button.join()
    [error] = [content for content in outputs if "traceback" in content]
    assert error["ename"] == "Stopped" and error["traceback"] == [error["evalue"]]
    assert "Run this cell again to go on: " in error["evalue"]
    assert "goes on after epoch" in error["evalue"]
    assert not any("Traceback" in content.get("text", "") for content in outputs)
    assert kernel.workers() == []
    assert len(records(stopped)) < 6 and list((stopped / "checkpoints").glob("*.pt"))

    assert kernel.errors(training) == []
    for cell in cells(unbroken, epochs=3, workers=workers):
        assert kernel.errors(cell) == []
    assert len(records(stopped)) == 6 and records(stopped) == records(unbroken)
