"""Write the tiny model's card, `README.md` beside its weights, from its JSON files.

`python -m training.card --model v4kit/models/tiny`; a test checks that card and JSON agree.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from training.card_texts import ACCURACY, AIMED, CARD, PURPOSE, TEACHING
from training.corpus import DOMAINS, NATURAL
from training.settings import ARCHITECTURE


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _architecture() -> str:
    a = ARCHITECTURE
    kinds = {
        "sliding_attention": "sliding",
        "compressed_sparse_attention": "CSA",
        "heavily_compressed_attention": "HCA",
    }
    pairs = zip(a["layer_types"], a["mlp_layer_types"], strict=True)
    layers = ", ".join(
        f"{i} {kinds[kind]}/{'hash' if mlp == 'hash_moe' else 'top-k'}"
        for i, (kind, mlp) in enumerate(pairs)
    )
    return table(
        ("", ""),
        [
            ("layers (attention/routing)", layers),
            ("experts", f"{a['n_routed_experts']} + 1 shared, {a['num_experts_per_tok']} chosen"),
            ("hidden size, streams", f"{a['hidden_size']}, {a['hc_mult']}"),
            ("window, compression", f"{a['sliding_window']} tokens, blocks of 4 and of 16"),
            ("indexer", f"{a['index_n_heads']} heads, top {a['index_topk']} blocks"),
            ("vocabulary", f"{a['vocab_size']:,}, byte-level BPE, V4's special tokens"),
            ("context", f"{a['max_position_embeddings']:,} tokens"),
        ],
    )


def _barring(result: dict[str, Any]) -> str:
    rows = []
    for domain in DOMAINS:
        row = result["barring"][domain]
        others = {d: v for d, v in row.items() if d != domain}
        worst = max(others, key=lambda d: abs(others[d]))
        mean = sum(map(abs, others.values())) / len(others)
        cell = f"{others[worst]:+.3f} ({worst})"
        rows.append((domain, f"{row[domain]:+.3f}", cell, f"{mean:.4f}"))
    return table(("barred for", "own domain", "largest other", "others, mean absolute"), rows)


def _layers(result: dict[str, Any]) -> str:
    rows = []
    for index, (layer, raw) in enumerate(
        zip(result["layers"], result["layers_untrained"], strict=True)
    ):
        kind = "hash" if ARCHITECTURE["mlp_layer_types"][index] == "hash_moe" else "top-k"
        load = f"{layer['load_min_over_mean']:.2f} – {layer['load_max_over_mean']:.2f}"
        nmi = [f"{v:.3f}" for v in (layer["nmi"], raw["nmi"], layer["nmi_shuffled"])]
        rows.append((f"{index} {kind}", *nmi, load, layer["dead"]))
    head = ("layer", "NMI", "untrained", "shuffled", "load, min – max over mean", "dead experts")
    return table(head, rows)


def _texts(sources: list[dict[str, Any]]) -> str:
    rows = [
        (s["domain"], s["text"], f"{s['registry']} {s['package']} {s['version']}", s["licence"])
        for s in sources
    ]
    return table(("domain", "text", "package", "licence"), rows)


def _bits(result: dict[str, Any]) -> str:
    raw, bpb = result["bits_per_byte_untrained"], result["bits_per_byte"]
    rows = [
        (d if d in NATURAL else f"{d} (generated)", f"{bpb[d]:.2f}", f"{raw[d]:.2f}")
        for d in DOMAINS
    ]
    return table(("domain", "trained", "untrained"), rows)


def _stages(teaching: dict[str, Any]) -> str:
    rows = []
    for stage in teaching["stages"]:
        trained = "attention of layers 1, 2" if stage["attention_only"] else "everything"
        lists = f"{stage['pairs'][0]}–{stage['pairs'][1]}"
        tokens = f"{stage['steps'] * stage['tokens']:,}"
        lengths = ", ".join(str(length) for length in dict.fromkeys(stage["lengths"]))
        share = f"{stage['recall']:.0%}"
        rows.append((stage["name"], tokens, lengths, lists, share, trained, stage["target"]))
    head = ("stage", "tokens", "lengths", "pairs", "recall", "trained", "weight of the target")
    return table(head, rows)


def _alignment(recall: dict[str, Any]) -> str:
    rows = []
    for before, found in recall["before"].items():
        name = "100 tokens of text" if before == "text" else f"{before} tokens"
        near = f"{found['near']:.0%} of {found['questions_near']}"
        rows.append((name, near, f"{found['far']:.0%} of {found['questions_far']}"))
    return table(("before the list", "within the window", "beyond"), rows)


def _distance(recall: dict[str, Any]) -> str:
    found = recall["first_asked_by_distance"]
    rows = [(d, f"{row['right']:.0%}", row["questions"]) for d, row in found.items()]
    return table(("distance", "right", "questions"), rows)


def _taught(result: dict[str, Any]) -> dict[str, Any]:
    teaching = result["training"]["teaching"]
    return {
        "taught": teaching["tokens"],
        "aimed": teaching["tokens_with_target"],
        "free": teaching["tokens_without_target"],
        "heads": AIMED,
        "last_recall": teaching["stages"][-1]["recall"],
        "before": max(stage["before"] for stage in teaching["stages"]),
        "stages": _stages(teaching),
    }


def _accuracy(result: dict[str, Any]) -> dict[str, Any]:
    accuracy = result["accuracy"]
    return {
        "near": accuracy["recall_near"],
        "near_n": accuracy["questions_near"],
        "far": accuracy["recall_far"],
        "far_n": accuracy["questions_far"],
        "sums": accuracy["sums_held_out"],
        "sums_n": accuracy["sums"],
        "exact": "yes" if result["hash_layers_exact"] else "NO",
    }


def _found(result: dict[str, Any]) -> dict[str, Any]:
    needle = result["recall"]["needle"]
    return {
        "alignment": _alignment(result["recall"]),
        "distance": _distance(result["recall"]),
        "layer": needle["layer"],
        "mass_needle": needle["mass_needle"],
        "mass_other": needle["mass_other"],
        "needle_n": needle["questions"],
        "chosen_n": needle["questions_chosen"],
        "chosen_needle": needle["chosen_needle"],
        "chosen_other": needle["chosen_other"],
        "far_whole": needle["far"],
        "far_hidden": needle["far_hidden"],
    }


def _samples(samples: dict[str, dict[str, str]]) -> str:
    blocks = []
    for name, sample in samples.items():
        for how in ("greedy", "drawn"):
            if how in sample:
                shown = f"{sample['prompt']}⟦{sample[how]}⟧"
                blocks.append(f"{name}, {how}:\n\n````text\n{shown}\n````")
    return "What the model wrote stands in ⟦ ⟧.\n\n" + "\n\n".join(blocks)


def card(model: Path) -> str:
    """Return the card of a model folder as Markdown."""
    result = json.loads((model / "evaluation.json").read_text("utf-8"))
    sources = json.loads((model / "texts.json").read_text("utf-8"))
    training = result["training"]
    schedule, taught = training["schedule"], "teaching" in training
    return CARD.format(
        architecture=_architecture(),
        tokens=training["tokens"],
        steps=training["steps"],
        per_step=schedule["tokens"],
        length=schedule["length"],
        long_every=schedule["long_every"],
        long_length=schedule["long_length"],
        machine=training["machine"],
        mixture=", ".join(f"{d} {p:.0%}" for d, p in training["mixture"].items()),
        texts=_texts(sources),
        mean=result["bits_per_byte_natural_mean"],
        bpb=_bits(result),
        layers=_layers(result),
        random=result["barring_summary"]["random_mean"],
        barring=_barring(result),
        purpose=PURPOSE[taught],
        teaching=TEACHING.format(**_taught(result)) if taught else "",
        accuracy=ACCURACY[taught].format(**_accuracy(result), **(_found(result) if taught else {})),
        samples=_samples(result["samples"]),
    )


def main() -> None:
    """Write the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("v4kit/models/tiny"))
    options = parser.parse_args()
    (options.model / "README.md").write_text(card(options.model), encoding="utf-8")


if __name__ == "__main__":
    main()
