"""Choosing a hypothesis: the rule, the three scorers, statistics files and their errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import metrics as oracle

from oeft_jax import selection
from oeft_jax._checks import InputError
from oeft_jax.config import SelectionConfig
from oeft_jax.models.backbone import backbone

TAP = "relu2_1"
WIDTH = 4
SIZE = 32


@pytest.fixture(scope="module")
def network():
    """(feature network, its params, features [p, c] float64 of one image)."""
    made = backbone("vgg", {"depths": [1, 1, 1, 1, 1], "widths": [WIDTH] * 5})
    shapes = jax.eval_shape(lambda key: made.init(key, (TAP,)), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32), shapes)

    def features(image):
        values = made.apply(params, jnp.asarray(image)[None], (TAP,))[TAP]
        return np.asarray(values, np.float64).reshape(-1, WIDTH)

    return made, params, features


@pytest.fixture(scope="module")
def target():
    return np.random.default_rng(1).uniform(0.2, 0.8, (SIZE, SIZE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def gaussian():
    """(mu, sigma) of a reference that no picture here comes from."""
    root = np.random.default_rng(2).normal(size=(WIDTH, WIDTH))
    return np.array([0.5, -1.0, 2.0, 0.1]), root @ root.T + 0.1 * np.eye(WIDTH)


@pytest.fixture
def statistics_path(tmp_path, gaussian):
    path = tmp_path / "statistics.npz"
    np.savez(path, mu=gaussian[0], sigma=gaussian[1])
    return path


def noisy(image, deviation):
    noise = np.random.default_rng(3).normal(0, deviation, image.shape)
    return np.clip(image + noise, 0, 1).astype(np.float32)


def blurred(image, times):
    for _ in range(times):
        image = sum(np.roll(image, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    return image.astype(np.float32)


def shuffled_blocks(image, side):
    number = SIZE // side
    blocks = image.reshape(number, side, number, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    blocks = blocks[np.random.default_rng(4).permutation(len(blocks))]
    return blocks.reshape(number, number, side, side, 3).swapaxes(1, 2).reshape(SIZE, SIZE, 3)


def test_smallest_score_wins_among_all_under_the_papers_rule():
    choice = selection.choose(
        np.array([3.0, 1.0, 2.0]), np.array([0.1, 9.0, 0.2]), tolerance=np.inf
    )
    assert choice.chosen == 1
    assert choice.scores == (3.0, 1.0, 2.0)
    assert choice.eligible == (True, True, True)


def test_papers_rule_holds_beside_a_perfect_reconstruction():
    choice = selection.choose(np.array([2.0, 1.0]), np.array([0.0, 0.5]), tolerance=np.inf)
    assert choice.chosen == 1
    assert choice.eligible == (True, True)


def test_only_hypotheses_within_the_tolerance_of_the_best_reconstruction_can_win():
    scores, losses = np.array([5.0, 4.0, 1.0]), np.array([1.0, 1.05, 1.2])
    choice = selection.choose(scores, losses, tolerance=0.1)
    assert choice.chosen == 1
    assert choice.eligible == (True, True, False)
    assert selection.choose(scores, losses, tolerance=0.25).chosen == 2
    assert selection.choose(scores, losses, tolerance=0.0).chosen == 0


def test_ties_go_to_the_first():
    assert selection.choose(np.array([2.0, 1.0, 1.0]), np.ones(3), tolerance=0.1).chosen == 1


def test_nan_score_never_wins():
    scores = np.array([np.nan, 7.0, np.nan])
    assert selection.choose(scores, np.array([0.1, 0.2, 0.3]), tolerance=np.inf).chosen == 1


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_without_a_usable_score_the_best_reconstruction_wins(score):
    losses = np.array([0.3, 0.1, 0.2])
    assert selection.choose(np.full(3, score), losses, tolerance=np.inf).chosen == 1


def test_single_image_score_is_zero_for_the_target_itself(network, target):
    score = selection.single_image(*network[:2], TAP)
    scores = score([target, noisy(target, 0.05)], target)
    assert scores.shape == (2,)
    assert scores[0] < 1e-6 * max(scores[1], 1)
    assert scores[1] > 1e-5


@pytest.mark.parametrize(
    ("damage", "amounts"), [(noisy, [0.05, 0.15, 0.3, 0.6]), (blurred, [1, 2, 4])]
)
def test_single_image_score_grows_with_damage(network, target, damage, amounts):
    score = selection.single_image(*network[:2], TAP)
    scores = score([target, *(damage(target, amount) for amount in amounts)], target)
    assert (np.diff(scores) > 0).all()


def test_single_image_score_hardly_sees_where_the_parts_of_a_picture_lie(network, target):
    moved = shuffled_blocks(target, 8)
    assert np.abs(moved - target).mean() > 0.1
    score = selection.single_image(*network[:2], TAP)
    same_parts, other = score([moved, blurred(target, 1)], target)
    assert same_parts < 0.05 * other


def test_single_image_score_equals_the_frechet_distance_of_positions(network, target):
    other = noisy(target, 0.3)
    ours = selection.single_image(*network[:2], TAP)([other], target)
    features = network[2]
    stats = [oracle.mean_and_covariance(features(image)) for image in (other, target)]
    expected = oracle.frechet_by_eigenvalues(*stats[0], *stats[1])
    np.testing.assert_allclose(ours, [expected], rtol=1e-4, atol=1e-7)


def test_reference_score_equals_the_frechet_distance_to_the_statistics(network, target, gaussian):
    score = selection.against_reference(*network[:2], TAP, *gaussian)
    images = [target, noisy(target, 0.3)]
    stats = [oracle.mean_and_covariance(network[2](image)) for image in images]
    expected = [oracle.frechet_by_eigenvalues(*one, *gaussian) for one in stats]
    assert abs(expected[0] - expected[1]) > 1e-3
    np.testing.assert_allclose(score(images, target), expected, rtol=1e-4)


def test_point_score_is_the_distance_of_the_mean_feature_plus_a_constant(network, target, gaussian):
    score = selection.against_point(*network[:2], TAP, *gaussian)
    images = [target, noisy(target, 0.3)]
    mean, cov = gaussian
    expected = []
    for image in images:
        shift = network[2](image).mean(axis=0) - mean
        expected.append(sum(value**2 for value in shift) + sum(cov[i, i] for i in range(WIDTH)))
    np.testing.assert_allclose(score(images, target), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["single_image", "against_reference", "against_point"])
def test_pictures_are_scored_at_the_targets_size(network, target, gaussian, name):
    statistics = () if name == "single_image" else gaussian
    score = getattr(selection, name)(*network[:2], TAP, *statistics)
    colour = np.float32([0.2, 0.5, 0.7])
    small, large = (np.broadcast_to(colour, (s, s, 3)) for s in (SIZE, 2 * SIZE))
    first, second = score([small, large], target)
    np.testing.assert_allclose(first, second, rtol=1e-5)


def test_statistics_come_back_as_written(statistics_path, gaussian):
    mean, covariance = selection.read_statistics(statistics_path)
    np.testing.assert_array_equal(mean, gaussian[0])
    np.testing.assert_array_equal(covariance, gaussian[1])
    assert mean.dtype == covariance.dtype == np.float64


def test_missing_statistics_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.npz: no such .*accepted: an \.npz with mu and"):
        selection.read_statistics(tmp_path / "none.npz")


def test_pickled_arrays_are_refused_without_running_them(tmp_path):
    marker = tmp_path / "it_ran"

    class Trap:
        def __reduce__(self):
            return (marker.touch, ())

    bad = np.array([Trap(), None], dtype=object)
    np.savez(tmp_path / "pickled.npz", mu=bad, sigma=np.eye(2))
    with pytest.raises(InputError, match="not a statistics file"):
        selection.read_statistics(tmp_path / "pickled.npz")
    assert not marker.exists()


def write_cut(path):
    np.savez(path, mu=np.ones(3), sigma=np.eye(3))
    path.write_bytes(path.read_bytes()[:200])


def write_array(path):
    with path.open("wb") as file:
        np.save(file, np.ones(3))


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path: path.write_text("mu = 1"), id="text"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(write_cut, id="cut short"),
        pytest.param(write_array, id="npy"),
        pytest.param(lambda path: np.savez(path, mu=np.ones(3)), id="no sigma"),
        pytest.param(
            lambda path: np.savez(path, mu=np.array(["a", "b"]), sigma=np.eye(2)), id="words"
        ),
    ],
)
def test_file_that_holds_no_statistics_is_refused(tmp_path, write):
    path = tmp_path / "bad.npz"
    write(path)
    with pytest.raises(InputError, match=r"bad\.npz: not a statistics file; accepted: "):
        selection.read_statistics(path)


@pytest.mark.parametrize(
    ("mu", "sigma"), [((2,), (3, 3)), ((3,), (3,)), ((1, 3), (3, 3)), ((3,), (3, 2)), ((), (1, 1))]
)
def test_statistics_of_wrong_shapes_are_refused_with_both_shapes(tmp_path, mu, sigma):
    path = tmp_path / "bad.npz"
    np.savez(path, mu=np.ones(mu), sigma=np.ones(sigma))
    with pytest.raises(InputError, match=r"mu is \(.* sigma \(.*accepted: \(d,\) and \(d, d\)"):
        selection.read_statistics(path)


@pytest.mark.parametrize(
    ("scorer", "maker"),
    [
        ("single-image", lambda *args: selection.single_image(*args[:3])),
        ("reference", selection.against_reference),
        ("point", selection.against_point),
    ],
)
def test_each_scorer_name_makes_its_scorer(
    network, target, gaussian, statistics_path, scorer, maker
):
    config = SelectionConfig(scorer=scorer, reference=str(statistics_path), tap=TAP)
    made = selection.make_scorer(*network[:2], config)
    images = [noisy(target, 0.2), noisy(target, 0.5)]
    expected = maker(*network[:2], TAP, *gaussian)(images, target)
    np.testing.assert_array_equal(made(images, target), expected)


@pytest.mark.parametrize("scorer", ["reference", "point"])
def test_statistics_of_another_width_are_refused_with_the_networks_width(network, tmp_path, scorer):
    path = tmp_path / "wide.npz"
    np.savez(path, mu=np.ones(5), sigma=np.eye(5))
    config = SelectionConfig(scorer=scorer, reference=str(path), tap=TAP)
    make = partial(selection.make_scorer, *network[:2], config)
    with pytest.raises(
        InputError, match="statistics of width 5; accepted: 4, the width of relu2_1"
    ):
        make()
