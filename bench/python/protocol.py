"""The protocol between a benchmark's child process and bench/child.ts: one JSON object per line.

It prints {"ready": true, ...facts} when it is warm, answers each line of standard input with the figures of one
repetition, and ends with the input, printing {"peak_memory": bytes}.
"""

import json
import re
import sys
from pathlib import Path


def say(**message):
    print(json.dumps(message), flush=True)


def peak_memory():
    """Bytes: the most that PyTorch has taken of a GPU, or the largest resident set that this process has had."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
        return sys.modules["torch"].cuda.max_memory_reserved()
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def serve(repetition, **facts):
    """Calls `repetition` with each line of standard input; it returns a dict of figures."""
    say(ready=True, **facts)
    for line in sys.stdin:
        say(**repetition(line.strip()))
    say(peak_memory=peak_memory())
