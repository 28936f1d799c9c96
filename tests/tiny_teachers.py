"""The networks that the bundled feature network learns from, made here and small."""

import numpy as np

FIRST = {"0.weight": np.eye(3)[:, :, None, None], "0.bias": np.zeros(3)}


def convolution(rng, name, out, into, size=3):
    deviation = (2 / (into * size * size)) ** 0.5
    weight = rng.normal(0, deviation, (out, into, size, size))
    return {f"{name}.weight": weight, f"{name}.bias": rng.normal(0, 0.1, out)}


def real_teacher(rng):
    """The real VGG-19's layers with few channels, but as many as it has at the taps."""
    sizes = {"2": (64, 3), "5": (4, 64), "9": (128, 4), "12": (4, 128), "16": (256, 4)}
    arrays = dict(FIRST)
    for name, (out, into) in sizes.items():
        arrays |= convolution(rng, name, out, into)
    return {name: np.float32(value) for name, value in arrays.items()}


def write_teachers(folder, rng):
    """Both teachers' files: `real_teacher` and the distilled one alike."""
    vgg = real_teacher(rng)
    distilled, into = {f"conv{name}": value for name, value in FIRST.items()}, 3
    for block, depth, full in ((1, 2, 64), (2, 2, 128), (3, 4, 256), (4, 4, 512), (5, 1, 512)):
        for index in range(1, depth + 1):
            distilled |= convolution(rng, f"conv{block}{index}", 4, into)
            into = 4
        distilled |= convolution(rng, f"conv{block}1_aux", full, 4, size=1)
    for name, arrays in (
        ("w_vgg19_normalised/vgg_normalised_conv3_1.npz", vgg),
        ("w_vgg19_distilled16x/5SE.npz", distilled),
    ):
        (folder / name).parent.mkdir()
        np.savez(folder / name, **{k: np.float32(v) for k, v in arrays.items()})
