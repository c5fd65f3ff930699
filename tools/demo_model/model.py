"""The Qwen2 network in plain torch, small enough to read: training, greedy decoding, file names."""

import dataclasses
import json
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn


@dataclasses.dataclass
class Config:
    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def to_json(self, eos: int, bos: int) -> dict:
        return {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
            "attention_dropout": 0.0, "bos_token_id": bos, "eos_token_id": eos,
            "hidden_act": "silu", "initializer_range": 0.02, **dataclasses.asdict(self),
            "max_window_layers": self.num_hidden_layers, "use_sliding_window": False,
            "sliding_window": self.max_position_embeddings, "tie_word_embeddings": True,
            "torch_dtype": "bfloat16", "use_cache": True,
        }


class RmsNorm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(x.dtype)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Attention(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        width = c.num_key_value_heads * c.head_dim
        self.q_proj = nn.Linear(c.hidden_size, c.hidden_size, bias=True)
        self.k_proj = nn.Linear(c.hidden_size, width, bias=True)
        self.v_proj = nn.Linear(c.hidden_size, width, bias=True)
        self.o_proj = nn.Linear(c.hidden_size, c.hidden_size, bias=False)

    def forward(self, x, cos, sin, cache):
        """x [B,T,H]; `cache` is None (training) or a list that holds the keys and values so far."""
        batch, time, _ = x.shape

        def heads(y, n):
            return y.view(batch, time, n, self.c.head_dim).transpose(1, 2)

        q = rotate(heads(self.q_proj(x), self.c.num_attention_heads), cos, sin).to(x.dtype)
        k = rotate(heads(self.k_proj(x), self.c.num_key_value_heads), cos, sin).to(x.dtype)
        v = heads(self.v_proj(x), self.c.num_key_value_heads)
        if cache is not None:
            if cache:
                k, v = torch.cat((cache[0], k), 2), torch.cat((cache[1], v), 2)
            cache[:] = [k, v]
        group = self.c.num_attention_heads // self.c.num_key_value_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        # Spelled out: on short sequences it is faster on the CPU than the fused kernel.
        scores = q @ k.transpose(-1, -2) * self.c.head_dim ** -0.5
        if time > 1:
            scores = scores + torch.full((time, time), -torch.inf, dtype=scores.dtype).triu(1)
        out = scores.softmax(-1).to(v.dtype) @ v
        return self.o_proj(out.transpose(1, 2).reshape(batch, time, -1))


class Mlp(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.gate_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.up_proj = nn.Linear(c.hidden_size, c.intermediate_size, bias=False)
        self.down_proj = nn.Linear(c.intermediate_size, c.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c: Config, dropout: float):
        super().__init__()
        self.input_layernorm = RmsNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = Attention(c)
        self.post_attention_layernorm = RmsNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = Mlp(c)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, cos, sin, cache):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, cache)
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class Model(nn.Module):
    def __init__(self, c: Config, dropout: float = 0.0):
        super().__init__()
        self.c = c
        self.embed_tokens = nn.Embedding(c.vocab_size, c.hidden_size)
        self.layers = nn.ModuleList(Layer(c, dropout) for _ in range(c.num_hidden_layers))
        self.norm = RmsNorm(c.hidden_size, c.rms_norm_eps)
        self.dropout = nn.Dropout(dropout)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = 0.02 / (math.sqrt(2 * c.num_hidden_layers)
                                if name.endswith(("o_proj.weight", "down_proj.weight")) else 1)
                nn.init.normal_(p, std=scale)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def hidden(self, ids, start: int = 0, caches=None):
        """ids [B,T] at positions start.. -> final hidden states [B,T,H]."""
        c = self.c
        inv = c.rope_theta ** (-torch.arange(0, c.head_dim, 2, dtype=torch.float32) / c.head_dim)
        angles = torch.outer(torch.arange(start, start + ids.shape[1], dtype=torch.float32), inv)
        cos, sin = torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()
        x = self.dropout(self.embed_tokens(ids))
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, None if caches is None else caches[i])
        return self.norm(x)

    def logits(self, hidden):
        return F.linear(hidden, self.embed_tokens.weight)

    @torch.inference_mode()
    def generate(self, ids: list[int], stop: set[int], limit: int = 200, temperature: float = 0.0,
                 generator: torch.Generator | None = None) -> list[int]:
        """Greedy (temperature 0) or sampled tokens after `ids`, without the stop token."""
        caches: list[list] = [[] for _ in self.layers]
        out: list[int] = []
        feed, start = torch.tensor([ids]), 0
        while len(out) < limit:
            logits = self.logits(self.hidden(feed, start, caches)[0, -1])
            if temperature > 0:
                token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
            else:
                token = int(logits.argmax())
            if token in stop:
                break
            out.append(token)
            start += feed.shape[1]
            feed = torch.tensor([[token]])
        return out

    def save(self, folder: pathlib.Path):
        """Writes the weights as bf16 under the names of Qwen2 checkpoints."""
        save_file({"model." + k: v.detach().to(torch.bfloat16).contiguous()
                   for k, v in self.state_dict().items()},
                  folder / "model.safetensors", metadata={"format": "pt"})

    @staticmethod
    def load(folder: pathlib.Path) -> "Model":
        """Reads a folder written by `save`; computes in float32."""
        raw = json.loads((folder / "config.json").read_text())
        names = {f.name for f in dataclasses.fields(Config)}
        model = Model(Config(**{k: v for k, v in raw.items() if k in names}))
        weights = load_file(folder / "model.safetensors")
        model.load_state_dict({k.removeprefix("model."): v.float() for k, v in weights.items()})
        return model.eval()
