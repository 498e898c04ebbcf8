"""Causal importance: against whole runs under edits, resumed, interrupted, and by hand."""

import numpy as np
import pytest
import torch

import v4kit
from tests import zoo
from v4kit.errors import InputError
from v4kit.experiments import causal_importance, importance
from v4kit.experiments.ranks import spearman

TEXT = "Once upon a time, a 🙂 sat by 春 and sang. "
OPTIONS = {"progress": False}


def after(model, ids, *edits):
    """Log-probabilities of what follows some ids, read whole, alone."""
    if not edits:
        return model.forward(ids, 0, None, [])[0][-1].double().log_softmax(-1)
    with model.edit(*edits):
        return after(model, ids)


def apart(base, other):
    return float((base.exp() * (base - other)).sum())


@pytest.mark.parametrize("name", ["small", "wide", "deepseek_v3", "mixtral", "gpt_oss"])
def test_it_is_what_runs_under_edits_say(name) -> None:
    model = zoo.model(name)
    trace = model.read(TEXT * 2, record=v4kit.Record(attention=None))
    rows, ids = [0, 3, 29], trace.tokens["id"].tolist()
    found = causal_importance(model, trace, tokens=rows, batch=7, **OPTIONS)
    assert found["token"].to_numpy().tolist() == rows
    hashed = model.architecture.hash_layers
    for row in rows:
        base = after(model, ids[: row + 1])
        for layer in range(model.architecture.n_layers):
            for slot in (0, model.architecture.top_k - 1):
                cell = found.sel(token=row, layer=layer).isel(slot=slot)
                if layer not in model.architecture.routed:
                    assert np.isnan(cell["kl"])
                    assert int(cell["expert"]) == int(cell["control"]) == -1
                    continue
                expert = int(trace.routing["experts"].values[row, layer, slot])
                assert int(cell["expert"]) == expert
                for ending, reroute in (("", False), ("_reroute", True)):
                    if reroute and layer in hashed:
                        assert np.isnan(cell["kl_reroute"])
                        continue
                    edit = v4kit.ablate(layer, [expert], reroute=reroute, tokens=(row, row + 1))
                    other = after(model, ids[: row + 1], edit)
                    kl, delta = (float(cell[f"{n}{ending}"]) for n in ("kl", "delta_logprob"))
                    assert kl == pytest.approx(apart(base, other), rel=2e-3, abs=2e-7)
                    expected = float((other - base)[ids[row + 1]])
                    assert delta == pytest.approx(expected, rel=2e-3, abs=2e-5)


def test_the_control_gets_the_place_and_the_weight() -> None:
    model = zoo.model("small")
    trace = model.read(TEXT)
    row, ids = 17, trace.tokens["id"].tolist()
    found = causal_importance(model, trace, tokens=[row], **OPTIONS).sel(token=row)
    base = after(model, ids[: row + 1])
    for layer in range(model.architecture.n_layers):
        expert, other = (int(found[n].sel(layer=layer)[1]) for n in ("expert", "control"))
        assert other not in trace.routing["experts"].values[row, layer]

        def swap(event, expert=expert, other=other):
            last = event.positions == row
            place = (event.experts == expert) & last[:, None]
            return event.change(experts=torch.where(place, other, event.experts))

        with model.tap("router", swap, layers=layer):
            swapped = after(model, ids[: row + 1])
        kl = float(found["kl_control"].sel(layer=layer)[1])
        assert kl == pytest.approx(apart(base, swapped), rel=2e-3, abs=2e-7)


def test_controls_have_the_nearest_loads() -> None:
    model = zoo.model("small")
    trace = model.read(TEXT * 3)
    found = causal_importance(model, trace, tokens=range(0, 30, 5), layers=[3], **OPTIONS)
    count = v4kit.analysis.expert_load(trace)["count"].to_numpy()[3]
    for row in found["token"].to_numpy():
        used = set(trace.routing["experts"].values[row, 3].tolist())
        for expert, other in zip(*(found[n].sel(token=row, layer=3).values
                                   for n in ("expert", "control")), strict=True):  # fmt: skip
            free = [e for e in range(len(count)) if e not in used]
            nearest = sorted(abs(count[e] - count[expert]) for e in free)[:5]
            assert abs(count[other] - count[expert]) <= nearest[-1]
    assert np.isnan(found["kl"].sel(layer=2)).all()
    again = causal_importance(model, trace, tokens=range(0, 30, 5), layers=[3], **OPTIONS)
    assert again.identical(found)


def test_batches_do_not_matter() -> None:
    model = zoo.model("small")
    trace = model.read(TEXT)
    one, other = (
        causal_importance(model, trace, tokens=[4, 9], batch=b, **OPTIONS) for b in (1, 500)
    )
    for name in ("kl", "kl_reroute", "kl_control", "delta_logprob"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-6)


def test_correlations_are_those_of_the_table() -> None:
    model = zoo.model("small")
    trace = model.read(TEXT, record=v4kit.Record(outputs=True))
    found = causal_importance(model, trace, tokens=range(0, 20, 2), **OPTIONS)
    learned = [layer for layer in model.architecture.routed
               if layer not in model.architecture.hash_layers]  # fmt: skip
    part = trace.routing.isel(token=found["token"].values)
    norms = (part["output_norm"] * part["weights"]).values[:, learned].ravel()
    expected, n = spearman(norms, found["kl"].values[:, learned].ravel())
    cell = {"statistic": "norm", "effect": "kl"}
    assert float(found["spearman"].sel(cell)) == pytest.approx(expected)
    assert int(found["spearman_n"].sel(cell)) == n == 10 * len(learned) * 3
    assert float(found["spearman_null_std"].sel(cell)) == pytest.approx((n - 1) ** -0.5)
    bare = causal_importance(model, model.read(TEXT), tokens=[3, 4], **OPTIONS)
    assert np.isnan(bare["spearman"].sel(cell))
    assert int(bare["spearman_n"].sel(cell)) == 0


def test_ranks_share_their_mean() -> None:
    one = np.array([1.0, 2, 2, 3, np.nan])
    rho, n = spearman(one, np.array([4.0, 5, 6, 7, 8]))
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    expected = np.corrcoef([1, 2.5, 2.5, 4], [1, 2, 3, 4])[0, 1]
    assert (rho, n) == (pytest.approx(expected), 4)
    assert np.isnan(spearman(np.ones(5), np.arange(5.0))[0])
    assert np.isnan(spearman(np.arange(2.0), np.arange(2.0))[0])


class TestResuming:
    """A run with a file goes on where it was; one without returns what it has."""

    def broken_off(self, monkeypatch, model, trace, after_tokens, **options):
        real, calls = importance.log_probabilities, []

        def limited(*args):
            calls.append(args)
            if len(calls) > after_tokens:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(importance, "log_probabilities", limited)
        with pytest.warns(UserWarning, match=f"Interrupted after {after_tokens} of 6 tokens"):
            found = causal_importance(model, trace, batch=500, **OPTIONS, **options)
        monkeypatch.setattr(importance, "log_probabilities", real)
        return found

    def test_it_goes_on(self, monkeypatch, tmp_path) -> None:
        model, file = zoo.model("small"), tmp_path / "found.npz"
        trace = model.read(TEXT)
        options = {"tokens": range(3, 9), "save_to": file}
        part = self.broken_off(monkeypatch, model, trace, 2, **options)
        done = part["kl"].notnull().any(("layer", "slot"))
        assert done.values.tolist() == [True] * 2 + [False] * 4
        asked = []
        real = importance.log_probabilities
        monkeypatch.setattr(
            importance, "log_probabilities", lambda *args: (asked.append(args), real(*args))[1]
        )
        whole = causal_importance(model, trace, batch=500, **OPTIONS, **options)
        assert len(asked) == 4
        straight = causal_importance(model, trace, tokens=range(3, 9), batch=500, **OPTIONS)
        for name in ("kl", "kl_reroute", "kl_control", "delta_logprob"):
            # The past was read in other pieces, which round differently.
            np.testing.assert_allclose(whole[name], straight[name], rtol=1e-3, atol=1e-6)
        for name in ("control", "expert"):
            np.testing.assert_array_equal(whole[name], straight[name])
        causal_importance(model, trace, batch=500, **OPTIONS, **options)
        assert len(asked) == 10

    def test_a_token_that_was_broken_off_does_not_count(self, monkeypatch) -> None:
        """The interrupt comes when some of a token's experts are done already."""
        model, real, calls = zoo.model("small"), importance.log_probabilities, []

        def limited(*args):
            calls.append(args)
            if len(calls) > 3:
                raise KeyboardInterrupt
            return real(*args)

        monkeypatch.setattr(importance, "log_probabilities", limited)
        with pytest.warns(UserWarning, match="Interrupted after 0 of 2 tokens"):
            found = causal_importance(model, model.read(TEXT), tokens=[3, 4], batch=2, **OPTIONS)
        assert found["kl"].isnull().all()
        assert (found["control"] == -1).all()

    def test_a_file_that_was_cut_off(self, tmp_path) -> None:
        model, file = zoo.model("small"), tmp_path / "found.npz"
        causal_importance(model, model.read(TEXT), tokens=[3], save_to=file, **OPTIONS)
        file.write_bytes(file.read_bytes()[:-40])
        with pytest.raises(InputError, match="does not hold an experiment"):
            causal_importance(model, model.read(TEXT), tokens=[3], save_to=file, **OPTIONS)

    def test_a_file_of_other_documents_or_another_precision(self, tmp_path) -> None:
        model, file = zoo.model("small"), tmp_path / "found.npz"
        whole = model.read(TEXT)
        ids = whole.tokens["id"].tolist()
        parts = model.read_many([ids[:8], ids[8:]], progress=False)
        causal_importance(model, parts, tokens=[3], save_to=file, **OPTIONS)
        with pytest.raises(InputError, match="another text, model"):
            causal_importance(model, whole, tokens=[3], save_to=file, **OPTIONS)
        coarse = v4kit.wrap(zoo.fresh("small", dtype=torch.bfloat16), zoo.tokenizer())
        with pytest.raises(InputError, match="in another precision"):
            causal_importance(coarse, parts, tokens=[3], save_to=file, **OPTIONS)

    def test_a_file_of_another_run(self, tmp_path) -> None:
        model, file = zoo.model("small"), tmp_path / "found.npz"
        causal_importance(model, model.read(TEXT), tokens=[3], save_to=file, **OPTIONS)
        with pytest.raises(InputError, match="another text, model, tokens or seed"):
            causal_importance(model, model.read(TEXT), tokens=[4], save_to=file, **OPTIONS)
        file.write_text("no archive")
        with pytest.raises(InputError, match="does not hold an experiment"):
            causal_importance(model, model.read(TEXT), tokens=[3], save_to=file, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": [999]}, "rows of the trace that a token follows"),
        ({"tokens": []}, "rows of the trace that a token follows"),
        ({"layers": [77]}, "Layers with a router"),
        ({"layers": []}, "Layers with a router"),
        ({"layers": ["3"]}, "layers takes whole numbers"),
        ({"tokens": [3.7]}, "tokens takes whole numbers"),
        ({"seed": "a"}, "seed is a whole number"),
        ({"save_to": "no-such-folder/found.npz"}, "no folder 'no-such-folder'"),
        ({"batch": 0}, "batch is a whole number"),
    ],
)
def test_refusals(options, message) -> None:
    model = zoo.model("small")
    with pytest.raises(InputError, match=message):
        causal_importance(model, model.read(TEXT), **OPTIONS, **options)


def test_one_token_and_one_layer() -> None:
    model = zoo.model("small")
    trace = model.read(TEXT)
    one = causal_importance(model, trace, tokens=3, layers=4, **OPTIONS)
    several = causal_importance(model, trace, tokens=[3], layers=[4], **OPTIONS)
    assert one.identical(several)


@pytest.mark.parametrize("batch", [1, 6, 64])
def test_an_expert_that_rounding_changed_is_left_out(batch) -> None:
    """One other expert is rounding, whatever the batch; most others are another model."""
    model = zoo.model("small")
    trace = model.read(TEXT)
    experts = trace.routing["experts"].to_numpy().copy()
    experts[5, 4, 0] = next(e for e in range(16) if e not in experts[5, 4])
    trace.routing["experts"] = (trace.routing["experts"].dims, experts)
    found = causal_importance(model, trace, tokens=[5], batch=batch, **OPTIONS)
    missing = np.argwhere(np.isnan(found["kl"].sel(token=5).values))
    assert missing.tolist() == [[4, 0]]


def test_traces_of_something_else() -> None:
    model = zoo.model("small")
    with model.edit(v4kit.force(None, [0, 1, 2])):
        edited = model.read(TEXT)
        with pytest.raises(InputError, match="call it unedited"):
            causal_importance(model, edited, **OPTIONS)
    with pytest.raises(InputError, match="uses other experts than the trace"):
        causal_importance(model, edited, layers=[3, 4, 5], **OPTIONS)
    with pytest.raises(InputError, match="of another model"):
        causal_importance(model, zoo.model("mixtral").read(TEXT), **OPTIONS)
