"""Sinks: means and quartiles against numpy, heads where they are apart, families without any."""

import numpy as np
import pytest

import v4kit
from tests import zoo
from tests.figures.attention_traces import KINDS, long, looking
from v4kit import Record
from v4kit.figures import sink_strength


def parts(figure):
    return {drawn.name: drawn for drawn in figure.data}


@pytest.mark.parametrize("span", [None, (5, 31)])
def test_each_head(span):
    trace = looking(heads=3)
    figure = sink_strength(trace, span=span)
    drawn = parts(figure)
    sinks = trace.attention["sink"].values[slice(*(span or (0, 59)))]
    assert drawn["heads"].z.shape == (len(KINDS), 3)
    for layer in range(len(KINDS)):
        for head in range(3):
            values = sinks[:, layer, head]
            mark = drawn["heads"].customdata[layer, head]
            assert mark[:4].tolist() == [-1, layer, -1, head]
            assert drawn["heads"].z[layer, head] == pytest.approx(values.mean(), abs=1e-6)
            assert mark[4] == pytest.approx(values.mean(), abs=1e-6)
            wanted = np.quantile(values, [0.25, 0.5, 0.75], method="inverted_cdf")
            np.testing.assert_allclose(mark[5:8], wanted, atol=0.0006)
            assert mark[8] == len(sinks)
        assert drawn["all heads"].z[layer, 0] == pytest.approx(sinks[:, layer].mean(), abs=1e-6)


def test_mean_of_the_heads():
    trace = looking()
    figure = sink_strength(trace)
    drawn = parts(figure)
    sinks = trace.attention["sink"].values[:59]
    np.testing.assert_allclose(drawn["mean"].x, sinks.mean(axis=0), atol=1e-6)
    wanted = np.quantile(sinks, 0.5, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(drawn["median"].x, wanted, atol=0.0006)
    assert 'heads="each"' in figure.layout.annotations[0].text
    assert "n = 59 tokens" in figure.layout.title.subtitle.text


def test_long_traces():
    figure = sink_strength(long())
    np.testing.assert_allclose(parts(figure)["mean"].x, 0.15, atol=1e-6)
    assert "n = 20,000 tokens" in figure.layout.title.subtitle.text


def test_families_without_sinks():
    model = zoo.fresh("mixtral")
    model.set_attn_implementation("eager")
    trace = v4kit.wrap(model, zoo.tokenizer()).read(zoo.TEXT, record=Record(attention=4))
    said = sink_strength(trace).layout.annotations[0].text
    assert "None of the layers has an attention sink" in said


def test_of_a_real_model():
    trace = zoo.tiny().read(zoo.TEXT, record=Record(attention=4, heads="each"))
    sinks = trace.attention["sink"].values
    np.testing.assert_allclose(parts(sink_strength(trace))["heads"].z, sinks.mean(0), atol=1e-6)
