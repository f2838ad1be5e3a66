"""Cross-attention of question states to an image, with a gate that decides from both how much of it is taken in."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPOUT = 0.1


class GatedCrossAttention(nn.Module):
    """One layer, with the norms before its parts.

    x + sigmoid(G [norm(x), a]) * a, a being what the norm of x attends to; then a feed-forward of its own. The gate is
    one number a channel and depends on what was asked and what was seen; it starts around one half.

    Args:
        width: D, of the question states and of the vision tokens.
        num_heads: Heads of the attention.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        assert width % num_heads == 0, "the width is a multiple of the heads"
        self.num_heads = num_heads
        self.norm_question = nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        self.gate = nn.Linear(2 * width, width)
        self.norm_states = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, states: Tensor, vision: Tensor, image_index: Tensor) -> Tensor:
        """Return new states, (B, T, D).

        Args:
            states: States of the questions, (B, T, D).
            vision: Normalized tokens of I images, (I, N, D).
            image_index: Which image a question is about, (B,).
        """
        x = self.norm_question(states)
        # once an image, however many questions there are about it
        key, value = self._heads(self.key(vision))[image_index], self._heads(self.value(vision))[image_index]
        attended = F.scaled_dot_product_attention(self._heads(self.query(x)), key, value)  # (B, heads, T, d)
        attended = self.output(attended.transpose(1, 2).flatten(2))
        gate = self.gate(torch.cat((x, attended), dim=-1)).sigmoid()
        states = states + self.dropout(gate * attended)
        return states + self.dropout(self.feed_forward(self.norm_states(states)))

    def _heads(self, x: Tensor) -> Tensor:
        """Return (B, T, D) as (B, heads, T, D / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class GatedFusion(nn.Module):
    """Layers of gated cross-attention.

    Args:
        width: D.
        num_heads: Heads of their attention.
        num_layers: At least 1.
    """

    def __init__(self, width: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.norm_vision = nn.LayerNorm(width)
        self.layers = nn.ModuleList(GatedCrossAttention(width, num_heads) for _ in range(num_layers))

    def forward(self, states: Tensor, vision: Tensor, image_index: Tensor) -> Tensor:
        """Return question states that have seen their image, (B, T, D).

        No state depends on another one: padding stays where it is.

        Args:
            states: States of the questions, (B, T, D).
            vision: Tokens of I images, (I, N, D), not normalized.
            image_index: Which image a question is about, (B,).
        """
        vision = self.norm_vision(vision)
        for layer in self.layers:
            states = layer(states, vision, image_index)
        return states
