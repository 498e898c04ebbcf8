"""Edits against plain loops over what the routers themselves said in the same pass."""

import contextlib
import json
import math

import numpy as np
import pytest
import torch

import v4kit
from tests import zoo
from tests.intervene.said import IDS, as_if_unedited, compare, edited
from tests.references import hook_count
from v4kit.errors import InputError

NAMES = ("small", "wide", "mixtral", "olmoe", "deepseek_v3", "minimax_m2", "gpt_oss")
EVERY = pytest.mark.parametrize("name", NAMES)
RANKED = pytest.mark.parametrize("name", ["small", "wide", "olmoe", "deepseek_v3", "minimax_m2"])


class TestAblating:
    @EVERY
    def test_rerouted(self, name) -> None:
        model, gone = zoo.random_model(name), [0, 3, 5]

        def expected(one, _row, _layer):
            if one.hashed:
                return one.used
            left = [-math.inf if e in gone else s for e, s in enumerate(one.selection)]
            chosen = one.best(left)
            return one.used if set(chosen) == set(one.used) else one.weigh(chosen)

        trace, said, editing = edited(model, v4kit.ablate(experts=gone))
        compare(trace, said, expected)
        assert not np.isin(trace.routing["experts"].to_numpy()[:, list(editing.layers)], gone).any()
        for layer, count in editing.displaced.items():
            rows = [said[row, layer] for row in range(len(IDS))]
            assert count == sum(set(expected(one, 0, layer)) != set(one.used) for one in rows)

    @EVERY
    @pytest.mark.parametrize("renorm", [False, True])
    def test_knocked_out(self, name, renorm) -> None:
        model, gone = zoo.random_model(name), [0, 3, 5]

        def expected(one, _row, _layer):
            left = {e: 0.0 if e in gone else w for e, w in one.used.items()}
            total = sum(left.values())
            if renorm and total and set(gone) & set(one.used):
                left = {e: w * sum(one.used.values()) / total for e, w in left.items()}
            return left

        edit = v4kit.ablate(experts=gone, reroute=False, renorm=renorm)
        trace, said, _ = edited(model, edit)
        compare(trace, said, expected)

    @pytest.mark.parametrize("policy", ["drop", "drop_renorm", "substitute"])
    def test_in_hash_layers(self, policy) -> None:
        model = zoo.random_model("small")
        gone = list(range(6))

        def expected(one, _row, layer):
            if layer not in (0, 1) or not set(gone) & set(one.used):
                return one.used
            if policy == "substitute":
                free = [e for e in range(16) if e not in gone and e not in one.used]
                best = sorted(free, key=lambda e: (-one.scores[e], e))
                stay = [e for e in one.used if e not in gone]
                return one.weigh(stay + best[: one.k - len(stay)])
            left = {e: 0.0 if e in gone else w for e, w in one.used.items()}
            total = sum(left.values())
            if policy == "drop_renorm" and total:
                left = {e: w * sum(one.used.values()) / total for e, w in left.items()}
            return left

        trace, said, _ = edited(model, v4kit.ablate([0, 1], gone, on_hash=policy))
        compare(trace, said, expected)

    def test_all_of_a_tokens_experts(self) -> None:
        """Nothing routed is left, and nothing is made up for."""
        model = zoo.random_model("small")
        edit = v4kit.ablate(2, range(16), reroute=False, renorm=True)
        trace, _, _ = edited(model, edit)
        assert (trace.routing["weights"][:, 2] == 0).all()
        assert np.isfinite(trace.tokens["logprob"][1:]).all()


class TestChoosing:
    @RANKED
    @pytest.mark.parametrize("weight", ["natural", "max"])
    def test_steered(self, name, weight) -> None:
        model = zoo.random_model(name)
        prefer, avoid = [1], [2, 4]

        def expected(one, _row, _layer):
            if one.hashed:
                return one.used
            moved = list(one.selection)
            for e in prefer:
                moved[e] = 2 * max(one.selection) - min(one.selection) + 0.01
            for e in avoid:
                moved[e] = min(one.selection) - 0.01
            scores = list(one.scores)
            if weight == "max":
                for e in prefer:
                    scores[e] = max(one.scores)
            chosen = one.best(moved)
            same = set(chosen) == set(one.used) and weight == "natural"
            return one.used if same else one.weigh(chosen, scores)

        edit = v4kit.steer(prefer=prefer, avoid=avoid, weight=weight)
        trace, said, editing = edited(model, edit)
        compare(trace, said, expected)
        for layer in editing.layers:
            assert (trace.routing["experts"][:, layer] == 1).any("slot").all()

    @RANKED
    def test_forced_is_preferred(self, name) -> None:
        model = zoo.random_model(name)
        forced, _, _ = edited(model, v4kit.force(experts=[1]))
        steered, _, _ = edited(model, v4kit.steer(prefer=[1]))
        assert forced.routing.equals(steered.routing)

    @RANKED
    def test_nudged(self, name) -> None:
        model = zoo.random_model(name)

        def expected(one, _row, _layer):
            if one.hashed:
                return one.used
            moved = [s + 0.2 * (e in (1, 2)) for e, s in enumerate(one.selection)]
            chosen = one.best(moved)
            return one.used if set(chosen) == set(one.used) else one.weigh(chosen)

        trace, said, _ = edited(model, v4kit.nudge(experts=[1, 2], delta=0.2))
        compare(trace, said, expected)


class TestWeighing:
    @EVERY
    @pytest.mark.parametrize("renorm", [False, True])
    def test_scaled(self, name, renorm) -> None:
        model = zoo.random_model(name)

        def expected(one, _row, _layer):
            if not {1, 2} & set(one.used):
                return one.used
            found = {e: w * (2.5 if e in (1, 2) else 1.0) for e, w in one.used.items()}
            share = sum(one.used.values()) / sum(found.values()) if renorm else 1.0
            return {e: w * share for e, w in found.items()}

        edit = v4kit.scale(experts=[1, 2], factor=2.5, renorm=renorm)
        trace, said, _ = edited(model, edit)
        compare(trace, said, expected)

    @EVERY
    def test_budget(self, name) -> None:
        model = zoo.random_model(name)

        def expected(one, _row, _layer):
            score = one.scores if one.hashed else one.selection
            best = max(one.used, key=lambda e: score[e])
            total = sum(one.used.values())
            return {e: total if e == best else 0.0 for e in one.used}

        trace, said, _ = edited(model, v4kit.budget(k=1))
        compare(trace, said, expected)

    @EVERY
    def test_replay_of_another_text(self, name) -> None:
        model = zoo.random_model(name)
        other = model.read([0, *range(200, 245)])
        ids = other.routing["experts"].to_numpy()

        def expected(one, row, layer):
            wanted = ids[row, layer].tolist()
            return one.used if set(wanted) == set(one.used) else one.weigh(wanted)

        trace, said, _ = edited(model, v4kit.replay(other))
        compare(trace, said, expected)


class TestNothing:
    """What asks for no change makes none, to the bit, in prefill and decode."""

    @EVERY
    def test_neutral_edits(self, name) -> None:
        model = zoo.random_model(name)
        base = model.generate(IDS, max_new_tokens=6, prefill_chunk=11)
        k = model.architecture.top_k
        neutral = {
            "replay": v4kit.replay(base),
            "steer": v4kit.steer(),
            "scale": v4kit.scale(experts=[0, 1], factor=1.0, renorm=True),
            "nudge": v4kit.nudge(experts=[0, 1], delta=0.0),
            "budget": v4kit.budget(k=k),
        }
        for kind, edit in neutral.items():
            with model.edit(edit) as editing:
                again = model.generate(IDS, max_new_tokens=6, prefill_chunk=11)
            assert as_if_unedited(again).equals(base.routing), kind
            assert again.tokens.equals(base.tokens), kind
            assert not any(editing.displaced.values()), kind
            assert not any(editing.scaled.values()), kind

    @pytest.mark.parametrize("dtype", [torch.bfloat16])
    @pytest.mark.parametrize("router_dtype", ["native", "float32"])
    def test_in_bfloat16(self, dtype, router_dtype) -> None:
        hf = zoo.fresh("small", dtype=dtype)
        model = v4kit.wrap(hf, zoo.tokenizer(), router_dtype=router_dtype)
        base = model.forward(IDS, 0, None, [])[0]
        for edit in (v4kit.replay(model.read(IDS)), v4kit.steer()):
            with model.edit(edit):
                assert torch.equal(model.forward(IDS, 0, None, [])[0], base)

    def test_after_the_block_nothing_is_left(self) -> None:
        model = zoo.random_model("small")
        base = model.read(IDS)
        with contextlib.suppress(KeyError), model.edit(v4kit.ablate(experts=[1])):
            assert not model.read(IDS).routing.equals(base.routing)
            raise KeyError
        assert model.edits == []
        assert hook_count(model.hf) == 0
        assert model.read(IDS).routing.equals(base.routing)
        assert "edits" not in model.read(IDS).meta


class TestAblatingRouters:
    @EVERY
    @pytest.mark.parametrize("rule", ["no_bias", "uniform", "nothing"])
    def test_a_simpler_rule(self, name, rule) -> None:
        model = zoo.random_model(name)

        if rule == "no_bias" and model.family.bias is None:
            with pytest.raises(InputError, match="choose without a bias"):
                edited(model, v4kit.ablate_router(rule=rule))
            return

        def expected(one, _row, _layer):
            if rule == "nothing":
                return dict.fromkeys(one.used, 0.0)
            if rule == "uniform":
                return dict.fromkeys(one.used, sum(one.used.values()) / one.k)
            chosen = one.used if one.hashed else one.best(one.scores)
            return one.used if set(chosen) == set(one.used) else one.weigh(chosen)

        trace, said, editing = edited(model, v4kit.ablate_router(rule=rule))
        compare(trace, said, expected)
        assert set(editing.layers) >= set(model.architecture.routed) - set(
            model.architecture.hash_layers
        )

    @EVERY
    def test_experts_at_random(self, name) -> None:
        model = zoo.random_model(name)
        edit = v4kit.ablate_router(rule="random", seed=3)
        trace, said, _ = edited(model, edit)
        ids = trace.routing["experts"].to_numpy()
        compare(trace, said, lambda one, row, layer: one.weigh(ids[row, layer].tolist()))
        with model.edit(edit):
            again = model.read(IDS, prefill_chunk=3)
        np.testing.assert_array_equal(np.sort(again.routing["experts"]), np.sort(ids))
        layers = list(model.architecture.routed)
        for row in ids[:, layers].reshape(-1, ids.shape[2]).tolist():
            assert len(set(row)) == len(row)
        # Every expert about as often: a binomial of this size stays within 5 deviations.
        drawn = ids[:, layers]
        share = np.bincount(drawn.ravel(), minlength=model.architecture.n_experts) / drawn.size
        mean = 1 / model.architecture.n_experts
        assert np.abs(share - mean).max() < 5 * (mean / drawn.size) ** 0.5
        with model.edit(v4kit.ablate_router(rule="random", seed=4)):
            other = model.read(IDS)
        assert (other.routing["experts"].to_numpy() != ids).any()

    def test_unknown(self) -> None:
        with pytest.raises(InputError, match="rule is one of no_bias, random"):
            v4kit.ablate_router(rule="best")
        with pytest.raises(InputError, match="can't act on layer 0"):
            edited(zoo.random_model("small"), v4kit.ablate_router(0, rule="no_bias"))


class TestRecordingFromOutside:
    """`v4kit.record(hf_model, edits=…)` edits any call of a transformers model."""

    @pytest.mark.parametrize("tokens", [(3, 30), "prompt", "generated"])
    def test_it_is_what_the_model_does_under_the_edits(self, tokens) -> None:
        model = zoo.random_model("small")
        edits = [v4kit.force(5, [7], tokens=tokens), v4kit.scale(3, [2], factor=0.5)]
        with model.edit(*edits):
            expected = model.generate(IDS, max_new_tokens=6, prefill_chunk=None)
        with v4kit.record(model.hf, edits=edits) as recording:
            ids = model.hf.generate(
                torch.tensor([IDS]), max_new_tokens=6, do_sample=False, pad_token_id=2,
                attention_mask=torch.ones(1, len(IDS), dtype=torch.long),
            )  # fmt: skip
        trace = recording.trace
        rows = len(trace)
        assert ids[0, :-1].tolist() == trace.tokens["id"].tolist()
        for name in ("experts", "weights"):
            np.testing.assert_array_equal(trace.routing[name], expected.routing[name][:rows])
        assert trace.meta["edits"] == expected.meta["edits"]

    def test_every_row_of_a_batch(self) -> None:
        model = zoo.random_model("small")
        batch = torch.tensor([IDS[:20], IDS[20:40]])
        with v4kit.record(model.hf, edits=[v4kit.force(5, [7], tokens=(4, 9))]) as recording:
            with torch.no_grad():
                model.hf(batch)
            used = (recording.trace.routing["experts"][:, 5] == 7).any("slot").to_numpy()
        assert used.reshape(2, 20)[:, 4:9].all()
        assert not used.all()
        with torch.no_grad(), v4kit.record(model.hf) as bare:
            model.hf(batch)
        assert "edits" not in bare.trace.meta

    def test_the_models_own_calls_name_them(self) -> None:
        """They act in `model.read` too; and a second place for edits would not act with them."""
        model, edits = zoo.random_model("small"), [v4kit.force(5, [7])]
        with v4kit.record(model.hf, edits=edits) as recording:
            own = model.read(IDS)
            assert own.meta["edits"] == recording.trace.meta["edits"]
            with pytest.raises(InputError, match="edits this model already"):
                model.read(IDS, edits=edits)
            with (
                pytest.raises(InputError, match="edits this model already"),
                v4kit.record(model.hf, edits=edits),
            ):
                pass
        assert (own.routing["experts"][:, 5] == 7).any("slot").all()
        assert model.edits == []
        assert "edits" not in model.read(IDS).meta

    def test_what_can_not_act(self) -> None:
        model = zoo.random_model("small")
        for edits, message in (
            ([7], "edits takes edits"),
            (7, "edits takes edits"),
            ([v4kit.force(0, [7])], "can't act"),
        ):
            with pytest.raises(InputError, match=message), v4kit.record(model.hf, edits=edits):
                pass


class TestTogether:
    def test_tokens_from_up_to(self) -> None:
        model = zoo.random_model("small")
        base = model.read(IDS)
        with model.edit(v4kit.force(5, [7], tokens=(10, 20))):
            trace = model.read(IDS, prefill_chunk=8)
        used = (trace.routing["experts"][:, 5] == 7).any("slot").to_numpy()
        own = (base.routing["experts"][:, 5] == 7).any("slot").to_numpy()
        assert used[10:20].all()
        assert (used[:10] == own[:10]).all()
        assert (used[20:] == own[20:]).all()

    @pytest.mark.parametrize("chunk", [None, 7])
    def test_a_phase(self, chunk) -> None:
        """What was generated stays alone under an edit of the prompt, and the other way round."""
        model = zoo.random_model("small")
        options = {"max_new_tokens": 8, "prefill_chunk": chunk, "temperature": 1.0, "seed": 1}
        for phase in ("prompt", "generated"):
            with model.edit(v4kit.force(5, [7], tokens=phase)):
                trace = model.generate(IDS, **options)
            own = (trace.tokens["phase"] == phase).to_numpy()[:-1]
            used = (trace.routing["experts"][:-1, 5] == 7).any("slot").to_numpy()
            assert used[own].all()
            assert not used[~own].all()
            assert trace.meta["edits"][0]["tokens"] == phase
            start, stop = (0, len(IDS)) if phase == "prompt" else (len(IDS), None)
            with model.edit(v4kit.force(5, [7], tokens=(start, stop))):
                same = model.generate(IDS, **options)
            np.testing.assert_array_equal(same.routing["experts"], trace.routing["experts"])
            assert same.text == trace.text

    def test_a_text_that_is_read_is_all_prompt(self) -> None:
        model = zoo.random_model("small")
        with model.edit(v4kit.force(5, [7], tokens="prompt")):
            model.generate(IDS[:5], max_new_tokens=1)
            assert (model.read(IDS).routing["experts"][:, 5] == 7).any("slot").all()
        with model.edit(v4kit.force(5, [7], tokens="generated")) as editing:
            model.read(IDS)
        assert editing.displaced == {5: 0}

    def test_taps_and_traces_see_what_was_used(self) -> None:
        model, seen = zoo.random_model("small"), []
        look = model.tap("router", lambda event: seen.append(event.experts.clone()), layers=3)
        with look, model.edit(v4kit.force(3, [9])):
            trace = model.read(IDS)
        assert (seen[0] == 9).any(-1).all()
        assert trace.meta["edits"] == [
            {
                "edit": "steer",
                "layers": [3],
                "tokens": [0, None],
                "prefer": [9],
                "avoid": [],
                "weight": "natural",
            }
        ]
        assert json.loads(json.dumps(trace.meta["edits"])) == trace.meta["edits"]


WRONG = {
    "expert that is not there": (lambda: v4kit.ablate(2, [16]), "no expert 16: a layer has 16"),
    "too few left": (lambda: v4kit.ablate(2, range(14)), "leaves 2 of 16 .* needs 3"),
    "too many forced": (lambda: v4kit.force(2, range(4)), "4 experts can't all be chosen"),
    "both": (lambda: v4kit.steer(2, prefer=[1], avoid=[1]), r"prefers and avoids \[1\]"),
    "hash layer": (lambda: v4kit.ablate(0, [1]), "can't act on layer 0.*on_hash="),
    "hash layer, steered": (lambda: v4kit.steer(0, prefer=[1]), "layers that choose: 2, 3, 4, 5"),
    "no such layer": (lambda: v4kit.scale(9, [1], factor=2.0), "Layer 9 has no router"),
    "budget": (lambda: v4kit.budget(k=4), "leaves 1 to 3 experts"),
    "no edit": (lambda: "ablate", "edits are given as a list"),
}


class TestRefusals:
    @pytest.mark.parametrize("case", WRONG)
    def test_what_can_not_take_effect(self, case) -> None:
        make, words = WRONG[case]
        model = zoo.random_model("small")
        with pytest.raises(InputError, match=words), model.edit(make()):
            pass
        assert model.edits == []

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: v4kit.ablate(1), "takes ids of experts"),
            (lambda: v4kit.ablate(1, [0.5]), "takes ids of experts"),
            (lambda: v4kit.ablate(1, [2], on_hash="skip"), "on_hash is one of error, drop"),
            (lambda: v4kit.steer(1, prefer=[1], weight="own"), "'natural' or 'max'"),
            (lambda: v4kit.scale(1, [1], factor=math.nan), "factor is a finite number"),
            (lambda: v4kit.nudge(1, [1], delta="more"), "delta is a finite number"),
            (lambda: v4kit.budget(1, k=2, tokens=(5, 5)), "runs forward"),
            (lambda: v4kit.budget(1, k=2, tokens=7), "takes two positions"),
            (lambda: v4kit.budget(1, k=2, tokens="answer"), "takes two positions"),
            (lambda: v4kit.replay("trace"), "takes a trace of one document"),
        ],
    )
    def test_what_can_not_be_meant(self, make, words) -> None:
        with pytest.raises(InputError, match=words):
            make()

    def test_no_edit_at_all(self) -> None:
        with pytest.raises(InputError, match="given as a list"), zoo.random_model("small").edit():
            pass

    def test_replay_of_a_shorter_trace(self) -> None:
        model = zoo.random_model("small")
        short = model.read(IDS[:20])
        words = "has 20 positions, but position 20 is read"
        with model.edit(v4kit.replay(short)), pytest.raises(InputError, match=words):
            model.read(IDS)
        with model.edit(v4kit.replay(short, tokens=(0, 20))):
            assert len(model.read(IDS)) == len(IDS)
        assert hook_count(model.hf) == 0

    def test_replay_of_another_model(self) -> None:
        other = zoo.random_model("wide").read(IDS)
        editing = zoo.random_model("small").edit(v4kit.replay(other))
        with pytest.raises(InputError, match="5 layers of 5 of 40 experts"), editing:
            pass

    def test_more_groups_than_are_open(self) -> None:
        editing = zoo.random_model("deepseek_v3").edit(v4kit.force(2, [0, 5, 9]))
        with (
            pytest.raises(InputError, match="stand in 3 groups, but a token chooses from 2"),
            editing,
        ):
            pass
