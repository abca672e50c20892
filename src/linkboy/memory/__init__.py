"""Memory: what was freed, who holds the rest, which loop leaks, and what to do when memory runs out."""

from linkboy._oom import is_out_of_memory
from linkboy.memory.holders import who_holds
from linkboy.memory.leak import LeakDetector
from linkboy.memory.release import release_memory
from linkboy.memory.report import (
    Ability,
    DeviceMemory,
    Holder,
    HolderReport,
    LeakReport,
    LiveDevice,
    LiveStorage,
    MemoryEnvironment,
    MemoryReport,
    MemoryTimeline,
    ProcessMemory,
    ReleaseReport,
    ReleaseStep,
    RetryAttempt,
    RetryReport,
    Survivor,
    WatchedObject,
)
from linkboy.memory.retry import retry_on_oom
from linkboy.memory.timeline import track_memory
from linkboy.memory.usage import memory_environment, memory_report

__all__ = [
    "Ability",
    "DeviceMemory",
    "Holder",
    "HolderReport",
    "LeakDetector",
    "LeakReport",
    "LiveDevice",
    "LiveStorage",
    "MemoryEnvironment",
    "MemoryReport",
    "MemoryTimeline",
    "ProcessMemory",
    "ReleaseReport",
    "ReleaseStep",
    "RetryAttempt",
    "RetryReport",
    "Survivor",
    "WatchedObject",
    "is_out_of_memory",
    "memory_environment",
    "memory_report",
    "release_memory",
    "retry_on_oom",
    "track_memory",
    "who_holds",
]
