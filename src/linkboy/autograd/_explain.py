"""From the text of an exception to what is wrong in the operator, and what to write instead."""

ONCE = "already unpacked"  # torch.utils.checkpoint, of what it has recomputed and given to backward

CAUSES = [  # part of the text, likely cause, fix
    (
        "incorrect number of gradients",
        "backward does not return one value per argument of forward",
        "return one value per argument of forward, in order, as a tuple, None for those that are not tensors",
    ),
    (
        "expected Variable or None",
        "backward returns something that is not a tensor",
        "return a tensor or None for each argument of forward",
    ),
    (
        "input_is_complex",
        "the gradient of a real input is complex",
        "return grad.real for an input that is real",
    ),
    (
        ONCE,
        "backward reads ctx.saved_tensors more than once, and a checkpoint gives them once",
        "read it once: x, y = ctx.saved_tensors",
    ),
    (
        "view size is not compatible",
        "a .view of a tensor that is not contiguous",
        "use .reshape, or call .contiguous() first",
    ),
    (
        "more than one element of the written-to",
        "the incoming gradient is written in place, and it may be expanded or belong to the caller",
        "write grad * factor, not grad.mul_(factor)",
    ),
    (
        "NoneType",
        "a missing gradient arrives as None, after ctx.set_materialize_grads(False)",
        "return None for None, or leave out set_materialize_grads(False) and get zeros",
    ),
    (
        "invalid gradient at index",
        "the gradient does not have the shape of its input; where forward broadcasts, backward has to sum",
        "return grad.sum_to_size(x.shape)",
    ),
    (
        "must override the setup_context",
        "an autograd.Function of the old style, forward(ctx, ...)",
        "write forward(x) without ctx, and setup_context(ctx, inputs, output)",
    ),
    (
        "does not have vmap support",
        "an autograd.Function without a rule for vmap",
        "set generate_vmap_rule = True, or write a vmap staticmethod",
    ),
    (
        "implement the jvp function",
        "an autograd.Function without forward mode",
        "compose it of torch operations, or write a jvp staticmethod",
    ),
    (
        "modified by an inplace operation",
        "a tensor that was saved for backward is written in place",
        "write to a copy, out = saved.clone()",
    ),
    (
        "Can't call numpy()",
        "numpy is used inside the operator",
        "use the torch function of the same name",
    ),
    (
        "leaf Variable that requires grad",
        "the operator writes into its input",
        "work on a copy; an in-place operator is checked as lambda x: op(x.clone())",
    ),
    (
        "no autograd formula was registered",
        "a registered operator without a backward",
        "register one with torch.library.register_autograd",
    ),
    (
        "not reentrant",
        "two equal backward passes give different gradients",
        "look for in-place writes to saved tensors, and for random numbers in backward",
    ),
    (
        "same dtype",
        "two dtypes meet, such as those inside and outside of autocast",
        "convert with .to(x.dtype), or use torch.amp.custom_fwd and custom_bwd",
    ),
    (
        "Found dtype",
        "two dtypes meet in backward, such as that of a constant made without dtype=",
        "make it with dtype=x.dtype, or convert with .to(x.dtype)",
    ),
    (
        "backward through the graph a second time",
        "what backward needs was freed or kept from an earlier call",
        "save it with ctx.save_for_backward in every forward",
    ),
]


def explain(error: BaseException) -> tuple[str, str]:
    """Return the likely cause of an exception and the fix; two empty strings where it is not a known one."""
    text = str(error)
    return next(((cause, fix) for part, cause, fix in CAUSES if part in text), ("", ""))
