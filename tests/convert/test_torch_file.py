"""What is read equals what PyTorch reads, in every form that torch.save and NVIDIA's code write."""

import argparse
import ast
import pickle
import random
import re
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from forged_files import NUMBERS, archive, call, name, pickled, state_dict, storage, stream, tensor
from forged_files import text as text_code

import weights_convert.torch_file
from oeft_jax._checks import InputError
from weights_convert.torch_file import Tensor, open_torch_file

torch = pytest.importorskip("torch")
FORMS = [True, False]  # of torch.save: the zip file, the older stream
DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
]


@pytest.fixture
def saved(tmp_path):
    """Saves with torch.save and gives the path."""

    def save(value, form=True, **options):
        path = tmp_path / "model.pth"
        torch.save(value, path, _use_new_zipfile_serialization=form, **options)
        return path

    return save


def read_all(path):
    """The whole content, with arrays for tensors."""

    def read(tree):
        if isinstance(tree, dict):
            return {key: read(item) for key, item in tree.items()}
        if isinstance(tree, list | tuple):
            return type(tree)(map(read, tree))
        return tree.read() if isinstance(tree, Tensor) else tree

    with open_torch_file(path) as content:
        return read(content)


def assert_same(ours, theirs):
    """Same containers, keys in the same order, equal values bit by bit, equal types."""
    if isinstance(theirs, torch.Tensor):
        wanted = theirs.detach().to(
            torch.float32 if theirs.dtype == torch.bfloat16 else theirs.dtype
        )
        assert ours.dtype == wanted.numpy().dtype
        assert ours.flags.c_contiguous
        assert ours.flags.writeable
        np.testing.assert_array_equal(ours, wanted.numpy(), strict=True)
    elif isinstance(theirs, dict):
        assert type(ours) is dict
        assert list(ours) == list(theirs)
        for key, item in theirs.items():
            assert_same(ours[key], item)
    elif isinstance(theirs, list | tuple):
        assert type(ours) is (tuple if isinstance(theirs, tuple) else list)
        assert len(ours) == len(theirs)
        for our, their in zip(ours, theirs, strict=True):
            assert_same(our, their)
    else:
        assert type(ours) is type(theirs)
        assert ours == theirs or (ours != ours and theirs != theirs)


def assert_read_as_pytorch_reads(path, *, weights_only=True):
    """`weights_only=False`, for what that refuses, is for files that the test itself has made."""
    assert_same(read_all(path), torch.load(path, weights_only=weights_only, map_location="cpu"))


def numbers(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(-100, 100, shape, generator=generator)
    return (drawn > 0) if dtype == torch.bool else (drawn / 7).to(dtype)


# tensors


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_types(saved, form, dtype):
    made = numbers(4, 5, dtype=dtype)
    assert_read_as_pytorch_reads(saved({"dense": made, "turned": made.T, "0-d": made[1, 2]}, form))


def test_special_values_keep_their_bits(saved):
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3.4e38])
    half, brain = special.half(), special.bfloat16()
    ours = read_all(saved([special, half, brain]))
    wanted = [
        special.view(torch.int32),
        half.view(torch.int16),
        brain.view(torch.int16).int() << 16,
    ]
    for our, bits in zip(ours, wanted, strict=True):
        np.testing.assert_array_equal(our.view(bits.numpy().dtype), bits.numpy(), strict=True)


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, 3),
    "permuted": lambda x: x.permute(2, 0, 3, 1),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every other": lambda x: x[::2, 1::2],
    "a window": lambda x: x[1:3, :, 1:, :2],
    "a column": lambda x: x[:, 0, 0, 0],
    "a diagonal": lambda x: x[0, 0].diagonal(),
    "one number": lambda x: x[2, 1, 3, 0],
    "ones with odd strides": lambda x: x[:, :1, :, :1].transpose(1, 3),
    "one repeated once": lambda x: x[:, :1].expand(4, 1, 5, 6),
    "empty": lambda x: x[:0],
    "empty within": lambda x: x[:, :, 2:2].transpose(0, 1),
    "unsqueezed": lambda x: x[None, ..., None],
    "written out": lambda x: x[:, :1].expand(4, 9, 5, 6).contiguous(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(saved, form, layout):
    assert_read_as_pytorch_reads(saved(LAYOUTS[layout](numbers(4, 3, 5, 6)), form))


def test_empty_shapes(saved):
    shapes = [(0,), (0, 3), (3, 0), (2, 0, 5), (0, 0)]
    assert_read_as_pytorch_reads(saved([torch.zeros(shape) for shape in shapes]))


@pytest.mark.parametrize("form", FORMS)
def test_a_tensor_that_repeats_numbers_is_refused_with_advice(saved, form):
    path = saved(torch.zeros(3, 1).expand(3, 1000), form)
    with pytest.raises(InputError, match=r"model.pth: has a tensor .* take \.contiguous\(\)"):
        read_all(path)


@pytest.mark.parametrize("form", FORMS)
def test_tensors_that_share_a_storage(saved, form):
    base = numbers(6, 4)
    tied = {"a": base, "again": base, "row": base[2], "flat": base.view(-1), "tail": base[3:].T}
    assert_read_as_pytorch_reads(saved(tied, form))


def test_arrays_are_the_reader_s_own(saved):
    path = saved({"a": numbers(3)})
    with open_torch_file(path) as content:
        first = content["a"].read()
        first += 1
        np.testing.assert_array_equal(content["a"].read(), numbers(3).numpy())


def test_a_tensor_describes_itself_without_being_read(saved):
    with open_torch_file(saved(numbers(2, 3, dtype=torch.bfloat16))) as content:
        assert (content.shape, content.dtype) == ((2, 3), np.float32)
        assert repr(content) == "Tensor(shape=(2, 3), dtype=dtype('float32'))"


@pytest.mark.parametrize("form", FORMS)
def test_opening_reads_no_numbers(saved, form):
    path = saved({str(i): torch.zeros(2**20) for i in range(8)}, form)
    tracemalloc.start()
    with open_torch_file(path) as content:
        opened = tracemalloc.get_traced_memory()[1]
        content["3"].read()
        read = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert opened < 2**19
    assert read < 2**19 + 2**22


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda: torch.eye(3).to_sparse(), "torch._utils._rebuild_sparse_tensor"),
        (lambda: torch.eye(3).to_sparse_csr(), "torch._utils._rebuild_sparse_tensor"),
        (lambda: torch.zeros(2, dtype=torch.complex64), "torch.ComplexFloatStorage"),
        (
            lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
            "torch._utils._rebuild_qtensor",
        ),
        (lambda: torch.zeros(2).to(torch.float8_e4m3fn), "torch._utils._rebuild_tensor_v3"),
        (lambda: torch.zeros(2, device="meta"), "torch._utils._rebuild_meta_tensor_no_storage"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_tensors_are_refused_by_name(saved, made, named):
    with pytest.raises(InputError, match=f"model.pth: refers to {re.escape(named)}, which"):
        read_all(saved(made()))


def test_a_pending_negation_is_refused(saved):
    conjugate = torch.complex(torch.ones(2), torch.ones(2)).conj().imag  # its negative bit is set
    assert conjugate.is_neg()
    with pytest.raises(InputError, match="pending negation|ComplexFloat"):
        read_all(saved(conjugate))


# containers


def model():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2)
    )
    net[0].weight.data = numbers(4, 3, 3, 3)
    return net


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_with_its_metadata(saved, form, protocol):
    path = saved(model().state_dict(), form, pickle_protocol=protocol)
    assert_read_as_pytorch_reads(path, weights_only=protocol == 2)
    assert len(read_all(path)) == 9  # num_batches_tracked is among them


@pytest.mark.parametrize("form", FORMS)
def test_parameters_with_and_without_attributes(saved, form):
    plain, marked = torch.nn.Parameter(numbers(3)), torch.nn.Parameter(numbers(2), False)
    marked.sharded = True
    assert_read_as_pytorch_reads(saved([plain, marked], form))


@pytest.mark.parametrize("form", FORMS)
def test_a_training_checkpoint(saved, form):
    net = model()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.zeros(1, 3, 6, 6).expand(2, 3, 6, 6)).sum().backward()
    optimizer.step()
    options = argparse.Namespace(size=256, lr=0.002, path=None, sizes=[1, 2], flag=True)
    checkpoint = {
        "g_ema": net.state_dict(),
        "g_optim": optimizer.state_dict(),
        "args": options,
        "size": torch.Size([1, 2]),
        "type": torch.bfloat16,
        "device": [torch.device("cpu"), torch.device("cuda", 1)],
        "extensions": {"py"},
        "large": [2**31, -(2**40), 2**63 - 1, 0, -1, 70_000],
        "small": (1e-300, float("inf"), "Grüße", "", (), [], {}, None, False),
        7: OrderedDict([("b", 1), ("a", 2)]),
    }
    path = saved(checkpoint, form)
    theirs = torch.load(path, weights_only=False)  # ours, just made; True refuses Namespace
    theirs |= {
        "args": vars(options),
        "size": (1, 2),
        "type": "torch.bfloat16",
        "device": ["cpu", "cuda:1"],
        "extensions": ["py"],
    }
    assert_same(read_all(path), theirs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_numpy_numbers_and_arrays(saved, form, protocol):
    array = np.arange(24.0).reshape(2, 3, 4)
    held = {
        "scalars": [np.float64(0.1), np.float32(0.1), np.int64(-3), np.bool_(True), np.uint8(200)],
        "arrays": [array, array.T, np.asfortranarray(array), array[:0], np.array(3)],
        "types": [array.astype(t) for t in ("f2", "f4", "i2", "u4", "u8", "?")],
    }
    path = saved(held, form, pickle_protocol=protocol)
    ours = read_all(path)
    assert ours["scalars"] == [item.item() for item in held["scalars"]]
    assert [type(item) for item in ours["scalars"]] == [float, float, int, bool, int]
    for key in ("arrays", "types"):
        for our, wanted in zip(ours[key], held[key], strict=True):
            np.testing.assert_array_equal(our, wanted, strict=True)
            assert our.flags.c_contiguous


def test_bytes_are_read_as_a_tensor_of_them(saved):
    for protocol in (2, 4):
        path = saved([b"abc\xff", b""], pickle_protocol=protocol)
        assert [item.tobytes() for item in read_all(path)] == [b"abc\xff", b""]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_a_storage_alone_is_a_flat_tensor(saved, form):
    ours = read_all(saved([numbers(2, 3).storage(), numbers(4).untyped_storage()], form))
    np.testing.assert_array_equal(ours[0], numbers(6).numpy(), strict=True)
    np.testing.assert_array_equal(ours[1], numbers(4).numpy().view(np.uint8), strict=True)


def test_a_layer_keeps_its_attributes(saved):
    layer = torch.nn.Linear(2, 3)
    ours = read_all(saved(layer))
    assert ours["class_name"] == "Linear"
    assert ours["state"]["in_features"] == 2
    np.testing.assert_array_equal(
        ours["state"]["_parameters"]["weight"], layer.weight.detach().numpy()
    )


def random_tree(rng, depth=0):
    kinds = ["tensor", "int", "float", "str", "none", "bool", "dict", "list", "tuple"]
    kind = rng.choice(kinds[:6] if depth > 3 else kinds)
    size = rng.randrange(5)
    if kind == "tensor":
        shape = [rng.randrange(4) for _ in range(rng.randrange(5))]
        made = numbers(*shape, dtype=rng.choice(DTYPES), seed=rng.randrange(99))
        return made.permute(rng.sample(range(made.dim()), made.dim()))
    if kind == "dict":
        keys = [rng.choice([str(i), f"layer{i}.weight", i, -i]) for i in range(size)]
        return {key: random_tree(rng, depth + 1) for key in keys}
    if kind in ("list", "tuple"):
        items = [random_tree(rng, depth + 1) for _ in range(size)]
        return items if kind == "list" else tuple(items)
    number = rng.randrange(-(2**63), 2**63) >> rng.randrange(64)
    return {"int": number, "float": rng.uniform(-9, 9), "str": chr(rng.randrange(1, 999)) * size,
            "none": None, "bool": rng.random() < 0.5}[kind]  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
def test_random_trees(saved, seed):
    rng = random.Random(seed)
    tree = [random_tree(rng) for _ in range(6)]
    protocol = rng.choice([2, 2, 3, 4, 5])
    path = saved(tree, form=seed % 2 == 0, pickle_protocol=protocol)
    assert_read_as_pytorch_reads(path, weights_only=protocol == 2)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_plain_pickle_of_tensors(tmp_path, protocol):
    held = {"net": model().state_dict(), "list": [numbers(2, 3).T, torch.nn.Parameter(numbers(3))]}
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(held, protocol=protocol))
    assert_same(read_all(path), held)


# what older versions wrote, byte by byte


def write(path, data):
    path.write_bytes(data)
    return path


def test_the_forged_files_are_files_to_pytorch(tmp_path):
    for data in (archive(state_dict()), archive(state_dict(), zip64={}), stream(state_dict(True))):
        path = write(tmp_path / "forged.pth", data)
        assert_read_as_pytorch_reads(path)
        assert read_all(path)["bias"].tolist() == [0.5, -1]


def test_the_tensors_of_the_first_version(tmp_path):
    held = tensor(storage("0", 6, stream=True), 1, (2, 2), (3, 1), function="_rebuild_tensor")
    path = write(tmp_path / "old.pth", stream(held, {"0": NUMBERS["0"]}))
    assert_read_as_pytorch_reads(path)
    assert read_all(path).tolist() == [[1, 2], [4, 5]]


def test_a_storage_that_is_a_part_of_another(tmp_path):
    held = tensor(storage("0", 6, view=("part", 2, 3), stream=True), 1, (2,), (1,))
    path = write(tmp_path / "old.pth", stream(held, {"0": NUMBERS["0"]}))
    assert_same(read_all(path), torch.load(path, weights_only=False))
    assert read_all(path).tolist() == [3, 4]


def test_a_parameter_of_the_first_version(tmp_path):
    made = call("torch.nn.parameter", "Parameter", tensor(storage("0", 6), 0, (6,), (1,)))
    state = b"(\x89\x89" + call("collections", "OrderedDict") + b"tb"
    path = write(tmp_path / "old.pth", archive(made + state))
    assert_same(read_all(path), torch.load(path, weights_only=False))


def test_a_table_of_python_2(tmp_path):
    pairs = b"](](U\x01aK\x01e](T\x01\0\0\0bK\x02ee"
    body = name("collections", "OrderedDict") + pairs + b"\x85R"
    path = write(tmp_path / "old.pth", archive(body))
    assert read_all(path) == torch.load(path, weights_only=False) == {"a": 1, "b": 2}


@pytest.mark.parametrize("folder", ["w_vgg19_normalised", "w_vgg19_distilled16x", "w_lpips/v0.1"])
def test_published_files(shared_data, folder):
    paths = sorted((shared_data / folder).glob("*.pth"))
    assert paths, "the folder has files"
    for path in paths:
        assert_read_as_pytorch_reads(path)


# NVIDIA's pickles


def tensors_of(module, prefix=""):
    """The state_dict of a module that was read as plain values."""
    state = module["state"]
    for held in ("_parameters", "_buffers"):
        for key, value in state[held].items():
            if value is not None and key not in state["_non_persistent_buffers_set"]:
                yield prefix + key, value
    for key, child in state["_modules"].items():
        yield from tensors_of(child, f"{prefix}{key}.")


@pytest.fixture(scope="module")
def nvidia_files(tmp_path_factory):
    """Made by another process, because their classes must live in modules of NVIDIA's names."""
    folder = tmp_path_factory.mktemp("nvidia")
    script = Path(__file__).with_name("write_nvidia_pickles.py")
    subprocess.run([sys.executable, "-B", script, folder], check=True)
    return folder


@pytest.mark.parametrize("protocol", [3, 4])
def test_nvidia_networks_are_read_without_their_code(nvidia_files, protocol):
    path = nvidia_files / f"protocol{protocol}.pkl"
    assert b"os._exit(3)" in path.read_bytes()
    ours = read_all(path)
    assert list(ours) == ["G", "D", "G_ema", "training_set_kwargs", "augment_pipe"]
    assert ours["training_set_kwargs"] == {"path": "x.zip", "resolution": 256}
    net = ours["G_ema"]
    assert net.keys() == {"class_name", "state"}
    assert net["class_name"] == "Generator"
    assert net["state"]["_init_kwargs"] == {"z_dim": 4, "mapping_kwargs": {"num_layers": 2}}
    assert net["state"]["_modules"]["affine"]["state"]["weight_gain"] == 0.5 / np.sqrt(2)
    with np.load(nvidia_files / "values.npz") as wanted:
        found = dict(tensors_of(net))
        assert found.keys() == set(wanted.files)
        assert len(found) == 7
        for key, value in found.items():
            np.testing.assert_array_equal(value, wanted[key], strict=True)


# refusals, in words


class Stranger:
    """A class that no table knows."""


def refusal(path):
    with pytest.raises(InputError) as caught:
        read_all(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_a_whole_model_is_refused_with_advice(saved):
    message = refusal(saved(Stranger()))
    assert f"refers to {Stranger.__module__}.Stranger, which weights do not need" in message
    assert "save its state_dict() with torch.save" in message


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused_with_advice(tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), path)
    assert "TorchScript" in refusal(path)
    assert "torch.jit.load(...).state_dict()" in refusal(path)


def test_missing_and_foreign_files_are_named(tmp_path):
    assert "no such file" in refusal(tmp_path / "missing.pth")
    assert "no such file" in refusal(tmp_path)
    assert "not a PyTorch file" in refusal(write(tmp_path / "page.pth", b"<html>"))
    assert "not a PyTorch file" in refusal(write(tmp_path / "empty.pth", b""))


def test_a_cut_download_is_named(saved):
    for form in FORMS:
        path = saved(model().state_dict(), form)
        message = refusal(write(path, path.read_bytes()[:-200]))
        assert message == "is damaged or cut short; get the file anew."


def test_more_sharing_than_weights_have_is_refused(tmp_path):
    held = tensor(storage("0", 2**20), 0, (2**20,), (1,)) + b"q\0"
    body = b"](" + held + b"h\0" * 9 + b"e"
    path = write(tmp_path / "shared.pth", archive(body, {"0": bytes(2**22)}))
    assert "more bytes of tensors than twice its size" in refusal(path)


def test_a_file_that_shrinks_while_open_is_named(saved):
    path = saved({"a": numbers(10_000)})
    with open_torch_file(path) as content:
        write(path, path.read_bytes()[:5000])
        with pytest.raises(InputError, match=r"model.pth: is damaged or cut short"):
            content["a"].read()


def test_an_error_of_the_caller_passes_through(saved):
    with pytest.raises(ZeroDivisionError), open_torch_file(saved({})):
        raise ZeroDivisionError


def test_a_byte_order_mark_is_believed(tmp_path):
    data = archive(state_dict()).replace(b"little", b"big\0\0\0")
    assert "big-endian" in refusal(write(tmp_path / "big.pth", data))
    assert "big-endian" in refusal(
        write(tmp_path / "b.pth", stream(state_dict(True), little=False))
    )


def test_integers_beyond_64_bits_are_refused(tmp_path):
    assert "more than 64 bits" in refusal(write(tmp_path / "x.pkl", pickled(2**70)))


def test_a_value_that_is_a_name_is_refused(tmp_path):
    path = write(tmp_path / "x.pkl", pickled(b"}" + text_code("k") + name("torch", "Size") + b"s"))
    assert "holds torch.Size where a value should be" in refusal(path)


READER = (
    *("file_window", "zip_members", "pickle_machine", "stored_tensors", "numpy_objects"),
    *("torch_objects", "plain_tree", "tar_form", "torch_file"),
)


@pytest.mark.parametrize("module", READER)
def test_the_reader_needs_numpy_and_the_standard_library_only(module):
    tree = ast.parse(
        (Path(weights_convert.torch_file.__file__).parent / f"{module}.py").read_text()
    )
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    ours = {f"weights_convert.{part}" for part in READER} | {"numpy", "oeft_jax._checks"}
    assert all(full in ours or full.split(".")[0] in sys.stdlib_module_names for full in found)
    assert not found & {"pickle", "zipfile", "importlib"}
