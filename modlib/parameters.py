"""The parameters of a notebook: found in its cells, and sorted by what they belong to."""

import ast
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any

from modlib.errors import ModlibError, unknown_name


def split_parameters(parameters: Mapping[str, Any], *classes: type) -> list[dict[str, Any]]:
    """Sort a notebook's parameters by the dataclass that each belongs to.

    Raises:
        ModlibError: a parameter that belongs to none of them.
    """
    names = [{field.name for field in fields(cls)} for cls in classes]
    for key in parameters:
        if not any(key in group for group in names):
            raise unknown_name("parameter", key, sorted(set().union(*names)))
    return [{k: v for k, v in parameters.items() if k in group} for group in names]


def notebook_parameters(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a notebook's cells have set, mistyped ones included.

    Papermill sets whatever it is given and only warns about unknown names, so the names are read
    from the cells themselves: the last run of the notebook's own cell, whose first line starts
    with ``# Parameters``, and those that papermill injects, whose first line is just that.

    Args:
        namespace: the notebook's ``globals()``.

    Raises:
        ModlibError: no such cell has run.
    """
    names: list[str] = []
    for source in namespace.get("In", []):
        first_line = source.strip().partition("\n")[0].strip()
        if not first_line.startswith("# Parameters"):
            continue
        try:
            statements = ast.parse(source).body
        except SyntaxError:  # IPython keeps cells that did not run
            continue
        if first_line != "# Parameters":  # the notebook's own cell, run afresh
            names.clear()
        for node in statements:
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
                names += [part.id for part in ast.walk(node)
                          if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
    if not any(namespace.get("In", [])):  # a runner without history: the plain values there are
        names = [name for name, value in namespace.items()
                 if name.islower() and not name.startswith("_")
                 and isinstance(value, str | int | float | list | tuple | dict | NoneType)]
    if not names:
        raise ModlibError(
            "no parameters were found: the first line of their cell must start with "
            "'# Parameters', and the cell must have run")
    return {name: namespace[name] for name in dict.fromkeys(names) if name in namespace}
