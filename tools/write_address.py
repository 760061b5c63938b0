"""Tell the project where it can be had: ``python tools/write_address.py https://github.com/A/B``.

Writes ``_config.yml``, whose pages then have buttons that open them on Google Colab and, in
JupyterLab, on Binder; and the first code cell of every notebook, which on Colab fetches the
project. Without an address it writes what stands for none.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIG = re.compile(r"^repository: .*\n\nlaunch_buttons: .*$", re.M)
CELL_ID = "on-colab"
CELL = """\
# On Google Colab: fetch the project and what it needs. Anywhere else this does nothing.
import os
import subprocess
import sys

if "google.colab" in sys.modules and not os.path.isdir("modlib"):
    address = "{address}"  # written by tools/write_address.py
    assert address, "no public address yet: upload the project, %cd into it, %pip install -e .[all]"
    subprocess.run(["git", "clone", "--depth", "1", address, "project"], check=True)
    os.chdir("project")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", ".[all]"],
                   check=True)"""


def config_with(config: str, address: str, branch: str = "main") -> str:
    """``_config.yml`` with this address; Colab opens notebooks from GitHub alone."""
    colab = "https://colab.research.google.com" if "//github.com/" in address else ""
    binder = "https://mybinder.org" if address else ""
    return CONFIG.sub(
        f'repository: {{url: "{address}", branch: "{branch if address else ""}"}}\n\n'
        f'launch_buttons: {{notebook_interface: jupyterlab, colab_url: "{colab}", '
        f'binderhub_url: "{binder}", thebe: false}}', config)


def notebook_with(notebook: str, address: str) -> str:
    """A notebook's JSON whose first code cell fetches the project from this address on Colab."""
    content = json.loads(notebook)
    cells = [cell for cell in content["cells"] if cell.get("id") != CELL_ID]
    first = next(number for number, cell in enumerate(cells) if cell["cell_type"] == "code")
    cells.insert(first, {
        "cell_type": "code", "execution_count": None, "id": CELL_ID,
        "metadata": {"tags": ["remove-cell"]}, "outputs": [],
        "source": CELL.format(address=address).splitlines(keepends=True)})
    return json.dumps(content | {"cells": cells}, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the address that is given, or none, wherever it belongs."""
    address = sys.argv[1].rstrip("/") if sys.argv[1:] else ""
    config = ROOT / "_config.yml"
    config.write_text(config_with(config.read_text("utf8"), address, *sys.argv[2:]), "utf8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        path.write_text(notebook_with(path.read_text("utf8"), address), "utf8")


if __name__ == "__main__":
    main()
