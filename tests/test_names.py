"""A name is spelled one way wherever people read it."""

import json
import re
from pathlib import Path

import pytest

from modlib.systems import VARIANTS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([ROOT / "README.md", *(ROOT / "book").glob("*.md"),
                  *(ROOT / "notebooks").glob("*.ipynb")])
NAMES = [
    "Adagrad", "CelebA", "CLEVR", "CSN", "CUB-200", "CUB-200-2011", "JupyterLab", "Jupyter Book",
    "LeNet", "mAP", "MGDA", "MNIST", "MultiMNIST", "ONNX", "papermill", "PCGrad", "PyTorch", "ReLU",
    "ResNet", "ResNet-18", "scikit-learn", "TorchJD", "torchvision", "UCR", "UPGrad",
    "UT-Zappos50K", "VGG-11", "VGG-16",
]
COMMON_WORDS = {"mAP": "map"}  # is a word of its own
# Systems whose label in the tables is two words: prose joins them no more than the tables do.
SYSTEMS = [label for label, *_ in VARIANTS if re.fullmatch("[a-z]+ [a-z]+", label)]
NOT_PROSE = re.compile(
    r"\A---\n.*?\n---\n|```.*?```|`[^`]*`|<!--.*?-->|^(?: {4}|\t).*?$"  # front matter, code, notes
    r"|\]\([^)]*\)|\{[\w:]+\}|https?://\S+"  # addresses, roles
    r"|\bmodlib\.\w+", re.DOTALL | re.MULTILINE)  # a module has a name of its own


def prose(path: Path) -> str:
    """What a reader of a page reads, without code and addresses."""
    text = path.read_text("utf8")
    if path.suffix == ".ipynb":
        text = "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"]
                           if cell["cell_type"] == "markdown")
    return NOT_PROSE.sub(" ", text)


def spellings(name: str, text: str) -> set[str]:
    """How a text spells a name: in any case, its parts joined in any way."""
    parts = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+", name)
    return set(re.findall(rf"(?<![\w-]){'[-_ ]?'.join(parts)}(?!\w)", text, re.IGNORECASE))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_names_are_spelled_as_their_owners_spell_them(path):
    wrong = {name: other for name in NAMES
             if (other := spellings(name, prose(path)) - {name, COMMON_WORDS.get(name)})}
    assert wrong == {}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_systems_are_called_what_the_tables_call_them(path):
    wrong = {name: other for name in SYSTEMS
             if (other := spellings(name, prose(path)) - {name, name.capitalize()})}
    assert wrong == {}


def test_other_spellings_are_found():
    text = "Pytorch, Celeb-A, UT Zappos50k, resnet18, VGG 16, multi-MNIST, UpGrad, `celeba`"
    found = {name: spellings(name, NOT_PROSE.sub(" ", text)) - {name} for name in NAMES}
    assert {name: other for name, other in found.items() if other} == {
        "PyTorch": {"Pytorch"}, "CelebA": {"Celeb-A"}, "UT-Zappos50K": {"UT Zappos50k"},
        "ResNet-18": {"resnet18"}, "VGG-16": {"VGG 16"}, "MultiMNIST": {"multi-MNIST"},
        "UPGrad": {"UpGrad"}}
    assert spellings("fully shared", "a fully-shared net") == {"fully-shared"}
