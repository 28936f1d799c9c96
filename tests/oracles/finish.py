"""Votes, the guided filter and blockiness as plain float64 loops; shares no code with ours."""

import math

import numpy as np


def mirrored(place, length):
    """The pixel that a place outside stands for, the edge pixel repeated."""
    while not 0 <= place < length:
        place = -place - 1 if place < 0 else 2 * length - 1 - place
    return place


def vote(target, field, shape, cell=4):
    """Every patch of 8 x 8 pixels adds its pixels under a Gaussian window."""
    h, w = shape
    total, mass = np.zeros((h, w, target.shape[2])), np.zeros((h, w))
    for i in range(math.ceil(h / cell)):
        for j in range(math.ceil(w / cell)):
            y, x = (min(cell * k + 2, max(n - 2, n // 2)) for k, n in ((i, h), (j, w)))
            for dy in range(-cell, cell):
                for dx in range(-cell, cell):
                    if not (0 <= y + dy < h and 0 <= x + dx < w):
                        continue
                    weight = math.exp(-((dy + 0.5) ** 2 + (dx + 0.5) ** 2) / 8)
                    row = mirrored(int(field[i, j, 0]) + dy, target.shape[0])
                    col = mirrored(int(field[i, j, 1]) + dx, target.shape[1])
                    total[y + dy, x + dx] += weight * target[row, col]
                    mass[y + dy, x + dx] += weight
    return total / mass[..., None]


def box_mean(image, radius):
    h, w = image.shape[:2]
    out = np.zeros(image.shape)
    for y in range(h):
        for x in range(w):
            window = _window(image, y, x, radius)
            out[y, x] = sum(window) / len(window)
    return out


def _window(image, y, x, radius):
    rows = range(max(0, y - radius), min(image.shape[0], y + radius + 1))
    cols = range(max(0, x - radius), min(image.shape[1], x + radius + 1))
    return [np.asarray(image[r, c], np.float64) for r in rows for c in cols]


def guided_filter(image, guide, radius, eps):
    """He et al. 2013, Eq. 14, 15 and 19, a ridge regression at every pixel."""
    h, w = image.shape[:2]
    slopes, offsets = np.zeros((h, w, 3, 3)), np.zeros((h, w, 3))
    for y in range(h):
        for x in range(w):
            inputs = np.array(_window(guide, y, x, radius))
            outputs = np.array(_window(image, y, x, radius))
            mean_in, mean_out = inputs.mean(0), outputs.mean(0)
            cov_in = sum(np.outer(v - mean_in, v - mean_in) for v in inputs) / len(inputs)
            pairs = zip(inputs, outputs, strict=True)
            cov = sum(np.outer(u - mean_in, v - mean_out) for u, v in pairs) / len(inputs)
            slopes[y, x] = np.linalg.inv(cov_in + eps * np.eye(3)) @ cov
            offsets[y, x] = mean_out - mean_in @ slopes[y, x]
    out = np.zeros((h, w, 3))
    for y in range(h):
        for x in range(w):
            slope = sum(_window(slopes, y, x, radius)) / len(_window(slopes, y, x, radius))
            offset = sum(_window(offsets, y, x, radius)) / len(_window(offsets, y, x, radius))
            out[y, x] = np.asarray(guide[y, x], np.float64) @ slope + offset
    return out


def blockiness(image, period):
    ratios = []
    for axis, side in enumerate(period):
        turned = np.moveaxis(np.asarray(image, np.float64), axis, 0)
        borders = {round(k * side) for k in range(1, len(turned)) if k * side < len(turned)}
        across, within = [], []
        for place in range(1, len(turned)):
            step = np.abs(turned[place] - turned[place - 1]).mean()
            (across if place in borders else within).append(step)
        ratios.append(np.mean(across) / np.mean(within))
    return np.mean(ratios)
