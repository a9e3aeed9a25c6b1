"""What changes while an index version serves: writes, the log that keeps them, and the index that takes them in."""

from matching.live.live_index import LiveIndex, LiveVersion, check_reach, kept_vectors
from matching.live.recovery import salvage
from matching.live.segment import Record
from matching.live.write import Change, Delete, Upsert, Write, pack_write, unpack_write
from matching.live.write_log import Appended, WriteLog

__all__ = [
    "Appended",
    "Change",
    "Delete",
    "LiveIndex",
    "LiveVersion",
    "Record",
    "Upsert",
    "Write",
    "WriteLog",
    "check_reach",
    "kept_vectors",
    "pack_write",
    "salvage",
    "unpack_write",
]
