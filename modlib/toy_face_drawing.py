"""Draws the toy faces: layers of shapes, from the background to the light that falls on it all.

Here are the looks that layers share, the order of the layers, and those around and under the
features: background, neck, head, ears, accessories, light. What is on the face is in
``toy_face_features``, hair and beards in ``toy_face_hair``, coordinates in ``toy_face_canvas``.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from modlib.toy_face_canvas import Scene, ellipse, palette, rgb, soft
from modlib.toy_face_features import age_lines, brows, eye_bags, eyes, mouth, nose, skin_relief
from modlib.toy_face_hair import back_hair, beard, front_hair, mustache, sideburns, stubble

SKIN = ((255, 226, 202), (247, 206, 173), (236, 186, 147), (217, 159, 117),
        (194, 136, 96), (166, 111, 76), (138, 90, 62), (114, 74, 54))
HAIR = ((36, 29, 34), (58, 38, 32), (92, 57, 38), (128, 74, 44),
        (160, 76, 42), (196, 138, 72), (222, 180, 108))
BACKDROP = ((122, 178, 190), (158, 196, 164), (244, 204, 140), (236, 168, 140), (178, 168, 208),
            (146, 172, 214), (226, 206, 188), (204, 220, 226), (94, 124, 140), (214, 156, 172))
CLOTHES = ((52, 74, 104), (176, 70, 64), (70, 116, 102), (232, 226, 214), (92, 70, 112),
           (214, 150, 70), (58, 58, 66), (120, 150, 180))


def draw(labels: Mapping[str, np.ndarray], names: Sequence[str], identity_seeds: Sequence[int],
         size: int) -> np.ndarray:
    """Draw B faces, uint8 (B, 3, size, size); the arguments, unchecked, are those of ``Scene``."""
    scene = Scene(labels, names, identity_seeds, size)
    _choose_looks(scene)
    for layer, heights in LAYERS.items():
        layer(scene.band(*heights) if heights else scene)
    return (np.clip(scene.rgb, 0, 1) * 255 + 0.5).astype(np.uint8)


def _choose_looks(s: Scene) -> None:
    """Colours and proportions that several layers share."""
    old, chubby, oval = 1 - s.has["Young"], s.strength["Chubby"], s.has["Oval_Face"]
    tone = s.u["skin"] ** 2 * (0.4 + 0.6 * s.u["skin"])
    s.skin = palette(SKIN, tone)
    s.shadow = s.skin * rgb((0.74, 0.62, 0.60))
    s.line = s.skin * rgb((0.50, 0.36, 0.34))
    s.glow = s.skin + (0.16 + 0.24 * s.skin[:, :1]) * (rgb((1, 0.95, 0.88)) - s.skin)
    natural = palette(HAIR, s.u["hair"] * (1 - 0.85 * np.minimum(tone * 1.6, 1)))
    grey = (old * s.between("grey", 0.72, 0.97))[:, None]
    s.hair = natural + grey * (rgb((0.80, 0.80, 0.82)) - natural)
    s.beard = s.hair * (0.62 + 0.30 * grey)
    s.width = 0.575 + 0.02 * s.male - 0.055 * oval + 0.105 * chubby
    s.width = s.width + s.between("face_width", -0.015, 0.015)
    s.chin = 0.70 + 0.085 * oval
    s.taper = 0.30 * oval + (1 - oval) * s.between("jaw", 0.06, 0.16) - 0.12 * chubby
    s.square = (1 - oval) * (0.34 + 0.16 * s.male) + 0.12 * chubby
    s.outline = _head_distance(s, s.x, s.y)
    s.long = np.where(s.male > 0, s.u["length"] < 0.08, s.u["length"] < 0.86) * (1 - s.has["Bald"])
    s.hem = np.where(s.u["length"] * (1 - 0.9 * s.male) < 0.3, 0.50 + s.u["length"], 1.6)
    s.loose = s.long * (s.u["tucked"] > 0.35)
    s.eye_x, s.eye_y = 0.245 + s.between("eye_gap", -0.015, 0.015), 0.0
    s.mouth_y = 0.455 + s.between("mouth_height", -0.015, 0.015)


def _head_distance(s: Scene, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to the head: half ellipse above, tapered and squared jaw below."""
    lower = y > 0
    t = np.clip(y / s.chin, 0, 1.2)
    a = x / (s.width * (1 - s.taper * t * t))
    b = y / np.where(lower, s.chin, np.float32(0.80))
    square = np.where(lower, s.square, np.float32(0.10))
    a2, b2 = np.minimum(a * a, 1), np.minimum(b * b, 1)
    value = a * a + b * b - square * a2 * b2 - 1
    gx, gy = 2 * a / s.width * (1 - square * b2), 2 * b / 0.75 * (1 - square * a2)
    return value / (np.sqrt(gx * gx + gy * gy) + 0.3)


def _background(s: Scene) -> None:
    u, v = s.view
    lean = s.between("back_angle", -0.5, 0.5)
    first = palette(BACKDROP, s.u["back_a"], mix=False)
    second = palette(BACKDROP, s.u["back_b"], mix=False)
    slope = np.clip(0.5 + 0.5 * (v * (1 - np.abs(lean)) + u * lean), 0, 1)
    s.rgb += first + slope[:, None] * 0.75 * (second - first)
    for side, brightness in ((1, 0.30), (-1, -0.16)):
        x = u - side * s.between("blob_x", 0.3, 1.0)
        y = v - side * s.between("blob_y", -0.9, 0.3)
        radius = s.between("blob_r", 0.25, 0.6)
        alpha = soft(np.sqrt(x * x + y * y) - radius, 0.25) * abs(brightness)
        s.paint(alpha, rgb((1, 1, 1) if side > 0 else (0.15, 0.18, 0.25)))


def _neck(s: Scene) -> None:
    half = 0.25 + 0.07 * s.male + 0.09 * s.strength["Chubby"]
    flare = np.maximum(s.y - 0.80, 0)
    neck = s.cover(np.maximum(np.abs(s.x) - half - flare * flare * 2, 0.3 - s.y))
    s.paint(neck, s.skin * rgb((0.93, 0.87, 0.85)))
    s.paint(neck * soft(_head_distance(s, s.x, s.y - 0.10), 0.12) * 0.75, s.shadow)
    shoulders = s.cover(ellipse(s.x, s.y - 1.62, 1.05, 0.72 - 0.03 * (1 - s.male)))
    collar = s.cover(-ellipse(s.x, s.y - 0.88, half * 1.05, 0.17))
    cloth = palette(CLOTHES, s.u["cloth"], mix=False)
    s.paint(shoulders * s.cover(ellipse(s.x, s.y - 0.88, half * 1.22, 0.21)), cloth * 0.8)
    s.paint(shoulders * collar * s.cover(-ellipse(s.x, s.y - 0.88, half * 1.22, 0.21)), cloth)
    second = s.strength["Double_Chin"]
    if second.any():
        under = ellipse(s.x, s.y - s.chin + 0.01, 0.40 + 0.04 * s.has["Chubby"], 0.165)
        s.paint(s.has["Double_Chin"] * soft(under - 0.03, 0.10) * 0.7, s.shadow)
        s.paint(s.has["Double_Chin"] * s.cover(under), s.skin * rgb((0.96, 0.91, 0.89)))


def _ears(s: Scene) -> None:
    """Outside the head and over short hair; under long hair that falls loose."""
    x, y = np.abs(s.x) - s.width - 0.012, s.y - 0.05
    seen = s.cover(-s.outline) * (1 - s.loose)
    s.paint(seen * s.cover(ellipse(x, y, 0.075, 0.130)), s.skin * rgb((0.95, 0.89, 0.87)))
    s.paint(seen * soft(ellipse(x - 0.01, y, 0.035, 0.08), 0.05) * 0.6, s.shadow)


def _head(s: Scene) -> None:
    inside = s.cover(s.outline)
    lit = s.between("light", -1, 1) * s.x / s.width
    form = 1 - 0.13 * soft(-s.outline - 0.07, 0.22) + 0.09 * lit
    tint = s.skin * form[:, None]
    s.paint(inside, tint)
    crease = np.abs(s.outline) - 0.016
    low = np.clip((s.y - 0.42) / 0.15, 0, 1) * s.has["Double_Chin"]
    s.paint(s.cover(crease) * low * 0.85, s.shadow * 0.85)
    blush = soft(ellipse(s.ax - 0.34, s.y - 0.22, 0.16, 0.11), 0.18)
    s.paint(blush * (0.20 + 0.12 * s.has["Smiling"]), s.skin * rgb((1.0, 0.72, 0.68)))
    shine = s.has["Bald"] * soft(ellipse(s.fx + 0.16, s.y + 0.58, 0.17, 0.09), 0.10)
    s.paint(shine * 0.75, s.glow)


def _accessories(s: Scene) -> None:
    earrings = (s.u["earrings"] < 0.30) * (1 - s.male)
    drop = np.sqrt((np.abs(s.x) - s.width - 0.03) ** 2 + (s.y - 0.21) ** 2)
    s.paint(s.cover(drop - 0.033) * earrings, rgb((0.96, 0.80, 0.42)))
    glasses = (s.u["glasses"] < 0.07).astype(np.float32)
    if not glasses.any():
        return
    dx, dy = s.ax - s.eye_x - 0.005, s.y - s.eye_y - 0.015
    lens = ellipse(dx, dy, 0.195, 0.155)
    rim = np.minimum(np.abs(lens), np.maximum(np.abs(s.y - s.eye_y + 0.01), s.ax - 0.06))
    arm = np.maximum(np.abs(s.y - s.eye_y + 0.02), np.maximum(0.43 - s.ax, np.abs(s.x) - s.width))
    s.paint(soft(lens, 0.03) * glasses * 0.10, rgb((0.9, 0.95, 1)))
    s.paint(s.cover(np.minimum(rim, arm) - 0.013) * glasses, rgb((0.14, 0.13, 0.17)))


def _light(s: Scene) -> None:
    """Light from one side, exposure, warmth, vignette and the sensor's grain."""
    u, v = s.view
    gradient = 1 + 0.14 * s.between("light", -1, 1) * u - 0.05 * v
    gradient = gradient * s.between("exposure", 0.86, 1.08)
    gradient = gradient - s.between("vignette", 0, 0.10) * (u * u + v * v)
    warm = s.between("warmth", -0.05, 0.05)[:, None]
    s.rgb *= gradient[:, None] * (1 + warm * rgb((1, 0.1, -1)))
    s.rgb += (s.grain * s.between("noise", 0.008, 0.036))[:, None]


# From back to front, each with the heights of the face that it can reach (None: all of them).
LAYERS = {
    _background: None, back_hair: None, _neck: (0.25, 9), _head: None, skin_relief: (-0.05, 0.65),
    age_lines: (-0.5, 0.7), stubble: (-0.15, 9), eye_bags: (-0.05, 0.2), nose: (-0.05, 0.45),
    eyes: (-0.25, 0.2), beard: (0, 9), mouth: (0.2, 0.75), mustache: (0.2, 0.6),
    brows: (-0.5, 0.1), sideburns: (-0.4, 0.4), front_hair: None, _ears: (-0.15, 0.25),
    _accessories: (-0.25, 0.3), _light: None,
}  # fmt: skip
