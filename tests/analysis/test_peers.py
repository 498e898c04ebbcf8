"""Other projects' numbers, written anew from what they do: equal to ours, or apart as told.

`docs/peers.md` has the table; what stands there was measured with the projects' own code.
"""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

import v4kit
from tests import zoo
from v4kit import analysis
from v4kit.trace import import_routing, make_trace

SOFTMAX = {"olmoe": False, "qwen3_moe": True, "mixtral": True}
"""Families whose weights are a softmax, and whether the weights of the chosen add up to 1."""
QUICK = v4kit.Record(attention=None)


def random_trace(seed, rows=400, layers=3, experts=24, slots=8, documents=2, noise=1.0):
    """Experts in the order of selection that follow from the token, more or less."""
    of_words = np.random.default_rng(0).normal(size=(30, layers, experts))
    words = np.random.default_rng(1).integers(0, 30, rows)
    rng = np.random.default_rng(seed)
    score = of_words[words] + noise * rng.normal(size=(rows, layers, experts))
    ids = np.argsort(-score, axis=2)[:, :, :slots]
    trace = import_routing(
        ids, n_experts=experts, token_ids=words, document=np.arange(rows) * documents // rows,
        predicted_ids=rng.integers(0, 30, rows),
    )  # fmt: skip
    trace.meta["ranked"] = True
    return trace


def seen(model, text):
    """A trace, and by layer: logits and experts of each token, and what the experts were given."""
    found, hooks = {}, []
    for layer, router in model.routers.items():
        (block,) = (m for m in model.hf.modules() if router in m.children())

        def look(module, args, output, layer=layer):
            found[layer] |= {"logits": output[0].float().clone(), "ids": output[2].clone()}

        def given(module, args, layer=layer):
            found[layer]["inputs"] = args[0].reshape(-1, args[0].shape[-1]).clone()

        found[layer] = {"experts": block.experts}
        hooks += [router.register_forward_hook(look),
                  block.experts.register_forward_pre_hook(given)]  # fmt: skip
    record = v4kit.Record(outputs=True, attention=None)
    trace = model.read(text, record=record, prefill_chunk=None)
    for hook in hooks:
        hook.remove()
    return trace, found


def put_out(layer, expert, rows):
    """What an expert makes of some tokens, before any weight `[token, channel]`."""
    inputs = layer["inputs"][rows]
    with torch.no_grad():
        return layer["experts"](
            inputs, torch.full((len(rows), 1), expert), torch.ones(len(rows), 1)
        )


def reap(layer, chosen, *, renormalised):
    """What REAP keeps of a layer, given the experts chosen for each token: softmax weights."""
    probability = torch.softmax(layer["logits"], -1).double().numpy()
    kept = {}
    for expert in range(probability.shape[1]):
        rows = [row for row, used in enumerate(chosen) if expert in used]
        if not rows:
            continue
        values = put_out(layer, expert, rows).double().numpy()
        norms = [math.sqrt(math.fsum(x * x for x in row)) for row in values.tolist()]
        weights = [
            probability[row, expert]
            / (math.fsum(probability[row, e] for e in chosen[row]) if renormalised else 1)
            for row in rows
        ]
        kept[expert] = {
            "reap": math.fsum(w * n for w, n in zip(weights, norms, strict=True)) / len(rows),
            "ean": math.fsum(norms),
            "man": math.fsum(norms) / len(rows),
            "count": len(rows),
            "weighted": math.fsum(weights),
            "max": max(0.0, values.max()),
            "max_abs": abs(values).max(),
        }
    return kept


def ours(trace, layer):
    """The same of ours, by expert that was used."""
    found, largest = analysis.saliency(trace).sel(layer=layer), analysis.super_experts(trace)
    n = int(found["n"])
    return {
        expert: {name: float(found[name][expert]) for name in ("reap", "ean", "man", "count")}
        | {"weighted": float(found["weighted_frequency"][expert]) * n,
           "max_abs": float(largest["max_abs"].sel(layer=layer, expert=expert))}
        for expert in np.flatnonzero(found["count"]).tolist()
    }  # fmt: skip


def of_logits(layer):
    """The experts with the largest logits, as REAP's observer chooses them anew."""
    k = layer["ids"].shape[1]
    return [set(row) for row in layer["logits"].topk(k, -1).indices.tolist()]


def rank_correlation(one, other):
    """Spearman's, of numbers without ties."""
    ranks = (np.argsort(np.argsort(values)) for values in (one, other))
    return float(np.corrcoef(*ranks)[0, 1])


class TestReap:
    """Saliency, against github.com/CerebrasResearch/reap."""

    @pytest.mark.parametrize("family", SOFTMAX)
    def test_alike_where_weights_are_a_softmax(self, family) -> None:
        trace, layers = seen(zoo.model(family), zoo.TEXT)
        for index, layer in layers.items():
            theirs = reap(layer, of_logits(layer), renormalised=SOFTMAX[family])
            mine = ours(trace, index)
            assert theirs.keys() == mine.keys()
            for expert, values in mine.items():
                for name, value in values.items():
                    assert theirs[expert][name] == pytest.approx(value, rel=2e-6), name

    def test_their_largest_activation_has_a_sign(self) -> None:
        """They take the largest value, we the largest magnitude: theirs is never above ours."""
        trace, layers = seen(zoo.model("olmoe"), zoo.TEXT)
        below = []
        for index, layer in layers.items():
            theirs = reap(layer, of_logits(layer), renormalised=False)
            below += [theirs[e]["max"] / v["max_abs"] for e, v in ours(trace, index).items()]
        assert max(below) < 1 + 1e-5
        assert min(below) < 0.9

    def test_v4_multiplies_with_other_weights(self) -> None:
        """Given the experts that were used, norms are alike; weights, and so REAP, are not."""
        trace, layers = seen(zoo.tiny(), zoo.TEXT)
        for index, layer in layers.items():
            used = [set(row) for row in layer["ids"].tolist()]
            theirs, mine = reap(layer, used, renormalised=True), ours(trace, index)
            pairs = [(theirs[e], mine[e]) for e in mine]
            for name in ("ean", "man", "count"):
                assert all(a[name] == pytest.approx(b[name], rel=2e-6) for a, b in pairs)
            assert max(abs(a["reap"] / b["reap"] - 1) for a, b in pairs) > 0.2
            assert rank_correlation(*([v["reap"] for v in side]
                                      for side in zip(*pairs, strict=True))) < 0.99  # fmt: skip

    def test_v4_chooses_otherwise_than_by_logits(self) -> None:
        trace, layers = seen(zoo.tiny(), zoo.TEXT)
        kinds = trace.routing["kind"].to_numpy()
        for index, layer in layers.items():
            chosen = of_logits(layer)
            theirs, mine = reap(layer, chosen, renormalised=True), ours(trace, index)
            used = [set(row) for row in layer["ids"].tolist()]
            same = np.mean([a == b for a, b in zip(chosen, used, strict=True)])
            both = sorted(theirs.keys() & mine.keys())
            found = rank_correlation([theirs[e]["reap"] for e in both],
                                     [mine[e]["reap"] for e in both])  # fmt: skip
            assert same < (0.02 if kinds[index] == "hash" else 0.6)
            assert found < (0.6 if kinds[index] == "hash" else 0.97)


def rewritten(logits, prefer=(), avoid=()):
    """SteerMoE's logits: log-softmax, some a hundredth above the largest, some below the least."""
    found = torch.log_softmax(logits, -1)
    most, least = found.amax(-1), found.amin(-1)
    for expert in prefer:
        found[:, expert] = most + 0.01
    for expert in avoid:
        found[:, expert] = least - 0.01
    return found


def logits_of(model, layer):
    """The logits that a layer's router has for the text `[token, expert]`."""
    return seen(model, zoo.TEXT)[1][layer]["logits"]


class TestSteerMoE:
    """Risk differences and steering, against github.com/adobe-research/SteerMoE."""

    def test_risk_differences_are_alike(self) -> None:
        trace, other = random_trace(2), random_trace(3, rows=150, noise=3.0)
        found = analysis.risk_difference(trace, other)
        for layer in range(3):
            for expert in range(24):
                shares_of = []
                for one in (trace, other):
                    rows = one.routing["experts"].values[:, layer].tolist()
                    active = sum(expert in row for row in rows)
                    shares_of.append(active / (active + sum(expert not in row for row in rows)))
                assert float(found["value"][layer, expert]) == shares_of[0] - shares_of[1]

    @pytest.mark.parametrize("steered", [((), ()), ((5,), ()), ((2, 6), ()), ((), (0, 3)),
                                         ((7,), (1, 4))], ids=str)  # fmt: skip
    @pytest.mark.parametrize("family", SOFTMAX)
    def test_the_same_experts_are_chosen_under_softmax(self, family, steered) -> None:
        """Their weights too, but for e^0.01, where the chosen ones' add up to 1."""
        model, (prefer, avoid) = zoo.model(family), steered
        layer = max(model.routers)
        probability = torch.softmax(rewritten(logits_of(model, layer), prefer, avoid), -1)
        with model.edit(v4kit.steer(layer, prefer=prefer, avoid=avoid, weight="max")):
            part = model.read(zoo.TEXT, record=QUICK).routing.isel(layer=layer)
        for row, ids in enumerate(part["experts"].values.tolist()):
            assert {*ids} == {*probability[row].topk(len(ids)).indices.tolist()}
            theirs = probability[row, ids].double().numpy()
            mine = part["weights"].values[row] * np.exp(np.isin(ids, prefer) * 0.01)
            if SOFTMAX[family]:
                mean = part["weights"].values[row]
                assert abs(theirs / theirs.sum() - mean).max() < 0.0026
            np.testing.assert_allclose(theirs / theirs.sum(), mine / mine.sum(), atol=1e-6)

    def test_without_renormalising_their_weights_move_with_the_mass(self) -> None:
        """OLMoE's weights are shares of all experts: what is preferred takes from the others."""
        model, layer = zoo.model("olmoe"), 1
        probability = torch.softmax(rewritten(logits_of(model, layer), [5, 2]), -1)
        with model.edit(v4kit.steer(layer, prefer=[5, 2], weight="max")):
            part = model.read(zoo.TEXT, record=QUICK).routing.isel(layer=layer)
        ids, mine = part["experts"].values, part["weights"].values
        theirs = np.take_along_axis(probability.numpy(), ids.astype(int), 1)
        assert abs(theirs - mine).max() > 0.1

    def test_nothing_steered_changes_v4_all_the_same(self) -> None:
        """Its scores are no softmax: log-softmax logits choose others. Ours change nothing."""
        model = zoo.tiny()
        trace, layers = seen(model, zoo.TEXT)
        for index in analysis.used.learned_layers(trace):
            logits, k = layers[index]["logits"], layers[index]["ids"].shape[1]
            bias = torch.tensor(trace.routing["bias"].values[index])
            chosen = [
                [{*row} for row in (torch.nn.functional.softplus(x).sqrt() + bias)
                 .topk(k, -1).indices.tolist()]
                for x in (logits, rewritten(logits))
            ]  # fmt: skip
            assert chosen[0] == [{*row} for row in layers[index]["ids"].tolist()]
            assert np.mean([a != b for a, b in zip(*chosen, strict=True)]) > 0.5
        with model.edit(v4kit.steer()):
            again = model.read(zoo.TEXT, record=v4kit.Record(outputs=True, attention=None),
                               prefill_chunk=None)  # fmt: skip
        for name in ("experts", "weights"):
            np.testing.assert_array_equal(again.routing[name], trace.routing[name])
        np.testing.assert_array_equal(again.tokens["logprob"], trace.tokens["logprob"])


def with_largest(largest):
    """A trace in which each expert is used once, and its output is as large as `largest` says."""
    layers, experts = largest.shape
    ids = np.arange(experts)[:, None, None].repeat(layers, 1)
    architecture = {"n_experts": experts, "top_k": 1, "n_shared": 0, "weight_sum": 1.0,
                    "layers": [{"routing": "topk", "attention": "full"}] * layers}  # fmt: skip
    meta = {"model": "m", "ranked": True, "architecture": architecture}
    columns = {"id": np.arange(experts), "position": np.arange(experts)}
    return make_trace(columns, {"experts": ids, "output_max": largest.T[:, :, None]}, meta)


def profiled(largest, layers):
    """Super-Experts-Profilling: of these layers alone, above P99.5 and a tenth, rounded down."""
    known = {(la, e): float(largest[la, e]) for la in range(layers)
             for e in range(largest.shape[1])}  # fmt: skip
    bound = max(np.percentile(list(known.values()), 99.5), max(known.values()) // 10)
    return {cell for cell, value in known.items() if value > bound}


class TestSuperExperts:
    """Super experts, against github.com/ZunhaiSu/Super-Experts-Profilling and REAP's form."""

    @pytest.mark.parametrize("seed", range(4))
    def test_alike_over_all_layers(self, seed) -> None:
        largest = np.random.default_rng(seed).pareto(1.5, (8, 60)).astype(np.float32) * 20
        found = analysis.super_experts(with_largest(largest))
        mine = set(map(tuple, np.argwhere(found["is_super"].values).tolist()))
        assert mine == profiled(largest, 8)
        assert 0 < len(mine) < 4

    def test_later_layers_set_the_bound_but_not_there(self) -> None:
        """Like REAP's form, we leave late layers out of the answer, they out of the percentile."""
        largest = np.random.default_rng(0).random((8, 60)).astype(np.float32)
        largest[7] += 50
        largest[2, 9] = 6
        assert (2, 9) in profiled(largest, 6)
        found = analysis.super_experts(with_largest(largest), depth=0.75)
        bound = max(np.quantile(largest, 0.995), largest.max() / 10)
        assert not (largest[:6] > bound).any()
        assert not found["is_super"].any()

    def test_their_tenth_is_rounded_down(self) -> None:
        """Of a largest value below 10 it is 0, and the percentile alone decides."""
        largest = np.full((2, 300), 0.1, np.float32)
        largest[0, :5] = [9, 0.85, 0.8, 0.7, 0.6]
        assert profiled(largest, 2) > {(0, 0)}
        found = analysis.super_experts(with_largest(largest))
        assert np.argwhere(found["is_super"].values).tolist() == [[0, 0]]


class TestOlmoe:
    """Co-activation, saturation, words and layers, against github.com/allenai/OLMoE."""

    def test_coactivation_counts_neighbours_in_rank(self) -> None:
        trace = random_trace(2)
        found = analysis.coactivation(trace, compatibility="olmoe")
        for layer in range(3):
            pairs, single = Counter(), Counter()
            for used in trace.routing["experts"].values[:, layer].tolist():
                single.update(used)
                for one, two in pairwise(used):
                    pairs.update([(one, two), (two, one)])
            for one, two in np.ndindex(24, 24):
                if one != two and single[one]:
                    share = float(found["share"][layer, one, two])
                    assert share == pytest.approx(pairs[one, two] / single[one], rel=1e-12)
        whole = analysis.coactivation(trace)
        assert int(whole["count"].sum()) == 4 * int(found["count"].sum())

    @pytest.mark.parametrize("top", [1, 8])
    def test_saturation_is_overlap(self, top) -> None:
        late, early = random_trace(2), random_trace(4, noise=2.0)
        found = analysis.overlap(late, early, top)
        for layer in range(3):
            rows = zip(*(t.routing["experts"].values[:, layer, :top].tolist()
                         for t in (late, early)), strict=True)  # fmt: skip
            ratios = [len({*one} & {*two}) / top for one, two in rows]
            assert float(found["value"][layer]) == pytest.approx(np.mean(ratios), rel=1e-12)

    @pytest.mark.parametrize("top", [1, 8])
    @pytest.mark.parametrize("of", ["input", "next", "predicted"])
    def test_words_are_alike_without_a_minimum(self, of, top) -> None:
        """They stand for each block of text, so that no word follows from one to the next."""
        trace = random_trace(2)
        found = analysis.vocabulary_specialization(trace, of=of, top=top, min_count=1,
                                                   permutations=1)  # fmt: skip
        for layer in range(3):
            taken = {}
            for document in (0, 1):
                rows = np.flatnonzero(trace.tokens["document"] == document)
                ids = trace.tokens["id"].to_numpy()[rows].tolist()
                predicted = trace.tokens["predicted"].to_numpy()[rows].tolist()
                words = {"input": ids, "next": ids[1:], "predicted": predicted}[of]
                used = trace.routing["experts"].values[rows, layer, :top].tolist()
                for word, experts in zip(words, used, strict=False):
                    taken.setdefault(word, []).extend(experts)
            most = [Counter(e).most_common(1)[0][1] / (len(e) // top) for e in taken.values()]
            assert float(found["value"][layer]) == pytest.approx(np.mean(most), rel=1e-12)

    def test_domain_shares_are_out_of_all_uses_there(self) -> None:
        trace = random_trace(2, documents=6)
        trace.tokens["label"] = [("code", "story")[d % 2] for d in trace.tokens["document"]]
        found = analysis.domain_specialization(trace, permutations=1)
        for label in ("code", "story"):
            rows = np.flatnonzero(trace.tokens["label"] == label)
            for layer in range(3):
                used = Counter(trace.routing["experts"].values[rows, layer].ravel().tolist())
                for expert in range(24):
                    share = float(found["share"].sel(label=label, layer=layer, expert=expert)) / 8
                    assert share == pytest.approx(used[expert] / sum(used.values()), rel=1e-12)

    def test_pairs_of_layers_are_of_equal_rank_there(self) -> None:
        trace = random_trace(2)
        ids = trace.routing["experts"].values
        one, other = (ids[:, layer].ravel().tolist() for layer in (0, 2))
        same_rank = Counter(zip(one, other, strict=True))
        found = analysis.cross_layer(trace, 0, 2)
        assert sum(same_rank.values()) == 8 * 400
        assert int(found["count"].sum()) == 64 * 400
        assert all(n <= int(found["count"][cell]) for cell, n in same_rank.items())


class TestMultilingual:
    """Counts and divergences, against github.com/conctsai's recorder and arXiv 2510.04694."""

    def test_their_recorder_counts_what_we_count(self) -> None:
        model = zoo.model("qwen3_moe")
        record = v4kit.Record(outputs=True, attention=None)
        trace = model.read_many([zoo.TEXT, zoo.TEXT[40:]], record=record, progress=False)
        load, found = analysis.expert_load(trace), analysis.saliency(trace)
        for layer in model.routers:
            tokens, gates = Counter(), Counter()
            part = trace.routing.isel(layer=layer)
            for ids, weights in zip(part["experts"].values, part["weights"].values, strict=True):
                for expert, weight in zip(ids.tolist(), weights.tolist(), strict=True):
                    tokens[expert] += 1
                    gates[expert] += weight
            n = int(load["n"][layer])
            for expert in range(12):
                assert int(load["count"][layer, expert]) == tokens[expert]
                mass = float(found["weighted_frequency"][layer, expert]) * n
                assert np.nan_to_num(mass) == pytest.approx(gates[expert], rel=1e-6)

    def test_divergence_is_that_of_mean_weights(self) -> None:
        """By the paper's words: JS of the mean routing weights of two texts; in bits, and plain."""
        model = zoo.model("qwen3_moe")
        trace = model.read_many([zoo.TEXT[i : i + 60] for i in range(0, 120, 12)], record=QUICK,
                                progress=False)  # fmt: skip
        pairs = [(d, d + 5) for d in range(5)]
        found = analysis.alignment(trace, pairs, permutations=1)
        for place, pair in enumerate(pairs):
            means = []
            for document in pair:
                rows = np.flatnonzero(trace.tokens["document"] == document)
                part, sums = trace.routing.isel(token=rows, layer=0), [0.0] * 12
                ids, weights = (part[name].values.ravel() for name in ("experts", "weights"))
                for expert, weight in zip(ids.tolist(), weights.tolist(), strict=True):
                    sums[expert] += weight / len(rows)
                means.append([s / math.fsum(sums) for s in sums])
            middle = [(p + q) / 2 for p, q in zip(*means, strict=True)]
            apart = math.fsum(x / 2 * math.log2(x / m) for side in means
                              for x, m in zip(side, middle, strict=True) if x)  # fmt: skip
            assert float(found["pair_js_bits"][place, 0]) == pytest.approx(apart, rel=1e-6)
