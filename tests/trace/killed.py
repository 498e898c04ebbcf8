"""Writes traces and is killed, again and again; prints what each kill left. Run by test_writing.

One process imports the libraries and forks a writer per try, so that many tries are quick. A writer
tells through a pipe how many rows it has flushed.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.trace.samples import assert_same, sample
from v4kit.trace import layout
from v4kit.trace.store import TraceWriter

ROWS = 400
SAMPLES = [sample(ROWS), sample(ROWS, attention="full"), sample(ROWS, attention=3, heads="each")]


def write(folder: Path, told: int, seed: int) -> None:
    """Append and flush pieces of random size for ever, a row of the same sample each."""
    rng = random.Random(seed)
    trace, start = SAMPLES[seed % len(SAMPLES)], 0
    with TraceWriter(folder) as writer:
        while start < ROWS:
            stop = min(ROWS, start + rng.randint(1, 30))
            writer.append(trace[start:stop])
            start = stop
            if rng.random() < 0.5:
                writer.flush()
                os.write(told, start.to_bytes(4, "little"))
        time.sleep(60)


def attempt(folder: Path, seed: int) -> tuple[int, int]:
    """Kill a writer at a random moment; return the rows it had flushed, and those that open."""
    reader, told = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        write(folder, told, seed)
    os.close(told)
    first = os.read(reader, 4)
    time.sleep(random.Random(seed).uniform(0, 0.4))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    flushed = int.from_bytes(first, "little")
    while number := os.read(reader, 4):
        flushed = int.from_bytes(number, "little")
    os.close(reader)
    import v4kit

    found = v4kit.open_trace(folder)
    assert_same(found, SAMPLES[seed % len(SAMPLES)][: len(found)])
    return flushed, len(found)


if __name__ == "__main__":
    layout.ROWS = 32
    layout._LONG[layout.BYTE] = 64
    layout._LONG[layout.ELEMENT] = 1_000
    left = []
    for number in range(int(sys.argv[2])):
        # Each opening is in a process of its own: Zarr's thread does not outlive a fork.
        reader, told = os.pipe()
        if not os.fork():
            result = attempt(Path(sys.argv[1], str(number)), number)
            os.write(told, json.dumps(result).encode())
            os._exit(0)
        os.wait()
        os.close(told)
        left.append(json.loads(os.read(reader, 64) or "null"))
        os.close(reader)
    json.dump(left, sys.stdout)
