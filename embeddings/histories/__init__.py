"""Encoders of histories: what someone did into a vector whose neighbours among the items are what they may do next."""

from embeddings.histories.encoder import OnnxHistoryEncoder, load_history_encoder

__all__ = ["OnnxHistoryEncoder", "load_history_encoder"]
