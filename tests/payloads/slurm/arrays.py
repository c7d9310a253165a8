"""As steps.sh, but numpy with threads, and $MIB of memory that does not compress."""

import hashlib
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

os.environ["OPENBLAS_NUM_THREADS"] = "2"
import numpy as np

name, steps = sys.argv[1], int(sys.argv[2] if len(sys.argv) > 2 else 0)
out = open(name, "w", buffering=1)
ballast = np.frombuffer(np.random.default_rng(5).bytes(int(os.environ.get("MIB", "1")) << 20), np.uint64)
matrix = np.arange(10000, dtype=np.float64).reshape(100, 100) % 7
step = 0
with ThreadPoolExecutor(2) as pool:
    while step != steps or not steps:
        step += 1
        matrix = (matrix @ matrix.T) % 13 + 1
        parts = pool.map(lambda part: int(part.sum()), np.array_split(matrix, 4))
        here = int(ballast[step * 4099 % ballast.size])
        print("step", step, sum(parts), here, file=out)
        with open(name + ".journal", "a") as journal:
            print(step, file=journal)
        if os.path.exists(name + ".finish"):
            break
        time.sleep(0 if "PACE" in os.environ else 0.05)
print("checksum", hashlib.sha256(ballast.tobytes() + matrix.tobytes()).hexdigest(), file=out)
