"""Rules that say which tensors get which values, and presets made of them."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linkboy._checks import check_choice, check_number
from linkboy.init._fans import (
    FanOption,
    is_bias,
    is_embedding,
    is_input_bias,
    is_matrix,
    is_norm_weight,
    is_shifted_norm_weight,
    is_slope,
)
from linkboy.init._residual import ResidualProjections

Initializer = Callable[..., Any] | float
Predicate = Callable[[nn.Module, str, tuple[int, ...]], bool]
Nonlinearity = Literal[
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "sigmoid", "tanh",
    "relu", "leaky_relu", "selu",
]  # fmt: skip  # those that torch has a gain for
Target = type[nn.Module] | tuple[type[nn.Module], ...] | str | Predicate


@dataclasses.dataclass(frozen=True, init=False)
class Rule:
    """A rule for `initialize`: which tensors to fill, and how.

    Args:
        target: a module class or a tuple of classes; a pattern of qualified parameter names (`"*.W"`), aliases included;
            or a function of (module, parameter name, shape) that returns whether the parameter is meant.
        param: name or pattern of the parameter inside its module (`"weight"`, `"weight_ih_*"`); `None` means all.
        init: a function in the convention of `torch.nn.init`, which fills the tensor it is given, or a number.
        fan: `(fan_in, fan_out)`, or a function of (module, tensor) that returns them, for `xavier_*` and `kaiming_*`;
            needed where the tensor is not a weight of a layer that linkboy knows.
        gain: for `xavier_*` and `orthogonal_`: a number, or the name of a nonlinearity for `calculate_gain`.
        scale: what the values are multiplied with in the end, as Fixup and DeepNorm ask for some layers.
        optional: whether the rule may match nothing; otherwise that is an error.
        **options: passed on to `init`, such as `nonlinearity="relu"` or `std=0.02`.

    Raises:
        TypeError: `target` or `init` is of a kind that no rule can use.
        ValueError: `fan` or `gain` is given to a function that has none, `scale` is not finite, or a nonlinearity or mode is
            unknown.

    Examples:
        >>> from torch import nn
        >>> from linkboy import Rule
        >>> Rule((nn.Conv2d, nn.Linear), "weight", nn.init.kaiming_normal_, nonlinearity="relu")
        Rule((Conv2d, Linear), 'weight', kaiming_normal_, nonlinearity='relu')
        >>> Rule("*.bias", init=0)
        Rule('*.bias', 0)
    """

    target: Target
    param: str | None
    init: Initializer
    fan: FanOption
    gain: float | str | None
    scale: float
    optional: bool
    options: Mapping[str, Any]

    def __init__(
        self,
        target: Target,
        param: str | None = None,
        init: Initializer = nn.init.xavier_uniform_,
        *,
        fan: FanOption = None,
        gain: float | str | None = None,
        scale: float = 1.0,
        optional: bool = False,
        **options: Any,
    ) -> None:
        classes = target if isinstance(target, tuple) else (target,)
        if not isinstance(target, str) and not all(callable(kind) for kind in classes):
            raise TypeError(f"target must be a module class, a tuple of them, a pattern or a function, got {target!r}")
        if isinstance(target, nn.Module):
            raise TypeError(
                f"target must be a class, a pattern or a function, got a {type(target).__name__}; name what is in it ('0.*'), or "
                "pass its class"
            )
        if isinstance(init, Tensor):
            raise TypeError(
                "init must be a function that fills a tensor or a number, got a tensor; pass lambda w: w.copy_(value)"
            )
        if isinstance(init, bool) or not (callable(init) or isinstance(init, (int, float))):
            raise TypeError(f"init must be a function that fills a tensor or a number, got {init!r}")
        if fan is not None and init not in FAN_BASED:
            raise ValueError(f"fan has no meaning for {name_of(init)}, only for xavier_* and kaiming_*")
        if gain is not None and init not in _WITH_GAIN:
            raise ValueError(f"gain has no meaning for {name_of(init)}, only for xavier_* and orthogonal_")
        if isinstance(gain, str):
            check_choice("gain", gain, _NONLINEARITIES)
        elif gain is not None:
            check_number("gain", gain)
        if init in _KAIMING:
            _check_kaiming(options)
        if options and not callable(init):
            raise ValueError(f"options {sorted(options)} have no meaning for the number {init!r}")
        if not isinstance(scale, (int, float)) or not math.isfinite(scale):
            raise ValueError(f"scale must be a finite number, got {scale!r}")
        values = {"target": target, "param": param, "init": init, "fan": fan, "gain": gain, "scale": scale}
        for name, value in (values | {"optional": optional, "options": options}).items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        parts = [name_of(self.target)] + [repr(self.param)] * (self.param is not None) + [name_of(self.init)]
        parts += [f"fan={name_of(self.fan)}"] * (self.fan is not None)
        parts += [f"gain={self.gain!r}"] * (self.gain is not None)
        parts += [f"scale={self.scale!r}"] * (self.scale != 1)
        parts += [f"{name}={value!r}" for name, value in self.options.items()]
        return f"Rule({', '.join(parts)})"

    def keywords(self) -> dict[str, Any]:
        """Return what to call `init` with."""
        if self.gain is None:
            return dict(self.options)
        return {**self.options, "gain": gain_of(self.gain) if isinstance(self.gain, str) else self.gain}


def name_of(value: object) -> str:
    """Name a class, function or tuple of them as a reader would write it."""
    if isinstance(value, tuple):
        return f"({', '.join(name_of(item) for item in value)})"
    return getattr(value, "__name__", None) or repr(value)


_XAVIER = (nn.init.xavier_uniform_, nn.init.xavier_normal_)
_KAIMING = (nn.init.kaiming_uniform_, nn.init.kaiming_normal_)
FAN_BASED = (*_XAVIER, *_KAIMING)
_WITH_GAIN = (*_XAVIER, nn.init.orthogonal_)


def fan_scale(rule: Rule, shape_fan: tuple[float, float], fan: tuple[float, float]) -> float:
    """Return the factor from values drawn with torch's fans to values with the right ones.

    Xavier's standard deviation goes with 1/sqrt(fan_in + fan_out), Kaiming's with 1/sqrt of the fan of its mode.
    """
    if rule.init in _XAVIER:
        return math.sqrt(sum(shape_fan) / sum(fan))
    side = 1 if rule.options.get("mode", "fan_in") == "fan_out" else 0
    return math.sqrt(shape_fan[side] / fan[side])


_SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu, "silu": F.silu, "swish": F.silu, "mish": F.mish, "elu": F.elu, "celu": F.celu, "hardswish": F.hardswish,
    "softplus": F.softplus, "relu6": F.relu6,
}  # fmt: skip


_NONLINEARITIES = (*get_args(Nonlinearity), *_SMOOTH)


def _check_kaiming(options: Mapping[str, Any]) -> None:
    """Refuse what `kaiming_*` would refuse, before anything is planned."""
    nonlinearity = options.get("nonlinearity", "leaky_relu")
    if nonlinearity in _SMOOTH:
        raise ValueError(
            f"nonlinearity must be one of {get_args(Nonlinearity)}, got {nonlinearity!r}, for which torch has no gain; "
            f"pass nonlinearity='linear', scale=gain_of({nonlinearity!r})"
        )
    check_choice("nonlinearity", nonlinearity, get_args(Nonlinearity))
    check_choice("mode", options.get("mode", "fan_in"), ("fan_in", "fan_out"))


def gain_of(nonlinearity: str) -> float:
    """Return the factor by which weights are enlarged for what follows them to keep the scale of the signal.

    For the functions that `torch.nn.init.calculate_gain` knows it is torch's. For others it is `1 / sqrt(E[f(z)**2])` over
    normal `z`, the formula behind torch's value for ReLU.

    Args:
        nonlinearity: `"relu"`, `"tanh"`, ... as in torch, or `"gelu"`, `"silu"`, `"swish"`, `"mish"`, `"elu"`, `"celu"`,
            `"hardswish"`, `"softplus"` or `"relu6"`.

    Returns:
        The gain, for `Rule(gain=...)`, for `xavier(gain=...)`, or for `kaiming(nonlinearity="linear", scale=...)`.

    Raises:
        ValueError: `nonlinearity` is unknown.

    Examples:
        >>> round(gain_of("relu"), 4), round(gain_of("gelu"), 4), round(gain_of("silu"), 4)
        (1.4142, 1.5335, 1.6765)

    Source: He et al. 2015, section 2.2, https://arxiv.org/abs/1502.01852.
    """
    check_choice("nonlinearity", nonlinearity, _NONLINEARITIES)
    if nonlinearity not in _SMOOTH:
        return nn.init.calculate_gain(nonlinearity)  # type: ignore[arg-type]
    z = torch.linspace(-12, 12, 24_001, dtype=torch.float64, device="cpu")
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return torch.trapezoid(_SMOOTH[nonlinearity](z) ** 2 * density, z).item() ** -0.5


def truncated_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, bound: float = 2.0, generator: Any = None
) -> Tensor:
    """Fill a tensor with normal values without tails whose standard deviation is the one asked for.

    Args:
        tensor: what to fill, in place.
        mean: mean of the values.
        std: standard deviation of the values, after the cut.
        bound: where to cut, in standard deviations of the normal distribution that is cut.
        generator: source of the numbers; torch's global one by default.

    Returns:
        The tensor.

    Raises:
        ValueError: `std` or `bound` is not positive.

    Examples:
        >>> values = truncated_normal_(torch.empty(100_000), std=0.02)
        >>> round(values.std().item(), 4), bool(values.abs().max() < 2.3 * 0.02)
        (0.02, True)

    Differs from `nn.init.trunc_normal_`, whose `std` is that before the cut and whose bounds are absolute.
    """
    check_number("std", std, above=0)
    check_number("bound", bound, above=0)
    density = math.exp(-bound * bound / 2) / math.sqrt(2 * math.pi)
    kept = math.erf(bound / math.sqrt(2))
    wide = std / math.sqrt(1 - 2 * bound * density / kept)
    return nn.init.trunc_normal_(tensor, mean, wide, mean - bound * wide, mean + bound * wide, generator=generator)


def _preset(*matrix: Rule, embedding_std: float, forget_bias: float | None = None) -> list[Rule]:
    check_number("embedding_std", embedding_std, minimum=0)
    forget: list[Rule] = []
    if forget_bias is not None:
        check_number("forget_bias", forget_bias)

        def forget_gate_(tensor: Tensor) -> Tensor:
            gates = tensor.zero_().view(4, -1)  # input, forget, cell, output
            gates[1] = forget_bias
            return tensor

        forget = [Rule(is_input_bias, init=forget_gate_)]
    return [
        Rule(is_embedding, init=nn.init.normal_, optional=True, std=embedding_std),
        *matrix,
        *forget,
        Rule(is_bias, init=0, optional=True),
        Rule(is_norm_weight, init=1, optional=True),
        Rule(is_shifted_norm_weight, init=0, optional=True),
        Rule(is_slope, init=0.25, optional=True),
    ]


def xavier(
    *, gain: float | str = 1.0, uniform: bool = True, embedding_std: float = 0.02, forget_bias: float | None = None
) -> list[Rule]:
    """Return rules for Glorot's initialisation: every weight that multiplies, with its true fans; biases 0, norms 1.

    Args:
        gain: factor, or the name of a nonlinearity (`"tanh"`, `"gelu"`), as in `gain_of`.
        uniform: draw from a uniform distribution, otherwise from a normal one.
        embedding_std: standard deviation of embeddings.
        forget_bias: bias of the forget gates of every LSTM, such as 1; `None` leaves all biases at 0.

    Returns:
        Rules for `initialize`, to be used alone or after rules of your own.

    Raises:
        ValueError: `embedding_std` is negative, or `gain` is unknown.

    Examples:
        >>> from torch import nn
        >>> from linkboy import initialize
        >>> from linkboy.init import xavier
        >>> report = initialize(nn.Linear(300, 100), xavier())
        >>> abs(report.rows[0].std_after - (2 / 400) ** 0.5) < 0.002
        True

    Source: Glorot and Bengio 2010, https://proceedings.mlr.press/v9/glorot10a.html.
    """
    init = nn.init.xavier_uniform_ if uniform else nn.init.xavier_normal_
    return _preset(
        Rule(is_matrix, init=init, gain=gain, optional=True), embedding_std=embedding_std, forget_bias=forget_bias
    )


def kaiming(
    *,
    nonlinearity: Nonlinearity = "relu",
    mode: Literal["fan_in", "fan_out"] = "fan_in",
    uniform: bool = False,
    scale: float = 1.0,
    embedding_std: float = 0.02,
    forget_bias: float | None = None,
) -> list[Rule]:
    """Return rules for He's initialisation: every weight that multiplies, with its true fans; biases 0, norms 1.

    Args:
        nonlinearity: what follows the layers: `"relu"`, `"leaky_relu"`, `"linear"`, ... as in `torch.nn.init`.
        mode: `"fan_in"` keeps the scale of the signal, `"fan_out"` that of the gradient.
        uniform: draw from a uniform distribution, otherwise from a normal one.
        scale: a further factor, such as `gain_of("gelu")` with `nonlinearity="linear"`.
        embedding_std: standard deviation of embeddings.
        forget_bias: bias of the forget gates of every LSTM, such as 1; `None` leaves all biases at 0.

    Returns:
        Rules for `initialize`.

    Raises:
        ValueError: `nonlinearity` or `mode` is unknown, or `embedding_std` is negative.

    Examples:
        >>> from torch import nn
        >>> from linkboy import initialize
        >>> from linkboy.init import kaiming
        >>> report = initialize(nn.ConvTranspose2d(64, 16, 4), kaiming(nonlinearity="linear"))
        >>> report.rows[0].fan
        (1024.0, 256.0)

    Source: He et al. 2015, https://arxiv.org/abs/1502.01852. Differs from `torch.nn.init`, which takes 256 for fan_in
    above: it reads a transposed weight the wrong way round.
    """
    init = nn.init.kaiming_uniform_ if uniform else nn.init.kaiming_normal_
    matrix = Rule(is_matrix, init=init, scale=scale, optional=True, mode=mode, nonlinearity=nonlinearity)
    return _preset(matrix, embedding_std=embedding_std, forget_bias=forget_bias)


def orthogonal(*, gain: float | str = 1.0, embedding_std: float = 0.02, forget_bias: float | None = None) -> list[Rule]:
    """Return rules for orthogonal weights, gate by gate and projection by projection; biases 0, norms 1.

    Args:
        gain: factor, or the name of a nonlinearity.
        embedding_std: standard deviation of embeddings.
        forget_bias: bias of the forget gates of every LSTM, such as 1; `None` leaves all biases at 0.

    Returns:
        Rules for `initialize`.

    Raises:
        ValueError: `embedding_std` is negative.

    Examples:
        >>> import torch
        >>> from linkboy import initialize
        >>> from linkboy.init import orthogonal
        >>> lstm = torch.nn.LSTM(8, 8)
        >>> _ = initialize(lstm, orthogonal())
        >>> gate = lstm.weight_hh_l0[8:16]
        >>> torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)
        True

    Source: Saxe et al. 2013, https://arxiv.org/abs/1312.6120.
    """
    matrix = Rule(is_matrix, init=nn.init.orthogonal_, gain=gain, optional=True)
    return _preset(matrix, embedding_std=embedding_std, forget_bias=forget_bias)


def trunc_normal(*, std: float = 0.02, bound: float = 2.0) -> list[Rule]:
    """Return rules for normal values without tails: weights and embeddings cut at `bound` deviations; biases 0, norms 1.

    The width of the distribution before the cut is enlarged so that the values have the standard deviation asked for.

    Args:
        std: standard deviation of the result.
        bound: where to cut, in standard deviations of the normal distribution that is cut.

    Returns:
        Rules for `initialize`.

    Raises:
        ValueError: `std` or `bound` is not positive.

    Examples:
        >>> from torch import nn
        >>> from linkboy import initialize
        >>> from linkboy.init import trunc_normal
        >>> layer = nn.Linear(512, 512)
        >>> report = initialize(layer, trunc_normal(std=0.02))
        >>> bool(layer.weight.abs().max() <= 0.0456), round(report.rows[0].std_after, 3)
        (True, 0.02)

    Differs from `nn.init.trunc_normal_(std=0.02)`, whose bounds are absolute: +-2 is a hundred standard deviations, so
    it cuts nothing. To have it that way, pass it to a `Rule`.
    """
    check_number("std", std, above=0)
    check_number("bound", bound, above=0)
    return [
        Rule(is_embedding, init=truncated_normal_, optional=True, std=std, bound=bound),
        Rule(is_matrix, init=truncated_normal_, optional=True, std=std, bound=bound),
        *_preset(embedding_std=std)[1:],
    ]


def gpt2(*, layers: int, residual: str | Sequence[str] | None = None, std: float = 0.02) -> list[Rule]:
    """Return rules in the manner of GPT-2: normal weights, with those that write into the residual stream scaled by depth.

    With two such projections in each of `layers` layers, the stream keeps its scale: they get `std / sqrt(2 * layers)`.
    `initialize` finds them by the structure of the model: the layers of a block that give the width which its first layer
    takes, and that close a branch of it. If it finds fewer than `2 * layers`, it warns.

    Args:
        layers: number of layers.
        residual: name patterns of the projections back into the residual stream, such as `"*.c_proj.weight"`; each must
            match. `None` finds them by structure.
        std: standard deviation of all other weights and of embeddings.

    Returns:
        Rules for `initialize`; biases 0, norms 1.

    Raises:
        ValueError: `layers` is below 1 or `std` is not positive.

    Examples:
        >>> from torch import nn
        >>> from linkboy import initialize
        >>> from linkboy.init import gpt2
        >>> model = nn.ModuleList([nn.TransformerEncoderLayer(64, 4, 256) for _ in range(8)])
        >>> report = initialize(model, gpt2(layers=8))
        >>> {row.name: round(row.std_after, 3) for row in report.rows if row.name in ("3.linear1.weight", "3.linear2.weight")}
        {'3.linear1.weight': 0.02, '3.linear2.weight': 0.005}

    Source: Radford et al. 2019, section 2.3.
    """
    check_number("layers", layers, minimum=1, integer=True)
    check_number("std", std, above=0)
    targets = (
        [ResidualProjections(2 * layers)] if residual is None else [residual] if isinstance(residual, str) else residual
    )
    small = std / math.sqrt(2 * layers)
    scaled = [Rule(target, init=nn.init.normal_, optional=residual is None, std=small) for target in targets]
    rest = Rule(is_matrix, init=nn.init.normal_, optional=True, std=std)
    return [*scaled, *_preset(rest, embedding_std=std)]
