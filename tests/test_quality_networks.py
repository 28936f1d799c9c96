"""Networks that the user gives to the quality benchmark: DINO as a judge, LPIPS of inversions."""

import pytest
from converted import images_of, nchw

from benchmarks.quality import __main__ as command
from benchmarks.quality import judge, perceptual, tables
from benchmarks.quality.pairs import PhotoPair
from oeft_jax._checks import InputError
from weights_convert.convert import convert

torch = pytest.importorskip("torch")
import torch_small_nets as nets  # noqa: E402
from torch_vit import random_vit  # noqa: E402


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFT_JAX_CACHE", str(tmp_path))
    return tmp_path


def put(cache, name, state):
    torch.save(state, cache / "file.pth")
    convert(name, cache / "file.pth", cache / f"{name}.safetensors")


def as_torch(image):
    return torch.from_numpy(nchw(image[None]))


def test_dino_judges_keys_and_the_class_token(cache):
    reference = random_vit(0, depth=2)
    put(cache, "dino_vits8", reference.state_dict())
    source, target, picture = images_of(48, 48, count=3)
    eye = judge.dino("dino_vits8")
    ready = judge.prepare(eye, PhotoPair("0", "face", source, target, None, None))
    found = judge.measures(eye, ready, picture)
    with torch.no_grad():
        ours, theirs, first = (reference(as_torch(x)) for x in (picture, target, source))

    def gram(taps):
        keys = taps["keys1"][0].flatten(1).double()
        return keys @ keys.T / keys.shape[1]

    token = [taps["class"].double().flatten() for taps in (ours, theirs)]
    expected = ((token[0] - token[1]) ** 2).sum() / (token[1] ** 2).sum()
    assert found["token distance"] == pytest.approx(expected.item(), rel=1e-3)
    expected = ((gram(ours) - gram(theirs)) ** 2).sum() / (gram(theirs) ** 2).sum()
    assert found["Gram distance"] == pytest.approx(expected.item(), rel=1e-3)

    def similarity(taps):
        keys = taps["keys1"][0].flatten(1).double().T
        unit = torch.nn.functional.normalize(keys - keys.mean(0), dim=1)
        return unit @ unit.T

    expected = ((similarity(ours) - similarity(first)) ** 2).mean()
    assert found["self-similarity distance"] == pytest.approx(expected.item(), rel=1e-3)
    same = judge.measures(eye, ready, target)
    assert same["token distance"] == 0
    assert set(found) == set(tables.RATIOS)


def test_lpips_is_that_of_torch(cache):
    reference = nets.random_weights(nets.SqueezeNet("1_1"), 0)
    taps = ("relu1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")
    widths = (64, 128, 256, 384, 384, 512, 512)
    heads = [torch.rand(1, width, 1, 1) / width for width in widths]
    put(cache, "squeezenet1_1", reference.state_dict())
    put(cache, "lpips_squeeze", {f"lin{k}.model.1.weight": w for k, w in enumerate(heads)})
    distance = perceptual.load("squeeze")
    a, b = images_of(48, 48, count=2)
    with torch.no_grad():
        sides = [reference(as_torch(x)) for x in (a, b)]
    expected = 0.0
    for tap, head in zip(taps, heads, strict=True):
        x, y = (side[tap] / (side[tap].norm(dim=1, keepdim=True) + 1e-10) for side in sides)
        expected += ((x - y) ** 2 * head).sum(1).mean().item()
    assert expected > 0.01
    assert distance(a, b) == pytest.approx(expected, rel=1e-4)
    assert distance(a, a) == 0


@pytest.mark.parametrize(
    ("load", "missing"),
    [
        (lambda: judge.dino("dino_vits8"), "weights 'dino_vits8' are not in"),
        (lambda: perceptual.load("alex"), "weights 'lpips_alex', 'alexnet' are not in"),
    ],
)
def test_what_is_not_in_the_cache_is_named_with_the_way_to_get_it(cache, load, missing):
    with pytest.raises(InputError, match=missing) as caught:
        load()
    assert "python -m weights_convert fetch" in str(caught.value)


def test_the_command_refuses_a_network_that_is_not_there(cache, tmp_path, capsys):
    (tmp_path / "pairs.json").write_text("[]")
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--dino", "dino_vitb8"]
    assert command.main(arguments) == 2
    assert "quality: weights 'dino_vitb8' are not in" in capsys.readouterr().err
