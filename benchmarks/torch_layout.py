"""The layout that two photos share, in PyTorch: `oeft_jax.layout` for the comparison.

Computed once for a pair, so it is written to be plain: least squares by a library's solver.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from oeft_jax.layout import LEAST, REACHES, STIFF


def places(grid: int, like: Tensor) -> Tensor:
    """Middles of cells in row order, (down, right), in sides from the picture's middle. [g^2, 2]."""
    one = (torch.arange(grid, dtype=like.dtype, device=like.device) + 0.5) / grid - 0.5
    return torch.cartesian_prod(one, one)


def expected_places(matrix: Tensor, *, window: int, alpha: float) -> Tensor:
    """Where an affine map that is fitted to the best matches puts each source cell. [n, p, 2]."""
    found = torch.stack([agreed(one, window) for one in matrix])
    sure, best = torch.softmax(alpha * found, -1).max(-1)
    at = places(round(matrix.shape[1] ** 0.5), matrix)
    ends = places(round(matrix.shape[2] ** 0.5), matrix)
    return torch.stack([fitted(at, ends[b], s) for b, s in zip(best, sure, strict=True)])


def agreed(matrix: Tensor, window: int) -> Tensor:
    """Mean of M(u + d, v + d) over the d of a window, outer cells going on. [p, q]."""
    side, grid = (round(size**0.5) for size in matrix.shape)
    half = window // 2
    cells = matrix.view(side, side, grid, grid)
    for _ in range(2):  # the target's axes, then the source's
        cells = F.pad(cells, (half,) * 4, mode="replicate").permute(2, 3, 0, 1)
    shifts = [(i, j) for i in range(window) for j in range(window)]
    total = sum(cells[i : i + side, j : j + side, i : i + grid, j : j + grid] for i, j in shifts)
    assert isinstance(total, Tensor)
    return total.reshape(matrix.shape) / window**2


def fitted(at: Tensor, found: Tensor, sure: Tensor) -> Tensor:
    """The affine map's places, [p, 2]; matches are weighed by how far off they were, again and again."""
    terms, moved = F.pad(at, (0, 1), value=1.0), found - at
    sure = sure.clamp(min=LEAST)
    stiff = STIFF**0.5 * torch.eye(3, dtype=at.dtype, device=at.device)[:2]
    change = torch.zeros(3, 2, dtype=at.dtype, device=at.device)
    change[2] = (sure[:, None] * moved).sum(0) / sure.sum()
    for reach in REACHES:
        off = (terms @ change - moved).square().sum(1)
        weights = sure / (1 + off / reach**2) ** 2
        root = (weights / weights.sum()).sqrt()[:, None]
        rows = torch.cat([root * terms, stiff])
        change = torch.linalg.lstsq(rows, F.pad(root * moved, (0, 0, 0, 2))).solution
    return at + terms @ change


def pulled(matrix: Tensor, expected: Tensor, weight: float) -> Tensor:
    """M less `weight` times the squared distance of every target cell from the expected place."""
    ends = places(round(matrix.shape[2] ** 0.5), matrix).expand(len(matrix), -1, -1)
    down, right = (expected[:, :, None, i] - ends[:, None, :, i] for i in (0, 1))
    return matrix - weight * (down.square() + right.square())
