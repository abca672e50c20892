"""Memory: what was freed, who holds the rest, and retry when it runs out."""

from linkboy._oom import is_out_of_memory
from linkboy.memory.holders import HolderReport, who_holds
from linkboy.memory.leak import LeakDetector, LeakReport
from linkboy.memory.oom import RetryReport, retry_on_oom
from linkboy.memory.release import MemoryReport, release_memory
from linkboy.memory.report import LiveMemoryReport, MemoryEnvironment, memory_environment, memory_report
from linkboy.memory.timeline import MemoryTimeline, track_memory

__all__ = [
    "HolderReport",
    "LeakDetector",
    "LeakReport",
    "LiveMemoryReport",
    "MemoryEnvironment",
    "MemoryReport",
    "MemoryTimeline",
    "RetryReport",
    "is_out_of_memory",
    "memory_environment",
    "memory_report",
    "release_memory",
    "retry_on_oom",
    "track_memory",
    "who_holds",
]
