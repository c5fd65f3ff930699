"""The tokenizer of the demo model: byte-level BPE in the layout of Qwen2's tokenizer.json."""

import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def train(lines, vocab_size: int) -> Tokenizer:
    """Learns `vocab_size` entries; the special tokens get the last ids, as in Qwen2."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.train_from_iterator(lines, trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=16, show_progress=False))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(f"the corpus gave {tokenizer.get_vocab_size()} entries, not {vocab_size}")
    return tokenizer


def save(tokenizer: Tokenizer, folder: pathlib.Path, max_length: int):
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = {t: tokenizer.token_to_id(t) for t in SPECIALS}
    config = {
        "add_bos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": {
            str(i): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                     "single_word": False, "special": True} for t, i in ids.items()},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": None,
        "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": max_length,
        "pad_token": "<|endoftext|>", "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


class ChatEncoder:
    """Dialogues to ids; content is never searched for special tokens."""

    def __init__(self, tokenizer: Tokenizer, question_dropout: float = 0.0):
        """`question_dropout`: BPE merges of user text are skipped at this rate, as if misspelt."""
        self.plain = Tokenizer.from_str(tokenizer.to_str())
        self.noisy = Tokenizer.from_str(tokenizer.to_str())
        for t in (self.plain, self.noisy):
            t.encode_special_tokens = True
        if question_dropout:
            self.noisy.model.dropout = question_dropout
        self.pad, self.start, self.end = (tokenizer.token_to_id(t) for t in SPECIALS)
        self.newline = self._ids("\n")
        self.roles = {r: self._ids(r + "\n") for r in ("system", "user", "assistant")}
        self._cache: dict[str, list[int]] = {}

    def _ids(self, text: str) -> list[int]:
        return self.plain.encode(text).ids

    def text(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self._ids(text)
        return self._cache[text]

    def prompt(self, messages: list[dict]) -> list[int]:
        """ids of a conversation up to where the assistant speaks."""
        if messages[0]["role"] != "system":
            messages = [{"role": "system", "content": "You are a helpful assistant."}, *messages]
        ids: list[int] = []
        for m in messages:
            ids += [self.start, *self.roles[m["role"]], *self._ids(m["content"]), self.end, *self.newline]
        return ids + [self.start, *self.roles["assistant"]]

    def training(self, system: str, turns, noisy: bool):
        """(ids, mask): mask is 1 where the model has to predict the token (answers and their end)."""
        ids = [self.start, *self.roles["system"], *self.text(system), self.end, *self.newline]
        mask = [0] * len(ids)
        spans = []
        for question, answer in turns:
            ids += [self.start, *self.roles["user"]]
            body = (self.noisy if noisy else self.plain).encode(question).ids
            spans.append((len(ids), len(ids) + len(body)))
            ids += [*body, self.end, *self.newline, self.start, *self.roles["assistant"]]
            mask += [0] * (len(ids) - len(mask))
            spoken = [*self.text(answer), self.end]
            ids += spoken
            mask += [1] * len(spoken)
            ids += self.newline
            mask += [0] * len(self.newline)
        return ids, mask, spans

    def decode(self, ids: list[int]) -> str:
        return self.plain.decode(ids, skip_special_tokens=True)
