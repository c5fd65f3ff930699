"""config.json of released shapes, for runs with random weights (--load-format dummy)."""

# name: (hidden, layers, heads, stored feed-forward width, vocabulary, trained length, extended)
QWEN1 = {
    "Qwen-1.8B": (2048, 24, 16, 11008, 151936, 8192, True),
    "Qwen-7B": (4096, 32, 32, 22016, 151936, 8192, True),
    "Qwen-14B": (5120, 40, 40, 27392, 152064, 2048, True),
    "Qwen-72B": (8192, 80, 64, 49152, 152064, 32768, False),
}

# name: (hidden, layers, heads, KV heads, feed-forward width, vocabulary, tied)
QWEN2 = {
    "Qwen2.5-0.5B": (896, 24, 14, 2, 4864, 151936, True),
    "Qwen2.5-1.5B": (1536, 28, 12, 2, 8960, 151936, True),
    "Qwen2.5-3B": (2048, 36, 16, 2, 11008, 151936, True),
    "Qwen2.5-7B": (3584, 28, 28, 4, 18944, 152064, False),
    "Qwen2.5-14B": (5120, 48, 40, 8, 13824, 152064, False),
    "Qwen2.5-32B": (5120, 64, 40, 8, 27648, 152064, False),
    "Qwen2.5-72B": (8192, 80, 64, 8, 29568, 152064, False),
}

# The same; heads have 128 dimensions, whatever the width.
QWEN3 = {
    "Qwen3-0.6B": (1024, 28, 16, 8, 3072, 151936, True),
    "Qwen3-1.7B": (2048, 28, 16, 8, 6144, 151936, True),
    "Qwen3-4B": (2560, 36, 32, 8, 9728, 151936, True),
    "Qwen3-8B": (4096, 36, 32, 8, 12288, 151936, False),
    "Qwen3-14B": (5120, 40, 40, 8, 17408, 151936, False),
    "Qwen3-32B": (5120, 64, 64, 8, 25600, 151936, False),
}


def qwen1(name):
    hidden, layers, heads, ffn, vocabulary, length, extended = QWEN1[name]
    return {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "bf16": True,
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "kv_channels": 128,
        "layer_norm_epsilon": 1e-06,
        "max_position_embeddings": 32768,
        "no_bias": True,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "rotary_emb_base": 1000000 if name == "Qwen-72B" else 10000,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": length,
        "tie_word_embeddings": False,
        "use_dynamic_ntk": extended,
        "use_logn_attn": extended,
        "vocab_size": vocabulary,
    }


def qwen2(name, shapes=QWEN2):
    hidden, layers, heads, kv_heads, ffn, vocabulary, tied = shapes[name]
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "max_position_embeddings": 32768,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": tied,
        "use_sliding_window": False,
        "vocab_size": vocabulary,
    }


def qwen3(name):
    return qwen2(name, QWEN3) | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "rope_scaling": None,
    }


def config(name):
    if name in QWEN1:
        return qwen1(name)
    return qwen2(name) if name in QWEN2 else qwen3(name)
