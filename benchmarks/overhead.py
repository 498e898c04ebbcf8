"""What recording costs while a model writes: CPU time inside it, and whole runs beside a bare one.

Run `python -m benchmarks.overhead`. All arms take turns in one process, on one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.measure import Times, elsewhere, extra_memory, interleaved, paired, table
from benchmarks.models import SIZES, build, some_ids

BARE = "bare loop"
EDITED = "routing, one expert ablated in each layer"
SOURCES = 16


def records() -> dict[str, Any]:
    """Return what the recorded arms record, by name."""
    from v4kit import Record

    return {
        "routing": Record(attention=None),
        f"routing + attention ({SOURCES} sources, head mean)": Record(attention=SOURCES),
        "routing + attention of each head": Record(attention=SOURCES, heads="each"),
        "routing + attention + pooling": Record(attention=SOURCES, pooling=True),
        "routing + outputs of experts": Record(attention=None, outputs=True),
        "routing + factors of streams": Record(attention=None, streams=True),
    }


def bare(model: Any, ids: list[int], steps: int) -> list[int]:
    """Return greedy ids by the loop that `Model.generate` runs, nothing recorded."""
    from v4kit.engines.base import Sampling
    from v4kit.engines.sampler import Sampler
    from v4kit.recording.likelihood import Likelihood
    from v4kit.recording.text import TokenText

    sampler, likelihood = Sampler(Sampling(max_new_tokens=steps)), Likelihood()
    text = TokenText(model.tokenizer)
    ids, cache, fed = list(ids), None, 0
    pieces = [text.step(token) for token in ids]
    for _ in range(steps):
        logits, cache = model.forward(ids[fed:], fed, cache, [])
        likelihood.add(fed, logits, ids[fed + 1 :])
        fed = len(ids)
        token = sampler.draw(logits[-1].float())
        likelihood.sampled(token, fed)
        ids.append(token)
        pieces.append(text.step(token))
    return ids


def upstream(model: Any, ids: list[int], steps: int) -> list[int]:
    """Return greedy ids by transformers' own `generate`."""
    import torch

    inputs = torch.tensor([ids], device=model.hf.device)
    output = model.hf.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=steps,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
    )
    return list(map(int, output[0]))


@contextlib.contextmanager
def counting(spent: list[float]) -> Iterator[None]:
    """Add up the thread's CPU time inside recording, and the steps, while the block runs."""
    from v4kit.engines import passing, session
    from v4kit.recording import PassRecorder, attached

    def timed(function: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                spent[0] += time.thread_time() - started

        return run

    class Timed(PassRecorder):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.hooks = [(module, _rewrapped(hook, timed)) for module, hook in self.hooks]

        begin = timed(PassRecorder.begin)
        commit = timed(PassRecorder.commit)
        trace = timed(PassRecorder.trace)

    @contextlib.contextmanager
    def holding(hooks: Any) -> Iterator[None]:
        context = attached(hooks)
        timed(context.__enter__)()
        try:
            yield
        finally:
            timed(context.__exit__)(None, None, None)

    kept = session.PassRecorder, passing.attached
    session.PassRecorder, passing.attached = Timed, holding  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        session.PassRecorder, passing.attached = kept  # type: ignore[misc]


def _rewrapped(hook: Any, timed: Callable[[Any], Any]) -> Any:
    from v4kit.recording.taps import Before

    return Before(timed(hook.hook)) if isinstance(hook, Before) else timed(hook)


def inside(
    model: Any, ids: list[int], record: Any, *, steps: int, rounds: int
) -> tuple[float, float]:
    """Return the share of a run's CPU time that recording takes, and its time per step in µs."""
    shares, each = [], []
    for number in range(rounds + 1):
        spent = [0.0]
        with counting(spent):
            started = time.thread_time()
            model.generate(ids, max_new_tokens=steps, record=record)
            whole = time.thread_time() - started
        if number:
            shares.append(spent[0] / (whole - spent[0]))
            each.append(spent[0] / steps * 1e6)
    return statistics.median(shares), statistics.median(each)


def generation(model: Any, ids: list[int], steps: int) -> dict[str, Callable[[], object]]:
    """Return the arms by name."""

    def recorded(record: Any) -> Callable[[], object]:
        return lambda: model.generate(ids, max_new_tokens=steps, record=record)

    return {
        BARE: lambda: bare(model, ids, steps),
        "bare loop again (A/A)": lambda: bare(model, ids, steps),
        "transformers' generate": lambda: upstream(model, ids, steps),
        **{name: recorded(record) for name, record in records().items()},
        EDITED: lambda: edited(model, ids, steps),
    }


def edited(model: Any, ids: list[int], steps: int) -> Any:
    """Return the trace of a run without one expert in all layers that choose."""
    import v4kit

    record, edits = v4kit.Record(attention=None), [v4kit.ablate(experts=[0])]
    return model.generate(ids, max_new_tokens=steps, record=record, edits=edits)


def agree(model: Any, ids: list[int], steps: int) -> bool:
    """Whether all arms write the same tokens."""
    written = [bare(model, ids, steps), upstream(model, ids, steps)]
    for record in records().values():
        trace = model.generate(ids, max_new_tokens=steps, record=record)
        written.append(list(map(int, trace.tokens["id"])))
    return len(set(map(tuple, written))) == 1


def bytes_per_token(model: Any, ids: list[int], record: Any) -> float:
    """Return the bytes that a trace keeps in memory per token, the token table left out."""
    trace = model.read(ids, record=record)
    size = trace.routing.nbytes
    if trace.stored_attention is not None:
        size += trace.stored_attention.values.nbytes
    return float(size / len(trace))


def reading(model: Any, ids: list[int], arm: str) -> Callable[[], object]:
    """Return one way to read a prompt in chunks."""
    if arm != BARE:
        return lambda: model.read(ids, record=records()[arm])

    def run() -> object:
        cache = None
        for start in range(0, len(ids), 256):
            _, cache = model.forward(ids[start : start + 256], start, cache, [])
        return cache

    return run


def peak(options: argparse.Namespace) -> None:
    """Print the memory that reading takes in a fresh process: all of it, and what it adds."""
    import torch

    torch.set_num_threads(1)
    model = build(options.model)
    ids = some_ids(model, options.read)
    reading(model, ids[:300], options.peak)()
    added = extra_memory(reading(model, ids, options.peak))
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"added": added, "most": most}))


def lines(model: Any, ids: list[int], times: dict[str, Times], options: Any) -> list[list[str]]:
    """Return a line per arm."""
    found = []
    for name, taken in times.items():
        line = [
            name,
            f"{statistics.median(taken.cpu) / options.steps * 1e3:.2f}",
            paired(times, name, BARE),
        ]
        record = records().get(name)
        if record is None:
            found.append([*line, "", "", ""])
            continue
        share, each = inside(model, ids, record, steps=options.steps, rounds=options.rounds)
        kept = bytes_per_token(model, ids, record)
        found.append([*line, f"{share:.2%}", f"{each:,.0f}", f"{kept:,.0f}"])
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="50m", choices=["tiny", *SIZES])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--steps", type=int, default=128, help="tokens to generate")
    parser.add_argument("--read", type=int, default=2_048, help="tokens of the prompt that is read")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        peak(options)
        return
    import torch

    torch.set_num_threads(1)
    model = build(options.model)
    ids = some_ids(model, options.prompt)
    print(
        f"{model!r}\n{options.prompt} + {options.steps} tokens, {options.rounds} rounds, one thread"
    )
    print(f"all arms write the same tokens: {agree(model, ids, options.steps)}\n")
    times = interleaved(generation(model, ids, options.steps), rounds=options.rounds)
    header = ["writing", "CPU ms/step", "÷ bare, pairs [95 %]", "inside", "µs/step", "bytes/token"]
    print(table(header, lines(model, ids, times, options)), "\n")
    arms = [BARE, *records()]
    again = [f"--model={options.model}", f"--read={options.read}"]
    used = {arm: elsewhere("benchmarks.overhead", *again, "--peak", arm) for arm in arms}
    rows = [
        [arm, f"{m['most']:,.0f}", f"{m['most'] / used[BARE]['most']:.3f}", f"{m['added']:,.0f}"]
        for arm, m in used.items()
    ]
    print(table([f"reading {options.read:,} in chunks", "peak MB", "÷ bare", "added MB"], rows))


if __name__ == "__main__":
    main()
