"""Hostile and damaged checkpoint files: `files()` is a list of (name, bytes), always the same.

The first word of a name says what must happen: "attack" must be refused, "damage" may be refused
or read, "harmless" must be read. None may run anything.
"""

import io
import pickletools
import random
import struct
import tarfile

from forged_files import (
    MAGIC,
    NUMBERS,
    archive,
    call,
    members_of,
    name,
    number,
    nvidia,
    pickled,
    state_dict,
    storage,
    stream,
    tensor,
    text,
    value,
    zipped,
)

OPS = {op.name: op.code.encode("latin-1") for op in pickletools.opcodes}
CONTAINERS = {
    "zip": archive,
    "stream": stream,
    "pickle": pickled,
    "bytes": lambda body: nvidia(held=stream(body, {"0": NUMBERS["0"]})),
}


# attacks: code


CALLS = [
    ("os", "system", "true"), ("posix", "system", "true"), ("nt", "system", "dir"),
    ("os", "popen", "true"), ("os", "execv", "/bin/true", ("true",)), ("os", "remove", "x"),
    ("builtins", "eval", "1+1"), ("__builtin__", "eval", "1+1"), ("builtins", "exec", "1"),
    ("builtins", "getattr", "x", "y"), ("builtins", "__import__", "antigravity"),
    ("builtins", "open", "written", "w"), ("builtins", "compile", "1", "x", "eval"),
    ("subprocess", "Popen", ["true"]), ("subprocess", "check_output", ["true"]),
    ("importlib", "import_module", "this"), ("runpy", "run_path", "x.py"),
    ("shutil", "rmtree", "x"), ("pickle", "loads", "x"), ("_pickle", "loads", "x"),
    ("torch", "load", "x"), ("torch.hub", "load", "x", "y"), ("numpy", "load", "x"),
    ("numpy.testing._private.utils", "runstring", "1", {}), ("socket", "create_connection", ("::1", 1)),
    ("urllib.request", "urlopen", "http://localhost"), ("webbrowser", "open", "x"),
    ("ctypes", "CDLL", "libc.so.6"), ("timeit", "timeit", "1"), ("types", "FunctionType", 1),
    ("operator", "attrgetter", "system"), ("functools", "partial", 1), ("pty", "spawn", "true"),
    ("multiprocessing.util", "spawnv_passfds", "true"), ("code", "interact", "x"),
    ("dnnlib.util", "call_func_by_name", "os.system"), ("dnnlib.util", "open_url", "http://localhost"),
    ("torch_utils.persistence", "_src_to_module", "raise SystemExit"), ("pip", "main", ["x"]),
    ("torch._utils", "_import_dotted_name", "os.system"),
    ("torch.jit", "load", "x"), ("torch.utils.collect_env", "run", "true"), ("sys", "exit", 0),
]  # fmt: skip

WAYS = {
    "reduce": lambda m, n, a: call(m, n, *a),
    "stack_global": lambda m, n, a: text(m) + text(n) + b"\x93" + value(a) + b"R",
    "inst": lambda m, n, a: b"(" + b"".join(map(value, a)) + f"i{m}\n{n}\n".encode(),
    "obj": lambda m, n, a: b"(" + name(m, n) + b"".join(map(value, a)) + b"o",
    "newobj": lambda m, n, a: name(m, n) + value(a) + b"\x81",
    "newobj_ex": lambda m, n, a: name(m, n) + value(a) + b"}\x92",
    "build": lambda m, n, a: (
        call("argparse", "Namespace") + value({"__setstate__": name(m, n)}) + b"b" + value(a) + b"b"
    ),
    "unused": lambda m, n, a: name(m, n) + b"0N",
    "key": lambda m, n, a: b"}" + call(m, n, *a) + b"Ns",
    "inside": lambda m, n, a: call("collections", "OrderedDict", [["x", call(m, n, *a)]]),
}


def attacks_with_code():
    for index, (module, attribute, *arguments) in enumerate(CALLS):
        for turn, (way, make) in enumerate(WAYS.items()):
            kind = list(CONTAINERS)[(index + turn) % len(CONTAINERS)]
            body = make(module, attribute, tuple(arguments))
            yield f"{way} {module}.{attribute} in {kind}", CONTAINERS[kind](body)
    getattr_chain = call("builtins", "getattr", name("torch", "FloatStorage"), "__class__")
    yield "getattr of a constant", archive(getattr_chain)
    yield "call of a constant", archive(name("torch", "FloatStorage") + b")R")
    yield "call of a text", archive(text("os.system") + value(("true",)) + b"R")
    yield "call of a tensor", archive(state_dict() + value(("weight",)) + b"R")
    yield "dotted name", archive(text("torch") + text("Size.__class__") + b"\x93)R")
    yield "name of numbers", archive(number(1) + number(2) + b"\x93)R")
    yield "no name", archive(b"\x93")
    for dunder in ("__class__", "__globals__", "__reduce__", "__init__"):
        yield f"attribute {dunder}", pickled(name("collections", f"OrderedDict.{dunder}"))


def attacks_with_instructions():
    """Every instruction that the reader does not know, in a place where pickle would take it."""
    arguments = {
        "EXT1": b"\x01", "EXT2": b"\1\0", "EXT4": b"\1\0\0\0", "PERSID": b"storage\n",
        "INT": b"1\n", "LONG": b"1L\n", "STRING": b"'x'\n", "UNICODE": b"x\n", "FLOAT": b"1.0\n",
        "GET": b"0\n", "PUT": b"0\n", "LONG4": b"\1\0\0\0\1", "BYTEARRAY8": b"\1" + b"\0" * 7 + b"x",
        "INST": b"os\nsystem\n", "FROZENSET": b"", "DUP": b"", "LIST": b"", "DICT": b"",
        "NEXT_BUFFER": b"", "READONLY_BUFFER": b"", "OBJ": b"", "NEWOBJ_EX": b"",
    }  # fmt: skip
    for opcode, more in arguments.items():
        yield f"instruction {opcode}", archive(b"N(" + OPS[opcode] + more)
    for code in sorted(set(range(256)) - {op[0] for op in OPS.values()})[::12]:
        yield f"unknown instruction {code}", stream(bytes([code]))


ODD = {
    "nothing": (),
    "a text": ("x",),
    "numbers": (1, 2, 3, 4, 5, 6),
    "nones": (None,) * 4,
    "a name": (name("collections", "OrderedDict"),),
    "tables": ({}, {}),
    "a list of lists": ([[1, 2, 3]],),
    "no tuple": None,
}
KNOWN = [
    ("collections", "OrderedDict"), ("torch", "Size"), ("torch", "device"), ("builtins", "set"),
    ("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"), ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch.storage", "_load_from_bytes"), ("torch.nn.parameter", "Parameter"),
    ("torch_utils.persistence", "_reconstruct_persistent_obj"), ("_codecs", "encode"),
    ("argparse", "Namespace"), ("copyreg", "_reconstructor"), ("numpy", "dtype"),
    ("numpy", "ndarray"), ("numpy.core.multiarray", "scalar"), ("builtins", "object"),
    ("numpy.core.multiarray", "_reconstruct"), ("torch.nn.modules.linear", "Linear"),
]  # fmt: skip
TAKES = {  # what would be an ordinary use
    "collections.OrderedDict": ("nothing",),
    "torch.device": ("a text",),
    "builtins.set": ("a list of lists",),
    "argparse.Namespace": ("nothing",),
    "torch.nn.modules.linear.Linear": ("nothing",),
}


def attacks_on_known_names():
    for module, attribute in KNOWN:
        for odd, arguments in ODD.items():
            if odd not in TAKES.get(f"{module}.{attribute}", ()):
                body = name(module, attribute) + value(arguments) + b"R"
                yield f"{odd} for {module}.{attribute}", pickled(body)
    for module, attribute in KNOWN[:6]:
        yield f"bare {module}.{attribute}", archive(name(module, attribute))
    states = {
        "a number": value(1),
        "a pair": value((None, {"x": 1})),
        "a name": name("torch", "Size"),
    }
    for label, state in states.items():
        for target in (b"}", b"]", call("argparse", "Namespace"), state_dict(), value("x")):
            yield f"state {label} for {target[:12]!r}", archive(target + state + b"b")


# attacks: tensors that lie


SHAPES = {
    "more than held": (0, (2, 4), (4, 1)),
    "offset beyond": (1, (2, 3), (3, 1)),
    "huge offset": (2**62, (1,), (1,)),
    "negative offset": (-1, (2,), (1,)),
    "negative size": (0, (-1, 3), (3, 1)),
    "two negative sizes": (0, (-2, -3), (3, 1)),
    "negative stride": (5, (6,), (-1,)),
    "huge size": (0, (2**40,), (1,)),
    "sizes that overflow": (0, (2**32, 2**32), (2**32, 1)),
    "sizes that overflow to 6": (0, (2**63, 2, 6), (12, 6, 1)),
    "a size of 70 bits": (0, (2**69,), (1,)),
    "huge stride": (0, (2, 3), (2**61, 1)),
    "stride 0": (0, (1000,), (0,)),
    "stride 0 beside": (0, (1000, 6), (0, 1)),
    "overlapping windows": (0, (5, 2), (1, 1)),
    "overlapping rows": (0, (2, 3), (2, 1)),
    "too few strides": (0, (2, 3), (3,)),
    "too many strides": (0, (6,), (3, 1)),
    "a thousand axes": (0, (1,) * 1000, (1,) * 1000),
    "nine axes": (0, (1,) * 9, (1,) * 9),
    "a text as size": (0, ("2", 3), (3, 1)),
    "a truth as size": (0, (True, 3), (3, 1)),
    "a nothing as size": (0, (None, 3), (3, 1)),
    "a list as size": (0, ([2], 3), (3, 1)),
    "a list of sizes": (0, [2, 3], [3, 1]),
    "empty with a huge size": (0, (0, 2**47, 2**47), (1, 1, 1)),
}


def attacks_with_tensors():
    for label, layout in SHAPES.items():
        for function in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            yield (
                f"{function} {label}",
                archive(tensor(storage("0", 6), *layout, function=function)),
            )
        yield f"{label} in stream", stream(tensor(storage("0", 6, stream=True), *layout))
    numels = (7, -1, 2**40, 2**62, 2**70, None, "6", True)
    for numel in numels:
        for kind in ("FloatStorage", "DoubleStorage"):
            yield f"{kind} of {numel}", archive(tensor(storage("0", numel, kind), 0, (1,), (1,)))
            body = tensor(storage("0", numel, kind, stream=True), 0, (1,), (1,))
            yield f"{kind} of {numel} in stream", stream(body)
    for kind in ("ComplexFloatStorage", "QInt8Storage", "StringStorage", "Storage", "Size", "load"):
        yield f"kind {kind}", archive(tensor(storage("0", 6, kind), 0, (6,), (1,)))
    for key in ("2", "../0", "", "0\0", "/etc/passwd", "x" * 10_000, 0, None):
        yield f"key {str(key)[:20]!r}", archive(tensor(storage(key, 6), 0, (6,), (1,)))
    long = "x" * 60_000  # joined and looked up again and again
    body = value(tensor(storage(long, 6), 0, (6,), (1,)))
    yield "a storage with a long key", archive(body, {long: NUMBERS["0"]})
    for identity in (None, 1, "storage", (), ("storage",), ("module", 1, 2, 3), ("x",) * 5):
        yield f"identity {identity}", archive(value(identity) + b"Q")
        yield f"identity {identity} in stream", stream(value(identity) + b"Q")
    yield "identity in a plain pickle", pickled(storage("0", 6) + b"0N")
    for view in ((), (1, 2, 3), ("v", -1, 3), ("v", 4, 3), ("v", 0, 2**62), "v", ("v", 0, None)):
        body = tensor(storage("0", 6, view=view, stream=True), 0, (3,), (1,))
        yield f"view {view}", stream(body, {"0": NUMBERS["0"]})
    body = tensor(storage("0", 6, view=("v", 0, 3), stream=True), 0, (6,), (1,))
    yield "tensor beyond its part", stream(body, {"0": NUMBERS["0"]})
    for function in (
        "_rebuild_sparse_tensor", "_rebuild_qtensor", "_rebuild_nested_tensor", "_rebuild_tensor_v3",
        "_rebuild_wrapper_subclass", "_rebuild_meta_tensor_no_storage",
        "_rebuild_device_tensor_from_numpy",
    ):  # fmt: skip
        yield function, archive(tensor(storage("0", 6), 0, (6,), (1,), function=function))
    both = [
        tensor(storage("0", 6), 0, (6,), (1,)),
        tensor(storage("0", 3, "DoubleStorage"), 0, (3,), (1,)),
    ]
    as_stream = [body.replace(b"tQ", b"NtQ") for body in both]
    yield "one storage as two kinds in stream", stream(value(as_stream), {"0": NUMBERS["0"]})
    yield (
        "one storage at two lengths in stream",
        stream(
            value([storage("0", 6, stream=True), storage("0", 5, stream=True)]), {"0": NUMBERS["0"]}
        ),
    )


def attacks_with_numpy():
    def dtype(code, order="<"):
        return (
            call("numpy", "dtype", code, 0, 1)
            + value((3, order, None, None, None, -1, -1, 0))
            + b"b"
        )

    def array(shape, data, code="f4", order="<", fortran=False, version=1):
        made = call(
            "numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), (0,), b"C\1b"
        )
        held = b"C" + bytes([len(data)]) + data if isinstance(data, bytes) else value(data)
        return made + value((version, shape, dtype(code, order), fortran, held)) + b"b"

    for code in ("O8", "O", "V4", "M8", "c8", "U1", "S1", "x" * 5000, ""):
        yield f"dtype {code[:9]}", pickled(array((1,), b"1234", code))
    yield "big-endian array", pickled(array((1,), b"1234", order=">"))
    yield "array of objects", pickled(array((1,), [name("os", "system")], "f4"))
    yield "array of a list", pickled(array((1,), [1], "f4"))
    yield "short array", pickled(array((2,), b"1234"))
    yield "huge array", pickled(array((2**40, 2**40), b"1234"))
    yield "negative array", pickled(array((-1,), b"1234"))
    yield "array of many axes", pickled(array((1,) * 50_000, b"1234"))
    yield "array of a text as shape", pickled(array(("x",), b"1234"))
    scalar = name("numpy.core.multiarray", "scalar")
    for label, data in {"short": b"C\1x", "long": b"C\x09123456789", "none": b"N"}.items():
        yield f"{label} scalar", pickled(scalar + b"(" + dtype("f8") + data + b"tR")
    yield "scalar of an object", pickled(scalar + b"(" + dtype("O8") + b"NtR")
    yield "array of six parts", pickled(array((1,), b"1234").replace(b"tb", b"Ntb"))
    made = call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), (0,), b"C\1b")
    yield "array without state", pickled(made)


# attacks: size, depth, sharing


def attacks_on_memory():
    huge = struct.pack("<I", 2**31 - 1), struct.pack("<I", 2**32 - 1), struct.pack("<Q", 2**63 - 1)
    for opcode in ("BINUNICODE", "BINBYTES", "BINSTRING"):
        for size in huge[:2]:
            yield f"{opcode} of {size.hex()}", archive(OPS[opcode] + size + b"x")
            yield f"{opcode} of {size.hex()} in stream", stream(OPS[opcode] + size + b"x")
    for opcode in ("BINUNICODE8", "BINBYTES8"):
        for size in (huge[2], b"\xff" * 8):
            yield f"{opcode} of {size.hex()}", archive(OPS[opcode] + size + b"x")
            yield f"{opcode} of {size.hex()} plain", pickled(OPS[opcode] + size + b"x")
    yield "frame of 2**63", pickled(b"\x95" + huge[2])
    for label, body in BOMBS.items():
        yield label, pickled(body)
    for depth in (66, 1000, 100_000):
        yield f"{depth} lists", archive(b"]" * depth + b"a" * (depth - 1))
        yield f"{depth} tuples", stream(b")" + b"\x85" * depth)
        yield f"{depth} tables", pickled((b"}" + text("k")) * depth + b"N" + b"s" * depth)
    options = name("argparse", "Namespace") + b"q\0"
    nested = (b"h\0)R}" + text("k")) * 20_000 + b"N" + b"sb" * 20_000
    yield "20000 objects", pickled(options + b"0" + nested)
    yield "list in itself", archive(b"]q\0h\0a")
    yield "list in itself many times", archive(b"]q\0(" + b"h\0" * 50_000 + b"e")
    yield "table in itself", stream(b"}q\0" + text("k") + b"h\0s")
    yield "list in itself through a tuple", pickled(b"]q\0h\0\x85a")
    yield (
        "object in itself",
        pickled(call("argparse", "Namespace") + b"q\0}" + text("k") + b"h\0sb"),
    )
    yield "memo of nothing", archive(b"h\7")
    yield "memo of nothing, far", archive(b"j\xff\xff\xff\xff")
    yield "key of nested tuples", pickled(b"}" + b")" + b"\x85" * 50 + b"Ns")
    yield "key that is a list", pickled(b"}]Ns")
    yield "key that is a number with a point", pickled(b"}G" + b"\0" * 8 + b"Ns")
    yield "key that is a tensor", archive(b"}" + tensor(storage("0", 6), 0, (6,), (1,)) + b"Ns")
    yield "integer of 255 bytes", pickled(b"\x8a\xff" + b"\x7f" * 255)
    yield "integer of 65 bits", pickled(number(2**64))
    many = value([tensor(storage("0", 6), 0, (6,), (1,))]) + b"q\0(" + b"h\0" * 100 + b"e"
    yield "list with a tensor in itself", archive(many)
    shared = tensor(storage("0", 2**16), 0, (2**16,), (1,)) + b"q\0"
    body = b"](" + shared + b"h\0" * 1000 + b"e"
    yield "one tensor a thousand times", archive(body, {"0": bytes(2**18)})


def _laughs():
    """Each list holds the one before ten times: 10**20 values in 1 kB."""
    body = b"](" + number(1) * 10 + b"e" + b"q\0"
    for level in range(1, 20):
        body += b"](" + (b"h" + bytes([level - 1])) * 10 + b"e" + b"q" + bytes([level])
    return body


def _table_laughs():
    body = b"}" + text("k") + b"Ns" + b"q\0"
    for level in range(1, 40):
        past = b"h" + bytes([level - 1])
        body += b"}(" + text("a") + past + text("b") + past + b"u" + b"q" + bytes([level])
    return body


MANY = 520_000  # just below the number of instructions that are carried out
PAIRS = value([[str(i), i] for i in range(2000)])
BOMBS = {
    "billion laughs": _laughs(),
    "billion laughs of tables": _table_laughs(),
    "lists": b"](" + b"]" * MANY + b"e",
    "tables": b"](" + (b"}K\1K\1s") * (MANY // 4) + b"e",
    "two million instructions": b"N0" * 2**20,
    "marks": b"(" * MANY,
    "memo": b"]" + b"\x94" * MANY + b"R",
    "memo of lists": b"]\x94" * (MANY // 2) + b"R",
    "byte strings": b"](" + b"C\0" * MANY + b"e",
    "wide text": text("x" * (2**24 - 1000) + "\U0001f600") + b"\x85" * 100,
    "much text": b"](" + text("x" * 10**6) * 40 + b"e",
    "one table made again and again": (
        PAIRS + b"\x85q\0" + name("collections", "OrderedDict") + b"q\1" + b"h\1h\0R0" * 200_000
    ),
    "one text encoded again and again": (
        value(("x" * 10**6, "latin1")) + b"q\0" + name("_codecs", "encode") + b"q\1"
        + b"h\1h\0R" * 200_000
    ),
    "one long name again and again": (
        text("torch.nn.modules." + "x" * 10**6) + b"q\0" + text("X") + b"q\1" + b"h\0h\1\x93" * 200_000
    ),
    "one long device again and again": (
        value(("x" * 10**6, 1)) + b"q\0" + name("torch", "device") + b"q\1" + b"h\1h\0R" * 200_000
    ),
    "one layer again and again": (
        name("torch.nn.modules.linear", "Linear") + b")Rq\0](" + b"h\0" * 400_000 + b"e"
    ),
    "one dictionary again and again": value({"a": 1}) + b"q\0](" + b"h\0" * 400_000 + b"e",
}  # fmt: skip


# attacks: containers


def attacks_with_zip():
    good, many = members_of(state_dict()), [("a/data.pkl", pickled(None))]

    def lie(**fields):
        return lambda title, own: own | (fields if str(title).endswith("data/0") else {})

    yield "deflated", zipped(good, method=8)
    bomb = members_of(state_dict(), {"0": bytes(10**7), "1": bytes(8)})
    yield "zip bomb", zipped(bomb, method=8)
    yield "zip bomb said to be stored", zipped(bomb, method=8, tweak=lambda _, f: f | {"method": 0})
    yield "claims a compressed size", zipped(good, tweak=lie(packed=10))
    yield "claims a huge size", zipped(good, tweak=lie(size=2**31, packed=2**31))
    yield "claims 4 GiB without zip64", zipped(good, tweak=lie(size=2**32 - 1, packed=2**32 - 1))
    wide = struct.pack("<2H2Q", 1, 16, 2**50, 2**50)
    yield (
        "claims 2**50 with zip64",
        zipped(good, tweak=lie(size=2**32 - 1, packed=2**32 - 1, extra=wide)),
    )
    yield "claims too little", zipped(good, tweak=lie(size=8, packed=8))
    yield (
        "cut zip64 field",
        zipped(good, tweak=lie(size=2**32 - 1, extra=struct.pack("<2H", 1, 16))),
    )
    pickle_lies = {"size": len(good[0][1]) - 1, "packed": len(good[0][1]) - 1}
    yield (
        "pickle that runs on behind its member",
        zipped(good, tweak=lambda t, f: f | (pickle_lies if t.endswith("pkl") else {})),
    )
    yield "encrypted", zipped(good, flags=1)
    yield "encrypted in the directory", zipped(good, tweak=lie(flags=1))
    yield "another method", zipped(good, tweak=lie(method=12))
    yield "overlapping members", zipped(good, tweak=lambda _, f: f | {"at": 0})
    yield (
        "overlapping storages",
        zipped(
            good,
            tweak=lambda t, f: f | ({"size": 60, "packed": 60} if t.endswith("data/0") else {}),
        ),
    )
    yield "local name differs", zipped(good, tweak=lie(name=b"archive/data/9"))
    yield (
        "local name of an unused member differs",
        zipped(
            good,
            tweak=lambda t, f: f | ({"name": b"archive/versiom"} if t.endswith("version") else {}),
        ),
    )
    yield "header far outside", zipped(good, tweak=lie(at=2**31))
    yield "header in the directory", zipped(good, tweak=lie(at=len(zipped(good)) - 100))
    yield "two members of one name", zipped([*good, good[2]])
    yield "two members of one name, counted once", zipped([*good, good[2]], entries=5)
    yield "two data.pkl", zipped([*good, ("other/data.pkl", pickled(None))])
    yield "no data.pkl", zipped(good[1:])
    yield "deep data.pkl", zipped([("a/b/data.pkl", pickled(None))])
    yield "no members", zipped([])
    for title in (
        "../evil", "archive/../../evil", "/etc/passwd", "archive\\evil", "archive/x\0y", "a/\n", "..",
        "archive/data/0\u202e", b"archive/\xff\xfe", "archive/\x1b[31m",
    ):  # fmt: skip
        yield f"member {title!r}", zipped([*good, (title, b"x")])
    yield "TorchScript by constants", zipped([*good, ("archive/constants.pkl", pickled(()))])
    yield "TorchScript by code", zipped([*good, ("archive/code/__torch__.py", b"import os")])
    yield "big-endian zip", zipped([good[0], ("archive/byteorder", b"big"), *good[2:]])
    yield "no byte order", zipped([good[0], ("archive/byteorder", b"x" * 10_000), *good[2:]])
    for count in (0, 1, 3, 6, 0xFFFF):
        yield f"claims {count} entries", zipped(good, entries=count)
    yield (
        "huge directory",
        zipped(
            many, tweak=lambda _, f: f | {"name": f["name"] + b"x" * 60_000, "extra": b"y" * 60_000}
        ),
    )
    yield (
        "extra fields without end",
        zipped(
            [(f"a/{i}", b"") for i in range(60)],
            tweak=lambda _, f: f | {"extra": b"\2\0\0\0" * 16_000},
        ),
    )
    titles = [(f"a/{i:05}" + "x" * 400, b"") for i in range(12_000)]
    yield "huge directory of many", zipped(many + titles)
    for field, size in (
        ("size", 2**31),
        ("size", 0),
        ("at", 2**31),
        ("at", 1),
        ("size", 2**32 - 1),
    ):
        yield f"end says {field} {size}", zipped(good, end={field: size})
        yield f"zip64 says {field} {size}", zipped(good, zip64={field: size})
        yield f"both say {field} {size}", zipped(good, zip64={field: size}, end={field: size})
    for field in ("size", "at", "count", "record"):
        yield (
            f"zip64 {field} of 2**63",
            zipped(good, zip64={field: 2**63}, end={"at": 2**32 - 1, "size": 2**32 - 1}),
        )
    yield "zip64 count of 2**40", zipped(good, zip64={"count": 2**40}, end={"count": 0xFFFF})
    yield "data behind the end", zipped(good) + b"x"
    yield "data before the start", b"PK\3\4" + b"x" * 100 + zipped(good)
    yield "zip in zip", zipped([("a/data.pkl", zipped(good))])
    quine = zipped([("a/data.pkl", b"")])
    yield (
        "zip that holds itself",
        zipped(
            [("a/data.pkl", quine)],
            tweak=lambda _, f: f | {"at": 0, "size": 2**20, "packed": 2**20},
        ),
    )
    yield "only an end", b"PK\5\6" + bytes(18)
    yield "only a start", b"PK\3\4"
    yield "a thousand zip heads", b"PK\3\4" * 1000


def attacks_with_streams():
    body = state_dict(stream=True)
    yield "big-endian stream", stream(body, little=False)
    yield "unknown version", stream(body, version=1002)
    yield "system is a list", stream(body).replace(pickled(1001), pickled(1001) + pickled([]), 1)
    for keys in ([], ["0"], ["0", "0"], ["0", "1", "2"], ["1", "x"], [0, 1], "01", None, {"0": 1}):
        yield f"keys {keys}", stream(body, keys=value(keys) if keys is None else keys)
    for count in (-1, 0, 5, 7, 2**40, -(2**63), 2**63 - 1):
        yield f"numbers {count}", stream(body, counts={"0": count, "1": 2})
    short = tensor(storage("0", 6, stream=True), 0, (5,), (1,))
    yield "fewer numbers than the storage has", stream(short, {"0": NUMBERS["0"][:20]})
    yield "no numbers", stream(body, {}, keys=["0", "1"])
    yield "magic alone", pickled(MAGIC)
    yield "magic twice", pickled(MAGIC) * 2
    yield "magic many times", pickled(MAGIC) * 1000
    yield (
        "bytes in bytes",
        nvidia(held=stream(call("torch.storage", "_load_from_bytes", b"C\1x"), {})),
    )
    yield "bytes that are a zip", nvidia(held=archive(storage("0", 6)))
    yield "bytes that are a table", nvidia(held=stream(body))
    yield "bytes that are nothing", nvidia(held=b"")
    yield "bytes that are text", nvidia(held=b"x" * 1000)
    yield "bytes that are cut", nvidia(held=stream(storage("0", 6, stream=True))[:-9])
    yield "bytes that run", nvidia(held=stream(call("os", "system", "true"), {}))
    for part in ("type", "class_name", "state"):
        meta = {"type": "class", "version": 6, "class_name": "G", "module_src": "", "state": {}}
        yield (
            f"persistent without {part}",
            nvidia(meta={k: v for k, v in meta.items() if k != part}),
        )
        yield f"persistent with a list as {part}", nvidia(meta=meta | {part: [1]})
    yield "persistent that refers", nvidia(state=name("os", "system"))
    yield "persistent that runs", nvidia(state=call("os", "system", "true"))


def attacks_with_other_files():
    rng = random.Random(1)
    yield "empty", b""
    yield "one byte", b"\x80"
    yield "text", b"import os\nos.system('true')\n"
    yield "page", b"<!DOCTYPE html><html>Not found</html>"
    yield "text pickle", b"cos\nsystem\n(S'true'\ntR."
    yield "text pickle of a number", b"I1\n."
    yield "stop", b"\x80\x02."
    yield "stop alone", b"."
    for size in (1, 10, 1000, 100_000):
        yield f"{size} random bytes", rng.randbytes(size)
        yield f"{size} random bytes as pickle", b"\x80\x02" + rng.randbytes(size)
        yield f"{size} zeros", bytes(size)
    for protocol in (6, 255):
        yield f"protocol {protocol}", b"\x80" + bytes([protocol]) + b"N."
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for title in ("sys_info", "pickle", "tensors", "storages"):
            tar.addfile(tarfile.TarInfo(title))
    yield "tar", made.getvalue()
    for raw in (b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5\x80\x80\x80"):
        yield f"bad UTF-8 {raw.hex()}", pickled(text(raw))
        yield f"bad UTF-8 name {raw.hex()}", pickled(b"c" + raw + b"\nx\n")
    yield "name without an end", pickled(b"c" + b"x" * 100_000)
    yield "name of two lines that end", pickled(b"cos\n")
    yield "name with colours", pickled(text("os\x1b[31m\n") + text("system\r\n") + b"\x93)R")
    yield "long name", pickled(text("o" * 10**6) + text("s" * 10**6) + b"\x93)R")
    for code in ("REDUCE", "BUILD", "NEWOBJ", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "TUPLE",
                 "TUPLE1", "TUPLE3", "POP", "POP_MARK", "BINPERSID", "STACK_GLOBAL", "ADDITEMS",
                 "MEMOIZE", "STOP"):  # fmt: skip
        yield f"{code} of nothing", pickled(OPS[code])
        if code not in ("TUPLE", "POP_MARK"):
            yield f"{code} above a mark", pickled(b"N(" + OPS[code])
    yield "append to a tuple", pickled(b")Na")
    yield "append to an object", pickled(call("argparse", "Namespace") + b"Na")
    yield "set in a list", pickled(b"]NNs")
    yield "odd table", pickled(b"}(NNNu")


# damage


def damaged():
    rng = random.Random(2)
    whole = {
        "zip": archive(state_dict()),
        "stream": stream(state_dict(stream=True)),
        "pickle": nvidia(),
    }
    for kind, data in whole.items():
        for step in range(60):
            yield f"{kind} cut at {step}/60", data[: len(data) * step // 60]
        for turn in range(120):
            spoilt = bytearray(data)
            for _ in range(1 + turn % 3):
                spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            yield f"{kind} with flipped bits, {turn}", bytes(spoilt)
        for turn in range(40):
            at, size = rng.randrange(len(data)), rng.randrange(1, 20)
            yield f"{kind} with a hole, {turn}", data[:at] + data[at + size :]
            yield f"{kind} with a repeat, {turn}", data[: at + size] + data[at:]


PIECES = [
    *(OPS[code] for code in (
        "NONE", "NEWTRUE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET", "EMPTY_TUPLE", "MARK", "TUPLE",
        "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ", "BUILD", "APPEND", "APPENDS", "ADDITEMS",
        "SETITEM", "SETITEMS", "MEMOIZE", "POP", "BINPERSID",
    )),
    *(b"q\0", b"q\1", b"h\0", b"h\1", b"C\4abcd", text("0"), text("f4"), text("storage")),
    *(value(plain) for plain in (3, -1, (2, 3), (3, 1), {}, {"a": 1}, [["a", 1]], (3, "<", None))),
    *(name(module, attribute) for module, attribute in KNOWN),
    *(name("torch", "FloatStorage"), storage("0", 6), storage("0", 6, stream=True)),
    *(tensor(storage("0", 6), 0, (2, 3), (3, 1)), call("numpy", "dtype", "f4", 0, 1)),
]  # fmt: skip


def random_programs():
    """Known instructions in any order, which is what finds the errors that nobody thought of."""
    rng = random.Random(3)
    for turn in range(1500):
        body = b"".join(rng.choices(PIECES, k=rng.randrange(1, 20)))
        kind = rng.choice(list(CONTAINERS))
        yield f"random program {turn} in {kind}", CONTAINERS[kind](body)


def harmless():
    yield "zip", archive(state_dict())
    yield "zip with zip64", archive(state_dict(), zip64={})
    full = {"at": 2**32 - 1, "size": 2**32 - 1, "count": 0xFFFF}
    yield "zip with zip64 only", archive(state_dict(), zip64={}, end=full)
    wide = {
        "size": 2**32 - 1,
        "packed": 2**32 - 1,
        "extra": struct.pack("<4H2Q", 9, 0, 1, 16, 24, 24),
    }
    yield (
        "zip with wide sizes",
        archive(state_dict(), tweak=lambda t, f: f | (wide if t.endswith("data/0") else {})),
    )
    yield "stream", stream(state_dict(stream=True))
    yield "pickle", nvidia()
    yield "source that would exit", nvidia(source="raise SystemExit(3)")
    yield "source that would run", nvidia(source="import os\nos.system('true')\n" * 1000)
    yield "source that is no Python", nvidia(source="\0" * 1000)
    yield "layer", archive(call("torch.nn.modules.linear", "Linear") + value({"a": 1}) + b"b")
    yield "magic number as a value", archive(value([MAGIC]))
    yield "made-up layer", archive(name("torch.nn.modules.os", "system") + b")\x81")


def files():
    """All (name, bytes), the same on every call."""
    groups = {
        "attack": (
            attacks_with_code, attacks_with_instructions, attacks_on_known_names,
            attacks_with_tensors, attacks_with_numpy, attacks_on_memory, attacks_with_zip,
            attacks_with_streams, attacks_with_other_files,
        ),
        "damage": (damaged, random_programs),
        "harmless": (harmless,),
    }  # fmt: skip
    return [
        (f"{word} {label}", data)
        for word, makers in groups.items()
        for make in makers
        for label, data in make()
    ]
