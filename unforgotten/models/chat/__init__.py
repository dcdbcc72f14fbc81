"""Conversations become token ids, in one place for training and generation, so that both render the same."""

from unforgotten.models.chat.chat import Chat
from unforgotten.models.chat.encoded import Encoded
from unforgotten.models.chat.rows import Counts, digest_ids, encode_rows

__all__ = ["Chat", "Counts", "Encoded", "digest_ids", "encode_rows"]
