"""From the chosen hypothesis and the warp to the final picture."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from oeft_jax.composition import Plan
from oeft_jax.config import RefineConfig
from oeft_jax.finish import led_by
from oeft_jax.inversion import Active, Hypothesis
from oeft_jax.selection import Scorer


def give_up_step(config: RefineConfig, steps: int) -> int | None:
    """The inversion step after which `hopeless` is asked; None where it never is."""
    asks = config.mode == "auto" and config.give_up < 1
    return steps // 3 if asks and steps >= 3 else None


def tried_first(plan: Plan) -> Active:
    """The hypothesis that `hopeless` is asked of: composed latest, of most codes, so it can make most."""
    return (len(plan) - 1,)


def hopeless(ssims: Sequence[float], config: RefineConfig) -> bool:
    """Whether a third of the steps left all of them too far from the warp to be used in the end."""
    return all(not ssim >= config.limit - config.give_up for ssim in ssims)


def over_warp(
    hypotheses: Sequence[Hypothesis],
    warped: np.ndarray,
    source: np.ndarray,
    target: np.ndarray,
    *,
    scorer: Scorer,
    structure: float,
) -> np.ndarray:
    """The score of each picture that would be the result, over the warp's: above 1 is worse.

    The warp is one candidate more for the score that chooses among the hypotheses (Sec. 3.3). All
    are compared at working size, finished.

    Args:
      warped: [s, s, 3] in [0, 1], not finished.
      source: [s, s, 3] in [0, 1].
      target: [s, s, 3] in [0, 1].
      structure: in [0, 1], as `finish.led_by` takes it.
    Returns:
      [h]; not finite where a score is not.
    """
    pictures = [refined(one.image, warped, source, structure) for one in hypotheses]
    scores = scorer([*pictures, led_by(source, warped, structure)], target)
    return np.asarray(scores[:-1]) / max(float(scores[-1]), np.finfo(np.float32).tiny)


def use_generator(
    best: Hypothesis, over: Callable[[], float], config: RefineConfig
) -> tuple[bool, str]:
    """(whether the generator's picture is used, a sentence that says why).

    Args:
      over: gives what `over_warp` gives of `best`; called only where the answer depends on it.
    """
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
    score = over()
    scored = f"a Frechet score {score:.2f} times the warp's"
    if not score <= 1:
        return False, (
            f"The result is the warp, which has the target's look more than the generator's "
            f"picture: {reached}, with {scored}."
        )
    return True, f"The generator's picture is used: {reached}, with {scored}."


def refined(
    image: np.ndarray, warped: np.ndarray, source: np.ndarray, structure: float
) -> np.ndarray:
    """The generator's picture in place of the warp's coarse content, finished as the warp is.

    Finishing comes last, so the source's drawing also leads what the generator has blurred. A
    generator at least as large as the warp gives its whole picture, which is not finished.

    Args:
      image: [R, R, 3] in [0, 1], the whole warp as a square.
      warped: [h, w, 3] in [0, 1], not finished.
      source: [h, w, 3] in [0, 1].
      structure: in [0, 1], as `finish.led_by` takes it.
    Returns:
      As `two_bands`.
    """
    joined = two_bands(image, warped)
    return joined if is_whole(image, warped) else led_by(source, joined, structure)


def is_whole(image: np.ndarray, warped: np.ndarray) -> bool:
    """Whether the generator's picture is at least as large as the warp."""
    return image.shape[0] >= max(warped.shape[:2])


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
    small, (h, w) = image.shape[0], warped.shape[:2]
    if is_whole(image, warped):
        scale = small / max(h, w)
        return image if h == w else _scaled(image, round(h * scale), round(w * scale))
    kept = _scaled(_scaled(warped, small, small), h, w)
    return np.clip(_scaled(image, h, w) + warped - kept, 0, 1)


def _scaled(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(jax.image.resize(jnp.asarray(image), (height, width, 3), "cubic"))
