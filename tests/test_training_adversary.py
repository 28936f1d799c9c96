"""What judges made pictures in training, and what it is shown: their parts against oracles."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from oeft_jax.models.backbone import backbone
from training import diff_augment, train_adversarial
from training.discriminator import batch_deviation, discriminator
from training.projected import projected, windows

pytestmark = pytest.mark.usefixtures("quick_random")


def test_translation_moves_by_whole_pixels_and_brings_in_zeros(key):
    images = jax.random.normal(key, (6, 16, 16, 3))
    moved = np.asarray(diff_augment.translate(jax.random.key(1), images))
    shifts = set()
    for image, result in zip(np.asarray(images), moved, strict=True):
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
        fits = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if np.array_equal(padded[i : i + 16, j : j + 16], result)
        ]
        assert len(fits) == 1
        shifts.add(fits[0])
    assert len(shifts) > 1  # every picture has its own


def test_cutout_blanks_a_square_and_nothing_else(key):
    images = 1 + jax.random.uniform(key, (8, 16, 16, 3))
    result = np.asarray(diff_augment.cutout(jax.random.key(1), images))
    kept = result != 0
    np.testing.assert_array_equal(result[kept], np.asarray(images)[kept])
    for blank in ~kept[..., 0]:
        rows, columns = blank.any(1), blank.any(0)
        np.testing.assert_array_equal(blank, rows[:, None] & columns[None, :])
        assert 1 <= rows.sum() <= 9
        assert 1 <= columns.sum() <= 9


def test_colour_keeps_the_order_of_greys_and_gradients_pass(key):
    grey = jnp.broadcast_to(jnp.linspace(-1, 1, 16).reshape(1, 4, 4, 1), (4, 4, 4, 3))
    result = np.asarray(diff_augment.colour(key, grey)).reshape(4, 16, 3)
    assert np.all(np.diff(result[..., 0], axis=1) > 0)
    np.testing.assert_allclose(result[..., 0], result[..., 2], atol=1e-6)
    slopes = jax.jit(jax.grad(lambda x: jnp.sum(diff_augment.augment(key, x) ** 2)))(grey)
    assert np.all(np.isfinite(slopes))
    assert np.all(np.abs(slopes).sum((1, 2, 3)) > 0)


def test_batch_deviation_is_that_of_every_group_of_four(key):
    x = np.asarray(jax.random.normal(key, (8, 2, 2, 3)), np.float64)
    result = np.asarray(batch_deviation(jnp.asarray(x, jnp.float32)))
    np.testing.assert_allclose(result[..., :3], x, atol=1e-6)
    for first in (0, 1):  # group g holds the pictures g, g + 2, g + 4, g + 6
        expected = np.mean(np.std(x[first::2], axis=0))
        np.testing.assert_allclose(result[first::2, :, :, 3], expected, rtol=1e-4)


def eyes(key):
    """Two feature networks, the second less deep, and their weights."""
    networks = [
        backbone("vgg", {"depths": [1] * len(widths), "widths": widths})
        for widths in ([4, 6, 8], [5, 3])
    ]
    frozen = [network.init(key, network.tap_names) for network in networks]
    return networks, frozen


def test_heads_on_features_score_pictures_and_places_and_pass_gradients(key):
    networks, frozen = eyes(key)
    critic = projected(networks, 32, width=8)  # relu4_1 and relu5_1 would be smaller than 4 x 4
    params = critic.init(key)
    own = {"x1_pixels", "x1_0_relu1_1", "x1_0_relu2_1", "x1_0_relu3_1", "x1_1_relu1_1"}
    own |= {"x1_1_relu2_1"}
    assert {name for name in params if name.endswith("moments")} == {f"{x}_moments" for x in own}
    by_place = {name.removesuffix("_score") for name in params if name.endswith("1_score")}
    assert by_place == {"x1_0_relu2_1", "x1_0_relu3_1", "x1_1_relu2_1"}  # 16 places a side at most
    images = jax.random.uniform(key, (3, 32, 32, 3), minval=-1)
    score = jax.jit(lambda images: critic.judge(params, critic.see(frozen, images)))
    scores = score(images)
    assert scores.shape == (3, (6 + 3) * 16)
    np.testing.assert_allclose(score(images[1:2])[0], scores[1], atol=1e-4)
    slopes = jax.jit(jax.grad(lambda x: jnp.sum(score(x) ** 2)))(images)
    assert np.all(np.abs(slopes).sum((1, 2, 3)) > 0)


def test_a_head_of_moments_does_not_mind_where_things_are(key):
    networks, frozen = eyes(key)
    critic = projected(networks[:1], 32, width=8)
    params = critic.init(key)
    images = np.asarray(jax.random.uniform(key, (1, 32, 32, 3), minval=-1))
    order = np.random.default_rng(0).permutation(32 * 32)
    mixed = images.reshape(1, -1, 3)[:, order].reshape(images.shape)

    @jax.jit
    def judge(pixels, seen):  # scores come in the order of what was seen
        others = {name: x for name, x in seen.items() if name != "x1_pixels"}
        return critic.judge(params, {"x1_pixels": pixels, **others})

    see = jax.jit(critic.see)
    seen = [see(frozen[:1], x) for x in (images, mixed)]
    before, after = (np.asarray(judge(x["x1_pixels"], x))[0, :16] for x in seen)
    np.testing.assert_allclose(before, before[0])
    np.testing.assert_allclose(after, before, atol=1e-4)
    brighter = np.float32(images * [1, 1, 0.5])
    assert np.abs(np.asarray(judge(brighter, seen[0]))[0, :16] - before).min() > 1e-3


def test_windows_go_through_the_picture_in_reading_order():
    images = np.random.default_rng(0).normal(size=(6, 8, 8, 2)).astype(np.float32)
    result = windows(jnp.asarray(images), 4)
    corners = [(0, 0), (0, 4), (4, 0), (4, 4), (0, 0), (0, 4)]
    expected = [image[y : y + 4, x : x + 4] for image, (y, x) in zip(images, corners, strict=True)]
    np.testing.assert_array_equal(result, expected)


def test_large_pictures_are_judged_as_a_whole_and_by_a_window(key, monkeypatch):
    monkeypatch.setattr("training.projected.VIEW", 16)
    networks, frozen = eyes(key)
    critic = projected(networks[:1], 32, width=8)
    params = critic.init(key)
    images = np.asarray(jax.random.uniform(key, (2, 32, 32, 3), minval=-1))
    grain = np.zeros_like(images)
    grain[:, :16, :16] = np.where(np.indices((16, 16)).sum(0) % 2, 1, -1)[None, :, :, None]
    score = jax.jit(lambda x: critic.judge(params, critic.see(frozen[:1], x)))
    before, after = (score(x) for x in (images, images + grain))
    moved = np.abs(np.asarray(after - before)).reshape(2, 2, -1)  # picture, view, scores
    np.testing.assert_allclose(moved[:, 0], 0, atol=1e-4)  # the grain is gone when scaled down
    np.testing.assert_allclose(moved[1, 1], 0, atol=1e-4)  # the second's window is beside it
    assert moved[0, 1].mean() > 1e-3


def test_gradient_of_r1_equals_finite_differences(x64, key):
    critic = discriminator(8, fmap_base=32, fmap_max=3)
    critic = critic._replace(see=lambda gain, images: gain * images)
    shapes = jax.eval_shape(critic.init, key)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)
    images = jnp.asarray(rng.normal(size=(4, 8, 8, 3)))

    def penalty(params):
        return train_adversarial.r1_penalty(params, images, 0.5, discriminator=critic)

    slopes = jax.jit(jax.grad(lambda x: jnp.sum(critic.judge(params, 0.5 * x))))(images)
    penalty = jax.jit(penalty)
    assert penalty(params).dtype == jnp.float64
    np.testing.assert_allclose(penalty(params), np.mean(np.sum(np.square(slopes), (1, 2, 3))))
    check_grads(penalty, (params,), order=1, modes=["rev"], atol=1e-5, rtol=1e-5, eps=1e-6)


def test_critic_and_generator_losses_are_logistic():
    scores = np.random.default_rng(0).normal(size=(2, 4, 3))
    judge = discriminator(8, fmap_base=32, fmap_max=3)._replace(judge=lambda gain, x: gain * x)
    real, made = (jnp.asarray(x, jnp.float32) for x in scores)
    loss, terms = train_adversarial.critic_loss(2.0, real, made, discriminator=judge)
    chances = 1 / (1 + np.exp(-2 * scores))
    expected = -np.log(chances[0]).mean() - np.log(1 - chances[1]).mean()
    np.testing.assert_allclose([loss, terms["D"]], expected, rtol=1e-5)
    fooled = train_adversarial.generator_loss(made, 2.0, discriminator=judge)
    np.testing.assert_allclose(fooled, -np.log(chances[1]).mean(), rtol=1e-5)


def test_augment_takes_the_kinds_asked_for(key):
    images = jax.random.uniform(key, (2, 16, 16, 3), minval=0.5)
    np.testing.assert_array_equal(diff_augment.augment(key, images, ()), images)
    own = diff_augment.translate(jax.random.split(key, 3)[1], images)
    np.testing.assert_array_equal(diff_augment.augment(key, images, ["translation"]), own)


def test_adam_without_momentum_is_adam_with_b1_zero(key):
    params = jnp.zeros((5,))
    ours = train_adversarial.adam_without_momentum(0.1)
    theirs = optax.adam(0.1, b1=0.0, b2=0.99)
    states = ours.init(params), theirs.init(params)
    for number in range(4):
        grads = jax.random.normal(jax.random.fold_in(key, number), (5,))
        a, mine = ours.update(grads, states[0])
        b, other = theirs.update(grads, states[1])
        states = mine, other
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert sum(x.size for x in jax.tree.leaves(mine)) < sum(x.size for x in jax.tree.leaves(other))
