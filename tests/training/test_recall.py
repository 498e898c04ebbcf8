"""The teaching of recall: needles are where the targets say, and the stages run."""

import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.house.sources import ROOT
from tests.training.test_training import _python
from training.data import BOS, EOS
from training.generated import KEYS, VALUES
from training.needles import BEFORE, documents
from training.recall import RATE, Words, batch, blocks, sequence
from training.settings import AIM_WEIGHTS, AIMS, ARCHITECTURE, MIXTURE, STAGES, Stage

TINY = ROOT / "v4kit" / "models" / "tiny"
HELD = ROOT / "tests" / "data" / "held_out"


class Noise:
    """A corpus of random tokens."""

    natural = ("noise",)

    def crop(self, rng, _domain, length):
        return np.concatenate([[BOS], rng.integers(300, 4096, length - 1)])

    def draw(self, _rng):
        return "noise"


@pytest.fixture(scope="module")
def words():
    return Words.of(Tokenizer.from_file(str(TINY / "tokenizer.json")))


def test_words_are_single_tokens(words):
    assert len(set(words.keys.tolist())) == len(KEYS)
    assert len(set(words.values.tolist())) == len(VALUES)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_values_stand_where_the_sequence_says(words, stage):
    rng = np.random.default_rng(0)
    starts = []
    for _ in range(60):
        made = sequence(rng, Noise(), words, stage, max(stage.lengths))
        ids = made.ids
        assert len(ids) == max(stage.lengths)
        for row in made.marks:
            assert ids[row] in words.values
            assert ids[row - 1] in {words.colon, words.question}
            assert ids[row - 2] in words.keys
        assert made.questions or stage.pairs[1] > 10
        for asking, stood in made.questions:
            key = ids[asking - 1] if ids[asking] == words.question else ids[asking]
            assert key in words.keys
            assert stood
            starts.append(stood[0])
            for row in stood:
                assert row < asking
                assert ids[row] == ids[asking + 1]  # the same value …
                assert key in {ids[row - 1], ids[row - 2]}  # … of the same key
                assert BOS not in ids[row:asking]  # … in the same document
                assert EOS not in ids[row:asking]
    assert set(np.unique(np.array(starts) % 16)) == set(range(16))


def test_lines_begin_at_every_place_of_a_block_equally(words):
    rng = np.random.default_rng(1)
    for stage in STAGES:
        starts = [sequence(rng, Noise(), words, stage, 256).marks[0] % RATE for _ in range(800)]
        assert np.bincount(starts, minlength=RATE).min() > 0.18 * len(starts)


@pytest.mark.parametrize("value", range(40, 44))
def test_blocks_are_those_that_take_from_a_value(value):
    """Asked of transformers' own compressor: whose entries change when the value's token does."""
    from transformers import DeepseekV4Config, DeepseekV4ForCausalLM

    torch.manual_seed(0)
    model = DeepseekV4ForCausalLM(DeepseekV4Config(**ARCHITECTURE)).eval().model
    torch.nn.init.normal_(model.layers[2].self_attn.compressor.position_bias, std=0.02)
    compressor = model.layers[2].self_attn.compressor
    hidden = torch.randn(1, 64, ARCHITECTURE["hidden_size"])
    query = torch.randn(1, 64, ARCHITECTURE["q_lora_rank"])
    entries = []
    with torch.no_grad():
        for _ in range(2):
            rows = torch.arange(64).unsqueeze(0)
            entries.append(compressor(hidden, query, rows, None, 2)[0].reshape(16, -1))
            hidden[:, value] += 1
    changed = (entries[0] != entries[1]).any(-1).nonzero()[:, 0].tolist()
    assert blocks(63, [value]) == changed
    assert blocks(value + 1, [value]) == [b for b in changed if b < (value + 2) // RATE]


def test_batches_hold_needles_weights_and_the_mixture(words):
    stage = Stage("s", 2, 1_024, (64, 128), (2, 6), 0.5, 1.0, answer_weight=2.0, other_weight=0.1)
    for step in range(2):
        made = batch(np.random.default_rng(step + 1), Noise(), words, stage, step)
        length = stage.lengths[step]
        assert made.ids.shape == (1_024 // length, length)
        assert made.needles.shape == (1_024 // length, length, length // RATE)
        recall = made.answers.any(-1)
        assert 0 < recall.sum() < len(recall)
        assert (made.weight[~recall] == 1).all()
        assert (made.weight[made.answers] == 2).all()
        asked = made.answers.roll(-1, 1)
        assert not made.needles[~asked].any()
        assert (made.ids[made.asks] == words.question).all()
        assert np.isin(made.ids[made.marks], words.values).all()


def test_the_last_stage_is_without_target_and_mostly_the_mixture():
    assert [stage.target > 0 for stage in STAGES] == [True] * (len(STAGES) - 1) + [False]
    assert STAGES[-1].recall <= 0.2
    assert STAGES[-1].tokens * STAGES[-1].steps > 1_000_000
    assert AIMS.keys() == AIM_WEIGHTS.keys()
    assert STAGES[-1].rate(STAGES[-1].steps) == pytest.approx(STAGES[-1].last)


@pytest.mark.parametrize("before", BEFORE)
def test_held_out_questions_are_found_after_any_text(before):
    from transformers import AutoTokenizer

    for document in documents(AutoTokenizer.from_pretrained(TINY), HELD, before, 4):
        ids = document.ids[0].tolist()
        assert document.questions
        for question in document.questions:
            assert ids[question.asking - 1] == ids[question.value - 2]
            assert ids[question.asking + 1] == ids[question.value]
            assert question.distance == question.asking + 1 - question.value
        if before != "text":
            assert document.questions[0].value % RATE == (int(before) + 3) % RATE


_TWO_STEPS = """
import json, sys
from dataclasses import replace
from pathlib import Path
from training import settings, teach
settings.ARCHITECTURE.update(hidden_size=32, moe_intermediate_size=16, n_routed_experts=8)
small = [replace(s, steps=2, tokens=512, lengths=(64,), pairs=(2, 5)) for s in settings.STAGES]
teach.STAGES = (small[1], small[2], small[-1])
import torch
from tokenizers import Tokenizer
from training.data import Corpus
from training.settings import Schedule
from training.train import Run, asdict
data, tokenizer, out = map(Path, sys.argv[1:4])
corpus = Corpus(data, Tokenizer.from_file(str(tokenizer / "tokenizer.json")))
run = Run(Schedule(steps=1, decay=1), corpus, out / "run", compiled=False)
run.checkpoint()
sys.argv = ["teach", "--start", str(out / "run" / "checkpoint.pt"), "--data", str(data)]
sys.argv += ["--tokenizer", str(tokenizer), "--out", str(out / "taught"), "--no-compile"]
teach.main()
before, after = (
    torch.load(out / name / "checkpoint.pt", weights_only=True) for name in ("run", "taught")
)
assert [s["name"] for s in after["teaching"]["stages"]] == ["mark", "short", "mixture"]
first = torch.load(out / "taught" / "0-mark.pt", weights_only=True)["model"]
changed = {k for k, v in first.items() if not v.equal(before["model"][k])}
aimed = ("model.layers.1.self_attn", "model.layers.2.self_attn")
assert changed and all(k.startswith(aimed) for k in changed)
changed = {k for k, v in after["model"].items() if not v.equal(before["model"][k])}
assert len(changed) > 0.9 * len(after["model"]) - 10, len(changed)
"""


def test_stages_train_what_they_say(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for domain in MIXTURE:
        shutil.copy(HELD / f"{domain}.jsonl", data / f"{domain}.train.jsonl")
    _python("-c", _TWO_STEPS, str(data), str(TINY), str(tmp_path))
