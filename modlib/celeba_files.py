"""CelebA's files as they lie on disk: which layouts, the tables of labels, the splits.

CelebA: Liu, Luo, Wang and Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015. Where its
partition file is missing, images are split 80/10/10 by a hash of the identity, or of the image name
where that file is missing too.

Shapes: N images, A all the attributes of a file.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np

from modlib.errors import ModlibError
from modlib.image_files import Files, list_folders

ATTRIBUTES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
PARTITION = ("list_eval_partition.txt", "list_eval_partition.csv")
IDENTITY = ("identity_CelebA.txt", "identity_CelebA.csv")
FOLDERS = ("celeba", "anno", "eval", "img", "img_align_celeba", "img_align_celeba_png")
STAYS = "Male"  # an attribute that is the same on nearly all photographs of one person
LEAST_PAIRS, LEAST_KAPPA = 100, 0.8  # CelebA's own files have 0.98; of mixed-up rows it is near 0
OTHERS = (".txt", ".csv", ".zip")
LAYOUTS = (
    "a folder, or a zip archive of one, that holds list_attr_celeba.txt (official) or "
    "list_attr_celeba.csv (Kaggle), with the images in img_align_celeba/ or, beside the text "
    "files, in img_align_celeba.zip; list_eval_partition and identity_CelebA are read when there"
)


def root_identity(root: Path) -> str:
    """Digest of what tells, without reading the images, whether ``root`` is what it was.

    For an archive its size and time; for a folder the names of the images, and the sizes and times
    of the image folders and of the other files. An image rewritten in place goes unnoticed.
    """
    kept, digest = [root], hashlib.sha256()
    if root.is_dir():
        kept = []
        for folder, names in sorted(list_folders(root, FOLDERS).items()):
            kept += [root / folder / name for name in names if name.lower().endswith(OTHERS)]
            if _is_for_images(folder):
                kept.append(root / folder)
                digest.update("\n".join(names).encode())
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in kept]
    digest.update(repr(stats).encode())
    return digest.hexdigest()


def _is_for_images(folder: str) -> bool:
    return "img_align_celeba" in folder.lower()


def read_celeba(root: Path) -> tuple[dict[str, np.ndarray], dict, Files, list[str]]:
    """The rows of CelebA's text files for the images that are there, and where those images lie.

    Args:
        root: a folder or a zip archive; see ``LAYOUTS``.

    Returns:
        four things, in this order.

        - arrays with one row an image, in the order of their names: ``ids``, str (N,);
          ``split``, uint8 (N,), 0 train, 1 valid, 2 test; ``labels``, bool (N, A);
        - notes: the ``attributes``, A names; the ``attribute_file`` that has them; ``split``, one
          line that says where the split came from;
        - the files that the images are read from; the caller closes them;
        - the N image names in these files, in the order of the rows.

    Raises:
        ModlibError: a layout not understood; an archive, a text file, a row or a label that is
            broken; an image that is there twice, or has no row in the partition; labels that are
            shifted or shuffled, where the file of identities tells.
    """
    texts = Files(root)
    names = texts.names(FOLDERS)
    attribute_file = _find(names, *ATTRIBUTES)
    if attribute_file is None:
        raise ModlibError(f"{root} holds no list_attr_celeba.txt or .csv; give {LAYOUTS}")
    header, table = _read_table(texts, attribute_file, header=True)
    within = (name for name in names if _is_for_images(name.rpartition("/")[0]))
    images = _match(within, table, root)
    files = texts
    zipped = _find(names, "img_align_celeba.zip")
    if not images and zipped and root.is_dir():
        files = Files(root / zipped)
        images = _match(files.names(), table, root / zipped)
    if not images:
        raise ModlibError(f"no image in {root} has a row in {attribute_file}; give {LAYOUTS}")
    ids = sorted(images)
    split_N, split_note = _split(texts, names, ids)
    where = PurePosixPath(attribute_file).name
    rows = {"ids": np.array(ids), "split": split_N, "labels": _labels(table, header, ids, where)}
    notes = {"attributes": header, "attribute_file": where, "split": split_note}
    identity_file = _find(names, *IDENTITY)
    if identity_file and STAYS in header:
        _, people = _read_table(texts, identity_file, header=False)
        check_rows(ids, rows["labels"][:, header.index(STAYS)], people, where, identity_file)
    return rows, notes, files, [images[name] for name in ids]


def _find(names: Iterable[str], *basenames: str) -> str | None:
    """The file of one of these names that lies nearest to the root; the first name wins."""
    found = [(name.count("/"), basenames.index(base), name) for name in names
             if (base := name.rpartition("/")[2]) in basenames]
    return min(found)[2] if found else None


def _match(names: Iterable[str], table: dict, where: Path) -> dict[str, str]:
    """Image name without its suffix → file name, for the images that have a row."""
    images = {}
    for name in names:
        stem = PurePosixPath(name).stem
        if stem in table and images.setdefault(stem, name) is not name:
            raise ModlibError(f"{where} has image {stem} twice: {images[stem]} and {name}")
    return images


def _read_table(files: Files, name: str, header: bool) -> tuple[list[str], dict[str, list[str]]]:
    """Value columns and ``{image name without suffix: values}`` of a .txt or .csv file.

    Args:
        files: where the file is read from.
        name: the file.
        header: the first row surely names the columns; else only if it ends in no number, and
            there is one value column.
    """
    try:
        text = files.read(name).decode("utf-8-sig")
    except Exception as error:
        raise ModlibError(f"{name} in {files.path} cannot be read: {error}") from error
    if "\0" in text:  # which numpy would drop at the end of a value
        raise ModlibError(f"{name} in {files.path} is no text: it holds a byte of 0")
    comma = "," if name.lower().endswith(".csv") else None
    count, columns, table = "", None, {}
    for number, line in enumerate(text.splitlines(), start=1):
        values = [value.strip(' "') for value in line.strip().split(comma)]
        if number == 1 and len(values) == 1 and values[0].isdigit():
            count = values[0]  # with which the official file opens
        if not line.strip() or (number == 1 and count):
            continue
        if columns is None:
            named = header or not values[-1].isdigit()
            columns = values[bool(comma) :] if named else ["value"]
            if header:
                _check_header(columns, f"{name}, line {number}")
            elif len(columns) != 1:
                raise ModlibError(f"{name}, line {number}: {len(columns)} value columns, not one: "
                                  f"{', '.join(columns)[:100]}")
            if named:
                continue
        if len(values) != len(columns) + 1:
            raise ModlibError(f"{name}, line {number}: {len(values)} columns, not "
                              f"{len(columns) + 1} (image name, then {len(columns)} values)")
        stem = values[0].rpartition(".")[0] or values[0]
        if stem in table:
            raise ModlibError(f"{name}, line {number}: image {stem} has a row already")
        table[stem] = values[1:]
    if count and count.lstrip("0") != str(len(table)):
        raise ModlibError(f"{name} has {len(table)} rows, but its first line says {count[:20]}: it "
                          "was cut short, or rows were added; mend it, or remove the line")
    return columns or [], table


def _check_header(columns: list[str], where: str) -> None:
    """Refuse a row of values in the header's place, and a name that stands for two columns."""
    for column in columns:
        if column.lstrip("-").isdigit() or columns.count(column) > 1:
            raise ModlibError(f"{where}: {column!r} is no name of a column, or names two; the "
                              "first row must name each attribute once")


def _labels(table: dict, attributes: list[str], ids: list[str], where: str) -> np.ndarray:
    """labels_NA, bool, from −1/1 or 0/1, whichever the file uses."""
    labels_NA = np.array([table[name] for name in ids])
    negative = "-1" if (labels_NA == "-1").any() else "0"
    wrong = np.argwhere((labels_NA != "1") & (labels_NA != negative))
    if len(wrong):
        n, a = wrong[0]
        raise ModlibError(f"{where}: image {ids[n]} has {attributes[a]} = {str(labels_NA[n, a])!r};"
                          f" allowed: {negative} or 1 in this file (−1/1, or 0/1 throughout)")
    return labels_NA == "1"


def check_rows(
    ids: list[str], stays_N: np.ndarray, people: dict[str, list[str]], where: str, identities: str
) -> None:
    """Refuse labels that lie in other images' rows: shifted, or under shuffled names.

    Two photographs of one person agree in what stays far more often than any two do. Cohen's kappa
    says how much more: 1 where all agree, 0 where they agree as often as by chance. It is decided
    on ``LEAST_PAIRS`` pairs or more, so that a true file is never refused by bad luck.

    Args:
        ids: the N images.
        stays_N: bool, the labels of ``STAYS``.
        people: the row of each image in the file of identities; images without one are left out.
        where, identities: the files' names, for the message.

    Raises:
        ModlibError: kappa is below ``LEAST_KAPPA``.
    """
    known = [n for n, image in enumerate(ids) if image in people]
    person_N = np.array([people[ids[n]][0] for n in known])
    order = np.argsort(person_N, kind="stable")
    person_N, stays_N = person_N[order], stays_N[known][order]
    same = person_N[1:] == person_N[:-1]
    share = stays_N.mean() if len(stays_N) else 0.0
    chance = share ** 2 + (1 - share) ** 2
    if same.sum() < LEAST_PAIRS or chance == 1:
        return
    agreement = (stays_N[1:] == stays_N[:-1])[same].mean()
    if (agreement - chance) / (1 - chance) < LEAST_KAPPA:
        least = chance + LEAST_KAPPA * (1 - chance)
        raise ModlibError(
            f"{where}: of {same.sum():,} pairs of images of one person by {identities}, "
            f"{agreement:.1%} agree in {STAYS}; by chance {chance:.1%} would, and at least "
            f"{least:.1%} are expected. The rows of one of the two files lie beside the wrong "
            "images, as when they are shifted or shuffled: fetch both anew")


def _split(texts: Files, names: list[str], ids: list[str]) -> tuple[np.ndarray, str]:
    """split_N and one line that says where it came from."""
    by_identity = "no partition file: split 80/10/10 by a hash of the identity"
    for basenames, note in ((PARTITION, "official partition"), (IDENTITY, by_identity)):
        name = _find(names, *basenames)
        if name is None:
            continue
        _, table = _read_table(texts, name, header=False)
        missing = [i for i in ids if i not in table]
        if missing:
            raise ModlibError(f"{name} has no row for {len(missing)} of the images, "
                              f"such as {missing[0]}")
        values = [table[i][0] for i in ids]
        if basenames == IDENTITY:
            return _hashed_split(values), note
        for image, value in zip(ids, values, strict=True):
            if value not in ("0", "1", "2"):
                raise ModlibError(f"{name}: image {image} is in {value!r}; allowed: 0, 1 or 2")
        return np.array(values).astype(np.uint8), note
    return _hashed_split(ids), "no partition, no identity file: split 80/10/10 by a hash of the id"


def _hashed_split(keys: list[str]) -> np.ndarray:
    tenths = [hashlib.sha256(key.encode()).digest()[0] * 10 // 256 for key in keys]
    return np.searchsorted([8, 9], tenths, side="right").astype(np.uint8)
