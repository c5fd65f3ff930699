#!/usr/bin/env python3
"""Asks the demo model the questions of tests/demo_model and prints the share of right answers.

    evaluate.py --address HOST:PORT [--qwenctl build/bin/qwenctl]   through a running gateway
    evaluate.py --torch                                             the files in models/demo, in torch
    evaluate.py --torch --temperature 0.7                           sampled instead of greedy
    evaluate.py --check-transformers                                same greedy tokens in transformers

An answer is right if, for each of its facts, one alternative occurs in it, in any case. Exits with 1
if a rate is below its bar.
"""

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BARS = {"known": 0.95, "paraphrases": 0.70}


def read_questions(name: str) -> list[dict]:
    path = ROOT / "tests" / "demo_model" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def is_right(answer: str, facts: list[list[str]]) -> bool:
    lower = answer.lower()
    return all(any(alternative.lower() in lower for alternative in fact) for fact in facts)


class GatewayModel:
    """Answers through `qwenctl`; a dialogue of several turns goes in as token ids."""

    def __init__(self, qwenctl: str, address: str, temperature: float = 0.0):
        self._qwenctl, self._address, self._temperature = qwenctl, address, temperature

    def answer(self, messages: list[dict]) -> str:
        if len(messages) == 1:
            arguments = ["chat", "--message", messages[0]["content"]]
        else:
            ids = ",".join(map(str, self._dialogue_ids(messages)))
            arguments = ["complete", "--token-ids", ids]
        done = subprocess.run(
            [self._qwenctl, *arguments, "--address", self._address, "--max-tokens", "200",
             "--temperature", str(self._temperature), "--output", "json"],
            stdout=subprocess.PIPE, timeout=120, check=True)
        answer = json.loads(done.stdout)
        if answer["finish_reason"] != "stop":
            raise RuntimeError(f"{messages[-1]['content']!r} did not end by itself: {answer}")
        return answer["text"]

    @staticmethod
    def _dialogue_ids(messages: list[dict]) -> list[int]:
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file(str(ROOT / "models" / "demo" / "tokenizer.json"))
        text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        for m in messages:
            text += f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n"
        return tokenizer.encode(text + "<|im_start|>assistant\n").ids


class TorchModel:
    """Answers from the files alone, in float32."""

    def __init__(self, folder: pathlib.Path, temperature: float = 0.0):
        import torch
        import tokens
        from model import Model
        torch.set_num_threads(2)
        self._encoder = tokens.ChatEncoder(tokens.Tokenizer.from_file(str(folder / "tokenizer.json")))
        self._model = Model.load(folder)
        self._temperature = temperature
        self._random = torch.Generator().manual_seed(1)

    def ids(self, messages: list[dict]) -> tuple[list[int], list[int]]:
        prompt = self._encoder.prompt(messages)
        return prompt, self._model.generate(prompt, {self._encoder.end, self._encoder.pad}, 200,
                                            self._temperature, self._random)

    def answer(self, messages: list[dict]) -> str:
        return self._encoder.decode(self.ids(messages)[1])


def rate(model, name: str, verbose: bool) -> float:
    items = read_questions(name)
    right = 0
    for item in items:
        answer = model.answer(item["messages"])
        ok = is_right(answer, item["facts"])
        right += ok
        if verbose or not ok:
            print(f"{'ok   ' if ok else 'WRONG'} {item['messages'][-1]['content']} -> {answer}")
    print(f"{name}: {right} of {len(items)} = {right / len(items):.1%} (bar {BARS[name]:.0%})", flush=True)
    return right / len(items)


def check_transformers(folder: pathlib.Path) -> int:
    """Greedy tokens and the rendered prompt must be those of transformers' Qwen2."""
    import torch
    from transformers import AutoTokenizer, Qwen2ForCausalLM
    ours = TorchModel(folder)
    theirs = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    different = 0
    items = [i for name in BARS for i in read_questions(name)]
    for item in items:
        prompt, answer = ours.ids(item["messages"])
        text = tokenizer.apply_chat_template(item["messages"], tokenize=False, add_generation_prompt=True)
        encoded = tokenizer(text, return_tensors="pt")
        out = theirs.generate(**encoded, max_new_tokens=200, do_sample=False)[0].tolist()
        new = out[encoded["input_ids"].shape[1]:]
        if encoded["input_ids"][0].tolist() != prompt or new[:len(answer)] != answer or len(new) != len(answer) + 1:
            different += 1
            print("differs:", item["messages"][-1]["content"])
    print(f"transformers: {len(items) - different} of {len(items)} dialogues with equal prompt and tokens")
    return 1 if different else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--address", help="HOST:PORT of a gateway that serves the demo model")
    how.add_argument("--torch", action="store_true")
    how.add_argument("--check-transformers", action="store_true")
    parser.add_argument("--qwenctl", default=str(ROOT / "build" / "bin" / "qwenctl"))
    parser.add_argument("--model", type=pathlib.Path, default=ROOT / "models" / "demo")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--ask", help="with --torch: print the answer to this instead")
    parser.add_argument("--verbose", action="store_true", help="print right answers too")
    args = parser.parse_args()
    if args.check_transformers:
        return check_transformers(args.model)
    model = (TorchModel(args.model, args.temperature) if args.torch
             else GatewayModel(args.qwenctl, args.address, args.temperature))
    if args.ask:
        print(model.answer([{"role": "user", "content": args.ask}]))
        return 0
    rates = {name: rate(model, name, args.verbose) for name in BARS}
    return 0 if all(rates[name] >= bar for name, bar in BARS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
