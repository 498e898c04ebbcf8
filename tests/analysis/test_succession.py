"""Repetition and pairs of layers: plain loops over the definitions."""

import math

import numpy as np
import pytest

from tests.analysis.samples import EXPERTS, KINDS, TOP_K, made, used_by
from v4kit.analysis import cross_layer, expert_load, repetition
from v4kit.errors import InputError


def some(rows=120, **options):
    """A trace with few different tokens, three documents, and rows that were never fed."""
    rng = np.random.default_rng(5)
    document = np.sort(rng.integers(0, 3, rows))
    return made(rng.integers(0, 6, rows), document=document, holes=(0, 50, rows - 1), **options)


@pytest.fixture
def trace(kept):
    return kept(some())


def loops(trace, layer, *, different):
    """Shares over neighbours, one by one."""
    ids, documents, positions = (trace.tokens[n].tolist() for n in ("id", "document", "position"))
    place = {at: row for row, at in enumerate(zip(documents, positions, strict=True))}
    ranked = trace.routing["experts"].to_numpy()
    first = hits = pairs = 0
    overlap = []
    for row in range(len(trace)):
        after = place.get((documents[row], positions[row] + 1))
        if after is None or (different and ids[row] == ids[after]):
            continue
        mine, theirs = used_by(trace, row, layer), used_by(trace, after, layer)
        if not mine or not theirs:
            continue
        pairs += 1
        first += ranked[row, layer, 0] == ranked[after, layer, 0]
        hits += bool(mine & theirs)
        overlap.append(len(mine & theirs) / TOP_K)
    return first / pairs, hits / pairs, math.fsum(overlap) / pairs, pairs


def interleaved():
    """Documents that take turns, as rows from elsewhere may."""
    whole = some()
    ids = whole.tokens["id"].to_numpy()
    return made(ids, document=np.arange(len(ids)) % 3, holes=(0, 50, len(ids) - 1))


PARTS = {
    "whole": some,
    "rows left out": lambda: some()[np.random.default_rng(0).random(120) < 0.7],
    "backwards": lambda: some()[::-1],
    "in turns": interleaved,
}


@pytest.mark.parametrize("part_of", PARTS)
@pytest.mark.parametrize("different", [True, False])
def test_repetition_is_what_loops_count(kept, part_of, different) -> None:
    trace = kept(PARTS[part_of]())
    found, part = repetition(trace), "" if different else "_all"
    for layer, kind in enumerate(KINDS):
        values = [float(found[f"{name}{part}"][layer]) for name in ("first", "any", "overlap")]
        if kind == "dense":
            assert all(math.isnan(value) for value in values)
            assert int(found[f"n{part}"][layer]) == 0
            continue
        first, hits, overlap, pairs = loops(trace, layer, different=different)
        assert int(found[f"n{part}"][layer]) == pairs
        assert values[1:] == pytest.approx([hits, overlap], rel=1e-12)
        assert math.isnan(values[0]) if kind == "hash" else values[0] == pytest.approx(first)


def test_tokens_between_which_others_are_missing_are_no_pairs() -> None:
    found = repetition(some()[np.arange(120) % 2 == 0])
    assert not found["n_all"].any()
    assert found["overlap_all"].isnull().all()


def test_unknown_positions_are_no_neighbours() -> None:
    trace = made([1, 2, 3])
    trace.tokens["position"] = np.array([-1, 0, 1], np.int32)
    assert repetition(trace)["n_all"].to_numpy().tolist() == [1, 0, 1, 1, 1]


def test_the_shuffle_stays_within_documents() -> None:
    document = np.repeat([0, 1, 2], 40)
    experts = np.stack([document, document + 3, document + 6], -1)[:, None].repeat(len(KINDS), 1)
    trace = made(np.arange(120), document=document, experts=experts)
    for part in (trace, trace[np.arange(120) % 3 > 0], trace[::-1]):
        found = repetition(part).sel(layer=2)
        assert int(found["n_shuffled"]) == int(found["n"]) > 30
        assert (float(found["overlap_shuffled"]), float(found["first_shuffled"])) == (1, 1)


def test_special_tokens_can_be_left_out() -> None:
    """A document's first token that all begin with, and one within: no pair bridges it."""
    special = np.isin(np.arange(60), [0, 20, 31, 40])
    columns = {"special": special}
    trace = made(np.arange(60), document=np.arange(60) // 20, columns=columns)
    whole, rest = repetition(trace), repetition(trace[~trace.tokens["special"]])
    assert int(whole["n"][2]) == 57
    assert int(rest["n"][2]) == 57 - 3 - 2
    assert (whole.attrs["special_tokens"], rest.attrs["special_tokens"]) == (4, 0)


def test_chances_are_those_of_drawing() -> None:
    found = repetition(some())
    assert float(found["chance_first"]) == 1 / EXPERTS
    assert float(found["chance_overlap"]) == TOP_K / EXPERTS
    none = math.prod((EXPERTS - TOP_K - i) / (EXPERTS - i) for i in range(TOP_K))
    assert float(found["chance_any"]) == pytest.approx(1 - none, rel=1e-12)


def test_random_layers_are_near_chance_and_shuffling_changes_nothing_there() -> None:
    found = repetition(some(6_000))
    for layer in (2, 3):
        for name in ("first", "any", "overlap"):
            chance = float(found[f"chance_{name}"])
            for suffix in ("", "_shuffled"):
                assert float(found[f"{name}{suffix}"][layer]) == pytest.approx(chance, abs=0.03)


def test_equal_tokens_repeat_in_hash_layers() -> None:
    found = repetition(made([4] * 30))
    assert float(found["overlap_all"][0]) == 1.0
    assert int(found["n"][0]) == 0
    assert np.isnan(found["overlap"][0])


def test_shuffling_stays_within_documents_and_keeps_its_seed() -> None:
    trace = made([1] * 20 + [2] * 20, document=[0] * 20 + [1] * 20)
    found = repetition(trace)
    assert int(found["n_all"][0]) == 38
    again = repetition(trace, seed=0)
    assert found.equals(again)


def test_without_order_nobody_is_first() -> None:
    assert repetition(some(ranked=False))["first"].isnull().all()


def test_pairs_of_layers_are_what_loops_count(trace) -> None:
    found = cross_layer(trace, 0, 3)
    count = np.zeros((EXPERTS, EXPERTS), int)
    tokens = 0
    for row in range(len(trace)):
        mine, theirs = used_by(trace, row, 0), used_by(trace, row, 3)
        tokens += bool(mine and theirs)
        for one in mine:
            for two in theirs:
                count[one, two] += 1
    np.testing.assert_array_equal(found["count"], count)
    assert int(found["n"]) == tokens
    assert int(found["count"].sum()) == TOP_K**2 * tokens
    used = expert_load(trace)["count"].to_numpy()[0]
    np.testing.assert_array_equal(found["uses"], used)
    for expert in range(EXPERTS):
        row = found["share"].to_numpy()[expert]
        if used[expert]:
            np.testing.assert_allclose(row, count[expert] / used[expert], rtol=1e-12)
        else:
            assert np.isnan(row).all()
    np.testing.assert_array_equal(cross_layer(trace, 3, 0)["count"], count.T)


def guessed(trace, layer, layer2):
    """Mean recall on every second document of what the other documents tell, token by token."""
    documents = sorted(set(trace.tokens["document"]))
    joint, alone, often, recalls, plain = {}, {}, {}, [], []
    for held_out in (False, True):
        for row, document in enumerate(trace.tokens["document"]):
            mine, theirs = used_by(trace, row, layer), used_by(trace, row, layer2)
            if bool(documents.index(document) % 2) is not held_out or not (mine and theirs):
                continue
            if not held_out:
                for one in mine:
                    alone[one] = alone.get(one, 0) + 1
                    for two in theirs:
                        joint[one, two] = joint.get((one, two), 0) + 1
                        often[two] = often.get(two, 0) + 1
                continue
            hints = [
                sum(joint.get((one, two), 0) / alone[one] for one in sorted(mine) if one in alone)
                for two in range(EXPERTS)
            ]
            best = sorted(range(EXPERTS), key=lambda two: (-round(hints[two], 12), two))[:TOP_K]
            recalls.append(len(theirs & set(best)) / TOP_K)
            best = sorted(range(EXPERTS), key=lambda two: (-often.get(two, 0), two))[:TOP_K]
            plain.append(len(theirs & set(best)) / TOP_K)
    return np.mean(recalls), np.mean(plain), len(recalls)


def test_a_layer_foretells_another_on_held_out_documents(trace) -> None:
    for pair in ((0, 3), (3, 0), (0, 4), (2, 3)):
        found = cross_layer(trace, *pair)
        recall, frequent, n = guessed(trace, *pair)
        # Rounding may break ties of hints otherwise: one expert of one token in some.
        assert float(found["recall"]) == pytest.approx(recall, abs=3 / n / TOP_K)
        assert float(found["recall_frequent"]) == pytest.approx(frequent, rel=1e-12)
        assert int(found["held_out"]) == n


def test_a_copy_foretells_all_and_one_document_nothing() -> None:
    experts = some().routing["experts"].values.copy()
    experts[:, 3] = experts[:, 0]
    trace = made(np.zeros(120), document=np.arange(120) // 30, experts=experts)
    assert float(cross_layer(trace, 0, 3)["recall"]) > 0.9
    alone = cross_layer(made(np.zeros(120), experts=experts), 0, 3)
    assert np.isnan(alone["recall"])
    assert int(alone["held_out"]) == 0


def test_layers_without_a_router() -> None:
    for layers in ((1, 2), (0, 9), (0, "2")):
        with pytest.raises(InputError, match="has no router; those with one are 0, 2, 3, 4"):
            cross_layer(some(), *layers)


def test_a_seed_is_a_whole_number() -> None:
    for seed in (-1, 1.5, "x", None):
        with pytest.raises(InputError, match="seed is a whole number"):
            repetition(some(), seed=seed)


@pytest.mark.parametrize("analysis", [repetition, lambda trace: cross_layer(trace, 0, 2)])
def test_what_is_no_trace(analysis) -> None:
    with pytest.raises(InputError, match="takes a trace; given was int"):
        analysis(5)


def test_empty_trace() -> None:
    empty = made([1, 2])[:0]
    assert int(repetition(empty)["n_all"].sum()) == 0
    assert int(cross_layer(empty, 0, 2)["count"].sum()) == 0
