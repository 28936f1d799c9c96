"""The training and evaluation scripts: their parts against oracles, and every command for a few
steps on data made here."""

import argparse
import json
import zipfile
from io import BytesIO

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.test_util import check_grads
from PIL import Image

from oeft_jax import correspondence
from oeft_jax._checks import InputError
from oeft_jax.config import CorrespondenceConfig
from oeft_jax.models.backbone import backbone
from oeft_jax.models.backbone import generator as build_generator
from oeft_jax.models.squeezenet import NUM_CLASSES, SQUEEZED
from oeft_jax.tuning import make_init
from oeft_jax.weights import load_weights, save_weights
from training import (
    agreement,
    average,
    diff_augment,
    distill_features,
    evaluate_features,
    evaluate_generator,
    ground_truth,
    matching,
    neighbours,
    photos,
    separable,
    squeezenet,
    teachers,
    train_adversarial,
    train_generator,
)
from training.discriminator import batch_deviation, discriminator
from training.projected import projected, windows

NUM_FACES = 26  # of which the last NUM_HELD_OUT are held out
NUM_HELD_OUT = 10
SMALL = ["--code-dim", "6", "--fmap-base", "64", "--fmap-max", "4"]


@pytest.fixture(scope="module", autouse=True)
def compiled_once_more(tmp_path_factory):
    """A command that is called again finds its programs compiled, however small they are, and
    random numbers come from a generator that is a single instruction.
    """
    settings = {
        "jax_default_prng_impl": "rbg",
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    monkeypatch.setattr(photos, "HELD_OUT", NUM_HELD_OUT)


def picture(rng, size):
    """A smooth random picture, uint8."""
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return coarse.resize((size, size), Image.Resampling.BICUBIC)


def convolution(rng, name, out, into, size=3):
    deviation = (2 / (into * size * size)) ** 0.5
    weight = rng.normal(0, deviation, (out, into, size, size))
    return {f"{name}.weight": weight, f"{name}.bias": rng.normal(0, 0.1, out)}


def write_teachers(folder, rng):
    """The teachers' layers with few channels, but as many as they have at the taps."""
    first = {"0.weight": np.eye(3)[:, :, None, None], "0.bias": np.zeros(3)}
    sizes = {"2": (64, 3), "5": (4, 64), "9": (128, 4), "12": (4, 128), "16": (256, 4)}
    vgg = {**first}
    for name, (out, into) in sizes.items():
        vgg |= convolution(rng, name, out, into)
    distilled, into = {f"conv{name}": value for name, value in first.items()}, 3
    for block, depth, full in ((1, 2, 64), (2, 2, 128), (3, 4, 256), (4, 4, 512), (5, 1, 512)):
        for index in range(1, depth + 1):
            distilled |= convolution(rng, f"conv{block}{index}", 4, into)
            into = 4
        distilled |= convolution(rng, f"conv{block}1_aux", full, 4, size=1)
    for name, arrays in (
        ("w_vgg19_normalised/vgg_normalised_conv3_1.npz", vgg),
        ("w_vgg19_distilled16x/5SE.npz", distilled),
    ):
        (folder / name).parent.mkdir()
        np.savez(folder / name, **{k: np.float32(v) for k, v in arrays.items()})


def write_squeezenet(folder, rng):
    """SqueezeNet's layers under the names of its first publication."""
    arrays, channels = convolution(rng, "conv1", 96, 3, size=7), 96
    for fire, width in enumerate(SQUEEZED, 2):
        arrays |= convolution(rng, f"fire{fire}/conv1x1_1", width, channels, size=1)
        arrays |= convolution(rng, f"fire{fire}/conv1x1_2", 4 * width, width, size=1)
        arrays |= convolution(rng, f"fire{fire}/conv3x3_2", 4 * width, width)
        channels = 8 * width
    arrays |= convolution(rng, "conv_final", NUM_CLASSES, channels, size=1)
    (folder / "w_squeezenet10").mkdir()
    named = {k.replace(".", "/"): np.float32(v) for k, v in arrays.items()}
    np.savez(folder / "w_squeezenet10" / "squeezenet10_decoded.npz", **named)


def write_ground_truth(folder, rng):
    """One photo of two faces, one SPair pair, two ducks, photos for warps."""
    io = pytest.importorskip("scipy.io")
    for name in ("gt_dlib_faces", "gt_spair/images", "gt_willow_ducks", "starganv2"):
        (folder / name).mkdir(parents=True)
    picture(rng, 64).save(folder / "gt_dlib_faces" / "a.jpg")
    boxes = "".join(
        f"<box top='{top}' left='{left}' width='16' height='16'>"
        + "".join(f"<part name='{k:02}' x='{left + k % 9}' y='{top + k // 9}'/>" for k in range(68))
        + "</box>"
        for top, left in ((8, 8), (30, 40))
    )
    text = f"<dataset><images><image file='a.jpg'>{boxes}</image></images></dataset>"
    (folder / "gt_dlib_faces" / "training_with_face_landmarks.xml").write_text(text)
    sides = {}
    for role in ("source", "target"):
        picture(rng, 48).save(folder / "gt_spair" / "images" / f"{role}.png")
        sides |= {
            f"{role}_path": f"{role}.png",
            f"{role}_points": [[5, 6], [30, 40]],
            f"{role}_bounding_box": [2, 2, 40, 44],
        }
    (folder / "gt_spair" / "pairs.json").write_text(json.dumps([sides]))
    for number in (1, 2):
        path = folder / "gt_willow_ducks" / f"willow_duck_{number:04d}.png"
        picture(rng, 40).save(path)
        io.savemat(path.with_suffix(".mat"), {"pts_coord": rng.uniform(0, 39, (2, 10))})
    names = [f"starganv2/{number}.png" for number in range(4)]
    for name in names:
        picture(rng, 64).save(folder / name)
    pairs = [{"content": names[i], "exemplar": names[i + 1]} for i in (0, 2)]
    (folder / "pairs.json").write_text(json.dumps(pairs))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data folder with everything that the scripts read, tiny."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (folder / "lfw128").mkdir()
    with zipfile.ZipFile(folder / "lfw128" / "lfw128.zip", "w") as archive:
        for number in range(NUM_FACES):
            file = BytesIO()
            picture(rng, 128).save(file, "JPEG")
            archive.writestr(f"{number:03}.jpg", file.getvalue())
    (folder / "cut").mkdir()
    picture(rng, 64).save(folder / "cut" / "photo.png")
    for aligned, num, side in (("stylegan_faces", 3, 48), ("domain_cats64", 5, 24)):
        (folder / aligned).mkdir()
        for number in range(num):
            picture(rng, side).save(folder / aligned / f"{number}.png")
    write_teachers(folder, rng)
    write_squeezenet(folder, rng)
    write_ground_truth(folder, rng)
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """A weight file of a small feature network with VGG-19's tap names."""
    config = {"depths": (1, 1, 1, 1, 1), "widths": (2, 2, 3, 3, 3)}
    params = backbone("vgg", config).init(jax.random.key(0), evaluate_features.TAPS)
    path = tmp_path_factory.mktemp("features") / "features.safetensors"
    save_weights(path, params, network="vgg", config=config)
    return path


def flags(*parts, **paths):
    """Command-line words: `parts` as they are, `paths` as --name value."""
    named = [word for k, v in paths.items() for word in (f"--{k.replace('_', '-')}", str(v))]
    return [*named, *(str(part) for part in parts)]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, data, features):
    """The work folder of three steps of generative latent optimisation at 8 px."""
    folder = tmp_path_factory.mktemp("fitted")
    words = flags(*SMALL, data=data, features=features, work=folder / "work", out=folder / "g")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photos, "HELD_OUT", NUM_HELD_OUT)
        train_generator.train(
            train_generator.parse([*words, "--resolution", "8", "--steps", "3", "--batch", "4"])
        )
    return folder / "work"


def assert_trees_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


# Parts


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


def test_fitted_codes_come_nearer_to_the_faces(key):
    generator = build_generator("pggan", {"resolution": 8, "z_dim": 6, "fmap_base": 64})
    params = generator.init(key)
    latents = np.asarray(jax.random.normal(key, (3, 6)))
    latents = latents * 6**0.5 / np.linalg.norm(latents, axis=1, keepdims=True)
    made = np.asarray(generator.sample(params, latents)) * 0.5 + 0.5
    faces = np.uint8(np.clip(made, 0, 1) * 255)
    guess = latents + 0.5 * np.random.default_rng(0).normal(size=latents.shape).astype(np.float32)
    found = train_adversarial.fitted_codes(generator, params, faces, guess)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 6**0.5, rtol=1e-5)
    distances = [
        np.abs(np.asarray(generator.sample(params, x)) - np.float32(faces) / 127.5 + 1).mean()
        for x in (guess, found)
    ]
    assert distances[1] < 0.6 * distances[0]


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
    seen = [{"x1_pixels": jnp.asarray(x), **critic.see(frozen[:1], x)} for x in (images, mixed)]
    before, after = (np.asarray(critic.judge(params, x))[0, :16] for x in seen)
    np.testing.assert_allclose(before, before[0])
    np.testing.assert_allclose(after, before, atol=1e-4)
    brighter = {**seen[0], "x1_pixels": jnp.asarray(images * [1, 1, 0.5])}
    assert np.abs(np.asarray(critic.judge(params, brighter))[0, :16] - before).min() > 1e-3


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
    before, after = (
        critic.judge(params, critic.see(frozen[:1], jnp.asarray(x)))
        for x in (images, images + grain)
    )
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

    slopes = jax.grad(lambda x: jnp.sum(critic.judge(params, 0.5 * x)))(images)
    assert penalty(params).dtype == jnp.float64
    np.testing.assert_allclose(penalty(params), np.mean(np.sum(np.square(slopes), (1, 2, 3))))
    check_grads(jax.jit(penalty), (params,), order=1, modes=["rev"], atol=1e-5, rtol=1e-5, eps=1e-6)


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


def test_rows_beyond_the_faces_are_mirrored():
    faces = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    images = np.asarray(train_adversarial.pictures(jnp.asarray(faces), jnp.array([1, 3])))
    np.testing.assert_allclose(images[0], faces[1] / 255, atol=1e-6)
    np.testing.assert_allclose(images[1], faces[1, :, ::-1] / 255, atol=1e-6)


def test_pooled_features_equal_pytorch(data):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    arrays = np.load(data / "w_squeezenet10" / "squeezenet10_decoded.npz")
    image = np.random.default_rng(0).uniform(size=(1, 227, 227, 3)).astype(np.float32)

    def conv(name, x, **options):
        weight, bias = (torch.tensor(arrays[f"{name}/{k}"]) for k in ("weight", "bias"))
        return functional.relu(functional.conv2d(x, weight, bias, **options))

    def pool(x):
        return functional.max_pool2d(x, 3, 2, ceil_mode=True)

    x = torch.tensor(image[..., ::-1].copy()).permute(0, 3, 1, 2) * 255
    x = pool(conv("conv1", x - torch.tensor([104.0, 117.0, 123.0]).reshape(1, 3, 1, 1), stride=2))
    for fire in range(2, 10):
        s = conv(f"fire{fire}/conv1x1_1", x)
        wide = conv(f"fire{fire}/conv3x3_2", s, padding=1)
        x = torch.cat([conv(f"fire{fire}/conv1x1_2", s), wide], dim=1)
        x = pool(x) if fire in (4, 8) else x
    expected = x.mean((2, 3)).numpy()
    assert np.abs(expected).max() > 0
    pooled = squeezenet.pooled_features(squeezenet.read(data), image)
    assert pooled.shape == (1, 512)
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_nearest_finds_a_mirrored_copy(key):
    faces = np.asarray(jax.random.uniform(key, (5, 32, 32, 3)))
    training = neighbours.small_pixels(faces)
    queries = np.stack([faces[3], faces[2, :, ::-1] + 0.01])
    found = neighbours.nearest(queries, training, neighbours.small_pixels)
    assert found.rows.tolist() == [3, 2]
    assert found.mirrored.tolist() == [False, True]
    np.testing.assert_allclose(found.distance, [0, 0.01], atol=1e-3)
    np.testing.assert_array_equal(neighbours.pictures(found, faces)[1], faces[2, :, ::-1])


def test_landmarks_move_with_the_face():
    image = np.zeros((60, 80, 3), np.uint8)
    points = np.array([[30.0, 20.0], [45.0, 33.0], [37.0, 26.0]])
    for x, y in points.astype(int):
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    for seed in range(3):
        rng = np.random.default_rng(seed)
        crop, moved, side = ground_truth.face_crop(
            Image.fromarray(image), np.array([28, 18, 20, 18.0]), points, size=128, rng=rng
        )
        assert 0.35 * 128 <= side <= 0.6 * 128
        rows, columns = np.mgrid[:128, :128]
        for x, y in moved:
            near = np.hypot(columns - x, rows - y) < side / 8
            weight = crop[..., 0] * near
            centre = [(weight * axis).sum() / weight.sum() for axis in (columns, rows)]
            assert np.hypot(centre[0] - x, centre[1] - y) < 0.5


def test_known_warp_points_at_the_same_place_of_the_picture(key):
    rows, columns = np.mgrid[:64, :64] / 63.0
    photo = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.float32)
    points = np.array([[20.0, 30.0], [40.0, 25.0], [32.0, 50.0]])
    plain = ground_truth.Photometric(0.0, 0.0, 0.0, 0.0, 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ground_truth, "Photometric", lambda: plain)
        match = ground_truth.known_warp(key, photo, points)
    assert len(match.source_points) > 0
    for (x, y), (u, v) in zip(match.source_points, match.target_points, strict=True):
        colour = match.target[round(v), round(u), :2] * 63
        assert np.hypot(colour[0] - y, colour[1] - x) < 1.5


def test_other_draws_of_a_match_show_the_same_points():
    rows, columns = np.mgrid[:64, :64] / 63.0
    photo = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.float32)
    points = np.array([[20.0, 30.0], [40.0, 25.0], [32.0, 50.0]])
    match = ground_truth.Match(photo, photo[:, ::-1], points, points * [-1, 1] + [63, 0], 40.0)
    drawn = ground_truth.drawn_again([match, match], 3, seed=0)
    assert len(drawn) == 8
    assert drawn[0] is match
    assert drawn[4] is match
    lengths = {found.length for found in drawn}
    assert len(lengths) == 7  # each of its own size
    assert all(40 / 1.21 < length < 40 * 1.21 for length in lengths)
    for found in drawn:
        assert len(found.source_points) == len(found.target_points) > 0
        for (x, y), (u, v) in zip(found.source_points, found.target_points, strict=True):
            ours, theirs = found.source[round(y), round(x)], found.target[round(v), round(u)]
            assert np.hypot(*(ours - theirs)[:2] * 63) < 2


def test_a_draw_that_loses_every_point_is_the_match_itself():
    photo, corner = np.zeros((8, 8, 3), np.float32), np.array([[-5.0, -5.0]])
    match = ground_truth.Match(photo, photo, corner, corner, 4.0)
    assert all(found is match for found in ground_truth.drawn_again([match], 2, seed=0))


def test_matching_finds_a_shift(key):
    features = jax.random.normal(key, (1, 16, 16, 8))
    target = jnp.roll(features, (2, 3), axis=(1, 2))
    points = jnp.array([[5.5, 9.5], [21.5, 17.5]])  # centres of cells of 4 pixels
    found = matching.match_points(
        {"relu1_1": features}, {"relu1_1": target}, points, ("relu1_1",), size=64, grid=16
    )
    np.testing.assert_allclose(found, points + jnp.array([[12.0, 8.0]]), atol=1e-5)
    elsewhere = np.asarray(found) + np.array([[3, 4], [0, 0]])  # the first is 5 pixels off
    match = ground_truth.Match(None, None, None, elsewhere, 40.0)
    assert matching.share_correct(np.asarray(found), match, 0.1).tolist() == [False, True]


def test_agreement_sees_through_linear_maps_and_not_through_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    y = np.maximum(x @ rng.normal(size=(5, 7)), 0)
    noise = rng.normal(size=(400, 7))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    assert agreement.linear_cka(x, 3 * x @ turn + 1) == pytest.approx(1)
    assert agreement.linear_cka(x, noise) < 0.1
    kernel, bias = agreement.fit_ridge(x, x @ np.arange(10.0).reshape(5, 2) + 4)
    np.testing.assert_allclose(kernel, np.arange(10.0).reshape(5, 2), atol=0.02)
    np.testing.assert_allclose(bias, 4, atol=0.02)
    halves = (x[:200], x[200:])
    assert agreement.mapped_correlation(halves, (y[:200], y[200:])) > 0.8
    assert abs(agreement.mapped_correlation(halves, (noise[:200], noise[200:]))) < 0.2


# Commands


def test_a_batch_holds_each_photo_twice_and_differently():
    flat = [[Image.new("RGB", (64, 64), (grey, grey, grey)) for grey in (10, 130, 250)]]
    rng = np.random.default_rng(0)
    photo = [[picture(rng, 64)]]
    first, second = photos.crop_batch(0, 0, photo, batch=2, size=32)
    assert np.abs(first - second).mean() > 1e-3
    assert photos.crop_batch(0, 0, flat, batch=5, size=8).shape == (5, 8, 8, 3)


def test_sets_of_photos_are_drawn_by_the_square_root_of_their_size(monkeypatch):
    monkeypatch.setattr(photos, "random_crop", lambda rng, photo, size: np.asarray(photo))
    many, one = ([Image.new("L", (1, 1), grey)] * number for grey, number in ((0, 16), (1, 1)))
    drawn = [photos.crop_batch(0, step, [many, one], batch=1, size=1) for step in range(400)]
    assert np.mean(drawn) == pytest.approx(1 / 5, abs=0.06)


def test_a_mixed_picture_holds_a_box_of_the_other_or_both_seen_through():
    image, other = np.zeros((16, 16, 3), np.float32), np.ones((16, 16, 3), np.float32)
    kinds = set()
    for seed in range(20):
        mixed = photos.mix(np.random.default_rng(seed), image, other)
        rows, columns = (np.flatnonzero(mixed[..., 0].any(axis=axis)) for axis in (1, 0))
        if mixed.max() == 1:
            assert mixed[..., 0].sum() == len(rows) * len(columns)  # a whole box, nothing else
            assert 4 <= len(rows) < 12
            assert 4 <= len(columns) < 12
        else:
            assert 0.3 <= mixed.min() == mixed.max() <= 0.7
        kinds.add(mixed.max() == 1)
        assert mixed.dtype == np.float32
    assert kinds == {True, False}


def test_as_many_pictures_are_mixed_as_asked(monkeypatch):
    monkeypatch.setattr(photos, "random_crop", lambda rng, photo, size: np.asarray(photo))
    monkeypatch.setattr(photos, "mix", lambda rng, image, other: image + 1)
    flat = [[Image.new("L", (1, 1), 0)]]
    for share in (0, 0.25, 1):
        drawn = [
            photos.crop_batch(0, step, flat, batch=1, size=1, mixed=share) for step in range(400)
        ]
        assert np.mean(drawn) == pytest.approx(share, abs=0.06)


def test_a_batch_of_aligned_faces_is_of_one_template_and_of_different_faces(data):
    sets = photos.load_aligned(data, 16, every=4)
    assert [len(faces) for faces in sets] == [-(-(NUM_FACES - NUM_HELD_OUT) // 4), 3, 2]
    drawn = set()
    for step in range(12):
        batch = photos.face_batch(0, step, sets, batch=2)
        assert batch.shape == (2, 16, 16, 3)
        which = [
            (number, index)
            for face in batch
            for number, faces in enumerate(sets)
            for index, one in enumerate(faces / np.float32(255))
            if np.allclose(face, one) or np.allclose(face, one[:, ::-1])
        ]
        assert len(set(which)) == 2
        assert which[0][0] == which[1][0]
        drawn |= set(which)
    assert {number for number, _ in drawn} == {0, 1, 2}


def test_real_teacher_sees_the_first_half(data):
    images = jnp.asarray(np.random.default_rng(0).random((3, 32, 32, 3)), jnp.float32)
    arrays = teachers.read(data)
    taught = distill_features.teach(arrays, images)
    between = ("relu1_2", "relu2_2", *(f"relu{b}_{i}" for b in (3, 4) for i in (2, 3, 4)))
    assert {tap: len(value) for tap, value in taught.items()} == {
        **dict.fromkeys(("relu1_1", "relu2_1", "relu3_1"), 2),
        **dict.fromkeys(("relu4_1", "relu5_1", *between), 3),
    }
    channels = {tap: taught[tap].shape[-1] for tap in ("relu3_1", "relu4_1", "relu5_1")}
    assert channels == {"relu3_1": 256, "relu4_1": 512, "relu5_1": 512}
    assert {taught[tap].shape[-1] for tap in between} == {4}  # the distilled teacher's own
    alone = teachers.vgg_features(arrays[0], images[:2])["relu3_1"]
    np.testing.assert_allclose(taught["relu3_1"], alone, rtol=1e-6)


def test_distillation_trains_resumes_and_exports(tmp_path, data, monkeypatch):
    widths = (2, 2, 3, 3, 4)
    monkeypatch.setattr(distill_features, "WIDTHS", widths)
    config = {"depths": (2, 1, 1, 1, 1), "widths": widths}
    monkeypatch.setattr(distill_features, "CONFIG", config)
    monkeypatch.setattr(distill_features, "NUM_FITTED", 2)
    words = flags(
        *("--faces", 4, "--batch", 1, "--size", 32, "--matching", 0),
        data=data,
        work=tmp_path / "work",
        out=tmp_path / "f.safetensors",
    )
    for steps, batch in ((2, 1), (3, 2)):
        more = ["--steps", str(steps), "--batch", str(batch)]
        state = distill_features.train(distill_features.parse([*words, *more]))
        assert int(state.step) == steps
    shapes = {tap: head["kernel"].shape for tap, head in state.heads.items()}
    assert shapes == {
        **{"relu1_1": (2, 64), "relu1_2": (2, 4), "relu2_1": (2, 128)},
        **{"relu3_1": (3, 256), "relu4_1": (3, 512), "relu5_1": (4, 512)},
    }
    weights = load_weights(tmp_path / "f.safetensors")
    assert weights.metadata["steps"] == "3"
    assert weights.metadata["images"] == "4"
    images = jnp.zeros((1, 32, 32, 3))
    made = backbone(weights.network, weights.config).apply(weights.params, images, ("relu5_1",))
    assert made["relu5_1"].shape == (1, 2, 2, 4)

    words[words.index("--work") + 1] = str(tmp_path / "lost")
    again = ["--start", str(tmp_path / "f.safetensors"), "--frozen-steps", "1", "--steps", "1"]
    again += ["--matching", "0.1", "--aligned-size", "32"]
    state = distill_features.train(distill_features.parse([*words, *again]))
    assert_trees_equal(state.params, weights.params)


def test_heads_of_a_student_that_is_there_are_fitted_by_least_squares(data, monkeypatch):
    config = {"depths": (2, 1, 1, 1, 1), "widths": (2, 2, 3, 3, 4)}
    monkeypatch.setattr(distill_features, "CONFIG", config)
    monkeypatch.setattr(distill_features, "NUM_FITTED", 2)
    monkeypatch.setattr(distill_features, "NUM_ROWS", 128 * 128)  # every row of one picture
    student = backbone("vgg", config)
    params = student.init(jax.random.key(0), ("relu5_1",))
    arrays, pictures = teachers.read(data), photos.load_photos(data)
    heads = distill_features.fitted_heads(params, pictures, arrays, seed=3)
    images = jnp.asarray(photos.crop_batch(3, 0, pictures, batch=2, size=128))
    taught = distill_features.teach(arrays, images)
    for tap in ("relu2_1", "relu1_2"):  # the real teacher's, of one picture; the other's, of two
        target = np.asarray(taught[tap], np.float64)
        own = np.asarray(student.apply(params, images, (tap,))[tap], np.float64)[: len(target)]
        x, y = own.reshape(-1, own.shape[-1]), target.reshape(-1, target.shape[-1])
        x = np.c_[x, np.ones(len(x))]
        best = np.mean((x @ np.linalg.lstsq(x, y, rcond=None)[0] - y) ** 2)
        fitted = x[:, :-1] @ np.asarray(heads[tap]["kernel"]) + np.asarray(heads[tap]["bias"])
        assert 0.999 * best < np.mean((fitted - y) ** 2) < 1.01 * best
        assert best < 0.999 * np.mean(np.var(y, axis=0))


def test_the_mean_of_two_weight_files(tmp_path, features):
    weights = load_weights(features)
    other, shallow, out = (tmp_path / name for name in ("other", "shallow", "out"))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, weights.params)
    save_weights(other, doubled, network="vgg", config=weights.config)
    average.main(average.parse([str(features), str(other), "--share", "0.75", "--out", str(out)]))
    found = load_weights(out)
    assert (found.network, found.config) == (weights.network, weights.config)
    assert found.metadata["averaged"].startswith("0.75 and ")
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 1.25 * b, rtol=1e-3),
        found.params,
        weights.params,
    )
    save_weights(shallow, doubled, network="vgg", config={"depths": [1]})
    for second, share, accepted in ((shallow, "0.5", "accepted: vgg"), (other, "2", "share")):
        words = [str(features), str(second), "--share", share, "--out", str(tmp_path / "none")]
        with pytest.raises(InputError, match=accepted):
            average.main(average.parse(words))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("given", "accepted"),
    [
        (("--size", 100), r"--size 100 .*multiples of 16"),
        (("--aligned-size", 8), r"--aligned-size 8 .*multiples of 16"),
        (("--aligned", 2), r"--aligned=2 .*\[0, 1\]"),  # there are two cats
    ],
)
def test_distillation_refuses_pictures_in_which_nothing_can_be_found(
    tmp_path, data, given, accepted
):
    words = flags(
        *("--aligned-size", 32, *given), data=data, work=tmp_path / "work", out=tmp_path / "f"
    )
    with pytest.raises(InputError, match=accepted):
        distill_features.train(distill_features.parse(words))
    assert not (tmp_path / "work").exists()


def test_lost_codes_of_a_weight_file_are_fitted_again(tmp_path, data, features, fitted):
    file = fitted.parent / "g"
    words = flags(
        *(*SMALL, "--resolution", 8, "--batch", 4, "--frozen-steps", 9, "--steps", 3),
        data=data,
        features=features,
        work=tmp_path / "work",
        out=tmp_path / "again",
    )
    state = train_generator.train(train_generator.parse([*words, "--start", str(file)]))
    assert_trees_equal(state.params, load_weights(file).params)
    faces = photos.load_faces(data, 8)[:-NUM_HELD_OUT]
    both = np.concatenate([faces, faces[:, :, ::-1]])
    assert not np.array_equal(state.codes, train_generator.principal_codes(both, 6))
    other = [*words, "--work", str(tmp_path / "other"), "--start", str(features)]
    with pytest.raises(InputError, match="--start .*holds vgg .*accepted: pggan"):
        train_generator.train(train_generator.parse(other))


def test_growth_keeps_the_common_layers_and_the_codes(tmp_path, data, features, fitted):
    config = {"resolution": 8, "z_dim": 6, "fmap_base": 64, "fmap_max": 4}
    small = train_generator.restored(fitted, config, 2 * (NUM_FACES - NUM_HELD_OUT))
    assert int(small.step) == 3
    words = flags(*SMALL, data=data, features=features, work=tmp_path / "work", out=tmp_path / "g")
    args = train_adversarial.parse([*words, "--resolution", "16", "--grow-from", str(fitted)])
    networks = train_adversarial.make_networks(args, None)
    faces = photos.load_faces(data, 16)[:-NUM_HELD_OUT]
    state = train_adversarial.begin(args, networks, faces)
    assert_trees_equal(state.codes, small.codes)
    for name in ("layer0", "layer3"):
        assert_trees_equal(state.params[name], small.average[name])
    assert state.params["layer5"]["kernel"].shape == (3, 3, 4, 4)


def test_adversarial_training_resumes_exactly_and_exports(tmp_path, data, features, fitted):
    def train(name, *more):
        words = flags(
            *(*SMALL, "--resolution", 8, "--batch", 4, "--reconstructed", 2, "--ramp", 2),
            data=data,
            features=features,
            work=tmp_path / name,
            out=tmp_path / f"{name}.safetensors",
            from_work=fitted,
        )
        return train_adversarial.train(train_adversarial.parse([*words, *more]))

    unbroken = train("unbroken", "--steps", "3")
    stopped = train("broken", "--steps", "9", "--minutes", "1e-9")  # after the first step
    assert int(stopped.step) == 1
    resumed = train("broken", "--steps", "3")
    assert int(resumed.step) == 3
    assert_trees_equal(resumed, unbroken)
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("unbroken", "broken")]
    assert files[0] == files[1]
    weights = load_weights(tmp_path / "broken.safetensors")
    assert weights.metadata["images"] == "12"
    generator = build_generator(weights.network, weights.config)
    assert generator.sample(weights.params, jnp.ones((2, 6))).shape == (2, 8, 8, 3)
    assert (tmp_path / "broken" / "samples-000003.png").is_file()


def test_adversarial_training_refuses_odd_batches_and_stops_at_nan(tmp_path, data, features):
    words = flags(*SMALL, data=data, features=features, work=tmp_path / "w", out=tmp_path / "g")
    for batch in ("2", "6"):
        with pytest.raises(InputError, match="accepted: "):
            train_adversarial.train(train_adversarial.parse([*words, "--batch", batch]))
    empty = train_adversarial.State(*[{"kernel": jnp.zeros(2)}] * 8)
    train_adversarial.check_finite({"D": jnp.float32(1)}, empty, 7)
    with pytest.raises(InputError, match="step 7: D is not finite; the last saved state"):
        train_adversarial.check_finite({"D": jnp.float32(np.nan)}, empty, 7)
    broken = empty._replace(critic={"kernel": jnp.array([0, np.inf])})
    with pytest.raises(InputError, match="step 7: discriminator is not finite"):
        train_adversarial.check_finite({"D": jnp.float32(1)}, broken, 7)


@pytest.fixture
def from_file(tmp_path, data, features, fitted):
    """More flags -> (a run against heads on two networks that begins with a weight file, its networks)."""

    def prepared(*more):
        words = flags(
            *(*SMALL, "--batch", 4, "--critic", "projected", "--r1", 0, "--fitted-faces", 5),
            *("--critic-features", features, "--augment", "translation", *more),
            data=data,
            features=features,
            work=tmp_path / "work",
            out=tmp_path / "out.safetensors",
            start=fitted.parent / "g",
        )
        args, eye = train_adversarial.parse(words), load_weights(features)
        network = backbone(eye.network, eye.config)
        return args, train_adversarial.make_networks(args, network, [network, network])

    return prepared


def test_adversarial_training_goes_on_from_a_weight_file(from_file):
    args, networks = from_file("--resolution", 8, "--steps", 1, "--learning-rate", 0)
    state = train_adversarial.train(args)
    assert state.codes.shape == (5, 6)
    assert_trees_equal(state.params, load_weights(args.start).params)
    fresh = networks.discriminator.init(jax.random.key(args.seed))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.critic, fresh)
    assert min(jax.tree.leaves(moved)) > 0


def test_adversarial_training_grows_a_weight_file(from_file, data):
    args, networks = from_file("--resolution", 16, "--steps", 2, "--frozen-steps", 2)
    faces = photos.load_faces(data, 16)[:-NUM_HELD_OUT]
    begun, small = train_adversarial.begin(args, networks, faces), load_weights(args.start).params
    state = train_adversarial.train(args)
    assert_trees_equal(state.codes, begun.codes)
    for name in ("layer0", "layer1", "layer2", "layer3"):
        assert_trees_equal(state.params[name], small[name])
    for name in ("layer4", "layer5", "output"):
        assert np.abs(state.params[name]["kernel"] - begun.params[name]["kernel"]).max() > 0


def test_adversarial_training_with_matching_resumes_exactly(from_file):
    args, _ = from_file(*("--resolution", 8, "--steps", 3, "--matching", 0.1), "--matched-faces", 8)
    unbroken = train_adversarial.train(args)
    assert set(unbroken.shift) >= {"x1_pixels", "x1_0_relu1_1", "x1_1_relu1_1"}
    assert min(float(jnp.abs(x).max()) for x in jax.tree.leaves(unbroken.shift)) > 0
    other = {"work": args.work.parent / "other", "out": args.work.parent / "other.safetensors"}
    first = argparse.Namespace(**{**vars(args), **other, "steps": 1})
    train_adversarial.train(first)
    assert_trees_equal(
        train_adversarial.train(argparse.Namespace(**{**vars(first), "steps": 3})), unbroken
    )


@pytest.mark.parametrize("flag", [("--matching", "0.1"), ("--critic-features", "f.safetensors")])
def test_what_only_a_projected_critic_reads_is_refused_with_another(tmp_path, data, features, flag):
    words = flags(*SMALL, *flag, data=data, features=features, work=tmp_path, out=tmp_path / "g")
    with pytest.raises(InputError, match="--critic own; accepted: --critic projected"):
        train_adversarial.train(train_adversarial.parse(words))


def test_generator_evaluation_writes_numbers_and_pictures(tmp_path, data, features, fitted):
    out = tmp_path / "out"
    words = flags(
        *(fitted.parent / "g", "--num", 4, "--inversions", 2, "--steps", 2, "--layer", 2),
        *("--codes", 2, "--reference-side", 16),
        data=data,
        features=features,
        out=out,
    )
    (result,) = evaluate_generator.main(evaluate_generator.parse(words))
    assert json.loads((out / "evaluation.json").read_text())["generators"] == [result]
    assert [cell["side"] for cell in result["frechet"]] == [8, 16]
    assert all(np.isfinite(cell["samples_to_real"]) for cell in result["frechet"])
    assert set(result["nearest"]) >= {"pixels_samples", "features_held_out"}
    assert np.isfinite(result["inversions"]["codes_2"]["psnr"]["mean"])
    assert set(result["told_apart"][features.name]) >= {"relu1_1"}
    assert Image.open(out / "g-samples.png").size == (64, 40)
    for name in ("g-nearest.png", "g-inversions.png"):
        assert (out / name).is_file()


def test_files_that_numbers_could_not_be_told_apart_by_are_refused(tmp_path, data, features):
    file = tmp_path / "g.safetensors"
    config = {"resolution": 8, "z_dim": 6, "fmap_base": 64, "fmap_max": 4}
    params = build_generator("pggan", config).init(jax.random.key(0))
    save_weights(file, params, network="pggan", config=config)
    words = {"data": data, "features": features, "out": tmp_path / "out"}
    for wrong, message in (
        ((file, file), "two generators have the same file name"),
        ((file, "--told-by", features), "--told-by and --features: two files have the same name"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_generator.main(evaluate_generator.parse(flags(*wrong, **words)))


def test_moments_are_means_and_deviations_of_channels(features):
    eye = load_weights(features)
    network = backbone(eye.network, eye.config)
    images = np.random.default_rng(0).random((3, 16, 16, 3), np.float32)
    found = separable.moments(eye, images)
    assert {"relu1_1", "relu2_1", "relu3_1"} == set(
        found
    )  # deeper ones have fewer than 4 x 4 cells
    for tap, rows in network.apply(eye.params, images, tuple(found)).items():
        cells = np.asarray(rows, np.float64).reshape(3, -1, rows.shape[-1])
        expected = np.concatenate([cells.mean(1), cells.std(1)], axis=1)
        np.testing.assert_allclose(found[tap], expected, atol=1e-5)


def test_only_what_differs_is_told_apart():
    rng = np.random.default_rng(0)
    real, like = rng.normal(3, [1, 20, 0.01], size=(2, 3000, 3))
    assert abs(separable.told_apart(real, like) - 0.5) < 0.05
    other = np.copy(like)
    other[:, 2] += 0.02  # two deviations: a threshold between is right in 84 of 100 cases
    assert abs(separable.told_apart(real, other) - 0.841) < 0.02


def test_how_far_a_network_is_ahead_is_told_pair_by_pair():
    points = [np.array(hit, bool) for hit in ([1, 1], [1, 0], [0, 0], [1, 0], [0, 0], [0, 1])]
    ours, theirs = ({"joined": {"PCK": points[part]}} for part in (slice(3), slice(3, 6)))
    mean, low, high = evaluate_features.ahead(ours, theirs, seed=0)["joined"]["PCK"]
    assert np.isclose(mean, (0.5 + 0.5 - 0.5) / 3)
    assert -0.5 <= low < mean < high <= 0.5
    assert evaluate_features.shares(ours) == {"joined": {"PCK": 0.5}}


def test_how_far_ahead_is_told_by_pairs_of_which_there_are_several_draws():
    points = [np.array([hit], bool) for hit in (1, 0, 0, 0, 1, 1, 0, 0)]
    ours, theirs = ({"joined": {"PCK": points[part]}} for part in (slice(4), slice(4, 8)))
    found = evaluate_features.ahead(ours, theirs, seed=0, alike=2)["joined"]["PCK"]
    assert found[0] == pytest.approx(-0.25)
    assert found[1:] == pytest.approx([-0.5, 0])  # of two pairs: one lost half, one nothing


def test_stage_one_is_measured_as_the_package_matches_untuned(key):
    network = backbone("vgg", {"depths": (1,) * 5, "widths": (4,) * 5})
    config = CorrespondenceConfig(image_size=64, grid=16)
    params = network.init(key, evaluate_features.TAPS)
    rng = np.random.default_rng(0)
    source, target = (jnp.asarray(picture(rng, 64), jnp.float32)[None] / 255 for _ in range(2))
    optimizer = correspondence.default_optimizer(config)
    state, pair = make_init(network, config, optimizer)(params, source, target)
    warp = correspondence.make_warp(network, config)(state.params, pair)
    sides = [network.apply(params, image, matching.JOINED) for image in (source, target)]
    best = jax.jit(matching.best_cells, static_argnames="grid")(*sides, grid=16)
    assert len(np.unique(best)) > 16
    assert np.mean(np.asarray(best) == np.asarray(warp.best[0])) > 0.98  # but for ties


def test_feature_evaluation_refuses_fewer_draws_than_none(tmp_path, data, features):
    words = flags(features, "--draws", -1, data=data, out=tmp_path / "out")
    with pytest.raises(InputError, match=r"--draws"):
        evaluate_features.main(evaluate_features.parse(words))
    assert not (tmp_path / "out").exists()


def test_feature_evaluation_writes_numbers(tmp_path, data, features):
    words = flags(
        *(features, "--size", 64, "--grid", 16, "--photos", 4, "--faces", 1, "--warps", 1),
        *("--repeats", 1, "--draws", 1),
        data=data,
        out=tmp_path,
    )
    result = evaluate_features.main(evaluate_features.parse(words))
    assert json.loads((tmp_path / "features.json").read_text()) == json.loads(json.dumps(result))
    assert set(result["agreement"]) == set(evaluate_features.TAPS)
    assert result["correspondence"]["faces"]["points"] == 68
    assert {kind: cell["pairs"] for kind, cell in result["correspondence"].items()} == {
        **{"faces": 1, "known warps": 1, "SPair": 1, "WILLOW": 1},
    }
    assert 4 < result["correspondence"]["SPair"]["points"] <= 8  # two points both ways, twice
    assert set(result["correspondence"]["SPair"]["ours"]) == {
        *evaluate_features.TAPS,
        "joined",
        "stage 1",
    }
    assert result["seconds"]["ours"]["gradient"] > 0
