"""Whether an exception means that memory ran out."""

import errno

import torch

# What each backend says, in lower case, with where the text is from.
_TEXTS = (
    "out of memory",  # CUDA, ROCm, MPS, XPU, NPU, NCCL: torch's and the drivers' own words
    "outofmemory",  # names of errors: hipErrorOutOfMemory, kIOGPUCommandBufferCallbackErrorOutOfMemory, OutOfMemoryError
    "can't allocate memory",  # the CPU allocator on Linux and macOS: c10/core/impl/alloc_cpu.cpp
    "cannot allocate memory",  # the system's ENOMEM, as mmap of a file reports it
    "defaultcpuallocator: not enough memory",  # the CPU allocator on Windows
    "std::bad_alloc",  # C++
    "_alloc_failed",  # cuBLAS, cuDNN, cuFFT, cuSOLVER, cuSPARSE and hipBLAS: *_STATUS_ALLOC_FAILED, CUFFT_ALLOC_FAILED
    "_status_allocation_failed",  # cuRAND
    "rocblas_status_memory_error",  # rocBLAS
    "miopenstatusallocfailed",  # MIOpen
    "unable to find a valid cudnn algorithm",  # a convolution that finds no room for any algorithm's workspace
    "invalid buffer size",  # MPS: a buffer that is larger than Metal allows
    "failed to allocate private mtlbuffer",  # MPS
    "error_out_of_device_memory",  # XPU, Unified Runtime and Level Zero: UR_RESULT_..., ZE_RESULT_...; Vulkan
    "error_out_of_host_memory",
    "error_out_of_resources",  # XPU: UR_RESULT_... and, of older drivers, PI_...
    "mem_object_allocation_failure",  # OpenCL
    "pt_devmem allocation failed",  # HPU, as in accelerate's should_reduce_batch_size
    "resource_exhausted",  # XLA
    "not enough gpu video memory",  # DirectML
)
_OTHER_FAULTS = ("message larger than max",)  # gRPC's RESOURCE_EXHAUSTED, which is about the size of a message


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, on a CPU or on a device.

    True for `torch.OutOfMemoryError`, for `MemoryError` (NumPy's among them), and for a `RuntimeError` that says so:
    CUDA and its libraries, ROCm, MPS, XPU, HPU, XLA, NCCL and the CPU allocator raise plain ones. An `OSError` counts
    where the system has no memory (`ENOMEM`), a group of exceptions where each of them counts. A size that no machine has
    ("Storage size calculation overflowed") and "CUDNN_STATUS_NOT_SUPPORTED" are other faults. Only the exception itself
    counts, not its causes.

    Args:
        error: any exception.

    Returns:
        `True` where a smaller batch may help.

    Examples:
        >>> import torch
        >>> try:
        ...     torch.empty(2**46)
        ... except RuntimeError as error:
        ...     is_out_of_memory(error)
        True
        >>> is_out_of_memory(RuntimeError("shape '[3]' is invalid for input of size 4"))
        False
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_out_of_memory, error.exceptions))
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    if not isinstance(error, RuntimeError) or any(other in text for other in _OTHER_FAULTS):
        return False
    return any(known in text for known in _TEXTS)
