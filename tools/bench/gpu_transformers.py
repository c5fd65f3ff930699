"""Greedy decoding by transformers with random weights, and a library's matrix product.

Prints JSON: tokens per second of batch 1 from 128 to 384 positions, eager and with torch.compile
over a static cache; FLOP/s of a large bf16 product. One line after each of them, with all until
then: the last line counts. Needs torch with CUDA and transformers.
"""

import argparse
import json
import statistics
import time

import torch
from released_configs import config
from transformers import AutoModelForCausalLM, Qwen2Config, StaticCache

PROMPT, TOKENS, REPEAT = 128, 256, 3


def matmul_flops(size=8192):
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    rates = []
    for i in range(12):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        a @ b
        end.record()
        torch.cuda.synchronize()
        if i >= 2:
            rates.append(2 * size**3 / (start.elapsed_time(end) * 1e-3))
    return statistics.median(rates)


@torch.inference_mode()
def eager(model, ids):
    past = model(ids, use_cache=True).past_key_values
    token = torch.zeros(1, 1, dtype=torch.long, device="cuda")
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(TOKENS):
        out = model(token, past_key_values=past, use_cache=True)
        token = out.logits[:, -1].argmax(-1, keepdim=True)
        past = out.past_key_values
    torch.cuda.synchronize()
    return TOKENS / (time.perf_counter() - began)


@torch.inference_mode()
def compiled(model, step, ids):
    cache = StaticCache(config=model.config, max_cache_len=PROMPT + TOKENS + 1)
    positions = torch.arange(PROMPT, device="cuda")
    model(ids, past_key_values=cache, cache_position=positions, use_cache=True)
    token = torch.zeros(1, 1, dtype=torch.long, device="cuda")
    torch.cuda.synchronize()
    began = time.perf_counter()
    for i in range(TOKENS):
        position = torch.tensor([PROMPT + i], device="cuda")
        token = step(token, position, cache).clone()
    torch.cuda.synchronize()
    return TOKENS / (time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="Qwen2.5-7B")
    args = parser.parse_args()
    result = {"model": args.model, "torch": torch.__version__, "matmul_flops": matmul_flops()}
    print(json.dumps(result), flush=True)

    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(Qwen2Config(**config(args.model))).eval()
    ids = torch.randint(0, 1000, (1, PROMPT), device="cuda")
    result["eager_tok_s"] = statistics.median([eager(model, ids) for _ in range(REPEAT + 1)][1:])
    print(json.dumps(result), flush=True)

    def one_step(token, position, cache):
        out = model(token, past_key_values=cache, cache_position=position, use_cache=True)
        return out.logits[:, -1].argmax(-1, keepdim=True)

    try:
        step = torch.compile(one_step, mode="reduce-overhead", fullgraph=True)
        rates = [compiled(model, step, ids) for _ in range(REPEAT + 1)]
        result["compiled_tok_s"] = statistics.median(rates[1:])
    except Exception as error:  # what torch.compile can raise is not listed anywhere
        result["compiled_error"] = str(error)[-500:]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
