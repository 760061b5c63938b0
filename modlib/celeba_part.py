"""The part of CelebA that the published records are of, picked out of a whole copy.

    python -m modlib.celeba_part /path/to/celeba data/celeba-part.zip

``book/celeba_part.txt`` names its 19,000 images, a random part of the 202,599.
"""

import argparse
import zipfile
from contextlib import closing
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from modlib.bars import bar_file
from modlib.celeba_files import ATTRIBUTES, FOLDERS, IDENTITY, PARTITION, read_celeba
from modlib.errors import ModlibError
from modlib.image_files import Files
from modlib.results import resolve
from modlib.whole_files import written_whole

LIST = "book/celeba_part.txt"
A_FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # the same part gives the same archive


def part_ids() -> list[str]:
    """The names of the part's images without suffix, such as ``"000040"``, ascending."""
    return resolve(LIST).read_text("utf8").split()


def write_part(source: str | Path, target: str | Path, ids: list[str] | None = None) -> Path:
    """Copy the part's images and CelebA's text files into one zip archive, whole or not at all.

    Args:
        source: a copy of CelebA in any layout that :func:`modlib.datasets.load_celeba` reads.
        target: the archive, which must not be there yet.
        ids: the images; None: those of ``book/celeba_part.txt``.

    Returns:
        the archive's path, which ``data_root`` takes.

    Raises:
        ModlibError: the target is there, or no ``.zip``; the source is not there, is no copy of
            CelebA, or lacks some of the images; the disk is full.
    """
    source, target, ids = resolve(source), resolve(target), part_ids() if ids is None else ids
    if target.suffix != ".zip" or target.exists():
        raise ModlibError(f"{target}: give the name of a new archive, one that ends in .zip and "
                          "is not there yet")
    if not source.exists():
        raise ModlibError(f"{source} does not exist; give a copy of CelebA, a folder or an archive")
    rows, _, files, names = read_celeba(source)
    where = dict(zip(rows["ids"].tolist(), names, strict=True))
    with closing(files), closing(Files(source)) as texts:
        if lacking := [one for one in ids if one not in where]:
            raise ModlibError(f"{source} lacks {len(lacking):,} of the {len(ids):,} images, such "
                              f"as {lacking[0]}; give a copy with all of CelebA")
        with written_whole(target, "the archive") as file, zipfile.ZipFile(file, "w") as archive:
            for name in texts.names(FOLDERS):
                if PurePosixPath(name).name in (*ATTRIBUTES, *PARTITION, *IDENTITY):
                    _add(archive, PurePosixPath(name).name, texts.read(name), zipfile.ZIP_DEFLATED)
            for one in tqdm(ids, desc="Copying images", unit="image", file=bar_file()):
                inside = f"img_align_celeba/{PurePosixPath(where[one]).name}"
                _add(archive, inside, files.read(where[one]), zipfile.ZIP_STORED)
    return target


def _add(archive: zipfile.ZipFile, name: str, content: bytes, compression: int) -> None:
    archive.writestr(zipfile.ZipInfo(name, A_FIXED_TIME), content, compression)


def main() -> None:
    """Pick the part of CelebA that the book's records are of out of a whole copy."""
    parser = argparse.ArgumentParser(prog="python -m modlib.celeba_part", description=main.__doc__)
    parser.add_argument("source", help="a copy of CelebA: a folder or a zip archive")
    parser.add_argument("target", help="the zip archive to write, such as data/celeba-part.zip")
    arguments = parser.parse_args()
    try:
        print(f"{write_part(arguments.source, arguments.target)} holds {len(part_ids()):,} images")
    except (ModlibError, OSError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
