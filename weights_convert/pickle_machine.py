"""A pickle reader that cannot run anything: a closed list of instructions over inert values.

Nothing that a pickle names is imported or called. A name becomes what a table of ours has for it
(a `Function`, whose `call` is our code, or a constant), and a name outside the table ends the
reading. Byte strings stay in the file, as windows, because they can be whole networks.
"""

import pickletools
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from weights_convert.file_window import CUT_SHORT, FormatError, Window

CODES = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
NAMES = {code: name for name, code in CODES.items()}
_KEY_TYPES = (str, int, bool, type(None))  # a nested tuple would take exponential time to hash
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # opens the older format; the only integer above 64 bits


@dataclass(frozen=True, slots=True)
class Function:
    """What stands for a name that a pickle may call.

    `signatures` lists the argument types that real files have; an empty list means that the name
    is only ever an argument itself.
    """

    name: str
    call: Callable[..., Any]
    signatures: tuple[tuple[type, ...], ...] = ()

    def invoke(self, arguments: Any) -> Any:
        """Calls our code, with arguments of the known types only."""
        if not isinstance(arguments, tuple) or not any(
            len(arguments) == len(types) and all(map(isinstance, arguments, types))
            for types in self.signatures
        ):
            raise FormatError(f"calls {self.name} with arguments that PyTorch never writes")
        return self.call(*arguments)


class Unfinished(ABC):
    """An object that a pickle may still give its state (instruction BUILD)."""

    __slots__ = ()

    @abstractmethod
    def build(self, state: Any) -> None:
        """Takes the state; called as often as the file says."""

    @abstractmethod
    def finish(self) -> Any:
        """The value, asked for once the whole pickle is read."""


class PickleMachine:
    """Runs one pickle from a window.

    Args:
      window: read from its position on; afterwards the position is behind the pickle.
      find: (module, name) -> the inert thing it stands for, or FormatError.
      load: persistent id -> value, or FormatError.
    """

    def __init__(
        self, window: Window, find: Callable[[str, str], Any], load: Callable[[Any], Any]
    ) -> None:
        self.window = window
        self.find = find
        self.load = load
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The pickled value, of plain containers, `Unfinished` and what `find` and `load` gave."""
        while True:
            self.window.allowance.spend_instructions()
            code = self.window.take(1)[0]
            if code == CODES["STOP"]:
                return self.pop()
            if code not in _STEPS:
                name = NAMES.get(code, hex(code))
                raise FormatError(f"has the pickle instruction {name}, which no weight file needs")
            _STEPS[code](self)

    def pop(self) -> Any:
        """Takes the top of the stack."""
        if not self.stack:
            raise FormatError(CUT_SHORT)
        return self.stack.pop()

    def top(self, kind: type) -> Any:
        """The top of the stack, which must be of this type and stays there."""
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise FormatError(CUT_SHORT)
        return self.stack[-1]

    def pop_marked(self) -> list[Any]:
        """Takes everything above the last mark."""
        if not self.marked:
            raise FormatError(CUT_SHORT)
        items, self.stack = self.stack, self.marked.pop()
        return items

    def number(self, form: str) -> Any:
        """Reads one number in the notation of `struct`."""
        return struct.unpack(form, self.window.take(struct.calcsize(form)))[0]


def _mark(machine: PickleMachine) -> None:
    machine.marked.append(machine.stack)
    machine.stack = []


def _protocol(machine: PickleMachine) -> None:
    if machine.number("<B") > 5:
        raise FormatError(CUT_SHORT)


def _push(make: Callable[[], Any]) -> Callable[[PickleMachine], None]:
    return lambda machine: machine.stack.append(make())


def _push_number(form: str) -> Callable[[PickleMachine], None]:
    return lambda machine: machine.stack.append(machine.number(form))


def _long(machine: PickleMachine) -> None:
    value = int.from_bytes(machine.window.take(machine.number("<B")), "little", signed=True)
    if not -(2**63) <= value < 2**64 and value != MAGIC_NUMBER:
        raise FormatError("holds an integer of more than 64 bits")
    machine.stack.append(value)


def _text(length: str) -> Callable[[PickleMachine], None]:
    def step(machine: PickleMachine) -> None:
        machine.stack.append(decoded(machine.window.take(machine.number(length))))

    return step


def decoded(raw: bytes) -> str:
    """UTF-8 text; Python 2 wrote its strings as bytes, which are ASCII in real files."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise FormatError("is damaged: it has a text that is not UTF-8") from None


def _bytes(length: str) -> Callable[[PickleMachine], None]:
    return lambda machine: machine.stack.append(machine.window.take_part(machine.number(length)))


def _last(count: int) -> Callable[[PickleMachine], None]:
    def step(machine: PickleMachine) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(items)))

    return step


def _tuple(machine: PickleMachine) -> None:
    items = machine.pop_marked()
    machine.stack.append(tuple(items))


def _extend(machine: PickleMachine, items: list[Any]) -> None:
    machine.top(list).extend(items)


def _update(machine: PickleMachine, items: list[Any]) -> None:
    target = machine.top(dict)
    if len(items) % 2:
        raise FormatError(CUT_SHORT)
    for key, value in zip(items[::2], items[1::2], strict=True):
        if type(key) not in _KEY_TYPES:
            raise FormatError(f"has a table with a key of type {type(key).__name__}")
        target[key] = value


def _put(machine: PickleMachine, index: int) -> None:
    machine.memo[index] = machine.top(object)


def _get(length: str) -> Callable[[PickleMachine], None]:
    def step(machine: PickleMachine) -> None:
        index = machine.number(length)
        if index not in machine.memo:
            raise FormatError(CUT_SHORT)
        machine.stack.append(machine.memo[index])

    return step


def _stack_global(machine: PickleMachine) -> None:
    name, module = machine.pop(), machine.pop()
    if type(module) is not str or type(name) is not str:
        raise FormatError(CUT_SHORT)
    machine.stack.append(machine.find(module, name))


def _global(machine: PickleMachine) -> None:
    module = decoded(machine.window.take_line())
    machine.stack.append(machine.find(module, decoded(machine.window.take_line())))


def _call(machine: PickleMachine) -> None:
    arguments, function = machine.pop(), machine.pop()
    if not isinstance(function, Function):
        raise FormatError(CUT_SHORT)
    machine.stack.append(function.invoke(arguments))


def _build(machine: PickleMachine) -> None:
    state, target = machine.pop(), machine.top(object)
    if isinstance(target, Unfinished):
        target.build(state)
    elif type(target) is not dict or type(state) is not dict:
        raise FormatError(CUT_SHORT)
    # a dict's own state is the `_metadata` of a state_dict: versions of modules, not weights


_STEPS: dict[int, Callable[[PickleMachine], None]] = {
    CODES[name]: step
    for name, step in {
        "PROTO": _protocol,
        "FRAME": lambda machine: machine.number("<Q"),  # a hint for buffering; the window bounds us
        "MARK": _mark,
        "POP": PickleMachine.pop,
        "POP_MARK": PickleMachine.pop_marked,
        "NONE": _push(lambda: None),
        "NEWTRUE": _push(lambda: True),
        "NEWFALSE": _push(lambda: False),
        "BININT": _push_number("<i"),
        "BININT1": _push_number("<B"),
        "BININT2": _push_number("<H"),
        "BINFLOAT": _push_number(">d"),
        "LONG1": _long,
        "BINSTRING": _text("<i"),
        "SHORT_BINSTRING": _text("<B"),
        "SHORT_BINUNICODE": _text("<B"),
        "BINUNICODE": _text("<I"),
        "BINUNICODE8": _text("<Q"),
        "SHORT_BINBYTES": _bytes("<B"),
        "BINBYTES": _bytes("<I"),
        "BINBYTES8": _bytes("<Q"),
        "EMPTY_LIST": _push(list),
        "EMPTY_SET": _push(list),  # the order in the file is kept; nothing of ours looks members up
        "APPEND": lambda machine: _extend(machine, [machine.pop()]),
        "APPENDS": lambda machine: _extend(machine, machine.pop_marked()),
        "ADDITEMS": lambda machine: _extend(machine, machine.pop_marked()),
        "EMPTY_TUPLE": _push(tuple),
        "TUPLE1": _last(1),
        "TUPLE2": _last(2),
        "TUPLE3": _last(3),
        "TUPLE": _tuple,
        "EMPTY_DICT": _push(dict),
        "SETITEM": lambda machine: _update(machine, [machine.pop(), machine.pop()][::-1]),
        "SETITEMS": lambda machine: _update(machine, machine.pop_marked()),
        "BINPUT": lambda machine: _put(machine, machine.number("<B")),
        "LONG_BINPUT": lambda machine: _put(machine, machine.number("<I")),
        "MEMOIZE": lambda machine: _put(machine, len(machine.memo)),
        "BINGET": _get("<B"),
        "LONG_BINGET": _get("<I"),
        "GLOBAL": _global,
        "STACK_GLOBAL": _stack_global,
        "REDUCE": _call,
        "NEWOBJ": _call,  # to make an object is to call its class
        "BUILD": _build,
        "BINPERSID": lambda machine: machine.stack.append(machine.load(machine.pop())),
    }.items()
}
