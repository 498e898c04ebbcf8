"""`v4kit doctor`: the first thing to run with real weights on real devices."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import v4kit
from v4kit.core.plan_text import DEVICES, PARTS, UNITS, as_text, facts, notes, tables
from v4kit.figures import plan_placement, routing_text
from v4kit.figures.sections import Section, Table, write_sections
from v4kit.models.precision import check_scales, peak_memory, placements, precisions
from v4kit.models.skeleton import countable

PROMPT = "The first hundred prime numbers are 2, 3, 5, 7, 11,"
TOKENS = 32

Step = tuple[str, Section]
"""What a step found, for the console, and for a page."""


def doctor(
    name: str, out: Path, *, max_new_tokens: int = TOKENS, anyway: bool = False, **loading: Any
) -> Path:
    """Plan, load, validate and run a model; write a trace and a page about it; return the page.

    What a step found is written at once, so that the pages hold it whatever the next one does.

    Args:
        name: As in `v4kit.load`.
        out: Folder that gets `doctor.html`, the same as `doctor.txt`, and `doctor.v4trace`.
        max_new_tokens: How many tokens to generate.
        anyway: As in `v4kit.load`.
        loading: `dtype`, `max_memory`, `offload_folder`, as in `v4kit.load`.

    Raises:
        V4KitError: A step can't be done; the pages then end with what stopped it.
    """
    out.mkdir(parents=True, exist_ok=True)
    told: list[Step] = []
    try:
        for step in _steps(name, out, max_new_tokens, anyway=anyway, loading=loading):
            told.append(step)
            _write(name, out, told)
    except Exception as error:
        told.append(_failed(told, error))
        _write(name, out, told)
        raise
    return out / "doctor.html"


def _write(name: str, out: Path, told: list[Step]) -> None:
    """Print the last step, and write all of them."""
    texts = [f"{section.title}\n{'=' * len(section.title)}\n{text}\n" for text, section in told]
    print(f"\n{texts[-1]}", flush=True)
    (out / "doctor.txt").write_text("\n".join(texts), encoding="utf-8")
    sections = [section for _, section in told]
    write_sections(sections, out / "doctor.html", title=f"v4kit doctor: {name}")


def _failed(told: list[Step], error: Exception) -> Step:
    before = f"The step after {told[-1][1].title!r}" if told else "The first step"
    lines = [f"{before} could not be done.", f"{type(error).__name__}: {error}"]
    return "\n".join(lines), Section("Failed", lines, wrong=True)


def _steps(
    name: str, out: Path, count: int, *, anyway: bool, loading: dict[str, Any]
) -> Iterator[Step]:
    yield _plan(name, {key: value for key, value in loading.items() if key != "offload_folder"})
    started = time.perf_counter()
    model = v4kit.load(name, anyway=anyway, **loading)
    yield _loaded(model, time.perf_counter() - started)
    yield _validated(model)
    yield _generated(model, out, count)


def _plan(name: str, options: dict[str, Any]) -> Step:
    plan = v4kit.plan(name, **options)
    parts, devices = tables(plan)
    return as_text(plan), Section(
        "Plan",
        [plan.verdict, *notes(plan), *facts(plan)],
        tables=[Table(PARTS, parts), Table(DEVICES, devices, UNITS)],
        figures=[plan_placement(plan)],
        wrong=not plan.fits,
    )


def _loaded(model: v4kit.Model, seconds: float) -> Step:
    lines = [repr(model), f"Loaded in {seconds:.1f} seconds.", _kept(model)]
    dtypes = [[name, f"{count:,}"] for name, count in precisions(model.hf).items()]
    places = [[name, f"{size / 1e9:,.3f}"] for name, size in placements(model.hf).items()]
    text = [
        *lines,
        "",
        *(f"{count:>20} parameters in {name}" for name, count in dtypes),
        *(f"{size:>20} GB {name}" for name, size in places),
    ]
    found = [Table(["precision", "parameters"], dtypes), Table(["place", "GB"], places)]
    return "\n".join(text), Section("Loaded", lines, tables=found)


def _kept(model: v4kit.Model) -> str:
    """Return in a sentence how many layers are quantized in memory as they are on disk."""
    stored = model.meta["stored"]
    if not countable(model.hf.config):
        return f"The files are {stored}."
    modules = check_scales(model.hf)
    if modules:
        return f"{modules:,} modules hold quantized weights ({stored}), each with its scales."
    return f"No module holds quantized weights; the files are {stored}."


def _validated(model: v4kit.Model) -> Step:
    table = v4kit.validate(model)
    ok = bool(table["ok"].all())
    verdict = "All facts hold in all layers." if ok else "NOT ALL FACTS HOLD."
    rows = [[str(cell) for cell in row] for row in table.itertuples(index=False)]
    shown = Table([str(column) for column in table.columns], rows)
    text = f"{verdict}\n\n{table.to_string(index=False)}"
    return text, Section("Validated", [verdict], tables=[shown], wrong=not ok)


def _generated(model: v4kit.Model, out: Path, count: int) -> Step:
    started = time.perf_counter()
    trace = model.generate(PROMPT, max_new_tokens=count)
    seconds = time.perf_counter() - started
    file = trace.save(out / "doctor.v4trace")
    made = int((trace.tokens["phase"] == "generated").sum())
    lines = [
        f"{made} tokens in {seconds:.2f} seconds, the prompt included: {made / seconds:.2f}/s",
        peak_memory(),
        repr(trace),
        f"→ {file.name}",
    ]
    written = f"{PROMPT}{trace.completion}"
    text = "\n".join([written, "", *lines])
    return text, Section("Generated", lines, text=written, figures=[routing_text(trace)])
