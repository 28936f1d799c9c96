"""The training and evaluation scripts: their parts against oracles, and every command for a few
steps on data made here."""

import argparse
import json
import zipfile
from io import BytesIO

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image
from smooth_picture import picture
from tiny_teachers import convolution, write_teachers

from oeft_jax._checks import InputError
from oeft_jax.models.backbone import backbone
from oeft_jax.models.backbone import generator as build_generator
from oeft_jax.models.squeezenet import NUM_CLASSES, SQUEEZED
from oeft_jax.weights import load_weights, save_weights
from training import (
    average,
    distill_features,
    evaluate_features,
    evaluate_generator,
    photos,
    separable,
    squeezenet,
    teachers,
    train_adversarial,
    train_generator,
)

NUM_FACES = 26  # of which the last NUM_HELD_OUT are held out
NUM_HELD_OUT = 10
SMALL = ["--code-dim", "6", "--fmap-base", "64", "--fmap-max", "4"]


pytestmark = pytest.mark.usefixtures("quick_random")


@pytest.fixture(scope="module", autouse=True)
def compiled_once_more(tmp_path_factory):
    """A command that is called again finds its programs compiled, however small they are."""
    settings = {
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
    arrays = teachers.read_real(data), teachers.read_distilled(data)
    taught = jax.jit(distill_features.teach)(arrays, images)
    between = ("relu1_2", "relu2_2", *(f"relu{b}_{i}" for b in (3, 4) for i in (2, 3, 4)))
    assert {tap: len(value) for tap, value in taught.items()} == {
        **dict.fromkeys(("relu1_1", "relu2_1", "relu3_1"), 2),
        **dict.fromkeys(("relu4_1", "relu5_1", *between), 3),
    }
    channels = {tap: taught[tap].shape[-1] for tap in ("relu3_1", "relu4_1", "relu5_1")}
    assert channels == {"relu3_1": 256, "relu4_1": 512, "relu5_1": 512}
    assert {taught[tap].shape[-1] for tap in between} == {4}  # the distilled teacher's own
    alone = jax.jit(teachers.vgg_features)(arrays[0], images[:2])["relu3_1"]
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


def test_errors_are_relative_and_similarities_asked_of_the_taps_that_match(monkeypatch):
    config = {"depths": (2, 1, 1, 1, 1), "widths": (2, 2, 3, 3, 4)}
    monkeypatch.setattr(distill_features, "CONFIG", config)
    student, rng = backbone("vgg", config), np.random.default_rng(0)
    params = student.init(jax.random.key(0), ("relu5_1",))
    images = jnp.asarray(rng.random((2, 32, 32, 3)), jnp.float32)
    features = student.apply(params, images, student.tap_names)
    heads, taught, expected = {}, {}, {}
    for tap, value in features.items():
        own = np.asarray(value[:1], np.float64)  # the teacher may have seen fewer pictures
        kernel, bias = rng.normal(size=(own.shape[-1], 5)), rng.normal(size=5)
        target = rng.random((*own.shape[:-1], 5))
        heads[tap] = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
        taught[tap] = jnp.float32(target)
        squared = (np.maximum(own @ kernel + bias, 0) - target) ** 2
        weight = {"relu1_1": 4, "relu2_1": 2}.get(tap, 1)
        expected[tap] = weight * squared.mean() / target.reshape(-1, 5).var(axis=0).mean()
    loss_fn = jax.jit(distill_features.loss_fn, static_argnums=5)
    total, terms = loss_fn((params, heads), images, taught, None, jax.random.key(1), 0.0)
    for tap, value in expected.items():
        np.testing.assert_allclose(terms[f"{tap} error"], value, rtol=1e-4)
    of_similarity = {name.split()[0] for name in terms if name.endswith("similarity")}
    assert of_similarity == {"relu3_1", "relu4_1", "relu5_1"}
    np.testing.assert_allclose(total, sum(terms.values()), rtol=1e-5)


def test_heads_of_a_student_that_is_there_are_fitted_by_least_squares(data, monkeypatch):
    """To what they say in the end, which a ReLU makes of a linear map; `fitted_map` has none."""
    config = {"depths": (2, 1, 1, 1, 1), "widths": (2, 2, 3, 3, 4)}
    monkeypatch.setattr(distill_features, "CONFIG", config)
    monkeypatch.setattr(distill_features, "NUM_FITTED", 2)
    monkeypatch.setattr(distill_features, "NUM_ROWS", 128 * 128)  # every row of one picture
    student = backbone("vgg", config)
    params = student.init(jax.random.key(0), ("relu5_1",))
    arrays = teachers.read_real(data), teachers.read_distilled(data)
    pictures = photos.load_photos(data)
    images = jnp.asarray(photos.crop_batch(3, 0, pictures, batch=2, size=128))
    heads = distill_features.fitted_heads(params, images, arrays)
    taught = distill_features.teach(arrays, images)
    for tap in ("relu2_1", "relu1_2"):  # the real teacher's, of one picture; the other's, of two
        target = np.asarray(taught[tap], np.float64)
        own = np.asarray(student.apply(params, images, (tap,))[tap], np.float64)[: len(target)]
        x, y = own.reshape(-1, own.shape[-1]), target.reshape(-1, target.shape[-1])
        x = np.c_[x, np.ones(len(x))]
        best = np.linalg.lstsq(x, y, rcond=None)[0]
        assert np.mean((x @ best - y) ** 2) < 0.999 * np.mean(np.var(y, axis=0))
        found = distill_features.fitted_map(own, target)
        linear = x[:, :-1] @ np.asarray(found["kernel"]) + np.asarray(found["bias"])
        least = np.mean((x @ best - y) ** 2)
        assert 0.999 * least < np.mean((linear - y) ** 2) < 1.01 * least

        def error(kernel, bias, x=x, y=y):
            return np.mean((np.maximum(x[:, :-1] @ kernel + bias, 0) - y) ** 2)

        kernel, bias = (np.asarray(heads[tap][name], np.float64) for name in ("kernel", "bias"))
        fitted = error(kernel, bias)
        assert fitted < 1.01 * error(best[:-1], best[-1])  # of all but the ridge
        rng = np.random.default_rng(0)
        for _ in range(20):  # nothing beside it is better by more than the ridge costs
            beside = [p + 0.02 * rng.normal(size=p.shape) * p.std() for p in (kernel, bias)]
            assert error(*beside) > 0.999 * fitted


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
    for kind in ("agreement", "agreement on objects"):
        assert set(result[kind]) == set(evaluate_features.TAPS)
        assert {result[kind][tap]["teacher"] for tap in evaluate_features.TAPS[:3]} == {
            "real VGG-19"
        }
        assert -1 <= result[kind]["relu5_1"]["ours"]["correlation"] <= 1
    assert result["agreement"] != result["agreement on objects"]
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
