"""Checkpoints of the whole program."""

from __future__ import annotations

import contextlib
import enum
import os
from collections.abc import Callable, Iterator
from typing import Any, Union

from ._errors import must
from ._native import ffi, lib
from ._options import options


class Life(enum.Enum):
    """In which life the program is."""

    #: The same as before; there is an image now.
    RESUMED = 0
    #: One that was restored from it.
    RESTARTED = 1


def checkpoint_self(
    dir: Union[str, os.PathLike[str]],
    *,
    level: Union[int, str, None] = None,
    workers: int | None = None,
    increments: int | None = None,
    keep: int | None = None,
) -> Life:
    """Takes a checkpoint of this program, all its threads and its children, and returns when the image is durable;
    returns as well in the program that ``ckpt-restore`` brings back from it. The options are those of
    :class:`Store`. The program ``ckpt`` must be in ``$PATH``, or named by ``$CKPT_HELPER``."""
    given = options(level=level, workers=workers, increments=increments, keep=keep)
    restarted = ffi.new("int32_t *")
    must(lib.ckpt_checkpoint_self(os.fsencode(dir), given, restarted))
    return Life(restarted[0])


@contextlib.contextmanager
def defer() -> Iterator[None]:
    """A critical section: no checkpoint is taken of the program meanwhile."""
    lib.ckpt_defer_begin()
    try:
        yield
    finally:
        must(lib.ckpt_defer_end())


class Moment(enum.Enum):
    """When a hook runs."""

    #: Before a checkpoint.
    BEFORE = 0
    #: After it, in the same life.
    RESUMED = 1
    #: In a life that was restored from it.
    RESTARTED = 2


#: Those in force: what they call must stay where it is.
_callbacks: dict[int, Any] = {}


class hook:
    """Has ``work`` run at every :func:`checkpoint_self`, in the thread that calls it, until it is closed."""

    def __init__(self, moment: Moment, work: Callable[[], Any]) -> None:
        callback = ffi.callback("void(void *)", lambda _: (work(), None)[1])
        self._number = lib.ckpt_hook(moment.value, callback, ffi.NULL)
        _callbacks[self._number] = callback

    def close(self) -> None:
        """It runs no more."""
        number, self._number = self._number, 0
        if number:
            must(lib.ckpt_unhook(number))
            del _callbacks[number]

    def __enter__(self) -> hook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
