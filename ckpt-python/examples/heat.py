"""Heat that spreads along a rod. Killed at any moment, the program goes on from its newest checkpoint when it is
started again, and ends with the same last bit.

    python3 heat.py DIR CELLS STEPS [EVERY]
"""

import sys

import numpy as np

import ckpt


def spread(heat: np.ndarray) -> np.ndarray:
    left, right = np.zeros_like(heat), np.zeros_like(heat)
    left[1:], right[:-1] = heat[:-1], heat[1:]
    return heat + 0.25 * (left - 2 * heat + right)


def main(dir: str, cells: int, steps: int, every: int = 100) -> None:
    heat, done = np.zeros(cells), 0
    heat[::7] = 100
    store = ckpt.Store(dir, "heat")
    if (saved := store.restore()) is not None:
        heat, done = saved["heat"], int(saved["done"])
        print("goes on from version", saved.version, file=sys.stderr, flush=True)
    while done < steps:
        heat = spread(heat)
        done += 1
        if done % every == 0:
            with store.begin(done) as version:
                version["heat"] = heat
                version["done"] = done
            print("version", done, file=sys.stderr, flush=True)
    sum = 0
    for bits in heat.view(np.uint64).tolist():
        sum = (sum << 5 | sum >> 59) & 0xFFFFFFFFFFFFFFFF ^ bits
    print(f"{sum:016x}")


main(sys.argv[1], *map(int, sys.argv[2:]))
