"""The oldest form, as torch.load still reads it; the files are written here as that version did."""

import io
import pickle
import struct
import tarfile
from collections import OrderedDict

import numpy as np
import pytest

from oeft_jax._checks import InputError
from weights_convert.rules import flatten
from weights_convert.torch_file import open_torch_file

torch = pytest.importorskip("torch")
MAGIC = [("sys_info", {"protocol_version": 1000, "little_endian": True})]


class Pickler(pickle.Pickler):
    def persistent_id(self, item):
        return str(id(item)) if torch.is_tensor(item) else None


def dump(stream, value):
    pickle.dump(value, stream, 2)


def members_of(state, *, views=()):
    """(storages, tensors, pickle) of a dict of tensors; `views` lists (key, root key, offset, n)."""
    storages, tensors, content = io.BytesIO(), io.BytesIO(), io.BytesIO()
    held = {t.untyped_storage().data_ptr(): t for t in state.values()}
    dump(storages, len(held))
    for key, tensor in held.items():
        values = torch.tensor([], dtype=tensor.dtype).set_(tensor.untyped_storage())
        name = {torch.float32: "Float", torch.int64: "Long", torch.float16: "Half"}[tensor.dtype]
        dump(storages, (key, "cpu", getattr(torch, f"{name}Storage")))
        storages.write(struct.pack("<q", len(values)) + values.numpy().tobytes())
    dump(storages, list(views))
    dump(tensors, len(state))
    for tensor in state.values():
        root = tensor.untyped_storage().data_ptr()
        dump(tensors, (id(tensor), root, torch.FloatTensor))
        tensors.write(struct.pack("<q", tensor.ndim))
        tensors.write(struct.pack(f"<{tensor.ndim}q", *tensor.shape))
        tensors.write(struct.pack(f"<{tensor.ndim}q", *tensor.stride()))
        tensors.write(struct.pack("<q", tensor.storage_offset()))
    Pickler(content, 2).dump(state)
    return {
        "sys_info": pickle.dumps(MAGIC[0][1], 2),
        "pickle": content.getvalue(),
        "tensors": tensors.getvalue(),
        "storages": storages.getvalue(),
    }


def write(path, members, *, kinds=None):
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1487000000.25  # a fraction needs an extended header
            info.type = (kinds or {}).get(name, tarfile.REGTYPE)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 6, generator=generator)
    return OrderedDict(
        [
            ("features.0.weight", torch.randn(5, 3, 3, 3, generator=generator)),
            ("turned", base.t()),
            ("part", base[1:3, 2:]),
            ("count", torch.arange(7)),
            ("half", torch.randn(3, generator=generator).half()),
            ("one", torch.tensor(2.5)),
        ]
    )


def read(path):
    with open_torch_file(path) as tree:
        return {name: tensor.read() for name, tensor in flatten(tree).items()}


def test_every_tensor_is_the_one_torch_reads(state, tmp_path):
    path = write(tmp_path / "old.pth", members_of(state))
    theirs = torch.load(path, weights_only=False)
    ours = read(path)
    assert list(theirs) == list(state)
    assert sorted(ours) == sorted(state)
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(ours[name], tensor.numpy())
        np.testing.assert_array_equal(ours[name], state[name].numpy())
        assert ours[name].flags.c_contiguous


def test_storage_that_is_a_part_of_another(state, tmp_path):
    members = members_of({"all": state["count"]})
    root = state["count"].untyped_storage().data_ptr()
    storages, tensors = io.BytesIO(), io.BytesIO()
    storages.write(members["storages"][: -len(pickle.dumps([], 2))])
    dump(storages, [(77, root, 2, 4)])
    dump(tensors, 1)
    dump(tensors, (id(state["count"]), 77, torch.FloatTensor))
    tensors.write(struct.pack("<5q", 1, 3, 1, 1, 0)[:32])
    members |= {"storages": storages.getvalue(), "tensors": tensors.getvalue()}
    path = write(tmp_path / "old.pth", members)
    np.testing.assert_array_equal(torch.load(path, weights_only=False)["all"], [3, 4, 5])
    np.testing.assert_array_equal(read(path)["all"], [3, 4, 5])


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("true",)


@pytest.mark.parametrize(
    "change",
    [
        {"pickle": pickle.dumps(Evil(), 2)},
        {"storages": pickle.dumps(10**6, 2)},
        {"storages": pickle.dumps(-1, 2)},
        {"storages": pickle.dumps(1, 2) + pickle.dumps((1, "cpu", Evil()), 2)},
        {"tensors": pickle.dumps(1, 2) + pickle.dumps((1, 2, "x"), 2)},
        {"tensors": b""},
        {"pickle": pickle.dumps({"a": 1}, 2)[:-1]},
    ],
)
def test_damaged_and_hostile_members_are_refused(state, tmp_path, change):
    path = write(tmp_path / "old.pth", {**members_of(state), **change})
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text


@pytest.mark.parametrize("name", ["storages", "tensors", "pickle"])
def test_link_or_missing_member_is_refused(state, tmp_path, name):
    members = members_of(state)
    path = write(tmp_path / "link.pth", members, kinds={name: tarfile.SYMTYPE})
    with pytest.raises(InputError, match=str(path)):
        read(path)
    members.pop(name)
    path = write(tmp_path / "less.pth", members)
    with pytest.raises(InputError, match="without the members"):
        read(path)


def test_every_truncation_and_flip_is_harmless(state, tmp_path):
    data = write(tmp_path / "old.pth", members_of(state)).read_bytes()
    rng = np.random.default_rng(0)
    damaged = [data[: int(part * len(data))] for part in np.linspace(0.01, 0.97, 40)]
    damaged += [
        data[:place] + bytes([data[place] ^ 1 << rng.integers(8)]) + data[place + 1 :]
        for place in rng.integers(0, len(data), 160)
    ]
    messages = [refusal(tmp_path / "bad.pth", content) for content in damaged]
    refused = [text for text in messages if text]
    assert len(refused) > 50  # the rest hit padding or a number
    assert all(text.startswith(f"{tmp_path / 'bad.pth'}: ") for text in refused)


def refusal(path, content):
    """The sentence a file is refused with, empty where it is read."""
    path.write_bytes(content)
    try:
        read(path)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("offset", [124, 148, 156])
def test_header_fields_that_lie_are_refused(state, tmp_path, offset):
    data = bytearray(write(tmp_path / "old.pth", members_of(state)).read_bytes())
    data[offset : offset + 2] = b"79"
    path = tmp_path / "bad.pth"
    path.write_bytes(data)
    with pytest.raises(InputError):
        read(path)
