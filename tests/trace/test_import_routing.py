"""Routing from elsewhere becomes a Trace, or a sentence that says why not."""

import struct
import zipfile

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
        ({"experts": [[[1, 2]], [[3, 3]]]}, r"Token 1 has an expert twice in layer 0: \[3, 3\]"),
        ({"experts": [[[0, 0, 3]]]}, "has an expert twice"),
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

    @pytest.mark.parametrize("more", [False, True])
    def test_what_comes_with_them_may_lack_the_last_row(self, more) -> None:
        experts, ids = self.rollout()
        experts[4, 0] = experts[4, 2] = [1, 2]
        rows = len(experts) + more
        weights = np.ones((rows, *experts.shape[1:]))
        trace = v4kit.import_routing(
            experts,
            n_experts=8,
            token_ids=ids,
            text=["x"] * rows,
            labels=["a"] * rows,
            document=np.full(rows, 3, np.uint64),
            predicted_ids=np.arange(rows, dtype=np.uint64),
            weights=weights,
        )
        assert len(trace) == 10
        assert trace.tokens["label"].tolist() == ["a"] * 10
        assert trace.tokens["document"].tolist() == [3] * 10
        assert trace.tokens["position"].tolist() == list(range(10))
        assert trace.tokens["text"].iloc[-1] == ("x" if more else "")
        assert trace.tokens["predicted"].tolist() == [*range(9), 9 if more else -1]
        found = trace.routing["weights"].to_numpy()
        assert (found[:-1] == 1).all()
        assert np.isnan(found[-1]).all() != more

    def test_one_token_that_was_never_read(self) -> None:
        nothing = np.empty((0, 2, 2), int)
        trace = v4kit.import_routing(nothing, n_experts=4, token_ids=[7], document=[], labels=[])
        assert trace.tokens["id"].tolist() == [7]
        assert not trace.tokens["valid"].any()

    def test_two_arrays_that_could_be_meant(self, tmp_path) -> None:
        experts, _ = self.rollout()
        np.savez(tmp_path / "run.npz", a=experts, b=experts)
        with pytest.raises(InputError, match="Load it yourself"):
            v4kit.import_routing(tmp_path / "run.npz", n_experts=8)

    @pytest.mark.parametrize("name", ["token_ids", "input_ids"])
    def test_other_arrays_are_no_token_ids(self, name, tmp_path) -> None:
        experts, ids = self.rollout()
        beside = {"loss_mask": np.ones(10, int), "rewards": np.zeros(3)}
        np.savez(tmp_path / "run.npz", routed_experts=experts, **beside)
        assert (v4kit.import_routing(tmp_path / "run.npz", n_experts=8).tokens["id"] == -1).all()
        np.savez(tmp_path / "run.npz", routed_experts=experts, **beside, **{name: ids})
        trace = v4kit.import_routing(tmp_path / "run.npz", n_experts=8)
        assert trace.tokens["id"].tolist() == ids.tolist()

    def test_arrays_laid_out_by_columns(self, tmp_path) -> None:
        experts, _ = self.rollout()
        np.save(tmp_path / "run.npy", np.asfortranarray(experts))
        trace = v4kit.import_routing(tmp_path / "run.npy", n_experts=8)
        assert trace.routing["experts"].to_numpy()[0, 0].tolist() == experts[0, 0].tolist()

    def test_a_layer_of_zeros_is_what_it_is_called(self) -> None:
        experts, _ = self.rollout()
        kinds = ["topk", "hash", "topk"]
        trace = v4kit.import_routing(experts, n_experts=8, layer_kinds=kinds)
        assert trace.routing["kind"].to_numpy().tolist() == kinds


def npy(header: str, body: bytes = b"") -> bytes:
    """What claims to be a `.npy` file."""
    text = header.encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def shaped(shape: str) -> str:
    """The header of a `.npy` file."""
    return f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n"


DAMAGED = {
    "a lot": npy(shaped(f"({10**12}, 6, 3)")),
    "negative": npy(shaped("(-2, -3, 4)"), b"\0" * 24),
    "nothing of much": npy(shaped(f"(0, {10**30}, 3)")),
    "half a header": npy("{'descr': ("),
    "many signs": npy("-" * 9000 + "1"),
    "the beginning of an archive": b"PK\x03\x04" + b"x" * 50,
    "its magic": b"\x93NUMPY",
}


class TestDamagedFiles:
    @pytest.mark.parametrize("damage", DAMAGED)
    @pytest.mark.parametrize("packed", [False, True])
    def test_arrays(self, damage, packed, tmp_path) -> None:
        path = tmp_path / "run.npz"
        if packed:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("routed_experts.npy", DAMAGED[damage])
        else:
            path.write_bytes(DAMAGED[damage])
        with pytest.raises(InputError, match=r"can't be read as \.npy or \.npz") as caught:
            v4kit.import_routing(path, n_experts=8)
        assert len(str(caught.value)) < 400 + len(str(path))

    @pytest.mark.parametrize("saved", [np.savez, np.savez_compressed])
    def test_archives(self, saved, tmp_path) -> None:
        """Whatever byte is another one, it is told in words, or it did not matter."""
        experts, _ = TestWhatTrainingToolsWrite.rollout()
        saved(tmp_path / "whole.npz", routed_experts=experts)
        whole = (tmp_path / "whole.npz").read_bytes()
        path = tmp_path / "run.npz"
        told = 0
        for place in range(0, len(whole), 7):
            content = bytearray(whole)
            content[place] ^= 0xFF
            path.write_bytes(content)
            try:
                v4kit.import_routing(path, n_experts=8)
            except InputError:
                told += 1
        assert told > 10
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="can't be read"):
            v4kit.import_routing(path, n_experts=8)

    def test_an_archive_of_something_else(self, tmp_path) -> None:
        with zipfile.ZipFile(tmp_path / "run.npz", "w") as archive:
            archive.writestr("readme.txt", "hello")
        with pytest.raises(InputError, match="holds no array"):
            v4kit.import_routing(tmp_path / "run.npz", n_experts=8)

    def test_a_text_beside_the_arrays(self, tmp_path) -> None:
        experts, _ = TestWhatTrainingToolsWrite.rollout()
        np.savez(tmp_path / "run.npz", routed_experts=experts)
        with zipfile.ZipFile(tmp_path / "run.npz", "a") as archive:
            archive.writestr("readme.txt", "hello")
        assert len(v4kit.import_routing(tmp_path / "run.npz", n_experts=8)) == 9

    @pytest.mark.parametrize("name", [".", "none.npy"])
    def test_no_file(self, name, tmp_path) -> None:
        with pytest.raises(InputError, match="can't be read"):
            v4kit.import_routing(tmp_path / name, n_experts=8)
