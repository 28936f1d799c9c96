"""From the chosen hypothesis and the warp to the final picture."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax.config import RefineConfig
from oeft_jax.inversion import Hypothesis


def give_up_step(config: RefineConfig, steps: int) -> int | None:
    """The inversion step after which `hopeless` is asked; None where it never is."""
    asks = config.mode == "auto" and config.give_up < 1
    return steps // 3 if asks and steps >= 3 else None


def hopeless(hypotheses: Sequence[Hypothesis], config: RefineConfig) -> bool:
    """Whether a third of the steps left all of them too far from the warp to be used in the end."""
    return all(not one.ssim >= config.limit - config.give_up for one in hypotheses)


def use_generator(best: Hypothesis, config: RefineConfig) -> tuple[bool, str]:
    """(whether the generator's picture is used, a sentence that says why)."""
    reached = f"the chosen inversion reaches an SSIM of {best.ssim:.3f} with the warp"
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
    generator at least as large as the warp gives its whole picture, in the warp's proportions.

    Args:
      image: [R, R, 3] in [0, 1], the whole warp as a square.
      warped: [h, w, 3] in [0, 1].
    Returns:
      [h, w, 3] in [0, 1], or larger: R pixels on the longer side.
    """
    small, longer = image.shape[0], max(warped.shape[:2])
    h, w = warped.shape[:2]
    if small >= longer:
        scale = small / longer
        return image if h == w else _scaled(image, round(h * scale), round(w * scale))
    kept = _scaled(_scaled(warped, small, small), h, w)
    return np.clip(_scaled(image, h, w) + warped - kept, 0, 1)


def _scaled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(jax.image.resize(jnp.asarray(image), (height, width, 3), "cubic"))
