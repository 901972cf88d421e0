"""vLLM in a process: its kernels and its scheduler, our sampler, weights through `load` alone.

A token is decided by the sampler of the local engine, which vLLM calls as a logits processor. So a
sample is the function of its key and the position that it is anywhere, and log-probabilities follow
our convention, which none of vLLM's own modes does once top-p or top-k cut the vocabulary.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.engines.vllm_weights import split_weights
from rlvr.errors import RunError, UserError
from rlvr.types import Finish, Generation, Request, Sampling

if TYPE_CHECKING:
    from torch import Tensor

# The environment that vLLM is started with. What the environment says already, stays.
ENVIRONMENT: Mapping[str, str] = {
    # The engine lives in the process that asks it ...
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # ... and its threads are those of that process.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Our logits processor is one of the first runner.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # Nothing is reported to anybody.
    "VLLM_NO_USAGE_STATS": "1",
}

# What vLLM imports in its workers by name, as `module:class` and as `module.class`.
SAMPLER = "rlvr.engines.vllm_sampler:Sampler"
RECEIVER = "rlvr.engines.vllm_weights.Receiver"


class Vllm:
    """vLLM over the model that some files describe, whose weights come by `load`.

    It knows nothing of who trains, so it may live in a process of its own.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        end_tokens: list[int],
        options: Mapping[str, Any],
    ) -> None:
        self.end_tokens = end_tokens
        self.version = -1
        self.sleeps = bool(options["enable_sleep_mode"])
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        with _keep_set_num_threads(), tempfile.TemporaryDirectory(prefix="rlvr-vllm-") as folder:
            # vLLM reads its environment when it is imported. Pyright takes the file beside this one,
            # vllm.py, for the library.
            from vllm import LLM  # pyright: ignore[reportAttributeAccessIssue]

            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)

            try:
                self.llm = LLM(
                    folder,
                    load_format="dummy",
                    logprobs_mode="processed_logits",
                    logits_processors=[SAMPLER],
                    worker_extension_cls=RECEIVER,
                    async_scheduling=False,
                    seed=0,
                    **options,
                )
            # of its configuration, or of its start
            except (ValueError, RuntimeError, AssertionError) as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise RunError(f"rollout.engine: vllm does not start: {lines[-1]}") from error
        self.max_length = self.llm.llm_engine.model_config.max_model_len
        self._sleep()

    def load(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over the weights, in parts; what was cached of the weights before is dropped."""
        with self._awake():
            self.llm.collective_rpc("begin")
            for part in split_weights(weights):
                self.llm.collective_rpc("receive", args=(part,))
            self.llm.collective_rpc("end")
            self.llm.reset_prefix_cache()
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        """Return one generation for each key of each request, in order.

        Raises UserError where a response would not fit behind the longest prompt.
        """
        self._check_length(requests, sampling)
        prompts: list[Any] = []
        params: list[Any] = []
        for request in requests:
            for key in request.keys:
                prompts.append({"prompt_token_ids": list(request.token_ids)})
                params.append(self._make_params(key, sampling))
        with self._awake():
            answers = self.llm.generate(prompts, params, use_tqdm=False)
        return [_make_generation(answer.outputs[0]) for answer in answers]

    def _check_length(self, requests: Sequence[Request], sampling: Sampling) -> None:
        longest_prompt = max((len(request.token_ids) for request in requests), default=0)
        room = self.max_length - longest_prompt
        if sampling.max_tokens > room:
            raise UserError(
                f"rollout.engine.max_length: vllm holds {self.max_length} tokens of a prompt and its response, and the"
                f" longest prompt leaves {room} for max_tokens {sampling.max_tokens}; raise max_length or cache_gb"
            )

    def _make_params(self, key: int, sampling: Sampling) -> Any:
        """Return what vLLM has to know of a sample.

        It takes the likeliest token of what the sampler leaves, which is one.
        """
        from vllm import SamplingParams  # pyright: ignore[reportAttributeAccessIssue]

        return SamplingParams(
            temperature=0,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            stop_token_ids=self.end_tokens,
            detokenize=bool(sampling.stop),
            skip_special_tokens=False,
            logprobs=0,
            flat_logprobs=True,
            extra_args={"rlvr": (key, sampling.temperature, sampling.top_p, sampling.top_k)},
        )

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Hold the memory of the GPU for a call."""
        if self.sleeps:
            self.llm.wake_up()
        try:
            yield
        finally:
            self._sleep()

    def _sleep(self) -> None:
        """Give the memory of a GPU back; the weights wait in that of the processor."""
        if self.sleeps:
            self.llm.sleep(level=1)


def _make_generation(answer: Any) -> Generation:
    finish = Finish.LENGTH if answer.finish_reason == "length" else Finish.STOP
    return Generation(tuple(answer.token_ids), tuple(answer.logprobs.logprobs), finish)


@contextmanager
def _keep_set_num_threads() -> Iterator[None]:
    """Put `torch.set_num_threads` back, which vLLM replaces on a processor, for the whole process."""
    import torch

    before = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = before
