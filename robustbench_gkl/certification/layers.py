"""The layers of which bounds are known, read from the nodes of a trace (torch.fx)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from robustbench_gkl.certification.network import Network
from robustbench_gkl.certification.operations import (
    Add,
    Convolution,
    Images,
    Linear,
    Operation,
    Relu,
    Reshape,
    Scale,
    Shape,
)
from robustbench_gkl.core.errors import UserError


class _Step(int):
    """What depends on the images: the number of a network's step."""


class Reader:
    """Reads the nodes of a trace of two images; what does not depend on them is computed at once.

    Constants that are folded, such as those of batch normalisation, are in float64.
    """

    def __init__(self, trace: fx.GraphModule, shape: Shape) -> None:
        self.trace = trace
        self.steps: list[Operation] = [Images((), shape)]

    def read(self) -> Network:
        """Return the network.

        Raises:
            UserError: a layer without bounds.
        """
        known: dict[fx.Node, Any] = {}
        for node in self.trace.graph.nodes:
            if node.op == "placeholder":
                known[node] = _Step(0)
            elif node.op == "get_attr":
                known[node] = getattr(self.trace, str(node.target)).detach()
            elif node.op == "call_function":
                args, options = fx.map_arg((node.args, node.kwargs), known.__getitem__)
                known[node] = self._called(node, args, options)
            elif not isinstance(last := known[node.args[0]], _Step):
                break
            else:
                return Network(tuple(self.steps[: last + 1])).to(torch.float32)
        raise UserError("unsupported: a model whose logits do not depend on the images")

    def _called(self, node: fx.Node, args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise UserError(f"unsupported: {node.target}, whose values are random")
        given = [*args, *options.values()]
        given = [item for arg in given for item in (arg if isinstance(arg, (tuple, list)) else (arg,))]
        if not any(isinstance(arg, _Step) for arg in given):
            return node.target(*args, **options)  # type: ignore[operator]
        if node.target is operator.getitem and args[1] == 0:
            return args[0][0]
        name = str(node.target).removeprefix("aten.").partition(".")[0].strip("_")
        read = _READERS.get(name)
        fixed = name in _MIXED or not any(isinstance(arg, _Step) for arg in args[1:])
        plain = fixed and not set(options) - {"memory_format"}
        found = read(self, _shape(node), *args) if read is not None and plain else None
        if found is None:
            raise UserError(f"unsupported: {name} has no bounds here, so nothing can be certified")
        return found

    def add(self, step: Operation) -> _Step:
        """Take a step into the network."""
        self.steps.append(step)
        return _Step(len(self.steps) - 1)


def _shape(node: fx.Node) -> Shape:
    """Return the shape of one image's values in a trace of two images."""
    value = node.meta["val"]
    shape = tuple((value[0] if isinstance(value, tuple) else value).shape)
    return shape[1:] if shape[:1] == (2,) else ()


_Read = Callable[..., Any]
_READERS: dict[str, _Read] = {}
"""By the name of an operation of torch what makes a step of it, or returns None for what has no bounds."""
_MIXED = frozenset({"add", "sub", "mul", "div", "addmm", "mm"})
"""Of which not the first argument alone may depend on the images; they look themselves at which does."""


def _reads(*names: str) -> Callable[[_Read], _Read]:
    def register(read: _Read) -> _Read:
        _READERS.update(dict.fromkeys(names, read))
        return read

    return register


@_reads("relu")
def _relu(reader: Reader, shape: Shape, value: _Step) -> _Step:
    return reader.add(Relu((value,), shape))


@_reads("convolution")
def _convolution(
    reader: Reader,
    shape: Shape,
    value: _Step,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> _Step | None:
    if transposed or weight.dim() != 4:
        return None
    before = reader.steps[value].shape
    offset = weight.new_zeros(len(weight)) if bias is None else bias
    steps, pads, gaps = ((numbers[0], numbers[-1]) for numbers in (stride, padding, dilation))
    return reader.add(Convolution((value,), shape, before, weight, offset, steps, pads, gaps, groups))


@_reads("avg_pool2d")
def _average_pooling(
    reader: Reader,
    shape: Shape,
    value: _Step,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil: bool = False,
    counts_padding: bool = True,
    divisor: int | None = None,
) -> _Step | None:
    before, steps = reader.steps[value].shape, stride or kernel
    sizes = [(before[1 + end] + 2 * padding[-end] - kernel[-end]) // steps[-end] + 1 for end in (0, 1)]
    cut = ceil and list(shape[1:]) != sizes  # the last windows hang over the edge
    if cut or divisor is not None or (any(padding) and not counts_padding):
        return None
    return _pooled(reader, shape, value, kernel, steps, padding)


def _pooled(
    reader: Reader, shape: Shape, value: _Step, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> _Step:
    channels = shape[0]
    size = (channels, 1, kernel[0], kernel[-1])
    weight = torch.full(size, 1 / (kernel[0] * kernel[-1]), dtype=torch.float64, device=_device(reader))
    return _convolution(  # type: ignore[no-any-return]
        reader, shape, value, weight, None, stride, padding, (1, 1), False, (0, 0), channels
    )


@_reads("mean")
def _global_average(
    reader: Reader, shape: Shape, value: _Step, dims: Sequence[int] | None = None, keeps: bool = False
) -> _Step | None:
    before = reader.steps[value].shape
    if len(before) != 3 or dims is None or {dim % 4 for dim in dims} != {2, 3}:
        return None
    pooled = _pooled(reader, (before[0], 1, 1), value, before[1:], (1, 1), (0, 0))
    return pooled if keeps else reader.add(Reshape((pooled,), shape, (before[0], 1, 1)))


@_reads("adaptive_avg_pool2d")
def _adaptive_pooling(reader: Reader, shape: Shape, value: _Step, size: Sequence[int]) -> _Step | None:
    before = reader.steps[value].shape
    if before[1] % shape[1] or before[2] % shape[2]:
        return None
    kernel = (before[1] // shape[1], before[2] // shape[2])
    return _pooled(reader, shape, value, kernel, kernel, (0, 0))


@_reads("addmm")
def _product_and_sum(reader: Reader, shape: Shape, bias: Any, value: Any, matrix: Any) -> _Step | None:
    if not isinstance(value, _Step) or not isinstance(bias, Tensor) or not isinstance(matrix, Tensor):
        return None
    if bias.dim() != 1:
        return None
    return reader.add(Linear((value,), shape, matrix.T.contiguous(), bias.expand(shape)))


@_reads("mm")
def _product(reader: Reader, shape: Shape, value: Any, matrix: Any) -> _Step | None:
    if not isinstance(value, _Step) or not isinstance(matrix, Tensor):
        return None
    bias = torch.zeros(shape, device=_device(reader))
    return reader.add(Linear((value,), shape, matrix.T.contiguous(), bias))


@_reads("native_batch_norm", "cudnn_batch_norm", "native_batch_norm_legit_no_training")
def _batch_norm(
    reader: Reader,
    shape: Shape,
    value: _Step,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    *rest: Any,
) -> tuple[_Step] | None:
    training, eps = rest[0] is True, rest[-1]
    if training or mean is None or variance is None:
        return None
    factor = (variance.double() + eps).rsqrt() * (1 if weight is None else weight)
    shift = (0 if bias is None else bias) - mean * factor
    return (reader.add(Scale((value,), shape, factor, shift)),)


@_reads("view", "unsafe_view", "reshape", "flatten")
def _reshaped(reader: Reader, shape: Shape, value: _Step, *sizes: Any) -> _Step | None:
    before = reader.steps[value].shape
    if torch.Size(shape).numel() != torch.Size(before).numel() or len(shape) not in (1, 3):
        return None
    return reader.add(Reshape((value,), shape, before))


@_reads("clone", "alias", "detach", "dropout", "lift_fresh_copy")
def _unchanged(reader: Reader, shape: Shape, value: _Step, *rest: Any) -> _Step:
    return value


@_reads("add")
def _added(reader: Reader, shape: Shape, one: Any, other: Any) -> _Step | None:
    if isinstance(one, _Step) and isinstance(other, _Step):
        same = reader.steps[one].shape == reader.steps[other].shape
        return reader.add(Add((one, other), shape)) if same else None
    value, constant = (one, other) if isinstance(one, _Step) else (other, one)
    return _scaled(reader, value, 1.0, constant)


@_reads("sub")
def _subtracted(reader: Reader, shape: Shape, one: Any, other: Any) -> _Step | None:
    if isinstance(one, _Step) == isinstance(other, _Step):
        return None
    return _scaled(reader, one, 1.0, -other) if isinstance(one, _Step) else _scaled(reader, other, -1.0, one)


@_reads("mul")
def _multiplied(reader: Reader, shape: Shape, one: Any, other: Any) -> _Step | None:
    if isinstance(one, _Step) == isinstance(other, _Step):
        return None
    value, factor = (one, other) if isinstance(one, _Step) else (other, one)
    return _scaled(reader, value, factor, 0.0)


@_reads("div")
def _divided(reader: Reader, shape: Shape, one: Any, other: Any) -> _Step | None:
    return (
        None if isinstance(other, _Step) else _scaled(reader, one, 1 / torch.as_tensor(other, dtype=torch.float64), 0.0)
    )


def _scaled(reader: Reader, value: _Step, factor: Any, shift: Any) -> _Step | None:
    """Return ``value * factor + shift``, both numbers, or tensors with one value for each channel."""
    shape = reader.steps[value].shape
    vectors = [_each_channel(constant, shape, _device(reader)) for constant in (factor, shift)]
    if vectors[0] is None or vectors[1] is None:
        return None
    return reader.add(Scale((value,), shape, vectors[0], vectors[1]))


def _each_channel(constant: Any, shape: Shape, device: torch.device) -> Tensor | None:
    """Return the (C,) values of a constant that is the same at all places of a channel; None for others."""
    values = torch.as_tensor(constant, dtype=torch.float64, device=device)
    if values.numel() == 1:
        return values.reshape(1).expand(shape[0])
    wide = values.reshape(*[1] * (len(shape) + 1 - values.dim()), *values.shape)
    return values.flatten() if wide.shape == (1, shape[0], *[1] * (len(shape) - 1)) else None


def _device(reader: Reader) -> torch.device:
    return next((value.device for value in reader.trace.parameters()), torch.device("cpu"))
