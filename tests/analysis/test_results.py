"""What all analyses have in common: variables that say what they hold, tokens that count."""

import numpy as np
import pytest

from tests.analysis.samples import made, with_outputs
from v4kit import analysis
from v4kit.errors import InputError

ROWS = 240


def some():
    """A trace with all that an analysis asks for; each document begins with a special token."""
    document = np.arange(ROWS) // 24
    columns = {
        "special": np.arange(ROWS) % 24 == 0,
        "label": [("code", "story")[d % 2] for d in document],
        "predicted": np.arange(ROWS) % 7,
    }
    return with_outputs(ROWS, document=document, columns=columns)


TRACE, OTHER = some(), made(some().tokens["id"], seed=1, document=np.arange(ROWS) // 24)
RESULTS = {
    "alignment": lambda t: analysis.alignment(t, [(d, d + 5) for d in range(5)], permutations=2),
    "coactivation": analysis.coactivation,
    "confidence": analysis.confidence,
    "cross_layer": lambda t: analysis.cross_layer(t, 2, 3),
    "domain_specialization": lambda t: analysis.domain_specialization(t, permutations=2),
    "expert_load": analysis.expert_load,
    "hash_audit": analysis.hash_audit,
    "load_statistics": analysis.load_statistics,
    "npmi": lambda t: analysis.npmi(t, (t.tokens["id"] < 5).to_numpy()),
    "overlap": lambda t: analysis.overlap(t, t),
    "paired_overlap": lambda t: analysis.paired_overlap(t, t),
    "paths": analysis.paths,
    "repetition": analysis.repetition,
    "risk_difference": lambda t: analysis.risk_difference(t, OTHER),
    "saliency": analysis.saliency,
    "super_experts": analysis.super_experts,
    "vocabulary_specialization": lambda t: analysis.vocabulary_specialization(
        t, min_count=2, permutations=2
    ),
}
NO_DATASETS = {"Block", "Pairs", "load_matched", "pair_tokens"}
EACH = pytest.mark.parametrize("name", RESULTS)


def test_all_analyses_are_among_these() -> None:
    assert {*analysis.__all__} - NO_DATASETS == {*RESULTS}


@EACH
def test_every_variable_says_what_it_holds(name) -> None:
    found = RESULTS[name](TRACE)
    assert found.data_vars
    for variable, array in found.data_vars.items():
        meaning = array.attrs["meaning"]
        assert len(meaning) > 8, variable
        assert "bits" not in str(variable) or "bits" in meaning, variable
    if "layer" in found.sizes:
        assert found["kind"].dims == ("layer",)


@EACH
def test_special_tokens_that_count_are_told_and_can_be_left_out(name) -> None:
    plain = TRACE[~TRACE.tokens["special"]]
    whole, rest = RESULTS[name](TRACE), RESULTS[name](plain)
    known = {"overlap": [10, 10], "paired_overlap": [10, 10], "risk_difference": [10, 0]}
    assert whole.attrs["special_tokens"] == known.get(name, 10)
    assert not np.any(rest.attrs["special_tokens"])


def test_special_tokens_that_were_never_fed_do_not_count() -> None:
    trace = made([1, 2, 3], holes=[2], columns={"special": [True, False, True]})
    assert analysis.expert_load(trace).attrs["special_tokens"] == 1


@EACH
def test_what_is_no_trace_is_refused(name) -> None:
    analyse = getattr(analysis, name)
    more = {"alignment": ([],), "cross_layer": (2, 3), "npmi": ([],), "overlap": (OTHER,),
            "paired_overlap": (OTHER,), "risk_difference": (OTHER,)}  # fmt: skip
    with pytest.raises(InputError, match="given was list"):
        analyse([1, 2], *more.get(name, ()))


@EACH
def test_the_trace_stays_as_it_was(name) -> None:
    before = TRACE.routing.copy(deep=True), TRACE.tokens.copy()
    RESULTS[name](TRACE)
    assert TRACE.routing.identical(before[0])
    assert TRACE.tokens.equals(before[1])


def test_experts_never_used_have_no_shares() -> None:
    experts = TRACE.routing["experts"].values.copy()
    experts[experts == 5] = 4
    trace = made(TRACE.tokens["id"], experts=experts)
    for found in (analysis.coactivation(trace), analysis.cross_layer(trace, 2, 3)):
        assert found["share"].sel(expert=5).isnull().all()
        assert not found["uses"].sel(expert=5).any()
