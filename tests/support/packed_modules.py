"""Projections that are no plain `nn.Linear`: with weights packed in 4 bits, and wrapped by an adapter."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from tests.support.ffn_modules import GatedFFN


def quantise(weight):
    """Return the 4-bit codes of a matrix and its scale. A code is an integer from 0 to 15, and 8 stands for 0."""
    scale = weight.abs().max() / 7
    return (weight / scale).round().to(torch.int8) + 8, scale


def pack(weight):
    """Return a matrix as a column of bytes with two codes each, and its scale."""
    codes, scale = quantise(weight)
    pairs = codes.to(torch.uint8).reshape(-1, 2)
    return (pairs[:, 0] * 16 + pairs[:, 1])[:, None], scale


def unpack(packed, scale, shape):
    """Return the matrix of a column of bytes."""
    codes = torch.cat([packed // 16, packed % 16], dim=1).to(torch.int8)
    return ((codes - 8) * scale).reshape(shape)


class PackedLinear(nn.Module):
    """A linear layer whose ``weight`` is packed, as in bitsandbytes.

    Args:
        linear: The layer to quantise.
    """

    def __init__(self, linear):
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        packed, self.scale = pack(linear.weight.detach())
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias

    def forward(self, x):
        return F.linear(x, self.dequantise(), self.bias)

    def dequantise(self):
        """Return the matrix that the layer multiplies by."""
        return unpack(self.weight, self.scale, (self.out_features, self.in_features))


class BufferLinear(PackedLinear):
    """A linear layer without ``weight``, whose packed matrix is a buffer, as in GPTQ, AWQ and HQQ."""

    def __init__(self, linear):
        super().__init__(linear)
        packed = self.weight.detach()
        del self.weight
        self.register_buffer("qweight", packed)

    def dequantise(self):
        return unpack(self.qweight, self.scale, (self.out_features, self.in_features))


class SilentLinear(BufferLinear):
    """The same layer, but it does not state its widths."""

    def __init__(self, linear):
        super().__init__(linear)
        self.shape = (self.out_features, self.in_features)
        del self.in_features, self.out_features

    def dequantise(self):
        return unpack(self.qweight, self.scale, self.shape)


class PackedTensor(torch.Tensor):
    """A matrix that is stored packed and is dequantised by each operation, as in quanto and torchao.

    Args:
        packed: The codes.
        scale: The scale.
        shape: Shape of the matrix.
    """

    @staticmethod
    def __new__(cls, packed, scale, shape):
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=scale.dtype)

    def __init__(self, packed, scale, shape):
        self.packed = packed
        self.scale = scale

    def dequantise(self):
        """Return the matrix."""
        return unpack(self.packed, self.scale, self.shape)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].packed, args[0].scale, args[0].shape)

        def dequantise(value):
            return value.dequantise() if isinstance(value, PackedTensor) else value

        return func(*tree_map(dequantise, args), **tree_map(dequantise, kwargs or {}))


def subclass_linear(linear):
    """Return an `nn.Linear` whose weight is a `PackedTensor`."""
    packed, scale = pack(linear.weight.detach())
    result = nn.Linear(linear.in_features, linear.out_features)
    result.weight = nn.Parameter(PackedTensor(packed, scale, linear.weight.shape), requires_grad=False)
    result.bias = linear.bias
    return result


def dequantise(module):
    """Return the matrix of one of the layers above."""
    if isinstance(module, PackedLinear):
        return module.dequantise()
    return module.weight.dequantise()


class LowRankLinear(nn.Module):
    """A linear layer with a low-rank addition that is not merged, built like the layers of PEFT.

    Args:
        linear: The layer that is wrapped.
    """

    def __init__(self, linear):
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.base_layer = linear
        self.lora_A = nn.ModuleDict({"default": nn.Linear(linear.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, linear.out_features, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))

    def merge(self):
        """Return the matrix that the layer multiplies by."""
        return self.base_layer.weight + self.lora_B["default"].weight @ self.lora_A["default"].weight


def replace_projections(ffn, replace):
    """Replace the projections of a `GatedFFN` in place, and return it."""
    for name in ("gate_proj", "up_proj", "down_proj"):
        setattr(ffn, name, replace(getattr(ffn, name)))
    return ffn


def dense_copy(ffn, get_matrix):
    """Return a `GatedFFN` whose weights are the matrices of another one's projections."""
    copy = GatedFFN()
    for name in ("gate_proj", "up_proj", "down_proj"):
        source = getattr(ffn, name)
        linear = getattr(source, "base_layer", source)
        with torch.no_grad():
            getattr(copy, name).weight.copy_(get_matrix(source))
            getattr(copy, name).bias.copy_(linear.bias)
    return copy
