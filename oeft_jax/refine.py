"""From the chosen hypothesis and the warp to the final picture."""

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax.config import RefineConfig
from oeft_jax.inversion import Hypothesis


def use_generator(best: Hypothesis, config: RefineConfig) -> tuple[bool, str]:
    """(whether the generator's picture is used, a sentence that says why)."""
    reached = f"the chosen inversion reaches an SSIM of {best.ssim:.2f} with the warp"
    if config.mode == "never":
        return False, "The generator was not asked for; the result is the warp."
    if config.mode == "always":
        return True, f"The generator's picture is used as asked; {reached}."
    if not best.ssim >= config.limit:
        return False, (
            f"The generator is the limit: {reached}, less than {config.limit:g}, so this "
            "picture is outside what it can make; the result is the warp."
        )
    return True, f"The generator's picture is used: {reached}."


def two_bands(image: np.ndarray, warped: np.ndarray) -> np.ndarray:
    """Coarse content from `image`, detail from `warped`, so the result is never smaller.

    What the generator's resolution cannot hold is taken from the warp: up(y) + r - up(down(r)). A
    generator at least as large as the warp is returned as it is.

    Args:
      image: [R, R, 3] in [0, 1].
      warped: [s, s, 3] in [0, 1].
    Returns:
      [max(R, s), max(R, s), 3] in [0, 1].
    """
    small, size = image.shape[0], warped.shape[0]
    if small >= size:
        return image
    coarse = jax.image.resize(jnp.asarray(image), (size, size, 3), "cubic")
    kept = jax.image.resize(jnp.asarray(warped), (small, small, 3), "cubic")
    detail = warped - jax.image.resize(kept, (size, size, 3), "cubic")
    return np.asarray(jnp.clip(coarse + detail, 0, 1))
