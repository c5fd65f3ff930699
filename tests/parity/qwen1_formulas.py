"""Qwen1's forward pass from its formulas, in float64 numpy: the oracle for checkpoints that the
transformers library does not know."""

import math

import numpy as np


def ntk_alpha(config, prompt_tokens):
    if not config["use_dynamic_ntk"]:
        return 1
    power = math.ceil(math.log2(prompt_tokens / config["seq_length"]) + 1)
    return max(2**power - 1, 1)


def _rms_norm(x, weight, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def _rotate(x, cos, sin):
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def _through_int8(x):
    """x [heads, tokens, dim] after the int8 cache of the first generation (quantize_cache_v), with
    one scale and zero point for each head over all tokens: float32, not rounded but cut off."""
    x = x.astype(np.float32)
    low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    scale = (high - low) / np.float32(255)
    zero = np.float32(0) - low / scale
    codes = np.clip(x / scale + zero, 0, 255).astype(np.uint8)
    return (scale * (codes - zero)).astype(np.float64)


def _cache(x, int8_prompt):
    """The prompt goes into the cache in one call, every later token in one of its own."""
    if int8_prompt is None:
        return x
    ends = [int8_prompt, *range(int8_prompt + 1, x.shape[1] + 1)]
    starts = [0, *ends[:-1]]
    return np.concatenate([_through_int8(x[:, a:b]) for a, b in zip(starts, ends)], 1)


def _attention(config, x, weights, prefix, cos, sin, query_scale, int8_prompt):
    length, hidden = x.shape
    heads = config["num_attention_heads"]
    fused = x @ weights[prefix + "attn.c_attn.weight"].T + weights[prefix + "attn.c_attn.bias"]
    q, k, v = (part.reshape(length, heads, -1).transpose(1, 0, 2)
               for part in np.split(fused, 3, axis=1))
    q = _rotate(q, cos, sin) * query_scale[None, :, None]
    k = _cache(_rotate(k, cos, sin), int8_prompt)
    v = _cache(v, int8_prompt)
    scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
    scores = np.where(np.tril(np.ones((length, length), dtype=bool)), scores, -np.inf)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    probabilities = scores / scores.sum(-1, keepdims=True)
    mixed = (probabilities @ v).transpose(1, 0, 2).reshape(length, hidden)
    return mixed @ weights[prefix + "attn.c_proj.weight"].T


def _mlp(x, weights, prefix):
    up = x @ weights[prefix + "mlp.w1.weight"].T
    gate = x @ weights[prefix + "mlp.w2.weight"].T
    return (up * gate / (1 + np.exp(-gate))) @ weights[prefix + "mlp.c_proj.weight"].T


def logits(config, weights, ids, prompt_tokens, int8_cache=False):
    """Logits [len(ids), vocab] of every position. `weights`: {name: float64 array}. The first
    `prompt_tokens` ids are the prompt, which decides NTK's alpha for all of them."""
    int8_prompt = prompt_tokens if int8_cache else None
    epsilon = config["layer_norm_epsilon"]
    positions = np.arange(len(ids))
    dim = config["kv_channels"]
    alpha = ntk_alpha(config, prompt_tokens)
    base = config["rotary_emb_base"] * alpha ** (dim / (dim - 2))
    angles = positions[:, None] * base ** (-2.0 * np.arange(dim // 2) / dim)
    query_scale = np.ones(len(ids))
    if config["use_logn_attn"] and len(ids) > config["seq_length"]:
        query_scale = np.maximum(1, np.log(positions + 1) / math.log(config["seq_length"]))
    x = weights["transformer.wte.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"transformer.h.{layer}."
        normed = _rms_norm(x, weights[prefix + "ln_1.weight"], epsilon)
        x = x + _attention(config, normed, weights, prefix, np.cos(angles), np.sin(angles),
                           query_scale, int8_prompt)
        x = x + _mlp(_rms_norm(x, weights[prefix + "ln_2.weight"], epsilon), weights, prefix)
    x = _rms_norm(x, weights["transformer.ln_f.weight"], epsilon)
    return x @ weights["lm_head.weight"].T
