"""Two linear maps into one space where a text lies beside the pictures that show what it says, and how they are learned.

Source: van den Oord et al. 2018 (InfoNCE); Radford et al. 2021 (symmetric, with a learned temperature); Zhai et al. 2022 (begin
from what the text encoder knows). Here the encoders stay as they are, so that learning takes seconds of one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from matching.errors import InvalidInput

Matrix = NDArray[np.float32]
_EPOCHS: Final = 20
_MOST_STEPS: Final = 2_000
_BATCH: Final = 512
_RATE: Final = 1e-3
_DROPOUT: Final = 0.2
_RIDGE: Final = 10.0
_EVEN: Final = 0.5  # of a text that n pictures share, each is drawn by n ** -_EVEN: classes do not drown what is rare
_SCALE: Final = 1 / 0.07
_GREATEST_SCALE: Final = 100.0
_ROWS_A_PASS: Final = 8192


@dataclass(frozen=True, slots=True)
class JointHeads:
    """A linear map for texts and one for pictures; both end in unit vectors of one space. Immutable.

    Attributes:
        text_mean: float32[t], taken from vectors of texts first.
        text: float32[t, d].
        image_mean: float32[p].
        image: float32[p, d].
    """

    text_mean: Matrix
    text: Matrix
    image_mean: Matrix
    image: Matrix

    def __post_init__(self) -> None:
        held = [array.shape for array in (self.text_mean, self.text, self.image_mean, self.image)]
        (t, d), (p, _) = (array.shape if array.ndim == 2 else (0, 0) for array in (self.text, self.image))
        if held != [(t,), (t, d), (p,), (p, d)] or not d:
            raise InvalidInput(f"[joint heads] arrays have shapes {held}; expected (t,), (t, d), (p,) and (p, d)")

    @property
    def dim(self) -> int:
        """Numbers of a vector of the joint space."""
        return int(self.text.shape[1])

    def texts(self, vectors: Matrix) -> Matrix:
        """Return float32[n, d] of unit norm for vectors of texts, float32[n, t]."""
        return _mapped(vectors, self.text_mean, self.text)

    def pictures(self, vectors: Matrix) -> Matrix:
        """Return float32[n, d] of unit norm for vectors of pictures, float32[n, p]."""
        return _mapped(vectors, self.image_mean, self.image)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pictures and the texts that go with them.

    Attributes:
        texts: float32[n, t], the vector of each text.
        same: int64[n], equal for texts that are equal: none of their pictures is wrong for another.
        pictures: float32[m, p]; may be memory-mapped.
        of: int64[m], the text of each picture.
    """

    texts: Matrix
    same: NDArray[np.int64]
    pictures: Matrix
    of: NDArray[np.int64]

    def part(self, is_in: NDArray[np.bool_]) -> Pairs:
        """Return the pairs of some of the texts, bool[n]."""
        place = np.cumsum(is_in) - 1
        chosen = np.flatnonzero(is_in[self.of])
        return Pairs(self.texts[is_in], self.same[is_in], self.pictures[chosen], place[self.of[chosen]])


def fit_heads(pairs: Pairs, *, seed: int, progress: Callable[[int, int], None] | None = None) -> JointHeads:
    """Learn heads by symmetric InfoNCE with a learned temperature; the same pairs and seed give the same heads.

    The text head begins as it is and the picture head as the ridge regression of texts from their pictures. A picture counts as
    wrong for a text only where it does not belong to an equal one.

    Args:
        pairs: two texts that differ, at least.
        seed: of batches and dropout.
        progress: is told steps done and of how many.

    Raises:
        InvalidInput: there are fewer than two different texts with pictures.
    """
    if len(np.unique(pairs.same[pairs.of])) < 2:
        raise InvalidInput(
            f"[joint heads] {len(pairs.of)} pictures have fewer than two different texts; expected more; leave the space out"
        )
    rng = np.random.default_rng(seed)
    text_mean, image_mean = pairs.texts[pairs.of].mean(axis=0), pairs.pictures.mean(axis=0)
    texts, pictures = _unit(pairs.texts - text_mean), np.asarray(pairs.pictures - image_mean, np.float32)
    held = {"text": np.eye(texts.shape[1], dtype=np.float32), "image": _regressed(pictures, texts[pairs.of])}
    held["scale"] = np.array(np.log(_SCALE), np.float32)
    batch = min(_BATCH, len(pairs.of))
    n_steps = min(_EPOCHS * -(-len(pairs.of) // batch), _MOST_STEPS)
    optimizer = _Adam(held)
    counts = np.bincount(pairs.same[pairs.of])[pairs.same[pairs.of]]
    chances = counts**-_EVEN / np.sum(counts**-_EVEN)
    for step in range(n_steps):
        drawn = rng.choice(len(pairs.of), batch, replace=False, p=chances)
        of = pairs.of[drawn]
        left, right = _dropped(texts[of], rng), _dropped(pictures[drawn], rng)
        _, slopes = info_nce(held, left, right, pairs.same[of])
        optimizer.step(slopes, _RATE * _share(step, n_steps))
        held["scale"] = np.minimum(held["scale"], np.float32(np.log(_GREATEST_SCALE)))
        if progress is not None:
            progress(step + 1, n_steps)
    return JointHeads(text_mean, held["text"], image_mean, held["image"])


def info_nce(
    heads: dict[str, Matrix], texts: Matrix, pictures: Matrix, same: NDArray[np.int64]
) -> tuple[float, dict[str, Matrix]]:
    """Return the mean loss of pairs, text i with picture i, and its slope by each array of the heads.

    Args:
        heads: `text` float32[t, d], `image` float32[p, d] and `scale`, the log of what cosines are multiplied by.
        texts: float32[b, t].
        pictures: float32[b, p].
        same: int64[b], equal for equal texts, which are no wrong answers for one another.
    """
    raw_left, raw_right = texts @ heads["text"], pictures @ heads["image"]
    left_norm, right_norm = (np.linalg.norm(raw, axis=1, keepdims=True) + 1e-12 for raw in (raw_left, raw_right))
    left, right = raw_left / left_norm, raw_right / right_norm
    scale = np.exp(heads["scale"])
    scores = scale * (left @ right.T)
    is_no_answer = same[:, None] == same[None]
    np.fill_diagonal(is_no_answer, False)
    kept = np.where(is_no_answer, -np.inf, scores)
    loss, by_score = 0.0, np.zeros_like(scores)
    for axis in (0, 1):
        shifted = kept - kept.max(axis=axis, keepdims=True)
        odds = np.exp(shifted)
        total = odds.sum(axis=axis, keepdims=True)
        loss += float(np.mean(np.log(total).ravel() - np.diag(shifted))) / 2
        by_score += odds / total
    by_score[np.diag_indices(len(scores))] -= 2
    by_score /= 2 * len(scores)
    by_left, by_right = scale * (by_score @ right), scale * (by_score.T @ left)
    return loss, {
        "text": texts.T @ _through_norm(by_left, left, left_norm),
        "image": pictures.T @ _through_norm(by_right, right, right_norm),
        "scale": np.asarray(np.sum(by_score * scores), np.float32),
    }


class _Adam:
    """Kingma & Ba 2015, algorithm 1; moves the arrays of a dictionary in place of themselves."""

    def __init__(self, held: dict[str, Matrix]) -> None:
        self._held = held
        self._mean = {name: np.zeros_like(array) for name, array in held.items()}
        self._square = {name: np.zeros_like(array) for name, array in held.items()}
        self._n = 0

    def step(self, slopes: dict[str, Matrix], rate: float) -> None:
        self._n += 1
        for name, slope in slopes.items():
            self._mean[name] += np.float32(0.1) * (slope - self._mean[name])
            self._square[name] += np.float32(0.001) * (slope * slope - self._square[name])
            mean = self._mean[name] / np.float32(1 - 0.9**self._n)
            square = self._square[name] / np.float32(1 - 0.999**self._n)
            self._held[name] = self._held[name] - np.float32(rate) * mean / (np.sqrt(square) + np.float32(1e-8))


def _share(step: int, n_steps: int) -> float:
    """Return the share of the rate at a step: it rises for a tenth of them and falls as a cosine does."""
    rising = max(n_steps // 10, 1)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + float(np.cos(np.pi * (step - rising) / max(n_steps - rising, 1))))


def _regressed(pictures: Matrix, texts: Matrix) -> Matrix:
    """Return the ridge regression of texts from pictures, scaled to make rows of about unit norm."""
    square = np.zeros((pictures.shape[1],) * 2)
    product = np.zeros((pictures.shape[1], texts.shape[1]))
    for at in range(0, len(pictures), _ROWS_A_PASS):
        part = pictures[at : at + _ROWS_A_PASS].astype(np.float64)
        square += part.T @ part
        product += part.T @ texts[at : at + _ROWS_A_PASS]
    square[np.diag_indices(len(square))] += _RIDGE
    found = np.linalg.solve(square, product)
    norm = float(np.linalg.norm(pictures[:_ROWS_A_PASS] @ found, axis=1).mean())
    return np.asarray(found / (norm or 1.0), np.float32)


def _through_norm(slope: Matrix, unit: Matrix, norm: Matrix) -> Matrix:
    return np.asarray((slope - np.sum(slope * unit, axis=1, keepdims=True) * unit) / norm, np.float32)


def _dropped(rows: Matrix, rng: np.random.Generator) -> Matrix:
    kept = rng.random(rows.shape, np.float32) >= _DROPOUT
    return np.asarray(rows * kept / np.float32(1 - _DROPOUT), np.float32)


def _mapped(vectors: Matrix, mean: Matrix, head: Matrix) -> Matrix:
    out = np.empty((len(vectors), head.shape[1]), np.float32)
    for at in range(0, len(vectors), _ROWS_A_PASS):
        centred = np.asarray(vectors[at : at + _ROWS_A_PASS] - mean, np.float32)
        out[at : at + _ROWS_A_PASS] = _unit(centred @ head)
    return out


def _unit(rows: Matrix) -> Matrix:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    is_nothing = norms == 0
    unit = np.asarray(rows / np.where(is_nothing, 1, norms), np.float32)
    unit[is_nothing[:, 0], 0] = 1.0  # a vector of a cosine space has unit norm
    return unit
