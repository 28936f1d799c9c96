"""The final picture: which of the two is used, and joining their frequency bands."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oeft_jax.composition import plan_of
from oeft_jax.config import InversionConfig, RefineConfig
from oeft_jax.finish import led_by
from oeft_jax.inversion import Hypothesis
from oeft_jax.refine import (
    give_up_step,
    hopeless,
    over_warp,
    refined,
    tried_first,
    two_bands,
    use_generator,
)


def hypothesis(ssim):
    return Hypothesis(4, 10, np.zeros((8, 8, 3), np.float32), 0.1, 20.0, ssim)


def smooth_picture(size, seed=0):
    """Random, within [0.35, 0.65], so that cubic overshoot is never clipped."""
    values = np.random.default_rng(seed).uniform(0.35, 0.65, (size, size, 3))
    return values.astype(np.float32)


def shrink(image, size):
    return np.asarray(jax.image.resize(jnp.asarray(image), (size, size, 3), "cubic"))


@pytest.mark.parametrize(("small", "size"), [(8, 16), (8, 32), (16, 24)])
def test_result_has_the_warps_size_and_range(small, size):
    image, warped = np.ones((small, small, 3), np.float32), smooth_picture(size)
    warped[0, 0] = 1.0
    joined = two_bands(image, warped)
    assert joined.shape == (size, size, 3)
    assert joined.dtype == np.float32
    assert joined.min() >= 0
    assert joined.max() <= 1


@pytest.mark.parametrize("size", [8, 16])
def test_generator_at_least_as_large_as_the_warp_is_returned_as_it_is(size):
    image = smooth_picture(16, seed=1)
    assert two_bands(image, smooth_picture(size)) is image


@pytest.mark.parametrize("shape", [(24, 40), (33, 17)])
def test_a_rectangle_takes_the_generators_square_in_its_proportions(shape):
    warped = smooth_picture(48)[: shape[0], : shape[1]]
    assert two_bands(smooth_picture(8, seed=1), warped).shape == warped.shape
    again = two_bands(np.asarray(jax.image.resize(warped, (8, 8, 3), "cubic")), warped)
    np.testing.assert_allclose(again, warped, rtol=0, atol=1e-5)
    large = smooth_picture(80, seed=1)
    longer, shorter = max(shape), min(shape)
    found = two_bands(large, warped).shape[:2]
    assert sorted(found) == [round(80 * shorter / longer), 80]
    assert (found[0] > found[1]) == (shape[0] > shape[1])


@pytest.mark.parametrize("factor", [2, 4])
def test_generator_that_equals_the_shrunk_warp_gives_back_the_warp(factor):
    warped = smooth_picture(32)
    joined = two_bands(shrink(warped, 32 // factor), warped)
    np.testing.assert_allclose(joined, warped, rtol=0, atol=1e-5)


def test_detail_comes_from_the_warp_and_mean_colour_from_the_generator():
    warped = smooth_picture(32)
    image = np.broadcast_to(np.float32([0.3, 0.5, 0.6]), (8, 8, 3))
    joined = two_bands(image, warped)
    np.testing.assert_allclose(joined.mean(axis=(0, 1)), [0.3, 0.5, 0.6], rtol=0, atol=5e-3)
    assert np.abs(warped.mean(axis=(0, 1)) - [0.3, 0.5, 0.6]).max() > 0.1

    def detail(picture):
        low = np.asarray(jax.image.resize(shrink(picture, 8), (32, 32, 3), "cubic"))
        return (picture - low).ravel()

    assert np.corrcoef(detail(joined), detail(warped))[0, 1] > 0.99
    assert 0.9 < np.std(detail(joined)) / np.std(detail(warped)) < 1.1


def test_smooth_warp_adds_no_detail_to_the_generators_picture():
    image = smooth_picture(8, seed=2)
    joined = two_bands(image, np.full((32, 32, 3), 0.9, np.float32))
    expected = jax.image.resize(jnp.asarray(image), (32, 32, 3), "cubic")
    np.testing.assert_allclose(joined, expected, rtol=0, atol=1e-5)


def test_what_the_generator_gives_is_finished_as_the_warp_is():
    image, warped, source = (
        smooth_picture(8),
        smooth_picture(32, seed=1),
        smooth_picture(32, seed=2),
    )
    np.testing.assert_array_equal(refined(image, warped, source, 0), two_bands(image, warped))
    found = refined(image, warped, source, 1)
    np.testing.assert_array_equal(found, led_by(source, two_bands(image, warped), 1))
    whole = smooth_picture(64)  # has what detail it has
    np.testing.assert_array_equal(refined(whole, warped, source, 1), whole)


@pytest.mark.parametrize(
    ("mode", "ssim", "over", "uses", "sentence"),
    [
        ("never", 0.9, 0.5, False, "The generator was not asked for; the result is the warp."),
        (
            "always",
            0.05,
            9.0,
            True,
            "The generator's picture is used as asked; "
            "the chosen inversion reaches an SSIM of 0.050 with the warp.",
        ),
        (
            "auto",
            0.6499,
            0.5,
            False,
            "The generator is the limit: the chosen inversion reaches an SSIM of 0.650 with the warp, "
            "less than 0.65, so this picture is outside what it can make; the result is the warp.",
        ),
        (
            "auto",
            0.65,
            1.0,
            True,
            "The generator's picture is used: the chosen inversion reaches an SSIM of 0.650 with the "
            "warp, with a Frechet score 1.00 times the warp's.",
        ),
        (
            "auto",
            0.65,
            1.25,
            False,
            "The result is the warp, which has the target's look more than the generator's picture: the "
            "chosen inversion reaches an SSIM of 0.650 with the warp, with a Frechet score 1.25 times "
            "the warp's.",
        ),
    ],
)
def test_each_mode_decides_and_says_why(mode, ssim, over, uses, sentence):
    config = RefineConfig(mode=mode, limit=0.65)
    assert use_generator(hypothesis(ssim), lambda: over, config) == (uses, sentence)


def test_limit_is_the_settings():
    assert use_generator(hypothesis(0.5), lambda: 0.9, RefineConfig(limit=0.45))[0]
    used, sentence = use_generator(hypothesis(0.5), lambda: 0.9, RefineConfig(limit=0.75))
    assert not used
    assert "0.50" in sentence
    assert "0.75" in sentence


@pytest.mark.parametrize("over", [np.nan, np.inf])
def test_a_score_that_is_no_number_never_wins(over):
    assert not use_generator(hypothesis(0.9), lambda: over, RefineConfig())[0]


@pytest.mark.parametrize(("mode", "ssim"), [("always", 0.9), ("never", 0.9), ("auto", 0.5)])
def test_nothing_is_scored_where_the_answer_is_known(mode, ssim):
    def never_called():
        raise AssertionError

    use_generator(hypothesis(ssim), never_called, RefineConfig(mode=mode))


def test_the_warp_is_scored_beside_what_each_hypothesis_would_give():
    warped, target = smooth_picture(32), smooth_picture(32, seed=1)

    def brightness_apart(images, target):
        return np.array([abs(float(image.mean()) - float(target.mean())) for image in images])

    same = hypothesis(0.9)._replace(image=shrink(warped, 8))
    brighter = same._replace(image=same.image + np.float32(0.1))
    rate = partial(over_warp, source=warped, target=target, structure=0.0)
    found = rate([same, brighter], warped, scorer=brightness_apart)
    gap = float(warped.mean()) - float(target.mean())
    np.testing.assert_allclose(found, [1, abs(gap + 0.1) / abs(gap)], rtol=1e-2)
    nothing = rate([same], warped, scorer=lambda images, _: np.zeros(len(images)))
    np.testing.assert_array_equal(nothing, [0])


@pytest.mark.parametrize(
    ("mode", "give_up", "steps", "expected"),
    [
        ("auto", 0.2, 150, 50),
        ("auto", 0.2, 2, None),
        ("auto", 1.0, 150, None),
        ("always", 0.2, 150, None),
        ("never", 0.2, 150, None),
    ],
)
def test_only_the_automatic_choice_gives_up(mode, give_up, steps, expected):
    assert give_up_step(RefineConfig(mode=mode, give_up=give_up), steps) == expected


@pytest.mark.parametrize(
    ("ssims", "expected"),
    [((0.1, 0.59), True), ((0.1, 0.61), False), ((0.7,), False), ((float("nan"), 0.2), True)],
)
def test_an_inversion_is_hopeless_when_its_best_is_far_below_the_limit(ssims, expected):
    config = RefineConfig(limit=0.8, give_up=0.2)
    assert hopeless(ssims, config) is expected


def test_the_hypothesis_that_can_make_most_is_tried_first():
    plan = plan_of(InversionConfig(composing_layers=(7, 4, 6), num_codes=(20, 5, 10)))
    (place,) = tried_first(plan)
    assert plan[place] == (7, 20)
    assert tried_first(plan[:1]) == (0,)
