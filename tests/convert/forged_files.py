"""Builds PyTorch files byte by byte, without PyTorch, so that every part of them can lie."""

import io
import struct
import zlib

MAGIC = 0x1950A86A20F9469CFC6C


def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def value(item):
    """The instructions that push a plain value, or `item` itself where it is instructions."""
    if isinstance(item, bytes):
        return item
    if item is None or isinstance(item, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[item]
    if isinstance(item, tuple):
        return b"(" + b"".join(map(value, item)) + b"t"
    if isinstance(item, list):
        return b"](" + b"".join(map(value, item)) + b"e"
    if isinstance(item, dict):
        return b"}(" + b"".join(value(k) + value(v) for k, v in item.items()) + b"u"
    return text(item) if isinstance(item, str) else number(item)


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(module, attribute, *arguments):
    return name(module, attribute) + value(arguments) + b"R"


def pickled(body):
    return b"\x80\x02" + value(body) + b"."


def storage(key, numel, kind="FloatStorage", view=None, stream=False):
    identity = ("storage", name("torch", kind), key, "cpu", numel)
    return value((*identity, view) if stream else identity) + b"Q"


def tensor(held, offset, shape, strides, *, function="_rebuild_tensor_v2"):
    more = (False, call("collections", "OrderedDict")) if function.endswith("v2") else ()
    return call("torch._utils", function, held, offset, shape, strides, *more)


def state_dict(stream=False):
    """A weight of shape (2, 3) and a bias of shape (2,): a file that PyTorch reads."""
    weight = tensor(storage("0", 6, stream=stream), 0, (2, 3), (3, 1))
    bias = tensor(storage("1", 2, stream=stream), 0, (2,), (1,))
    items = text("weight") + weight + text("bias") + bias
    return call("collections", "OrderedDict") + b"(" + items + b"u"


NUMBERS = {"0": struct.pack("<6f", *range(6)), "1": struct.pack("<2f", 0.5, -1)}


def stream(body, storages=None, *, little=True, version=1001, keys=None, counts=None):
    """The form before PyTorch 1.6."""
    storages = NUMBERS if storages is None else storages
    info = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"int": 4}}
    keys = sorted(storages) if keys is None else keys
    counts = counts or {key: len(data) // 4 for key, data in storages.items()}
    data = b"".join(struct.pack("<q", counts[k]) + storages[k] for k in sorted(storages))
    return b"".join(map(pickled, (MAGIC, version, info, body, keys))) + data


def members_of(body, storages=None, root="archive"):
    storages = NUMBERS if storages is None else storages
    return [
        (f"{root}/data.pkl", pickled(body)),
        (f"{root}/byteorder", b"little"),
        *((f"{root}/data/{key}", data) for key, data in storages.items()),
        (f"{root}/version", b"3\n"),
    ]


def zipped(members, *, tweak=None, method=0, flags=0, zip64=None, end=None, entries=None):
    """A zip file whose every field can lie.

    Args:
      members: (name, data) in order.
      tweak: (name, fields of the directory entry) -> the fields to write.
      zip64, end: change the fields of the end records; entries: the number of entries claimed.
    """
    out, directory = io.BytesIO(), b""
    for title, data in members:
        raw = title if isinstance(title, bytes) else title.encode()
        packed = zlib.compress(data, 9)[2:-4] if method == 8 else data
        fields = {
            "at": out.tell(), "packed": len(packed), "size": len(data), "extra": b"",
            "name": raw, "crc": zlib.crc32(data), "flags": flags, "method": method,
        }  # fmt: skip
        local = (b"PK\3\4", 20, flags, method, 0, 0, fields["crc"], len(packed), len(data))
        out.write(struct.pack("<4s5H3L2H", *local, len(raw), 0) + raw + packed)
        f = tweak(title, fields) if tweak else fields
        sizes = (f["crc"], f["packed"], f["size"], len(f["name"]), len(f["extra"]))
        directory += struct.pack(
            "<4s6H3L5H2L",
            *(b"PK\1\2", 20, 20, f["flags"], f["method"], 0, 0, *sizes, 0, 0, 0, 0, f["at"]),
        )
        directory += f["name"] + f["extra"]
    at, count = out.tell(), len(members) if entries is None else entries
    out.write(directory)
    fields = {"count": count, "size": len(directory), "at": at}
    if zip64 is not None:
        wide, record_at = {**fields, **zip64}, out.tell()
        record = (b"PK\6\6", 44, 20, 20, 0, 0, wide["count"], wide["count"], wide["size"])
        out.write(struct.pack("<4sQ2H2L4Q", *record, wide["at"]))
        out.write(struct.pack("<4sLQL", b"PK\6\7", 0, wide.get("record", record_at), 1))
    fields |= end or {}
    counts = (fields["count"] & 0xFFFF,) * 2
    ends = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *counts, fields["size"], fields["at"], 0)
    return out.getvalue() + ends


def archive(body, storages=None, **lies):
    """The form since PyTorch 1.6."""
    return zipped(members_of(body, storages), **lies)


def nvidia(source="pass", state=b"", held=None, meta=None):
    """A plain pickle with one persistent object and one tensor whose storage is a byte string."""
    held = stream(storage("0", 6, stream=True), {"0": NUMBERS["0"]}) if held is None else held
    loaded = call("torch.storage", "_load_from_bytes", b"B" + struct.pack("<I", len(held)) + held)
    parts = {"_parameters": value({"weight": tensor(loaded, 0, (2, 3), (3, 1))}), "gain": state}
    meta = meta or {
        "type": "class", "version": 6, "module_src": source, "class_name": "Generator",
        "state": {key: part for key, part in parts.items() if part},
    }  # fmt: skip
    made = call("torch_utils.persistence", "_reconstruct_persistent_obj", value(meta))
    return pickled({"G_ema": made, "augment_pipe": None})
