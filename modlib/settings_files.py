"""Settings files, and single settings that are given with a call: names mapped to values."""

from pathlib import Path
from typing import Any

from modlib.errors import ModlibError, unknown_name
from modlib.results import resolve


def settings_file(name: str) -> Path:
    """The file of ``notebooks/settings`` with this name; ModlibError where there is none."""
    files = {path.stem: path for path in resolve("notebooks/settings").glob("*.yml")}
    name = name.removeprefix("notebooks/settings/").removesuffix(".yml")
    if name not in files:
        raise unknown_name("settings", name, sorted(files))
    return files[name]


def read_settings(settings: Path) -> dict[str, Any]:
    """The parameters of a settings file, by name; none where it has only comments.

    Raises:
        ModlibError: it is no text in UTF-8, no YAML, or no mapping of names to values.
    """
    return _named_values(
        settings_text(settings), f"settings {settings}", "a line each, such as 'epochs: 2'")


def read_changes(changes: str) -> dict[str, Any]:
    """Single parameters that are given with a call, by name; ModlibError as of a settings file."""
    return _named_values(changes, "SET", "such as '{epochs: 2, seeds: [0]}'")


def seeds_of(name: str) -> set[int]:
    """The seeds that a settings file asks for; none where it does not, or there is no such file."""
    try:
        seeds = read_settings(settings_file(name)).get("seeds")
    except ModlibError:
        return set()
    return {one for one in seeds if isinstance(one, int)} if isinstance(seeds, list) else set()


def _named_values(text: str, said: str, example: str) -> dict[str, Any]:
    import yaml  # comes with the notebooks, not with modlib alone

    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of a date
        raise ModlibError(f"{said} cannot be read as YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ModlibError(
            f"{said} must map names to values, {example}; given {str(values)[:60]}")
    return values


def settings_text(settings: Path) -> str:
    """What stands in a settings file; ModlibError where it is no text in UTF-8."""
    try:
        return settings.read_text("utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModlibError(f"settings {settings} cannot be read as text in UTF-8: {error}"
                          ) from error
