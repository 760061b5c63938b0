"""The one error that bad input raises, and the nearest allowed name to offer with it."""

from collections.abc import Iterable
from difflib import get_close_matches


class ModlibError(ValueError):
    """Bad input: the message names the thing, what was given and what is allowed."""


def unknown_name(kind: str, given: object, allowed: Iterable[str], where: str = "") -> ModlibError:
    """The error for a name that is not among the allowed ones, offering the nearest.

    Args:
        kind: what the name stands for, such as ``"attribute"``.
        given: the name that was given.
        allowed: every name that would have been right.
        where: where the allowed names come from, such as a file's name.
    """
    allowed = [str(name) for name in allowed]
    lowered = {name.lower(): name for name in allowed}
    near = get_close_matches(str(given).lower(), lowered, n=1, cutoff=0.5)
    message = f"{kind} {given!r} is not {f'in {where}' if where else 'known'}"
    if near:
        message += f"; did you mean {lowered[near[0]]!r}?"
    listed = ", ".join(allowed[:50]) + (f" and {len(allowed) - 50} more" if allowed[50:] else "")
    return ModlibError(f"{message} Allowed: {listed}." if near else
                       f"{message}; allowed: {listed}.")
