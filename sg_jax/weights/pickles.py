"""Files of torch.save, read without torch, by an unpickler that runs no foreign code.

A pickle is a program: it names functions and calls them. This unpickler knows a few names, gives
each a function of its own, and refuses the others, so that nothing else can be called. It knows
tensors, storages, dictionaries and plain values. Some classes that trainers store with the
weights become placeholders, which hold nothing. Both formats of torch.save are read: the zip
archive, and the row of pickles from before version 1.6.
"""

import io
import pickle
import zipfile
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, ClassVar, Protocol

import numpy as np

from sg_jax.weights.tensors import DTYPES, Budget, Storage, Tensor

LEGACY = 0x1950A86A20F9469CFC6C  # the first value in a row of pickles
LEGACY_START = pickle.dumps(LEGACY, protocol=2)
VERSION = 1001  # the second one
STORED = zipfile.ZIP_STORED
PAIR = 128  # bytes that a dictionary takes for each of its pairs

STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
    "Float8_e4m3fnStorage": "F8_E4M3",
    "Float8_e5m2Storage": "F8_E5M2",
}
BUILTINS = (
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "object",
    "long", "range", "set", "slice", "str", "tuple", "unicode", "xrange",
)  # fmt: skip
HELD_BACK = (  # packages and names whose values become placeholders
    "_codecs.encode", "argparse.Namespace", "collections.", "datetime.", "lightning.", "numpy.",
    "omegaconf.", "pathlib.", "pytorch_lightning.", "torch.device", "torch.dtype",
    "torch.serialization._get_layout", "typing.Any",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in BUILTINS),
)  # fmt: skip
TORCH_TYPES = {
    f"torch.{name}"
    for name in ("bfloat16", "bool", "float16", "float32", "float64", "int32", "int64", "uint8")
}


class Unknown(ValueError):
    """A pickle names something that this unpickler does not call."""


class Placeholder:
    """A stand-in for a value that is not read."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "Placeholder":
        return super().__new__(cls)

    def ignore(self, *_args: Any) -> None:
        """Take what a pickle would add, and drop it."""

    append = extend = add = __setitem__ = ignore


class Readable(Protocol):
    """What an unpickler reads from."""

    def read(self, length: int, /) -> bytes:
        """Return at most `length` bytes."""

    def readline(self) -> bytes:
        """Return a line, which has an end."""


class Unpickler(pickle._Unpickler):
    """Unpickle tensors, dictionaries and plain values, and call nothing else.

    Made from the one in Python, because ten bytes make the one in C allocate a table of any size.

    Args:
      file: where the pickle is.
      budget: of the whole file.
      storage: finds or makes the storage of (type, key, count).
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(
        self, file: Readable, budget: Budget, storage: Callable[[np.dtype, str, int], Storage]
    ):
        super().__init__(file, encoding="utf-8", errors="replace")
        self.budget, self.storage = budget, storage
        self.known: dict[str, Any] = {
            "collections.OrderedDict": self.dictionary,
            "torch.Size": self.shape,
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_parameter": self.parameter,
            "torch._utils._rebuild_parameter_with_state": self.parameter,
            "torch.nn.parameter.Parameter": self.parameter,
        }

    def find_class(self, module: str, name: str) -> Any:
        """Return our own function for a name; raise if there is none."""
        full = f"{module}.{name}"
        if full in self.known:
            return _Called(self.known[full])
        if module in ("torch", "torch.cuda") and name in STORAGES:
            return DTYPES[STORAGES[name]]
        if full in TORCH_TYPES or full.startswith(HELD_BACK):
            return Placeholder
        raise Unknown(f"{module}.{name}"[:200])

    def get_extension(self, code: int) -> None:
        """Refuse what Python's registry of extensions would name."""
        raise Unknown(f"extension {code}")

    def persistent_load(self, pid: Any) -> Storage:
        """Return the storage that a pickle refers to."""
        kind, dtype, key, _, count, *view = pid
        whole = type(count) is int and 0 <= count < 2**62
        if kind != "storage" or not isinstance(dtype, np.dtype) or not whole:
            raise ValueError("a reference that is not a storage")
        if view and view[0] is not None:
            raise ValueError("a storage that is part of another one, as before version 0.4")
        return self.storage(dtype, str(key), count)

    def dictionary(self, pairs: Sequence[Any] = ()) -> dict[Any, Any]:
        """Return a dictionary of pairs; a pickle may ask for many from the same list."""
        if not isinstance(pairs, list | tuple):
            raise ValueError("a dictionary of what is not a list")
        self.budget.take(PAIR * len(pairs))
        return dict(pairs)

    @staticmethod
    def shape(numbers: Any = ()) -> tuple[Any, ...]:
        """Return the numbers of a shape, which come as a tuple: anything else would be copied."""
        if not isinstance(numbers, tuple):
            raise ValueError("a shape of what is not a tuple")
        return numbers

    def tensor(self, storage: Any, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
        """Return a tensor without reading it."""
        if not isinstance(storage, Storage):
            raise ValueError("a tensor without a storage")
        return Tensor(storage, offset, tuple(shape), tuple(strides), self.budget)

    @staticmethod
    def parameter(data: Any, *_: Any) -> Any:
        """Return the tensor of a parameter."""
        return data

    def load_build(self) -> None:
        """Drop the state of an object: none that is read here has one."""
        self.stack.pop()  # type: ignore[attr-defined]

    def load_refused(self) -> None:
        """Refuse operations that no file of weights needs."""
        raise ValueError("an operation that files of weights do not have")

    dispatch[pickle.BUILD[0]] = load_build
    for operation in (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER):
        dispatch[operation[0]] = load_refused


class _Called:
    """A function that a pickle may call, but cannot change or look into."""

    __slots__ = ("__function",)

    def __init__(self, function: Callable):
        self.__function = function

    def __call__(self, *args: Any) -> Any:
        return self.__function(*args)


def from_zip(file: BinaryIO, size: int) -> Any:
    """Return what a zip archive of torch.save holds, with `Tensor`s that read from the open file.

    Raises:
      Unknown: it names something other than tensors and plain values.
      Exception: of many kinds if it is damaged.
    """
    archive = zipfile.ZipFile(file)
    if any(name.endswith("/constants.pkl") for name in archive.namelist()):
        raise Unknown("a program of TorchScript")
    if any(member.compress_type != STORED for member in archive.infolist()):
        raise ValueError("a compressed archive")
    if sum(member.file_size for member in archive.infolist()) > size:
        raise ValueError("members that are larger than the archive")
    members = {member.filename: member for member in archive.infolist()}
    found = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(found) != 1:
        raise ValueError("an archive without data.pkl")
    folder = found[0].removesuffix("data.pkl")
    order = members.get(f"{folder}byteorder")
    big = order is not None and archive.read(order) == b"big"
    storages: dict[str, Storage] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> Storage:
        member = members.get(f"{folder}data/{key}")
        if member is None or member.file_size != count * dtype.itemsize:
            there = "no" if member is None else f"{member.file_size:,}"
            raise ValueError(f"{there} bytes of storage {key[:50]!r}, which has {count:,} numbers")
        if key not in storages:
            kind = dtype.newbyteorder(">") if big else dtype
            storages[key] = Storage(kind, count, lambda: archive.read(member))
        return _same(storages[key], dtype, count)

    content = archive.read(found[0])
    return Unpickler(_Bounded(io.BytesIO(content), len(content)), Budget(size), storage).load()


def from_row(file: BinaryIO, size: int) -> Any:
    """Return what a row of pickles of torch.save holds; see `from_zip`."""
    budget, storages = Budget(size), dict[str, Storage]()
    starts: dict[str, int] = {}

    def storage(dtype: np.dtype, key: str, count: int) -> Storage:
        if key not in storages:
            length = count * dtype.itemsize
            storages[key] = Storage(dtype, count, lambda: _read(file, starts[key], length))
        return _same(storages[key], dtype, count)

    def value() -> Any:
        return Unpickler(_Bounded(file, size), budget, storage).load()

    if value() != LEGACY or value() != VERSION:
        raise ValueError("another version of the format")
    system = value()
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise ValueError("numbers in the order of a big-endian machine")
    found, keys = value(), value()
    place = file.tell()
    for key in map(str, keys):
        count = int.from_bytes(_read(file, place, 8), "little")
        if key not in storages or storages[key].count != count:
            raise ValueError(f"a storage {key[:50]!r} of {count:,} numbers that nothing describes")
        starts[key] = place + 8
        place += 8 + count * storages[key].dtype.itemsize
    if place > size:
        raise ValueError(f"{size:,} bytes of {place:,}")
    if missing := storages.keys() - starts.keys():
        raise ValueError(f"no numbers of storage {min(missing)[:50]!r}")
    return found


class _Bounded:
    """A file that never reads, or allocates memory for, more bytes than it has."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size

    def read(self, length: int) -> bytes:
        """Return `length` bytes, or as many as there are."""
        return self.file.read(max(0, min(length, self.size - self.file.tell())))

    def readline(self) -> bytes:
        """Return a line, which has an end."""
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("an end within a name")
        return line


def _same(storage: Storage, dtype: np.dtype, count: int) -> Storage:
    """Return a storage under the type that a pickle gives it."""
    if storage.dtype.newbyteorder("=") != dtype.newbyteorder("=") or storage.count != count:
        raise ValueError("a storage of two types or sizes")
    return storage


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    content = file.read(length)
    if len(content) != length:
        raise ValueError(f"an end after {start + len(content):,} bytes")
    return content
