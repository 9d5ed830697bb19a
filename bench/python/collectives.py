"""One rank of torch.distributed that repeats a collective, over Gloo on the CPU and NCCL on GPUs.

The argument is a JSON object: rank, size, port, threads and device. Each line has a collective's name, the bytes of the
full tensor, and the number of repetitions.
"""

import json
import sys
import time

import torch
import torch.distributed as dist

from protocol import serve

options = json.loads(sys.argv[1])
torch.set_num_threads(options["threads"])
cuda = options["device"] == "cuda"
dist.init_process_group(
    "nccl" if cuda else "gloo",
    init_method=f"tcp://127.0.0.1:{options['port']}",
    rank=options["rank"],
    world_size=options["size"],
)
torch.set_default_device(options["device"])


def synchronize():
    if cuda:
        torch.cuda.synchronize()


def repetition(line):
    name, size, count = line.split()
    part = int(size) // 4 // options["size"]
    whole, own = torch.ones(part * options["size"]), torch.ones(part)

    def once():
        if name == "all_gather":
            dist.all_gather_into_tensor(whole, own)
        else:
            dist.reduce_scatter_tensor(own, whole)

    def timed(times):
        dist.barrier()
        synchronize()
        started = time.perf_counter()
        for _ in range(times):
            once()
        synchronize()
        return (time.perf_counter() - started) / times

    timed(1)
    return {"seconds": timed(int(count))}


serve(repetition, version=f"PyTorch {torch.__version__}")
