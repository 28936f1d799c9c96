"""Correspondence as plain float64 loops, from the paper's equations; shares no code with ours.

Cosines are exact here: no epsilon beside the norm.
"""

import math

import numpy as np


def _double(array):
    return np.asarray(array, np.float64)


def _cosine(a, b):
    return float(np.dot(a, b)) / (math.sqrt(np.dot(a, a)) * math.sqrt(np.dot(b, b)))


# Hypercolumns (Fig. 3)


def block_mean(image, factor):
    h, w, c = image.shape
    out = np.zeros((h // factor, w // factor, c))
    for row in range(h // factor):
        for col in range(w // factor):
            for i in range(factor):
                for j in range(factor):
                    out[row, col] += image[row * factor + i, col * factor + j] / factor**2
    return out


def bilinear(image, size):
    """Half-pixel centres, edge pixels repeated outside."""
    h, w, c = image.shape
    out = np.zeros((size, size, c))
    for row in range(size):
        for col in range(size):
            y = (row + 0.5) * h / size - 0.5
            x = (col + 0.5) * w / size - 0.5
            top, left = math.floor(y), math.floor(x)
            for i in (top, top + 1):
                for j in (left, left + 1):
                    share = (1 - abs(y - i)) * (1 - abs(x - j))
                    out[row, col] += share * image[min(max(i, 0), h - 1), min(max(j, 0), w - 1)]
    return out


def resize(image, grid):
    side = image.shape[0]
    return block_mean(image, side // grid) if side >= grid else bilinear(image, grid)


def root_mean_square(features):
    total = 0.0
    for value in _double(features).ravel():
        total += value**2
    return math.sqrt(total / np.size(features))


def channel_scales(image, size):
    """Deviation of each channel of [h, w, c] over its places, and a tenth of the tap's size."""
    h, w, c = image.shape
    found = []
    for k in range(c):
        values = [image[i, j, k] for i in range(h) for j in range(w)]
        mean = sum(values) / len(values)
        found.append(math.sqrt(sum((x - mean) ** 2 for x in values) / len(values)) + 0.1 * size)
    return np.array(found)


def hypercolumn(features, references, grid, mode="rms"):
    """Taps by name, each divided by the size of `references`, or each channel by its own."""
    n = len(next(iter(features.values())))
    result = []
    for k in range(n):
        maps = []
        for tap in sorted(features):
            scale = root_mean_square(references[tap])
            if mode == "channels":
                scale = channel_scales(_double(references[tap][k]), scale)
            maps.append(resize(_double(features[tap][k]), grid) / scale)
        cells = [[x for m in maps for x in m[r, c]] for r in range(grid) for c in range(grid)]
        result.append(cells)
    return np.array(result)


# Correlation and warps (Eq. 3-6)


def centre(cells, over):
    """One image: [p, c]."""
    p, c = cells.shape
    out = np.zeros((p, c))
    for u in range(p):
        for k in range(c):
            mean = 0.0
            if over == "positions":
                mean = sum(cells[v, k] for v in range(p)) / p
            elif over == "channels":
                mean = sum(cells[u, m] for m in range(c)) / c
            out[u, k] = cells[u, k] - mean
    return out


def neighbours(cells):
    """One image: every cell joined with its eight neighbours in row order, zeros outside."""
    p, c = cells.shape
    grid = math.isqrt(p)
    out = np.zeros((p, 9, c))
    for row in range(grid):
        for col in range(grid):
            for i in range(3):
                for j in range(3):
                    y, x = row + i - 1, col + j - 1
                    if 0 <= y < grid and 0 <= x < grid:
                        out[row * grid + col, 3 * i + j] = cells[y * grid + x]
    return out.reshape(p, 9 * c)


def correlation(source, target, over="positions", neighbourhood=1):
    result = []
    for s, t in zip(_double(source), _double(target), strict=True):
        s, t = centre(s, over), centre(t, over)
        if neighbourhood == 3:
            s, t = neighbours(s), neighbours(t)
        result.append([[_cosine(a, b) for b in t] for a in s])
    return np.array(result)


def warp(values, correlation, alpha):
    values, correlation = _double(values), _double(correlation)
    n, p, q = correlation.shape
    out = np.zeros((n, p, values.shape[-1]))
    for k in range(n):
        for u in range(p):
            highest = max(correlation[k, u])
            weights = [math.exp(alpha * (m - highest)) for m in correlation[k, u]]
            for v in range(q):
                out[k, u] += weights[v] / sum(weights) * values[k, v]
    return out


def patch_warp(target, correlation, alpha):
    """Every pixel of a cell is mixed from the pixels at the same place in the target's cells."""
    target = _double(target)
    n, size, _, _ = target.shape
    grid = math.isqrt(correlation.shape[-1])
    side = size // grid
    out = np.zeros(target.shape)
    for i in range(side):
        for j in range(side):
            values = target[:, i::side, j::side].reshape(n, grid * grid, 3)
            mixed = warp(values, correlation, alpha)
            for u in range(grid * grid):
                out[:, u // grid * side + i, u % grid * side + j] = mixed[:, u]
    return out


def pooled_warp(target, correlation, alpha):
    target = _double(target)
    size = target.shape[1]
    grid, side = math.isqrt(correlation.shape[-1]), math.isqrt(correlation.shape[1])
    pooled = np.array([block_mean(x, size // grid).reshape(grid * grid, 3) for x in target])
    mixed = warp(pooled, correlation, alpha)
    return np.array([bilinear(x.reshape(side, side, 3), size) for x in mixed])


def _reflected(index, size):
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


def overlapping_warp(target, correlation, alpha, fade):
    """Every pixel is the weighted mean of what each source cell near it mixes there."""
    target = _double(target)
    n, size, _, _ = target.shape
    grid, columns = math.isqrt(correlation.shape[-1]), math.isqrt(correlation.shape[1])
    cell = size // grid
    before = cell // 2
    out = np.zeros((n, columns * cell, columns * cell, 3))
    weights = np.zeros((*out.shape[1:3], 1))
    for i in range(2 * cell):
        for j in range(2 * cell):
            rows = [_reflected(v * cell - before + i, size) for v in range(grid)]
            cols = [_reflected(v * cell - before + j, size) for v in range(grid)]
            values = target[:, rows][:, :, cols].reshape(n, grid * grid, 3)
            mixed = warp(values, correlation, alpha)
            squares = ((i + 0.5) / cell - 1) ** 2 + ((j + 0.5) / cell - 1) ** 2
            for u in range(columns * columns):
                row, col = u // columns * cell - before + i, u % columns * cell - before + j
                if 0 <= row < out.shape[1] and 0 <= col < out.shape[2]:
                    out[:, row, col] += math.exp(-fade * squares) * mixed[:, u]
                    weights[row, col] += math.exp(-fade * squares)
    return out / weights


def voted_warp(target, correlation, overlap=2):
    target = _double(target)
    n, size, _, _ = target.shape
    grid, columns = math.isqrt(correlation.shape[-1]), math.isqrt(correlation.shape[1])
    cell = size // grid
    side = overlap * cell
    margin = (side - cell) // 2
    extent = columns * cell
    out = np.zeros((n, extent, extent, 3))
    for k in range(n):
        weights = np.zeros((extent, extent, 1))
        for u in range(columns * columns):
            best = max(range(grid * grid), key=lambda v, k=k, u=u: correlation[k, u, v])
            for i in range(side):
                for j in range(side):
                    row = u // columns * cell - margin + i
                    col = u % columns * cell - margin + j
                    if not (0 <= row < extent and 0 <= col < extent):
                        continue
                    y = _reflected(best // grid * cell - margin + i, size)
                    x = _reflected(best % grid * cell - margin + j, size)
                    squares = (i - (side - 1) / 2) ** 2 + (j - (side - 1) / 2) ** 2
                    weight = math.exp(-squares / (2 * (side / 4) ** 2))
                    out[k, row, col] += weight * target[k, y, x]
                    weights[row, col] += weight
        out[k] /= weights
    return out


# Losses (Eq. 7-10)


def info_nce(query, keys, temperature, positives=None):
    query, keys = _double(query), _double(keys)
    n, p, _ = query.shape
    total = 0.0
    for k in range(n):
        for u in range(p):
            positive = u if positives is None else positives[u]
            terms = [math.exp(_cosine(query[k, u], x) / temperature) for x in keys[k]]
            total -= math.log(terms[positive] / sum(terms)) / (n * p)
    return total


def gram(features):
    features = _double(features)
    n, h, w, c = features.shape
    out = np.zeros((n, c, c))
    for k in range(n):
        for row in range(h):
            for col in range(w):
                for a in range(c):
                    for b in range(c):
                        out[k, a, b] += (
                            features[k, row, col, a] * features[k, row, col, b] / (h * w)
                        )
    return out


def gram_loss(warped, target):
    total = 0.0
    for g, t in zip(gram(warped), gram(target), strict=True):
        error = sum((x - y) ** 2 for x, y in zip(g.ravel(), t.ravel(), strict=True))
        total += error / sum(y**2 for y in t.ravel())
    return total / len(target)


def contextual_loss(target, warped, bandwidth, eps=1e-5):
    """i counts warped (generated) positions, j target positions."""
    target, warped = _double(target), _double(warped)
    n, q, _ = target.shape
    total = 0.0
    for k in range(n):
        mean = sum(target[k]) / q
        affinity = []
        for x in warped[k]:
            row = [(1 - _cosine(x - mean, y - mean)) / 2 for y in target[k]]
            lowest = min(row) + eps
            weights = [math.exp((1 - d / lowest) / bandwidth) for d in row]
            affinity.append([weight / sum(weights) for weight in weights])
        best = [max(row[j] for row in affinity) for j in range(q)]
        total -= math.log(sum(best) / q)
    return total / n


def structure_loss(warped, source):
    """Mean squared difference of centred cosine self-similarities. [n, p, c] each."""
    total = count = 0
    for ours, theirs in zip(_double(warped), _double(source), strict=True):
        ours, theirs = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
        for p in range(len(ours)):
            for q in range(len(ours)):
                difference = _cosine(ours[p], ours[q]) - _cosine(theirs[p], theirs[q])
                total, count = total + difference**2, count + 1
    return total / count


def local_structure_loss(warped, source, steps=(1, 3)):
    """The same, of each place and those a step away, axis by axis and diagonally. [n, h, w, c]."""
    each = []
    for step in steps:
        for dy, dx in ((0, step), (step, 0), (step, step), (step, -step)):
            total = count = 0
            for ours, theirs in zip(_double(warped), _double(source), strict=True):
                ours, theirs = (x - x.mean(axis=(0, 1)) for x in (ours, theirs))
                height, width = ours.shape[:2]
                for y in range(height):
                    for x in range(width):
                        v, u = y + dy, x + dx
                        if 0 <= v < height and 0 <= u < width:
                            a = _cosine(ours[y, x], ours[v, u])
                            b = _cosine(theirs[y, x], theirs[v, u])
                            total, count = total + (a - b) ** 2, count + 1
            each.append(total / count)
    return sum(each) / len(each)


def agreed(source, target, side, grid, window):
    """Sums of cosines over a window, of all source with all target cells; borders go on. [p, q]."""
    source, target = (_double(x).reshape(s, s, -1) for x, s in ((source, side), (target, grid)))
    reach, found = window // 2, []
    shifts = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]

    def at(cells, row, column):
        last = len(cells) - 1
        return cells[min(max(row, 0), last), min(max(column, 0), last)]

    for r in range(side):
        for c in range(side):
            sums = [
                sum(at(source, r + i, c + j) @ at(target, y + i, x + j) for i, j in shifts)
                for y in range(grid)
                for x in range(grid)
            ]
            found.append(sums)
    return np.array(found)


def layout(at, found, sure, *, reaches, stiff, least):
    """Where the affine map goes that most of the matches at -> found agree with, and how many do.

    A row for each match and axis, scaled by the root of its weight; weights from the last map.
    """
    count = len(at)
    sure = [max(float(s), least) for s in sure]
    linear, shift = (
        np.zeros((2, 2)),
        sum(s * (f - a) for s, f, a in zip(sure, found, at, strict=True)) / sum(sure),
    )
    for reach in reaches:
        weights = []
        for s, a, f in zip(sure, at, found, strict=True):
            off = a + linear @ a + shift - f
            weights.append(s / (1 + off @ off / reach**2) ** 2)
        rows, wanted = [], []
        for w, a, f in zip(weights, at, found, strict=True):
            root = np.sqrt(w / sum(weights))
            for axis in (0, 1):
                row = np.zeros(6)  # linear, row by row, then shift
                row[2 * axis : 2 * axis + 2], row[4 + axis] = a, 1
                rows.append(root * row)
                wanted.append(root * (f - a)[axis])
        rows += list(np.sqrt(stiff) * np.eye(6)[:4])
        wanted += [0.0] * 4
        answer = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
        linear, shift = answer[:4].reshape(2, 2), answer[4:]
    places = np.array([at[k] + linear @ at[k] + shift for k in range(count)])
    agreeing = 0.0
    for k in range(count):
        off = places[k] - found[k]
        agreeing += sure[k] / sum(sure) / (1 + off @ off / reaches[-1] ** 2) ** 2
    return places, agreeing


def lowered(matrix, expected, places, weight):
    """M(u, v) - weight |expected(u) - places(v)|^2. [p, q]."""
    out = np.zeros_like(matrix)
    for u in range(matrix.shape[0]):
        for v in range(matrix.shape[1]):
            apart = expected[u] - places[v]
            out[u, v] = matrix[u, v] - weight * (apart[0] ** 2 + apart[1] ** 2)
    return out
