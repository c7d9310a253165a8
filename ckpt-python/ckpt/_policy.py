"""When it is time for a checkpoint."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from ._errors import must
from ._native import ffi, lib


class Reason(enum.Enum):
    """Why it is time."""

    #: The last one was long ago.
    INTERVAL = 1
    #: Slurm will end the job soon. Told once.
    END = 2
    #: A signal has come that was named.
    SIGNAL = 3


class Policy:
    """Says so ``every`` seconds, ``before_end`` seconds before Slurm ends the job, and when one of ``signals`` has come,
    of which note is taken from now on. Asked often, it costs a look at the clock."""

    def __init__(
        self, every: float = 0, before_end: float = 0, signals: Iterable[int] = ()
    ) -> None:
        policy = lib.ckpt_policy_new(every, before_end)
        if policy == ffi.NULL:
            raise ValueError(ffi.string(lib.ckpt_error()).decode())
        self._handle = ffi.gc(policy, lib.ckpt_policy_free)
        for signal in signals:
            must(lib.ckpt_policy_on_signal(self._handle, int(signal)))

    def should_checkpoint(self) -> Reason | None:
        """Why it is time, if it is. Each reason is told once."""
        reason = lib.ckpt_should_checkpoint(self._handle)
        return Reason(reason) if reason else None

    def took(self, seconds: float) -> None:
        """Tells how long a checkpoint took: the end must leave time for it."""
        must(lib.ckpt_policy_took(self._handle, seconds))
