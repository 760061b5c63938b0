"""Procedural faces with CelebA's attributes: the data that the experiments use by default.

Attributes come first: correlated standard normals, cut at thresholds (a Gaussian copula), so that
each is as frequent and each pair as correlated as on CelebA. ``attribute_statistics.json`` holds
those numbers and ``tools/measure_attribute_statistics.py`` measures them. Then
``toy_face_drawing`` draws each face with its attributes on an identity of its own: skin, hair,
pose, light, background and framing.

Shapes: N images, T=22 attributes, K=23 with Male, C=3 channels (RGB), H W height and width.
"""

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from modlib.errors import ModlibError, unknown_name
from modlib.toy_face_drawing import draw

STATISTICS_PATH = Path(__file__).with_name("attribute_statistics.json")
# The paper's 20 attributes, then two for the experiment on relevance.
TOY_FACE_ATTRIBUTES = (
    "Smiling", "5_o_Clock_Shadow", "Bald", "Arched_Eyebrows", "Chubby", "Double_Chin",
    "High_Cheekbones", "Goatee", "Mustache", "No_Beard", "Sideburns", "Bangs", "Straight_Hair",
    "Wavy_Hair", "Receding_Hairline", "Bags_Under_Eyes", "Bushy_Eyebrows", "Young", "Oval_Face",
    "Mouth_Slightly_Open", "Big_Lips", "Big_Nose",
)  # fmt: skip
PLAIN_FACE = {name: name in ("Young", "No_Beard") for name in TOY_FACE_ATTRIBUTES}
SIZES = (32, 1024)
BATCH_PIXELS = 16 * 64 * 64  # a batch's colour planes then fit a core's cache


def sample_attributes(count: int, seed: int) -> np.ndarray:
    """Draw the attributes of ``count`` faces with CelebA's marginals and pairwise correlations.

    Args:
        count: number of faces N, at least 1.
        seed: whole number, at least 0; row n depends on ``(seed, n)`` alone.

    Returns:
        bool (N, T), in the order of ``TOY_FACE_ATTRIBUTES``.

    Raises:
        ModlibError: ``count`` or ``seed`` is no whole number, or too small.
    """
    _check_whole("count", count, 1)
    _check_whole("seed", seed, 0)
    return _sample(count, seed)[:, : len(TOY_FACE_ATTRIBUTES)]


def draw_face(attributes: Mapping[str, bool], identity_seed: int = 0,
              size: int = 64) -> np.ndarray:
    """Draw one face with exactly the given attributes.

    Everything else (skin, hair, pose, light, background, grain, how strong each attribute is)
    depends on ``identity_seed`` alone: two calls that differ in one attribute give the same person
    with and without it. Where two attributes contradict each other, a bald head has no bangs, and
    bangs over a receding hairline are a thin fringe.

    Args:
        attributes: name to bool, over ``TOY_FACE_ATTRIBUTES``. A name left out is as on a plain
            face: Young and No_Beard true, all others false. ``"Male"``, which changes hair length,
            lashes, lips and neck, may be given too; left out, the identity decides.
        identity_seed: whole number, at least 0.
        size: height and width in pixels, 32 to 1024.

    Returns:
        uint8 (H, W, C), RGB.

    Raises:
        ModlibError: an unknown attribute, a value that is no bool, a bad seed or size.
    """
    allowed = (*TOY_FACE_ATTRIBUTES, "Male")
    for name, value in attributes.items():
        if name not in allowed:
            raise unknown_name("attribute", name, allowed)
        if not isinstance(value, (bool, np.bool_)):
            raise ModlibError(f"attribute {name!r} is {value!r}; it must be True or False.")
    _check_whole("identity_seed", identity_seed, 0)
    _check_whole("size", size, *SIZES)
    labels = {name: np.array([value]) for name, value in (PLAIN_FACE | dict(attributes)).items()}
    return draw(labels, TOY_FACE_ATTRIBUTES, [identity_seed], size)[0].transpose(1, 2, 0).copy()


def make_toy_faces(
    count: int = 4000, image_size: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Sample the attributes of ``count`` faces and draw them.

    Args:
        count: number of faces N, at least 1.
        image_size: height and width in pixels, 32 to 1024.
        seed: whole number, at least 0; face n depends on ``(seed, n, image_size)`` alone, not on
            ``count`` or the number of threads.

    Returns:
        images, uint8 (N, C, H, W), RGB; and labels, bool (N, T), as ``sample_attributes``.

    Raises:
        ModlibError: an argument is no whole number, or out of its range.
    """
    _check_whole("count", count, 1)
    _check_whole("image_size", image_size, *SIZES)
    _check_whole("seed", seed, 0)
    labels_NK = _sample(count, seed)
    images = np.empty((count, 3, image_size, image_size), np.uint8)
    batch = max(1, BATCH_PIXELS // image_size**2)

    def draw_batch(start: int) -> None:
        faces = range(start, min(start + batch, count))
        labels = dict(zip((*TOY_FACE_ATTRIBUTES, "Male"), labels_NK[faces].T, strict=True))
        identities = [seed * 2**32 + n for n in faces]
        images[faces.start : faces.stop] = draw(labels, TOY_FACE_ATTRIBUTES, identities, image_size)

    # Threads, because numpy lets go of the interpreter while it works and processes would have to
    # import a notebook's main module.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        list(threads.map(draw_batch, range(0, count, batch)))
    return images, labels_NK[:, : len(TOY_FACE_ATTRIBUTES)].copy()


def _sample(count: int, seed: int) -> np.ndarray:
    """Attributes and, last, Male: bool (N, K)."""
    factor_KK, threshold_K = _copula()
    normals_NK = np.random.default_rng(seed).standard_normal((count, len(threshold_K)))
    # einsum, not a BLAS product, whose last bits would depend on the number of rows.
    return np.einsum("nk,jk->nj", normals_NK, factor_KK) < threshold_K


@cache
def _copula() -> tuple[np.ndarray, np.ndarray]:
    """The symmetric root of the latent correlations, (K, K), and the thresholds, (K,)."""
    table = json.loads(STATISTICS_PATH.read_text())
    values, axes = np.linalg.eigh(np.array(table["latent_correlations"]))
    # The table is rounded: its smallest eigenvalues may be a millionth below 0.
    root = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
    root /= np.linalg.norm(root, axis=1, keepdims=True)
    return root, np.array([NormalDist().inv_cdf(share) for share in table["marginals"]])


def _check_whole(name: str, value: object, low: int, high: int | None = None) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ModlibError(f"{name} is {value!r}; it must be a whole number {allowed}.")
