"""What changes while an index version serves: the write log."""

from matching.live.recovery import salvage
from matching.live.segment import Record
from matching.live.write_log import Appended, WriteLog

__all__ = ["Appended", "Record", "WriteLog", "salvage"]
