"""A cheaper evaluation-mode twin of a network, for the many passes of the training attack.

In eval mode batch normalisation is an affine map with fixed numbers, so one that directly follows a convolution can be
folded into that convolution's weight and bias: a whole pass over the activations less, forward and backward. Only
how the logits are computed changes, not what they are, up to rounding.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor, fx, nn

from robustbench_gkl.attacks.model import attack_mode
from robustbench_gkl.core.device import full_precision
from robustbench_gkl.models import Classifier
from robustbench_gkl.training.sync_batchnorm import SyncBatchNorm2d

_LOGGER = logging.getLogger("robustbench_gkl")


class FoldedModel:
    """Computes the eval-mode logits of ``model`` with batch normalisation folded into convolutions where possible.

    Only a network whose class declares itself ``foldable`` is folded, and only if its twin gives the same logits for
    one batch of random images; a twin that does not is left out with a warning. All other layers are the model's own,
    and all layers of a network that is not folded. The model has to be in eval mode while this is called, and
    :meth:`refresh` has to be called after its weights have changed.

    Args:
        model: any network; it is traced once, on the device where it is to stay.
        fold: whether to fold at all.
    """

    def __init__(self, model: nn.Module, *, fold: bool = True) -> None:
        self._pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d, nn.Conv2d]] = []
        self.network: nn.Module = model
        if not fold or not isinstance(model, Classifier) or not vars(type(model)).get("foldable", False):
            return
        with attack_mode(model), full_precision():
            try:
                self.network = self._rewritten(model)
                failure = self._difference(model)
            except Exception as error:  # tracing runs the network's own code, which can fail in any way
                failure = str(error).partition("\n")[0] or type(error).__name__
        if failure:
            self._pairs, self.network = [], model
            _LOGGER.warning(
                "%s is evaluated as it is, for its twin with folded batch normalisation fails: %s; attack.fold=off "
                "leaves out that of a training attack",
                type(model).__name__,
                failure,
            )

    @property
    def folded(self) -> int:
        """Number of batch normalisations that have been folded away."""
        return len(self._pairs)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the logits (B, K) of ``images`` (B, C, H, W)."""
        logits: Tensor = self.network(images)
        return logits

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the folded weights anew from the model's."""
        for source, norm, target in self._pairs:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert target.bias is not None
            scale = torch.rsqrt(norm.running_var + norm.eps)
            scale = scale if norm.weight is None else scale * norm.weight
            offset = -norm.running_mean if source.bias is None else source.bias - norm.running_mean
            torch.mul(source.weight, scale[:, None, None, None], out=target.weight)
            target.bias.copy_(offset * scale if norm.bias is None else offset * scale + norm.bias)

    @torch.no_grad()
    def _difference(self, model: Classifier) -> str:
        """Return how the twin's logits differ from those of ``model`` for two images; empty within rounding."""
        self.refresh()
        weight = next(model.parameters())
        images = torch.rand(2, *model.input_shape, generator=torch.Generator().manual_seed(0)).to(weight)
        expected, found = model(images), self.network(images)
        gap = float((found - expected).abs().max() / expected.abs().max())
        return "" if gap <= torch.finfo(weight.dtype).eps ** 0.5 else f"its logits differ by {gap:.1g} of the largest"

    def _rewritten(self, model: nn.Module) -> nn.Module:
        graph = _Tracer().trace(model)
        twin = fx.GraphModule(model, graph)
        for node in list(graph.nodes):
            if (pair := _foldable(node, model, graph)) is None:
                continue
            convolution, norm = pair
            merged = nn.utils.skip_init(  # type: ignore[no-untyped-call]
                nn.Conv2d,
                convolution.in_channels,
                convolution.out_channels,
                convolution.kernel_size,
                convolution.stride,
                convolution.padding,
                convolution.dilation,
                convolution.groups,
                padding_mode=convolution.padding_mode,
                device=convolution.weight.device,
                dtype=convolution.weight.dtype,
            ).requires_grad_(False)
            merged.weight.data = torch.empty_like(convolution.weight)
            before = node.args[0]
            twin.add_submodule(before.target, merged)
            node.replace_all_uses_with(before)
            graph.erase_node(node)
            self._pairs.append((convolution, norm, merged))
        twin.recompile()
        return twin


class _Tracer(fx.Tracer):
    """Looks into no batch normalisation of ours, as it does into none of torch's layers."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, SyncBatchNorm2d) or super().is_leaf_module(m, module_qualified_name)


def _foldable(node: fx.Node, model: nn.Module, graph: fx.Graph) -> tuple[nn.Conv2d, nn.BatchNorm2d] | None:
    """Return convolution and batch normalisation if ``node`` is the latter and alone reads what the former gives."""
    before = node.args[0] if node.op == "call_module" and node.args else None
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
        return None
    norm, convolution = model.get_submodule(str(node.target)), model.get_submodule(str(before.target))
    if not isinstance(norm, nn.BatchNorm2d) or type(norm) not in (nn.BatchNorm2d, SyncBatchNorm2d):
        return None
    if type(convolution) is not nn.Conv2d or norm.running_mean is None:
        return None
    calls = [str(other.target) for other in graph.nodes if other.op == "call_module"]
    shared = calls.count(str(before.target)) > 1 or _has_hooks(norm) or _has_hooks(convolution)
    return None if shared else (convolution, norm)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or hasattr(module, "parametrizations"))
