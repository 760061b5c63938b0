"""Measure how CelebA's attributes occur and co-occur: the table that the toy faces are drawn from.

    python tools/measure_attribute_statistics.py PATH [--output modlib/attribute_statistics.json]

PATH is ``list_attr_celeba.txt`` or a zip archive that holds it. The table keeps, for the toy faces'
attributes and for Male (which the drawing uses but no task does), the share of images with each
attribute, the phi correlation of each pair, and a latent correlation: that of two standard normals
which, cut at the thresholds that give the two shares, occur together as often as the attributes do
(the tetrachoric correlation: K. Pearson, "On the correlation of characters not quantitatively
measurable", 1900).

Shapes: N images, K attributes.
"""

import argparse
import io
import json
import zipfile
from pathlib import Path
from statistics import NormalDist

import numpy as np

from modlib.errors import ModlibError, unknown_name
from modlib.toy_faces import STATISTICS_PATH, TOY_FACE_ATTRIBUTES

FILE_NAME = "list_attr_celeba.txt"


def read_attributes(path: str | Path, names: tuple[str, ...]) -> np.ndarray:
    """Read the labels of ``names``, bool (N, K), from the attribute file or a zip that holds it.

    Raises:
        ModlibError: the file is not there, not in the archive, or lacks one of ``names``.
    """
    path = Path(path)
    if not path.is_file():
        raise ModlibError(f"path {str(path)!r} is not a file; give {FILE_NAME} or a zip with it.")
    text = _read_zipped(path) if zipfile.is_zipfile(path) else path.read_text()
    lines = text.splitlines()
    header = lines[1].split() if len(lines) > 2 else []
    for name in names:
        if name not in header:
            raise unknown_name("attribute", name, header, where=path.name)
    columns = [1 + header.index(name) for name in names]
    body = io.StringIO("\n".join(lines[2:]))
    return np.loadtxt(body, dtype=np.int8, usecols=columns, ndmin=2) > 0


def _read_zipped(path: Path) -> str:
    with zipfile.ZipFile(path) as archive:
        found = [name for name in archive.namelist() if name.endswith(FILE_NAME)]
        if not found:
            raise ModlibError(f"archive {str(path)!r} holds no {FILE_NAME}.")
        return archive.read(found[0]).decode()


def bivariate_normal(
    h: np.ndarray, k: np.ndarray, rho: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """P(X < h, Y < k) of standard normals with correlation rho, and its derivative by rho.

    Plackett's integral over the angle asin(rho), by Gauss-Legendre quadrature: the derivative is
    the density at (h, k). The arguments are float64 of one shape, |rho| < 1.
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    theta = np.arcsin(rho)[..., None] * (nodes + 1) / 2
    h2k2, hk = (h**2 + k**2)[..., None], (h * k)[..., None]
    exponent = -(h2k2 - 2 * hk * np.sin(theta)) / (2 * np.cos(theta) ** 2)
    integral = (np.exp(exponent) * weights).sum(-1) * np.arcsin(rho) / 2
    cdf = np.vectorize(NormalDist().cdf)
    rest = 1 - rho**2
    density = np.exp(-(h**2 + k**2 - 2 * h * k * rho) / (2 * rest)) / (2 * np.pi * np.sqrt(rest))
    return cdf(h) * cdf(k) + integral / (2 * np.pi), density


def quadrants(a: np.ndarray, b: np.ndarray, both: np.ndarray) -> np.ndarray:
    """The 2x2 tables of pairs (4, pairs): both, only the first, only the second, neither."""
    return np.stack([both, a - both, b - both, 1 - a - b + both])


def phi_correlations(marginals_K: np.ndarray, both_KK: np.ndarray) -> np.ndarray:
    """Correlations of the attributes themselves, as 0 and 1; float64 (K, K)."""
    spread_K = np.sqrt(marginals_K * (1 - marginals_K))
    return (both_KK - np.outer(marginals_K, marginals_K)) / np.outer(spread_K, spread_K)


def fit_latent_correlations(
    marginals_K: np.ndarray, both_KK: np.ndarray, steps: int = 3000
) -> np.ndarray:
    """The valid correlation matrix under which every pair's 2x2 table is likeliest; float64 (K, K).

    Pair by pair this is the tetrachoric correlation, but those of CelebA are together no
    correlation matrix (the smallest eigenvalue is -0.8: no bald woman, no bald head with bangs).
    Clipping eigenvalues would spoil the common pairs to save the rare ones; the sum of the
    pairs' likelihoods weighs them by what the images say about each. Each attribute is a unit
    vector, a correlation is an inner product, and Adam moves the vectors.

    Args:
        marginals_K: share of images with each attribute, in (0, 1).
        both_KK: share of images with both attributes of a pair.
        steps: of Adam, at a rate falling to zero.
    """
    row, column = np.triu_indices(len(marginals_K), 1)
    threshold_K = np.vectorize(NormalDist().inv_cdf)(marginals_K)
    a, b = marginals_K[row], marginals_K[column]
    seen = quadrants(a, b, both_KK[row, column])
    sign = np.array([1, -1, -1, 1])[:, None]
    values, axes = np.linalg.eigh(phi_correlations(marginals_K, both_KK))
    vectors = axes * np.sqrt(np.maximum(values, 1e-3))
    mean, square = np.zeros_like(vectors), np.zeros_like(vectors)
    for step in range(1, steps + 1):
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / length
        rho = np.clip((unit @ unit.T)[row, column], -0.9995, 0.9995)
        expected_11, slope = bivariate_normal(threshold_K[row], threshold_K[column], rho)
        expected = quadrants(a, b, expected_11)
        by_rho = -slope * (sign * seen / np.maximum(expected, 1e-7)).sum(0)
        gradient = np.zeros_like(vectors)
        np.add.at(gradient, row, by_rho[:, None] * unit[column])
        np.add.at(gradient, column, by_rho[:, None] * unit[row])
        gradient -= (gradient * unit).sum(1, keepdims=True) * unit
        mean = 0.9 * mean + 0.1 * gradient / length
        square = 0.99 * square + 0.01 * (gradient / length) ** 2
        move = (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-9)
        vectors -= 0.02 * (1 - step / steps) * move
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def measure(labels_NK: np.ndarray, names: tuple[str, ...], source: str = FILE_NAME) -> dict:
    """The whole table, ready for JSON, from bool labels (N, K)."""
    labels = labels_NK.astype(float)
    marginals, both = labels.mean(0), labels.T @ labels / len(labels)
    latent = fit_latent_correlations(marginals, both)
    return {
        "provenance": {"source": source, "images": len(labels)},
        "attributes": list(names),
        "marginals": marginals.round(6).tolist(),
        "phi_correlations": phi_correlations(marginals, both).round(6).tolist(),
        "latent_correlations": latent.round(6).tolist(),
    }


def to_json(table: dict) -> str:
    """One row of a matrix to a line, so that a change of the table can be read as a diff."""
    def dump(value):
        nested = isinstance(value, list) and isinstance(value[0], list)
        rows = ",\n    ".join(map(json.dumps, value)) if nested else ""
        return f"[\n    {rows}\n  ]" if nested else json.dumps(value)

    lines = [f'  "{key}": {dump(value)}' for key, value in table.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help=f"{FILE_NAME}, or a zip archive that holds it")
    parser.add_argument("--output", type=Path, default=STATISTICS_PATH)
    arguments = parser.parse_args()
    names = (*TOY_FACE_ATTRIBUTES, "Male")
    arguments.output.write_text(to_json(measure(read_attributes(arguments.path, names), names)))
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
