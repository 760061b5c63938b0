"""The features of the toy faces: cheeks, lines of age, nose, eyes, brows, mouth.

Each is a layer of shapes on a scene; see ``toy_face_canvas`` for coordinates and shapes.
"""

import numpy as np

from modlib.toy_face_canvas import Scene, bump, ellipse, palette, rgb, segment, soft, wave

IRIS = ((70, 44, 30), (98, 62, 36), (92, 110, 62), (66, 118, 150), (104, 132, 150))


def skin_relief(s: Scene) -> None:
    """Cheekbones: a highlight over a slanting hollow. Chubby cheeks: round, low, folded."""
    inside = soft(s.outline + 0.03, 0.06)
    bone = s.strength["High_Cheekbones"]
    ridge = segment(s.ax, s.y, (0.28, 0.18), (0.43, 0.11))
    s.paint(soft(ridge - 0.055, 0.11) * bone * inside * 0.75, s.glow)
    # A wedge that is deep beside the jaw and fades towards the mouth.
    hollow = segment(s.ax, s.y, (0.30, 0.40), (0.56, 0.21))
    fade = np.clip((s.ax - 0.22) / 0.26, 0, 1)
    s.paint(soft(hollow - 0.045, 0.13) * fade * bone * inside * 0.80, s.shadow)
    chubby = s.strength["Chubby"]
    cheek = ellipse(s.ax - 0.40, s.y - 0.32, 0.17, 0.17)
    s.paint(soft(cheek, 0.20) * chubby * inside * 0.45, s.glow * rgb((1, 0.90, 0.88)))
    fold = soft(np.abs(cheek) - 0.004, 0.035) * soft(s.ax - 0.38, 0.12) * soft(0.30 - s.y, 0.12)
    s.paint(fold * chubby * 0.75, s.shadow)


def age_lines(s: Scene) -> None:
    """Lines across the forehead, from nose to mouth, beside the eyes; sagging jowls."""
    old = 1 - s.has["Young"]
    if not old.any():
        return
    lines = np.zeros_like(s.x)
    for y, half in ((-0.43, 0.24), (-0.35, 0.30), (-0.27, 0.20)):
        curve = y + 0.012 * wave(1.3 * s.fx + s.u["phase"])
        lines += soft(np.abs(s.y - curve) - 0.006, 0.030) * soft(s.ax - half, 0.10) * 0.65
    fold = segment(s.ax, s.y, (0.115, 0.245), (0.27, 0.43))
    lines += soft(fold - 0.008, 0.035) * 0.85
    jowl = segment(s.ax, s.y, (0.27, 0.50), (0.255, 0.60))
    lines += soft(jowl - 0.006, 0.035) * 0.6
    for rise in (-0.07, 0.0, 0.07):
        foot = segment(s.ax, s.y, (0.415, s.eye_y + 0.4 * rise), (0.50, s.eye_y + rise + 0.01))
        lines += soft(foot - 0.003, 0.028) * 0.6
    s.paint(np.minimum(lines, 0.9) * old * soft(s.outline + 0.02, 0.05), s.shadow * 0.88)


def eye_bags(s: Scene) -> None:
    amount = s.strength["Bags_Under_Eyes"]
    if not amount.any():
        return
    dx, dy = (s.ax - s.eye_x) / 0.155, s.y - s.eye_y
    top, bottom = 0.055 * bump(dx), 0.02 + 0.115 * bump(dx)
    pouch = soft(np.maximum(top - dy, dy - bottom), 0.03) * (np.abs(dx) < 1)
    s.paint(pouch * np.minimum(amount, 1) * 0.95, s.skin * rgb((0.62, 0.48, 0.58)))
    rim = soft(np.abs(dy - bottom) - 0.006, 0.03) * (np.abs(dx) < 0.9)
    s.paint(rim * amount * 0.75, s.line)


def nose(s: Scene) -> None:
    big = s.strength["Big_Nose"]
    x, y = s.nose_x, s.y - 0.20 - s.between("nose_length", -0.015, 0.015) - 0.015 * big
    half, high = 0.064 + 0.076 * big, 0.050 + 0.044 * big
    side = np.where(s.u["light"] > 0.5, np.float32(-1), np.float32(1))
    bridge = segment(x * side, y, (0.035 + 0.02 * big, -0.17), (half * 0.85, -0.02))
    s.paint(soft(bridge - 0.012 - 0.012 * big, 0.06) * 0.50, s.shadow)
    s.paint(soft(ellipse(x, y - 0.022, half * 1.12, high * 1.05), 0.04) * 0.85, s.shadow)
    s.paint(soft(ellipse(x, y, half, high), 0.03), s.skin * rgb((1.0, 0.955, 0.93)))
    wing = ellipse(np.abs(x) - half, y - 0.012, 0.022 + 0.026 * big, 0.026 + 0.026 * big)
    wings = soft(wing, 0.025) * s.either("Big_Nose", 0.85, 0.35)
    s.paint(wings, s.skin * rgb((0.90, 0.80, 0.77)))
    nostril_x, nostril_y = np.abs(x) - half * 0.55, y - high * 0.80
    nostril = ellipse(nostril_x, nostril_y, 0.018 + 0.018 * big, 0.012 + 0.010 * big)
    s.paint(s.cover(nostril) * 0.85, s.line * 0.8)
    s.paint(soft(ellipse(x + side * 0.02, y + 0.01, 0.030 + 0.02 * big, 0.028), 0.05) * 0.7, s.glow)


def eyes(s: Scene) -> None:
    old, smile = 1 - s.has["Young"], s.has["Smiling"]
    size = s.between("eye_size", 0.92, 1.06)
    wide = 0.140 * size
    dx, dy = s.ax - s.eye_x, s.y - s.eye_y
    arch = bump(dx / wide)
    top, bottom = -(0.088 - 0.018 * old) * size * arch, (0.058 - 0.022 * smile) * size * arch
    open_eye = s.cover(np.maximum(top - dy, dy - bottom)) * (np.abs(dx) < wide)
    crease = soft(np.abs(dy - top + 0.035) - 0.008, 0.03)
    s.paint(crease * soft(np.abs(dx) - wide, 0.05) * 0.5, s.shadow)
    s.paint(open_eye, rgb((0.98, 0.97, 0.95)))
    # The two eyes look the same way, so the iris leaves the mirrored coordinate.
    gaze = s.between("gaze", -0.025, 0.025)
    ix = dx - gaze * np.where(s.fx < 0, np.float32(-1), np.float32(1))
    iris = np.sqrt(ix * ix + (dy + 0.008) ** 2)
    colour = palette(IRIS, s.u["iris"] * (1 - 0.8 * (s.u["skin"] > 0.75)))
    s.paint(open_eye * s.cover(iris - 0.066 * size), colour)
    s.paint(open_eye * s.cover(iris - 0.034 * size), rgb((0.06, 0.05, 0.06)))
    s.paint(open_eye * soft(dy - top - 0.02, 0.04) * 0.35, rgb((0.25, 0.20, 0.22)))
    glint = np.sqrt((np.where(s.fx < 0, -dx, dx) + 0.02) ** 2 + (dy + 0.035) ** 2)
    s.paint(open_eye * s.cover(glint - 0.018), rgb((1, 1, 1)))
    lash = 0.012 + 0.010 * (1 - s.male) + 0.010 * (1 - s.male) * np.clip(dx / wide, 0, 1)
    lid = s.cover(np.abs(dy - top) - lash) * s.cover(np.abs(dx) - wide)
    wing = segment(dx, dy, (wide * 0.9, -0.01), (wide + 0.045, -0.055))
    lid = np.maximum(lid, s.cover(wing - 0.011) * (1 - s.male))
    s.paint(lid * 0.95, s.line * 0.35)
    s.paint(s.cover(np.abs(dy - bottom) - 0.005) * (np.abs(dx) < wide) * 0.45, s.line)


def brows(s: Scene) -> None:
    bushy, arched = s.strength["Bushy_Eyebrows"], s.strength["Arched_Eyebrows"]
    dx = s.ax - s.eye_x - 0.012
    rise = 0.008 + 0.092 * arched
    height = s.eye_y - 0.175 + s.between("brow_height", -0.012, 0.012) - 0.010 * bushy
    peak = (dx - 0.035) / 0.16
    curve = height + 0.035 * s.has["Arched_Eyebrows"] - rise * (1 - peak * peak)
    curve = curve - 0.03 * (1 - s.has["Arched_Eyebrows"]) * dx
    profile = np.clip((0.175 - np.abs(dx)) / 0.06, 0, 1) * (1 - 1.6 * np.clip(dx, 0, 0.2))
    ragged = 1 + 0.07 * s.has["Bushy_Eyebrows"] * wave(dx * 24 + s.y * 14 + s.u["phase"])
    half = (0.015 + 0.004 * s.male + 0.032 * bushy) * profile * ragged
    slope = 2 * rise * peak / 0.16
    distance = (np.abs(s.y - curve) - half) / np.sqrt(1 + slope * slope)
    alpha = s.cover(distance) * s.cover(np.abs(dx) - 0.172)
    s.paint(alpha * 0.95, s.beard * 0.85)


def _mouth_shape(s: Scene) -> tuple[np.ndarray, ...]:
    """Across the mouth (-1 to 1), its profile, and where upper and lower lip meet the opening."""
    smile, gap = s.strength["Smiling"], s.strength["Mouth_Slightly_Open"]
    half = 0.185 + 0.060 * smile - 0.025 * s.has["Mouth_Slightly_Open"] * (1 - s.has["Smiling"])
    across = s.fx / half
    profile = bump(across)
    curve = s.mouth_y + smile * (0.045 - 0.120 * np.minimum(across * across, 1.2))
    lift = gap * profile
    return across, profile, curve - 0.030 * lift, curve + 0.075 * lift, half


def mouth(s: Scene) -> None:
    across, profile, upper, lower, half = _mouth_shape(s)
    big, is_open, smile = s.strength["Big_Lips"], s.has["Mouth_Slightly_Open"], s.has["Smiling"]
    inside = s.cover((np.abs(across) - 1) * half)
    cupid = 1 - 0.30 * np.clip(1 - np.abs(s.fx) / 0.05, 0, 1)
    rosy = palette(((205, 112, 104), (214, 84, 92), (178, 62, 78)), s.u["lips"])
    pale = (0.40 * s.male * s.either("Big_Lips", 0.4, 1))[:, None]
    rosy = rosy * (0.62 + 0.38 * s.skin[:, :1]) + pale * (s.skin * 0.80 - rosy)
    top = upper - (0.026 + 0.056 * big) * profile * cupid
    end = lower + (0.038 + 0.072 * big) * profile
    s.paint(soft(np.abs(s.y - end - 0.022) - 0.012, 0.04) * profile * 0.45, s.shadow)
    lips = s.cover(np.maximum(top - s.y, s.y - end)) * inside
    s.paint(lips, rosy)
    s.paint(lips * s.cover(s.y - upper), rosy * 0.85)
    gloss = ellipse(s.fx, s.y - (lower + end) / 2, half * 0.5, 0.012 + 0.012 * big)
    s.paint(lips * soft(gloss, 0.03) * 0.45, rosy + 0.4 * (1 - rosy))
    hole = s.cover(np.maximum(upper - s.y, s.y - lower)) * inside * is_open
    s.paint(hole, rgb((0.30, 0.08, 0.10)))
    tongue = s.cover(ellipse(s.fx, s.y - lower - 0.004, half * 0.5, 0.035))
    s.paint(hole * tongue, rgb((0.80, 0.36, 0.38)))
    teeth = upper + (0.34 + 0.26 * smile) * (lower - upper)
    s.paint(hole * s.cover(s.y - teeth) * s.cover(np.abs(across) * half - 0.86 * half),
            rgb((0.99, 0.98, 0.95)))
    seam = s.cover(np.abs(s.y - upper) - 0.011 - 0.006 * smile)
    seam = seam * s.cover((np.abs(across) - 1.04) * half)
    s.paint(seam * (1 - is_open) * 0.9, s.line * 0.7)
    corner_y = s.mouth_y - 0.075 * s.strength["Smiling"]
    dimple = np.abs(ellipse(s.ax - half + 0.015, s.y - corner_y, 0.060, 0.080)) - 0.006
    s.paint(soft(dimple, 0.025) * smile * soft(half + 0.025 - s.ax, 0.02) * 0.65, s.shadow * 0.9)
