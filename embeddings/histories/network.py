"""The networks that are trained: items into vectors, and each beginning of a history into a vector of the same space.

Only training imports this; what it learns is served by `embeddings.histories.encoder` without torch.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from embeddings.histories.examples import Batch
from embeddings.settings import HistoryTrainingSettings

_NOTHING = -1e9  # a score that takes no part in a softmax


class Items(nn.Module):
    """The vectors of items: one of their own, and one made of their features.

    An item that nobody took yet has its features alone; so that these are learned well, own vectors are left out of training
    at random.
    """

    def __init__(self, n_items: int, settings: HistoryTrainingSettings, tokens: NDArray[np.int64] | None) -> None:
        """Begin.

        Args:
            tokens: int64[n_items, m], features of each item, 1 or more; 0 where there is none.
        """
        super().__init__()
        self._unit = settings.temperature > 0
        self._leave_out = settings.leave_out if tokens is not None else 0.0
        self.own = nn.Embedding(n_items, settings.dim)
        nn.init.normal_(self.own.weight, std=settings.dim**-0.5 if self._unit else 0.02)
        self.features: nn.Embedding | None = None
        if tokens is not None:
            self.features = nn.Embedding(int(tokens.max()) + 1, settings.dim, padding_idx=0)
            nn.init.normal_(self.features.weight, std=settings.dim**-0.5 if self._unit else 0.02)
            with torch.no_grad():
                self.features.weight[0] = 0
            self.register_buffer("tokens", torch.from_numpy(tokens), persistent=False)
        self.register_buffer("is_taken", torch.ones(n_items, 1), persistent=False)

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """float32[n, dim] of some items, or of all; unit vectors where scores are cosines."""
        own = self.own.weight if rows is None else self.own(rows)
        if self.features is not None:
            taken = cast(Tensor, self.is_taken if rows is None else cast(Tensor, self.is_taken)[rows])
            if self.training and self._leave_out:
                taken = taken * (torch.rand(taken.shape, device=taken.device) >= self._leave_out)
            tokens = cast(Tensor, self.tokens if rows is None else cast(Tensor, self.tokens)[rows])
            n_tokens = (tokens > 0).sum(-1, keepdim=True).clamp(min=1)
            own = own * taken + self.features(tokens).sum(-2) / n_tokens.sqrt()
        return functional.normalize(own, dim=-1) if self._unit else own


class Block(nn.Module):
    """Causal attention and a gated feed-forward part, each normalised before and let through by a gate of what was there.

    Source: Borisyuk et al., From features to transformers: redefining ranking for scalable impact (LiGR), 2025, section 3.2.
    """

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self._n_heads = n_heads
        self.before_attention = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.attended = nn.Linear(dim, dim)
        self.attention_gate = nn.Linear(dim, dim)
        self.before_feed = nn.LayerNorm(dim)
        self.feed_in = nn.Linear(dim, 8 * dim)
        self.feed_out = nn.Linear(4 * dim, dim)
        self.feed_gate = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor, hidden: Tensor) -> Tensor:
        """states float32[b, t, dim]; hidden float32[t, t] is 0 where a place may look, else very low."""
        b, t, dim = states.shape
        mixed = self.query_key_value(self.before_attention(states)).reshape(
            b, t, 3, self._n_heads, dim // self._n_heads
        )
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (query @ key.transpose(-1, -2) * (dim // self._n_heads) ** -0.5 + hidden).softmax(-1)
        seen = (self.dropout(weights) @ value).permute(0, 2, 1, 3).reshape(b, t, dim)
        states = states + torch.sigmoid(self.attention_gate(states)) * self.dropout(self.attended(seen))
        left, right = self.feed_in(self.before_feed(states)).chunk(2, dim=-1)
        fed = self.feed_out(self.dropout(functional.silu(left) * right))
        return cast(Tensor, states + torch.sigmoid(self.feed_gate(states)) * self.dropout(fed))


class Transformer(nn.Module):
    """Self-attention over what was done, in its order.

    Source: Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018; with a softmax, as Klenitskiy and Vasilev,
    Turning dross into gold loss, RecSys 2023; with LiGR blocks, as eSASRec, arXiv 2508.06450, 2025.
    """

    def __init__(self, settings: HistoryTrainingSettings) -> None:
        super().__init__()
        self._max_items = settings.max_items
        self.places = nn.Embedding(settings.max_items, settings.dim)
        nn.init.normal_(self.places.weight, std=0.02 * math.sqrt(settings.dim))
        self.blocks = nn.ModuleList(
            Block(settings.dim, settings.n_heads, settings.dropout) for _ in range(settings.n_blocks)
        )
        self.after = nn.LayerNorm(settings.dim)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """float32[b, t, dim] and int64[b] into float32[b, t, dim]: the state after each item; the newest has the last place."""
        t, dim = vectors.shape[1], vectors.shape[2]
        steps = torch.arange(t, device=vectors.device)
        places = (self._max_items - lengths[:, None] + steps).clamp(max=self._max_items - 1)
        states = self.dropout(vectors * math.sqrt(dim) + self.places(places))
        hidden = torch.where(steps[None, :] > steps[:, None], _NOTHING, 0.0)
        for block in self.blocks:
            states = block(states, hidden)
        return cast(Tensor, self.after(states))


class Pool(nn.Module):
    """The weighted mean of what was done, by how many steps ago it was, and a small network over it."""

    def __init__(self, settings: HistoryTrainingSettings) -> None:
        super().__init__()
        self.ago = nn.Embedding(settings.max_items, 1)
        nn.init.zeros_(self.ago.weight)
        self.inner = nn.Linear(settings.dim, 4 * settings.dim)
        self.outer = nn.Linear(4 * settings.dim, settings.dim)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """As `Transformer`; lengths do not matter."""
        t = vectors.shape[1]
        steps = torch.arange(t, device=vectors.device)
        ago = steps[:, None] - steps[None, :]
        weights = self.ago(ago.clamp(min=0))[..., 0] + torch.where(ago < 0, _NOTHING, 0.0)
        pooled = weights.softmax(-1) @ self.dropout(vectors)
        return cast(Tensor, pooled + self.outer(functional.gelu(self.inner(pooled))))


class HistoryNetwork(nn.Module):
    """Items and histories in one space; an item's score is its product with the history's vector."""

    def __init__(
        self,
        settings: HistoryTrainingSettings,
        taken: NDArray[np.int64],
        tokens: NDArray[np.int64] | None = None,
    ) -> None:
        """Begin with random vectors.

        Args:
            taken: int64[n_items], how often each item was taken.
            tokens: see `Items`.
        """
        super().__init__()
        self._settings = settings
        self._n_items = len(taken)
        self.items = Items(len(taken), settings, tokens)
        self.encoder = Transformer(settings) if settings.encoder == "transformer" else Pool(settings)
        if tokens is not None:
            self.items.is_taken = torch.from_numpy((taken > 0).astype(np.float32))[:, None]
        share = torch.from_numpy(taken / max(int(taken.sum()), 1)).float()
        self.register_buffer("share", share, persistent=False)

    @property
    def max_items(self) -> int:
        """So many of the newest items of a history are read."""
        return self._settings.max_items

    def states(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """float32[b, t, dim] into the vector of each beginning, float32[b, t, dim]."""
        states = cast(Tensor, self.encoder(vectors, lengths))
        return functional.normalize(states, dim=-1) if self._settings.temperature > 0 else states

    def forward(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """float32[b, t, dim] and lengths int64[b] into the vectors of whole histories, float32[b, dim]: what is served."""
        states = self.states(vectors, lengths)
        last = (lengths - 1)[:, None, None].expand(-1, 1, states.shape[2])
        return states.gather(1, last)[:, 0]

    def loss(self, batch: Batch, rng: np.random.Generator) -> Tensor:
        """The mean, by weight, of what it costs to tell the targets."""
        device = self.items.own.weight.device
        items, lengths, targets, weights = (torch.from_numpy(each).to(device) for each in batch)
        states = self.states(self.items(items), lengths)
        counted = weights > 0
        costs = self._costs(states[counted], targets[counted], rng)
        return (costs * weights[counted]).sum() / weights.sum().clamp(min=1e-9)

    def _costs(self, states: Tensor, targets: Tensor, rng: np.random.Generator) -> Tensor:
        scale = 1 / self._settings.temperature if self._settings.temperature > 0 else 1.0
        n_negatives = self._settings.n_negatives
        if self._settings.encoder == "transformer" and self._n_items <= max(n_negatives, self._settings.full_items):
            return functional.cross_entropy(states @ self.items().T * scale, targets, reduction="none")
        drawn = torch.from_numpy(rng.integers(0, self._n_items, n_negatives)).to(states.device)
        if self._settings.encoder == "transformer":
            own = (states * self.items(targets)).sum(-1, keepdim=True) * scale
            others = states @ self.items(drawn).T * scale
            others = others.masked_fill(drawn[None, :] == targets[:, None], _NOTHING)
            return cast(Tensor, torch.cat([own, others], dim=1).logsumexp(1) - own[:, 0])
        return self._corrected_costs(states, targets, drawn, scale)

    def _corrected_costs(self, states: Tensor, targets: Tensor, drawn: Tensor, scale: float) -> Tensor:
        """Others' targets and items drawn from all are what a target is told from; each less the log of its chance to be there.

        Source: Yi et al., Sampling-bias-corrected neural modeling for large corpus item recommendations, RecSys 2019; Yang et
        al., Mixed negative sampling for learning two-tower neural networks in recommendations, WWW 2020.
        """
        m, n = len(targets), len(drawn)
        shown = torch.cat([targets, drawn])
        chance = (cast(Tensor, self.share)[shown] * m + n / self._n_items) / (m + n)
        scores = states @ self.items(shown).T * scale - chance.log()[None, :]
        again = shown[None, :] == targets[:, None]
        own = torch.arange(m, device=states.device)
        again[own, own] = False
        return functional.cross_entropy(scores.masked_fill(again, _NOTHING), own, reduction="none")
