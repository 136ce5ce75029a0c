"""A network read from the trace of a model (torch.fx)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustbench_gkl.certification.layers import Reader
from robustbench_gkl.certification.network import Network
from robustbench_gkl.core.errors import UserError, one_line

_AGREES = 1e-4
"""By how much the network's logits may differ from the model's, relative to the largest."""


@torch.no_grad()
def read_network(model: nn.Module, images: Tensor) -> Network:
    """Return the network that a model in eval mode computes.

    Args:
        model: images (B, C, H, W) in [0, 1] to logits (B, K).
        images: (B, C, H, W), some of those that it is asked about.

    Raises:
        UserError: "unsupported: LAYER" for a layer without bounds, or a model that computes otherwise than its trace.
    """
    from torch.fx.experimental.proxy_tensor import make_fx  # imports torch's compiler

    example = images[:1].expand(2, *images.shape[1:]).contiguous() if len(images) < 2 else images[:2]
    kind = type(model).__name__
    try:
        # Fake tensors have no values that the model's own code could turn on; without mutations no two names are one.
        traced = make_fx(torch.func.functionalize(model), tracing_mode="fake", _allow_non_fake_inputs=True)
        with _Blind():
            trace = traced(example)
    except Exception as error:  # tracing runs the model's own code, which can fail in any way
        raise UserError(f"unsupported: {kind} cannot be traced ({one_line(error)})") from error
    trace.graph.eliminate_dead_code()
    network = Reader(trace, tuple(example.shape[1:])).read()
    for batch in (images, images[:1], *_unlike(images)):
        logits = model(batch)
        difference = float((network(batch) - logits).abs().max())
        if not difference <= _AGREES * max(1.0, float(logits.abs().max())):
            raise UserError(
                f"unsupported: {kind} computes otherwise than its trace (logits differ by {difference:.2g})"
            )
    return network


class _Blind(TorchFunctionMode):
    """Refuses to hand values of tensors to the model's own code, on which what it does could depend unseen."""

    _HIDDEN: ClassVar = (Tensor.numpy, Tensor.__array__, Tensor.tolist)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return what ``func`` returns.

        Raises:
            ValueError: it would return values.
        """
        if func in self._HIDDEN:
            raise ValueError(f"it takes values out of a tensor by {func.__name__}")
        return func(*args, **kwargs or {})


def _unlike(images: Tensor) -> list[Tensor]:
    """Return batches that are unlike ``images`` (B, C, H, W) and of other sizes."""
    one = images[:1]
    noise = torch.rand(3, *one.shape[1:], generator=torch.Generator().manual_seed(0)).to(one.device)
    return [torch.zeros_like(one), torch.ones_like(one), noise, torch.cat([1 - images, noise])]
