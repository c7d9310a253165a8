"""numpy with a multi-threaded BLAS, a thread pool, a lasting and a short-lived subprocess.

The matrices hold small integers as floats: every order of summation gives the same bits.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "4"

import hashlib
import queue
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

steps = int(sys.argv[2] if len(sys.argv) > 2 else os.environ.get("STEPS", "45"))
out = open(sys.argv[1], "w", buffering=1)
size = 400
matrix = np.arange(size * size, dtype=np.float64).reshape(size, size) % 7
other = (np.arange(size * size, dtype=np.float64).reshape(size, size) * 3) % 11
total = hashlib.sha256()
echo = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
questions, answers = queue.Queue(), queue.Queue()


def answer():
    """Lives as long as the program, mostly blocked."""
    while (item := questions.get()) is not None:
        answers.put(item * item % 1009)


thread = threading.Thread(target=answer)
thread.start()
with ThreadPoolExecutor(4) as pool:
    for step in range(steps):
        for _ in range(4):
            matrix = (matrix @ other) % 13 + (matrix.T % 5)
        parts = np.array_split(matrix, 8)
        digests = list(pool.map(lambda part: hashlib.sha256(part.tobytes() * 4).digest(), parts))
        for digest in digests:
            total.update(digest)
        questions.put(step)
        echo.stdin.write(b"%d\n" % (step * 17))
        echo.stdin.flush()
        line = echo.stdout.readline().decode().strip()
        if step % 4 == 0:
            shell = subprocess.run(["sh", "-c", f"echo $(({step} * 3))"], capture_output=True)
            line += " " + shell.stdout.decode().strip()
        total.update(line.encode())
        print("step", step, int(matrix.sum()), answers.get(), line, total.hexdigest()[:16], file=out)
questions.put(None)
thread.join()
echo.stdin.close()
print("cat ended with", echo.wait(), file=out)
print("checksum", total.hexdigest(), file=out)
