"""Composition, down-sampling and objective of the inversion as plain float64 loops."""

import math

import numpy as np


def compose(features, importance):
    """sum_k importance_k * F_k. [k, h, w, c], [k, c] -> [h, w, c]."""
    num, h, w, channels = features.shape
    total = np.zeros((h, w, channels))
    for k in range(num):
        for i in range(h):
            for j in range(w):
                for c in range(channels):
                    total[i, j, c] += float(importance[k, c]) * float(features[k, i, j, c])
    return total


def block_mean(image, factor):
    return _windows(image, factor, range(factor))


def central_mean(image, factor):
    """Mean of the central 2 x 2 pixels of each block: the released bilinear operator."""
    return _windows(image, factor, (factor // 2 - 1, factor // 2))


def _windows(image, factor, offsets):
    size = image.shape[0] // factor
    out = np.zeros((size, size, image.shape[2]))
    for i in range(size):
        for j in range(size):
            for di in offsets:
                for dj in offsets:
                    out[i, j] += image[factor * i + di, factor * j + dj].astype(np.float64)
    return out / len(offsets) ** 2


def objective_terms(ours, theirs, features, their_features, *, relative):
    """Unweighted terms from pictures in [-1, 1] and their features."""
    l1, l2 = 0.0, 0.0
    pairs = list(zip(ours.ravel(), theirs.ravel(), strict=True))
    for a, b in pairs:
        l1 += abs(float(a) - float(b)) / len(pairs)
        l2 += (float(a) - float(b)) ** 2 / len(pairs)
    gap, size = 0.0, 0.0
    for a, b in zip(features.ravel(), their_features.ravel(), strict=True):
        gap += abs(float(a) - float(b)) / features.size
        size += abs(float(b)) / features.size
    return {"l1": l1, "l2": l2, "perceptual": gap / size if relative else gap}


def psnr(ours, theirs):
    """Of pictures in [-1, 1], whose peak is 2; ours is clipped first."""
    error = 0.0
    for a, b in zip(ours.ravel(), theirs.ravel(), strict=True):
        error += (min(max(float(a), -1.0), 1.0) - float(b)) ** 2 / ours.size
    return 10 * math.log10(4 / error)
