"""A CelebA of 24 plain images, for the tests to write to disk in every layout it is found in."""

import io
import zipfile
from pathlib import Path

from PIL import Image

ATTRIBUTES = ["Smiling", "Young", "Bald"]
IDS = [f"{n:06d}" for n in range(1, 25)]
SPLIT = [n // 12 + (n >= 18) for n in range(24)]  # 12 train, 6 valid, 6 test
LABELS = [[n % 2, n // 2 % 2, n % 3 == 0] for n in range(24)]
PEOPLE = [n // 3 for n in range(24)]


def image_bytes(n: int, format: str = "PNG") -> bytes:
    image = Image.new("RGB", (36, 44), (10 * n, 255 - 10 * n, 5 * n))
    buffer = io.BytesIO()
    image.save(buffer, format, **({"quality": 95} if format == "JPEG" else {}))
    return buffer.getvalue()


def attribute_text(labels=LABELS) -> str:
    lines = [f"{i}.jpg " + " ".join(" 1" if value else "-1" for value in row)
             for i, row in zip(IDS, labels, strict=True)]
    return "\n".join([str(len(IDS)), " ".join(ATTRIBUTES) + " ", *lines]) + "\n"


def two_columns(values) -> str:
    return "".join(f"{i}.jpg {value}\n" for i, value in zip(IDS, values, strict=True))


def as_csv(text: str, header: str = "") -> str:
    return header + "".join(",".join(line.split()) + "\n" for line in text.splitlines())


def official(folder="", format="JPEG", suffix="jpg") -> dict[str, bytes]:
    """File name → bytes of the official layout."""
    files = {
        "list_attr_celeba.txt": attribute_text().encode(),
        "list_eval_partition.txt": two_columns(SPLIT).encode(),
        "identity_CelebA.txt": two_columns(PEOPLE).encode(),
    }
    for n, i in enumerate(IDS):
        files[f"img_align_celeba/{i}.{suffix}"] = image_bytes(n, format)
    return {folder + name: data for name, data in files.items()}


def kaggle() -> dict[str, bytes]:
    header, *lines = attribute_text().splitlines()[1:]
    files = {
        "list_attr_celeba.csv": as_csv("\n".join([f"image_id {header}", *lines])).encode(),
        "list_eval_partition.csv": as_csv(two_columns(SPLIT), "image_id,partition\n").encode(),
        "list_bbox_celeba.csv": b"image_id,x_1\n",
    }
    for n, i in enumerate(IDS):
        files[f"img_align_celeba/img_align_celeba/{i}.jpg"] = image_bytes(n, "JPEG")
    return files


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def images_zipped() -> dict[str, bytes]:
    files = official()
    images = {name: files.pop(name) for name in list(files) if name.endswith("jpg")}
    return {**files, "img_align_celeba.zip": zipped(images)}


def google_drive() -> dict[str, bytes]:
    place = {"list_attr": "Anno/", "identity": "Anno/", "list_eval": "Eval/", "img_align": "Img/"}
    return {next(f for key, f in place.items() if name.startswith(key)) + name: data
            for name, data in images_zipped().items()}


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


LAYOUTS = {
    "official": official(),
    "webp": official(format="WEBP", suffix="webp"),
    "png": official(format="PNG", suffix="png"),
    "images in a zip": images_zipped(),
    "Google Drive": google_drive(),
    "parent folder": official("celeba/"),
    "Kaggle": kaggle(),
    "in a zip": {"data.zip": zipped(official("celeba/"))},
    "in a Mac's zip": {"data.zip": zipped(
        official("mine/") | {f"__MACOSX/mine/img_align_celeba/._{i}.jpg": b"x" for i in IDS})},
    "Kaggle's zip": {"archive.zip": zipped(kaggle())},
}


def replace(root, name, old, new, count=1):
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new, count))
