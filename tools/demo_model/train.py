#!/usr/bin/env python3
"""Trains the demo model from nothing: topics/*.txt -> models/demo.

    nice python tools/demo_model/train.py --out models/demo

Deterministic for one torch version and number of processes. Questions of the test files never enter the
training data; a collision stops the run.
"""

import argparse
import json
import math
import os
import pathlib
import random
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

import tokens
from dialogues import PREFIXES, SYSTEMS, DialogueMaker
from model import Config, Model
from topics import LANGS, Topics, is_right, normalise

HERE = pathlib.Path(__file__).parent
TESTS = HERE.parent.parent / "tests" / "demo_model"
# Batches have one of these widths, so that the matrix library plans for few shapes only.
WIDTHS = (40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 1536)
IGNORED = -100


def read_jsonl(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def held_out_questions() -> set[str]:
    """Normalised paraphrases of the test and development sets: forbidden in training."""
    files = [TESTS / "paraphrases.jsonl", HERE / "dev.jsonl"]
    return {normalise(item["messages"][-1]["content"]) for f in files for item in read_jsonl(f)}


def train_tokenizer(topics: Topics, maker: DialogueMaker, vocab_size: int):
    rng = random.Random(7)
    lines = [maker.ask(name, lang, rng) for name in topics.names for lang in LANGS
             for _ in range(120 if topics.topics[name].weight < 5 else 1500)]
    for topic in topics.topics.values():
        lines += [s.answer for s in topic.sides.values()] * 20
    lines += SYSTEMS * 20 + [p for ps in PREFIXES.values() for p in ps] * 5
    lines += ["system\n", "user\n", "assistant\n", "\n"] * 50
    lines += [w for pattern in topics.macros.values() for w in pattern.split("|")] * 2
    return tokens.train(lines, vocab_size)


class Batches:
    """Endless batches of about `budget` tokens, dialogues of like length together."""

    def __init__(self, maker: DialogueMaker, encoder: tokens.ChatEncoder, budget: int, max_length: int, seed: int):
        self.maker, self.encoder, self.budget, self.max_length = maker, encoder, budget, max_length
        self.rng = random.Random(seed)
        self.seen: set[int] = set()
        self.questions = 0

    def _example(self):
        while True:
            system, turns = self.maker.dialogue(self.rng)
            ids, mask, spans = self.encoder.training(system, turns, self.rng.random() < 0.6)
            if len(turns) < 3 and self.rng.random() < 0.6:  # which answer it is shows at its beginning
                cut = spans[-1][1] + 16
                ids, mask = ids[:cut], mask[:cut]
            if len(ids) <= self.max_length:
                break
        self.questions += len(turns)
        self.seen.update(hash(normalise(q)) for q, _ in turns)
        for begin, end in spans:  # a word nobody knows must not change the answer
            for i in range(begin, end):
                if end - begin > 4 and self.rng.random() < 0.025:
                    ids[i] = self.rng.randrange(256, len_vocab(self.encoder))
        return ids, mask

    def __iter__(self):
        waiting: dict[int, list] = {width: [] for width in WIDTHS}
        while True:
            ids, mask = self._example()
            width = next(w for w in WIDTHS if len(ids) <= w)
            waiting[width].append((ids, mask))
            if len(waiting[width]) * width >= self.budget:
                yield self._pad(waiting[width], width)
                waiting[width] = []

    def _pad(self, batch, width: int):
        ids = torch.full((len(batch), width), self.encoder.pad)
        mask = torch.zeros(len(batch), width, dtype=torch.bool)
        for row, (i, m) in enumerate(batch):
            ids[row, :len(i)] = torch.tensor(i)
            mask[row, :len(m)] = torch.tensor(m, dtype=torch.bool)
        return ids, mask


def predicted(ids, mask):
    """(positions in the flattened input, wanted ids), padded so that few tensor shapes occur."""
    where = mask[:, 1:].reshape(-1).nonzero().squeeze(1)
    wanted = ids[:, 1:].reshape(-1)[where]
    extra = -len(where) % 128
    return F.pad(where, (0, extra)), F.pad(wanted, (0, extra), value=IGNORED)


def len_vocab(encoder: tokens.ChatEncoder) -> int:
    return encoder.pad  # the special tokens are the last ids


def answer_rate(model: Model, encoder: tokens.ChatEncoder, items: list[dict], show: int = 0) -> float:
    """Share of items whose greedy answer holds all its facts."""
    right = 0
    for item in items:
        answer = encoder.decode(model.generate(encoder.prompt(item["messages"]), {encoder.end, encoder.pad}))
        ok = is_right(answer, item["facts"])
        right += ok
        if not ok and show > 0:
            show -= 1
            print(f"    wrong: {item['messages'][-1]['content']!r} -> {answer[:90]!r}", flush=True)
    return right / len(items)


def step_rate(step: int, steps: int, peak: float) -> float:
    warm = min(200, steps // 10)
    if step < warm:
        return peak * (step + 1) / warm
    progress = (step - warm) / max(1, steps - warm)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def write_configs(folder: pathlib.Path, config: Config, encoder: tokens.ChatEncoder):
    (folder / "config.json").write_text(
        json.dumps(config.to_json(eos=encoder.end, bos=encoder.pad), indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({
        "bos_token_id": encoder.pad, "do_sample": False, "eos_token_id": [encoder.end, encoder.pad],
        "pad_token_id": encoder.pad, "repetition_penalty": 1.0}, indent=2) + "\n")


def average_gradients(model: Model):
    """One exchange a step: cheaper on a busy machine than threads that meet in every operation."""
    if dist.get_world_size() == 1:
        return
    flat = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    begin = 0
    for p in model.parameters():
        p.grad.copy_(flat[begin:begin + p.numel()].view_as(p))
        begin += p.numel()


def optimise(model: Model, batches: Batches, args, evaluate, talk: bool):
    decay = [p for p in model.parameters() if p.dim() >= 2]
    rest = [p for p in model.parameters() if p.dim() < 2]
    optimiser = torch.optim.AdamW([{"params": decay, "weight_decay": 0.05},
                                   {"params": rest, "weight_decay": 0.0}], lr=args.rate, betas=(0.9, 0.97))
    start, trained, total, count = time.time(), 0, 0.0, 0
    for step, (ids, mask) in enumerate(batches):
        if step == args.steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = step_rate(step, args.steps, args.rate)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            where, wanted = predicted(ids, mask)
            logits = model.logits(model.hidden(ids[:, :-1]).flatten(0, 1)[where])
        loss = F.cross_entropy(logits.float(), wanted, ignore_index=IGNORED)
        loss.backward()
        average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        trained += ids.numel()
        total, count = total + loss.item(), count + 1
        if talk and (step + 1) % 50 == 0:
            seconds = time.time() - start
            print(f"step {step + 1}/{args.steps} loss {total / count:.4f} {trained / seconds:.0f} tok/s a process, "
                  f"{seconds:.0f} s, {batches.questions} questions", flush=True)
            total, count = 0.0, 0
        if (step + 1) % args.evaluate_every == 0 and step + 1 < args.steps:
            evaluate(step + 1)
            model.train()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent.parent / "models" / "demo")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--budget", type=int, default=1920, help="tokens of a step in one process")
    parser.add_argument("--max-length", type=int, default=WIDTHS[-1], help="longest training dialogue in tokens")
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--processes", type=int, default=2, help="each computes on one core")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--evaluate-every", type=int, default=500)
    parser.add_argument("--no-bf16", dest="bf16", action="store_false", help="float32 matrix products")
    parser.add_argument("--init", type=pathlib.Path, help="folder of a model to go on from, with its tokenizer")
    parser.add_argument("--keep-tokenizer", action="store_true", help="use the tokenizer.json in --out")
    return parser.parse_args()


def worker(rank: int, args):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=args.processes)
    config, topics = Config(), Topics()
    held_out = held_out_questions()
    maker = DialogueMaker(topics, held_out)
    tokenizer = tokens.Tokenizer.from_file(str(args.out / "tokenizer.json"))
    encoder = tokens.ChatEncoder(tokenizer, question_dropout=0.12)
    torch.manual_seed(args.seed)  # the same first weights in every process
    model = Model(config, args.dropout)
    if args.init:
        model.load_state_dict(Model.load(args.init).state_dict())
    torch.manual_seed(args.seed * 1000 + rank)
    batches = Batches(maker, encoder, args.budget, args.max_length, args.seed * 1000 + rank)
    dev = read_jsonl(HERE / "dev.jsonl")

    def evaluate(step):
        if rank == 0:
            model.eval()
            model.save(args.out)
            print(f"  step {step}: development paraphrases {answer_rate(model, encoder, dev, 12):.1%}", flush=True)

    if rank == 0:
        write_configs(args.out, config, encoder)
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(topics.names)} topics", flush=True)
    optimise(model, batches, args, evaluate, rank == 0)
    leaked = [q for q in held_out if hash(q) in batches.seen]
    assert not leaked, f"held-out questions in the training data: {leaked}"
    if rank == 0:
        print(f"{batches.questions} questions in this process, {len(batches.seen)} different; the generator hit "
              f"a held-out question {maker.rejected} times and drew again")
        model.save(args.out)
        final = Model.load(args.out)  # rounded to bf16, as it will be served
        for path in (HERE / "dev.jsonl", TESTS / "known.jsonl", TESTS / "paraphrases.jsonl"):
            print(f"{path.name}: {answer_rate(final, encoder, read_jsonl(path)):.1%}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


def main():
    args = parse_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.init:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (args.out / name).write_bytes((args.init / name).read_bytes())
    elif not args.keep_tokenizer:
        topics, config = Topics(), Config()
        tokenizer = train_tokenizer(topics, DialogueMaker(topics, held_out_questions()), config.vocab_size)
        tokens.save(tokenizer, args.out, config.max_position_embeddings)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29541")
    mp.spawn(worker, (args,), nprocs=args.processes)


if __name__ == "__main__":
    main()
