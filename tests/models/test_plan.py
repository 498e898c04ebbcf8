"""The plan against the truth: published counts, loaded models, allocated caches, measured peaks."""

import gc
import json
import os
import re
import subprocess
import sys
import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig

import v4kit
from tests import checkpoints, zoo
from v4kit.arch import describe
from v4kit.errors import InputError, ModelNotFound, UnsupportedModel
from v4kit.models.context_memory import cache_bytes, working_bytes
from v4kit.models.hardware import GPUS, Machine, machine, size_of
from v4kit.models.published import published

FLASH, PRO = "deepseek-ai/DeepSeek-V4-Flash", "deepseek-ai/DeepSeek-V4-Pro"
PARTS = {
    "experts": 277_025_390_592,
    "shared experts": 1_082_130_432,
    "embedding": 529_530_880,
    "head": 529_530_880,
    "compressors": 261_464_576,
    "indexers": 225_730_176,
    "gates": 45_088_768,
    "hyper-connections": 33_884_439,
}
"""Parameters of Flash; attention and norms are told apart in another way there."""

MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def folder(request, tmp_path_factory):
    """A small model on disk."""
    path = tmp_path_factory.mktemp("model")
    zoo.fresh("small").to(request.param).save_pretrained(path)
    zoo.tokenizer().save_pretrained(path)
    return path


NATIVE, FP8, MIDDLING = ("native", 8), ("fp8", 8), ("native", 160)
"""Layouts of DeepSeek's checkpoints, and their experts: 12 MB in bfloat16, or 130 MB."""


@pytest.fixture(scope="module")
def published_folder(request, tmp_path_factory):
    """A folder in one of these layouts."""
    path = tmp_path_factory.mktemp("published")
    layout, experts = request.param
    checkpoints.write(path, layout, experts=experts)
    return path


class TestPublished:
    @pytest.mark.parametrize(
        ("name", "parameters", "active"),
        [
            (FLASH, 284_332_230_231, 13_799_622_231),
            (f"{FLASH}-0731", 284_332_230_231, 13_799_622_231),
            (f"{FLASH}-Base", 284_332_230_231, 13_799_622_231),
            (PRO, 1_572_997_179_491, 49_779_058_787),
        ],
    )
    def test_parameters(self, name, parameters, active) -> None:
        plan = v4kit.plan(name, gpus="8 x H200")
        assert (plan.parameters, plan.active_parameters) == (parameters, active)
        assert "ships with the kit" in plan.source

    @pytest.mark.parametrize(
        ("name", "gpus", "gigabytes", "precision"),
        [
            (FLASH, "4 x H100", 156.0, "FP4 experts + FP8"),
            (f"{FLASH}-Base", "4 x H200", 285.9, "FP8"),
            (FLASH, "8 x A100", 568.7, "bfloat16"),
            (PRO, "8 x H200", 850.7, "FP4 experts + FP8"),
        ],
    )
    def test_bytes(self, name, gpus, gigabytes, precision) -> None:
        plan = v4kit.plan(name, gpus=gpus)
        assert plan.bytes / 1e9 == pytest.approx(gigabytes, abs=0.06)
        assert plan.precision == precision
        assert sum(one.weights for one in plan.placements) == plan.bytes

    def test_parts_and_schedule(self) -> None:
        plan = v4kit.plan(FLASH, gpus="B300")
        parts = {part.name: part.parameters for part in plan.parts}
        assert {name: parts[name] for name in PARTS} == PARTS
        rest = plan.parameters - sum(PARTS.values())
        assert parts["attention"] + parts["norms"] + parts["other"] == rest
        for one in published().values():
            ratios = one.config["compress_ratios"][: one.config["num_hidden_layers"]]
            counts = (ratios.count(0), ratios.count(4), ratios.count(128))
            assert counts == ((0, 30, 31) if one.repo == PRO else (2, 21, 20))

    def test_the_size_of_the_files(self) -> None:
        assert v4kit.plan(f"{FLASH}-0731", gpus="B300").download == 166_886_535_336
        # 156.0 GB that are loaded, and a block that predicts two tokens at once: 3.6 GB.
        plan = v4kit.plan(FLASH, gpus="8 x A100")
        assert plan.download / 1e9 == pytest.approx(159.6, abs=0.1)
        assert "about 160 GB to download" in " ".join(str(plan).split())

    @pytest.mark.parametrize("layout", ["native", "fp8"])
    def test_the_size_of_files_that_are_here(self, layout, tmp_path) -> None:
        """Here the block lacks its two projections."""
        checkpoints.write(tmp_path, layout)
        (file,) = tmp_path.glob("*.safetensors")
        found = v4kit.plan(AutoConfig.from_pretrained(tmp_path)).download
        assert found - 2 * checkpoints.HIDDEN**2 == pytest.approx(file.stat().st_size, rel=0.01)

    def test_the_cache_of_a_long_context(self) -> None:
        for context, gigabytes in ((8_192, 0.06), (32_768, 0.23), (131_072, 0.91), (2**20, 7.2)):
            plan = v4kit.plan(FLASH, gpus="B300", context=context)
            cache = sum(one.cache for one in plan.placements) / 1e9
            assert cache == pytest.approx(gigabytes, rel=0.05, abs=0.005)


_ALONE = """
import resource, socket, sys

def refuse(*_, **__):
    raise SystemExit("asked the network")

socket.getaddrinfo = socket.socket.connect = refuse
from v4kit.cli import main

code = main(["plan", "deepseek-ai/DeepSeek-V4-Flash"])
print("KB:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def test_the_command_alone_in_a_process(tmp_path) -> None:
    """It asks no network, though nothing forbids it to, and stays small. Benchmarks time it."""
    there = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", _ALONE],
        capture_output=True,
        text=True,
        env={**there, "HF_HOME": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "284,332,230,231 parameters" in done.stdout
    assert int(done.stdout.split("KB:")[1]) * 1024 < 2 * 10**9


class TestVerdicts:
    @pytest.mark.parametrize(
        ("options", "fits", "words"),
        [
            ({"gpus": "4 x H100"}, True, r"^Fits on 4 × H100: .* [\d.]+ GB free with 32,768"),
            ({"gpus": "2 x H100"}, True, r"^Fits on 2 × H100: .* up to about \d\d,\d\d\d would"),
            (
                {"gpus": "2 x H100", "context": 400_000},
                False,
                r"^Fits on 2 × H100, but not with 400,000 .* enough for prompts up to about \d",
            ),
            (
                {"gpus": "RTX 4090", "max_memory": {0: "20GB", "cpu": "200GB"}},
                True,
                r"^Runs on 1 × RTX 4090 with help .* 3\d of 43 layers \(1\d\d GB\) wait",
            ),
            (
                {"gpus": "RTX 4090", "max_memory": {"cpu": "30GB"}},
                False,
                r"^Does not fit into memory: \d\d of 43 layers stay on disk",
            ),
            ({"max_memory": {"cpu": "600GB"}}, True, r"^Fits on the CPU"),
        ],
    )
    def test_words(self, options, fits, words) -> None:
        plan = v4kit.plan(FLASH, **options)
        assert plan.fits == fits
        assert re.search(words, plan.verdict), plan.verdict

    def test_silent_dequantizing_is_told(self) -> None:
        (advice, *_) = v4kit.plan(FLASH, gpus="8 x A100").advice
        assert "hold FP4 experts + FP8 (156 GB)" in advice
        assert "makes 569 GB of them" in advice
        assert not v4kit.plan(FLASH, gpus="4 x H100").advice

    @pytest.mark.parametrize(
        ("asked", "placed"),
        [
            (None, {"": "cpu"}),
            ("cpu", {"": "cpu"}),
            ("cuda", {"": 0}),
            ("cuda:1", {"": 1}),
            (1, {"": 1}),
            (
                {"": torch.device("cuda:1"), "model.layers.0": "cpu"},
                {"": 1, "model.layers.0": "cpu"},
            ),
        ],
    )
    def test_devices_that_are_named(self, asked, placed) -> None:
        plan = v4kit.plan("tiny", gpus="2 x H100", device_map=asked)
        assert plan.device_map == placed
        weights = sum(one.weights for one in plan.placements)
        assert weights == plan.bytes
        assert {one.device.key for one in plan.placements} >= {str(d) for d in placed.values()}

    def test_other_quantizations_are_counted_at_their_most(self) -> None:
        config = zoo.random_model("gpt_oss").hf.config
        plain = v4kit.plan(config, gpus="H100", dtype="bfloat16")
        quantized = config.__class__(**config.to_dict(), quantization_config=MXFP4)
        plan = v4kit.plan(quantized, gpus="H100")
        assert (plan.bytes, plan.precision, plan.stored) == (plain.bytes, "bfloat16", "MXFP4")
        assert "MXFP4 weights are counted as if they were dequantized" in plan.advice[0]
        assert plan.download is None

    def test_speed_is_an_upper_limit(self) -> None:
        # 11.2 GB are read per token; all of a card's bandwidth is used by one token at a time.
        assert v4kit.plan(FLASH, gpus="2 x H200").most_tokens_per_second == pytest.approx(
            430, rel=0.02
        )
        slow = v4kit.plan(FLASH, gpus="RTX 4090", max_memory={0: "20GB", "cpu": "200GB"})
        assert 1 / slow.most_tokens_per_second == pytest.approx(140 / 32, rel=0.05)
        assert slow.bandwidths == "RTX 4090 1,008 GB/s, PCIe 32 GB/s"
        said = " ".join(str(slow).split())
        assert f"by bandwidth alone ({slow.bandwidths}): an upper limit, not what to" in said
        # 26.5 GB per token in bfloat16, at what a server's memory can do.
        alone = v4kit.plan(FLASH, max_memory={"cpu": "600GB"})
        assert alone.most_tokens_per_second == pytest.approx(500 / 26.5, rel=0.05)
        assert alone.bandwidths == "CPU 500 GB/s"

    def test_one_figure_is_told_of_speed_with_layers_on_disk(self) -> None:
        plan = v4kit.plan(FLASH, gpus="H100", max_memory={0: "70GB", "cpu": "20GB"})
        said = " ".join(str(plan).split())
        assert "GB/s" not in said.replace(plan.bandwidths, "")
        assert plan.bandwidths == "H100 3,350 GB/s, PCIe 64 GB/s, disk 14 GB/s"
        assert re.search(r"Every token takes 90.* GB to a GPU, 7\d.* GB of them from disk\.", said)
        on_disk = plan.placements[-1].weights / 14e9
        assert 1 / plan.most_tokens_per_second > on_disk

    @pytest.mark.parametrize(
        ("name", "bandwidth"),
        [
            ("NVIDIA H100 80GB HBM3", 3350),
            ("NVIDIA H100 NVL", 3938),
            ("NVIDIA H200", 4800),
            ("NVIDIA H20", 8000),
            ("NVIDIA Z9000", 8000),
        ],
    )
    def test_a_gpu_that_is_not_known_is_not_slow(self, name, bandwidth, monkeypatch) -> None:
        found = type("Found", (), {"name": name})
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: (9, 0))
        monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: found)
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (20 * 10**9, 150 * 10**9))
        gpu = machine(None, None).devices[0]
        assert gpu.name == f"{name.removeprefix('NVIDIA ')} (130 GB taken)"
        assert gpu.bandwidth == bandwidth * 10**9
        assert gpu.link >= 64 * 10**9
        assert gpu.bandwidth <= max(kind.bandwidth for kind in GPUS.values()) * 10**9


@pytest.mark.parametrize(
    ("model", "gpus", "told"),
    [(FLASH, "2 x H100", True), (FLASH, "4 x H200", False), (FLASH, "RTX 4090", False)],
)
def test_room_for_the_greatest_effort(model, gpus, told) -> None:
    plan = v4kit.plan(model, gpus=gpus)
    assert any('effort "max" wants a context of 393,216' in line for line in plan.advice) is told
    assert told is (0 < plan.longest < 393_216)
    assert "max" not in " ".join(v4kit.plan("tiny").advice)


class TestTruth:
    @pytest.mark.parametrize("share", [0.35, 0.7, None])
    def test_placement_is_that_of_loading(self, folder, share, tmp_path) -> None:
        whole = v4kit.plan(folder, dtype="bfloat16").bytes
        limits = None if share is None else {"cpu": int(share * whole)}
        options = {"dtype": "bfloat16", "max_memory": limits}
        plan = v4kit.plan(folder, **options)
        model = v4kit.load(folder, offload_folder=tmp_path, **options).hf
        placed = getattr(model, "hf_device_map", {"": "cpu"})
        assert {k: str(v) for k, v in plan.device_map.items()} == {
            k: str(v) for k, v in placed.items()
        }
        tensors = [*model.parameters(), *model.buffers()]
        here = sum(t.numel() * t.element_size() for t in tensors if t.device.type == "cpu")
        weights = {one.device.key: one.weights for one in plan.placements}
        assert weights["cpu"] == pytest.approx(here, rel=0.02)
        assert ("disk" in weights) == (share is not None)
        assert not (plan.fits and share is not None)

    @pytest.mark.parametrize(
        ("published_folder", "share", "kept"),
        [
            *(
                (layout, share, kept)
                for layout in (NATIVE, FP8)
                for share in (0.4, 0.75, None)
                for kept in (False, True)
            ),
            (MIDDLING, 0.4, False),
        ],
        indirect=["published_folder"],
    )
    def test_published_layouts(self, published_folder, share, kept, request, tmp_path) -> None:
        """Without a GPU weights are dequantized; `kept`: as if there were one, in the CPU's memory.

        Several GPUs can be planned on the meta device only.
        """
        if kept:
            request.getfixturevalue("keeping")
            request.getfixturevalue("monkeypatch").setattr(Machine, "keeps_quantized", True)
        whole = v4kit.plan(published_folder).bytes
        limits = None if share is None else {"cpu": int(share * whole)}
        plan = v4kit.plan(published_folder, max_memory=limits)
        assert (plan.precision == plan.stored) is kept
        hf = v4kit.load(published_folder, max_memory=limits, offload_folder=tmp_path).hf
        placed = getattr(hf, "hf_device_map", {"": "cpu"})
        assert {k: str(v) for k, v in plan.device_map.items()} == {
            k: str(v) for k, v in placed.items()
        }
        there = {"cpu": 0, "disk": 0}
        for tensor in (*hf.parameters(), *hf.buffers()):
            place = "disk" if tensor.is_meta else "cpu"
            there[place] += tensor.numel() * tensor.element_size()
        for one in plan.placements:
            assert one.weights == pytest.approx(there[one.device.key], rel=0.02)
        assert bool(there["disk"]) == (share is not None)

    @pytest.mark.parametrize("name", ["small", "wide", *zoo.OTHERS])
    @pytest.mark.parametrize("tokens", [1, 3, 64, 101, 300])
    def test_cache_is_that_of_a_pass(self, name, tokens) -> None:
        hf = zoo.random_model(name).hf
        with torch.no_grad():
            cache = hf(torch.arange(tokens)[None] % 200, use_cache=True).past_key_values
        for layer, kept in enumerate(cache.layers):
            planned = cache_bytes(hf.config, describe(hf.config), layer, tokens, 4)
            assert planned == held(vars(kept))

    @pytest.mark.parametrize(("tokens", "chunk"), [(64, 64), (256, 64), (380, 128)])
    def test_working_memory_is_of_the_right_size(self, tokens, chunk) -> None:
        hf = zoo.random_model("small").hf
        cache, before = None, tokens - chunk
        with torch.inference_mode():
            if before:
                ids = torch.arange(before)[None] % 200
                cache = hf(ids, use_cache=True).past_key_values
            with Peak(hf) as peak:
                hf(torch.arange(chunk)[None] % 200, past_key_values=cache, use_cache=True)
        planned = working_bytes(hf.config, describe(hf.config), tokens, chunk)
        assert 0.5 < planned / peak.most < 3, (planned, peak.most)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"context": 0}, "1 or more; given was 0"),
            ({"context": 2**21}, "reads up to 1,048,576 tokens"),
            ({"gpus": "4 x Z9000"}, "number and a kind, such as .* given was '4 x Z9000'"),
            ({"gpus": "0 x H100"}, "given was '0 x H100'"),
            ({"max_memory": {"cpu": "80 apples"}}, "given was '80 apples'"),
            ({"max_memory": {7: "80GB"}}, "names the device '7', which is not there"),
            ({"device_map": {"": "cuda:3"}}, "puts 'everything' on 'cuda:3', which is not there"),
            ({"dtype": "float16"}, "'auto', 'bfloat16' or 'float32'"),
        ],
    )
    def test_options(self, options, words) -> None:
        with pytest.raises(InputError, match=words):
            v4kit.plan(FLASH, **options)

    @pytest.mark.parametrize("field", ["layer_types", "num_hidden_layers"])
    def test_a_config_object_that_lacks_something(self, field) -> None:
        config = zoo.fresh("small").config
        delattr(config, field)
        with pytest.raises(
            UnsupportedModel, match=r"Compare it with the (checkpoint|config\.json)"
        ):
            v4kit.plan(config)

    @pytest.mark.parametrize("kind", ["hf", "model", "plan", "dict"])
    def test_what_is_neither_name_nor_config(self, kind) -> None:
        model = zoo.random_model("small")
        given = {"hf": model.hf, "model": model, "plan": v4kit.plan("tiny"), "dict": {}}[kind]
        with pytest.raises(InputError, match=r"by a folder or a hub id; given was a .* its config"):
            v4kit.plan(given)

    def test_models(self, tmp_path) -> None:
        with pytest.raises(ModelNotFound, match="Without network, these are known: deepseek-ai/"):
            v4kit.plan("no-one/has-this")
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
        with pytest.raises(UnsupportedModel):
            v4kit.plan(tmp_path)

    @pytest.mark.parametrize(
        ("text", "size"),
        [("80GB", 80e9), ("16GiB", 2**34), ("1.5 tb", 1.5e12), ("512", 512), (7, 7), ("3k", 3e3)],
    )
    def test_sizes(self, text, size) -> None:
        assert size_of(text) == size

    @pytest.mark.parametrize("wrong", ["", "GB", "-1GB", -1, True, 1.5, None])
    def test_what_is_no_size(self, wrong) -> None:
        with pytest.raises(InputError, match="A size is bytes or a text"):
            size_of(wrong)


class TestText:
    def test_console(self) -> None:
        plan = v4kit.plan(FLASH, gpus="4 x H100")
        lines = str(plan).splitlines()
        assert max(map(len, lines)) <= 80
        said = " ".join(str(plan).split())
        assert "284,332,230,231 parameters, 13,799,622,231 active per token" in said
        assert len(repr(plan)) <= 140

    def test_notebook(self) -> None:
        config = zoo.random_model("small").hf.config.__class__(**{
            **zoo.random_model("small").hf.config.to_dict(), "_name_or_path": "<script>x</script>",
        })  # fmt: skip
        page = v4kit.plan(config)._repr_html_()
        assert "<script" not in page
        assert page.count("<table>") == 2


def held(value):
    """Bytes of all tensors in what a cache's layer keeps, shared memory counted once."""
    found = {}

    def look(one):
        if isinstance(one, torch.Tensor):
            if one.dim():
                size = one.numel() * one.element_size()
                place = one.untyped_storage().data_ptr()
                found[place] = max(size, found.get(place, 0))
        elif isinstance(one, dict):
            for inner in one.values():
                look(inner)

    look(value)
    return sum(found.values())


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside the block held at once, a model's own left out."""

    def __init__(self, model):
        super().__init__()
        self.now = self.most = 0
        own = (*model.parameters(), *model.buffers())
        self._known = {tensor.untyped_storage()._cdata for tensor in own}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return made

    def _count(self, storage):
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key, size):
        self._known.discard(key)
        self.now -= size

    def __exit__(self, *error):
        gc.collect()
        return super().__exit__(*error)
