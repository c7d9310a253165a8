"""The library's options."""

from __future__ import annotations

from typing import Any, Union

from ._errors import must
from ._native import ffi, lib


def options(*, level: Union[int, str, None] = None, **others: int | None) -> Any:
    """The usual ones, but for those that are given."""
    options = ffi.new("ckpt_options *")
    must(lib.ckpt_options_init(options))
    if level is not None:
        options.level = lib.CKPT_LEVEL_AUTO if level == "auto" else int(level)
    for name, value in others.items():
        if value is not None:
            setattr(options, name, value)
    return options
