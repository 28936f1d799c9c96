"""ResNet-50 as a feature extractor with named taps (the paper's F, Eq. 1-2, in its ResNet form).

Layout and preprocessing are torchvision's: RGB in [0, 1], ImageNet mean and deviation, bottleneck
blocks (He et al. 2016, Fig. 5) whose stride is on the 3 x 3 convolution ("v1.5"). Taps are "stem"
(after the first ReLU, before the max pool) and "layer1" .. "layer4" (after each stage's last ReLU).

Batch norm is frozen: a batch of one image has no statistics worth using, and fine-tuning must not
move those of the training set. They are parameters named "mean" and "var" whose gradient is zero,
beside the trainable "scale" and "bias".

A torchvision key becomes a path here in three steps: a number joins the name before it with an
underscore, the remaining dots become slashes, and the last name changes to

  conv*.weight, downsample.0.weight  ->  kernel  (OIHW -> HWIO)
  bn*.weight,   downsample.1.weight  ->  scale
  running_mean, running_var          ->  mean, var
  bias                               ->  bias

so "layer2.0.downsample.0.weight" is "layer2_0/downsample_0/kernel" and "bn1.running_var" is
"bn1/var". "fc.*" and "*.num_batches_tracked" have no counterpart.
"""

import flax.linen as nn
import jax
from jax import lax

from oeft_jax._checks import deepest
from oeft_jax._types import Features, Taps
from oeft_jax.models.layers import DIMS, conv
from oeft_jax.models.vgg import normalise_imagenet

RESNET50_STAGES = (3, 4, 6, 3)
EXPANSION = 4  # output width of a bottleneck over its inner width
BATCH_NORM_EPS = 1e-5


class _Conv(nn.Module):
    """Convolution without bias, odd size, padded by (size - 1) / 2 on both sides at every stride.

    "SAME" would pad a stride-2 convolution of an even size on one side only, unlike torchvision.
    """

    features: int
    kernel_size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, pad = self.kernel_size, (self.kernel_size - 1) // 2
        shape = (size, size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        if self.stride == 1:
            return conv(x, kernel)
        strides, padding = (self.stride, self.stride), ((pad, pad), (pad, pad))
        return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=DIMS)


class _FrozenBatchNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * scale + bias with stored, never trained, mean and var."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = lax.stop_gradient(self.param("mean", nn.initializers.zeros, shape))
        var = lax.stop_gradient(self.param("var", nn.initializers.ones, shape))
        factor = scale * lax.rsqrt(var + BATCH_NORM_EPS)
        shift = bias - mean * factor
        return x * factor[None, None, None, :] + shift[None, None, None, :]


class _Bottleneck(nn.Module):
    """1 x 1, 3 x 3 (strided), 1 x 1 to 4 x `width`, plus the input or its strided projection."""

    width: int
    stride: int
    project: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        wide = EXPANSION * self.width
        y = nn.relu(_FrozenBatchNorm(name="bn1")(_Conv(self.width, 1, name="conv1")(x)))
        y = _Conv(self.width, 3, self.stride, name="conv2")(y)
        y = nn.relu(_FrozenBatchNorm(name="bn2")(y))
        y = _FrozenBatchNorm(name="bn3")(_Conv(wide, 1, name="conv3")(y))
        if self.project:
            x = _Conv(wide, 1, self.stride, name="downsample_0")(x)
            x = _FrozenBatchNorm(name="downsample_1")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """Bottleneck ResNet; computes no further than the deepest tap asked for."""

    stage_sizes: tuple[int, ...] = RESNET50_STAGES
    width: int = 64

    def tap_names(self) -> tuple[str, ...]:
        """Every tap of this network, shallow to deep."""
        return ("stem", *(f"layer{stage}" for stage in range(1, len(self.stage_sizes) + 1)))

    @nn.compact
    def __call__(self, images: jax.Array, taps: Taps) -> Features:
        """Taps of `images`.

        Args:
          images: [n, h, w, 3] float32 in [0, 1].
          taps: names such as "layer2".
        Returns:
          name -> [n, ceil(h / s), ceil(w / s), channels] float32, >= 0, with s = downscale_of(name)
          and channels `width` for the stem, 4 * width * 2^(stage-1) for a stage.
        Raises:
          InputError: a tap this network does not have, or none asked for.
        """
        names = self.tap_names()
        last = deepest(taps, names)
        x = _Conv(self.width, 7, 2, name="conv1")(normalise_imagenet(images))
        x = nn.relu(_FrozenBatchNorm(name="bn1")(x))
        features: Features = {"stem": x}
        for stage in range(1, last + 1):
            if stage == 1:
                x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
            x = self._stage(x, stage)
            features[names[stage]] = x
        return {tap: features[tap] for tap in taps}

    def _stage(self, x: jax.Array, stage: int) -> jax.Array:
        for block in range(self.stage_sizes[stage - 1]):
            first = block == 0
            stride = 2 if first and stage > 1 else 1
            width = self.width * 2 ** (stage - 1)
            x = _Bottleneck(width, stride, first, name=f"layer{stage}_{block}")(x)
        return x


def resnet50() -> ResNet:
    """ResNet-50 with torchvision's width."""
    return ResNet(RESNET50_STAGES, 64)


def downscale_of(tap: str) -> int:
    """How many image pixels one cell of a ResNet tap spans: 2, 4, 8, 16 or 32."""
    return 2 if tap == "stem" else 2 ** (int(tap.removeprefix("layer")) + 1)
