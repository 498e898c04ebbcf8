"""A playground's edits: rows and edits say the same, runs have them, and wrong ones are told."""

import json

import numpy as np
import pytest

import v4kit
from tests import zoo
from tests.engines.alike import assert_alike
from tests.engines.served import VLLM
from tests.engines.stand_in import StandIn
from tests.widgets.pages import Page, eventually, threads
from v4kit.errors import InputError
from v4kit.widgets import Playground
from v4kit.widgets.edits import KINDS, OTHER, edit_of, kinds_for, row_of

PROMPT = "Count to ten: one, two, three,"
OPTIONS = {"max_new_tokens": 8, "temperature": 1.0, "seed": 4}
SAID = {
    "ablate": lambda: v4kit.ablate(3, [7, 9]),
    "knock_out": lambda: v4kit.ablate(None, [1], reroute=False, tokens="prompt"),
    "force": lambda: v4kit.force(4, [2]),
    "scale": lambda: v4kit.scale(0, [2, 3], factor=0.25, tokens="generated"),
    "nudge": lambda: v4kit.nudge(3, [5], delta=-0.2),
    "budget": lambda: v4kit.budget(k=2),
}
UNSAID = {
    "steer(": lambda: v4kit.steer(3, prefer=[1], avoid=[2]),
    "layers=[3, 4]": lambda: v4kit.ablate([3, 4], [1]),
    "tokens=[2, 5]": lambda: v4kit.force(3, [1], tokens=(2, 5)),
    "on=logits": lambda: v4kit.nudge(3, [1], delta=0.5, on="logits"),
    "renorm=True": lambda: v4kit.scale(3, [1], factor=0.5, renorm=True),
    "on_hash=substitute": lambda: v4kit.ablate(0, [1], on_hash="substitute"),
    "ablate_router(layers=[3], rule=uniform": lambda: v4kit.ablate_router(3, rule="uniform"),
    "ablate_shared(": lambda: v4kit.ablate_shared(3),
}


@pytest.fixture
def model():
    return zoo.model("small")


@pytest.fixture
def playground(model):
    playground = Playground(model, **OPTIONS)
    yield playground
    playground.close()
    eventually(lambda: threads("v4kit-run") == threads("v4kit-sender") == 0)


class TestRows:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_row_says_an_edit_and_back(self, kind) -> None:
        edit = SAID[kind]()
        row = json.loads(json.dumps(row_of(edit, 5)))
        assert (row["kind"], row["key"], row["on"]) == (kind, 5, True)
        assert edit_of(row) == edit
        # A page has no whole numbers of its own.
        if row["amount"] is not None:
            assert edit_of({**row, "amount": float(row["amount"])}) == edit

    @pytest.mark.parametrize("words", UNSAID)
    def test_what_no_row_can_say_is_told(self, words) -> None:
        row = row_of(UNSAID[words](), 2)
        assert row["kind"] == OTHER
        assert words in row["text"]
        assert json.loads(json.dumps(row)) == row

    def test_a_replay_is_told_by_its_model(self, model) -> None:
        assert "of=" in row_of(v4kit.replay(model.read(PROMPT)), 0)["text"]

    def test_kinds_are_data(self) -> None:
        told = json.loads(json.dumps(kinds_for(6)))
        assert [one["name"] for one in told] == list(KINDS) == list(SAID)
        assert next(one for one in told if one["name"] == "budget")["amount"]["most"] == 6

    @pytest.mark.parametrize(
        "row", [{}, {"kind": "sing"}, {"kind": "ablate"}, {"kind": "nudge", "experts": [1]}]
    )
    def test_what_is_no_row(self, row) -> None:
        with pytest.raises(InputError):
            edit_of(row)


class TestRuns:
    @pytest.mark.parametrize("how", ["made with", "set", "given", "by the page"])
    def test_a_run_has_them(self, model, how) -> None:
        edits = [v4kit.force(5, [7]), v4kit.scale(3, [2], factor=0.25)]
        playground = Playground(model, **OPTIONS, edits=edits if how == "made with" else ())
        if how == "set":
            playground.edits = edits
        if how == "by the page":
            playground._rows = [row_of(edit, key) for key, edit in enumerate(edits)]
        given = {"edits": edits} if how == "given" else {}
        trace = playground.run(PROMPT, **given).wait(60)
        wanted = model.generate(PROMPT, **OPTIONS, edits=edits)
        assert_alike(trace, wanted)
        assert trace.routing.equals(wanted.routing)
        assert trace.meta["edits"] == wanted.meta["edits"]
        fed = int(trace.tokens["valid"].sum())
        moved = (trace.routing["displaced"] != -1).any(("layer", "slot")).sum().item()
        assert f"Edits gave {moved} of {fed} tokens other experts." in playground._ended
        playground.close()

    def test_those_that_are_off_do_not_act(self, playground, model) -> None:
        playground.edits = [v4kit.force(5, [7])]
        playground._rows = [{**row, "on": False} for row in playground._rows]
        assert playground.edits == []
        trace = playground.run(PROMPT).wait(60)
        assert "edits" not in trace.meta
        assert "Edits" not in playground._ended
        assert_alike(trace, model.generate(PROMPT, **OPTIONS))

    def test_one_that_python_made_can_be_switched_off_and_on(self, playground) -> None:
        edit = v4kit.steer(3, prefer=[1], avoid=[2])
        playground.edits = [edit]
        (row,) = playground._rows
        playground._rows = [{**row, "on": False}]
        assert playground.edits == []
        playground._rows = [{**row, "on": True}]
        assert playground.edits == [edit]
        playground.edits = []
        playground._rows = [row]
        assert "There is no edit" in playground._refused["why"]

    def test_a_knock_out_displaces_nobody(self, playground) -> None:
        playground.run(PROMPT, edits=[v4kit.ablate(3, [1, 2], reroute=False)]).wait(60)
        assert "left every token its experts" in playground._ended

    def test_going_on_keeps_what_the_run_had(self, playground, model) -> None:
        edits = [v4kit.force(5, [7])]
        playground.run(PROMPT, edits=edits).wait(60)
        playground.edits = []
        trace = playground.go_on().wait(60)
        wanted = model.generate(PROMPT, **{**OPTIONS, "max_new_tokens": 16}, edits=edits)
        assert trace.routing.equals(wanted.routing)

    def test_a_token_tells_what_had_to_go(self, playground) -> None:
        trace = playground.run(PROMPT, edits=[v4kit.force(5, [7])]).wait(60)
        displaced = trace.routing["displaced"].to_numpy()
        row = int(np.flatnonzero((displaced != -1).any(axis=(1, 2)))[0])
        answer, _ = Page(playground).ask("details", {"row": row})
        gone = displaced[row, 5]
        assert answer["displaced"] == {5: gone[gone != -1].tolist()}


class TestRefusals:
    def test_a_row_that_can_not_act_is_told_and_stops_the_run(self, playground) -> None:
        good, bad = row_of(v4kit.force(5, [7]), 0), row_of(v4kit.force(5, [8]), 1)
        playground._rows = [good, {**bad, "experts": [99]}]
        assert playground._refused["row"] == 1
        assert "no expert 99" in playground._refused["why"]
        page = Page(playground)
        playground.prompt = PROMPT
        page.ask("do", {"action": "run"})
        assert "no expert 99" in playground.message
        assert playground.status == "idle"
        playground._rows = [good, {**bad, "experts": []}]
        assert "takes ids of experts" in playground._refused["why"]
        playground._rows = [good, bad]
        assert playground._refused == {}

    def test_beside_those_before_it(self, playground) -> None:
        rows = [row_of(v4kit.force(5, [7]), 0), row_of(v4kit.ablate(5, [7]), 1)]
        playground._rows = rows
        assert playground._refused["row"] == 1
        assert "always and never" in playground._refused["why"]
        playground._rows = [rows[0], {**rows[1], "on": False}]
        assert playground._refused == {}

    def test_from_python_at_once(self, playground, model) -> None:
        with pytest.raises(InputError, match="no expert 99"):
            playground.edits = [v4kit.force(5, [99])]
        with pytest.raises(InputError, match="given as a list"):
            playground.edits = ["ablate"]
        with pytest.raises(InputError, match="no expert 99"):
            Playground(model, edits=[v4kit.force(5, [99])])
        assert playground.edits == []

    def test_on_an_engine(self, model) -> None:
        with StandIn(VLLM(model)) as server:
            playground = Playground(v4kit.connect(server.url, model=model), max_new_tokens=3)
            assert not playground._editable
            with pytest.raises(InputError, match="runs elsewhere"):
                playground.edits = [v4kit.force(5, [7])]
            assert "edits" not in playground.run(PROMPT).wait(20).meta
            playground.close()


class TestControls:
    def test_others_of_like_load(self, playground) -> None:
        page = Page(playground)
        answer, _ = page.ask("matched", {"layer": 3, "experts": [1, 2]})
        assert "Run a prompt first" in answer["error"]
        trace = playground.run(PROMPT).wait(60)
        answer, _ = page.ask("matched", {"layer": 3, "experts": [1, 2], "seed": 1})
        assert answer["experts"] == v4kit.analysis.load_matched(trace, 3, [1, 2], seed=1)
        answer, _ = page.ask("matched", {"layer": 3, "experts": [99]})
        assert "error" in answer
