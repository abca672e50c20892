"""Memory: what was freed, who holds the rest, and retry when it runs out."""

from linkboy.memory.oom import RetryReport, is_out_of_memory, retry_on_oom
from linkboy.memory.release import MemoryReport, release_memory

__all__ = ["MemoryReport", "RetryReport", "is_out_of_memory", "release_memory", "retry_on_oom"]
