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
    "Qwen2.5-7B": (3584, 28, 28, 4, 18944, 152064, False),
    "Qwen2.5-14B": (5120, 48, 40, 8, 13824, 152064, False),
    "Qwen2.5-72B": (8192, 80, 64, 8, 29568, 152064, False),
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


def qwen2(name):
    hidden, layers, heads, kv_heads, ffn, vocabulary, tied = QWEN2[name]
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


def config(name):
    return qwen1(name) if name in QWEN1 else qwen2(name)
