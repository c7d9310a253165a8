"""Checkpoints that a program takes of its own arrays, or of itself as a whole.

Arrays::

    import ckpt, numpy

    heat, step = numpy.zeros(1000), 0
    store = ckpt.Store("checkpoints", "heat")
    if (saved := store.restore()) is not None:
        heat, step = saved["heat"], int(saved["step"])
    while step < 30:
        heat += 1.0
        step += 1
        if step % 10 == 0:
            with store.begin(step) as version:
                version["heat"] = heat
                version["step"] = step

The whole program, with all its threads and children; ``ckpt-restore checkpoints`` brings it back::

    if ckpt.checkpoint_self("checkpoints") is ckpt.Life.RESTARTED:
        print("here we are again")
"""

from ._errors import Damaged, Error, NotFound
from ._itself import Life, Moment, checkpoint_self, defer, hook
from ._policy import Policy, Reason
from ._store import Restored, Store, Transaction, Version, version

__version__ = version()

__all__ = [
    "Damaged",
    "Error",
    "Life",
    "Moment",
    "NotFound",
    "Policy",
    "Reason",
    "Restored",
    "Store",
    "Transaction",
    "Version",
    "checkpoint_self",
    "defer",
    "hook",
]
