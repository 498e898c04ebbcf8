"""Small DeepSeek-V4 checkpoints on disk, in each layout that is published."""

import json

import torch
from safetensors.torch import load_file, save_file

from tests import zoo

E8M0, E4M3 = torch.float8_e8m0fnu, torch.float8_e4m3fn
FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
"""Values of e2m1 by their four bits."""

HIDDEN, WIDTH, HEADS, HEAD, RANK, EXPERTS, TOP_K = 256, 128, 4, 128, 128, 8, 2
INDEX_HEADS, INDEX_HEAD, STREAMS = 16, 128, 4
RATIOS = [0, 4, 128, 4]
CONFIG = {
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "vocab_size": 320,
    "hidden_size": HIDDEN, "moe_intermediate_size": WIDTH, "num_hidden_layers": len(RATIOS),
    "num_attention_heads": HEADS, "head_dim": HEAD, "q_lora_rank": RANK, "qk_rope_head_dim": 16,
    "num_experts_per_tok": TOP_K, "n_routed_experts": EXPERTS, "n_shared_experts": 1,
    "o_groups": 2, "o_lora_rank": RANK, "index_n_heads": INDEX_HEADS, "index_topk": 4,
    "index_head_dim": INDEX_HEAD, "sliding_window": 8, "compress_ratios": [*RATIOS, 0],
    "num_hash_layers": 1, "num_nextn_predict_layers": 1, "scoring_func": "sqrtsoftplus",
    "rope_theta": 10000, "compress_rope_theta": 160000, "topk_method": "noaux_tc",
    "rope_scaling": {
        "type": "yarn", "factor": 4, "beta_fast": 32, "beta_slow": 1,
        "original_max_position_embeddings": 1024,
    },
    "torch_dtype": "bfloat16", "max_position_embeddings": 4096, "tie_word_embeddings": False,
    "swiglu_limit": 10.0, "routed_scaling_factor": 1.5, "num_key_value_heads": 1,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


class _Writer:
    """Collects tensors under DeepSeek's names, and the values they stand for."""

    def __init__(self, fp4, experts):
        self.tensors, self.values = {}, {}
        self._fp4, self._experts = fp4, experts
        self._random = torch.Generator().manual_seed(0)

    def plain(self, name, *shape, dtype=torch.bfloat16, scale=0.05):
        value = (torch.randn(*shape, generator=self._random) * scale).to(dtype)
        self.tensors[name] = self.values[name] = value

    def fp8(self, name, rows, columns):
        """A matrix in e4m3 with a scale per 128 × 128 block; native scales are powers of two."""
        blocks = (-(-rows // 128), -(-columns // 128))
        powers = torch.randint(-10, -7, blocks, generator=self._random)
        scale = torch.exp2(powers.float())
        scale = scale if self._fp4 else scale * 1.25
        wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:rows, :columns]
        small = (torch.randn(rows, columns, generator=self._random) * 30).to(E4M3)
        self.tensors[f"{name}.weight"] = small
        self.tensors[f"{name}.scale"] = scale.to(E8M0) if self._fp4 else scale
        self.values[f"{name}.weight"] = small.float() * wide

    def expert(self, name, rows, columns):
        """A matrix in e2m1, two values in a byte, low half first, a scale per 32 inputs."""
        if not self._fp4:
            return self.fp8(name, rows, columns)
        packed = torch.randint(0, 256, (rows, columns // 2), generator=self._random)
        powers = torch.randint(-7, -4, (rows, columns // 32), generator=self._random)
        scale = torch.exp2(powers.float())
        pairs = torch.stack([FP4[packed & 15], FP4[packed >> 4]], -1).reshape(rows, columns)
        self.tensors[f"{name}.weight"] = packed.to(torch.uint8).view(torch.int8)
        self.tensors[f"{name}.scale"] = scale.to(E8M0)
        self.values[f"{name}.weight"] = pairs * scale.repeat_interleave(32, 1)
        return None

    def compressor(self, name, width, rate):
        wide = width * (2 if rate == 4 else 1)
        self.plain(f"{name}.wkv.weight", wide, HIDDEN)
        self.plain(f"{name}.wgate.weight", wide, HIDDEN)
        self.plain(f"{name}.norm.weight", width, scale=1.0)
        self.plain(f"{name}.ape", rate, wide, dtype=torch.float32)

    def attention(self, name, rate):
        self.fp8(f"{name}.wq_a", RANK, HIDDEN)
        self.plain(f"{name}.q_norm.weight", RANK, scale=1.0)
        self.fp8(f"{name}.wq_b", HEADS * HEAD, RANK)
        self.fp8(f"{name}.wkv", HEAD, HIDDEN)
        self.plain(f"{name}.kv_norm.weight", HEAD, scale=1.0)
        self.fp8(f"{name}.wo_a", 2 * RANK, HEADS * HEAD // 2)
        self.fp8(f"{name}.wo_b", HIDDEN, 2 * RANK)
        self.plain(f"{name}.attn_sink", HEADS, dtype=torch.float32, scale=1.0)
        if rate:
            self.compressor(f"{name}.compressor", HEAD, rate)
        if rate == 4:
            self.fp8(f"{name}.indexer.wq_b", INDEX_HEADS * INDEX_HEAD, RANK)
            self.plain(f"{name}.indexer.weights_proj.weight", INDEX_HEADS, HIDDEN)
            self.compressor(f"{name}.indexer.compressor", INDEX_HEAD, rate)

    def layer(self, name, rate, *, hashed):
        self.attention(f"{name}.attn", rate)
        for part in ("attn", "ffn"):
            self.plain(f"{name}.{part}_norm.weight", HIDDEN, scale=1.0)
            wide = STREAMS * (STREAMS + 2)
            self.plain(f"{name}.hc_{part}_fn", wide, STREAMS * HIDDEN, dtype=torch.float32)
            self.plain(f"{name}.hc_{part}_base", wide, dtype=torch.float32)
            self.plain(f"{name}.hc_{part}_scale", 3, dtype=torch.float32)
        gate = f"{name}.ffn.gate"
        self.plain(f"{gate}.weight", self._experts, HIDDEN)
        if hashed:
            table = torch.rand(CONFIG["vocab_size"], self._experts, generator=self._random)
            chosen = table.argsort(dim=1)[:, :TOP_K].contiguous()
            self.tensors[f"{gate}.tid2eid"] = self.values[f"{gate}.tid2eid"] = chosen
        else:
            self.plain(f"{gate}.bias", self._experts, dtype=torch.float32)
        sizes = {"w1": (WIDTH, HIDDEN), "w2": (HIDDEN, WIDTH), "w3": (WIDTH, HIDDEN)}
        for part, size in sizes.items():
            for number in range(self._experts):
                self.expert(f"{name}.ffn.experts.{number}.{part}", *size)
            self.fp8(f"{name}.ffn.shared_experts.{part}", *size)


def write(folder, layout="native", shards=1, experts=EXPERTS):
    """Write a checkpoint; return the values that its weights stand for, by DeepSeek's names.

    Layouts: "native" (FP4 experts, FP8 with power-of-two scales) and "fp8" (FP8, float32 scales).
    """
    fp4 = layout == "native"
    made = _Writer(fp4, experts)
    made.plain("embed.weight", CONFIG["vocab_size"], HIDDEN, scale=1.0)
    made.plain("head.weight", CONFIG["vocab_size"], HIDDEN)
    made.plain("norm.weight", HIDDEN, scale=1.0)
    made.plain("hc_head_fn", STREAMS, STREAMS * HIDDEN, dtype=torch.float32)
    made.plain("hc_head_base", STREAMS, dtype=torch.float32)
    made.plain("hc_head_scale", 1, dtype=torch.float32)
    for number, rate in enumerate(RATIOS):
        made.layer(f"layers.{number}", rate, hashed=number == 0)
    made.layer("mtp.0", 0, hashed=False)
    quantization = {
        "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "scale_fmt": "ue8m0" if fp4 else "float", "weight_block_size": [128, 128],
    }  # fmt: skip
    config = {
        **CONFIG,
        "n_routed_experts": experts,
        "quantization_config": quantization,
        "expert_dtype": "fp4" if fp4 else "fp8",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    zoo.tokenizer().save_pretrained(folder)
    _save(folder, made.tensors, shards)
    return made.values


def drop(folder, *names):
    """Take tensors out of a checkpoint, as if they had never been written."""
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        if not tensors.keys().isdisjoint(names):
            left = {key: tensor for key, tensor in tensors.items() if key not in names}
            save_file(left, path, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.exists():
        told = json.loads(index.read_text())
        told["weight_map"] = {k: v for k, v in told["weight_map"].items() if k not in names}
        index.write_text(json.dumps(told))


def _save(folder, tensors, shards):
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    where = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {key: tensors[key] for key in list(tensors)[shard::shards]}
        where |= dict.fromkeys(part, name)
        save_file(part, folder / name, metadata={"format": "pt"})
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
