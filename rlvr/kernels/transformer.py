"""A causal language model of the Llama family whose passes run in compiled code."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from rlvr.kernels.library import Layer, Linear, Model, Pass, load_library
from rlvr.kernels.pages import PAGE_TOKENS, PagePool, PageTables

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_ROWS = 256  # of a pass, so that what lies between the layers stays in the processor's cache
POSITIONS = 1024  # whose rotations are computed at a time

# What the compiled code computes. The sizes of these are its own business, their parts are not.
_CLASSES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")


def is_supported(module: PreTrainedModel) -> bool:
    """Return whether the compiled code computes what a module does, and is there."""
    on_processor = next(module.parameters()).device.type == "cpu"
    if type(module).__name__ not in _CLASSES or not on_processor:
        return False
    config = module.config
    sizes = (config.hidden_size, config.intermediate_size, _get_head_size(config))
    fits = all(size % 16 == 0 for size in sizes) and config.hidden_act == "silu"
    return fits and _is_plain(module) and load_library() is not None


def _is_plain(module: PreTrainedModel) -> bool:
    """Return whether every layer sees all tokens, turned the same way, and has no unusual biases."""
    config = module.config
    if not set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}:
        return False
    rotation = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    body: Any = module.base_model
    layer = body.layers[0]
    linears = (layer.self_attn.o_proj, layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj)
    has_bias = any(linear.bias is not None for linear in linears)
    has_window = getattr(config, "sliding_window", None) is not None
    return rotation in _FIXED_ROTATIONS and not has_window and not has_bias


def _get_head_size(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens of a pass, each at its position of a branch.   [R]

    Those of one branch stand in the order of their positions.
    """

    tokens: list[int]
    positions: list[int]
    branches: list[int]
    outputs: list[int]  # the rows whose logits are wanted


class CompiledTransformer:
    """The weights of a model as the compiled code wants them, and its passes.

    A row's logits have the same bits whatever else is in the pass, and for any number of threads.
    With 8 bits the weights of all products are whole numbers in groups of 64 that have a scale in
    common, as are the rows that meet them; all else is bf16.
    """

    def __init__(self, module: PreTrainedModel, bits: Literal[8, 16] = 16) -> None:
        self.bits = bits
        self._library: Any = load_library()
        self._config = module.config
        body: Any = module.base_model
        self._rotation = copy.deepcopy(body.rotary_emb)
        self._rotations: tuple[Tensor, Tensor] | None = None  # cosine and sine
        self._scratch = torch.empty(0, dtype=torch.uint8)
        self._kept: list[Tensor] = []  # what the pointers below point to
        self._vectors: dict[str, list[Tensor]] = {}
        self._blocks: dict[str, list[tuple[Linear, int]]] = {}  # with the first column of each
        config = module.config
        self._layers = (Layer * config.num_hidden_layers)()
        for number, layer in enumerate(body.layers):
            self._layers[number] = self._lay_out_layer(layer, f"model.layers.{number}.")
        size = _get_head_size(config)
        head = ["model.embed_tokens.weight"]
        output: Any = module.get_output_embeddings()
        if output.weight is not body.embed_tokens.weight:
            head = ["lm_head.weight"]
        self.vocabulary = body.embed_tokens.weight.shape[0]
        self._model = Model(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            key_heads=config.num_key_value_heads,
            head_size=size,
            inner=config.intermediate_size,
            eps=config.rms_norm_eps,
            attention_scale=body.layers[0].self_attn.scaling,
            embedding=self._make_vector(
                "model.embed_tokens.weight", self.vocabulary * config.hidden_size
            ),
            norm=self._make_vector("model.norm.weight", config.hidden_size),
            layer=self._layers,
            head=self._make_linear(head, [self.vocabulary], config.hidden_size),
        )
        self.page_bytes = (
            config.num_hidden_layers * 2 * config.num_key_value_heads * PAGE_TOKENS * size * 2
        )

    def _lay_out_layer(self, layer: Any, prefix: str) -> Layer:
        """Return a layer whose weights are still to be loaded."""
        attention = layer.self_attn
        hidden = self._config.hidden_size
        inner = self._config.intermediate_size
        names = ("q_proj", "k_proj", "v_proj")
        widths = [getattr(attention, name).out_features for name in names]
        projections = [f"{prefix}self_attn.{name}" for name in names]
        made = Layer(
            input_norm=self._make_vector(f"{prefix}input_layernorm.weight", hidden),
            output_norm=self._make_vector(f"{prefix}post_attention_layernorm.weight", hidden),
            qkv=self._make_linear([f"{name}.weight" for name in projections], widths, hidden),
            out=self._make_linear([f"{prefix}self_attn.o_proj.weight"], [hidden], widths[0]),
            gate_up=self._make_linear(
                [f"{prefix}mlp.gate_proj.weight", f"{prefix}mlp.up_proj.weight"],
                [inner] * 2,
                hidden,
            ),
            down=self._make_linear([f"{prefix}mlp.down_proj.weight"], [hidden], inner),
        )
        if hasattr(attention, "q_norm"):
            size = _get_head_size(self._config)
            made.query_norm = self._make_vector(f"{prefix}self_attn.q_norm.weight", size)
            made.key_norm = self._make_vector(f"{prefix}self_attn.k_norm.weight", size)
        if attention.q_proj.bias is not None:
            bias = self._keep(torch.zeros(sum(widths), dtype=torch.bfloat16))
            made.qkv.bias = bias.data_ptr()
            for name, part in zip(projections, bias.split(widths), strict=True):
                self._vectors.setdefault(f"{name}.bias", []).append(part)
        return made

    def _keep(self, tensor: Tensor) -> Tensor:
        self._kept.append(tensor)
        return tensor

    def _make_vector(self, name: str, size: int) -> int:
        """Return where weights of that name will stand as they are."""
        vector = self._keep(torch.zeros(size, dtype=torch.bfloat16))
        self._vectors.setdefault(name, []).append(vector)
        return vector.data_ptr()

    def _make_linear(self, names: Sequence[str], widths: Sequence[int], inputs: int) -> Linear:
        """Return the product with the weights of these names, one beside the other."""
        linear = Linear(outputs=sum(widths), inputs=inputs, bits=self.bits)
        packed = self._keep(_make_aligned(self._library.packed_size(linear)))
        linear.packed = packed.data_ptr()
        first = 0
        for name, width in zip(names, widths, strict=True):
            self._blocks.setdefault(name, []).append((linear, first))
            first += width
        return linear

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take the weights of these names; those of others stay."""
        for name, weight in weights:
            rounded = weight.detach().to("cpu", torch.bfloat16).contiguous()
            for vector in self._vectors.get(name, ()):
                vector.copy_(rounded.flatten())
            for linear, first in self._blocks.get(name, ()):
                outputs = rounded.shape[0]
                threads = torch.get_num_threads()
                self._library.pack(linear, rounded.data_ptr(), outputs, first, threads)

    def run(self, rows: Rows, tables: PageTables) -> Tensor:
        """Return the logits of the rows that are asked for.   [outputs, V]

        The keys and values of all rows are in their pages afterwards.
        """
        count = len(rows.tokens)
        self._compute_rotations(max(rows.positions) + 1)
        logits = torch.empty(len(rows.outputs), self.vocabulary, dtype=torch.bfloat16)
        outputs = np.asarray(rows.outputs, np.int32)
        table = tables.lay_out()
        done = 0
        for start in range(0, count, MOST_ROWS):
            stop = min(start + MOST_ROWS, count)
            here = outputs[(outputs >= start) & (outputs < stop)] - start
            part = slice(start, stop)
            self._run_part(rows, part, here, table, tables.pool, logits[done : done + len(here)])
            done += len(here)
        return logits

    def _run_part(
        self, rows: Rows, part: slice, outputs: Any, table: Any, pool: PagePool, logits: Tensor
    ) -> None:
        token, position, branch = (
            np.asarray(values[part], np.int32)
            for values in (rows.tokens, rows.positions, rows.branches)
        )
        threads = torch.get_num_threads()
        most_tokens = int(position.max()) + 1
        size = self._library.scratch_size(self._model, len(token), most_tokens, threads)
        if size > len(self._scratch):
            self._scratch = _make_aligned(size)
        self._library.run_pass(
            self._model,
            Pass(
                rows=len(token),
                outputs=len(outputs),
                table_width=table.shape[1],
                most_tokens=most_tokens,
                token=token.ctypes.data,
                position=position.ctypes.data,
                branch=branch.ctypes.data,
                table=table.ctypes.data,
                output=outputs.ctypes.data,
                page=pool.addresses.ctypes.data,
                logits=logits.data_ptr(),
                scratch=self._scratch.data_ptr(),
                threads=threads,
            ),
        )

    def _compute_rotations(self, positions: int) -> None:
        """Have the rotations of so many positions."""
        if self._rotations is not None and positions <= len(self._rotations[0]):
            return
        places = torch.arange(positions + -positions % POSITIONS)[None]
        half = self._model.head_size // 2
        cosine, sine = self._rotation(torch.zeros(1, dtype=torch.bfloat16), places)
        self._rotations = (cosine[0, :, :half].contiguous(), sine[0, :, :half].contiguous())
        self._model.cosine, self._model.sine = (table.data_ptr() for table in self._rotations)


def _make_aligned(size: int) -> Tensor:
    """Return bytes of zeros that begin where a vector may be loaded.   [size]"""
    raw = torch.zeros(size + 64, dtype=torch.uint8)
    offset = -raw.data_ptr() % 64
    return raw[offset : offset + size]
