"""Routing from elsewhere becomes a Trace, or a sentence that says why not."""

import numpy as np
import pytest

import v4kit
from tests.trace.samples import assert_same
from v4kit.errors import InputError

EXPERTS = np.array([[[0, 3], [-1, -1]], [[2, -1], [-1, -1]], [[-1, -1], [-1, -1]]])


def test_values() -> None:
    trace = v4kit.import_routing(
        EXPERTS,
        n_experts=4,
        token_ids=[5, 6, 7],
        text=["a", "b", "c"],
        document=[0, 1, 0],
        labels=["x", "y", "x"],
        weights=EXPERTS / 2,
        predicted_ids=[6, 7, -1],
        model="mine",
    )
    tokens = trace.tokens
    np.testing.assert_array_equal(trace.routing["experts"], EXPERTS)
    np.testing.assert_array_equal(trace.routing["weights"], EXPERTS / 2)
    assert trace.routing["experts"].dtype == np.int16
    assert trace.routing["kind"].to_numpy().tolist() == ["topk", "dense"]
    assert tokens["id"].tolist() == [5, 6, 7]
    assert tokens["text"].tolist() == ["a", "b", "c"]
    assert tokens["document"].tolist() == [0, 1, 0]
    assert tokens["position"].tolist() == [0, 0, 1]
    assert tokens["label"].tolist() == ["x", "y", "x"]
    assert tokens["predicted"].tolist() == [6, 7, -1]
    assert tokens["valid"].tolist() == [True, True, False]
    assert set(trace.routing.data_vars) == {"experts", "weights"}
    assert trace.meta["model"] == "mine"
    assert trace.meta["architecture"]["n_experts"] == 4


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int64", "uint64"])
def test_any_integers(dtype) -> None:
    experts = np.array([[[0, 3]], [[2, 1]]], dtype)
    trace = v4kit.import_routing(experts, n_experts=4)
    np.testing.assert_array_equal(trace.routing["experts"], experts)


def test_lists_and_no_rows() -> None:
    assert len(v4kit.import_routing([[[0]], [[1]]], n_experts=2)) == 2
    empty = v4kit.import_routing(np.empty((0, 2, 2), int), n_experts=2, document=[], text=[])
    assert len(empty) == 0
    assert empty.layers == (0, 1)


def test_kinds_may_be_given() -> None:
    trace = v4kit.import_routing(EXPERTS, n_experts=4, layer_kinds=["hash", "topk"])
    assert trace.routing["kind"].to_numpy().tolist() == ["hash", "topk"]


def test_its_trace_is_kept(tmp_path) -> None:
    trace = v4kit.import_routing(EXPERTS, n_experts=4)
    assert_same(v4kit.open_trace(trace.save(tmp_path / "a")), trace)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"experts": EXPERTS[0]}, r"\[token, layer, slot\]"),
        ({"experts": EXPERTS.astype(float)}, "integers"),
        ({"experts": EXPERTS[:, :0]}, "one layer"),
        ({"experts": EXPERTS[..., :0]}, "slots"),
        ({"experts": np.zeros((1, 1, 5), int)}, "slots"),
        ({"n_experts": 3}, "reach from -1 to 3"),
        ({"experts": EXPERTS - 1}, "reach from -2"),
        ({"n_experts": 0}, "n_experts"),
        ({"n_experts": 40_000}, "n_experts"),
        ({"n_experts": 4.0}, "n_experts"),
        ({"token_ids": [1, 2]}, "token_ids"),
        ({"token_ids": [1, 2, 2**40]}, "token_ids"),
        ({"token_ids": [0.5, 1, 2]}, "token_ids"),
        ({"document": ["a", "b", "c"]}, "document"),
        ({"document": [[0, 1, 2]]}, "document"),
        ({"predicted_ids": [1]}, "predicted_ids"),
        ({"text": ["a"]}, "text"),
        ({"text": "abc"}, "text"),
        ({"text": [b"a", "b", "c"]}, "text"),
        ({"labels": ["a", None, "b"]}, "labels"),
        ({"weights": EXPERTS[:1]}, "weights"),
        ({"weights": EXPERTS.astype(str)}, "weights"),
        ({"layer_kinds": ["topk"]}, "layer_kinds"),
        ({"layer_kinds": ["topk", "soft"]}, "layer_kinds"),
        ({"layer_kinds": ["dense", "topk"]}, "layer 0 is dense"),
    ],
)
def test_what_can_not_be_right(arguments, message) -> None:
    arguments = {"experts": EXPERTS, "n_experts": 4, **arguments}
    with pytest.raises(InputError, match=message):
        v4kit.import_routing(arguments.pop("experts"), **arguments)


class TestWhatTrainingToolsWrite:
    """Arrays of rollouts: zeros where nothing was captured, no row for the last token."""

    @staticmethod
    def rollout() -> tuple[np.ndarray, np.ndarray]:
        """Experts `[token, layer, slot]` with a dense layer and a token that was not captured."""
        rng = np.random.default_rng(0)
        experts = np.argsort(rng.random((9, 3, 8)), axis=-1)[..., :2].astype(np.int32)
        experts[:, 1] = 0
        experts[4] = 0
        return experts, np.arange(10, 20)

    @pytest.mark.parametrize("kind", ["npy", "npz", "arrays"])
    def test_files_and_arrays(self, kind, tmp_path) -> None:
        experts, ids = self.rollout()
        if kind == "npz":
            np.savez(tmp_path / "run.npz", routed_experts=experts, token_ids=ids)
            trace = v4kit.import_routing(tmp_path / "run.npz", n_experts=8)
        elif kind == "npy":
            np.save(tmp_path / "run.npy", experts)
            trace = v4kit.import_routing(str(tmp_path / "run.npy"), n_experts=8, token_ids=ids)
        else:
            trace = v4kit.import_routing(experts, n_experts=8, token_ids=ids)
        assert trace.tokens["id"].tolist() == ids.tolist()
        found = trace.routing["experts"].to_numpy()
        assert trace.routing["kind"].to_numpy().tolist() == ["topk", "dense", "topk"]
        assert trace.tokens["valid"].tolist() == [row not in (4, 9) for row in range(10)]
        for row in range(10):
            for layer in range(3):
                expected = [-1, -1] if layer == 1 or row in (4, 9) else experts[row, layer].tolist()
                assert found[row, layer].tolist() == expected

    def test_one_expert_of_number_0_is_an_expert(self) -> None:
        trace = v4kit.import_routing(np.zeros((3, 2, 1), int), n_experts=4)
        assert (trace.routing["experts"] == 0).all()

    @pytest.mark.parametrize(
        ("write", "words"),
        [
            (lambda path: path.write_bytes(b"none"), "can't be read as .npy or .npz"),
            (lambda path: np.save(path, np.array([{}], dtype=object)), "can't be read"),
            (lambda path: np.save(path, np.zeros((3, 2), int)), r"holds array \(3, 2\)"),
            (lambda path: path.touch(), "can't be read"),
        ],
    )
    def test_files_of_something_else(self, write, words, tmp_path) -> None:
        path = tmp_path / "run.npy"
        write(path)
        with pytest.raises(InputError, match=words):
            v4kit.import_routing(path, n_experts=8)

    def test_two_arrays_that_could_be_meant(self, tmp_path) -> None:
        experts, _ = self.rollout()
        np.savez(tmp_path / "run.npz", a=experts, b=experts)
        with pytest.raises(InputError, match="Load it yourself"):
            v4kit.import_routing(tmp_path / "run.npz", n_experts=8)
