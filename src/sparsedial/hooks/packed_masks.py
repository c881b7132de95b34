"""Boolean masks packed into 64-bit words, and their comparison."""

from __future__ import annotations

import torch

BITS_PER_WORD = 64


def pack(masks: torch.Tensor) -> torch.Tensor:
    """Pack boolean masks, one bit per entry.

    Args:
        masks: Boolean tensor of shape [N, D].

    Returns:
        int64 tensor of shape [N, ceil(D / 64)].
    """
    rows, width = masks.shape
    bytes_ = torch.nn.functional.pad(masks.to(torch.uint8), (0, -width % BITS_PER_WORD)).view(rows, -1, 8)
    return (bytes_ * _bit_values(masks.device)).sum(-1, dtype=torch.uint8).view(torch.int64)


def unpack(words: torch.Tensor, width: int) -> torch.Tensor:
    """Unpack masks that were packed by `pack`.

    Args:
        words: int64 tensor of shape [N, ceil(width / 64)].
        width: Number of entries of a mask.

    Returns:
        Boolean tensor of shape [N, width].

    Example:
        >>> masks = torch.rand(3, 70) < 0.5
        >>> torch.equal(unpack(pack(masks), 70), masks)
        True
    """
    bytes_ = words.contiguous().view(torch.uint8)
    return ((bytes_[..., None] & _bit_values(words.device)) != 0).flatten(-2)[..., :width]


def popcount(words: torch.Tensor) -> torch.Tensor:
    """Count the bits that are set in each row.

    Args:
        words: int64 tensor of shape [N, W].

    Returns:
        int64 tensor of shape [N].

    Example:
        >>> popcount(torch.tensor([[7, -1], [0, 1]]))
        tensor([67,  1])
    """
    # Sums of 2, 4 and 8 neighbouring bits. The masks also remove the sign bits that a right shift brings in.
    pairs = words - ((words >> 1) & 0x5555555555555555)
    fours = (pairs & 0x3333333333333333) + ((pairs >> 2) & 0x3333333333333333)
    bytes_ = (fours + (fours >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((bytes_ * 0x0101010101010101) >> 56).sum(-1)


def jaccard(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the Jaccard index |A and B| / |A or B| of packed masks, row by row.

    Args:
        a: int64 tensor of shape [N, W].
        b: int64 tensor of shape [N, W].

    Returns:
        float64 tensor of shape [N]. It is 1 where both masks are empty.
    """
    union = popcount(a | b)
    return torch.where(union > 0, popcount(a & b) / union.clamp(min=1), 1.0).double()


def _bit_values(device: torch.device) -> torch.Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)
