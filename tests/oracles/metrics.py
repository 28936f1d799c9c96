"""The metrics as plain float64 loops, from their definitions; shares no code with the package."""

import math

import numpy as np
from scipy.linalg import sqrtm


def mean_and_covariance(samples):
    n, d = samples.shape
    mean = np.zeros(d)
    for row in samples:
        mean += row / n
    cov = np.zeros((d, d))
    for row in samples:
        for i in range(d):
            for j in range(d):
                cov[i, j] += (row[i] - mean[i]) * (row[j] - mean[j]) / (n - 1)
    return mean, cov


def frechet_by_matrix_root(mean_a, cov_a, mean_b, cov_b):
    """Full-rank covariances only: the general (Schur) square root of their product."""
    root = sqrtm(cov_a @ cov_b)
    return _frechet(mean_a, cov_a, mean_b, cov_b, np.trace(root).real)


def frechet_by_eigenvalues(mean_a, cov_a, mean_b, cov_b):
    """Any rank, but only about six digits: eigenvalues of the unsymmetric product."""
    total = 0.0
    for value in np.linalg.eigvals(cov_a @ cov_b):
        total += math.sqrt(max(value.real, 0.0))
    return _frechet(mean_a, cov_a, mean_b, cov_b, total)


def _frechet(mean_a, cov_a, mean_b, cov_b, trace_of_root):
    total = -2 * trace_of_root
    for i in range(len(mean_a)):
        total += (mean_a[i] - mean_b[i]) ** 2 + cov_a[i, i] + cov_b[i, i]
    return total


def psnr(a, b, peak):
    error, count = 0.0, 0
    for x, y in zip(a.ravel(), b.ravel(), strict=True):
        error += (float(x) - float(y)) ** 2
        count += 1
    return 10 * math.log10(peak**2 / (error / count))


def ssim(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    h, w, channels = a.shape
    window = np.zeros((11, 11))
    for i in range(11):
        for j in range(11):
            window[i, j] = math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for top in range(h - 10):
        for left in range(w - 10):
            for c in range(channels):
                x = a[top : top + 11, left : left + 11, c]
                y = b[top : top + 11, left : left + 11, c]
                mx, my = (window * x).sum(), (window * y).sum()
                vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
                cov = (window * (x - mx) * (y - my)).sum()
                value = (2 * mx * my + 0.01**2) * (2 * cov + 0.03**2)
                values.append(value / ((mx**2 + my**2 + 0.01**2) * (vx + vy + 0.03**2)))
    return sum(values) / len(values)


def edge_agreement(a, b):
    return np.corrcoef(_magnitudes(a), _magnitudes(b))[0, 1]


def _magnitudes(image):
    h, w, _ = image.shape
    grey = image.astype(np.float64).mean(axis=2)
    smooth = np.full((h, w), np.nan)
    for i in range(1, h - 1):
        for j in range(1, w - 1):
            smooth[i, j] = grey[i - 1 : i + 2, j - 1 : j + 2].mean()
    return [
        math.hypot(
            (smooth[i + 1, j] - smooth[i - 1, j]) / 2, (smooth[i, j + 1] - smooth[i, j - 1]) / 2
        )
        for i in range(2, h - 2)
        for j in range(2, w - 2)
    ]


def self_similarity_distance(fa, fb):
    sa, sb = _self_similarity(fa), _self_similarity(fb)
    cells = len(sa)
    total = 0.0
    for p in range(cells):
        for q in range(cells):
            total += (sa[p][q] - sb[p][q]) ** 2
    return total / cells**2


def _self_similarity(features):
    cells = [cell.astype(np.float64) for row in features for cell in row]
    mean = sum(cells) / len(cells)
    cells = [cell - mean for cell in cells]
    return [[x @ y / math.sqrt((x @ x) * (y @ y)) for y in cells] for x in cells]


def gram_distance(fa, fb):
    ga, gb = _gram(fa), _gram(fb)
    return ((ga - gb) ** 2).sum() / (gb**2).sum()


def _gram(features):
    h, w, channels = features.shape
    gram = np.zeros((channels, channels))
    for row in features.astype(np.float64):
        for cell in row:
            for i in range(channels):
                for j in range(channels):
                    gram[i, j] += cell[i] * cell[j] / (h * w)
    return gram
