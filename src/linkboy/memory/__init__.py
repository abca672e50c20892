"""Memory: what was freed, who holds the rest, and retry when it runs out."""

from linkboy.memory.holders import HolderReport, who_holds
from linkboy.memory.oom import RetryReport, is_out_of_memory, retry_on_oom
from linkboy.memory.release import MemoryReport, release_memory
from linkboy.memory.report import LiveMemoryReport, MemoryEnvironment, memory_environment, memory_report

__all__ = [
    "HolderReport",
    "LiveMemoryReport",
    "MemoryEnvironment",
    "MemoryReport",
    "RetryReport",
    "is_out_of_memory",
    "memory_environment",
    "memory_report",
    "release_memory",
    "retry_on_oom",
    "who_holds",
]
