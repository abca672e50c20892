"""Read the tensors' names, shapes and dtypes out of a checkpoint's pickle without running any of it.

A pickle is a program for a small stack machine. This one knows the opcodes that `torch.save` writes and no others; it
imports nothing and calls nothing: a class is a pair of strings, a call is a record of what would have been called, and
only the calls that rebuild a tensor are understood. No size in the file is believed before the bytes are there.
"""

import dataclasses
import io
import math
import operator
import pickletools
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

MOST_BYTES = 16 * 2**20  # a state dict takes about 200 bytes a tensor: room for 80,000 tensors
MOST_ON_STACK = 50_000
MOST_OPCODES = 3_000_000  # about 35 a tensor; without it 16 MB of empty dicts would take a gigabyte

DTYPES = {  # name -> bytes an element
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "complex128": 16, "complex64": 8, "complex32": 4,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "uint16": 2, "uint32": 4, "uint64": 8, "bool": 1,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "qint8": 1, "quint8": 1, "qint32": 4,
}  # fmt: skip
_STORAGE_DTYPES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64", "LongStorage": "int64",
    "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "QInt8Storage": "qint8", "QUInt8Storage": "quint8", "QInt32Storage": "qint32",
    "UntypedStorage": "uint8",
}  # fmt: skip


class Global(NamedTuple):
    """The name of a class or function, never the thing."""

    module: str
    name: str


class Storage(NamedTuple):
    """A run of bytes beside the pickle, by its key."""

    dtype: str
    key: str
    nbytes: int


class FileTensor(NamedTuple):
    """What a checkpoint says about one tensor; `nbytes` is what it takes there, scales and indices included."""

    shape: tuple[int, ...]
    dtype: str
    numel: int
    nbytes: int
    storage: Storage | None = None
    place: tuple[object, ...] = ()  # equal for two names of one tensor
    is_parameter: bool | None = None  # None: a file that holds plain tensors cannot tell
    requires_grad: bool | None = None


@dataclasses.dataclass(slots=True)
class Opaque:
    """A call that was not made: what would have been called, with what, and the state it would have been given."""

    function: object
    arguments: object
    state: object = None


def read_pickle(data: bytes, start: int = 0) -> tuple[object, int]:
    """Return what a pickle would build, made of inert values, and the position behind it.

    Raises:
        ValueError: the bytes are cut off, or hold something that `torch.save` does not write.
    """
    try:
        return _run(data, start)
    except (IndexError, KeyError):  # the data, the stack or the memo has not what an opcode takes
        raise ValueError("its pickle is cut off or damaged") from None
    except UnicodeDecodeError:
        raise ValueError("its pickle holds text that is not UTF-8") from None


def _run(data: bytes, at: int) -> tuple[object, int]:
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, object] = {}  # not a list: an index of 2**31 costs no more than one of 0
    push, file = stack.append, io.BytesIO(data)
    # This loop is the whole time of a count. What most of a pickle consists of is decoded here, the rest by pickletools,
    # whose generator over all opcodes would take as long as everything else together.
    for number in range(MOST_OPCODES):
        code = data[at]
        at += 1
        if code == 0x72:  # LONG_BINPUT
            memo[int.from_bytes(data[at : at + 4], "little")] = stack[-1]
            at += 4
        elif code == 0x68:  # BINGET
            push(memo[data[at]])
            at += 1
        elif code == 0x58:  # BINUNICODE; a slice never reaches beyond the data
            end = at + 4 + int.from_bytes(data[at : at + 4], "little")
            push(data[at + 4 : end].decode("utf-8", "surrogatepass"))
            at = end
        elif code == 0x6A:  # LONG_BINGET
            push(memo[int.from_bytes(data[at : at + 4], "little")])
            at += 4
        elif code == 0x4B:  # BININT1
            push(data[at])
            at += 1
        elif code == 0x28:  # MARK
            marks.append(len(stack))
        elif code == 0x71:  # BINPUT
            memo[data[at]] = stack[-1]
            at += 1
        elif code == 0x74:  # TUPLE
            start = marks.pop()
            stack[start:] = [tuple(stack[start:])]
        elif code in _ACTIONS:
            _ACTIONS[code](stack, marks)
        elif code == 0x2E:  # STOP
            return stack.pop(), at
        elif code == 0x94:  # MEMOIZE
            memo[len(memo)] = stack[-1]
        else:
            value, at = _decoded(file, at, code)
            if code not in (0x80, 0x95):  # PROTO, FRAME
                push(value)
        if not number & 1023:  # an opcode pushes at most one value
            _check_size(len(stack), len(marks))
    raise ValueError(f"its pickle has more than {MOST_OPCODES:,} opcodes")


def _check_size(values: int, marks: int) -> None:
    if max(values, marks) > MOST_ON_STACK:
        raise ValueError(f"its pickle nests more than {MOST_ON_STACK:,} values")


_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_READ = frozenset((
    "SHORT_BINUNICODE", "BINUNICODE8", "BININT", "BININT2", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "LONG1", "LONG4", "GLOBAL", "PROTO", "FRAME",
))  # fmt: skip


def _decoded(file: io.BytesIO, at: int, code: int) -> tuple[Any, int]:
    """Return the argument of an opcode and the position behind it."""
    opcode = _OPCODES.get(code)
    if opcode is None or opcode.arg is None or opcode.name not in _READ:
        raise ValueError(f"its pickle holds opcode 0x{code:02x}, which torch.save does not write")
    file.seek(at)
    try:
        value: Any = opcode.arg.reader(file)
    except UnicodeDecodeError:
        raise
    except (ValueError, struct.error):
        raise ValueError("its pickle is cut off or damaged") from None
    if opcode.name == "GLOBAL":
        module, _, name = value.partition(" ")
        value = Global(module, name)
    elif isinstance(value, int) and value.bit_length() > 2040:
        raise ValueError(f"its pickle holds an integer of {value.bit_length() // 8 + 1:,} bytes")
    return value, file.tell()


def _pop(stack: list[Any], count: int) -> list[Any]:
    if count > len(stack):
        raise IndexError
    values = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return values


def _to_mark(stack: list[Any], marks: list[int]) -> list[Any]:
    return _pop(stack, max(len(stack) - marks.pop(), 0))


def _tuple(count: int) -> Callable[[list[Any], list[int]], None]:
    def build(stack: list[Any], marks: list[int]) -> None:
        if len(stack) < count:
            raise IndexError
        stack[-count:] = [tuple(stack[-count:])]

    return build


def _constant(make: Callable[[], object]) -> Callable[[list[Any], list[int]], None]:
    return lambda stack, marks: stack.append(make())


def _reduce(stack: list[Any], marks: list[int]) -> None:
    function, arguments = _pop(stack, 2)
    stack.append(_call(function, arguments))


def _new_with_keywords(stack: list[Any], marks: list[int]) -> None:
    function, arguments, keywords = _pop(stack, 3)
    stack.append(Opaque(function, arguments, keywords))


def _set(stack: list[Any], items: list[Any]) -> None:
    _set_items(stack[-1], items)


def _append(stack: list[Any], items: list[Any]) -> None:
    if isinstance(stack[-1], list):
        stack[-1].extend(items)


def _build(stack: list[Any], marks: list[int]) -> None:
    (state,) = _pop(stack, 1)
    if isinstance(stack[-1], Opaque):
        stack[-1].state = state


def _stack_global(stack: list[Any], marks: list[int]) -> None:
    module, name = _pop(stack, 2)
    stack.append(Global(str(module)[:200], str(name)[:200]) if isinstance(module, str) else Opaque(None, None))


_ACTION_OF: dict[str, Callable[[list[Any], list[int]], object]] = {  # the opcodes that read only the stack
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "EMPTY_TUPLE": _constant(tuple),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_LIST": _constant(list),
    "EMPTY_SET": _constant(list),  # what is in it need not be hashed
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "BINPERSID": lambda stack, marks: stack.append(_storage(stack.pop())),
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_with_keywords,
    "BUILD": _build,
    "STACK_GLOBAL": _stack_global,
    "SETITEM": lambda stack, marks: _set(stack, _pop(stack, 2)),
    "SETITEMS": lambda stack, marks: _set(stack, _to_mark(stack, marks)),
    "APPEND": lambda stack, marks: _append(stack, _pop(stack, 1)),
    "APPENDS": lambda stack, marks: _append(stack, _to_mark(stack, marks)),
    "ADDITEMS": lambda stack, marks: _append(stack, _to_mark(stack, marks)),
    "FROZENSET": lambda stack, marks: stack.append(_to_mark(stack, marks)),
    "POP": lambda stack, marks: _pop(stack, 1),
    "POP_MARK": _to_mark,
    "DUP": lambda stack, marks: stack.append(stack[-1]),
}
_ACTIONS = {code: _ACTION_OF[opcode.name] for code, opcode in _OPCODES.items() if opcode.name in _ACTION_OF}


def _set_items(target: object, items: list[Any]) -> None:
    if not isinstance(target, dict) or len(items) % 2:
        return
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Only these keys are hashed: hashing a tuple nested a million deep would end the process.
        plain = type(key) in (str, int, float, bool, bytes) or key is None
        target[key if plain else f"<key {len(target)}>"] = value


def _storage(identity: object) -> Storage | Opaque:
    if isinstance(identity, tuple) and len(identity) >= 5:
        _, kind, key, _, numel, *_ = identity
        dtype = _STORAGE_DTYPES.get(kind.name) if isinstance(kind, Global) else None
        if dtype is not None and isinstance(key, str) and type(numel) is int and numel >= 0:
            return Storage(dtype, key, numel * DTYPES[dtype])
    return Opaque(None, identity)


def _call(function: object, arguments: object) -> object:
    """Understand the calls that rebuild a tensor or an ordered dict; record every other."""
    if isinstance(function, Global) and isinstance(arguments, tuple):
        if function == ("collections", "OrderedDict"):
            ordered: dict[object, object] = {}
            if arguments and isinstance(arguments[0], list):  # the way of protocol 0 and 1
                for pair in arguments[0]:
                    _set_items(ordered, list(pair) if isinstance(pair, (list, tuple)) and len(pair) == 2 else [])
            return ordered
        if function.module in ("torch._utils", "torch._tensor") and function.name.startswith("_rebuild"):
            rebuild = _REBUILD.get(function.name)
            made = rebuild(arguments) if rebuild else None
            if made is None:  # silently leaving out a tensor would be worse than no count
                raise ValueError(f"its pickle rebuilds a tensor by {function.name} in a way that is not understood")
            return made
    return Opaque(function, arguments)


def _dense(arguments: tuple[Any, ...]) -> FileTensor | None:
    storage, offset, size, stride, *rest = arguments if len(arguments) > 3 else (None, 0, (), ())
    if not isinstance(storage, Storage):
        return None
    dtype = storage.dtype
    if rest and isinstance(rest[-1], Global) and rest[-1].module == "torch":  # v3 names the dtype itself
        dtype = rest[-1].name
    itemsize = DTYPES.get(dtype)
    if itemsize is None or not _whole((offset,)) or not _whole(size) or not _whole(stride) or len(size) != len(stride):
        raise ValueError("its pickle describes a tensor that cannot be")
    numel = _elements(size)
    last = offset + sum(map(operator.mul, size, stride)) - sum(stride) if numel else -1
    if (last + 1) * itemsize > storage.nbytes:
        raise ValueError(f"its pickle describes a tensor of shape {size} that reaches beyond its storage")
    requires_grad = rest[0] if rest and isinstance(rest[0], bool) else None
    place = (storage.key, offset, size, stride, dtype)
    return FileTensor(size, dtype, numel, numel * itemsize, storage, place, None, requires_grad)


def _parameter(arguments: tuple[Any, ...]) -> FileTensor | None:
    match arguments:
        case (FileTensor() as data, bool(requires_grad), *_):
            return data._replace(is_parameter=True, requires_grad=requires_grad)
    return None


def _sparse(arguments: tuple[Any, ...]) -> FileTensor | None:
    if len(arguments) < 2 or not isinstance(arguments[1], tuple):
        return None
    dense = [part for part in arguments[1] if isinstance(part, FileTensor)]
    for part in arguments[1]:
        match part:
            case Opaque(Global("torch", "Size"), (tuple(size),)) if dense and _whole(size):
                nbytes = sum(inner.nbytes for inner in dense)
                return FileTensor(size, dense[-1].dtype, _elements(size), nbytes)
    return None


def _meta(arguments: tuple[Any, ...]) -> FileTensor | None:
    match arguments:
        case (Global("torch", dtype), tuple(size), *_) if dtype in DTYPES and _whole(size):
            return FileTensor(size, dtype, _elements(size), 0)
    return None


def _from_type(arguments: tuple[Any, ...]) -> FileTensor | None:
    match arguments:
        case (Global() as function, _, tuple(inner), *_) if function.name != "_rebuild_from_type_v2":
            made = _call(function, inner)
            return made if isinstance(made, FileTensor) else None
    return None


_REBUILD = {
    "_rebuild_tensor": _dense,
    "_rebuild_tensor_v2": _dense,
    "_rebuild_tensor_v3": _dense,
    "_rebuild_qtensor": _dense,
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
    "_rebuild_sparse_tensor": _sparse,
    "_rebuild_meta_tensor_no_storage": _meta,
    "_rebuild_from_type_v2": _from_type,
}


def _whole(values: object) -> bool:
    if type(values) is not tuple or len(values) > 64:
        return False
    return all([type(value) is int and 0 <= value < 2**62 for value in values])  # noqa: C419 (twice as fast)


def _elements(size: tuple[int, ...]) -> int:
    numel = math.prod(size)
    if numel >= 2**63:  # torch counts elements in 64 bits
        raise ValueError("its pickle describes a tensor that cannot be")
    return numel
