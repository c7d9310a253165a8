"""ticker.py numpy|torch MIB: products of matrices, or a small network that learns, beside so much
memory; a second thread ticks every millisecond, and says what ticker.c says."""
import os
import signal
import sys
import threading
import time

sys.setswitchinterval(0.0005)


def tick():
    last = time.time()
    while True:
        time.sleep(0.001)
        now = time.time()
        if now - last > 0.002:
            print(f"late {now:.6f} {now - last:.6f}", flush=True)
        last = now


def numpy_step(mib):
    import numpy

    numpy.random.seed(1)
    memory = numpy.random.random(mib << 17)
    a = memory[:250000].reshape(500, 500)
    a /= 250.0

    def step():
        a[:] = a @ a
        a[:] = a / a.sum() * 500.0

    return step


def torch_step(mib):
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(1)
    # Parameters, their gradients and Adam's two means: four times as much as the parameters.
    wide = max(64, int((mib * (1 << 20) / 16) ** 0.5))
    net = torch.nn.Sequential(torch.nn.Linear(wide, wide), torch.nn.ReLU(), torch.nn.Linear(wide, 1))
    adam = torch.optim.Adam(net.parameters())
    x = torch.randn(16, wide)

    def step():
        adam.zero_grad()
        loss = (net(x) - 1.0).square().mean()
        loss.backward()
        adam.step()

    return step


step = {"numpy": numpy_step, "torch": torch_step}[sys.argv[1]](int(sys.argv[2]))
step()
signal.signal(signal.SIGHUP, lambda *_: print("here", flush=True))
threading.Thread(target=tick, daemon=True).start()
print("ready", os.getpid(), flush=True)
until = time.time() + 1800
while time.time() < until:
    step()
