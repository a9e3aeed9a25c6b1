"""Encoders for tests: the real models where they can be had, and tiny ones with random weights for the library's kind."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def picture(seed: int = 0, size: tuple[int, int] = (64, 48), form: str = "PNG") -> bytes:
    """Draw a picture file with coarse random blocks."""
    from PIL import Image

    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    drawn = Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)
    return saved(drawn, form)


def saved(drawn: object, form: str, **options: object) -> bytes:
    """Return the file that Pillow writes for a picture."""
    stream = io.BytesIO()
    drawn.save(stream, form, **options)  # type: ignore[attr-defined]
    return stream.getvalue()


def save_tiny_text_model(folder: Path, *, seed: int = 0) -> Path:
    """Save a two-layer BERT with mean pooling as sentence-transformers does."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    (folder / "vocab.txt").write_text("\n".join(pieces))
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    bert = BertModel(BertConfig(vocab_size=len(pieces), max_position_embeddings=64, **sizes))
    bert.save_pretrained(folder / "bert")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    model = SentenceTransformer(modules=[modules.Transformer(str(folder / "bert")), modules.Pooling(32)], device="cpu")
    model.save(str(folder / "model"))
    return folder / "model"


def save_tiny_clip(folder: Path) -> Path:
    """Save a CLIP of two small towers and a 16-dimensional space as transformers does."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizerFast

    folder.mkdir(parents=True)
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: at for at, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizerFast(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    end = len(words) - 1
    text = {**sizes, "vocab_size": len(words), "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    torch.manual_seed(1)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder / "model")
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder / "model")
    return folder / "model"


def random_features(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return n unit rows like pooled features: positive, with a common direction and a few strong axes."""
    rows = np.abs(
        rng.normal(size=(n, 40)) @ rng.normal(size=(40, 1280)) * 0.3 + 1.0 + rng.normal(size=(n, 1280)) * 0.05
    )
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
