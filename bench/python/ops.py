"""Single ops with PyTorch in bfloat16, run eagerly like the Python code of a model. Each line names one.

The argument is a JSON object: the shapes of bench/configs.ts and threads.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from protocol import serve

MILLISECONDS = 50

options = json.loads(sys.argv[1])
torch.set_num_threads(options["threads"])
torch.manual_seed(0)
torch.set_default_device(options["device"])
T, C, H, D, I, V, B = (options[name] for name in ("T", "C", "H", "D", "F", "V", "sequences"))
L = T // B
BLOCK = 4 * C * C + 3 * C * I


def bf16(*shape, gradient=False):
    return torch.randn(*shape).to(torch.bfloat16).requires_grad_(gradient)


def heads(length=L, batch=B, gradient=False):
    return bf16(batch, H, length, D, gradient=gradient)


def backward(output, inputs):
    """The backward pass alone, again and again."""
    gradient = torch.randn_like(output)
    return lambda: torch.autograd.grad(output, inputs, gradient, retain_graph=True)


def cast():
    source, target = torch.randn(BLOCK), torch.empty(BLOCK)
    return lambda: target.copy_(source)


def embedding_forward():
    w, ids = bf16(V, C), torch.randint(V, (T,))
    return lambda: F.embedding(ids, w)


def embedding_backward():
    w, ids = bf16(V, C, gradient=True), torch.randint(V, (T,))
    return backward(F.embedding(ids, w), w)


def rmsnorm_forward():
    x, w = bf16(T, C), bf16(C)
    return lambda: F.rms_norm(x, (C,), w)


def add_rmsnorm_forward():
    x, delta, w = bf16(T, C), bf16(T, C), bf16(C)
    return lambda: F.rms_norm(x + delta, (C,), w)


def rmsnorm_backward():
    x, w = bf16(T, C, gradient=True), bf16(C, gradient=True)
    return backward(F.rms_norm(x, (C,), w), (x, w))


def matmul_one_row():
    a, b = bf16(1, C), bf16(2 * I, C)
    return lambda: a @ b.T


def matmul():
    a, b = bf16(T, C), bf16(2 * I, C)
    return lambda: a @ b.T


def matmul_input_gradient():
    a, b = bf16(T, 2 * I), bf16(2 * I, C)
    return lambda: a @ b


def matmul_weight_gradient():
    a, b = bf16(T, 2 * I), bf16(T, C)
    return lambda: a.T @ b


def rope_forward():
    q, k, cos, sin = heads(), heads(), bf16(B, L, D), bf16(B, L, D)
    return lambda: apply_rotary_pos_emb(q, k, cos, sin)


def fastest(make):
    """Of the backends of PyTorch's attention that take these shapes, the one that is fastest on this machine."""
    runs = []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        try:
            with sdpa_kernel(backend):
                run = make()
                seconds(run, 2)
                runs.append((seconds(run, 5), backend, run))
        except RuntimeError:
            pass  # this backend does not support them
    took, backend, run = min(runs, key=lambda entry: entry[0])

    def with_backend():
        with sdpa_kernel(backend):
            run()

    return with_backend


def attention_forward():
    q, k, v = heads(), heads(), heads()
    return fastest(lambda: lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))


def attention_backward():
    inputs = [heads(gradient=True) for _ in range(3)]
    return fastest(lambda: backward(F.scaled_dot_product_attention(*inputs, is_causal=True), inputs))


def attention_decode():
    q, k, v = heads(1, 1), heads(T, 1), heads(T, 1)
    return lambda: F.scaled_dot_product_attention(q, k, v)


def swiglu_forward():
    gate, up = bf16(T, I), bf16(T, I)
    return lambda: F.silu(gate) * up


def swiglu_backward():
    gate, up = bf16(T, I, gradient=True), bf16(T, I, gradient=True)
    return backward(F.silu(gate) * up, (gate, up))


def cross_entropy():
    logits, labels = bf16(T // 4, V, gradient=True), torch.randint(V, (T // 4,))
    return lambda: torch.autograd.grad(F.cross_entropy(logits.float(), labels), logits)


def adamw():
    master, weights = torch.randn(BLOCK, requires_grad=True), bf16(BLOCK)
    master.grad = torch.randn(BLOCK)
    optimizer = torch.optim.AdamW([master], lr=1e-4, weight_decay=0.001, fused=True)

    def step():
        optimizer.step()
        weights.copy_(master.detach())

    return step


def global_norm():
    x = torch.randn(BLOCK)
    return lambda: torch.linalg.vector_norm(x)


def sample():
    ids, logits = torch.zeros(1, 1, dtype=torch.long), bf16(1, V)
    warpers = [TemperatureLogitsWarper(1.0), TopKLogitsWarper(50), TopPLogitsWarper(0.9)]

    def draw():
        scores = logits.float()
        for warper in warpers:
            scores = warper(ids, scores)
        return torch.multinomial(scores.softmax(-1), 1)

    return draw


def synchronize():
    if options["device"] == "cuda":
        torch.cuda.synchronize()


def seconds(run, count):
    """What a call takes, one after another without a pause: a GPU is waited for once, at the end."""
    synchronize()
    started = time.perf_counter()
    for _ in range(count):
        run()
    synchronize()
    return (time.perf_counter() - started) / count


def repetition(name):
    run = globals()[name.replace(", ", "_").replace(" ", "_")]()
    seconds(run, 1)
    return {"seconds": seconds(run, max(1, round(MILLISECONDS / 1000 / seconds(run, 2))))}


serve(repetition, version=f"PyTorch {torch.__version__}")
