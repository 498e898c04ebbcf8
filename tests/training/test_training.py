"""Training is seeded and resumable, and its fast maths is transformers' maths."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tests.house.sources import ROOT
from training.corpus import DOMAINS, NATURAL
from training.generated import GENERATORS, KEYS, VALUES, held_out
from training.settings import ARCHITECTURE, MIXTURE, Schedule
from training.sources import SOURCES, fetch
from training.tokenizer import SPECIAL, read
from training.v4 import hash_table

TINY = ROOT / "v4kit" / "models" / "tiny"
HELD = ROOT / "tests" / "data" / "held_out"


def test_sums_are_right_and_held_out_pairs_never_train():
    rng = np.random.default_rng(0)
    for held in (False, True):
        for _ in range(20):
            for line in GENERATORS["sums"](rng, held).splitlines():
                a, operator, b, total = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)", line).groups()
                expected = int(a) + int(b) if operator == "+" else int(a) - int(b)
                assert int(total) == expected
                assert held_out(int(a), int(b)) is held


def test_recall_asks_only_what_was_told():
    rng = np.random.default_rng(0)
    for _ in range(50):
        told = {}
        for line in GENERATORS["recall"](rng, False).splitlines():
            key, mark, value = re.fullmatch(r"(\w+)([:?]) (\w+)", line).groups()
            assert key in KEYS
            assert value in VALUES
            if mark == ":":
                told[key] = value
            else:
                assert told[key] == value


def test_chats_are_in_the_models_prompt_format():
    rng = np.random.default_rng(0)
    pattern = r"<｜User｜>[^<]+<｜Assistant｜>(<think>[^<]+)?</think>\w+"
    chats = [GENERATORS["chat"](rng, False) for _ in range(200)]
    assert all(re.fullmatch(pattern, chat) for chat in chats)
    thinking = sum("<think>" in chat for chat in chats)
    assert 60 < thinking < 140


def test_hash_tables_are_balanced_and_without_repeats():
    frequency = 1e6 / np.arange(1, 1001)  # words fall off like this
    table = hash_table(frequency, 32, 3, seed=5).numpy()
    assert all(len(set(row)) == 3 for row in table)
    load = np.bincount(table.ravel(), weights=np.repeat(frequency, 3), minlength=32)
    types = np.bincount(table.ravel(), minlength=32)
    rest = load[load < 0.9 * frequency[0]]  # the commonest word fills its experts alone
    assert rest.max() / rest.min() < 1.2
    assert types.min() > 0
    assert np.array_equal(table, hash_table(frequency, 32, 3, seed=5).numpy())
    assert not np.array_equal(table, hash_table(frequency, 32, 3, seed=6).numpy())


def test_schedule():
    schedule = Schedule(steps=1000, decay=300, warmup=50)
    assert schedule.rate(0) == pytest.approx(1 / 50)
    assert schedule.rate(49) == schedule.rate(700) == 1
    assert schedule.rate(850) == pytest.approx(0.5)
    assert schedule.rate(999) == pytest.approx(0.02)
    assert schedule.bias_speed(599) == schedule.bias_early
    assert schedule.bias_speed(600) == schedule.bias_late
    assert schedule.bias_speed(850) == pytest.approx(schedule.bias_late / 2)


def test_mixture_and_texts():
    assert set(MIXTURE) == set(DOMAINS)
    assert sum(MIXTURE.values()) == pytest.approx(1)
    assert {source.domain for source in SOURCES} == set(NATURAL)
    assert not any(re.search(r"-SA|GPL|share", s.licence, re.IGNORECASE) for s in SOURCES)
    assert sum(file.stat().st_size for file in HELD.iterdir()) < 2e6


def test_a_changed_archive_is_refused(tmp_path):
    (tmp_path / SOURCES[0].archive).write_bytes(b"something else")
    with pytest.raises(ValueError, match="pinned is"):
        fetch(SOURCES[0], tmp_path)


def test_special_tokens_are_the_first_ids():
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    assert tokenizer.convert_ids_to_tokens(range(len(SPECIAL))) == list(SPECIAL)
    assert [tokenizer.encode(t, add_special_tokens=False) for t in SPECIAL] == [
        [i] for i in range(len(SPECIAL))
    ]
    assert tokenizer.padding_side == "right"
    assert len(tokenizer) == ARCHITECTURE["vocab_size"]
    for domain in NATURAL:
        text = read(HELD / f"{domain}.jsonl")[0]
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


_SAME_MATHS = """
import torch
from training import fast
from training.settings import ARCHITECTURE
from training.v4 import ATTENTION, IndexerLoss, attention
from transformers import DeepseekV4Config, DeepseekV4ForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

torch.manual_seed(0)
config = DeepseekV4Config(**{**ARCHITECTURE, "initializer_range": 0.2})
model = DeepseekV4ForCausalLM(config).eval()
ids = torch.randint(0, config.vocab_size, (2, 200))
with torch.no_grad():
    plain = model(ids, use_cache=False).logits
    fast.install(compiled=False)
    loss = IndexerLoss(model, config.index_topk)
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attention(loss))
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    model.config._attn_implementation = ATTENTION
    quick = model(ids, use_cache=False).logits
assert plain.abs().max() > 5
assert (plain - quick).abs().max() < 1e-3 * plain.abs().max(), (plain - quick).abs().max()
"""


def _python(*arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_fast_maths_is_the_modules_maths():
    _python("-c", _SAME_MATHS)


@pytest.mark.slow
def test_a_resumed_run_is_the_run(tmp_path):
    """Four steps at once, and two and two with a new process between, end in the same weights."""
    data, tokenizer = tmp_path / "data", tmp_path / "tokenizer"
    data.mkdir()
    for domain in DOMAINS:
        shutil.copy(HELD / f"{domain}.jsonl", data / f"{domain}.train.jsonl")
    tokenizer.mkdir()
    shutil.copy(TINY / "tokenizer.json", tokenizer)
    common = ["-m", "training.train", "--data", str(data), "--tokenizer", str(tokenizer)]
    common += ["--steps", "4", "--tokens", "1024", "--no-compile"]
    _python(*common, "--out", str(tmp_path / "once"))
    _python(*common, "--out", str(tmp_path / "twice"), "--stop", "2")
    assert not (tmp_path / "twice" / "trained").exists()
    _python(*common, "--out", str(tmp_path / "twice"))
    once, twice, start = (
        load_file(tmp_path / path / "model.safetensors")
        for path in ("once/trained", "twice/trained", "once/untrained")
    )
    assert once.keys() == twice.keys() == start.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)
    changed = [name for name in once if not torch.equal(once[name], start[name])]
    assert len(changed) > 0.9 * len(once)
    log = [json.loads(line) for line in (tmp_path / "once" / "log.jsonl").read_text().splitlines()]
    assert log == []  # a line every 20 steps


def test_training_is_not_part_of_the_package():
    found = re.compile(r"^(?:from|import) training\b", re.MULTILINE)
    modules = list((ROOT / "v4kit").rglob("*.py"))
    assert len(modules) > 20
    assert not [path for path in modules if found.search(path.read_text("utf-8"))]
