"""Render the two example portraits, ``source.png`` and ``target.png``.

The pictures show nobody: each is a sculpted bust, described by signed distance functions and
drawn by sphere tracing in NumPy.  They are laid out like aligned face photos (eyes a little above
the middle, the face filling the frame) and differ in pose, face shape, skin, hair, clothes,
background and light, so that carrying the look of the one over to the other is easy to see.

One unit of length is about 10 cm; the head's own frame has x to the right of the picture, y up and
z towards the viewer, with the middle between the eyes at (0, 0, 0.6).  Everything random comes from
a seeded table, so the same NumPy draws the same picture.

Run as ``python -m training.make_examples --out FOLDER``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[np.floating[Any]]  # float32 wherever it matters for speed
Rgb = tuple[float, float, float]

VIEW_WIDTH = 2.52  # width of the picture, in units, on the plane through the eyes
EYE_HEIGHT = 0.455  # where the eye line lies, as a fraction of the picture's height
CAMERA_DISTANCE = 11.0
EYE_X, EYE_Z, EYE_RADIUS = 0.322, 0.468, 0.160
CHUNK = 1 << 14  # points worked on at once: small enough to stay in the cache
HEAD, EYE, HAIR, CLOTH = range(4)


@dataclass(frozen=True)
class Portrait:
    """What one bust looks like; colours are linear reflectances."""

    seed: int
    yaw: float  # degrees, positive turns the face to the right of the picture
    pitch: float  # degrees, positive lifts the chin
    face_width: float
    jaw_width: float
    smile: float
    lip_fullness: float
    nose_width: float
    eye_open: float
    brow_thickness: float
    lash: float
    stubble: float
    long_hair: bool
    wrinkle: float
    skin: Rgb
    blush: Rgb
    lips: Rgb
    iris: Rgb
    brow: Rgb
    hair_dark: Rgb
    hair_light: Rgb
    cloth: Rgb
    background: tuple[Rgb, Rgb]
    key_direction: Rgb
    key: Rgb
    fill: Rgb
    rim: Rgb
    sky: Rgb
    ground: Rgb


SOURCE = Portrait(
    seed=11,
    yaw=-11.0,
    pitch=0.0,
    face_width=1.03,
    jaw_width=0.99,
    smile=0.12,
    lip_fullness=0.8,
    nose_width=1.08,
    eye_open=0.92,
    brow_thickness=1.2,
    lash=0.7,
    stubble=1.0,
    long_hair=False,
    wrinkle=1.0,
    skin=(0.35, 0.195, 0.122),
    blush=(0.37, 0.14, 0.095),
    lips=(0.36, 0.135, 0.11),
    iris=(0.10, 0.045, 0.018),
    brow=(0.014, 0.010, 0.008),
    hair_dark=(0.010, 0.008, 0.007),
    hair_light=(0.060, 0.042, 0.032),
    cloth=(0.035, 0.065, 0.16),
    background=((0.17, 0.25, 0.33), (0.045, 0.075, 0.115)),
    key_direction=(-0.62, 0.55, 0.75),
    key=(2.15, 2.15, 2.2),
    fill=(0.34, 0.40, 0.50),
    rim=(0.55, 0.65, 0.8),
    sky=(0.50, 0.56, 0.66),
    ground=(0.22, 0.20, 0.19),
)

TARGET = Portrait(
    seed=29,
    yaw=10.0,
    pitch=0.0,
    face_width=0.96,
    jaw_width=0.86,
    smile=0.85,
    lip_fullness=1.12,
    nose_width=0.88,
    eye_open=1.06,
    brow_thickness=0.95,
    lash=1.3,
    stubble=0.0,
    long_hair=True,
    wrinkle=0.5,
    skin=(0.66, 0.43, 0.325),
    blush=(0.66, 0.27, 0.21),
    lips=(0.55, 0.135, 0.125),
    iris=(0.10, 0.15, 0.105),
    brow=(0.085, 0.036, 0.016),
    hair_dark=(0.050, 0.014, 0.006),
    hair_light=(0.40, 0.135, 0.045),
    cloth=(0.30, 0.030, 0.045),
    background=((0.46, 0.52, 0.36), (0.15, 0.20, 0.12)),
    key_direction=(0.62, 0.42, 0.80),
    key=(2.05, 1.78, 1.45),
    fill=(0.36, 0.30, 0.30),
    rim=(0.9, 0.65, 0.4),
    sky=(0.52, 0.47, 0.42),
    ground=(0.32, 0.24, 0.19),
)


# --- small pieces ---------------------------------------------------------------------------------


def smoothstep(low: float, high: float, x: Array) -> Array:
    """Smooth ramp from 0 at ``low`` to 1 at ``high`` (``low`` may be the larger)."""
    t = np.clip((x - low) * (1.0 / (high - low)), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def union(a: Array, b: Array, k: float) -> Array:
    """Smooth minimum of two distances with a blend of width ``k``."""
    h = np.maximum(k - np.abs(a - b), 0.0)
    return np.minimum(a, b) - h * h * (0.25 / k)


def cut(a: Array, b: Array, k: float) -> Array:
    """Smooth difference: what of ``a`` lies outside ``b``."""
    return -union(-a, b, k)


def ball(x: Array, y: Array, z: Array, r: float) -> Array:
    """Distance to a sphere round the origin."""
    return np.sqrt(x * x + y * y + z * z) - r


def ellipsoid(x: Array, y: Array, z: Array, rx: float, ry: float, rz: float) -> Array:
    """Approximate distance to an ellipsoid round the origin."""
    x2, y2, z2 = x * x, y * y, z * z
    k0 = np.sqrt(x2 * (1 / rx**2) + y2 * (1 / ry**2) + z2 * (1 / rz**2))
    k1 = np.sqrt(x2 * (1 / rx**4) + y2 * (1 / ry**4) + z2 * (1 / rz**4)) + 1e-6
    return k0 * (k0 - 1.0) / k1


def capsule(x: Array, y: Array, z: Array, a: Rgb, b: Rgb, ra: float, rb: float) -> Array:
    """Distance to a tapering rod from ``a`` to ``b``."""
    ab = np.asarray(b) - np.asarray(a)
    n = ab / float(ab @ ab)
    px, py, pz = x - a[0], y - a[1], z - a[2]
    t = np.clip(px * float(n[0]) + py * float(n[1]) + pz * float(n[2]), 0.0, 1.0)
    return (
        ball(px - t * float(ab[0]), py - t * float(ab[1]), pz - t * float(ab[2]), 0.0)
        - ra
        - t * (rb - ra)
    )


def bump(x: Array, y: Array, sx: float, sy: float) -> Array:
    """Gaussian hill of height 1."""
    return np.exp(-(x * x * (0.5 / sx**2) + y * y * (0.5 / sy**2)))


def segment(x: Array, y: Array, a: tuple[float, float], b: tuple[float, float]) -> Array:
    """Distance in the plane to a line segment."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    t = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) * (1 / (dx * dx + dy * dy)), 0.0, 1.0)
    return np.hypot(x - a[0] - t * dx, y - a[1] - t * dy)


class Noise:
    """Seeded value noise in three dimensions, values in [-1, 1]."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.table = rng.uniform(-1.0, 1.0, 64**3).astype(np.float32)

    def __call__(self, x: Array, y: Array, z: Array) -> Array:
        fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
        ux, uy, uz = x - fx, y - fy, z - fz
        ux, uy, uz = (u * u * (3.0 - 2.0 * u) for u in (ux, uy, uz))
        ix, iy, iz = (f.astype(np.int32) for f in (fx, fy, fz))
        x0, x1 = (ix & 63) << 12, ((ix + 1) & 63) << 12
        y0, y1 = (iy & 63) << 6, ((iy + 1) & 63) << 6
        z0, z1 = iz & 63, (iz + 1) & 63
        t = self.table

        def line(base: npt.NDArray[np.int32]) -> Array:
            a = t[base + z0]
            return a + (t[base + z1] - a) * uz

        a, b = line(x0 + y0), line(x0 + y1)
        c, d = line(x1 + y0), line(x1 + y1)
        a = a + (b - a) * uy
        c = c + (d - c) * uy
        return a + (c - a) * ux

    def layered(self, x: Array, y: Array, z: Array, octaves: int) -> Array:
        """Sum of octaves, each half as strong and twice as fine."""
        total = self(x, y, z)
        for i in range(1, octaves):
            f = float(2**i)
            total = total + self(x * f + 7.3 * i, y * f + 3.1 * i, z * f) * (0.5**i)
        return total


# --- the sculpture --------------------------------------------------------------------------------


class Bust:
    """Signed distances to the parts of one portrait, in the head's frame."""

    def __init__(self, look: Portrait) -> None:
        self.look = look
        self.noise = Noise(look.seed)

    def eyelids(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Position along the eye (towards the temple), and heights over the lids' two edges."""
        u = np.abs(x) - EYE_X
        half = 0.150
        t = np.clip((u + 0.008) * (1 / half), -1.0, 1.0)
        arc = 1.0 - t * t
        tilt = 0.07 * u
        upper = (0.064 * self.look.eye_open) * arc**0.75 * (1.0 - 0.12 * t) + tilt
        squint = 0.046 - 0.008 * self.look.smile
        lower = -squint * arc * (1.0 + 0.2 * t) + tilt
        return u, y - upper, lower - y

    def mouth(self, x: Array, y: Array) -> tuple[Array, Array, Array, Array]:
        """Height over the mouth line, heights of upper and lower lip, position towards a corner."""
        s, full = self.look.smile, self.look.lip_fullness
        half = 0.255 + 0.045 * s
        far = np.abs(x) * (1 / half)
        t = np.minimum(far, 1.0)
        line = -0.722 - 0.010 * s + (0.055 * s - 0.012) * t * t + 0.008 * np.cos(t * 7.0) * (1 - t)
        arc = 1.0 - t * t
        bow = (
            1.0
            - 0.20 * np.exp(-(x * x) * (1 / 0.035**2))
            + 0.10 * bump(np.abs(x) - 0.07, t, 0.04, 9)
        )
        upper = (0.070 * full) * arc**0.8 * bow * (1 - 0.12 * s) + 1e-4
        lower = (0.094 * full) * arc**0.65 * (1 - 0.12 * s) + 1e-4
        return y - line, upper, lower, far

    def lips(self, x: Array, y: Array) -> Array:
        """How much of the skin at a place is lip, from 0 to 1."""
        v, upper, lower, t = self.mouth(x, y)
        q = np.where(v > 0, v / upper, -v / lower)
        return smoothstep(1.12, 0.86, q) * smoothstep(1.0, 0.93, t)

    def relief(self, x: Array, y: Array, z: Array) -> Array:
        """Fine modelling of the face's front, as a displacement along the outward direction."""
        look = self.look
        ax = np.abs(x)
        v, upper, lower, t = self.mouth(x, y)
        edge = np.clip(1.0 - t**4, 0.0, 1.0)
        qu, ql = np.clip(v / upper, 0, 1), np.clip(-v / lower, 0, 1)
        full = look.lip_fullness
        h = (0.085 * full) * np.sqrt(np.clip(qu * (1 - qu), 0, 1)) * edge * (v > 0)
        h = h + (0.110 * full) * np.sqrt(np.clip(ql * (1 - ql), 0, 1)) * edge * (v <= 0)
        h = h - 0.022 * np.exp(-(v * v) * (1 / 0.014**2)) * smoothstep(1.06, 0.9, t)
        corner = 0.262 + 0.045 * look.smile
        h = h - (0.020 + 0.022 * look.smile) * bump(
            ax - corner, v - 0.02 * look.smile, 0.028, 0.028
        )
        h = h - 0.014 * bump(x, y + 0.585, 0.026, 0.055)  # philtrum
        h = h + 0.008 * bump(ax - 0.045, y + 0.59, 0.018, 0.055)
        h = h - 0.030 * bump(x, y + 0.875, 0.16, 0.035)  # over the chin
        h = h + 0.028 * bump(x, y + 1.0, 0.13, 0.07)
        fold = segment(ax, y, (0.165, -0.40), (0.33 + 0.04 * look.smile, -0.70))
        depth = 0.010 * look.wrinkle + 0.016 * look.smile
        h = h - depth * np.exp(-(fold * fold) * (1 / 0.045**2))
        h = h + (0.015 + 0.05 * look.smile) * bump(ax - 0.40, y + 0.36, 0.13, 0.12)
        u, over, _ = self.eyelids(x, y)
        crease = over - 0.050 - 0.06 * u
        h = h - 0.018 * np.exp(-(crease * crease) * (1 / 0.014**2)) * smoothstep(
            0.19, 0.12, np.abs(u)
        )
        bag = y + 0.105 + 0.25 * (u - 0.02) ** 2 - 0.12 * np.abs(u)
        h = h - (0.010 * look.wrinkle + 0.006) * bump(u, bag, 0.10, 0.022)
        h = h + 0.014 * bump(u - 0.02, y - 0.205 - 0.05 * u, 0.13, 0.04)  # brow
        return h * smoothstep(0.05, 0.35, z)

    def head(self, x: Array, y: Array, z: Array) -> Array:
        """Distance to skin: skull, face, ears and neck."""
        look = self.look
        fw, jw, nw = look.face_width, look.jaw_width, look.nose_width
        ax = np.abs(x)
        d = ellipsoid(x, y - 0.28, z + 0.22, 0.735, 0.86, 0.94)
        d = union(d, ellipsoid(x, y + 0.27, z - 0.04, 0.635 * fw, 0.80, 0.655), 0.15)
        d = union(d, ellipsoid(ax - 0.31 * jw, y + 0.62, z - 0.08, 0.22, 0.26, 0.30), 0.25)
        d = union(d, ellipsoid(x, y + 0.955, z - 0.50, 0.20 * jw, 0.135, 0.19), 0.20)
        d = union(d, ellipsoid(ax - 0.40 * fw, y + 0.24, z - 0.40, 0.20, 0.15, 0.20), 0.18)
        d = union(d, ellipsoid(ax - 0.22, y - 0.21, z - 0.56, 0.26, 0.08, 0.12), 0.14)
        d = union(d, ellipsoid(x, y + 0.71, z - 0.46, 0.29, 0.25, 0.24), 0.16)
        # eye sockets and lids
        d = cut(d, ball(ax - 0.28, y - 0.035, z - 0.83, 0.19), 0.13)
        d = cut(d, ball(ax - 0.155, y - 0.0, z - 0.72, 0.07), 0.10)
        d = union(d, ball(ax - EYE_X, y, z - EYE_Z, EYE_RADIUS + 0.017), 0.07)
        # nose
        d = union(d, capsule(x, y, z, (0, 0.12, 0.60), (0, -0.34, 0.825), 0.075, 0.080 * nw), 0.11)
        d = union(d, ball(x, y + 0.365, z - 0.872, 0.095 * nw), 0.07)
        d = union(d, ellipsoid(ax - 0.115 * nw, y + 0.415, z - 0.765, 0.066, 0.068, 0.085), 0.055)
        d = union(d, capsule(x, y, z, (0, -0.40, 0.87), (0, -0.495, 0.72), 0.05, 0.05), 0.06)
        hole = ellipsoid(ax - 0.064 * nw, y + 0.474, z - 0.835, 0.034, 0.030, 0.060)
        d = cut(d, hole, 0.03)
        # ears
        ex, ez = ax - 0.715, z + 0.10
        c, s = 0.88, 0.47
        thin, wide = c * ex + s * ez, -s * ex + c * ez
        ear = ellipsoid(thin, y + 0.10 - 0.25 * wide, wide, 0.055, 0.27, 0.155)
        shell = ellipsoid(thin - 0.065, y + 0.07, wide - 0.01, 0.068, 0.185, 0.115)
        d = union(d, cut(ear, shell, 0.02), 0.05)
        # neck
        nx, nz = x * (1 / (0.36 + 0.05 * (jw - 1) * 4)), (z + 0.10 - 0.10 * (y + 1)) * (1 / 0.40)
        flare = 0.16 * smoothstep(-1.2, -1.75, y)
        neck = (np.sqrt(nx * nx + nz * nz) - 1.0) * 0.36 - flare
        neck = np.maximum(neck, y + 0.6)
        tendon = capsule(ax, y, z, (0.36, -0.75, -0.05), (0.10, -1.55, 0.28), 0.07, 0.07)
        d = union(d, union(neck, tendon, 0.10), 0.10)
        d = d - self.relief(x, y, z)
        u, over, under = self.eyelids(x, y)
        slit = np.maximum(np.maximum(over, under), np.maximum(np.abs(u + 0.008) - 0.153, EYE_Z - z))
        return cut(d, slit * 0.8, 0.014)

    def eyes(self, x: Array, y: Array, z: Array) -> Array:
        """Distance to the eyeballs."""
        return ball(np.abs(x) - EYE_X, y, z - EYE_Z, EYE_RADIUS)

    def opening(self, x: Array, y: Array) -> Array:
        """Seen from the front, below zero where no hair covers the face, above zero outside."""
        ax = np.abs(x)
        if not self.look.long_hair:
            jag = 0.012 * np.sin(x * 23.0 + 1.0) + 0.008 * np.sin(x * 51.0)
            q = (ax * (1 / 0.63)) ** 3.6 + (np.maximum(y + 0.3, 0.0) * (1 / 1.0)) ** 3.6
            return q ** (1 / 3.6) - 1.0 + jag
        part = x + 0.20
        top = np.maximum(y, 0.0)
        lean = np.where(part > 0, part * 0.86, part * 1.30)
        w = 0.635 + 0.03 * np.sin(y * 5.0 + np.sign(x) * 0.8) - 0.14 * smoothstep(-0.3, -1.0, y)
        mid = ax / w
        high = np.sqrt((lean * (1 / 0.66)) ** 2 + (top * (1 / 0.66)) ** 2)
        blend = smoothstep(0.0, 0.45, y)
        return mid + (high - mid) * blend - 1.0

    def flow(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Two coordinates that are constant along a strand of hair."""
        if self.look.long_hair:
            up = np.maximum(y - 0.15, 0.0)
            px = x + 0.16 * smoothstep(0.2, 1.0, y)
            wave = 0.035 * np.sin(y * 5.5 + np.sign(x) * 1.2 + z * 1.5) * smoothstep(0.3, -0.6, y)
            return np.sqrt(px * px + up * up * 0.8) + wave * np.sign(x), z + wave
        side = smoothstep(0.50, 0.74, np.abs(x))
        sweep = x + 0.35 * (y - 0.7) + 0.10 * z
        return sweep + (z * 0.8 - y * 0.45 - sweep) * side, np.sqrt(x * x + y * y + z * z)

    def hair(self, x: Array, y: Array, z: Array) -> Array:
        """Distance to the hair, a solid with locks pressed into its surface."""
        a, b = self.flow(x, y, z)
        face = self.opening(x, y)
        if not self.look.long_hair:
            lift = 0.085 * smoothstep(0.70, 1.0, y) * smoothstep(-0.6, 0.5, z)
            d = ellipsoid(x + 0.02, y - 0.30, z + 0.22, 0.785, 0.90, 1.0) - lift
            locks = np.sin(a * 34.0 + 2.0 * np.sin(b * 9.0 + y * 4)) + 0.6 * np.sin(
                a * 71.0 + b * 13.0
            )
            d = d + 0.009 * locks * smoothstep(0.2, 0.7, y) * smoothstep(-0.05, 0.25, face)
            front = smoothstep(-0.25, 0.05, z)
            d = d + 0.10 * smoothstep(0.26, -0.02, face) * front
            ear = 0.16 - np.abs(z + 0.10)
            low = 0.02 + 0.10 * smoothstep(-0.1, 0.1, ear) - y
            low = np.where(z < -0.26, np.maximum(-0.12 + 1.3 * z, -0.85) - y, low)
            d = np.maximum(d, low * 0.6)
            return np.maximum(d, np.minimum(-face * 0.55, z))
        up = np.maximum(y - 0.15, 0.0)
        px = x + 0.03 * smoothstep(0.3, 1.0, y)
        drop = smoothstep(0.1, -1.2, y)
        wx = 0.88 + 0.13 * drop + 0.025 * np.sin(y * 5.5 + np.sign(x) * 0.9) * drop
        wz = 0.96 - 0.12 * drop
        zz = z + 0.22
        r = np.sqrt((px / wx) ** 2 + up * up * (1 / 1.03**2) + (zz / wz) ** 2)
        d = (r - 1.0) * 0.86
        locks = np.sin(a * 21.0 + b * 8.0) + 0.55 * np.sin(a * 47.0 - b * 17.0 + 1.0)
        d = d + 0.016 * locks + 0.020 * np.sin(y * 5.0 + np.sign(x) + a * 6.0) * drop
        d = d + 0.022 * np.exp(-((x + 0.20) ** 2) * (1 / 0.022**2)) * smoothstep(0.6, 0.9, y)
        d = d + 0.11 * smoothstep(0.10, -0.02, face) * smoothstep(0.25, 0.6, y)
        return -union(-d, np.maximum(face * 0.5, -(z + 0.05)), 0.05)

    def cloth(self, x: Array, y: Array, z: Array) -> Array:
        """Distance to the clothes: shoulders and a collar."""
        yaw = np.deg2rad(self.look.yaw) * 0.5
        c, s = float(np.cos(yaw)), float(np.sin(yaw))
        zz = z + 0.12
        x, z = c * x - s * zz, s * x + c * zz
        ax = np.abs(x)
        d = ellipsoid(ax - 0.62, y + 1.88, z + 0.05, 0.95, 0.56, 0.52)
        d = union(d, ellipsoid(x, y + 1.95, z - 0.05, 0.8, 0.62, 0.62), 0.2)
        ring = np.sqrt((x * (1 / 0.50)) ** 2 + ((z - 0.05 - 0.1 * (y + 1.4)) * (1 / 0.50)) ** 2)
        rise = 0.0 if self.look.long_hair else 0.06
        # the collar stands higher at the nape than at the throat
        top = y + 1.31 - rise + 0.16 * z
        inner = (ring - 1.0) * 0.48
        collar = np.sqrt(inner**2 + (np.maximum(np.abs(top + 0.1) - 0.08, 0.0)) ** 2) - 0.045
        d = cut(d, np.maximum(inner, -(y + 2.2)), 0.04)
        return union(d, collar, 0.06)

    def parts(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array, Array]:
        """Distances to skin, eyes, hair and clothes."""
        return (
            self.head(x, y, z),
            self.eyes(x, y, z),
            self.hair(x, y, z),
            self.cloth(x, y, z),
        )

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Distance to the nearest surface."""
        a, b, c, d = self.parts(x, y, z)
        return np.minimum(np.minimum(a, b), np.minimum(c, d))


# --- rays -----------------------------------------------------------------------------------------


def rotation(look: Portrait) -> Array:
    """Matrix from the camera's directions to the head's."""
    a, b = np.deg2rad(look.yaw), np.deg2rad(look.pitch)
    yaw = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
    pitch = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    return (pitch @ yaw).astype(np.float32)


def camera_rays(look: Portrait, size: int) -> tuple[Array, Array]:
    """Origin (3,) and unit directions (3, size * size) in the head's frame, row by row."""
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid((at - 0.5) * VIEW_WIDTH, (EYE_HEIGHT - at) * VIEW_WIDTH)
    d = np.stack([x.ravel(), y.ravel(), np.full(size * size, -CAMERA_DISTANCE)])
    d /= np.sqrt((d * d).sum(0))
    turn = rotation(look)
    origin = turn @ np.array([0, 0, CAMERA_DISTANCE], np.float32)
    origin[2] += 0.6
    return origin.astype(np.float32), (turn @ d.astype(np.float32)).astype(np.float32)


def in_chunks(f: Callable[..., Array], *args: Array) -> Array:
    """Apply ``f`` to slices of the last axis and join the results."""
    n = args[0].shape[-1]
    return np.concatenate(
        [f(*(a[..., i : i + CHUNK] for a in args)) for i in range(0, n, CHUNK)], axis=-1
    )


def march(
    bust: Bust, origin: Array, d: Array, start: Array, stop: float, steps: int, close: float
) -> Array:
    """Distance along each ray to the first surface, infinite where there is none."""

    def one(d: Array, start: Array) -> Array:
        t = start.copy()
        live = np.flatnonzero(np.isfinite(t))
        for _ in range(steps):
            if not live.size:
                break
            tl = t[live]
            dist = bust.distance(*(origin[i] + d[i, live] * tl for i in range(3)))
            hit = dist < close
            t[live] = np.where(hit, tl, tl + 0.72 * dist)
            live = live[~hit & (t[live] < stop)]
        t[live] = np.inf  # still skimming past an edge
        t[t >= stop] = np.inf
        return t

    return in_chunks(one, d, start)


def trace(bust: Bust, origin: Array, d: Array, size: int) -> Array:
    """Distances for a square picture: a coarse pass tells the fine one where to begin."""
    near, far = CAMERA_DISTANCE - 1.6, CAMERA_DISTANCE + 2.2
    step = 8
    n = size // step
    pick = (np.arange(n) * step + step // 2)[:, None] * size + np.arange(n) * step + step // 2
    cone = 0.75 * step * VIEW_WIDTH / size
    rough = march(
        bust, origin, d[:, pick.ravel()], np.full(n * n, near, np.float32), far, 90, cone
    ).reshape(n, n)
    padded = np.pad(rough, 1, mode="edge")
    first = np.min([padded[i : i + n, j : j + n] for i in range(3) for j in range(3)], axis=0)
    start = np.repeat(np.repeat(first - 12.0 * cone, step, 0), step, 1).ravel().astype(np.float32)
    return march(bust, origin, d, start, far, 160, 0.0012)


def normals(f: Callable[[Array, Array, Array], Array], p: Array, eps: float) -> Array:
    """Unit gradient of ``f`` at the points ``p`` of shape (3, n)."""
    total = np.zeros_like(p)
    for k in ((1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)):
        v = f(p[0] + eps * k[0], p[1] + eps * k[1], p[2] + eps * k[2])
        total += np.asarray(k, np.float32)[:, None] * v
    return total / (np.sqrt((total * total).sum(0)) + 1e-9)


def shadow(bust: Bust, p: Array, light: Array) -> Array:
    """How much of a soft light reaches each point, from 0 to 1."""
    t = np.full(p.shape[1], 0.035, np.float32)
    seen = np.ones(p.shape[1], np.float32)
    for _ in range(18):
        dist = bust.distance(*(p[i] + light[i] * t for i in range(3)))
        seen = np.minimum(seen, 0.5 + 0.5 * dist / (0.11 * t))
        t += np.clip(dist * 0.8, 0.025, 0.2)
    seen = np.clip(seen, 0.0, 1.0)
    return seen * seen * (3.0 - 2.0 * seen)


def occlusion(bust: Bust, p: Array, n: Array) -> Array:
    """How open the surroundings of each point are, from 0 to 1."""
    total = np.zeros(p.shape[1], np.float32)
    weight = 1.0
    for h in (0.03, 0.09, 0.20, 0.36):
        dist = bust.distance(*(p[i] + n[i] * h for i in range(3)))
        total += weight * np.clip(h - dist, 0.0, h) / h
        weight *= 0.7
    return np.clip(1.0 - 0.42 * total, 0.10, 1.0)


# --- colour ---------------------------------------------------------------------------------------


def column(colour: Rgb) -> Array:
    """A colour as a (3, 1) array."""
    return np.asarray(colour, np.float32)[:, None]


def mix(a: Array, b: Array, w: Array) -> Array:
    """Linear blend from ``a`` to ``b``."""
    return a + (b - a) * w


def unit(v: Rgb | Array) -> Array:
    """The vector scaled to length 1."""
    w = np.asarray(v, np.float32)
    return w / np.float32(np.sqrt((w * w).sum()))


def dot(a: Array, b: Array) -> Array:
    """Scalar products of columns."""
    return np.asarray((a * b).sum(0), np.float32)


def skin_colour(bust: Bust, p: Array) -> tuple[Array, Array]:
    """Reflectance (3, n) of the skin and its gloss (n,)."""
    look, noise = bust.look, bust.noise
    x, y, z = p
    ax = np.abs(x)
    front = smoothstep(0.1, 0.4, z)
    blotch = noise.layered(x * 5, y * 5, z * 5, 3)
    fine = noise.layered(x * 40, y * 40, z * 40, 2)
    skin = column(look.skin) * (1.0 + 0.06 * blotch + 0.05 * fine)
    red = 0.50 * bump(ax - 0.40, y + 0.30, 0.17, 0.15) + 0.45 * bump(x, y + 0.39, 0.12, 0.09)
    red = red + 0.22 * bump(x, y + 1.0, 0.2, 0.1) + 0.35 * smoothstep(0.66, 0.74, ax) * (y < 0.3)
    red = np.clip(red * (1.0 + 0.35 * blotch), 0.0, 0.9)
    skin = mix(skin, column(look.blush) * (1 + 0.05 * fine), red)
    u, over, under = bust.eyelids(x, y)
    lid = bump(u, y - 0.02, 0.16, 0.085) * front
    skin = skin * (1.0 - lid * (1 - column((0.86, 0.76, 0.78))))
    skin = skin * (1.0 - 0.16 * bump(u + 0.03, y + 0.11, 0.10, 0.04) * front)
    if look.stubble:
        beard = smoothstep(-0.50, -0.66, y + 0.25 * (ax - 0.3) * (ax > 0.3)) * smoothstep(
            -1.22, -1.08, y
        )
        beard = np.maximum(beard, bump(x, y + 0.60, 0.16, 0.05)) * smoothstep(-0.1, 0.2, z)
        dots = noise(x * 75, y * 75, z * 75)
        w = look.stubble * beard * (0.30 + 0.22 * dots)
        skin = mix(skin, column((0.07, 0.06, 0.06)), np.clip(w, 0, 1))
    else:
        freckle = noise(x * 26 + 9, y * 26, z * 26)
        where = bump(ax - 0.26, y + 0.25, 0.22, 0.11)
        skin = skin * (1 - 0.22 * where * smoothstep(0.55, 0.85, freckle) * column((0.5, 0.9, 1.0)))
    lips = bust.lips(x, y) * front
    v, _, _, t = bust.mouth(x, y)
    crack = noise(x * 70, y * 6, z * 6)
    lip_colour = column(look.lips) * (1.0 + 0.10 * crack + 0.10 * blotch)
    skin = mix(skin, lip_colour, 0.88 * lips)
    line = np.exp(-(v * v) * (1 / 0.011**2)) * smoothstep(1.04, 0.92, t) * front
    skin = skin * (1.0 - 0.80 * line * column((0.85, 1.0, 1.0)))
    nostril = bump(ax - 0.066 * look.nose_width, y + 0.472 + 0.1 * (ax - 0.066), 0.024, 0.013)
    skin = skin * (1.0 - 0.72 * nostril * front * column((0.8, 1.0, 1.0)))
    # lid margins and lashes
    edge = np.maximum(over, under)
    within = smoothstep(0.162, 0.146, np.abs(u + 0.008)) * front
    rim = np.exp(-((edge / 0.012) ** 2)) * within
    skin = mix(skin, column(look.blush) * 0.9, 0.5 * rim)
    wing = smoothstep(-0.16, 0.12, u)
    width = (0.010 + 0.012 * wing) * look.lash
    lash = smoothstep(1.4, 0.6, over / width) * (over > -0.02) * within
    lash = lash * (0.55 + 0.45 * wing)
    lash = np.maximum(
        lash, 0.35 * look.lash * np.exp(-((under / 0.007) ** 2)) * wing * (over < 0) * within
    )
    skin = mix(skin, column((0.012, 0.009, 0.008)), 0.92 * np.clip(lash, 0, 1))
    # eyebrows
    along = np.clip((u + 0.175) * (1 / 0.375), 0.0, 1.0)
    arch = 0.172 + 0.062 * np.sin(along * 2.35) - 0.006 * along + 0.012 * (look.eye_open - 1)
    thick = (
        look.brow_thickness
        * 0.042
        * (1 - 0.62 * along**1.8)
        * smoothstep(-0.02, 0.16, along + 0.06)
    )
    off = (y - arch) / thick
    lean = u * 70 - y * 60 * (1.0 - 1.5 * along)
    strand = noise(lean, y * 12 + u * 12, np.sign(x) * 3.7 + 0 * u)
    strand = 0.6 * strand + 0.5 * noise(lean * 1.9 + 5, y * 20, u * 20)
    soft = smoothstep(1.30, 0.15, np.abs(off) - 0.24 * strand)
    ends = smoothstep(-0.195, -0.15, u) * smoothstep(0.215, 0.17, u)
    hair = soft * ends * front * (0.80 + 0.2 * strand)
    skin = mix(skin, column(look.brow) * (1 + 0.4 * strand), np.clip(hair, 0, 1) * 0.93)
    # roots, where the hair begins
    a, _ = bust.flow(x, y, z)
    root = noise(a * 60, y * 4, z * 4)
    face = bust.opening(x, y) + 0.035 * root + 0.02 * noise(a * 140, y * 6, z * 6)
    scalp = smoothstep(-0.035, 0.045, face) * smoothstep(-0.22, -0.02, y)
    scalp = scalp * (1.0 - smoothstep(0.685, 0.70, ax) * smoothstep(0.09, 0.05, z) * (y < 0.17))
    tone = mix(column(look.hair_dark), column(look.hair_light), 0.2 + 0.2 * root)
    skin = mix(skin, tone, 0.97 * scalp)
    gloss = 0.55 + 0.5 * bump(x, y - 0.45, 0.3, 0.2) + 0.7 * bump(x, y + 0.3, 0.07, 0.25)
    gloss = gloss * (1 + 0.3 * fine) * (1 - hair) * (1 - 0.95 * scalp)
    return np.clip(skin, 0.003, 0.95), np.asarray(gloss + 1.3 * lips, np.float32)


def eye_colour(bust: Bust, p: Array, view: Array) -> Array:
    """Reflectance (3, n) of the eyeballs; both look at the viewer."""
    look = bust.look
    x, y, z = p
    side = np.where(x > 0, 1.0, -1.0).astype(np.float32)
    local = np.stack([x - side * EYE_X, y, z - EYE_Z]) / EYE_RADIUS
    gaze = unit(np.array([view[0] * 0.85, -0.02, view[2]]))[:, None]
    gx = unit(np.array([gaze[2, 0], 0, -gaze[0, 0]]))[:, None]
    ix, iy = dot(local, gx), local[1] - gaze[1, 0]
    r = np.hypot(ix, iy)
    angle = np.arctan2(iy, ix)
    vein = bust.noise.layered(x * 18, y * 18, z * 18, 3)
    white = column((0.62, 0.56, 0.53)) * (1 + 0.03 * vein)
    corner = smoothstep(0.62, 0.98, np.abs(local[0]))
    white = mix(white, column((0.55, 0.30, 0.26)), 0.55 * corner)
    fibre = bust.noise(angle * 9, r * 5, side * 2.2)
    iris = (
        column(look.iris)
        * (1.1 + 0.55 * fibre - 0.9 * iy)
        * (0.75 + 1.0 * smoothstep(0.42, 0.2, r))
    )
    iris = iris * (1 - 0.75 * smoothstep(0.36, 0.44, r))
    colour = mix(white, iris, smoothstep(0.455, 0.415, r))
    colour = mix(colour, column((0.004, 0.004, 0.004)), smoothstep(0.185, 0.155, r))
    _, over, _ = bust.eyelids(x, y)
    shade = 1.0 - 0.62 * smoothstep(-0.042, 0.0, over) - 0.15 * smoothstep(-0.09, -0.02, over)
    return np.clip(colour * shade, 0.002, 0.9)


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur of the two last axes."""
    r = max(1, int(np.ceil(2.5 * sigma)))
    w = np.exp(-0.5 * (np.arange(-r, r + 1) / sigma) ** 2)
    w = (w / w.sum()).astype(np.float32)
    for axis in (-1, -2):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (r, r)
        padded = np.pad(image, pad, mode="edge")
        n = image.shape[axis]
        total = np.zeros_like(image)
        for i in range(2 * r + 1):
            index = [slice(None)] * image.ndim
            index[axis] = slice(i, i + n)
            total += float(w[i]) * padded[tuple(index)]
        image = total
    return image


def background(look: Portrait, size: int) -> Array:
    """A softly mottled wall, (3, size * size)."""
    at = ((np.arange(size) + 0.5) / size).astype(np.float32)
    x, y = (a.ravel() for a in np.meshgrid(at, at))
    noise = Noise(look.seed + 1)
    side = -np.sign(look.key_direction[0])
    w = np.hypot((x - 0.5 + 0.28 * side) * 1.1, y - 0.35)
    cloud = noise.layered(x * 3.2 + 5, y * 3.2, 0 * x, 3)
    weave = noise.layered(x * 90, y * 90, 0 * x, 2)
    wall = mix(column(look.background[0]), column(look.background[1]), smoothstep(0.05, 0.9, w))
    return wall * (1 + 0.16 * cloud + 0.02 * weave)


def shade_other(
    bust: Bust, kind: int, p: Array, n: Array, view: Array, lights: list[tuple[Array, Array]]
) -> Array:
    """Light sent back by hair or clothes, given the light that arrives from each direction."""
    look, noise = bust.look, bust.noise
    x, y, z = p
    if kind == CLOTH:
        knit = np.sin(x * 95 + 1.2 * np.sin(y * 95)) * np.sin(y * 60)
        wool = noise.layered(x * 30, y * 30, z * 30, 2)
        colour = column(look.cloth) * (1 + 0.16 * knit + 0.25 * wool)
        total = np.zeros_like(p)
        for direction, power in lights:
            total += power * np.clip((dot(n, direction) + 0.25) / 1.25, 0, 1)
        return total * colour
    a, b = bust.flow(x, y, z)
    eps = 0.01
    a1, _ = bust.flow(x + eps, y, z)
    a2, _ = bust.flow(x, y + eps, z)
    a3, _ = bust.flow(x, y, z + eps)
    across = np.stack([a1 - a, a2 - a, a3 - a])
    across /= np.sqrt((across * across).sum(0)) + 1e-6
    along = np.cross(n, across, axis=0)
    along /= np.sqrt((along * along).sum(0)) + 1e-6
    long = y if look.long_hair else z
    s1 = noise(a * 26, b * 26, long * 1.1)
    s2 = noise(a * 85, b * 60, long * 2.3 + 4)
    s3 = noise(a * 190, b * 120, long * 3.7 + 9)
    strand = 0.42 * s1 + 0.36 * s2 + 0.30 * s3
    n = n + across * (0.55 * s2 + 0.45 * s3)
    n /= np.sqrt((n * n).sum(0))
    w = np.clip(0.42 + 0.55 * strand, 0, 1)
    colour = mix(column(look.hair_dark), column(look.hair_light), w)
    total = np.zeros_like(p)
    for direction, power in lights:
        nl = np.clip((dot(n, direction) + 0.3) / 1.3, 0, 1)
        tl = dot(along, direction)
        total += power * colour * nl * (0.45 + 0.55 * np.sqrt(np.clip(1 - tl * tl, 0, 1)))
        half = direction + view
        half = half / np.sqrt((half * half).sum(0))
        th = dot(along, half)
        for shift, width, tint in ((0.06, 60.0, 0.05), (-0.12, 14.0, 0.16)):
            th_s = th + shift + 0.10 * strand
            lobe = np.clip(1 - th_s * th_s, 0, 1) ** (width)
            gleam = column((1, 1, 1)) if width > 30 else column(look.hair_light) * 2.2
            total += power * gleam * lobe * nl * tint * (0.7 + 0.6 * s3)
    return total


def render(look: Portrait, size: int) -> Image.Image:
    """Draw one portrait as a ``size`` x ``size`` RGB picture."""
    big = 2 * size
    bust = Bust(look)
    turn = rotation(look)
    origin, d = camera_rays(look, big)
    t = trace(bust, origin, d, big)
    inside = np.flatnonzero(np.isfinite(t))
    p = origin[:, None] + d[:, inside] * t[inside]
    view = -d[:, inside]
    to_camera = unit(turn @ np.array([0, 0, 1], np.float32))
    key_from = turn @ unit(look.key_direction)
    kind = in_chunks(lambda q: np.argmin(np.stack(bust.parts(*q)), axis=0), p)
    n = in_chunks(lambda q: normals(bust.distance, q, 0.0025), p)
    n = n - view * np.minimum(dot(n, view) - 0.05, 0.0)  # no edge looks away from the viewer
    n /= np.sqrt((n * n).sum(0))
    facing = n * 0.012
    lit = in_chunks(lambda q: shadow(bust, q, key_from), p + facing)
    open_ = in_chunks(lambda q, m: occlusion(bust, q, m), p, n)

    fill_from = turn @ unit((-look.key_direction[0], 0.1, 0.9))
    rim_from = turn @ unit((-look.key_direction[0] * 1.6, 0.5, -0.55))
    up = turn @ np.array([0, 1, 0], np.float32)
    sky = mix(column(look.ground), column(look.sky), 0.5 + 0.5 * dot(n, up[:, None]))
    ambient = sky * open_

    linear = background(look, big)
    irradiance = np.zeros((3, big * big), np.float32)
    albedo = np.zeros_like(irradiance)
    gleam = np.zeros_like(irradiance)
    mask = np.zeros(big * big, np.float32)

    # skin: the light is gathered first, spread under the surface, and coloured last
    at = np.flatnonzero(kind == HEAD)
    if at.size:
        q, m, v = p[:, at], n[:, at], view[:, at]
        colour = in_chunks(lambda q: np.concatenate(skin_pair(bust, q)), q)
        colour, gloss = colour[:3], colour[3]
        pores = in_chunks(lambda q: pore_normals(bust, q), q)
        rough = m + pores * (0.35 + 0.5 * (look.stubble > 0))
        rough = rough / np.sqrt((rough * rough).sum(0))
        wrap = column((0.42, 0.24, 0.17))
        soft_lit = lit[at] ** column((0.82, 1.0, 1.06))
        e = (
            column(look.key)
            * soft_lit
            * np.clip((dot(rough, key_from[:, None]) + wrap) / (1 + wrap), 0, 1)
        )
        e = e + column(look.fill) * (0.4 + 0.6 * open_[at]) * np.clip(
            (dot(rough, fill_from[:, None]) + wrap) / (1 + wrap), 0, 1
        )
        e = e + ambient[:, at] ** column((0.92, 1.0, 1.05))
        shine = np.zeros_like(q)
        fresnel = 0.03 + 0.5 * np.clip(1 - dot(m, v), 0, 1) ** 5
        for direction, power, seen in (
            (key_from, look.key, lit[at]),
            (fill_from, look.fill, open_[at]),
            (rim_from, look.rim, open_[at]),
        ):
            half = v + direction[:, None]
            half = half / np.sqrt((half * half).sum(0))
            nh, nl = np.clip(dot(rough, half), 0, 1), np.clip(dot(rough, direction[:, None]), 0, 1)
            lobe = 1.21 * nh**18 + 2.25 * nh**60
            shine += column(power) * (seen * fresnel * lobe * nl * gloss * 0.9)
        shine += 0.10 * ambient[:, at] * (np.clip(1 - dot(m, v), 0, 1) ** 4) * gloss
        j = inside[at]
        irradiance[:, j], albedo[:, j], gleam[:, j], mask[j] = e, colour, shine, 1.0
    grid = (big, big)
    weight = mask.reshape(grid)
    for c, sigma in enumerate((0.019, 0.010, 0.007)):
        s = sigma * big / VIEW_WIDTH
        spread = blur(irradiance[c].reshape(grid), s) / (blur(weight, s) + 1e-4)
        both = 0.25 * irradiance[c] + 0.75 * spread.ravel()
        linear[c] = np.where(mask > 0, albedo[c] * both + gleam[c], linear[c])

    # eyes: a matte ball under a clear coat
    at = np.flatnonzero(kind == EYE)
    if at.size:
        q, m, v = p[:, at], n[:, at], view[:, at]
        side = np.where(q[0] > 0, EYE_X, -EYE_X)
        m = np.stack([q[0] - side, q[1], q[2] - EYE_Z]) / EYE_RADIUS
        colour = eye_colour(bust, q, to_camera)
        e = (
            column(look.key)
            * (0.35 + 0.65 * lit[at])
            * np.clip((dot(m, key_from[:, None]) + 0.3) / 1.3, 0, 1)
        )
        e = (
            e
            + column(look.fill) * np.clip(dot(m, fill_from[:, None]), 0, 1)
            + 0.9 * ambient[:, at]
            + 0.1
        )
        # a window-like highlight: where the cornea mirrors the key light
        cornea = m + 0.55 * (m - to_camera[:, None])
        cornea = cornea / np.sqrt((cornea * cornea).sum(0))
        mirror = 2 * dot(cornea, v) * cornea - v
        catch = unit(turn @ unit((look.key_direction[0] * 0.75, 0.42, 0.9)))
        spot = smoothstep(0.955, 0.985, dot(mirror, catch[:, None]))
        other = unit(turn @ unit((-look.key_direction[0], -0.1, 0.8)))
        faint = smoothstep(0.90, 0.99, dot(mirror, other[:, None]))
        linear[:, inside[at]] = colour * e + column(look.key) * 0.42 * spot + 0.03 * faint

    for k in (HAIR, CLOTH):
        at = np.flatnonzero(kind == k)
        if not at.size:
            continue

        def body(q: Array, m: Array, v: Array, s: Array, o: Array, amb: Array, k: int = k) -> Array:
            one = np.ones_like(q)
            lights = [
                (key_from[:, None] * one, column(look.key) * s * (0.3 + 0.7 * o)),
                (fill_from[:, None] * one, column(look.fill) * o),
                (rim_from[:, None] * one, column(look.rim) * o),
                (m, amb),
            ]
            return shade_other(bust, k, q, m, v, lights)

        linear[:, inside[at]] = in_chunks(
            body, p[:, at], n[:, at], view[:, at], lit[at], open_[at], ambient[:, at]
        )

    return develop(linear.reshape(3, big, big), look.seed)


def skin_pair(bust: Bust, p: Array) -> tuple[Array, Array]:
    """Reflectance and gloss as (3, n) and (1, n)."""
    colour, gloss = skin_colour(bust, p)
    return colour, gloss[None]


def pore_normals(bust: Bust, p: Array) -> Array:
    """Small random tilts of the skin's normal."""
    x, y, z = p
    n = bust.noise
    f = 55.0
    return 0.16 * np.stack(
        [n(x * f, y * f, z * f), n(x * f + 17, y * f, z * f), n(x * f, y * f, z * f + 31)]
    )


def develop(linear: Array, seed: int) -> Image.Image:
    """Tone curve, halving to the final size, and a little grain."""
    linear = np.clip(linear, 0, None)
    a, b, c, d, e = 2.51, 0.03, 2.43, 0.59, 0.14  # a common filmic fit
    v = linear * 0.62
    mapped = np.clip(v * (a * v + b) / (v * (c * v + d) + e), 0, 1)
    display = np.where(mapped < 0.0031308, 12.92 * mapped, 1.055 * mapped ** (1 / 2.4) - 0.055)
    display = blur(display.astype(np.float32), 0.7)
    n = display.shape[-1] // 2
    small = display.reshape(3, n, 2, n, 2).mean((2, 4))
    rng = np.random.default_rng(seed)
    grain = rng.normal(0.0, 0.006, (1, n, n))
    out = np.clip(small + grain, 0, 1).transpose(1, 2, 0)
    return Image.fromarray((out * 255 + 0.5).astype(np.uint8))


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Render the two example portraits.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--size", type=int, default=512, help="side in pixels, a multiple of 4")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, look in (("source", SOURCE), ("target", TARGET)):
        path = args.out / f"{name}.png"
        render(look, args.size).save(path, optimize=True)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
