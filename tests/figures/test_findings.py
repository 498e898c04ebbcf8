"""Pictures of analyses and experiments: every mark is the number that was found."""

import json

import numpy as np
import pytest
import xarray as xr

import v4kit
from tests import zoo
from tests.figures.traces import routed
from v4kit import analysis, experiments, figures
from v4kit.errors import InputError
from v4kit.figures.theme import THEMES

TEXT = "Once upon a time, a 🙂 sat by 春 and sang. "


@pytest.fixture(scope="module")
def found():
    """One result of each kind, by the figure that shows it."""
    model = zoo.model("small")
    trace = model.read(TEXT, record=v4kit.Record(outputs=True))
    labelled = routed(400, documents=8)
    return {
        "specialization": analysis.domain_specialization(labelled, permutations=20),
        "attribution": experiments.attribution(model, trace, 9),
        "importance": experiments.causal_importance(
            model, trace, tokens=range(4, 16), progress=False
        ),
    }


def drawn(found, name, **options):
    more = {"layer": 2, "label": "code"} if name == "specialization" else {}
    return getattr(figures, name)(found[name], **more, **options)


NAMES = pytest.mark.parametrize("name", ["specialization", "attribution", "importance"])


@NAMES
@pytest.mark.parametrize("theme", THEMES)
def test_all_have_both_themes_and_change_nothing(found, name, theme) -> None:
    before = found[name].copy(deep=True)
    one, other = (json.loads(drawn(found, name, theme=theme).to_json()) for _ in range(2))
    assert one == other
    assert one["layout"]["template"]["layout"]["paper_bgcolor"] == THEMES[theme].paper
    assert found[name].identical(before)
    with pytest.raises(InputError, match="theme"):
        drawn(found, name, theme="blue")


SOURCES = {
    "specialization": "v4kit.analysis.domain_specialization",
    "attribution": "v4kit.experiments.attribution",
    "importance": "v4kit.experiments.causal_importance",
}


@pytest.mark.parametrize("given", [*SOURCES, "load", "nothing", "no dataset"])
@NAMES
def test_results_of_something_else_are_refused(found, name, given) -> None:
    others = {"load": analysis.expert_load(routed(20)), "nothing": xr.Dataset(), "no dataset": 5}
    wrong = (found | others)[given]
    if given == name:
        return
    with pytest.raises(InputError, match=f"shows what {SOURCES[name]} returned; given was "):
        drawn({name: wrong}, name)


def test_bars_are_shares_beside_their_null(found) -> None:
    figure = drawn(found, "specialization")
    bar, null = figure.data
    part = found["specialization"].sel(layer=2, label="code")
    np.testing.assert_array_equal(bar.y, part["share"])
    np.testing.assert_array_equal(bar.customdata[:, :3], [[-1, 2, e] for e in range(len(bar.y))])
    mean, std = (part[f"share_null_{what}"].to_numpy() for what in ("mean", "std"))
    np.testing.assert_allclose(null.y[1::3], mean + 2 * std)
    np.testing.assert_allclose(null.y[0::3], np.maximum(mean - 2 * std, 0))
    strong = np.array(bar.marker.color) == THEMES["light"].learned[4]
    np.testing.assert_array_equal(strong, np.abs(bar.y - mean) > 2 * std)
    assert figure.layout.shapes[0].y0 == float(found["specialization"]["chance"])


@pytest.mark.parametrize("wrong", [{"layer": 0}, {"layer": 77}, {"label": "poems"}])
def test_layers_and_labels_that_are_not_there(found, wrong) -> None:
    with pytest.raises(InputError, match="has the layers"):
        figures.specialization(found["specialization"], **{"layer": 2, "label": "code"} | wrong)


@pytest.mark.parametrize("top", [1, 5, 500])
def test_bars_follow_each_other_up_to_the_logit(found, top) -> None:
    bar = figures.attribution(found["attribution"], top=top).data[0]
    steps, starts = np.array(bar.x[:-1]), np.array(bar.base[:-1])
    np.testing.assert_allclose(starts[1:], (starts + steps)[:-1], atol=1e-12)
    assert starts[-1] + steps[-1] == pytest.approx(float(found["attribution"]["logit"]))
    assert bar.x[-1] == float(found["attribution"]["logit"])
    values = found["attribution"]["summands"].to_numpy()
    shown = min(top, len(values))
    largest = values[np.argsort(-np.abs(values), kind="stable")][:shown]
    np.testing.assert_array_equal(steps[:shown], largest)
    for place, mark in enumerate(bar.customdata[:shown]):
        named = bar.y[place]
        assert named == "embedding" or named.startswith(f"layer {int(mark[1])}:")
        assert ("expert" in named) is (mark[2] >= 0)


def test_differences_name_both_words(found) -> None:
    model = zoo.model("small")
    both = experiments.attribution(model, model.read("a <b> c"), 3, target=(70, 75))
    text = figures.attribution(both).layout.title.text
    assert " rather than " in text
    assert "<b>" not in text
    for top in (0, 2.5, "x", None, True):
        with pytest.raises(InputError, match="top is a number"):
            figures.attribution(both, top=top)


@pytest.mark.parametrize("effect", ["kl", "kl_reroute"])
@pytest.mark.parametrize("against", ["load", "weight", "norm", "margin", "kl_control"])
def test_points_are_cells(found, against, effect) -> None:
    table = found["importance"]
    points = figures.importance(table, against, effect=effect).data[0]
    learned = table["kind"].values != "hash"
    assert len(points.x) == 12 * learned.sum() * 3
    for x, y, (row, layer, expert, kl, change) in zip(
        points.x, points.y, points.customdata, strict=True
    ):
        cell = table.sel(token=row, layer=layer)
        slot = int(np.flatnonzero(cell["expert"] == expert)[0])
        assert kl == float(cell[effect][slot])
        assert y == max(kl, 1e-9)
        assert x == pytest.approx(max(float(cell[against][slot]), 1e-9))
        assert change == float(cell[effect.replace("kl", "delta_logprob")][slot])


def test_what_was_not_recorded_says_so(found) -> None:
    model = zoo.model("small")
    bare = experiments.causal_importance(model, model.read(TEXT), tokens=[3], progress=False)
    figure = figures.importance(bare, "norm")
    assert not figure.data
    assert "no values of norm" in figure.to_json()
    for wrong in ({"against": "size"}, {"effect": "p"}):
        with pytest.raises(InputError, match="against is one of"):
            figures.importance(bare, **wrong)
