"""numpy's types as the library's kinds.

Little-endian numbers are what they are. All others (complex numbers, booleans, times, records …) are bytes for the
library; what they are for numpy goes along, in an array of its own, as literals of Python (as in numpy's own files).
"""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
from numpy.lib.format import descr_to_dtype, dtype_to_descr

from ._native import lib

#: The array that tells of the others' types.
DESCRIPTIONS = ".dtypes"

_KINDS = {"i": lib.CKPT_SIGNED, "u": lib.CKPT_UNSIGNED, "f": lib.CKPT_FLOAT}
_LETTERS = {kind: letter for letter, kind in _KINDS.items()}


def kind_of(dtype: np.dtype[Any]) -> int:
    """The kind of a type's elements."""
    if dtype.hasobject:
        raise TypeError(f"an array of {dtype} holds Python objects, which cannot be saved")
    if dtype.kind in _KINDS and dtype.newbyteorder("<") == dtype:
        return int(_KINDS[dtype.kind])
    return int(lib.CKPT_BYTES)


def described(dtypes: dict[str, np.dtype[Any]]) -> np.ndarray[Any, Any] | None:
    """Those types that a kind does not tell, as an array of bytes."""
    others = {name: dtype_to_descr(it)  # type: ignore[no-untyped-call]
        for name, it in dtypes.items() if kind_of(it) == lib.CKPT_BYTES}
    if not others:
        return None
    return np.frombuffer(repr(others).encode(), dtype=np.uint8)


def descriptions(text: bytes) -> dict[str, np.dtype[Any]]:
    """The opposite."""
    return {name: descr_to_dtype(descr)  # type: ignore[no-untyped-call]
        for name, descr in ast.literal_eval(text.decode()).items()}


def dtype_of(kind: int, size: int) -> np.dtype[Any]:
    """The type of a kind's elements."""
    letter = _LETTERS.get(kind)
    try:
        return np.dtype(f"<{letter}{size}" if letter else f"V{size}")
    except TypeError:
        return np.dtype(f"V{size}")
