"""Our tokenizer against tiktoken and tokenizers, on the real vocabulary and generated text."""

import json
import os
import pathlib
import random
import subprocess
import unicodedata

import pytest
import tokenizers

import generate_text
import qwen_vocab

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLI = pathlib.Path(os.environ["QWENSERVE_BIN"]) / "tokenizer_cli"
NUM_TEXTS = 12000


def run_cli(model_dir, requests):
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([CLI, model_dir], input=lines.encode(), capture_output=True, check=True)
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(replies) == len(requests)
    return replies


def encode_all(model_dir, texts):
    replies = run_cli(model_dir, [{"op": "encode", "text": text} for text in texts])
    return [reply["ids"] for reply in replies]


def check_equal(texts, ours, theirs):
    wrong = [(t, a, b) for t, a, b in zip(texts, ours, theirs) if a != b]
    assert not wrong, f"{len(wrong)} of {len(texts)} differ, the first: {wrong[0]!r}"


@pytest.fixture(scope="module")
def vocabulary_path():
    return pathlib.Path(os.environ["QWENSERVE_QWEN_TIKTOKEN"])


@pytest.fixture(scope="module")
def ranks(vocabulary_path):
    return qwen_vocab.read_ranks(vocabulary_path)


@pytest.fixture(scope="module", params=["pairs", "strings"])
def hf_model(ranks, request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    text = qwen_vocab.tokenizer_json(ranks, merge_pairs=request.param == "pairs")
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return folder, tokenizers.Tokenizer.from_str(text)


@pytest.fixture(scope="module")
def texts():
    return generate_text.generate(NUM_TEXTS, seed=20240517)


def nfc(text):
    """For the references: tiktoken has no NFC, that of tokenizers is of an older Unicode version
    (it takes U+09FE and U+0EBA for starters) but leaves text alone that is normal already."""
    return unicodedata.normalize("NFC", text)


def plain_ids(hf, text):
    """The pipeline without its look for added tokens, which user text never is for us."""
    ids = []
    for piece in hf.pre_tokenizer.pre_tokenize_str(hf.normalizer.normalize_str(nfc(text))):
        ids.extend(token.id for token in hf.model.tokenize(piece[0]))
    return ids


def test_tiktoken_file_against_tiktoken(vocabulary_path, ranks, texts):
    texts = texts + generate_text.every_code_point()
    reference = qwen_vocab.tiktoken_encoding(ranks)
    theirs = [reference.encode_ordinary(nfc(text)) for text in texts]
    check_equal(texts, encode_all(vocabulary_path.parent, texts), theirs)


def test_tokenizer_json_against_tokenizers(hf_model, texts):
    folder, hf = hf_model
    check_equal(texts, encode_all(folder, texts), [plain_ids(hf, text) for text in texts])


def test_whole_pipeline_of_tokenizers(hf_model, texts):
    """Without spellings of added tokens the two agree on encode() as a client calls it."""
    folder, hf = hf_model
    texts = [text for text in texts if "<" not in text][:2000]
    assert len(texts) == 2000
    normal = [nfc(text) for text in texts]
    theirs = [encoding.ids for encoding in hf.encode_batch(normal, add_special_tokens=False)]
    check_equal(texts, encode_all(folder, texts), theirs)


def test_decoding_against_tokenizers(hf_model):
    """Random ids, so mostly broken UTF-8, in steps of random size."""
    folder, hf = hf_model
    rng = random.Random(7)
    size = hf.get_vocab_size()
    # Tokens that are not valid UTF-8 by themselves are a percent of all; make them common.
    fragments = [i for i in range(2000, 151643) if "\ufffd" in hf.decode([i])]
    requests, expected = [], []
    for _ in range(3000):
        ids = [
            rng.choice(fragments) if rng.random() < 0.6 else rng.randrange(size)
            for _ in range(rng.randint(1, 30))
        ]
        cuts = sorted(rng.sample(range(len(ids) + 1), min(3, len(ids) + 1)))
        steps = [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)])]
        requests.append({"op": "decode", "steps": steps})
        expected.append(hf.decode(ids, skip_special_tokens=True))
    ours = ["".join(reply["texts"]) for reply in run_cli(folder, requests)]
    check_equal([request["steps"] for request in requests], ours, expected)


def test_chat_ids_against_tokenizers(hf_model):
    """The official path: the template's text, encoded as a whole with added tokens on."""
    folder, hf = hf_model
    path = ROOT / "third_party/chat_template_goldens/renderings.json"
    # Qwen1 encodes piece by piece; text by users that spells a token is where we differ by intent.
    cases = [
        case
        for case in json.loads(path.read_text(encoding="utf-8"))
        if case["template"] != "qwen1" and case["name"] != "results wrapped by hand"
    ]
    assert len(cases) > 70
    replies = run_cli(folder, [case | {"op": "chat"} for case in cases])
    names = [(case["template"], case["name"]) for case in cases]
    theirs = [hf.encode(case["text"], add_special_tokens=False).ids for case in cases]
    check_equal(names, [reply["ids"] for reply in replies], theirs)


def test_demo_model_against_tokenizers(texts):
    path = ROOT / "models/demo/tokenizer.json"
    hf = tokenizers.Tokenizer.from_file(str(path))
    check_equal(texts, encode_all(path.parent, texts), [plain_ids(hf, text) for text in texts])
