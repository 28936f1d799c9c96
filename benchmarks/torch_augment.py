"""Augmentation in PyTorch, of the kinds and ranges of `oeft_jax.augment`; images [n, 3, h, w]."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from oeft_jax.augment import Geometric, Photometric

LUMA = (0.299, 0.587, 0.114)
TO_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def photometric(images: Tensor) -> Tensor:
    """Colour jitter and Gaussian noise, one draw for the batch."""
    ranges = Photometric()
    x = (images * _draw(1, ranges.brightness)).clamp(0, 1)
    middle = x.mean((2, 3), keepdim=True)
    x = torch.lerp(middle, x, _draw(1, ranges.contrast)).clamp(0, 1)
    grey = (x * x.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    x = torch.lerp(grey, x, _draw(1, ranges.saturation)).clamp(0, 1)
    x = torch.einsum("ij,njhw->nihw", hue_matrix(_draw(0, ranges.hue), x), x).clamp(0, 1)
    deviation = ranges.noise * float(torch.rand(()))
    return (x + deviation * torch.randn_like(x)).clamp(0, 1)


def geometric(images: Tensor) -> Tensor:
    """Scaling, rotation, shear and translation, bilinear, mirrored at the border."""
    ranges = Geometric()
    zoom = math.exp(_draw(0, math.log(ranges.scale)))
    angle = math.radians(_draw(0, ranges.rotation))
    shear = math.tan(math.radians(_draw(0, ranges.shear)))
    cos, sin = math.cos(angle), math.sin(angle)
    shift = [2 * _draw(0, ranges.translation) for _ in range(2)]  # of sides, whose length is 2
    rows = ((cos, cos * shear - sin, shift[0]), (sin, sin * shear + cos, shift[1]))
    matrix = images.new_tensor([[row[0] / zoom, row[1] / zoom, row[2]] for row in rows])
    places = F.affine_grid(matrix.repeat(len(images), 1, 1), list(images.shape), align_corners=True)
    return F.grid_sample(images, places, padding_mode="reflection", align_corners=True).clamp(0, 1)


def _draw(middle: float, width: float) -> float:
    return middle + width * (2 * float(torch.rand(())) - 1)


def hue_matrix(turns: float, like: Tensor) -> Tensor:
    """Turns the two colour axes of YIQ, as a matrix on RGB."""
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    turn = torch.tensor([[1.0, 0, 0], [0, cos, -sin], [0, sin, cos]])
    yiq = torch.tensor(TO_YIQ)
    return (torch.linalg.inv(yiq) @ turn @ yiq).to(like)
