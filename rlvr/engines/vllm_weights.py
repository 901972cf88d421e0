"""How weights come into vLLM: in parts of bounded size, which its workers take over.

vLLM's workers import `Receiver` by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# So many bytes of weights are handed to the workers at a time.
CHUNK_BYTES = 2**28


def split_weights(
    weights: Iterable[tuple[str, Tensor]],
) -> Iterator[list[tuple[str, Tensor]]]:
    """Yield the stream in parts of bounded size: a part ends with the weight that fills it."""
    part: list[tuple[str, Tensor]] = []
    size = 0
    for name, weight in weights:
        part.append((name, weight))
        size += weight.nbytes
        if size >= CHUNK_BYTES:
            yield part
            part = []
            size = 0
    if part:
        yield part


class Receiver:
    """What vLLM's workers learn in addition: to take over weights in parts.

    They do so as their loader takes those of a file. Fused weights (q, k and v; gate and up) are
    put together by the model's own loader, layers are packed anew for their kernels by the loader's
    reload.
    """

    # Of the worker that this class becomes a part of. No other name here may be one of the worker's.
    model_runner: Any

    def begin(self) -> None:
        """Make the layers ready to take weights."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model_runner.get_model())

    def receive(self, weights: Sequence[tuple[str, Tensor]]) -> None:
        """Take over one part."""
        self.model_runner.get_model().load_weights(weights)

    def end(self) -> None:
        """Put the layers into use."""
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        model = self.model_runner.get_model()
        finalize_layerwise_reload(model, self.model_runner.model_config)
        # A head that shares the embedding's weight has no weights of its own to receive, so vLLM
        # leaves its packed copy as it was.
        for layer in model.modules():
            if isinstance(layer, ParallelLMHead):
                layer.quant_method.process_weights_after_loading(layer)
