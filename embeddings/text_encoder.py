"""Texts: a dense vector for what they mean, a sparse one for what they say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from embeddings.bm25 import Bm25
from embeddings.encoder import Content, Decoded, Modality, all_decoded, check_between, digest_of
from embeddings.model_file import MINILM, check_weights, ensure_model
from embeddings.ngrams import Ngrams
from embeddings.onnx_model import OnnxModel
from embeddings.sparse_text import SparseKind, SparseText
from matching.datapoint import SparseRows
from matching.encoder_spec import EncoderSpec
from matching.errors import InvalidContent, InvalidInput, MissingExtra

if TYPE_CHECKING:
    from tokenizers import Tokenizer

KIND = "minilm"
_DIM = 384
_MAX_TOKENS = 256  # what the model was trained for
_MODEL_TOKENS = 512
_TOKENS_A_RUN = 1024  # a run's activations stay in the cache
_TEXTS_A_SORT = 1024
_SPARSE: dict[SparseKind, type[Ngrams] | type[Bm25]] = {"ngrams": Ngrams, "bm25": Bm25}
_CHARS_A_TOKEN = 32  # of a longer text the rest is not even tokenised


class TextEncoder:
    """all-MiniLM-L6-v2 through ONNX Runtime, and a sparse side: n-grams or BM25 by a catalogue's counts.

    The joined score of a text query is `alpha * cos(dense) + (1 - alpha) * sparse`. `encode` gives the dense side and needs no
    fitting; `sparse` and `sparse_documents` need `fit`. Texts beyond `max_tokens` word pieces are cut. Thread-compatible.

    Args:
        model_dir: where exported models lie, `DEFAULT_MODEL_DIR` when None.
        n_threads: threads of one run.
        max_tokens: 3 to 512 word pieces, the two marks of begin and end included.
        alpha: share of the dense side, 0 to 1; None takes what suits the sparse one.
        sparse: the sparse side by its kind, or one that was fitted.

    Raises:
        InvalidInput: a number out of its range.
        MissingExtra: onnxruntime or tokenizers is missing, or the model must be exported and torch is missing.
        CorruptArtifact: a model file is not the one that was exported.
    """

    def __init__(
        self,
        *,
        model_dir: Path | None = None,
        n_threads: int = 1,
        max_tokens: int = _MAX_TOKENS,
        alpha: float | None = None,
        sparse: SparseKind | SparseText = "ngrams",
        _shared: tuple[OnnxModel, Tokenizer] | None = None,
    ) -> None:
        check_between("max_tokens", max_tokens, 3, _MODEL_TOKENS)
        check_between("n_threads", n_threads, 1, 1024)
        self._sparse: SparseText = _SPARSE[sparse]() if isinstance(sparse, str) else sparse
        self._alpha = self._sparse.alpha if alpha is None else float(alpha)
        check_between("alpha", self._alpha, 0.0, 1.0)
        self._max_tokens = max_tokens
        self._model, self._tokenizer = _shared or _load(model_dir, n_threads, max_tokens)
        dense = {"weights": MINILM.weights_sha256, "tokenizer": MINILM.tokenizer_sha256, "max_tokens": max_tokens}
        self._vector_id = digest_of(KIND, {**dense, "pooling": "mean", "norm": "l2", "recipe": 1})
        self._space_id = self._vector_id
        if self._sparse.is_fitted:
            counts, arrays = self._sparse.counted()
            self._space_id = digest_of(
                KIND, {"dense": self._vector_id, "sparse": self._sparse.recipe(), **counts}, arrays
            )

    @classmethod
    def from_spec(cls, spec: EncoderSpec, *, model_dir: Path | None = None, n_threads: int = 1) -> TextEncoder:
        """Make the encoder that a spec describes.

        Raises:
            SpaceMismatch: the spec was made with other weights.
            InvalidInput: its parameters are not those of this encoder.
        """
        check_weights(MINILM, spec.params.get("weights_sha256"))
        try:
            recipe = cast("dict[str, object]", spec.params["sparse"])
            max_tokens, alpha = cast(int, spec.params["max_tokens"]), cast(float, spec.params["alpha"])
            kind = cast(SparseKind, recipe.get("kind", "ngrams"))
            sparse = _SPARSE.get(kind, Ngrams).from_counts(recipe, spec.params, spec.arrays)
        except KeyError as error:
            raise InvalidInput(f"[load encoder] the spec of {KIND!r} lacks {error}; build the index again") from error
        return cls(model_dir=model_dir, n_threads=n_threads, max_tokens=max_tokens, alpha=alpha, sparse=sparse)

    @property
    def modality(self) -> Modality:
        return "text"

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset({"text"})

    @property
    def dim(self) -> int:
        return _DIM

    @property
    def best_of(self) -> int:
        return 1

    @property
    def alpha(self) -> float:
        """Share of the dense side in a joined score."""
        return self._alpha

    @property
    def is_fitted(self) -> bool:
        """Whether the sparse side has seen a catalogue."""
        return self._sparse.is_fitted

    @property
    def space_id(self) -> str:
        return self._space_id

    @property
    def vector_id(self) -> str:
        return self._vector_id  # fitting changes the sparse side alone

    def encode(self, contents: Sequence[Content]) -> NDArray[np.float32]:
        return self.encode_decoded(all_decoded(self.decode(contents)))

    def decode(self, contents: Sequence[Content]) -> list[Decoded | InvalidContent]:
        return [checked_text(content) for content in contents]

    def encode_decoded(self, decoded: Sequence[Decoded]) -> NDArray[np.float32]:
        texts = cast(Sequence[str], decoded)
        vectors = np.empty((len(texts), _DIM), np.float32)
        for begin in range(0, len(texts), _TEXTS_A_SORT):
            self._encode_some(texts[begin : begin + _TEXTS_A_SORT], vectors[begin : begin + _TEXTS_A_SORT])
        return vectors

    def fit(self, texts: Iterable[str]) -> TextEncoder:
        """Count a catalogue's texts, once over them, and return the encoder with that sparse side.

        Memory grows with the words of BM25, not with the texts. The dense side stays as it is, and shares its memory.

        Raises:
            InvalidInput: there is no text.
        """
        return TextEncoder(
            max_tokens=self._max_tokens,
            alpha=self._alpha,
            sparse=self._sparse.fit(texts),
            _shared=(self._model, self._tokenizer),
        )

    def sparse(self, texts: Sequence[str]) -> SparseRows:
        """Return the sparse rows of asking texts, dimensions ascending; a text without a letter or digit has an empty row.

        Raises:
            InvalidInput: the encoder was not fitted.
        """
        return self._fitted().queries(texts)

    def sparse_documents(self, texts: Sequence[str]) -> SparseRows:
        """Return those of indexed texts; their inner product with an asking row is the sparse score.

        Raises:
            InvalidInput: the encoder was not fitted.
        """
        return self._fitted().documents(texts)

    def _fitted(self) -> SparseText:
        if not self._sparse.is_fitted:
            raise InvalidInput(
                "[sparse] the text encoder has seen no catalogue; expected a fitted one; call fit(texts) first"
            )
        return self._sparse

    def spec(self) -> EncoderSpec:
        counts, arrays = self._sparse.counted()
        return EncoderSpec(
            KIND,
            {
                "model": MINILM.name,
                "weights_sha256": MINILM.weights_sha256,
                "max_tokens": self._max_tokens,
                "alpha": self._alpha,
                "sparse": self._sparse.recipe(),
                **counts,
            },
            arrays,
        )

    def close(self) -> None:
        """Do nothing: what the encoder holds goes with it."""

    def _encode_some(self, texts: Sequence[str], out: NDArray[np.float32]) -> None:
        # One call a text: the tokenizer's own batches would take every core of the machine.
        ids = [self._tokenizer.encode(text[: self._max_tokens * _CHARS_A_TOKEN]).ids for text in texts]
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        begin = 0
        while begin < len(order):
            end = begin + 1
            while end < len(order) and len(ids[order[end]]) * (end + 1 - begin) <= _TOKENS_A_RUN:
                end += 1
            rows = order[begin:end]
            out[rows] = self._run([ids[row] for row in rows])
            begin = end

    def _run(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        tokens = np.zeros((len(ids), len(ids[-1])), np.int64)
        mask = np.zeros_like(tokens)
        for row, own in enumerate(ids):
            tokens[row, : len(own)] = own
            mask[row, : len(own)] = 1
        return self._model.run({"input_ids": tokens, "attention_mask": mask})


def checked_text(content: Content) -> str | InvalidContent:
    """Return a content's text, or the error that says why it has none."""
    if content.text is None:
        return InvalidContent("it has no text; expected one; leave it out")
    if not content.text.strip():
        return InvalidContent(f"its text {content.text[:20]!r} is blank; expected a word; leave it out")
    try:
        content.text.encode("utf-8")
    except UnicodeEncodeError as error:
        return InvalidContent(
            f"its text is not valid Unicode at character {error.start}; expected UTF-8; repair the text"
        )
    return content.text


def _load(model_dir: Path | None, n_threads: int, max_tokens: int) -> tuple[OnnxModel, Tokenizer]:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra(
            "[text encoder] tokenizers is not installed; expected it wherever texts are encoded; run: pip install "
            "'likewise[encode]'"
        ) from error
    files = ensure_model(MINILM, model_dir)
    tokenizer = Tokenizer.from_file(str(files.tokenizer))
    tokenizer.no_padding()  # the file asks for 128 tokens, padded
    tokenizer.enable_truncation(max_tokens)
    return OnnxModel(files.onnx, n_threads=n_threads), tokenizer
