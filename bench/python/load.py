"""Reads a safetensors checkpoint with Transformers into bfloat16 weights.

The argument is a JSON object: model (a directory) and threads.
"""

import json
import sys
import time

import torch
import transformers

from protocol import serve

options = json.loads(sys.argv[1])
torch.set_num_threads(options["threads"])
transformers.utils.logging.disable_progress_bar()


def repetition(_):
    started = time.perf_counter()
    model = transformers.LlamaForCausalLM.from_pretrained(options["model"], dtype=torch.bfloat16)
    for parameter in model.parameters():
        parameter.detach().view(-1)[::2048].sum()  # a mapped file is read when its pages are touched
    seconds = time.perf_counter() - started
    return {"rate": sum(parameter.nbytes for parameter in model.parameters()) / seconds}


repetition(None)  # the file is in the page cache from here on, for all contenders
serve(repetition, version=f"PyTorch {torch.__version__}, Transformers {transformers.__version__}")
