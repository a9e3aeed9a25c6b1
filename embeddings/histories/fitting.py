"""The training loop: the same weights for the same examples, settings and seed, also after a kill.

Everything random of a step comes from (seed, epoch, step), so that a training goes on from any step as if nothing had been.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embeddings.histories.checkpoint import Progress, read_checkpoint, write_checkpoint
from embeddings.histories.examples import Examples, Question
from embeddings.histories.network import HistoryNetwork
from embeddings.settings import HistoryTrainingSettings
from matching.errors import InvalidInput

_log = logging.getLogger(__name__)
MAX_ASKED: Final = 2_000  # users who are asked about after each pass
_ASKED_AT_ONCE: Final = 256
_LEAST_GAIN: Final = 1e-4

# Called with the stage, steps done, steps in all and a remark.
Tell = Callable[[str, int, int, str], None]


def tell_nobody(stage: str, done: int, total: int, note: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Fitted:
    """What was learned.

    Attributes:
        network: with the best weights.
        n_epochs: passes that led to them.
        reached: ndcg@10 of the question after each pass; none where none was asked.
    """

    network: HistoryNetwork
    n_epochs: int
    reached: tuple[float, ...]


@dataclass
class Fit:
    """One training.

    Attributes:
        stage: what progress calls it.
        n_epochs: passes, at most where a question tells when to stop.
        run: digest of all that decides what is learned; the checkpoint belongs to it.
        checkpoint: file to go on from; None keeps nothing.
    """

    examples: Examples
    settings: HistoryTrainingSettings
    stage: str
    n_epochs: int
    question: Question | None = None
    tokens: NDArray[np.int64] | None = None
    run: str = ""
    checkpoint: Path | None = None
    tell: Tell = tell_nobody
    _best: Mapping[str, Tensor] = field(default_factory=dict)

    def result(self) -> Fitted:
        """Train until the end.

        Raises:
            InvalidInput: there is no such device.
        """
        settings = self.settings
        _prepare(settings)
        torch.manual_seed(settings.seed)
        network = HistoryNetwork(settings, self.examples.taken(), self.tokens)
        try:
            network.to(settings.device)
        except (RuntimeError, AssertionError) as error:
            raise InvalidInput(
                f"[train] device {settings.device!r} cannot be used: {error}; expected cpu, or cuda where torch has it"
            ) from error
        optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=0.0)
        progress = self._go_on(network, optimizer)
        while not progress.is_done:
            progress = self._pass(network, optimizer, progress)
        if self._best:
            network.load_state_dict(dict(self._best))
        network.eval()
        return Fitted(network, progress.best_epoch, progress.reached)

    def _pass(self, network: HistoryNetwork, optimizer: torch.optim.AdamW, progress: Progress) -> Progress:
        settings, epoch = self.settings, progress.epoch
        batches = self.examples.epoch(
            np.random.default_rng([settings.seed, epoch]),
            max_items=settings.max_items,
            batch_items=settings.batch_items,
        )
        network.train()
        costs: list[float] = []
        for step in range(progress.step, len(batches)):
            if step and step % settings.checkpoint_steps == 0 and step != progress.step:
                self._keep(network, optimizer, Progress(self.run, epoch, step, progress.reached, progress.best_epoch))
            rng = np.random.default_rng([settings.seed, epoch, step])
            torch.manual_seed(int(rng.integers(2**62)))
            batch = self.examples.batch(batches[step], rng, reach=settings.reach, new_only=settings.new_only)
            if not batch.weights.any():
                continue
            optimizer.zero_grad(set_to_none=True)
            loss = network.loss(batch, rng)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            costs.append(float(loss.detach()))
            if step % 10 == 0:
                done = epoch * len(batches) + step
                self.tell(self.stage, done, self.n_epochs * len(batches), f"loss {np.mean(costs[-50:]):.3f}")
        return self._asked(network, optimizer, progress, float(np.mean(costs)) if costs else 0.0)

    def _asked(
        self, network: HistoryNetwork, optimizer: torch.optim.AdamW, progress: Progress, cost: float
    ) -> Progress:
        """Ask after a pass whether it was the best, and whether it was the last."""
        n_done = progress.epoch + 1
        reached, best_epoch = progress.reached, n_done
        if self.question is not None:
            reached = (*reached, ndcg(network, self.examples, self.question))
            is_best = n_done == 1 or reached[-1] > reached[progress.best_epoch - 1] + _LEAST_GAIN
            best_epoch = n_done if is_best else progress.best_epoch
            if is_best:
                self._best = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
            _log.info("%s: pass %d, loss %.4f, ndcg@10 %.4f", self.stage, n_done, cost, reached[-1])
        is_done = n_done >= self.n_epochs or n_done - best_epoch >= self.settings.patience
        progress = Progress(self.run, n_done, 0, reached, best_epoch, is_done)
        self._keep(network, optimizer, progress)
        return progress

    def _keep(self, network: HistoryNetwork, optimizer: torch.optim.AdamW, progress: Progress) -> None:
        if self.checkpoint is None:
            return
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for at, held in optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{at}.{name}": tensor for name, tensor in held.items()}
        write_checkpoint(self.checkpoint, progress, tensors)

    def _go_on(self, network: HistoryNetwork, optimizer: torch.optim.AdamW) -> Progress:
        kept = None if self.checkpoint is None else read_checkpoint(self.checkpoint, self.run)
        if kept is None:
            return Progress(self.run)
        progress, tensors = kept
        network.load_state_dict(_below(tensors, "network."))
        self._best = _below(tensors, "best.")
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _below(tensors, "adam.").items():
            at, _, key = name.partition(".")
            state.setdefault(int(at), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        _log.info("%s: goes on from pass %d, step %d", self.stage, progress.epoch + 1, progress.step)
        return progress


def ndcg(network: HistoryNetwork, examples: Examples, question: Question, k: int = 10) -> float:
    """Ask a network: mean ndcg@k over users drawn from the question, all known items ranked."""
    picked = np.arange(len(question.histories))
    if len(picked) > MAX_ASKED:
        picked = np.sort(np.random.default_rng(0).choice(picked, MAX_ASKED, replace=False))
    place = np.full(int(question.train.n_items), -1, np.int64)
    place[examples.known] = np.arange(len(examples.known))
    gains: list[float] = []
    network.eval()
    for start in range(0, len(picked), _ASKED_AT_ONCE):
        some = picked[start : start + _ASKED_AT_ONCE]
        histories = [place[question.histories[at].items] for at in some]
        scores = score_histories(network, [history[history >= 0] for history in histories])
        for at, history, row in zip(some.tolist(), histories, scores, strict=True):
            if question.new_only:
                row[history[history >= 0]] = -np.inf
            gains.append(_gain(row, place[question.targets[at]], k))
    return float(np.mean(gains))


def score_histories(network: HistoryNetwork, histories: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Score all known items for histories of known items, empty ones allowed: float32[b, n]."""
    vectors = encode_histories(network, [history if len(history) else np.zeros(1, np.int64) for history in histories])
    with torch.inference_mode():
        every = network.items().cpu().numpy()
    scores: NDArray[np.float32] = vectors @ every.T
    return scores


def encode_histories(network: HistoryNetwork, histories: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Encode histories of known items, one or more each, by the network itself: float32[b, dim]."""
    newest = [history[-network.max_items :] for history in histories]
    lengths = np.array([len(history) for history in newest], np.int64)
    items = np.zeros((len(newest), int(lengths.max())), np.int64)
    for row, history in enumerate(newest):
        items[row, : len(history)] = history
    device = network.items.own.weight.device
    with torch.inference_mode():
        read = network.items(torch.from_numpy(items).to(device))
        vectors: NDArray[np.float32] = network(read, torch.from_numpy(lengths).to(device)).cpu().numpy()
    return vectors


def _gain(scores: NDArray[np.float32], targets: NDArray[np.int64], k: int) -> float:
    best = 1 / np.log2(1 + np.arange(1, min(k, len(targets)) + 1))
    known = targets[targets >= 0]
    ranks = 1 + (scores[None, :] > scores[known][:, None]).sum(axis=1)
    return float((1 / np.log2(1 + ranks[ranks <= k])).sum() / best.sum())


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _prepare(settings: HistoryTrainingSettings) -> None:
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(settings.device == "cpu")
