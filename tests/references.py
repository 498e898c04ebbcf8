"""What a trace should hold, found without the kit: own hooks, own forward calls, plain loops."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

import v4kit


@dataclass(frozen=True)
class Run:
    """What a transformers model did with some ids, seen by hooks that the kit knows nothing of."""

    logits: np.ndarray
    """`[token, vocabulary]`."""
    gates: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]
    """Router logits, weights and ids `[token, …]` by layer index, in the router's slot order."""


def spans(length: int, chunk: int | None, prompt: int | None = None) -> list[tuple[int, int]]:
    """The passes that read `prompt` tokens in chunks, and the rest of `length` one by one."""
    prompt = length if prompt is None else prompt
    size = chunk or prompt
    reading = [(start, min(start + size, prompt)) for start in range(0, prompt, size)]
    return reading + [(start, start + 1) for start in range(prompt, length)]


def decoder_layers(hf: Any) -> Any:
    """The decoder layers; a model for pictures has them one level down."""
    return getattr(hf.model, "language_model", hf.model).layers


def gate_of(layer: Any) -> Any:
    """The router of a decoder layer; None if the layer is dense."""
    gate = getattr(layer.mlp, "gate", None) or getattr(layer.mlp, "router", None)
    return gate if hasattr(gate, "num_experts") else None


class Spy:
    """Own hooks on a transformers model's gates and outputs, for as long as the block runs."""

    def __init__(self, hf: Any) -> None:
        self._hf = hf
        self._gates: dict[int, list[list[torch.Tensor]]] = {}
        self._logits: list[torch.Tensor] = []
        self._batch = 0
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for index, layer in enumerate(decoder_layers(self._hf)):
            gate = gate_of(layer)
            if gate is not None:
                self._handles.append(gate.register_forward_hook(self._gate(index)))
        self._handles.append(self._hf.register_forward_hook(self._output))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _gate(self, index: int) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            calls = self._gates.setdefault(index, [])
            calls.append([part.detach().clone() for part in output])

        return hook

    def _output(self, _module: Any, _inputs: Any, output: Any) -> None:
        self._logits.append(output[0].detach().clone())
        self._batch = len(output[0])

    def runs(self) -> list[Run]:
        """One `Run` per row of the batch, over all calls; every call had the same batch."""
        logits = torch.cat(self._logits, dim=1).float().numpy()
        whole = {
            index: [
                torch.cat([call[part].unflatten(0, (self._batch, -1)) for call in calls], dim=1)
                for part in range(3)
            ]
            for index, calls in self._gates.items()
        }
        return [
            Run(
                logits[row], {i: tuple(to_numpy(part[row]) for part in w) for i, w in whole.items()}
            )
            for row in range(self._batch)
        ]


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A tensor as an array; bfloat16 as float32, which holds it exactly."""
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def bare_run(hf: Any, ids: Sequence[int], passes: Sequence[tuple[int, int]]) -> Run:
    """Feed ids to a transformers model, pass by pass, with a cache and without the kit."""
    cache = None
    with torch.no_grad(), Spy(hf) as spy:
        for start, stop in passes:
            out = hf(torch.tensor([list(ids[start:stop])]), past_key_values=cache)
            cache = out.past_key_values
    (run,) = spy.runs()
    return run


def sqrt_softplus(logits: Sequence[float]) -> list[float]:
    """DeepSeek-V4's scores."""
    return [math.sqrt(math.log1p(math.exp(x))) if x < 30 else math.sqrt(x) for x in logits]


def softmax(logits: Sequence[float]) -> list[float]:
    """The scores of Mixtral, OLMoE, Qwen3-MoE and gpt-oss."""
    top = max(logits)
    powers = [math.exp(x - top) for x in logits]
    return [power / sum(powers) for power in powers]


def sigmoid(logits: Sequence[float]) -> list[float]:
    """The scores of DeepSeek-V3 and its descendants, and of MiniMax-M2."""
    return [1 / (1 + math.exp(-x)) for x in logits]


def scores_of(hf: Any) -> Callable[[Sequence[float]], list[float]]:
    """The family's scoring function."""
    if hf.config.model_type == "deepseek_v4":
        return sqrt_softplus
    return sigmoid if hf.config.model_type in SIGMOID else softmax


SIGMOID = ("deepseek_v3", "deepseek_v32", "glm_moe_dsa", "kimi_k25", "minimax_m2")


def bias_of(hf: Any, layer: int) -> list[float]:
    """The bias on selection; zeros where there is none."""
    block = decoder_layers(hf)[layer].mlp
    for owner in (gate_of(decoder_layers(hf)[layer]), block):
        if hasattr(owner, "e_score_correction_bias"):
            return owner.e_score_correction_bias.double().tolist()
    return [0.0] * gate_of(decoder_layers(hf)[layer]).weight.shape[0]


def is_hash(hf: Any, layer: int) -> bool:
    """Whether the layer's experts follow from the token id."""
    return hasattr(gate_of(decoder_layers(hf)[layer]), "tid2eid")


def open_experts(hf: Any, selection: Sequence[float]) -> set[int]:
    """The experts of the best groups, by the sum of a group's two best; all without groups."""
    text = hf.config.get_text_config()
    count, kept = getattr(text, "n_group", None) or 1, getattr(text, "topk_group", None) or 1
    size = len(selection) // count
    groups = [range(start, start + size) for start in range(0, len(selection), size)]
    best = sorted(
        groups, key=lambda group: -sum(sorted((selection[e] for e in group), reverse=True)[:2])
    )
    return {expert for group in best[:kept] for expert in group}


def compare_routing(trace: v4kit.Trace, hf: Any, run: Run) -> None:
    """Assert that a trace's first rows hold what the run's routers did, row by row.

    Ids and weights must be equal to the bit, up to the slots' order; numbers that are derived from
    logits must be equal to 1e-5.
    """
    score = scores_of(hf)
    arrays = {name: variable.to_numpy() for name, variable in trace.routing.data_vars.items()}
    assert set(run.gates) == set(trace.layers)
    for layer, (all_logits, all_weights, all_ids) in run.gates.items():
        bias, hashed = bias_of(hf, layer), is_hash(hf, layer)
        table = decoder_layers(hf)[layer].mlp.gate.tid2eid if hashed else None
        for row in range(len(all_ids)):
            ids, weights = all_ids[row].tolist(), all_weights[row].tolist()
            scores = score(all_logits[row].astype(np.float64).tolist())
            selection = [s + b for s, b in zip(scores, bias, strict=True)]
            order = list(range(len(ids)))
            if table is not None:
                assert ids == table[int(trace.tokens["id"][row])].tolist()
            else:
                order.sort(key=lambda slot: (-selection[ids[slot]], ids[slot]))
            at = (row, layer)
            assert arrays["experts"][at].tolist() == [ids[slot] for slot in order], at
            assert arrays["weights"][at].tolist() == [weights[slot] for slot in order], at
            if "scores" in arrays:
                expected = [scores[ids[slot]] for slot in order]
                np.testing.assert_allclose(arrays["scores"][at], expected, rtol=1e-5, err_msg=at)
                unbiased, biased = open_experts(hf, scores), open_experts(hf, selection)
                assert hashed or set(ids) <= biased
                open_ = (unbiased, biased)
                compare_competition(arrays, at, ids, scores, selection, open_, hashed=hashed)
            if "router_scores" in arrays:
                np.testing.assert_allclose(arrays["router_scores"][at], scores, rtol=1e-5)


def compare_competition(
    arrays: dict[str, np.ndarray],
    at: tuple[int, int],
    ids: list[int],
    scores: list[float],
    selection: list[float],
    open_: tuple[set[int], set[int]],
    *,
    hashed: bool,
) -> None:
    """Assert margin, runner-up and bias flips of one token and layer.

    `open_` are the experts of open groups, by the unbiased and by the biased scores.
    """
    if hashed:
        assert np.isnan(arrays["margin"][at])
        assert arrays["runner_up"][at] == arrays["bias_flips"][at] == -1
        return
    unbiased, biased = open_
    others = [expert for expert in sorted(biased) if expert not in ids]
    best = max(others, key=lambda expert: (selection[expert], -expert))
    lowest = min(selection[expert] for expert in ids)
    threshold = sorted((scores[expert] for expert in unbiased), reverse=True)[len(ids) - 1]
    flips = sum(expert not in unbiased or scores[expert] < threshold for expert in ids)
    assert arrays["runner_up"][at] == best, at
    np.testing.assert_allclose(arrays["margin"][at], lowest - selection[best], atol=1e-5)
    assert arrays["bias_flips"][at] == flips, at


def log_softmax(logits: Sequence[float]) -> list[float]:
    """Log-probabilities, in float64 and one by one."""
    top = max(logits)
    total = math.log(math.fsum(math.exp(x - top) for x in logits)) + top
    return [x - total for x in logits]


def compare_likelihood(tokens: Any, logits: np.ndarray) -> None:
    """Assert logprob, entropy and predicted of one document's rows against its logits."""
    assert math.isnan(tokens["logprob"].iloc[0])
    assert math.isnan(tokens["entropy"].iloc[0])
    for row in range(len(logits)):
        logp = log_softmax(logits[row].astype(np.float64).tolist())
        assert tokens["predicted"].iloc[row] == int(np.argmax(logits[row]))
        if row + 1 < len(tokens):
            token = int(tokens["id"].iloc[row + 1])
            entropy = -math.fsum(math.exp(x) * x for x in logp)
            np.testing.assert_allclose(tokens["logprob"].iloc[row + 1], logp[token], atol=2e-5)
            np.testing.assert_allclose(tokens["entropy"].iloc[row + 1], entropy, atol=2e-5)


def hook_count(module: torch.nn.Module) -> int:
    """All forward and forward-pre hooks on a model and everything in it."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
