"""The text encoder against torch, its sparse side, its model files and what it imports."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embeddings import Content, TextEncoder, load_encoder
from embeddings.model_file import MINILM, ensure_model
from matching.encoder_spec import EncoderSpec
from matching.errors import CorruptArtifact, InvalidInput, MissingExtra, SpaceMismatch

pytest.importorskip("onnxruntime")
pytest.importorskip("torch", reason="the models are exported with torch")

TEXTS = [
    "Sony Turntable - PSLX350H",
    "Bose Acoustimass 5 Series III Speaker System - AM53BK",
    "noah's ark activity center (jewel case ages 3-8)",
    "naïve café, 日本語 and émigré",
    "word " * 400,
    "x",
]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder()


@pytest.fixture
def model_copy(tmp_path: Path) -> Path:
    """A model folder of this test's own, to damage."""
    files = ensure_model(MINILM)
    shutil.copytree(files.onnx.parent, tmp_path / files.onnx.parent.name)
    return tmp_path


def only(directory: Path) -> Path:
    (folder,) = directory.iterdir()
    return folder


def test_vectors_are_those_of_sentence_transformers(encoder: TextEncoder) -> None:
    from sentence_transformers import SentenceTransformer

    from embeddings.model_file import packaged

    reference = SentenceTransformer(str(packaged(MINILM) / "model"), device="cpu")
    expected = reference.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    cosines = (encoder.encode([Content(text) for text in TEXTS]) * expected).sum(axis=1)
    assert cosines.min() > 0.99999


def test_text_beyond_the_limit_is_cut() -> None:
    short = TextEncoder(max_tokens=8)
    one, two = short.encode([Content("a b c d e f g h i j"), Content("a b c d e f something else")])
    np.testing.assert_allclose(one, two, atol=1e-6)


def test_megabytes_of_text_cost_no_more_than_the_limit(encoder: TextEncoder) -> None:
    long, longer = encoder.encode([Content("word " * 2_000), Content("word " * 2_000_000)])
    np.testing.assert_allclose(long, longer, atol=1e-6)


def test_sparse_rows_are_unit_and_find_the_model_number(encoder: TextEncoder) -> None:
    fitted = encoder.fit(["Sony turntable PSLX350H", "Sony turntable PSLX450H", "Sony speaker", "Bose speaker"])
    rows = fitted.sparse(["the Sony PS-LX350H", "", "Sony turntable PSLX350H", "Sony turntable PSLX450H"])
    assert len(rows) == 4
    assert rows.offsets[1] == rows.offsets[2]
    dense = np.zeros((4, 1 << 18), np.float32)
    for at in range(4):
        span = slice(rows.offsets[at], rows.offsets[at + 1])
        dense[at, rows.dimensions[span]] = rows.values[span]
    np.testing.assert_allclose(np.linalg.norm(dense[[0, 2, 3]], axis=1), 1.0, rtol=1e-6)
    assert dense[0] @ dense[2] > 1.2 * (dense[0] @ dense[3])


def test_rare_ngrams_weigh_more(encoder: TextEncoder) -> None:
    fitted = encoder.fit(["sony"] * 50 + ["bose"])
    row = fitted.sparse(["sony bose"])
    common = set(fitted.sparse(["sony"]).dimensions.tolist())
    weights = dict(zip(row.dimensions.tolist(), row.values.tolist(), strict=True))
    assert max(weights[d] for d in common) < min(weight for d, weight in weights.items() if d not in common)


def test_fitting_reads_a_stream_and_leaves_the_dense_side_alone(encoder: TextEncoder) -> None:
    fitted = encoder.fit(f"item {n}" for n in range(3000))
    assert fitted.spec().params["n_documents"] == 3000
    assert fitted.is_fitted
    assert not encoder.is_fitted
    assert fitted.space_id != encoder.space_id
    assert fitted.encode([Content("a")]).tobytes() == encoder.encode([Content("a")]).tobytes()
    assert encoder.fit(["a b", "item"]).space_id != fitted.space_id


def test_what_is_not_fitted_or_has_nothing_to_fit_says_so(encoder: TextEncoder) -> None:
    with pytest.raises(InvalidInput, match=r"\[sparse\] .*call fit\(texts\) first"):
        encoder.sparse(["a"])
    with pytest.raises(InvalidInput, match="there is no text to count"):
        encoder.fit([])


@pytest.mark.parametrize(("name", "value"), [("alpha", 1.5), ("max_tokens", 2), ("max_tokens", 513), ("n_threads", 0)])
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidInput, match=rf"{name} is {value}; expected"):
        TextEncoder(**{name: value})  # type: ignore[arg-type]


def test_alpha_belongs_to_the_score_and_max_tokens_to_the_space(encoder: TextEncoder) -> None:
    assert TextEncoder(alpha=0.9).space_id == encoder.space_id
    assert TextEncoder(max_tokens=128).space_id != encoder.space_id


def test_a_spec_of_other_weights_is_refused(encoder: TextEncoder) -> None:
    spec = encoder.spec()
    other = EncoderSpec(spec.kind, {**spec.params, "weights_sha256": "0" * 64})
    with pytest.raises(SpaceMismatch, match=r"weights 000000000000, and here it has 53aa51172d14"):
        load_encoder(other)


def test_a_spec_of_another_sparse_recipe_or_shape_is_refused(encoder: TextEncoder) -> None:
    spec = encoder.fit(["a b c"]).spec()
    with pytest.raises(InvalidInput, match="sparse side was made as"):
        load_encoder(EncoderSpec(spec.kind, {**spec.params, "sparse": {"recipe": 0}}, spec.arrays))
    with pytest.raises(InvalidInput, match=r"document_frequency has shape \(5,\)"):
        load_encoder(EncoderSpec(spec.kind, spec.params, {"document_frequency": np.zeros(5, np.int32)}))
    lacking = {name: value for name, value in spec.params.items() if name != "alpha"}
    with pytest.raises(InvalidInput, match="lacks 'alpha'"):
        load_encoder(EncoderSpec(spec.kind, lacking, spec.arrays))


def test_a_kind_that_is_not_known_names_those_that_are() -> None:
    with pytest.raises(
        InvalidInput, match=r"no encoder of kind 'audio'; expected one of minilm, efficientnet-lite0, fused"
    ):
        load_encoder(EncoderSpec("audio", {}))


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_one_flipped_byte_in_a_model_file_is_refused(model_copy: Path, name: str) -> None:
    file = only(model_copy) / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptArtifact, match=rf"{name} has SHA-256 [0-9a-f]{{12}}; expected"):
        TextEncoder(model_dir=model_copy)


def test_another_model_in_the_folder_is_refused(model_copy: Path) -> None:
    record = only(model_copy) / "model.json"
    changed = json.loads(record.read_text())
    record.write_text(json.dumps({**changed, "weights_sha256": "1" * 64}))
    with pytest.raises(CorruptArtifact, match="it records weights 1111"):
        TextEncoder(model_dir=model_copy)
    record.write_text("{")
    with pytest.raises(CorruptArtifact, match="cannot be read as an exported model"):
        TextEncoder(model_dir=model_copy)


def test_a_folder_without_its_model_needs_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else found(name, *a))
    with pytest.raises(MissingExtra, match=r"torch, not installed here.*pip install 'likewise\[encode,models\]'"):
        TextEncoder(model_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_whole_or_absent_and_near_torch(tmp_path: Path) -> None:
    from embeddings.model_file import EFFICIENTNET_LITE0

    files = ensure_model(EFFICIENTNET_LITE0, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [files.onnx.parent.name]
    assert json.loads((files.onnx.parent / "model.json").read_text())["cosine_to_torch"] >= 0.999


def test_an_export_that_strays_from_torch_is_refused(tmp_path: Path) -> None:
    import torch

    from embeddings.export import _compare, write_onnx

    class Doubled(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values * torch.tensor([[1.0, 2.0]])

    class Straight(torch.nn.Module):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            return values * 1.0

    target = tmp_path / "doubled.onnx"
    write_onnx(Doubled().eval(), (torch.ones(1, 2),), target, inputs=["values"], dynamic_shapes=None)
    probe: dict[str, np.ndarray] = {"values": np.ones((1, 2), np.float32)}
    with pytest.raises(SystemExit, match=r"strays from torch: cosine 0\.94"):
        _compare(Straight().eval(), target, [probe])
    _compare(Doubled().eval(), target, [probe])


def test_serving_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\n"
        "from embeddings import Content, FusedEncoder, ImageEncoder, TextEncoder, load_encoder\n"
        "light = set(sys.modules)\n"
        "fused = FusedEncoder(TextEncoder().fit(['a']), ImageEncoder(n_workers=1))\n"
        "again = load_encoder(fused.spec())\n"
        "again.encode([Content('hello')]); again.text.sparse(['hello'])\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)), sorted({'onnxruntime', 'tokenizers'} & light))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert run.stdout.strip() == "[] []"
    assert run.stderr == ""


def test_the_joined_score_finds_the_same_product_at_another_shop(encoder: TextEncoder, data_dir: Path) -> None:
    import pyarrow.parquet as pq

    folder = data_dir / "text_catalog" / "product_matching"
    titles = {
        row["id"]: row["title"]
        for row in pq.read_table(folder / "products.parquet").to_pylist()
        if row["side"] == "buy"
    }
    buy, pool = list(titles), list(titles.values())
    all_titles = {row["id"]: row["title"] for row in pq.read_table(folder / "products.parquet").to_pylist()}
    pairs = pq.read_table(folder / "matches.parquet").to_pylist()[::4]
    fitted = encoder.fit(pool)
    asked = [all_titles[pair["left_id"]] for pair in pairs]
    truth = np.array([buy.index(pair["right_id"]) for pair in pairs])
    answers, queries = fitted.sparse(pool), fitted.sparse(asked)
    owner = np.repeat(np.arange(len(pool)), np.diff(answers.offsets))
    sparse = np.zeros((len(asked), len(pool)))
    for at in range(len(asked)):
        weights = np.zeros(1 << 18)
        span = slice(queries.offsets[at], queries.offsets[at + 1])
        weights[queries.dimensions[span]] = queries.values[span]
        np.add.at(sparse[at], owner, weights[answers.dimensions] * answers.values)
    dense = fitted.encode([Content(text) for text in asked]) @ fitted.encode([Content(text) for text in pool]).T
    joined = fitted.alpha * dense + (1 - fitted.alpha) * sparse

    def hit(scores: np.ndarray, k: int) -> float:
        own = scores[np.arange(len(truth)), truth][:, None]
        return float(((scores > own).sum(axis=1) < k).mean())

    assert hit(joined, 1) > 0.87
    assert hit(joined, 10) > 0.985
    assert hit(joined, 1) > hit(dense, 1) + 0.1
