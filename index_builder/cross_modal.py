"""How well texts find pictures and pictures find texts, and heads that were shown to do so before a space is made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

import cpp_ext
from embeddings.joint_heads import JointHeads, Pairs, fit_heads
from index_builder.progress import Progress
from matching.errors import GateRefused, InvalidInput

FEWEST_TEXTS: Final = 100
_HELD_OUT: Final = 5  # one text of so many is held out
_KS: Final = (1, 10)
_Z95: Final = 1.96


@dataclass(frozen=True, slots=True)
class CrossModal:
    """Shares of texts with a picture of an equal text among their k nearest pictures, and of pictures the other way round.

    Attributes:
        n_texts: texts that asked.
        n_different: of them.
        n_pictures: pictures that asked.
    """

    n_texts: int
    n_different: int
    n_pictures: int
    text_to_picture_at_1: float
    text_to_picture_at_10: float
    picture_to_text_at_1: float
    picture_to_text_at_10: float


def measure(
    texts: NDArray[np.float32],
    pictures: NDArray[np.float32],
    pairs: Pairs,
    *,
    asking: NDArray[np.bool_] | None = None,
) -> CrossModal:
    """Measure a space on pairs: all pictures are candidates of each text, all different texts of each picture.

    Args:
        texts: float32[n, d] of unit norm, the texts of the pairs in that space.
        pictures: float32[m, d] of unit norm, their pictures.
        asking: bool[n], texts that ask, and whose pictures ask; all of them when None.
    """
    _, firsts = np.unique(pairs.same, return_index=True)
    wanted, right = pairs.same[firsts], pairs.same[pairs.of]
    ask = np.ones(len(texts), np.bool_) if asking is None else asking
    shares = []
    for candidates, owners, queries, same in (
        (pictures, right, texts[ask], pairs.same[ask]),
        (texts[firsts], wanted, pictures[ask[pairs.of]], right[ask[pairs.of]]),
    ):
        found, _ = cpp_ext.scan(
            np.ascontiguousarray(candidates), np.ascontiguousarray(queries), max(_KS), metric="cosine"
        )
        is_right = (found >= 0) & (owners[found] == same[:, None])
        shares += [float(is_right[:, :k].any(axis=1).mean()) for k in _KS]
    return CrossModal(int(ask.sum()), len(np.unique(pairs.same[ask])), int(ask[pairs.of].sum()), *shares)


def unaligned(pairs: Pairs, *, asking: NDArray[np.bool_] | None = None) -> CrossModal:
    """Measure what the encoders know of each other without heads: their vectors, cut to the shorter length."""
    dim = min(pairs.texts.shape[1], pairs.pictures.shape[1])
    return measure(_unit(pairs.texts[:, :dim]), _unit(pairs.pictures[:, :dim]), pairs, asking=asking)


def learn_heads(pairs: Pairs, *, seed: int, progress: Progress) -> tuple[JointHeads, CrossModal]:
    """Learn heads on all pairs, after heads learned on four fifths of the texts were measured on the others.

    Raises:
        InvalidInput: there are too few texts with pictures.
        GateRefused: what was held out is found no better than without heads.
    """
    if len(pairs.texts) < FEWEST_TEXTS:
        raise InvalidInput(
            f"[joint] {len(pairs.texts):,} products have text and picture; expected {FEWEST_TEXTS} or more to learn from; build "
            "without --joint, or give a --joint-model"
        )
    is_held = np.zeros(len(pairs.texts), np.bool_)
    is_held[np.random.default_rng(seed).permutation(len(is_held))[: len(is_held) // _HELD_OUT]] = True
    learned, held = pairs.part(~is_held), pairs.part(is_held)
    progress.begin("joint: learn, four fifths", None)
    heads = fit_heads(learned, seed=seed, progress=lambda step, _: progress.advance(step))
    found, before = measure(heads.texts(held.texts), heads.pictures(held.pictures), held), unaligned(held)
    progress.say(
        f"joint: of held-out texts {found.text_to_picture_at_1:.1%} find a picture of theirs first, of pictures "
        f"{found.picture_to_text_at_1:.1%} their text; without heads {before.text_to_picture_at_1:.1%} and "
        f"{before.picture_to_text_at_1:.1%}"
    )
    if not (
        _low(found.text_to_picture_at_1, found.n_texts) > before.text_to_picture_at_1
        and _low(found.picture_to_text_at_1, found.n_pictures) > before.picture_to_text_at_1
    ):
        raise GateRefused(
            f"[joint] of {found.n_texts:,} held-out texts {found.text_to_picture_at_1:.3f} find a picture of theirs first and of "
            f"pictures {found.picture_to_text_at_1:.3f} their text, without heads {before.text_to_picture_at_1:.3f} and "
            f"{before.picture_to_text_at_1:.3f}; expected more, surely; build without --joint, or give a --joint-model"
        )
    progress.begin("joint: learn, all", None)
    return fit_heads(pairs, seed=seed, progress=lambda step, _: progress.advance(step)), found


def _low(share: float, n: int) -> float:
    """Return the lower bound of a share of n with 95 % confidence, after Wilson 1927."""
    spread = _Z95 * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n * n))
    return (share + _Z95**2 / (2 * n) - spread) / (1 + _Z95**2 / n)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.ascontiguousarray(rows / np.where(norms == 0, 1, norms), np.float32)
