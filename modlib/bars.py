"""Where a progress bar is drawn: in a notebook one line that is replaced, else the terminal."""

import sys
from collections.abc import Mapping
from typing import Any


class CellLine:
    """A file for ``tqdm`` of which a notebook's cell shows, and keeps, the last line alone.

    ``tqdm`` draws over its line by a carriage return, which notebooks that run in batch keep, and
    logs too. Here each line is an output that replaces what the cell showed before.

    Args:
        metadata: stored with the output, for those who read the executed notebook.
    """

    def __init__(self, metadata: Mapping[str, Any] | None = None) -> None:
        self.metadata = dict(metadata or {})

    def write(self, text: str) -> None:
        """Show a line; what moves the cursor alone shows nothing."""
        from IPython.display import clear_output, display  # there is one, or this is not a notebook

        if line := text.strip():
            clear_output(wait=True)
            display({"text/plain": line}, raw=True, metadata=self.metadata)

    def flush(self) -> None:
        """Nothing waits."""


def bar_file(metadata: Mapping[str, Any] | None = None) -> CellLine | None:
    """``tqdm``'s ``file``: a :class:`CellLine` in a notebook, None (its own choice) elsewhere."""
    ipython = sys.modules.get("IPython")  # a notebook's kernel has imported it
    shell = ipython.get_ipython() if ipython else None
    return CellLine(metadata) if hasattr(shell, "kernel") else None
