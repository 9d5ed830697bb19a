"""Greedy decoding of one sequence with Transformers in bfloat16; the prompt's forward pass is not timed.

The argument is a JSON object: config (LlamaConfig's keys), prompt (tokens), tokens (to decode), threads and compile:
true uses a static cache and compiles the decoding step, false uses the default cache.
"""

import json
import sys
import time

import torch
import transformers

from protocol import serve

options = json.loads(sys.argv[1])
torch.set_num_threads(options["threads"])
torch.set_grad_enabled(False)
torch.manual_seed(0)
torch.set_default_device(options["device"])

config = transformers.LlamaConfig(**options["config"])
model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
decode = torch.compile(model) if options["compile"] else model
prompt = torch.randint(config.vocab_size, (1, options["prompt"]))


def new_cache():
    if options["compile"]:
        return transformers.StaticCache(config, max_cache_len=options["prompt"] + options["tokens"])
    return transformers.DynamicCache(config=config)


def repetition(_):
    cache = new_cache()
    output = model(input_ids=prompt, past_key_values=cache, use_cache=True)
    output.logits[0, -1, 0].item()
    started = time.perf_counter()
    for i in range(options["tokens"]):
        token = output.logits[:, -1].argmax(-1, keepdim=True)
        position = torch.tensor([[options["prompt"] + i]])
        output = decode(input_ids=token, position_ids=position, past_key_values=cache, use_cache=True)
    output.logits[0, -1, 0].item()
    return {"rate": options["tokens"] / (time.perf_counter() - started)}


repetition(None)  # compiles
serve(repetition, version=f"PyTorch {torch.__version__}, Transformers {transformers.__version__}")
