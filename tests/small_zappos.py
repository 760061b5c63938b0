"""A made UT-Zappos50K: a few small pictures, with lists and a table as they lie on disk."""

import io

import numpy as np
from PIL import Image

from modlib.triplets import draw_triplets

TASKS = ("class", "closure", "gender", "heel")
VALUES = {  # each task's categories, in the order of the alphabet
    "class": ("Boots", "Sandals", "Shoes", "Slippers"),
    "closure": ("Buckle", "Lace up", "Slip-On"),
    "gender": ("Men", "Women"),
    "heel": ("1in - 1 3/4in", "5in & over", "Flat"),
}
HEADER = "CID,Category,SubCategory,HeelHeight,Insole,Closure,Gender,Material,ToeStyle"
PER_SPLIT, UNUSED, TRIPLETS = 24, 3, 40
COUNT = 3 * PER_SPLIT + UNUSED
PATHS = [f"Boots/Ankle/A Brand/{100000 + 7 * n}.{n}.jpg" for n in range(COUNT)]
RNG = np.random.default_rng(4)
LABELS = RNG.integers(0, [len(VALUES[task]) for task in TASKS], (COUNT, 4)).astype(np.int16)
PLACES = RNG.permutation(COUNT)  # of the images of train, valid, test, and of those in no list
OF_SPLIT = {name: np.sort(PLACES[n * PER_SPLIT:(n + 1) * PER_SPLIT])
            for n, name in enumerate(("train", "val", "test"))}


def triplets(split: str, task: int) -> np.ndarray:
    """Anchor, positive, negative as places in filenames.json, int64 (K, 3)."""
    return draw_triplets(LABELS[:, task], OF_SPLIT[split], TRIPLETS + task, "holders",
                         np.random.default_rng([task, len(split)]))


def picture(n: int) -> bytes:
    """Wider than high; the first three tasks are told by its colours, the fourth by a stripe."""
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[:] = [60 * LABELS[n, 0], 100 * LABELS[n, 1], 200 * LABELS[n, 2]]
    pixels[20:20 + 15 * LABELS[n, 3]] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def meta_data() -> str:
    lines = [HEADER]
    for n in range(COUNT):
        kind, closure, gender, heel = (
            VALUES[task][LABELS[n, t]] for t, task in enumerate(TASKS))
        cid = f"{100000 + 7 * n}-{n}"
        lines.append(f"{cid},{kind},Ankle,{heel},,{closure},{gender},\"Leather;Suede\",Round")
    return "\n".join(lines) + "\n"


def official(folder: str = "") -> dict[str, bytes]:
    """File name → bytes of the whole data set."""
    files = {"filenames.json": "".join(f"{path}\n" for path in PATHS).encode(),
             "ut-zap50k-data/meta-data.csv": meta_data().encode()}
    for t, task in enumerate(TASKS):
        for split in OF_SPLIT:
            lines = [f"{anchor} {negative} {positive}\n"  # anchor, far, close
                     for anchor, positive, negative in triplets(split, t)]
            files[f"tripletlists/{task}_tripletlist_{split}.txt"] = "".join(lines).encode()
    files |= {f"ut-zap50k-images/{path}": picture(n) for n, path in enumerate(PATHS)}
    return {folder + name: data for name, data in files.items()}
