"""Named arrays in versions."""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Union

import numpy as np

from ._dtypes import DESCRIPTIONS, described, descriptions, dtype_of, kind_of
from ._errors import Damaged, Error, NotFound, must
from ._native import ffi, lib
from ._options import options

Array = np.ndarray[Any, Any]


def version() -> str:
    """The version of the library."""
    return str(ffi.string(lib.ckpt_version()).decode())


class Version(Mapping[str, Array]):
    """What one rank has saved in a version: arrays by their names, read when they are asked for."""

    def __init__(self, store: Store, number: int, rank: int) -> None:
        self._store, self.number, self._rank = store, number, rank
        self._dtypes: dict[str, np.dtype[Any]] | None = None

    def rank(self, rank: int) -> Version:
        """What another rank has saved in it."""
        return Version(self._store, self.number, rank)

    @property
    def ranks(self) -> int:
        """How many ranks have made it."""
        ranks = ffi.new("uint32_t *")
        with self._store._locked() as handle:
            must(lib.ckpt_ranks(handle, self.number, ranks))
        return int(ranks[0])

    def _describe(self, name: str) -> Any:
        region = ffi.new("ckpt_region *")
        with self._store._locked() as handle:
            must(lib.ckpt_describe(handle, self.number, self._rank, name.encode(), region))
        return region

    def _dtype(self, name: str, region: Any) -> np.dtype[Any]:
        if region.kind != lib.CKPT_BYTES or name == DESCRIPTIONS:
            return dtype_of(region.kind, region.size)
        if self._dtypes is None:
            there = DESCRIPTIONS in list(self._names())
            self._dtypes = descriptions(self.read(DESCRIPTIONS).tobytes()) if there else {}
        return self._dtypes.get(name, dtype_of(region.kind, region.size))

    def read(self, name: str, out: Array | None = None) -> Array:
        """An array; into ``out``, which must be of its type and shape, if that is given."""
        region = self._describe(name)
        dtype, shape = self._dtype(name, region), tuple(region.shape[0 : region.dims])
        if out is None:
            out = np.empty(shape, dtype)
        elif out.dtype != dtype or out.shape != shape:
            raise ValueError(f"{name} is {dtype} {shape}, not {out.dtype} {out.shape}")
        elif not out.flags.c_contiguous or not out.flags.writeable:
            raise ValueError(f"{name} can only be read into an array that is C-contiguous and writable")
        self._fill(name, region, 0, region.elements, out)
        return out

    def read_part(self, name: str, first: int, count: int) -> Array:
        """``count`` elements from the one numbered ``first`` on, in the order in which they lie in memory."""
        region = self._describe(name)
        if first < 0 or count < 0 or first + count > region.elements:
            raise IndexError(f"{name} has {region.elements} elements: there are no {count} from {first} on")
        out = np.empty(count, self._dtype(name, region))
        self._fill(name, region, first, count, out)
        return out

    def _fill(self, name: str, region: Any, first: int, count: int, out: Array) -> None:
        where, into = (self.number, self._rank, name.encode()), ffi.cast("void *", out.ctypes.data)
        with self._store._locked() as handle:
            must(lib.ckpt_read(handle, *where, region.kind, region.size, first, count, into))

    def _names(self) -> Iterator[str]:
        region, index = ffi.new("ckpt_region *"), 0
        # That there is the version at all.
        _ = self.ranks
        while True:
            with self._store._locked() as handle:
                status = lib.ckpt_region_at(handle, self.number, self._rank, index, region)
                if status == lib.CKPT_NOT_FOUND:
                    return
                must(status)
                name = ffi.string(region.name).decode()
            yield name
            index += 1

    def __getitem__(self, name: str) -> Array:
        try:
            return self.read(name)
        except NotFound as error:
            raise KeyError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names() if name != DESCRIPTIONS)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<version {self.number} of {self._store.name!r}, rank {self._rank}>"


@dataclass
class Restored(Mapping[str, Array]):
    """What was read of a version: arrays by their names."""

    #: Which it was.
    version: int
    arrays: dict[str, Array]
    #: How many newer versions turned out to be damaged.
    passed_over: int = 0

    def __getitem__(self, name: str) -> Array:
        return self.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


class Transaction:
    """A version in the making. Its arrays must not change until it is committed; nothing of it is saved if the
    ``with`` block raises."""

    def __init__(self, store: Store, number: int, asynchronous: bool) -> None:
        self._store, self.number, self._asynchronous = store, number, asynchronous
        self._arrays: dict[str, Array] = {}

    def __setitem__(self, name: str, value: Any) -> None:
        if name == DESCRIPTIONS:
            raise ValueError(f"{DESCRIPTIONS} is a name of our own")
        if isinstance(value, (bytes, bytearray, memoryview)):
            value = np.frombuffer(value, dtype=np.uint8)
        array = np.asarray(value)
        kind_of(array.dtype)
        self._arrays[name] = array if array.flags.c_contiguous else np.ascontiguousarray(array)

    def update(self, arrays: Mapping[str, Any] = {}, /, **more: Any) -> None:
        """Adds several."""
        for name, value in {**arrays, **more}.items():
            self[name] = value

    def __enter__(self) -> Transaction:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._store._save(self.number, self._arrays, self._asynchronous)


class Store:
    """A program's versions in a directory, which is made if there is none.

    ``level`` is zstd's (0: none) or ``"auto"``; ``keep`` of the newest versions are kept, and each whose number
    ``keep_every`` divides; a version may refer to ``increments`` earlier ones for what has not changed. Of a program
    of several ``ranks`` each has its own store of the same name; a version counts when all have it.
    """

    def __init__(
        self,
        dir: Union[str, os.PathLike[str]],
        name: str,
        *,
        level: Union[int, str, None] = None,
        workers: int | None = None,
        increments: int | None = None,
        keep: int | None = None,
        keep_every: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        given = options(
            level=level,
            workers=workers,
            increments=increments,
            keep=keep,
            keep_every=keep_every,
            rank=rank,
            ranks=ranks,
        )
        handle = ffi.new("ckpt_store **")
        must(lib.ckpt_open(os.fsencode(dir), name.encode(), given, handle))
        self._handle = ffi.gc(handle[0], lib.ckpt_close)
        # The library wants one thread at a time, and the interpreter's lock is let go in its calls.
        self._lock = threading.RLock()
        self.name, self._rank, self._ranks = name, rank, ranks

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Any]:
        """The library's handle, for this thread alone."""
        with self._lock:
            if self._handle is None:
                raise ValueError("the store is closed")
            yield self._handle

    def begin(self, version: int, *, asynchronous: bool = False) -> Transaction:
        """A version, whose number is higher than the one before::

            with store.begin(7) as version:
                version["field"] = field

        It is durable behind the block. With ``asynchronous`` the arrays are copied, and may change then; it is
        durable when :meth:`wait` returns.
        """
        return Transaction(self, version, asynchronous)

    def save(self, version: int, arrays: Mapping[str, Any] = {}, /, **more: Any) -> None:
        """The same in one call."""
        with self.begin(version) as transaction:
            transaction.update(arrays, **more)

    def _save(self, number: int, arrays: dict[str, Array], asynchronous: bool) -> None:
        descriptions = described({name: array.dtype for name, array in arrays.items()})
        if descriptions is not None:
            arrays = {**arrays, DESCRIPTIONS: descriptions}
        with self._locked() as handle:
            try:
                for name, array in arrays.items():
                    what = (name.encode(), kind_of(array.dtype), array.dtype.itemsize)
                    shape = ffi.new("uint64_t[]", list(array.shape) or [0])
                    data = ffi.cast("void *", array.ctypes.data)
                    must(lib.ckpt_protect(handle, *what, shape, array.ndim, data))
                save = lib.ckpt_save_async if asynchronous else lib.ckpt_save
                must(save(handle, number))
            finally:
                for name in arrays:
                    lib.ckpt_unprotect(handle, name.encode())

    def wait(self) -> None:
        """Waits until what is being written is durable, or raises why it will never be."""
        with self._locked() as handle:
            must(lib.ckpt_wait(handle))

    def latest(self, limit: int | None = None) -> Version | None:
        """The newest version (up to ``limit``) that all ranks have."""
        number = ffi.new("uint64_t *")
        with self._locked() as handle:
            status = lib.ckpt_latest(handle, lib.CKPT_NEWEST if limit is None else limit, number)
            if status == lib.CKPT_NOT_FOUND:
                return None
            must(status)
        return Version(self, int(number[0]), self._rank)

    def version(self, number: int) -> Version:
        """That version; what there is of it is seen when it is read."""
        return Version(self, number, self._rank)

    def restore(self, limit: int | None = None) -> Restored | None:
        """Reads what our own rank has saved in the newest version (up to ``limit``); where that is damaged, in the
        one before, with a warning. None if there is none. The next version's number must be higher."""
        number, first = ffi.new("uint64_t *"), None
        passed_over, upper = 0, lib.CKPT_NEWEST if limit is None else limit
        with self._locked() as handle:
            while True:
                # With nothing protected it only looks which there is, and passes over what cannot be opened.
                status = lib.ckpt_load(handle, upper, number)
                if status == lib.CKPT_NOT_FOUND:
                    if first is not None:
                        raise first
                    return None
                must(status)
                passed_over += int(lib.ckpt_passed_over(handle))
                version = self.version(int(number[0]))
                try:
                    arrays = self._read(version)
                    break
                except Damaged as error:
                    first, passed_over, upper = first or error, passed_over + 1, version.number - 1
                    must(lib.ckpt_set_aside(handle, version.number))
                    if version.number == 0:
                        raise
        if passed_over:
            why = first or "an image cannot be opened"
            warnings.warn(f"{passed_over} damaged, version {version.number} is read: {why}", stacklevel=2)
        return Restored(version.number, arrays, passed_over)

    def _read(self, version: Version) -> dict[str, Array]:
        if version.ranks != self._ranks:
            what = f"version {version.number} is of {version.ranks} ranks, not of {self._ranks}"
            raise Error(lib.CKPT_USAGE, f"{what}; read what is wanted from latest().rank(n)")
        return {name: version.read(name) for name in version}

    def close(self) -> None:
        """Waits until what is being written is durable, and closes the store."""
        with self._lock:
            handle, self._handle = self._handle, None
            if handle is not None:
                ffi.release(handle)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
