"""The magics, run in a real shell as a notebook's cells are."""

import atexit
import io
import sys
import threading
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

import v4kit
from tests import zoo
from tests.engines.alike import assert_alike
from tests.engines.test_sampling import Scripted
from v4kit.models.chat import encode

PROMPT = "And the Lord said unto"
LOADED = "Model(tiny · "


class Ran:
    """What a cell left: printed text, displayed data, and the error it ended with."""

    def __init__(self, shell: InteractiveShell, cell: str) -> None:
        with capture_output() as caught:
            self.result = shell.run_cell(cell)
        self.printed, self.complaint = caught.stdout, caught.stderr
        self.shown: list[dict[str, Any]] = [output.data for output in caught.outputs]
        self.error = self.result.error_in_exec

    @property
    def sentence(self) -> str:
        """What a cell with bad input says: one sentence, and no way back to where it was said."""
        assert isinstance(self.error, UsageError), self.error
        assert "Traceback" not in self.printed + self.complaint
        assert str(self.error) in self.printed + self.complaint
        assert not self.shown
        return str(self.error)


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """A shell of its own that keeps no history, with the magics loaded."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    before = sys.excepthook, sys.displayhook, sys.modules["__main__"]
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config, colors="nocolor")
    shell.run_line_magic("load_ext", "v4kit")
    yield shell
    atexit.unregister(shell.atexit_operations)
    shell.restore_sys_module_state()
    InteractiveShell.clear_instance()
    assert (sys.excepthook, sys.displayhook, sys.modules["__main__"]) == before


@pytest.fixture
def run(shell):
    """Runs a cell."""
    return lambda cell: Ran(shell, cell)


class TestExtension:
    def has_magics(self, shell) -> bool:
        found = {*shell.magics_manager.magics["line"], *shell.magics_manager.magics["cell"]}
        return {"v4", "v4_load"} <= found

    def test_twice(self, shell, run) -> None:
        assert self.has_magics(shell)
        assert "already loaded" in run("%load_ext v4kit").printed
        assert self.has_magics(shell)

    def test_unloaded_and_loaded_again(self, shell, run) -> None:
        assert run("%unload_ext v4kit").error is None
        assert not self.has_magics(shell)
        assert "not found" in run("%v4_load").sentence
        assert "not found" in run("%%v4\nHello").sentence
        assert "not loaded" in run("%unload_ext v4kit").printed
        assert run("%load_ext v4kit").error is None
        assert run("%v4_load").printed.startswith(LOADED)

    def test_reloaded(self, shell, run) -> None:
        paths = list(v4kit.__path__)
        assert run("%reload_ext v4kit").error is None
        assert self.has_magics(shell)
        assert list(v4kit.__path__) == paths
        assert run("%v4_load").printed.startswith(LOADED)


class TestLoad:
    def test_into_the_variable_model(self, shell, run) -> None:
        ran = run("%v4_load")
        assert ran.error is None
        assert ran.printed == repr(shell.user_ns["model"]) + "\n"
        assert isinstance(shell.user_ns["model"], v4kit.Model)

    def test_options(self, shell, run, tmp_path) -> None:
        zoo.random_model("mixtral").hf.save_pretrained(tmp_path / "my model")
        zoo.tokenizer().save_pretrained(tmp_path / "my model")
        options = "--name other --dtype bfloat16 --device-map cpu"
        ran = run(f'%v4_load "{tmp_path / "my model"}" {options}')
        assert ran.error is None, ran.error
        assert shell.user_ns["other"].meta["dtype"] == "bfloat16"
        assert "model" not in shell.user_ns
        run(f"%%v4 --max-new-tokens 2\n{PROMPT}")
        assert shell.user_ns["trace"].meta["dtype"] == "bfloat16"

    def test_again_replaces(self, shell, run) -> None:
        run("%v4_load")
        first = shell.user_ns["model"]
        run("%v4_load tiny")
        assert shell.user_ns["model"] is not first

    def test_nothing_is_kept_beside_the_variable(self, run) -> None:
        run("%v4_load\ndel model")
        assert "no variable 'model'" in run(f"%%v4\n{PROMPT}").sentence

    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("no/such-model", "'no/such-model' could not be loaded"),
            ("--dtype int3", "given was 'int3'"),
            ("--name 3x", "'3x' can't be the name of a variable"),
            ("--name for", "'for' can't be the name of a variable"),
            ("--nome x", "unrecognized arguments: --nome"),
            ("tiny tiny", "unrecognized arguments: tiny"),
            ('"tiny', "No closing quotation: look at the quotation marks"),
        ],
    )
    def test_bad_input(self, shell, run, line, sentence) -> None:
        assert sentence in run(f"%v4_load {line}").sentence
        assert "model" not in shell.user_ns

    def test_a_failed_load_leaves_the_model_that_was_there(self, shell, run) -> None:
        run("%v4_load")
        model = shell.user_ns["model"]
        assert run("%v4_load no/such-model").error
        assert shell.user_ns["model"] is model


@pytest.fixture
def with_model(shell, run):
    """Runs a cell in a shell whose variable `model` holds the tiny model."""
    run("%v4_load")
    return run


class Pieces(io.StringIO):
    """Standard output that notes how the text comes."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


class TestWriting:
    def test_text_and_then_the_trace(self, shell, with_model) -> None:
        ran = with_model(f"%%v4 --max-new-tokens 12 --seed 1\n{PROMPT}\n")
        assert ran.error is None
        expected = zoo.tiny().generate(PROMPT, max_new_tokens=12, seed=1)
        assert_alike(shell.user_ns["trace"], expected)
        assert ran.printed == expected.completion + "\n"
        (shown,) = ran.shown
        assert shown["text/plain"].startswith(repr(expected))
        assert "text/html" in shown

    @pytest.mark.usefixtures("with_model")
    def test_it_comes_piece_by_piece(self, shell, monkeypatch) -> None:
        out = Pieces()
        monkeypatch.setattr(sys, "stdout", out)
        shell.run_cell(f"%%v4 --max-new-tokens 9\n{PROMPT}")
        monkeypatch.undo()
        trace = shell.user_ns["trace"]
        assert out.pieces[:9] == trace.tokens["text"].tolist()[-9:]

    def test_all_options(self, shell, with_model) -> None:
        line = "--max-new-tokens 9 --temperature 0.9 --top-p 0.8 --seed 3 --attention 4 --into mine"
        assert with_model(f"%%v4 {line}\n{PROMPT}").error is None
        expected = zoo.tiny().generate(
            PROMPT,
            max_new_tokens=9,
            temperature=0.9,
            top_p=0.8,
            seed=3,
            record=v4kit.Record(attention=4),
        )
        assert_alike(shell.user_ns["mine"], expected)
        assert "trace" not in shell.user_ns

    @pytest.mark.parametrize(("given", "kept"), [("none", None), ("full", "full"), ("auto", 16)])
    def test_attention(self, shell, with_model, given, kept) -> None:
        with_model(f"%%v4 --max-new-tokens 1 --attention {given}\n{PROMPT}")
        assert shell.user_ns["trace"].meta["attention"]["sources"] == kept

    @pytest.mark.parametrize(
        ("cell", "prompt"),
        [
            ("two\nlines\n", "two\nlines"),
            ("\n  spaces stay \n\n", "\n  spaces stay \n"),
            ("{braces} $and %signs", "{braces} $and %signs"),
        ],
    )
    @pytest.mark.usefixtures("with_model")
    def test_the_prompt_is_the_cell_as_it_is(self, shell, cell, prompt) -> None:
        shell.run_cell_magic("v4", "--max-new-tokens 1", cell)
        tokens = shell.user_ns["trace"].tokens
        assert "".join(tokens["text"][1:-1]) == prompt

    def test_stop_texts(self, shell, with_model) -> None:
        whole = zoo.tiny().generate(PROMPT, max_new_tokens=12).completion
        assert "God of" in whole
        ran = with_model(f'%%v4 --stop "God of" --stop "not there"\n{PROMPT}')
        assert ran.printed.endswith("God of\n")
        assert shell.user_ns["trace"].meta["sampling"]["stop"] == ["God of", "not there"]
        assert shell.user_ns["trace"].meta["stop_reason"] == "stop string"
        with_model(f"%%v4 --max-new-tokens 1 --stop \\n\n{PROMPT}")
        assert shell.user_ns["trace"].meta["sampling"]["stop"] == ["\n"]

    def test_variables_in_the_line(self, shell, with_model) -> None:
        shell.user_ns["n"] = 3
        with_model(f"%%v4 --max-new-tokens $n\n{PROMPT}")
        assert shell.user_ns["trace"].meta["sampling"]["max_new_tokens"] == 3

    def test_a_model_from_a_variable(self, shell, with_model) -> None:
        shell.user_ns["other"] = zoo.random_model("small")
        with_model(f"%%v4 --model other --max-new-tokens 2\n{PROMPT}")
        assert shell.user_ns["trace"].meta["model"] == "DeepseekV4ForCausalLM"

    def test_without_a_model_the_tiny_one(self, shell, run) -> None:
        for _ in range(2):
            ran = run(f"%%v4 --max-new-tokens 2\n{PROMPT}")
            assert ran.printed.startswith("No model was loaded, so this is the tiny one")
            assert shell.user_ns["trace"].meta["model"] == "tiny"
        assert "model" not in shell.user_ns


class Script:
    """A model that says what it is told: an engine is whatever has `stream`."""

    def __init__(self, says: list[int]) -> None:
        self.tokenizer = zoo.tokenizer()
        self._says = says

    def stream(self, prompt: Any, **options: Any) -> Any:
        model = zoo.random_model("small")
        stream = model.stream(prompt, **options)
        finish = stream.finish

        def scripted(on_step: Any) -> Any:
            with Scripted(model, stream.prompt_tokens, self._says):
                return finish(on_step)

        stream.finish = scripted
        return stream


class TestChat:
    def test_the_cell_is_a_users_message(self, shell, with_model) -> None:
        with_model("%%v4 --chat --max-new-tokens 3\nWhat is 2 + 2?\n")
        trace = shell.user_ns["trace"]
        messages = [{"role": "user", "content": "What is 2 + 2?"}]
        prompt = trace.tokens["phase"] == "prompt"
        assert "".join(trace.tokens["text"][prompt]) == encode(messages, edition="preview")

    def test_special_tokens_are_not_printed(self, shell, run) -> None:
        """But reasoning and answer stand apart."""
        ids = zoo.tokenizer()("Two and two.</think>Four!<｜end▁of▁sentence｜>")["input_ids"]
        shell.user_ns["script"] = Script(ids)
        ran = run("%%v4 --chat --thinking high --model script\n2 + 2?")
        assert ran.printed == "Two and two.\n\nFour!\n"
        assert shell.user_ns["trace"].meta["thinking"] == "high"
        assert shell.user_ns["trace"].text.endswith(zoo.SPECIAL[1])


class TestBadInput:
    @pytest.mark.parametrize(
        ("line", "sentence"),
        [
            ("--temperature abc", "argument --temperature: invalid float value: 'abc'"),
            ("--temperature -1", "temperature is 0 (greedy) or a finite number above"),
            ("--max-new-tokens 0", "max_new_tokens is a whole number, 1 or more; given was 0"),
            ("--seed x", "argument --seed: invalid int value: 'x'"),
            ("--top-p 2", "top_p lies above 0 and up to 1; given was 2.0"),
            ("--attention many", "given was 'many'"),
            ("--attention 0", "given was 0"),
            ('--stop ""', "stop takes strings that are not empty"),
            ("--stop", "argument --stop: expected one argument"),
            ("--into a.b", "'a.b' can't be the name of a variable"),
            ("--into class", "'class' can't be the name of a variable"),
            ("--model nowhere", "There is no variable 'nowhere'"),
            ("--model number", "The variable 'number' holds no model but int"),
            ("--thinking high", "add --chat"),
            ("--chat --thinking enormous", "no reasoning effort"),
            ("--loud", "unrecognized arguments: --loud"),
            ("a prompt", "unrecognized arguments: a prompt"),
            ('--stop "', "No closing quotation"),
        ],
    )
    def test_options(self, shell, with_model, line, sentence) -> None:
        shell.user_ns["number"] = 3
        assert sentence in with_model(f"%%v4 {line}\n{PROMPT}").sentence
        assert "trace" not in shell.user_ns

    @pytest.mark.parametrize("cell", ["%%v4\n", "%%v4\n\n  \n", "%v4"])
    def test_no_prompt(self, shell, with_model, cell) -> None:
        said = with_model(cell).sentence
        assert "There is no prompt" in said or "the cell body is empty" in said
        assert "trace" not in shell.user_ns

    @pytest.mark.parametrize("cell", ["%v4 --help", "%v4 -h", "%%v4 --seed x --help\nx"])
    def test_help(self, run, cell) -> None:
        ran = run(cell)
        assert ran.error is None
        for option in ("--max-new-tokens", "--chat", "--attention", "--into", "--stop"):
            assert option in ran.printed
        assert "%%v4" in ran.printed
        assert "No model" not in ran.printed

    def test_help_of_load(self, shell, run) -> None:
        assert "--device-map" in run("%v4_load --help").printed
        assert "model" not in shell.user_ns


class TestInterrupted:
    @pytest.mark.parametrize("after", [0, 3])
    def test_what_came_until_then_is_kept_and_shown(self, shell, with_model, after) -> None:
        model, passes = shell.user_ns["model"], []

        def stop(_: object) -> None:
            passes.append(1)
            if len(passes) == after + 1:
                raise KeyboardInterrupt

        with model.tap("router", stop, layers=[3]):
            ran = with_model(f"%%v4 --max-new-tokens 12\n{PROMPT}")
        assert ran.error is None
        trace = shell.user_ns["trace"]
        assert (trace.tokens["phase"] == "generated").sum() == after
        assert trace.meta["stop_reason"] == "interrupted"
        assert ran.printed == f"{trace.completion}\ninterrupted after {after} tokens\n"
        assert ran.shown[0]["text/plain"].startswith(repr(trace))
        # The model is free for the next cell.
        assert with_model(f"%%v4 --max-new-tokens 2\n{PROMPT}").error is None

    def test_busy_model(self, shell, with_model) -> None:
        held, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with shell.user_ns["model"].busy():
                held.set()
                go_on.wait(30)

        thread = threading.Thread(target=hold)
        thread.start()
        assert held.wait(30)
        try:
            assert "in use by another thread" in with_model(f"%%v4\n{PROMPT}").sentence
        finally:
            go_on.set()
            thread.join(30)
