"""The shipped model is what its card says: every number is computed again from the shipped file."""

import json

import pytest
import torch
from safetensors import safe_open

import v4kit
from tests.house.sources import ROOT
from training.card import card
from training.corpus import DOMAINS, NATURAL
from training.evaluate import evaluate, rounded

TINY = ROOT / "v4kit" / "models" / "tiny"
HELD = ROOT / "tests" / "data" / "held_out"
SHARED = {"recall": "chat"}
"""Half of the chats recall from a list, so what serves recall serves them too."""
NATS = 0.01
"""How far a loss may differ between processors and versions."""


@pytest.fixture(scope="module")
def committed():
    return json.loads((TINY / "evaluation.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def computed():
    return rounded(evaluate(v4kit.load(), HELD))


def test_one_small_file_with_upstream_names():
    (file,) = TINY.glob("*.safetensors")
    assert file.stat().st_size <= 20e6
    with safe_open(file, framework="pt") as tensors:
        names = set(tensors.keys())
        kept = {tensors.get_slice(name).get_dtype() for name in names if ".ffn.experts." in name}
        assert kept == {"BF16"}
        assert not [name for name in names if name.startswith(("model.", "lm_head"))]
        for name in ("hc_attn_fn", "attn.attn_sink", "ffn.gate.bias", "attn.compressor.ape"):
            assert tensors.get_slice(f"layers.3.{name}").get_dtype() == "F32"
    assert {
        "embed.weight",
        "layers.0.ffn.gate.tid2eid",
        "layers.5.ffn.experts.31.w2.weight",
    } <= names


def test_config_is_long_and_has_many_indexer_heads():
    config = json.loads((TINY / "config.json").read_text("utf-8"))
    assert config["max_position_embeddings"] >= 16_384
    assert config["index_n_heads"] >= 16
    assert config["model_type"] == "deepseek_v4"


def test_trained_long_enough(committed):
    assert committed["training"]["tokens"] >= 10_000_000


def test_licences_of_all_texts_are_named():
    texts = json.loads((TINY / "texts.json").read_text("utf-8"))
    assert {text["domain"] for text in texts} == set(NATURAL)
    assert all(text["licence"] and len(text["sha256"]) == 64 for text in texts)


def test_card_agrees_with_the_json():
    assert (TINY / "README.md").read_text("utf-8") == card(TINY)


@pytest.mark.slow
def test_bits_per_byte(committed, computed):
    for name in ("bits_per_byte", "bits_per_byte_untrained"):
        assert computed[name] == pytest.approx(committed[name], abs=NATS)
    assert computed["bits_per_byte_natural_mean"] <= 1.9


@pytest.mark.slow
def test_experts_know_domains_beyond_shuffled_labels(committed, computed):
    for name in ("layers", "layers_untrained"):
        for new, old in zip(computed[name], committed[name], strict=True):
            assert new["nmi"] == pytest.approx(old["nmi"], abs=0.01)
            assert new["nmi_shuffled"] == pytest.approx(old["nmi_shuffled"], abs=0.005)
            assert new["dead"] == 0
    last = computed["layers"][-1]
    assert last["nmi"] >= 5 * last["nmi_shuffled"]
    assert last["nmi"] >= 2 * computed["layers_untrained"][-1]["nmi"]


@pytest.mark.slow
def test_barring_a_domains_experts_costs_that_domain(committed, computed):
    for domain in DOMAINS:
        row = computed["barring"][domain]
        assert row == pytest.approx(committed["barring"][domain], abs=NATS)
        others = [
            abs(value) for name, value in row.items() if name not in (domain, SHARED.get(domain))
        ]
        assert row[domain] >= 0.03
        assert row[domain] >= 5 * sum(others) / len(others)


@pytest.mark.slow
def test_hash_layers_are_token_identity(computed):
    assert computed["hash_layers_exact"] is True


@pytest.mark.slow
def test_accuracy(committed, computed):
    assert computed["accuracy"] == pytest.approx(committed["accuracy"], abs=0.02)


@pytest.mark.slow
def test_values_are_recalled_at_every_alignment(committed, computed):
    recall, old = computed["recall"], committed["recall"]
    assert set(recall["before"]) == {"0", "1", "2", "3", "text"}
    for before, found in recall["before"].items():
        assert found == pytest.approx(old["before"][before], abs=0.03)
        assert found["questions_near"] >= 50
        assert found["questions_far"] >= 300
        assert found["near"] >= 0.8
        assert found["far"] >= 0.6
    for distance, row in recall["first_asked_by_distance"].items():
        assert row == pytest.approx(old["first_asked_by_distance"][distance], abs=0.05)


@pytest.mark.slow
def test_the_needle_is_attended_to_and_needed(committed, computed):
    needle = computed["recall"]["needle"]
    assert needle == pytest.approx(committed["recall"]["needle"], abs=0.03)
    assert needle["questions"] >= 100
    assert needle["mass_needle"] >= 10 * needle["mass_other"]
    assert needle["chosen_needle"] >= needle["chosen_other"] + 0.3
    assert needle["far_hidden"] <= needle["far"] - 0.3


def test_the_card_says_that_recall_was_taught(committed):
    teaching = committed["training"]["teaching"]
    stages = teaching["stages"]
    assert stages[-1]["target"] == 0
    free = stages[-1]["steps"] * stages[-1]["tokens"]
    assert teaching["tokens_without_target"] == free
    assert teaching["tokens"] == sum(stage["steps"] * stage["tokens"] for stage in stages)
    for file in (TINY / "README.md", ROOT / "training" / "README.md"):
        text = file.read_text("utf-8")
        assert "with an attention target" in text
        assert f"{free:,}" in text


def test_weights_load_in_float32_on_a_cpu():
    model = v4kit.load()
    assert {p.dtype for p in model.hf.parameters()} == {torch.float32}
    assert model.meta["router_dtype"] == "float32"
