"""Several edits at once: in one block, in nested ones, in a run of its own; when decoding too."""

import contextlib
import math

import numpy as np
import pytest
import torch

import v4kit
from tests import zoo
from tests.intervene.said import IDS, as_if_unedited, compare, edited
from v4kit.errors import InputError

BOTH = pytest.mark.parametrize("name", ["small", "wide", "deepseek_v3", "olmoe"])


def by_rule(one, *, barred=(), above=(), below=(), moved=None, bias=True, factors=None, k=None):
    """Weights by expert after some edits, written down by what each of them means.

    `above` and `below` are sets of experts, later ones further out; `moved` adds to selections,
    `factors` multiply weights, and at last `k` experts share what they add up to.
    """
    base = one.selection if bias else one.scores
    score = {e: s + (moved or {}).get(e, 0.0) for e, s in enumerate(base)}
    level = dict.fromkeys(score, 0)
    if one.hashed:
        level |= dict.fromkeys(one.used, 1)
    for sign, groups in ((1, above), (-1, below)):
        for place, group in enumerate(groups, start=2 if one.hashed and sign > 0 else 1):
            level |= dict.fromkeys(group, sign * place)
    ranked = sorted(score, key=lambda e: (e in barred, -level[e], -score[e], e))
    chosen = ranked[: one.k]
    found = one.used if set(chosen) == set(one.used) else one.weigh(chosen)
    found = {e: w * (factors or {}).get(e, 1.0) for e, w in found.items()}
    if k is not None:
        total, best = sum(found.values()), [e for e in ranked if e in found][:k]
        share = sum(found[e] for e in best)
        found = {e: w * total / share if e in best else 0.0 for e, w in found.items()}
    return found


COMBINED = {
    "two taken out": (
        lambda: [v4kit.ablate(experts=[0, 3]), v4kit.ablate(experts=[5])],
        {"barred": {0, 3, 5}},
    ),
    "switched off, another taken out": (
        lambda: [v4kit.ablate(experts=[0, 3], reroute=False), v4kit.ablate(experts=[5])],
        {"barred": {5}, "factors": {0: 0.0, 3: 0.0}},
    ),
    "taken out, without the bias": (
        lambda: [v4kit.ablate(experts=[0, 3]), v4kit.ablate_router(rule="no_bias")],
        {"barred": {0, 3}, "bias": False},
    ),
    "preferred, another nudged far": (
        lambda: [v4kit.force(experts=[1]), v4kit.nudge(experts=[2], delta=50.0)],
        {"above": [{1}], "moved": {2: 50.0}},
    ),
    "preferred, then others": (
        lambda: [v4kit.force(experts=[1]), v4kit.force(experts=[2, 3])],
        {"above": [{1}, {2, 3}]},
    ),
    "avoided twice": (
        lambda: [v4kit.steer(avoid=[1, 2]), v4kit.steer(avoid=[3])],
        {"below": [{1, 2}, {3}]},
    ),
    "halved and preferred": (
        lambda: [v4kit.scale(experts=[1], factor=0.5), v4kit.force(experts=[1])],
        {"above": [{1}], "factors": {1: 0.5}},
    ),
    "one left, another taken out": (
        lambda: [v4kit.budget(k=1), v4kit.ablate(experts=[0, 3])],
        {"barred": {0, 3}, "k": 1},
    ),
}


@pytest.mark.parametrize("case", COMBINED)
@pytest.mark.parametrize("name", ["small", "wide"])
@pytest.mark.parametrize("decoded", [0, 5])
def test_combined(name, case, decoded) -> None:
    model = zoo.random_model(name)
    make, meaning = COMBINED[case]
    choosing = [e for e in make() if e.reranks]
    trace, said, _ = edited(model, *make(), decoded=decoded)

    def expected(one, _row, _layer):
        own = {n: v for n, v in meaning.items() if n in ("factors", "k")} if one.hashed else meaning
        return by_rule(one, **own)

    assert choosing
    compare(trace, said, expected)


@pytest.mark.parametrize("case", COMBINED)
@BOTH
def test_nested_blocks_are_one(name, case) -> None:
    model, (make, _) = zoo.random_model(name), COMBINED[case]
    if case == "taken out, without the bias" and model.family.bias is None:
        pytest.skip("there is no bias to leave out")
    first, second = make()
    options = {"max_new_tokens": 4, "prefill_chunk": 11}
    with model.edit(first, second):
        wanted = model.generate(IDS, **options)
    with model.edit(first), model.edit(second):
        nested = model.generate(IDS, **options)
    with model.edit(first):
        own = model.generate(IDS, **options, edits=[second])
    alone = model.generate(IDS, **options, edits=[first, second])
    for trace in (nested, own, alone):
        assert trace.routing.equals(wanted.routing)
        assert trace.text == wanted.text
        assert trace.meta["edits"] == wanted.meta["edits"]
    assert "edits" not in model.generate(IDS, **options).meta


class TestGroups:
    """In families whose experts stand in groups, of which a token may use some."""

    def test_what_is_preferred_is_chosen(self) -> None:
        """Beside another run's routing, or with the rest of its group taken out."""
        model = zoo.random_model("deepseek_v3")
        own = model.read(IDS)
        for expert in range(16):
            group = [e for e in range(expert // 4 * 4, expert // 4 * 4 + 4) if e != expert]
            forced, without = v4kit.force(2, [expert]), v4kit.ablate(2, group)
            for edits in ([v4kit.replay(own), forced], [forced, without], [without, forced]):
                used = model.read(IDS, edits=edits).routing["experts"][:, 2]
                assert (used == expert).any("slot").all()
                if without in edits:
                    assert not np.isin(used, group).any()

    def test_random_experts_depend_on_layer_and_position_alone(self) -> None:
        model = zoo.random_model("deepseek_v3")
        edits = [v4kit.ablate_router(rule="random", seed=3)]
        layers = list(model.architecture.routed)
        found = [
            np.sort(model.read(ids, edits=edits).routing["experts"].to_numpy()[:, layers])
            for ids in (IDS, [0, *range(200, 245)])
        ]
        np.testing.assert_array_equal(*found)


class TestHashLayers:
    def test_a_replayed_run_keeps_what_is_not_taken_out(self) -> None:
        """Taking one expert out of another run's routing leaves the others of that run in place."""
        model = zoo.random_model("small")
        other = model.read([0, *range(200, 245)])
        told = other.routing["experts"].to_numpy()
        edits = [v4kit.replay(other), v4kit.ablate(experts=[5], on_hash="substitute")]
        trace, _, _ = edited(model, *edits)
        used = trace.routing["experts"].to_numpy()
        for row, layer in np.ndindex(*used.shape[:2]):
            theirs, ours = set(told[row, layer].tolist()), set(used[row, layer].tolist())
            assert 5 not in ours
            assert theirs - {5} <= ours
        assert (told == 5).any()


TOO_MUCH = {
    "too few left": (
        "small",
        lambda: [v4kit.ablate(2, range(10)), v4kit.ablate(2, range(10, 14))],
        "leaves 2 of 16 experts, but every token needs 3",
    ),
    "too few in the open groups": (
        "deepseek_v3",
        lambda: [v4kit.ablate(2, [e for e in range(16) if e % 4])],
        "leaves 2 of 16 experts in the groups that a token may choose from",
    ),
    "too many preferred": (
        "small",
        lambda: [v4kit.force(2, [0, 1]), v4kit.force(2, [2, 3])],
        "4 experts can't all be chosen in layer 2",
    ),
    "preferred and taken out": (
        "small",
        lambda: [v4kit.force(2, [4]), v4kit.ablate(2, [4])],
        "Expert 4 of layer 2 is to be chosen always and never",
    ),
}


class TestRefusals:
    @pytest.mark.parametrize("case", TOO_MUCH)
    @pytest.mark.parametrize("how", ["one block", "nested", "own"])
    def test_what_undoes_the_other(self, case, how) -> None:
        name, make, words = TOO_MUCH[case]
        model, edits = zoo.random_model(name), make()
        outer, inner = (edits[:1], edits[1:]) if how == "nested" and len(edits) > 1 else ([], edits)
        with contextlib.ExitStack() as stack:
            if outer:
                stack.enter_context(model.edit(*outer))
            stack.enter_context(pytest.raises(InputError, match=words))
            if how == "own":
                model.read(IDS, edits=inner)
            else:
                stack.enter_context(model.edit(*inner))
        assert model.edits == []

    def test_different_tokens_may_be_treated_differently(self) -> None:
        model = zoo.random_model("small")
        edits = [v4kit.force(5, [4], tokens=(0, 10)), v4kit.ablate(5, [4], tokens=(10, None))]
        edits.append(v4kit.force(4, [1, 2], tokens="prompt"))
        edits.append(v4kit.force(4, [3, 5], tokens="generated"))
        trace = model.generate(IDS, max_new_tokens=5, edits=edits)
        used = (trace.routing["experts"][:-1, 5] == 4).any("slot").to_numpy()
        assert used[:10].all()
        assert not used[10:].any()
        for experts, rows in (((1, 2), slice(0, len(IDS))), ((3, 5), slice(len(IDS), -1))):
            for expert in experts:
                assert (trace.routing["experts"][rows, 4] == expert).any("slot").all()

    def test_those_that_never_meet_are_not_counted_together(self) -> None:
        """Each meets a third edit, which says nothing of the two."""
        model = zoo.random_model("small")
        apart = [v4kit.force(3, [7], tokens="prompt"), v4kit.ablate(3, [7], tokens="generated")]
        assert model.read(IDS, edits=[v4kit.scale(3, [1], factor=0.5), apart[0]])
        assert model.generate(
            IDS, max_new_tokens=3, edits=[v4kit.scale(3, [1], factor=0.5), *apart]
        )
        spans = [v4kit.ablate(3, range(1, 8), tokens=(0, 10)),
                 v4kit.ablate(3, range(8, 15), tokens=(10, None))]  # fmt: skip
        assert model.read(IDS, edits=[v4kit.ablate(3, [0]), *spans])

    def test_those_that_meet_only_at_a_step(self) -> None:
        model = zoo.random_model("small")
        stream = model.stream(IDS, max_new_tokens=8, edits=[v4kit.ablate(3, range(8))])
        next(stream)
        words = "leaves 2 of 16"
        with model.edit(v4kit.ablate(3, range(8, 14))), pytest.raises(InputError, match=words):
            next(stream)
        with v4kit.record(model.hf, edits=[v4kit.ablate(3, [9])]):
            another = model.stream(IDS, max_new_tokens=2)
            assert next(another)
        with (
            model.edit(v4kit.ablate(3, [0])),
            v4kit.record(model.hf, edits=[v4kit.ablate(3, [9])]),
            pytest.raises(InputError, match="in one place"),
        ):
            model.read(IDS)

    def test_recordings_that_end_in_any_order(self) -> None:
        model = zoo.random_model("small")
        one = v4kit.record(model.hf, edits=[v4kit.force(5, [7])])
        other = v4kit.record(model.hf)
        one.__enter__()
        other.__enter__()
        one.__exit__(None, None, None)
        other.__exit__(None, None, None)
        assert model.edits == []
        assert "edits" not in model.read(IDS, edits=()).meta
        assert model.read(IDS, edits=[v4kit.force(5, [7])])

    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (lambda: v4kit.force(5, [7], tokens="generated"), "acts on no token of this run: 46"),
            (lambda: v4kit.force(5, [7], tokens=(46, None)), "acts on no token of this run"),
            (lambda: v4kit.force(5, [7], tokens=(100, 200)), r"tokens=\(100, 200\)"),
        ],
    )
    def test_what_acts_on_no_token(self, edit, words) -> None:
        model = zoo.random_model("small")
        with pytest.raises(InputError, match=words):
            model.read(IDS, edits=[edit()])
        with pytest.raises(InputError, match=words):
            model.read_many([IDS, IDS[:9]], edits=[edit()], progress=False)
        with pytest.raises(InputError, match="acts on no token"):
            model.stream(IDS, max_new_tokens=1, edits=[edit()])
        if edit().tokens != (100, 200):
            assert len(model.generate(IDS, max_new_tokens=2, edits=[edit()]))


class TestRunsOfTheirOwn:
    def test_streams_side_by_side(self) -> None:
        """A run's own edits act in its passes alone, whoever else runs in between."""
        model = zoo.random_model("small")
        options = {"max_new_tokens": 8, "temperature": 1.0, "seed": 3}
        edits = [v4kit.force(5, [7]), v4kit.scale(3, [2], factor=0.25)]
        plain, changed = model.stream(IDS, **options), model.stream(IDS, **options, edits=edits)
        for _ in range(8):
            next(plain)
            next(changed)
        assert plain.trace.routing.equals(model.generate(IDS, **options).routing)
        wanted = model.generate(IDS, **options, edits=edits)
        assert changed.trace.routing.equals(wanted.routing)
        assert (wanted.routing["experts"][:-1, 5] == 7).any("slot").all()

    def test_extended(self) -> None:
        model = zoo.random_model("small")
        edits = [v4kit.force(5, [7])]
        stream = model.stream(IDS, max_new_tokens=3, edits=edits).finish()
        stream.extend(4)
        whole = model.generate(IDS, max_new_tokens=7, edits=edits)
        assert stream.finish().trace.routing.equals(whole.routing)

    def test_many_texts(self, tmp_path) -> None:
        model = zoo.random_model("small")
        edits = [v4kit.force(5, [7])]
        texts = [IDS, IDS[:9], IDS[20:]]
        memory = model.read_many(texts, edits=edits, progress=False)
        disk = model.read_many(texts, edits=edits, progress=False, save_to=tmp_path / "many")
        assert memory.routing.equals(disk.routing.compute())
        with model.edit(*edits):
            assert model.read_many(texts, progress=False).routing.equals(memory.routing)


class TestDisplaced:
    """What the router had chosen, and what had to go for others."""

    @pytest.mark.parametrize("name", ["small", "wide", "mixtral", "deepseek_v3"])
    @pytest.mark.parametrize("decoded", [0, 5])
    def test_it_is_what_the_router_said(self, name, decoded) -> None:
        model = zoo.random_model(name)
        edits = [v4kit.ablate(experts=[0, 3]), v4kit.force(experts=[1], tokens=(5, None))]
        trace, said, editing = edited(model, *edits, decoded=decoded)
        displaced = trace.routing["displaced"].to_numpy()
        experts = trace.routing["experts"].to_numpy()
        for (row, layer), one in said.items():
            beside = dict(zip(experts[row, layer].tolist(), displaced[row, layer].tolist(),
                              strict=True))  # fmt: skip
            gone = {went for went in beside.values() if went != -1}
            assert gone == set(one.used) - beside.keys()
            assert {came for came, went in beside.items() if went != -1} == (
                beside.keys() - set(one.used)
            )
        counted = (displaced != -1).any(axis=2).sum(axis=0)
        assert {layer: counted[layer] for layer in editing.layers} == editing.displaced
        assert (displaced[-1:][experts[-1:] == -1] == -1).all()

    def test_only_edited_traces_have_it(self) -> None:
        model = zoo.random_model("small")
        assert "displaced" not in model.read(IDS).routing
        knocked = model.read(IDS, edits=[v4kit.ablate(experts=[1], reroute=False)])
        as_if_unedited(knocked)

    def test_it_is_kept(self, tmp_path) -> None:
        model = zoo.random_model("small")
        trace = model.read(IDS, edits=[v4kit.force(experts=[1])])
        opened = v4kit.open_trace(trace.save(tmp_path / "edited.v4trace"))
        assert opened.routing.compute().equals(trace.routing)
        assert opened.meta["edits"] == trace.meta["edits"]
        assert (opened[5:9].routing["displaced"].to_numpy()
                == trace.routing["displaced"][5:9].to_numpy()).all()  # fmt: skip

    def test_joined_with_what_was_not_edited(self) -> None:
        model = zoo.random_model("small")
        plain, changed = model.read(IDS), model.read(IDS, edits=[v4kit.force(experts=[1])])
        for parts in ([plain, changed], [changed, plain]):
            both = v4kit.concat(parts)
            at = slice(0, len(IDS)) if parts[0] is plain else slice(len(IDS), None)
            rest = slice(len(IDS), None) if parts[0] is plain else slice(0, len(IDS))
            displaced = both.routing["displaced"].to_numpy()
            assert (displaced[at] == -1).all()
            np.testing.assert_array_equal(displaced[rest], changed.routing["displaced"])

    def test_a_block_that_ends_amid_a_run(self) -> None:
        model = zoo.random_model("small")
        stream = model.stream(IDS, max_new_tokens=8, prefill_chunk=16)
        with model.edit(v4kit.force(5, [7])):
            for _ in range(3):
                next(stream)
        trace = stream.finish().trace
        displaced = trace.routing["displaced"].to_numpy()
        assert (displaced[: len(IDS) + 2, 5] != -1).any()
        assert (displaced[len(IDS) + 2 :] == -1).all()

    def test_in_batches(self) -> None:
        model = zoo.random_model("small")
        batch = torch.tensor([IDS[:20], IDS[20:40]])
        with v4kit.record(model.hf, edits=[v4kit.force(5, [7])]) as recording, torch.no_grad():
            model.hf(batch)
        found = recording.trace.routing["displaced"].to_numpy()
        for row, ids in enumerate(batch.tolist()):
            alone = model.read(ids, edits=[v4kit.force(5, [7])]).routing["displaced"].to_numpy()
            part = found[row * 20 : row * 20 + 20]
            np.testing.assert_array_equal(np.sort(part), np.sort(alone))


class TestShared:
    """Shared experts taken away: what is left is the routed experts' sum."""

    @pytest.mark.parametrize("name", ["small", "deepseek_v3"])
    @torch.no_grad()
    def test_it_is_the_model_without_them(self, name) -> None:
        model = zoo.random_model(name)
        layers = list(model.architecture.routed)[:2]
        decoder = model.hf.get_submodule(model.family.layers)
        rows = torch.tensor([4 <= i < 30 for i in range(len(IDS))])

        def silent(_module, _inputs, output):
            kept = output.clone()
            kept.reshape(len(IDS), -1)[rows] = 0.0
            return kept

        handles = [decoder[i].mlp.shared_experts.register_forward_hook(silent) for i in layers]
        wanted = model.hf(torch.tensor([IDS])).logits[0]
        for handle in handles:
            handle.remove()
        with model.edit(v4kit.ablate_shared(layers, tokens=(4, 30))):
            found, _ = model.forward(IDS, 0, None, [])
            record = v4kit.Record(outputs=True)
            trace = model.read(IDS, prefill_chunk=None, record=record)
        assert torch.equal(found, wanted)
        norms = trace.routing["shared_norm"].to_numpy()
        assert (norms[4:30, layers] == 0).all()
        assert (norms[:4, layers] > 0).all()
        assert trace.meta["edits"] == [
            {"edit": "ablate_shared", "layers": layers, "tokens": [4, 30]}
        ]

    def test_there_are_none(self) -> None:
        with pytest.raises(InputError, match="mixtral models have no shared experts"):
            zoo.random_model("mixtral").read(IDS, edits=[v4kit.ablate_shared()])


class TestLogits:
    @pytest.mark.parametrize("name", ["small", "wide", "mixtral", "olmoe"])
    @pytest.mark.parametrize("delta", [0.7, -0.7])
    def test_nudged(self, name, delta) -> None:
        from tests.references import scores_of

        model, chosen = zoo.random_model(name), (1, 2)

        def expected(one, _row, _layer):
            if one.hashed:
                return one.used
            logits = [x + delta * abs(x) * (e in chosen) for e, x in enumerate(one.logits)]
            scores = scores_of(model.hf)(logits)
            selection = [s + b for s, b in zip(scores, one.bias, strict=True)]
            return one.weigh(one.best(selection), scores)

        edit = v4kit.nudge(experts=chosen, delta=delta, on="logits")
        trace, said, _ = edited(model, edit)
        compare(trace, said, expected)
        neutral = v4kit.nudge(experts=chosen, delta=0.0, on="logits")
        assert as_if_unedited(model.read(IDS, edits=[neutral])).equals(model.read(IDS).routing)

    @pytest.mark.parametrize("delta", [0.0, 0.5])
    def test_in_bfloat16_others_stay_as_they_are(self, delta) -> None:
        model = v4kit.wrap(
            zoo.fresh("small", dtype=torch.bfloat16), zoo.tokenizer(), router_dtype="native"
        )
        base = model.read(IDS).routing
        edit = v4kit.nudge(None, [1, 2], delta=delta, on="logits", tokens=(30, None))
        found = model.read(IDS, edits=[edit]).routing
        rows = slice(0, 30) if delta else slice(None)
        for name in ("experts", "weights"):
            np.testing.assert_array_equal(found[name][rows], base[name][rows])
        assert bool(delta) != bool((found["displaced"] == -1).all())


class TestReplayedWeights:
    def test_its_own(self) -> None:
        model = zoo.random_model("small")
        base = model.generate(IDS, max_new_tokens=4, prefill_chunk=11)
        again = model.generate(
            IDS, max_new_tokens=4, prefill_chunk=11, edits=[v4kit.replay(base, weights=True)]
        )
        assert as_if_unedited(again).equals(base.routing)
        assert again.tokens.equals(base.tokens)

    def test_anothers(self) -> None:
        model = zoo.random_model("small")
        other = model.read([0, *range(200, 245)], edits=[v4kit.scale(experts=[1, 2], factor=3.0)])
        trace = model.read(IDS, edits=[v4kit.replay(other, weights=True)])
        order = [t.routing["experts"].to_numpy().argsort(axis=-1) for t in (trace, other)]
        for name in ("experts", "weights"):
            arrays = [t.routing[name].to_numpy() for t in (trace, other)]
            found, wanted = map(np.take_along_axis, arrays, order, (-1, -1))
            np.testing.assert_array_equal(found, wanted)

    def test_a_table_that_names_an_expert_twice(self) -> None:
        """transformers' own initial tables are zeros; replaying them changes nothing."""
        hf = zoo.fresh("small")
        for layer in (0, 1):
            hf.model.layers[layer].mlp.gate.tid2eid.fill_(5)
        model = v4kit.wrap(hf, zoo.tokenizer())
        base = model.read(IDS)
        again = model.read(IDS, edits=[v4kit.replay(base)])
        assert as_if_unedited(again).equals(base.routing)

    def test_what_no_router_chooses(self) -> None:
        model = zoo.random_model("small")
        trace = model.read(IDS)
        ids, axes = trace.routing["experts"].to_numpy(), trace.routing["experts"].dims
        bad = {"layer": [2, 4], "tokens": (0, 7)}
        for row, wrong in (([5, 5, 5], "5, 5, 5"), ([3, 4, -1], "3, 4, -1")):
            broken = ids.copy()
            broken[7, 3] = row
            trace.routing["experts"] = (axes, broken)
            with pytest.raises(InputError, match=rf"\[{wrong}\] in row 7, layer 3"):
                v4kit.replay(trace)
            for limit, value in bad.items():
                assert v4kit.replay(trace, **{limit: value}).layers in (None, (2, 4))
        with pytest.raises(InputError, match="has no weights"):
            v4kit.replay(v4kit.import_routing(ids, n_experts=16), weights=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: v4kit.ablate("23", [1]), "layer takes an index"),
        (lambda: v4kit.ablate([2.9], [1]), "layer takes an index"),
        (lambda: v4kit.ablate([], [1]), "layer takes an index"),
        (lambda: v4kit.ablate(3.5, [1]), "layer takes an index"),
        (lambda: v4kit.ablate(2, None), "takes ids of experts"),
        (lambda: v4kit.ablate(2, [True]), "takes ids of experts"),
        (lambda: v4kit.ablate(2, [1], renorm=True), "give reroute=False"),
        (lambda: v4kit.ablate(0, [1], reroute=False, on_hash="substitute"), "Leave on_hash out"),
        (lambda: v4kit.budget(k=2.5), "k is a whole number"),
        (lambda: v4kit.budget(k=True), "k is a whole number"),
        (lambda: v4kit.budget(k="2"), "k is a whole number"),
        (lambda: v4kit.budget(k=0), "k is a whole number from 1"),
        (lambda: v4kit.ablate_router(rule="random", seed=1.5), "seed is a whole number"),
        (lambda: v4kit.ablate_router(rule="random", seed=2**60), "seed is a whole number"),
        (lambda: v4kit.scale(2, [1], factor=-1.0, renorm=True), "both signs"),
        (lambda: v4kit.scale(2, [1], factor=math.inf), "factor is a finite number"),
        (lambda: v4kit.nudge(2, [1], delta=1, on="bias"), "on is one of 'selection', 'logits'"),
        (lambda: v4kit.budget(k=1, tokens=(1, "x")), "runs forward"),
        (lambda: v4kit.budget(k=1, tokens=np.array([1, 2])), "takes two positions"),
    ],
)
def test_what_can_not_be_meant(make, words) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_numbers_of_numpy_are_numbers() -> None:
    edit = v4kit.scale(np.int64(3), np.array([1, 2, 1]), factor=np.float32(0.5))
    assert (edit.layers, edit.experts, edit.factor) == ((3,), (1, 2), 0.5)
    assert v4kit.ablate(3, np.int64(4)).experts == (4,)
    # An expert that is named twice is scaled once.
    assert v4kit.scale(3, [3, 3], factor=0.5).experts == (3,)
