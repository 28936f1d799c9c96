"""The layout that two photos share, in PyTorch: `oeft_jax.layout` for the comparison.

Computed once for a pair, so it is written to be plain: least squares by a library's solver.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from oeft_jax.layout import LEAST, REACHES, STIFF


def places(grid: int, like: Tensor) -> Tensor:
    """Middles of cells in row order, (down, right), in sides from the picture's middle. [g^2, 2]."""
    one = (torch.arange(grid, dtype=like.dtype, device=like.device) + 0.5) / grid - 0.5
    return torch.cartesian_prod(one, one)


class Layout(NamedTuple):
    """Where source cells are expected in the target, and the part of the matches that lie there."""

    expected: Tensor  # [n, p, 2]
    shared: Tensor  # [n]


def layout_of(matrix: Tensor, *, window: int, alpha: float) -> Layout:
    """An affine map, fitted to the best matches of M [n, p, q]."""
    found = torch.stack([agreed(one, window) for one in matrix])
    sure, best = torch.softmax(alpha * found, -1).max(-1)
    at = places(round(matrix.shape[1] ** 0.5), matrix)
    ends = places(round(matrix.shape[2] ** 0.5), matrix)
    each = [fitted(at, ends[b], s) for b, s in zip(best, sure, strict=True)]
    return Layout(*(torch.stack(parts) for parts in zip(*each, strict=True)))


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


def fitted(at: Tensor, found: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:
    """The map's places [p, 2] and the part of the matches there; far ones count less and less."""
    terms, moved = F.pad(at, (0, 1), value=1.0), found - at
    sure = sure.clamp(min=LEAST)
    sure = sure / sure.sum()
    stiff = STIFF**0.5 * torch.eye(3, dtype=at.dtype, device=at.device)[:2]
    change = torch.zeros(3, 2, dtype=at.dtype, device=at.device)
    change[2] = (sure[:, None] * moved).sum(0)

    def weighed(change: Tensor, reach: float) -> Tensor:
        off = (terms @ change - moved).square().sum(1)
        return sure / (1 + off / reach**2) ** 2

    for reach in REACHES:
        weights = weighed(change, reach)
        root = (weights / weights.sum()).sqrt()[:, None]
        rows = torch.cat([root * terms, stiff])
        change = torch.linalg.lstsq(rows, F.pad(root * moved, (0, 0, 0, 2))).solution
    return at + terms @ change, weighed(change, REACHES[-1]).sum()


def apart(layout: Layout, cells: int, weight: float) -> Tensor:
    """What the layout takes off M: squared distances of target cells from expected places."""
    ends = places(round(cells**0.5), layout.expected).expand(len(layout.expected), -1, -1)
    down, right = (layout.expected[:, :, None, i] - ends[:, None, :, i] for i in (0, 1))
    return weight * layout.shared[:, None, None] * (down.square() + right.square())
