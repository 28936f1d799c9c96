"""Generators from files of each published naming: the same images as PyTorch, or clear words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from converted import Held, converted
from flax.traverse_util import flatten_dict

from oeft_jax import golden
from oeft_jax._checks import InputError
from oeft_jax.models.backbone import generator
from oeft_jax.weights import load_weights
from weights_convert.convert import convert, shapes_of
from weights_convert.layouts import LAYOUTS
from weights_convert.rules import apply_rules, flatten

torch = pytest.importorskip("torch")
import torch_generators as first  # noqa: E402
import torch_stylegan2 as second  # noqa: E402

DIMS = 12  # of z and w
TOLERANCE = 1e-4  # float32; images have a deviation of about 1
torch.set_num_threads(2)


def pggan_state(resolution, base, cap, dims=DIMS):
    return first.pggan_state(resolution, z_dim=dims, base=base, cap=cap)


def stylegan_state(resolution, base, cap, dims=DIMS):
    return first.stylegan_state(resolution, z_dim=dims, w_dim=dims, base=base, cap=cap)


def stylegan2_state(resolution, base, cap, dims=DIMS):
    return second.stylegan2_state(resolution, z_dim=dims, w_dim=dims, base=base, cap=cap)


def nothing(state):
    return state


# naming -> (network, place in its layouts, random state, state -> content of a file)
NAMINGS = {
    "pggan mGANprior": ("pggan", 0, pggan_state, nothing),
    "pggan zoo": ("pggan", 1, pggan_state, first.pggan_zoo),
    "stylegan mGANprior": ("stylegan", 0, stylegan_state, nothing),
    "stylegan zoo": ("stylegan", 1, stylegan_state, first.stylegan_zoo),
    "stylegan2 rosinality": ("stylegan2", 0, stylegan2_state, second.as_rosinality),
    "stylegan2 NVIDIA": ("stylegan2", 1, stylegan2_state, second.as_nvidia),
    "stylegan2 mGANprior": ("stylegan2", 2, stylegan2_state, second.as_mganprior),
    "stylegan2 zoo": ("stylegan2", 3, stylegan2_state, second.as_zoo),
}
ALL = pytest.mark.parametrize("naming", NAMINGS)


def content_of(naming, resolution=16, base=64, cap=8):
    _, _, make, write = NAMINGS[naming]
    return write(make(resolution, base, cap))


def save(content, path):
    torch.save(content, path)
    return path


def torch_images(naming, state, z, resolution, **options):
    """Images [n, 3, R, R] of a naming's state, for options of our generator."""
    noise, psi, layers = options.get("noise_mode", "stored") == "stored", 1.0, 18
    if "truncation_psi" in options:
        psi, layers = options["truncation_psi"], options["truncation_layers"]
    match naming.split()[0]:
        case "pggan":
            return first.pggan_images(state, z, resolution)
        case "stylegan":
            return first.stylegan_images(
                state, z, resolution, with_noise=noise, psi=psi, truncated_layers=layers
            )
        case _:
            return second.stylegan2_images(
                state, z, with_noise=noise, psi=psi, truncated_codes=layers
            )


OPTIONS = (
    {"truncation_psi": 1.0, "truncation_layers": 18},
    {"truncation_psi": 0.6, "truncation_layers": 3, "noise_mode": "none"},
)


@ALL
@pytest.mark.parametrize(
    ("resolution", "base", "options"), [(8, 64, OPTIONS), (128, 1024, OPTIONS[1:])]
)
def test_file_gives_the_images_that_it_gives_in_pytorch(
    tmp_path, naming, resolution, base, options
):
    """At 128 the last up-convolution of StyleGAN is fused."""
    network, place, make, write = NAMINGS[naming]
    state = make(resolution, base, 8)
    file, out = save(write(state), tmp_path / "net.pth"), tmp_path / "net.safetensors"
    done = convert(network, file, out)
    assert done.layout is LAYOUTS[network][place]
    weights = load_weights(out)
    assert weights.config["resolution"] == resolution
    assert weights.metadata["naming"] == done.layout.naming
    golden.check(weights)
    z = np.random.default_rng(1).normal(size=(2, DIMS)).astype(np.float32)
    for chosen in options if network != "pggan" else ({},):
        made = generator(weights.network, {**weights.config, **chosen})
        ours = jax.jit(made.sample)(weights.params, z)
        theirs = torch_images(naming, state, torch.from_numpy(z), resolution, **chosen)
        theirs = theirs.numpy().transpose(0, 2, 3, 1)
        assert 0.3 < theirs.std() < 5
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


# Counted in the networks that the publishers' own code builds, without labels.
PUBLISHED = {
    ("pggan mGANprior", 256): (43, 23_044_310),
    ("pggan mGANprior", 1024): (55, 23_079_116),
    ("pggan zoo", 1024): (55, 23_079_116),
    ("stylegan mGANprior", 256): (122, 26_279_350),
    ("stylegan mGANprior", 1024): (152, 29_034_620),
    ("stylegan zoo", 1024): (152, 29_034_620),
    ("stylegan2 rosinality", 256): (135, 30_209_266),
    ("stylegan2 rosinality", 1024): (171, 33_166_492),
    ("stylegan2 NVIDIA", 1024): (182, 33_167_164),
    ("stylegan2 mGANprior", 1024): (165, 33_166_892),
    ("stylegan2 zoo", 256): (131, 30_209_698),
}


def held(content):
    """Path -> tensor, the large ones without memory of their own."""
    kept = ("kernel", "filter", "lod")  # their values are checked
    tree = flatten(_with_read(content))
    return {
        path: Held(
            np.array(tensor.values)
            if path.endswith(kept)
            else np.broadcast_to(np.float32(0), tensor.shape)
        )
        for path, tensor in tree.items()
    }


def _with_read(content):
    if isinstance(content, dict):
        return {name: _with_read(value) for name, value in content.items()}
    return Held(content.numpy()) if isinstance(content, torch.Tensor) else content


@pytest.mark.parametrize(("naming", "resolution"), PUBLISHED)
def test_published_shapes_are_accepted_in_full_width(naming, resolution):
    network, place, make, write = NAMINGS[naming]
    base = 32768 if network == "stylegan2" else 16384
    tensors = held(write(make(resolution, base, 512, 512)))
    layout = LAYOUTS[network][place]
    ours = {
        path: tensor
        for path, tensor in tensors.items()
        if not path.startswith(("generator/", "discriminator/", "G/", "D/"))
        and path != "latent_avg"
    }
    sizes = [int(np.prod(tensor.shape)) for tensor in ours.values()]
    assert (len(sizes), sum(sizes)) == PUBLISHED[naming, resolution]
    config, params = apply_rules(layout, tensors, shapes_of, origin=naming)
    assert config["resolution"] == resolution
    assert (config["fmap_base"], config["fmap_max"]) == (base, 512)
    assert {key: value.shape for key, value in params.items()} == shapes_of(network, config)
    assert generator(network, config).resolution == resolution


@ALL
def test_file_of_another_network_is_named(tmp_path, naming):
    file = save(content_of(naming, 8), tmp_path / "net.pth")
    network, place, _, _ = NAMINGS[naming]
    words = rf"looks like {network} \({LAYOUTS[network][place].naming}\), not "
    for other in {"pggan", "stylegan", "stylegan2"} - {network}:
        with pytest.raises(InputError, match=f"{words}{other}"):
            convert(other, file, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


# naming -> (tensor to lose, tensor to cut), as the message names them
MISFITS = {
    "pggan mGANprior": ("layer3.wscale.bias", "layer2.conv.weight"),
    "pggan zoo": ("generator_smooth/layer3.bias", "generator_smooth/layer2.weight"),
    "stylegan mGANprior": ("synthesis.layer3.epilogue.bias", "synthesis.layer2.conv.weight"),
    "stylegan zoo": (
        "generator_smooth/synthesis.layer3.bias",
        "generator_smooth/synthesis.layer2.weight",
    ),
    "stylegan2 rosinality": ("g_ema/convs.1.activate.bias", "g_ema/convs.1.conv.weight"),
    "stylegan2 NVIDIA": ("G_ema/synthesis/b8/conv1/bias", "G_ema/synthesis/b8/conv0/weight"),
    "stylegan2 mGANprior": ("synthesis.layer2.bias", "synthesis.layer2.weight"),
    "stylegan2 zoo": (
        "generator_smooth/synthesis.layer2.bias",
        "generator_smooth/synthesis.layer2.weight",
    ),
}


def tensors_of(naming, resolution=8):
    """(layout, path as in the table -> tensor)."""
    network, place, _, _ = NAMINGS[naming]
    layout = LAYOUTS[network][place]
    rename = layout.rename or (lambda path: path)
    tree = flatten(_with_read(content_of(naming, resolution)))
    return layout, {rename(path): tensor for path, tensor in tree.items()}


def refused(layout, tensors, words):
    with pytest.raises(InputError, match=words) as caught:
        apply_rules(layout, tensors, shapes_of, origin="net.pth")
    return str(caught.value)


@ALL
def test_everything_that_does_not_fit_is_in_one_message(naming):
    layout, tensors = tensors_of(naming)
    gone, cut = MISFITS[naming]
    del tensors[gone]
    tensors[cut] = Held(tensors[cut].values[..., :-1])
    tensors[f"{cut}2"] = Held(np.ones(3))
    text = refused(layout, tensors, f"^net.pth: does not fit {layout.naming}")
    assert f"missing in file:  {gone}\n" in text
    assert f"unused from file: {cut}2" in text
    assert f"wrong shape:      {cut} is {tensors[cut].shape}" in text


@ALL
def test_size_that_cannot_be_told_is_refused_without_a_traceback(naming):
    layout, tensors = tensors_of(naming)
    wide = {path: Held(np.zeros(tensor.shape[:1])) for path, tensor in tensors.items()}
    refused(layout, wide, "does not fit .* too few axes")
    marks = {path: tensors[path] for path in layout.marks}
    refused(layout, marks, "does not fit .* is missing|missing in file")


@pytest.mark.parametrize(
    ("naming", "path"),
    [
        ("pggan mGANprior", "lod"),
        ("pggan zoo", "generator_smooth/lod"),
        ("stylegan mGANprior", "synthesis.lod"),
        ("stylegan mGANprior", "synthesis.layer2.blur.kernel"),
        ("stylegan zoo", "generator_smooth/synthesis.lod"),
        ("stylegan zoo", "generator_smooth/synthesis.layer2.blur.kernel"),
        ("stylegan2 rosinality", "g_ema/convs.0.conv.blur.kernel"),
        ("stylegan2 rosinality", "g_ema/to_rgbs.0.upsample.kernel"),
        ("stylegan2 NVIDIA", "G_ema/synthesis/b4/resample_filter"),
        ("stylegan2 NVIDIA", "G_ema/synthesis/b8/conv0/resample_filter"),
        ("stylegan2 mGANprior", "synthesis.layer1.filter.kernel"),
        ("stylegan2 mGANprior", "synthesis.upsample.kernel"),
        ("stylegan2 zoo", "generator_smooth/synthesis.layer1.filter.kernel"),
    ],
)
def test_unfinished_level_of_detail_and_another_filter_are_refused(naming, path):
    layout, tensors = tensors_of(naming)
    tensors[path] = Held(tensors[path].values + np.float32(0.01))
    text = refused(layout, tensors, "wrong values")
    assert f"wrong values:     {path}" in text


@pytest.mark.parametrize(
    ("naming", "path"),
    [
        ("stylegan zoo", "generator_smooth/mapping.label_weight"),
        ("stylegan2 zoo", "generator_smooth/mapping.label_weight"),
        ("stylegan2 NVIDIA", "G_ema/mapping/embed/weight"),
    ],
)
def test_generator_with_labels_is_refused(naming, path):
    layout, tensors = tensors_of(naming)
    tensors[path] = Held(np.ones((10, DIMS)))
    refused(layout, tensors, "with labels; accepted: one without labels")


@pytest.mark.parametrize("naming", ["stylegan zoo", "stylegan2 zoo"])
def test_mapping_with_a_w_of_its_own_for_each_layer_is_refused(naming):
    layout, tensors = tensors_of(naming)
    for path in ("truncation.w_avg", "mapping.dense7.weight", "mapping.dense7.bias"):
        tensor = tensors[f"generator_smooth/{path}"]
        tensors[f"generator_smooth/{path}"] = Held(np.concatenate([tensor.values] * 4))
    text = refused(layout, tensors, "wrong shape")
    assert "truncation.w_avg is (48,), which gives w_avg (48,); the network has (12,)" in text


def test_lower_layers_to_rgb_of_a_finished_model_are_left_out():
    state = pggan_state(16, 64, 8)
    _, config, params = converted("pggan", state)
    lower = {name for name in state if name.startswith(("output0", "output1"))}
    assert len(lower) == 4
    fewer = {name: value for name, value in state.items() if name not in lower}
    _, again, same = converted("pggan", fewer)
    assert config == again
    assert sorted(params) == sorted(same)


def rosinality(**changes):
    """A file of rosinality's training, with tensors changed or (None) left out."""
    content = second.as_rosinality(stylegan2_state(8, 64, 8))
    g = content["g_ema"]
    for name, value in changes.items():
        g.pop(name, None) if value is None else g.update({name: value})
    del content["latent_avg"]
    optimiser = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.002}]}
    rest = {"g": g, "d": {"a": torch.ones(2)}, "g_optim": optimiser, "d_optim": optimiser}
    return {**content, **rest, "ada_aug_p": torch.tensor(0.1)}


def test_training_checkpoint_gets_the_mean_w_of_many_latents(tmp_path):
    out = tmp_path / "net.safetensors"
    convert("stylegan2", save(rosinality(), tmp_path / "550000.pt"), out)
    found = load_weights(out).params["w_avg"]
    state = stylegan2_state(8, 64, 8)
    z = torch.randn(100_000, DIMS, generator=torch.Generator().manual_seed(5))
    w = second.stylegan2_w(state, z)
    error = w.std(0) * (1 / 10_000 + 1 / 100_000) ** 0.5
    assert (torch.abs(torch.from_numpy(np.array(found)) - w.mean(0)) < 5 * error).all()
    assert (error < 0.02 * w.std()).all()


def test_mean_w_of_a_file_is_kept(tmp_path):
    file, out = tmp_path / "net.pt", tmp_path / "net.safetensors"
    convert("stylegan2", save({**rosinality(), "latent_avg": torch.ones(DIMS)}, file), out)
    assert (load_weights(out).params["w_avg"] == 1).all()


def test_early_checkpoint_without_noise_gets_the_same_noise_each_time(tmp_path):
    without = rosinality(**{f"noises.noise_{n}": None for n in range(3)})
    file = save(without, tmp_path / "net.pt")
    found = []
    for name in ("a", "b"):
        convert("stylegan2", file, tmp_path / f"{name}.safetensors")
        found.append(load_weights(tmp_path / f"{name}.safetensors").params)
    for a, b in zip(jax.tree.leaves(found[0]), jax.tree.leaves(found[1]), strict=True):
        np.testing.assert_array_equal(a, b)
    noises = jnp.concatenate([found[0][f"layer{i}"]["noise"].ravel() for i in (1, 2, 3)])
    assert noises.size == 16 + 2 * 64
    assert 0.7 < noises.std() < 1.3
    full = tmp_path / "full.safetensors"
    convert("stylegan2", save(rosinality(), tmp_path / "full.pt"), full)
    theirs = flatten_dict(load_weights(full).params, sep="/")
    for name, value in flatten_dict(found[0], sep="/").items():
        assert "noise" in name.rsplit("/")[-1] or (value == theirs[name]).all(), name
