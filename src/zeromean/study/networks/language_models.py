"""Networks that predict the next character: outputs of shape (batch, alphabet, length)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LSTM(nn.Module):
    """One layer of long short-term memory between an embedding and a linear layer.

    Args:
        alphabet: Number of different characters.
        size: Size of the embedding; the hidden state is twice as large.
    """

    def __init__(self, alphabet: int, size: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, size)
        self.lstm = nn.LSTM(size, 2 * size, batch_first=True)
        self.head = nn.Linear(2 * size, alphabet)

    def forward(self, characters: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embedding(characters))
        return self.head(hidden).mT  # type: ignore[no-any-return]


class Block(nn.Module):
    """Causal self-attention and two linear layers, each normalized before and added to its input.

    Args:
        size: Size of the vector of a position.
        heads: Number of attention heads.
        dropout: Dropout rate of what is added.
    """

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(size)
        self.qkv = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.norm2 = nn.LayerNorm(size)
        self.wide = nn.Linear(size, 4 * size)
        self.narrow = nn.Linear(4 * size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            one.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for one in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.narrow(F.gelu(self.wide(self.norm2(x)))))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Two blocks of four heads over learned positions.

    Args:
        alphabet: Number of different characters.
        length: Number of characters of the longest text.
        size: Size of the vector of a position.
    """

    def __init__(self, alphabet: int, length: int = 256, size: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, size)
        self.positions = nn.Embedding(length, size)
        self.blocks = nn.Sequential(*(Block(size, heads=4, dropout=0.1) for _ in range(2)))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, alphabet)

    def forward(self, characters: Tensor) -> Tensor:
        places = torch.arange(characters.shape[1], device=characters.device)
        hidden = self.blocks(self.embedding(characters) + self.positions(places))
        return self.head(self.norm(hidden)).mT  # type: ignore[no-any-return]


TEXT_NETWORKS: dict[str, Callable[[int], nn.Module]] = {"lstm": LSTM, "transformer": Transformer}
