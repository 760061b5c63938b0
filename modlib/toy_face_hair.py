"""The hair of the toy faces: on the head, the jaw, the chin, the lip. Layers of shapes on a scene.

See ``toy_face_canvas`` for coordinates and shapes.
"""

import numpy as np

from modlib.toy_face_canvas import Scene, bump, ellipse, rgb, soft, wave


def _hair_outline(s: Scene) -> np.ndarray:
    """Signed distance to the whole hair: an ellipse around the skull that falls straight below."""
    wavy = s.strength["Wavy_Hair"] * 0.040
    thin = s.has["Receding_Hairline"]
    volume = s.between("volume", 0.05, 0.10) * (1 - 0.6 * thin) + 0.05 * s.has["Wavy_Hair"]
    radius = s.width + volume + 0.04 * s.long
    quiff = s.between("quiff", 0, 0.07) * (1 - s.long) * (1 - thin) - 0.04 * thin
    x, y = np.abs(s.x - 0.5 * quiff * np.sign(s.u["part"] - 0.5)), s.y + 0.10
    # Locks bulge at even steps around the skull, then at even steps down the side.
    around = np.where(y < 0, x / (x - y + 0.02), 1 + 0.55 * y)
    bulge = wavy * wave(3.5 * around + 0.75)
    tight = (0.01 + volume) * (1 - s.long) * np.clip(1 + y / 0.6, 0, 1)
    return np.where(y < 0, ellipse(x, y, radius, 0.76 + volume + quiff), x - radius) - bulge + tight


def _hair_picture(s: Scene) -> np.ndarray:
    """Hair with its strands (straight or wavy, faint if neither) and a sheen; (B, 3, H, W)."""
    straight, wavy = s.strength["Straight_Hair"], s.strength["Wavy_Hair"]
    spread = 0.50 + 0.50 * np.clip((s.y + 0.95) / 0.6, 0, 1)
    across = (s.x - s.between("part", -0.2, 0.2)) / spread
    swing = wavy * 0.55 * wave(1.9 * s.y + s.u["phase"])
    styled = np.minimum(straight + wavy, 1)
    fine = wave(across * 13 + 0.9 * wave(across * 1.7 + s.y) + 0.3 * swing)
    dark = 1 - s.hair[:, 1]
    strands = (0.13 + 0.11 * dark) * styled * wave(across * 5.5 + swing) + 0.025 * fine
    radius = ellipse(s.x, s.y + 0.10, s.width + 0.08, 0.84)
    sheen = 0.11 * soft(np.abs(radius + 0.13) - 0.02, 0.14) * soft(s.y + 0.25, 0.5)
    edge = 0.22 * soft(-s.hair_outline - 0.02, 0.14)
    tone = 1 + strands + sheen - edge
    return s.hair * tone[:, None] + (dark * (0.36 * sheen + 0.30 * strands))[:, None]


def back_hair(s: Scene) -> None:
    s.hair_outline = _hair_outline(s)
    s.hair_picture = _hair_picture(s)
    s.hem = s.hem - 0.20 * s.x * s.x + 0.03 * s.has["Wavy_Hair"] * wave(2.2 * s.x)
    shape = s.cover(np.maximum(s.hair_outline, s.y - s.hem)) * s.long
    s.paint(shape, s.hair_picture * 0.74)


def stubble(s: Scene) -> None:
    amount = s.strength["5_o_Clock_Shadow"]
    if not amount.any():
        return
    area = soft(0.27 - 0.55 * s.ax * s.ax - s.y, 0.10) * s.cover(s.outline)
    dots = 0.62 + 0.25 * np.minimum(s.grain, 0.8)
    colour = 0.45 * s.skin + 0.55 * (0.5 * s.beard + rgb((0.10, 0.12, 0.15)))
    s.paint(np.clip(area * dots * amount, 0, 0.85), colour)


def beard(s: Scene) -> None:
    """A band along the jaw for anyone who is not No_Beard, and the goatee's patch on the chin."""
    depth = 0.12 + 0.30 * np.clip(s.y - 0.38, 0, 0.22) + 0.006 * wave(s.ax * 14)
    band = soft(-s.outline - depth, 0.05) * s.cover(s.outline - 0.022) * soft(0.12 - s.y, 0.10)
    strands = 1 + 0.10 * wave(s.ax * 9) + 0.10 * s.grain
    s.paint((1 - s.has["No_Beard"]) * band, s.beard * strands[:, None])
    goatee = s.has["Goatee"]
    if goatee.any():
        y = s.y - s.chin
        narrow = 1 + 1.5 * np.clip(y, 0, 0.3)
        high = 0.175 + 0.03 * (s.strength["Goatee"] - 1)
        shape = s.cover(ellipse(s.fx * narrow, y + 0.045, 0.175, high))
        shape = shape * soft(s.mouth_y + 0.105 - s.y, 0.06)
        s.paint(goatee * shape, s.beard * strands[:, None])


def mustache(s: Scene) -> None:
    has = s.has["Mustache"]
    if not has.any():
        return
    half = 0.215 + 0.02 * (s.strength["Mustache"] - 1)
    t = s.ax / half
    curve = s.mouth_y - 0.118 + 0.075 * t * t
    thick = 0.056 * np.sqrt(bump(t)) * (1 - 0.35 * np.clip(1 - s.ax / 0.03, 0, 1))
    strands = 1 + 0.16 * wave(s.fx * 10)
    s.paint(has * s.cover(np.abs(s.y - curve) - thick) * (t < 1), s.beard * strands[:, None])


def sideburns(s: Scene) -> None:
    amount = s.strength["Sideburns"]
    if not amount.any():
        return
    end = 0.27 + 0.06 * (amount - 1)
    inner = s.width * 0.85 - np.abs(s.x) - 0.05 * np.clip(s.y, 0, 0.4)
    shape = np.maximum(np.maximum(inner, s.outline - 0.012), np.maximum(s.y - end, -0.3 - s.y))
    strands = 1 + 0.10 * s.grain
    s.paint(s.has["Sideburns"] * soft(shape, 0.025), s.beard * strands[:, None])


def _hairline(s: Scene) -> np.ndarray:
    """Where the front hair ends, y for each pixel's x: arch, receding M, or bangs."""
    a = np.abs(s.x - 0.05 * s.between("yaw", -1, 1)) / s.width
    a2 = a * a
    a4 = a2 * a2
    part = s.between("part", -0.16, 0.16)
    sweep = (0.08 + 0.06 * s.long) * np.minimum(np.abs(s.fx - part) / 0.40, 1)
    tips = 0.012 * s.has["Straight_Hair"] * wave(s.fx * 8 + s.u["phase"])
    arch = s.between("forehead", -0.54, -0.48) + sweep + 0.42 * a4 + tips
    recess = bump((a - 0.46) / 0.40)
    receding = -0.585 - 0.05 * s.strength["Receding_Hairline"] - 0.12 * recess + 0.62 * a4 * a2
    teeth = 0.022 * np.abs(wave(s.fx * 4.5 + s.u["phase"])) + 0.05 * (s.u["part"] - 0.5) * s.fx * 4
    bangs = -0.285 + teeth + 0.32 * a4 * a4
    # Bangs over a receding hairline are a thin central fringe, so that both can be seen.
    narrow = s.has["Receding_Hairline"] * (np.abs(s.fx) > 0.17)
    base = arch + s.has["Receding_Hairline"] * (receding - arch)
    return base + s.has["Bangs"] * (1 - narrow) * (bangs - base)


def front_hair(s: Scene) -> None:
    bald = s.has["Bald"]
    hairline, outer = _hairline(s), s.hair_outline
    loose = s.loose
    inner = 0.90 - 0.05 * np.clip(s.y, 0, 1) + 0.05 * s.has["Wavy_Hair"] * wave(1.4 * s.y)
    locks = np.where(loose > 0, inner * s.width - np.abs(s.x), np.float32(9))
    locks = np.maximum(locks, -0.15 - s.y)
    end = np.where(loose > 0, s.hem, np.float32(0.04))
    front = np.maximum(np.maximum(outer, s.y - end), np.minimum(s.y - hairline, locks))
    # Short hair that recedes lies flat, or it would stand off the skull beside the bare temples.
    flat = s.has["Receding_Hairline"] * (1 - s.long) > 0
    front = np.where(flat, np.maximum(front, s.outline - 0.03), front)
    shadow = soft(np.maximum(np.minimum(s.y - hairline - 0.03, locks - 0.03), s.outline), 0.08)
    s.paint(shadow * (1 - bald) * 0.55, s.shadow)
    s.paint(s.cover(front) * (1 - bald), s.hair_picture)
    parting = np.abs(s.fx - s.between("part", -0.16, 0.16) * (0.4 - 0.9 * s.y)) - 0.006
    parting = np.maximum(parting, np.maximum(s.y - hairline, -0.80 - s.y))
    unparted = np.minimum(bald + s.has["Bangs"] + s.has["Receding_Hairline"], 1)
    s.paint(soft(parting, 0.025) * (1 - unparted) * 0.55, s.hair * 0.55)
    # A bald head that is old, or whose hair has a named shape, keeps a fringe at the sides.
    keeps = np.maximum(1 - s.has["Young"], np.maximum(s.has["Straight_Hair"], s.has["Wavy_Hair"]))
    keeps = np.maximum(keeps, s.has["Receding_Hairline"]) * bald
    if keeps.any():
        top = -0.30 - 0.14 * s.has["Receding_Hairline"]
        sides = np.maximum(np.maximum(outer - 0.03, 0.88 * s.width - np.abs(s.x)),
                           np.maximum(s.y - 0.06, top - s.y))
        s.paint(soft(sides, 0.04) * keeps, s.hair_picture)
