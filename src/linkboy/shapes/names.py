"""Which torch functions rearrange, which are losses, which work element by element, and which give no tensor."""

# They tell or set something and give no tensor of their own; half of what a forward pass calls.
NOT_CALLS = frozenset((
    "size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "storage_offset", "data_ptr",
    "item", "tolist", "element_size", "numpy", "__len__", "__bool__", "__int__", "__float__", "__index__",
    "__repr__", "__str__", "__format__", "__hash__", "__contains__", "__array__", "__iter__", "__dlpack__",
    "__dlpack_device__", "register_hook", "register_post_accumulate_grad_hook", "untyped_storage", "storage",
    "get_device", "is_floating_point", "is_complex", "is_signed", "is_tensor", "is_storage", "is_nonzero",
    "is_same_size", "is_set_to", "equal", "allclose", "has_names", "_is_view", "_is_zerotensor", "is_inference",
    "is_conj", "is_neg", "is_pinned", "is_shared", "__reduce_ex__", "__deepcopy__", "__setstate__",
    "_set_grad_enabled", "__setitem__", "__set__", "__delete__", "retain_grad", "result_type", "can_cast", "finfo",
    "iinfo", "storage_type", "_has_compatible_shallow_copy_type", "sym_size", "sym_numel", "sym_stride",
    "_nested_tensor_size",
))  # fmt: skip

# Properties that rearrange.
VIEW_GETTERS = frozenset(("T", "mT", "H", "mH"))

# They rearrange, select or join values and compute none.
RESHAPING = frozenset((
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "transpose", "permute", "t", "adjoint", "T",
    "mT", "H", "mH", "movedim", "moveaxis", "swapaxes", "swapdims", "expand", "expand_as", "repeat", "tile",
    "repeat_interleave", "contiguous", "narrow", "select", "__getitem__", "chunk", "split", "tensor_split",
    "hsplit", "vsplit", "dsplit", "unbind", "cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack",
    "column_stack", "row_stack", "unfold", "fold", "broadcast_to", "broadcast_tensors", "view_as", "reshape_as",
    "ravel", "diagonal", "as_strided", "pad", "flip", "roll", "rot90", "index_select", "gather", "take_along_dim",
    "atleast_1d", "atleast_2d", "atleast_3d", "meshgrid", "pixel_shuffle", "pixel_unshuffle", "masked_select",
))  # fmt: skip

# Losses whose operands must have one shape.
LOSSES = frozenset((
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "gaussian_nll_loss", "kl_div",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "soft_margin_loss", "multilabel_soft_margin_loss",
    "hinge_embedding_loss",
))  # fmt: skip

# They broadcast two tensors against each other; operators without their underscores.
ELEMENTWISE = frozenset((
    "add", "sub", "mul", "div", "true_divide", "divide", "multiply", "subtract", "floor_divide", "rsub", "rdiv",
    "remainder", "fmod", "pow", "eq", "ne", "lt", "le", "gt", "ge", "maximum", "minimum", "fmax", "fmin", "where",
    "atan2", "hypot", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "and",
    "or", "xor", "isclose", "greater", "greater_equal", "less", "less_equal", "not_equal", "copysign", "xlogy",
    "rpow", "lerp", "squared_difference", "floordiv", "mod", "truediv",
))  # fmt: skip
