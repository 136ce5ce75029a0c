"""A network read from the trace of a model (torch.fx)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustbench_gkl.certification.layers import Reader
from robustbench_gkl.certification.network import MARGIN, Network, units
from robustbench_gkl.core.errors import UserError, one_line


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
    if network.steps[-1].shape[0] < 2:
        raise UserError(f"unsupported: {kind} has one logit; certificates compare a label's logit with all others")
    precise = network.to(torch.float64)
    for batch in (images, images[:1], *_unlike(images)):
        difference = (precise(batch.double()) - model(batch)).abs().amax(1)
        # Two logits that differ by as much from the proved ones make up for no margin that counts as proved.
        if not bool((difference <= MARGIN / 2 * units(network, precise, batch)[0]).all()):
            raise UserError(
                f"unsupported: {kind} computes otherwise than its trace "
                f"(logits differ by {float(difference.max()):.2g})"
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
