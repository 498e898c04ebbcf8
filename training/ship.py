"""Put a trained model where the package ships it from.

`python -m training.ship --run run --data data --tokenizer tokenizer --out v4kit/models/tiny` writes
one bfloat16 file with upstream key names, the tokenizer, how it was trained, and the licences of
the texts. It takes the last checkpoint of a run of `training.train` or `training.teach`.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training.settings import ARCHITECTURE, MIXTURE


def teaching_facts(teaching: dict[str, Any]) -> dict[str, Any]:
    """Return how recall was taught after the first training, with the tokens it took."""
    tokens = [stage["steps"] * stage["tokens"] for stage in teaching["stages"]]
    aimed = [n for n, stage in zip(tokens, teaching["stages"], strict=True) if stage["target"]]
    return {
        "tokens": sum(tokens),
        "tokens_with_target": sum(aimed),
        "tokens_without_target": sum(tokens) - sum(aimed),
        **teaching,
    }


def training_facts(state: dict[str, Any], data: Path) -> dict[str, Any]:
    """Return how the model was trained, as JSON data."""
    manifest = json.loads((data / "manifest.json").read_text())
    return {
        "steps": state["step"],
        "tokens": state["step"] * state["schedule"]["tokens"],
        "schedule": state["schedule"],
        "mixture": MIXTURE,
        **({"teaching": teaching_facts(state["teaching"])} if "teaching" in state else {}),
        "machine": f"CPU ({platform.machine()}), two workers with one thread each",
        "versions": {p: version(p) for p in ("torch", "transformers", "tokenizers", "numpy")},
        "corpus": manifest["files"],
    }


def upstream_name(name: str) -> str:
    """Return the name that a published checkpoint has for a saved tensor.

    transformers reads published names, but writes some of its own.
    """
    name = name.removeprefix("model.").replace("embed_tokens.", "embed.")
    return name.replace("hc_head.hc_", "hc_head_")


def rename(file: Path) -> None:
    """Rewrite a safetensors file with upstream names."""
    tensors = {upstream_name(name): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def check(folder: Path, model: Any) -> None:
    """Refuse to ship a folder that does not load as the model it was made from.

    Raises:
        ValueError: Keys are missing or left over, or a tensor differs.
    """
    loaded, info = type(model).from_pretrained(
        folder, dtype=torch.bfloat16, output_loading_info=True
    )
    wrong = [key for key in info if key.endswith("_keys") and info[key]]
    state = model.state_dict()
    wrong += [name for name, value in loaded.state_dict().items() if not value.equal(state[name])]
    if wrong:
        raise ValueError(f"{folder} does not load as what was trained: {wrong}")


def main() -> None:
    """Convert, copy and print the size."""
    from transformers import AutoTokenizer, DeepseekV4Config, DeepseekV4ForCausalLM

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("run"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--tokenizer", type=Path, default=Path("tokenizer"))
    parser.add_argument("--out", type=Path, default=Path("v4kit/models/tiny"))
    options = parser.parse_args()
    state = torch.load(options.run / "checkpoint.pt", weights_only=True)
    model = DeepseekV4ForCausalLM(DeepseekV4Config(**ARCHITECTURE))
    model.load_state_dict(state["model"])
    # Saved in float32 first: loading that in bfloat16 keeps in float32 what must stay so.
    scratch = options.run / "float32"
    model.save_pretrained(scratch)
    small = DeepseekV4ForCausalLM.from_pretrained(scratch, dtype=torch.bfloat16)
    options.out.mkdir(parents=True, exist_ok=True)
    small.save_pretrained(options.out)
    rename(options.out / "model.safetensors")
    check(options.out, small)
    shutil.rmtree(scratch)
    AutoTokenizer.from_pretrained(options.tokenizer).save_pretrained(options.out)
    facts = json.dumps(training_facts(state, options.data), indent=1, ensure_ascii=False)
    (options.out / "training.json").write_text(facts + "\n")
    sources = json.loads((options.data / "manifest.json").read_text())["sources"]
    (options.out / "texts.json").write_text(
        json.dumps(sources, indent=1, ensure_ascii=False) + "\n"
    )
    for file in sorted(options.out.iterdir()):
        print(f"{file.stat().st_size:>12,}  {file.name}")


if __name__ == "__main__":
    main()
