"""What changes while an index version serves: writes, the log that keeps them, and the index that takes them in."""

from matching.live.live_index import LiveIndex, LiveVersion, check_reach, kept_vectors
from matching.live.log import Appended, Log, Reach, Record
from matching.live.repair import Repair, plan_repair, repair
from matching.live.retention import covered_sequence, kept_versions, truncate_log
from matching.live.write import Change, Delete, Types, Upsert, Write, pack_write, unpack_write
from matching.live.write_log import WriteLog

__all__ = [
    "Appended",
    "Change",
    "Delete",
    "LiveIndex",
    "LiveVersion",
    "Log",
    "Reach",
    "Record",
    "Repair",
    "Types",
    "Upsert",
    "Write",
    "WriteLog",
    "check_reach",
    "covered_sequence",
    "kept_vectors",
    "kept_versions",
    "pack_write",
    "plan_repair",
    "repair",
    "truncate_log",
    "unpack_write",
]
