"""Peak memory of Reversible grows with T by its bits and by nothing else. Measured in a process of its
own."""

import subprocess
import sys

import pytest

SCRIPT = """
import re, torch, minigtn
P = 20_000
rows = torch.linspace(0, 1, P)

def loss(params, batch):
    return ((params["w"] - batch[0] * rows) ** 2).sum() / 2

def peak_bytes(steps):
    w0 = torch.zeros(P, requires_grad=True)
    targets = torch.linspace(-1, 1, steps).requires_grad_()
    minigtn.sgd(loss, {"w": w0}, (targets,), 0.125, 0.5, minigtn.Reversible())["w"].pow(2).sum().backward()
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

print(peak_bytes(100), peak_bytes(2000))  # the shorter run first: a peak never falls
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_peak_memory_of_reversible_grows_by_its_bits_alone():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    short, long = map(int, run.stdout.split())
    weights = 20_000
    steps = 2000 - 100
    bits = weights * steps / 8  # one bit per weight and step at momentum 1/2, in bytes: 5 MB
    states = weights * steps * 2 * 4  # what keeping every step would take: 304 MB
    slack = 0.006 * states
    assert bits - slack < long - short < bits + slack
