"""What went wrong, in words that a user can act upon."""

from __future__ import annotations

from ._native import ffi, lib


class Error(Exception):
    """A failure; ``status`` is the number with which ckpt's commands exit (sysexits.h)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Damaged(Error):
    """An image is damaged."""


class NotFound(Error, LookupError):
    """There is no such version or array."""


_KINDS = {lib.CKPT_DAMAGED: Damaged, lib.CKPT_NOT_FOUND: NotFound}


def must(status: int) -> None:
    """Raises what a call of the library has ended with, unless all is well."""
    if status != lib.CKPT_OK:
        message = ffi.string(lib.ckpt_error()).decode()
        raise _KINDS.get(status, Error)(status, message)
