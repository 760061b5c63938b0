"""CUB-200-2011 as a set of tasks: the colour of each of twelve parts of a bird, and where it is.

CUB-200-2011: Wah et al., 2011.
Source: Levi and Ullman, sections 4.1 and 4.3.4.
Shapes: N images, T tasks, B batch, K colours, S side of the square image in pixels.
"""

from functools import lru_cache
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from modlib.errors import ModlibError, unknown_name
from modlib.photographs import hold_out, packed_photographs, text_of
from modlib.task_images import TaskImages, digest

# The attribute that tells each part's colour, and the marked points that may be the part.
PARTS = {
    "wing": ("has_wing_color", ("left wing", "right wing")),
    "upper tail": ("has_upper_tail_color", ("tail",)),
    "throat": ("has_throat_color", ("throat",)),
    "nape": ("has_nape_color", ("nape",)),
    "leg": ("has_leg_color", ("left leg", "right leg")),
    "eye": ("has_eye_color", ("left eye", "right eye")),
    "back": ("has_back_color", ("back",)),
    "breast": ("has_breast_color", ("breast",)),
    "forehead": ("has_forehead_color", ("forehead",)),
    "belly": ("has_belly_color", ("belly",)),
    "crown": ("has_crown_color", ("crown",)),
    "bill": ("has_bill_color", ("beak",)),
}
COLOURS = ("blue", "brown", "iridescent", "purple", "rufous", "grey", "yellow", "olive", "green",
           "pink", "orange", "black", "white", "red", "buff")
CLASSES = len(COLOURS) + 1  # the last one: unknown
NOT_VISIBLE = 1  # a certainty, of 1 to 4
VALID_SHARE = 0.1
MOST_FIELDS = 8  # of a row of the attribute labels, which should have 5; two rows have 9 or 10
SIGMA = 3.0  # pixels, of the Gaussian around a marked point


@lru_cache(maxsize=4)
def load_cub_200(
    root: str | Path, tasks: tuple[str, ...], image_size: int = 224, cache_dir: str | None = None,
    skip_broken: bool = False,
) -> TaskImages:
    """CUB-200-2011 as it is unpacked, or any part of its images; read once a process.

    The split is the official one, with a tenth of the training images for validation. A part's
    colour is the one that was marked as present with the greatest certainty, the first of those;
    *unknown* where there is none, or the part was not visible. The whole image is squeezed into a
    square. ``places`` are Gaussians of ``SIGMA`` pixels around the first visible point of the
    part, which add up to 1.

    Args:
        root: the folder with ``images.txt``, ``images``, ``parts`` and ``attributes``.
        tasks: names of ``PARTS``.
        image_size: side in pixels.
        cache_dir: folder of the decoded images; None: see :func:`modlib.datasets.load_celeba`.
        skip_broken: leave out images that cannot be decoded.

    Raises:
        ModlibError: an unknown part, a missing or foreign file, or no images.
    """
    root = Path(root)
    for task in tasks:
        if task not in PARTS:
            raise unknown_name("task", task, PARTS, "the parts of CUB-200")
    images = _table(root, ["images.txt"], ["image", "name"])
    images = images[[_is_there(root, name) for name in images.name]]
    if images.empty:
        raise ModlibError(f"no image of images.txt is in {root / 'images'}")
    training = _table(root, ["train_test_split.txt"], ["image", "train"]).set_index("image").train
    training = training[training.index.isin(images.image)]
    if len(training) != len(images) or not training.isin([0, 1]).all():
        raise ModlibError(f"train_test_split.txt in {root} must have one row of 0 or 1 for each "
                          f"of the {len(images)} images that are there")
    rows = {
        "labels": _colours(root, images.image.to_numpy()),
        "points": _points(root, images.image.to_numpy(), images.name),
        "split": hold_out(training.reindex(images.image).to_numpy() == 0,
                          VALID_SHARE),
    }
    names = [f"images/{name}" for name in images.name]
    packed = packed_photographs(root, "cub", names, rows, image_size, cache_dir, skip_broken)
    columns = [list(PARTS).index(task) for task in tasks]
    labels_NT, points_NT2 = (packed.rows[name][:, columns] for name in ("labels", "points"))
    split_N = packed.rows["split"]
    return TaskImages(
        packed.images_NCHW, labels_NT, tasks, CLASSES, split_N,
        digest(packed.pixel_digest, labels_NT, points_NT2, split_N, *tasks),
        f"CUB-200-2011 ({root.name})",
        lambda indices_B: blurred_points(points_NT2[indices_B], image_size))


def _is_there(root: Path, name: str) -> bool:
    try:
        return (root / "images" / name).is_file()
    except OSError:  # such as a name that is too long
        return False


def blurred_points(points_BT2: np.ndarray, image_size: int) -> np.ndarray:
    """A Gaussian of ``SIGMA`` pixels around each point, float32 (B, T, S, S).

    Args:
        points_BT2: x and y as shares of the image's width and height; nan: 0 throughout.

    Returns:
        maps that add up to 1, or are 0 throughout.
    """
    centres_BT2 = points_BT2 * image_size - 0.5  # the first pixel's middle is at 0
    squares_BTS2 = (np.arange(image_size)[:, None] - centres_BT2[:, :, None]) ** 2
    falls_BTS2 = np.nan_to_num(np.exp(-squares_BTS2 / (2 * SIGMA**2)))
    sums_BT12 = falls_BTS2.sum(2, keepdims=True)
    # Each side adds up to 1, and so does their product: no work in float64 on the large maps.
    sides_BTS2 = (falls_BTS2 / np.where(sums_BT12 > 0, sums_BT12, 1)).astype(np.float32)
    return sides_BTS2[:, :, :, None, 1] * sides_BTS2[:, :, None, :, 0]


def _colours(root: Path, images_N: np.ndarray) -> np.ndarray:
    """Every part's colour on every image: int64 (N, all parts), ``CLASSES`` − 1 for unknown."""
    names = _table(root, ["attributes/attributes.txt", "attributes.txt", "../attributes.txt"],
                   ["attribute", "name"]).set_index("attribute").name
    of = names.str.partition("::")
    lacking = [kind for kind, _ in PARTS.values() if kind not in set(of[0])]
    if lacking:
        raise ModlibError(f"attributes.txt in {root} lacks {lacking[0]}")
    marked = _table(root, ["attributes/image_attribute_labels.txt"],
                    ["image", "attribute", "present", "certainty"])
    marked = marked[(marked.present == 1) & (marked.certainty > NOT_VISIBLE)]
    marked = marked.assign(kind=marked.attribute.map(of[0]), colour=marked.attribute.map(of[2]))
    marked = marked[marked.colour.isin(COLOURS)]
    surest = marked.sort_values("certainty", ascending=False, kind="stable").drop_duplicates(
        ["image", "kind"])
    table = surest.pivot(index="image", columns="kind", values="colour").reindex(
        index=images_N, columns=[kind for kind, _ in PARTS.values()])
    numbers = {colour: number for number, colour in enumerate(COLOURS)}
    return table.apply(lambda column: column.map(numbers)).fillna(CLASSES - 1).to_numpy(np.int64)


def _points(root: Path, images_N: np.ndarray, names: pd.Series) -> np.ndarray:
    """Where every part is: float64 (N, all parts, 2), x and y over width and height, or nan."""
    parts = _table(root, ["parts/parts.txt"], ["part", "name"]).set_index("part").name
    located = _table(root, ["parts/part_locs.txt"], ["image", "part", "x", "y", "visible"])
    if located.duplicated(["image", "part"]).any():
        raise ModlibError(f"parts/part_locs.txt in {root} has a part of an image twice")
    lacking = [first for _, (first, *_) in PARTS.values() if first not in set(parts)]
    if lacking:
        raise ModlibError(f"parts/parts.txt in {root} lacks {lacking[0]!r}")
    located = located[(located.visible == 1) & located.image.isin(images_N)]
    located = located.assign(name=located.part.map(parts)).set_index(["name", "image"])[["x", "y"]]
    sizes_N2 = np.array([_size(root / "images" / name) for name in names])
    points_NP2 = np.full((len(images_N), len(PARTS), 2), np.nan)
    for column, (_, candidates) in enumerate(PARTS.values()):
        for candidate in reversed(candidates):  # so that the first one has the last word
            if candidate in located.index.get_level_values("name"):
                xy_N2 = located.loc[candidate].reindex(images_N).to_numpy(float) / sizes_N2
                known_N = ~np.isnan(xy_N2).any(1)
                points_NP2[known_N, column] = xy_N2[known_N]
    return points_NP2


def _size(path: Path) -> tuple[int, int]:
    """Width and height; 1 by 1 where the header cannot be read: packing tells, or leaves it out."""
    try:
        with Image.open(path) as image:  # reads no further than the header
            return image.size
    except Exception:  # Pillow's plugins raise nearly anything on broken bytes
        return 1, 1


def _table(root: Path, names: list[str], columns: list[str]) -> pd.DataFrame:
    """A file of fields with blanks between; the last of two columns may hold blanks itself."""
    text = text_of(root, names)
    try:
        if len(columns) == 2:
            pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
            if not pairs:
                raise ValueError("it holds no line")
            table = pd.DataFrame(pairs, columns=columns)
            table = table.apply(lambda column: pd.to_numeric(column) if column.name != "name"
                                else column.str.strip())
            for column in columns:
                bad = table[column].isna() | table[column].duplicated() & (column != "train")
                if bad.any():
                    raise ValueError(f"{column} in line {1 + int(bad.argmax())} is missing, or is "
                                     "there twice")
            return table
        # Some rows of the attribute labels have fields too many, at their ends. Of more than
        # MOST_FIELDS, as where a line's end was lost, pandas refuses all rows but the first.
        lines = text.splitlines()
        if lines and len(lines[0].split()) > MOST_FIELDS:
            raise ValueError(f"line 1 has more than {MOST_FIELDS} fields")
        table = pd.read_csv(StringIO("\n".join(lines)), sep=r"\s+", header=None, engine="c",
                            names=[*columns, *range(MOST_FIELDS - len(columns))], dtype=float,
                            index_col=False)[columns]
        if table.isna().any(axis=None):
            raise ValueError(f"line {1 + int(table.isna().any(axis=1).argmax())} has too few "
                             "numbers")
        return table
    except (ValueError, AttributeError) as error:
        raise ModlibError(f"{names[0]} in {root} is not as CUB-200-2011 has it: {error}") from error
