from embeddings.embedding_cache import EmbeddingCache
from embeddings.encoder import Content, Encoder
from embeddings.fused_encoder import FusedEncoder
from embeddings.image_encoder import ImageEncoder
from embeddings.joint_encoder import JointEncoder
from embeddings.load_encoder import load_encoder
from embeddings.pictures import PictureLimits
from embeddings.pipeline import Embedded, Failure, embed
from embeddings.sentence_transformer_encoder import SentenceTransformerEncoder
from embeddings.text_encoder import TextEncoder

__all__ = [
    "Content",
    "Embedded",
    "EmbeddingCache",
    "Encoder",
    "Failure",
    "FusedEncoder",
    "ImageEncoder",
    "JointEncoder",
    "PictureLimits",
    "SentenceTransformerEncoder",
    "TextEncoder",
    "embed",
    "load_encoder",
]
