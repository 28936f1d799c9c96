"""Channel moments of made pictures against real ones: against NumPy, and the slope that is given."""

import jax
import jax.numpy as jnp
import numpy as np

from training import moment_matching as ours


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def loops(x):
    """Mean and deviation of each channel, picture by picture."""
    rows = []
    for picture in np.asarray(x, np.float64):
        cells = picture.reshape(-1, picture.shape[-1])
        means = [sum(column) / len(column) for column in cells.T]
        pairs = zip(cells.T, means, strict=True)
        rows.append(
            means + [(sum((column - m) ** 2) / len(column) + 1e-4) ** 0.5 for column, m in pairs]
        )
    return np.array(rows)


def test_moments_of_channels_are_the_loops():
    x = drawn(0, 3, 4, 5, 2)
    np.testing.assert_allclose(ours.channel_moments(jnp.asarray(x)), loops(x), atol=1e-5)


def test_along_its_axes_what_is_known_has_no_mean_and_the_same_deviation_everywhere():
    """But for the ridge; every batch counts, and a tap whose rows are all the same is finite."""
    rows = drawn(0, 40, 5) @ drawn(9, 5, 5) + 2
    same = np.ones((20, 2), np.float32)
    known = ours.known(iter([{"a": rows[:25], "b": same}, {"a": rows[25:], "b": same}]))
    along = (rows - np.asarray(known.mean["a"])) @ np.asarray(known.axes["a"])
    np.testing.assert_allclose(along.mean(0), 0, atol=1e-4)
    covariance = np.cov(along.T)
    variances = np.diag(covariance)
    np.testing.assert_allclose(covariance, np.diag(variances), atol=1e-3)
    assert np.all((variances > 0.05) & (variances <= 1))
    np.testing.assert_allclose(known.spread["a"], np.abs(along).mean(0), rtol=1e-4)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(known))


def test_a_shift_is_as_far_as_a_linear_classifier_can_tell_and_less_variety_as_far_as_any():
    """In deviations of the rows, whatever basis they are given in."""
    x = jnp.asarray(drawn(1, 400, 3, 3, 2)) * jnp.array([[[[3.0, 2.0]]]])
    differences = jax.jit(ours.differences)
    known = ours.known([{"a": ours.channel_moments(x)}])
    deviation = float(jnp.std(jnp.mean(x[..., 0], axis=(1, 2))))
    moved = differences({"a": x + jnp.array([[[[2 * deviation, 0.0]]]])}, known)["a"]
    assert 3.5 < float(moved[:4] @ moved[:4]) < 4.1
    means = jnp.mean(x, axis=(1, 2), keepdims=True)
    alike = x - 0.5 * (
        means - means.mean(axis=0, keepdims=True)
    )  # pictures' means vary half as much
    less = differences({"a": alike}, known)["a"][4:]
    assert np.sort(less)[1] < -0.3  # in two of four axes by half of a spread of 0.8
    assert np.sort(less)[2] > -0.1
    none = differences({"a": x}, known)["a"]
    np.testing.assert_allclose(none, 0, atol=1e-4)


def test_the_tracked_differences_come_to_those_of_the_pictures():
    known = ours.Known({"a": jnp.ones(10)}, {"a": 2 * jnp.eye(10)}, {"a": jnp.full(10, 0.5)})
    seen = {"a": jnp.asarray(drawn(5, 8, 3, 3, 5))}
    shift, tracked = ours.nothing(known), jax.jit(ours.tracked)
    for _ in range(300):
        shift = tracked(shift, seen, known)
    along = 2 * (loops(seen["a"]) - 1)
    expected = np.concatenate([along.mean(0), np.abs(along).mean(0) - 0.5])
    np.testing.assert_allclose(shift["a"], expected, atol=1e-4)


def test_the_pull_has_the_slope_of_the_distance():
    """With the differences of exactly these pictures it is the gradient of their squares."""
    known = ours.Known(
        {"a": jnp.full(6, 0.3)}, {"a": jnp.asarray(drawn(8, 6, 6))}, {"a": jnp.full(6, 0.7)}
    )
    seen = {"a": jnp.asarray(drawn(7, 4, 3, 3, 3))}
    shift = ours.differences(seen, known)
    pulled = jax.jit(jax.grad(ours.pull))(seen, shift, known)["a"]
    expected = jax.jit(jax.grad(lambda x: ours.distance(ours.differences(x, known))))(seen)["a"]
    np.testing.assert_allclose(pulled, expected, atol=1e-5)
    assert float(jnp.abs(expected).max()) > 1e-3
