"""A program that takes checkpoints of itself as a whole, with whatever libraries it has loaded; ``ckpt-restore DIR``
brings it back.

    python3 itself.py DIR STEPS [EVERY]
"""

import sys
import threading

import numpy as np

import ckpt

rows = np.random.default_rng(7).random((4, 200, 200))


def work(barrier: threading.Barrier, row: int, steps: int) -> None:
    for _ in range(steps):
        rows[row] = np.tanh(rows[row] @ rows[row] / 100)
        barrier.wait()


def main(dir: str, steps: int, every: int = 10) -> None:
    barrier = threading.Barrier(len(rows) + 1)
    for row in range(len(rows)):
        threading.Thread(target=work, args=(barrier, row, steps), daemon=True).start()
    say = lambda word: print(word, file=sys.stderr, flush=True)
    with ckpt.hook(ckpt.Moment.RESTARTED, lambda: say("brought back")):
        for step in range(1, steps + 1):
            barrier.wait()
            if step % every == 0:
                life = ckpt.checkpoint_self(dir)
                say("generation" if life is ckpt.Life.RESUMED else f"goes on after step {step}")
    print(f"{rows.sum():.17e}")


main(sys.argv[1], *map(int, sys.argv[2:]))
