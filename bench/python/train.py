"""Training with PyTorch and Transformers: forward, backward, clipping and AdamW on random tokens.

The argument is a JSON object: config (LlamaConfig's keys), batch, length, steps (per repetition), threads, precision
("autocast": float32 weights and bfloat16 products; "bfloat16": everything in bfloat16), attention and compile.
"""

import json
import sys
import time

import torch
import transformers

from protocol import serve

options = json.loads(sys.argv[1])
torch.set_num_threads(options["threads"])
torch.manual_seed(0)
torch.set_default_device(options["device"])

config = transformers.LlamaConfig(**options["config"], attn_implementation=options["attention"], use_cache=False)
weights = torch.bfloat16 if options["precision"] == "bfloat16" else torch.float32
model = transformers.AutoModelForCausalLM.from_config(config, dtype=weights).train()
forward = torch.compile(model) if options["compile"] else model
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.001, fused=True)


def step():
    ids = torch.randint(config.vocab_size, (options["batch"], options["length"]))
    with torch.autocast(options["device"], torch.bfloat16, enabled=options["precision"] == "autocast"):
        loss = forward(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


def repetition(_):
    started = time.perf_counter()
    for _ in range(options["steps"]):
        loss = step()
    seconds = time.perf_counter() - started
    return {"rate": options["steps"] * options["batch"] * options["length"] / seconds, "loss": loss}


for _ in range(2):  # the first step allocates and compiles
    step()
serve(repetition, version=f"PyTorch {torch.__version__}, Transformers {transformers.__version__}")
