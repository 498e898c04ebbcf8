"""The page `docs/families.md`, from what the experiments give: `python -m tests.families_page`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

import v4kit
from tests import zoo
from v4kit.experiments.validating import FACTS

PAGE = Path(__file__).parents[1] / "docs" / "families.md"

NAMES = {
    "flash": "DeepSeek-V4-Flash",
    "pro": "DeepSeek-V4-Pro",
    "deepseek_v3": "DeepSeek-V3, R1",
    "deepseek_v32": "DeepSeek-V3.2",
    "glm_moe_dsa": "GLM-5.1",
    "kimi_k25": "Kimi-K2.6",
    "minimax_m2": "MiniMax-M2.7",
    "mixtral": "Mixtral",
    "olmoe": "OLMoE",
    "qwen3_moe": "Qwen3-MoE",
    "gpt_oss": "gpt-oss",
}
"""What people call the families of the zoo."""

HEAD = """# The families that the kit reads

Every router in transformers returns its logits, the weights and the ids of the experts it chose, so
a family is one row of a table (`v4kit/arch/families.py`). Whether the row is right is not a matter
of reading: `v4kit.validate(model)` asks the model itself. Below is what it answered for a small
random model of each family, built with transformers' own classes; a test makes this page again and
compares.
"""

COLUMNS = (
    "Family",
    "`model_type`",
    "Router",
    "Scores",
    "Sum of weights",
    "Chosen",
    "Dense layers",
    "Attention",
)

FOOT = """
What the facts say is in the documentation of `v4kit.validate`. A dense layer has no router: nothing
but `found`, `unchanged` and attention can be asked there.

## What to know of each

- **DeepSeek-V4**: the first layers choose by token id, not by score, so they have no margin and no
  runner-up. Attention is recorded with the tokens that a compressed block stands for.
- **DeepSeek-V3, R1, V3.2**: the first layers are dense. Experts stand in groups, and a token
  chooses from the best groups only; margin and runner-up are among the experts of those.
- **DeepSeek-V3.2, GLM-5.1**: an indexer chooses the tokens that are attended to; all others have no
  mass, and that is what a trace shows. The indexer's own scores are not recorded, because
  transformers turns its choice into a mask at once. GLM's layers may share a choice.
- **Kimi-K2.6**: the language part alone is recorded; images are not. Its published weights are
  quantized with compressed-tensors, which must be installed to load them.
- **MiniMax-M2.7**: the bias on selection belongs to the layer's block, not to its router.
- **OLMoE**: the weights are not normalized, so they add up to something else for every token.
- **gpt-oss**: the kernels for MXFP4 experts choose without asking the router, and recording says
  so with an error. Load it dequantized.
- **Chats**: DeepSeek-V4's prompt format is the kit's own (`v4kit.chat`), with its reasoning
  efforts. For every other family messages are written by the chat template of its tokenizer;
  without one they are refused, and so is `thinking`. The role of a token (system, user, answer …)
  is told where the tokens of the turns tell it, as DeepSeek's do; else it is "text".
- **DeepSeek-V4.1**: transformers has no classes for it, so it is refused with that sentence.
- Sizes and sums above are those of the small models; a checkpoint's config has its own. Attention
  weights need `attn_implementation="eager"`, which is what `v4kit.load` uses.
"""


def page() -> str:
    """The page as it should be now."""
    tables = {name: v4kit.validate(zoo.eager(name)) for name in zoo.EVERY}
    rows = [_row(name, table) for name, table in tables.items()]
    return "\n".join([HEAD, *_table(COLUMNS, rows), "", *_proven(tables), FOOT])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _row(name: str, table: pd.DataFrame) -> list[str]:
    model = zoo.eager(name)
    a = model.architecture
    routers = sorted(set(table.router[table.routing != "dense"]))
    dense = table.layer[table.routing == "dense"].tolist()
    chosen = f"{a.top_k} of {a.n_experts}"
    if a.top_groups < a.n_groups:
        chosen += f" in {a.top_groups} of {a.n_groups} groups"
    shared = f", {a.n_shared} shared" if a.n_shared else ""
    return [
        NAMES[name],
        f"`{a.family}`",
        ", ".join(f"`{router}`" for router in routers),
        model.family.scoring + (" + bias" if model.family.bias else ""),
        "varies" if a.weight_sum is None else f"{a.weight_sum:g}",
        chosen + shared,
        ", ".join(map(str, dense)) or "none",
        ", ".join(dict.fromkeys(table.attention)) + (", sinks" if a.sinks else ""),
    ]


def _proven(tables: dict[str, pd.DataFrame]) -> list[str]:
    """The facts of each family: in how many of its layers each was asked, and held."""
    rows = [
        [NAMES[name], *(f"{int(table[f].sum())} of {int(table[f].count())}" for f in FACTS)]
        for name, table in tables.items()
    ]
    return _table(["Family", *(f"`{fact}`" for fact in FACTS)], rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
