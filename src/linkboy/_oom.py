"""Whether an exception means that memory ran out."""

import torch

_TEXTS = (
    "out of memory",  # CUDA, ROCm, MPS, XPU, NCCL
    "cublas_status_alloc_failed",
    "can't allocate memory",  # the CPU allocator on Linux and macOS
    "defaultcpuallocator: not enough memory",  # the CPU allocator on Windows
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out, on a CPU or on a device.

    True for `torch.OutOfMemoryError`, for `MemoryError` (NumPy's among them), and for a `RuntimeError` that says so:
    CUDA, cuBLAS, NCCL and the CPU allocator raise plain ones. A size that no machine has ("Storage size calculation
    overflowed") and "CUDNN_STATUS_NOT_SUPPORTED" are other faults. Only the exception itself counts, not its causes.

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
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(known in text for known in _TEXTS)
