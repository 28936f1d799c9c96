"""Type aliases shared by every module; imports nothing of ours."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

Params = Any  # a pytree of arrays, as Flax linen keeps them under "params"
Features = dict[str, jax.Array]  # tap name -> [n, h, w, c]
Terms = dict[str, jax.Array]  # loss name -> [], already weighted
Taps = Sequence[str]
FeatureFn = Callable[[Params, jax.Array, Taps], Features]
