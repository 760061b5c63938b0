"""The toy faces' drawing board: a batch of faces in the making, and the shapes to paint on it.

A shape is a signed distance, negative inside, so one clip gives an antialiased edge at any size,
and a smooth step a soft shadow. Coordinates belong to the face: x to the right, y downward, the
origin between the cheeks, the head about 1.2 wide and 1.5 high. Left and right features are one
shape in ``ax``, the distance from the face's middle line. Only exactly rounded operations
(+ - * / sqrt, comparisons) touch pixels, so a face is the same to the bit whichever batch it is
drawn in.

Shapes: B faces, C=3 channels (RGB, 0 to 1), H W height and width. A number per face is (B, 1, 1),
a colour per face (B, 3, 1, 1), both float32.
"""

import copy
from collections.abc import Mapping, Sequence

import numpy as np

# What an identity fixes besides the attributes; each is one uniform number in [0, 1).
NUISANCES = (
    "skin", "hair", "iris", "lips", "cloth", "sex", "length", "tucked", "part", "volume", "phase",
    "scale", "tilt", "shift_x", "shift_y", "yaw", "light", "exposure", "warmth", "vignette",
    "back_a", "back_b", "back_angle", "blob_x", "blob_y", "blob_r", "glasses", "earrings", "noise",
    "eye_size", "eye_gap", "brow_height", "nose_length", "mouth_height", "face_width", "jaw",
    "gaze", "grey", "forehead", "quiff",
)  # fmt: skip


class Scene:
    """A batch of faces in the making: labels, nuisances, pixel coordinates and the picture so far.

    Args:
        labels: attribute name to bool (B,); Male may be absent, then the identity decides.
        names: the attributes; each also has a strength per identity.
        identity_seeds: B seeds, whole numbers >= 0.
        size: height and width in pixels.
    """

    def __init__(self, labels: Mapping[str, np.ndarray], names: Sequence[str],
                 identity_seeds: Sequence[int], size: int):
        generators = [np.random.default_rng(seed) for seed in identity_seeds]
        draws = np.stack([g.random(len(NUISANCES) + len(names), np.float32) for g in generators])
        self.grain = np.stack([g.random((size, size), np.float32) for g in generators]) * 2 - 1
        numbers = dict(zip((*NUISANCES, *names), draws.T[:, :, None, None], strict=True))
        self.u = {name: numbers[name] for name in NUISANCES}
        given = {name: np.asarray(labels[name])[:, None, None].astype(np.float32) for name in names}
        self.has = given
        self.strength = {name: given[name] * (0.7 + 0.5 * numbers[name]) for name in names}
        male = labels.get("Male")
        self.male = ((self.u["sex"] < 0.45) if male is None
                     else np.asarray(male)[:, None, None]).astype(np.float32)
        self._place(size)
        self.rgb = np.zeros((len(draws), 3, size, size), np.float32)

    def _place(self, size: int) -> None:
        scale, tilt = self.between("scale", 0.86, 1.06), self.between("tilt", -0.18, 0.18)
        cos = 1 - tilt**2 / 2  # to 5e-5 at these angles
        grid = ((np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1)[None]
        u = grid[:, None, :] - self.between("shift_x", -0.11, 0.11)
        v = grid[:, :, None] - self.between("shift_y", -0.04, 0.10)
        self.view = (grid[:, None, :], grid[:, :, None])
        self.x, self.y = (cos * u + tilt * v) / scale, (cos * v - tilt * u) / scale
        self.pixel = 2 / size / scale
        yaw = self.between("yaw", -1, 1)
        self.fx = self.x - 0.07 * yaw
        self.nose_x = self.x - 0.12 * yaw
        self.ax = np.abs(self.fx)

    def band(self, top: float, bottom: float) -> "Scene":
        """The same scene, only the rows that reach into the face's heights ``top`` to ``bottom``.

        A feature costs what its rows cost; the picture is shared, so painting here paints it.
        """
        ends = self.y[:, :, [0, -1]]  # y is linear along a row, so its ends are its extremes
        inside_H = ((ends.max(2) > top) & (ends.min(2) < bottom)).any(0)
        rows = np.flatnonzero(inside_H)
        rows = slice(rows[0], rows[-1] + 1) if rows.size else slice(0, 1)
        part = copy.copy(self)
        for name in ("x", "y", "fx", "nose_x", "ax", "outline", "grain"):
            setattr(part, name, getattr(self, name)[:, rows])
        part.rgb = self.rgb[:, :, rows]
        return part

    def between(self, name: str, low: float, high: float) -> np.ndarray:
        """The nuisance ``name`` stretched to [low, high]."""
        return low + (high - low) * self.u[name]

    def either(self, name: str, yes: float, no: float) -> np.ndarray:
        """``yes`` for the faces with the attribute, ``no`` for the others."""
        return no + (yes - no) * self.has[name]

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """Opacity (0 to 1) of a sharp shape: its edge is one pixel wide."""
        return np.clip(0.5 - distance / self.pixel, 0, 1)

    def paint(self, opacity: np.ndarray, colour: np.ndarray) -> None:
        """Lay ``colour``, (B or 1, 3, 1, 1) or (B, 3, H, W), over the picture where opacity > 0."""
        touched_BH = opacity.max(2) > 0
        faces, rows = np.flatnonzero(touched_BH.any(1)), np.flatnonzero(touched_BH.any(0))
        if not rows.size:
            return
        rows = slice(rows[0], rows[-1] + 1)
        faces = slice(None) if len(faces) == len(opacity) else faces
        colour = colour[faces] if len(colour) > 1 else colour
        colour = colour[:, :, rows] if colour.shape[2] > 1 else colour
        layer = colour - self.rgb[faces, :, rows]
        layer *= opacity[faces, rows][:, None]
        self.rgb[faces, :, rows] += layer


def rgb(values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, np.float32)[None, :, None, None]


def palette(colours: Sequence[Sequence[int]], at_B11: np.ndarray, mix: bool = True) -> np.ndarray:
    """The colour at a place in [0, 1] along a list; between two of them if ``mix``."""
    table = np.asarray(colours, np.float32) / 255
    if not mix:
        index = np.minimum((at_B11[:, 0, 0] * len(table)).astype(int), len(table) - 1)
        return table[index][:, :, None, None]
    at = np.clip(at_B11[:, 0, 0], 0, 1) * (len(table) - 1)
    low = np.minimum(at.astype(int), len(table) - 2)
    return (table[low] + (at - low)[:, None] * (table[low + 1] - table[low]))[:, :, None, None]


def soft(distance: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Opacity of a shape whose edge fades smoothly over ``width``."""
    t = np.clip(0.5 - distance / width, 0, 1)
    return t * t * (3 - 2 * t)


def wave(t: np.ndarray) -> np.ndarray:
    """A sine-like wave of period 1 made of parabolas, -1 to 1."""
    t = 2 * (t - np.floor(t)) - 1
    return 4 * t * (1 - np.abs(t))


def ellipse(x, y, rx, ry) -> np.ndarray:
    """Signed distance (first order) to an ellipse at the origin."""
    a, b = x / rx, y / ry
    k0 = np.sqrt(a * a + b * b)
    a, b = a / rx, b / ry
    return k0 * (k0 - 1) / (np.sqrt(a * a + b * b) + 1e-6)


def segment(x, y, start: tuple, end: tuple) -> np.ndarray:
    """Distance to a straight segment."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    t = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    px, py = x - start[0] - t * dx, y - start[1] - t * dy
    return np.sqrt(px * px + py * py)


def bump(t: np.ndarray) -> np.ndarray:
    """1 - t², and 0 outside [-1, 1]: the profile of lips, lids, brows."""
    return np.maximum(1 - t * t, 0)
