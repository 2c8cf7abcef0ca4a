"""A pretend accelerator: torch tensors that are "on pretend:0" and keep their numbers in CPU memory.

It needs no GPU and no build of torch for one. Importing this module makes the device known to torch, which can't be
taken back and must come before the first backward pass and before the project's own modules: tests that use it run in
a process of their own.

    import tests.accelerator.device as accelerator

    with accelerator.attached(by_line=True) as costs:
        ...  # device="pretend"
    costs.waits, costs.copies, costs.launches  # Counters by line of the project

As on CUDA:
    Tensors of two devices don't meet in one operation, but for a host number in elementwise ones, host indices into a
    device tensor, and copies. `.numpy()` of a device tensor raises. Autocast casts the operations of CUDA's lists.
    Optimisers go foreach, which raises the versions of what they write. `Module.to` keeps parameters the same objects.

Pretended:
    Every operation runs on the CPU, or of shapes alone (`attached(numbers=False)`). Attention is written out in single
    operations, as torch chooses its kernel out of sight. `inference_mode` is `no_grad`, which these tensors need.

Not seen:
    Which dtypes and shapes CUDA's kernels take, their rounding, speed, memory, and anything asynchronous.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils import _foreach_utils, backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

NAME = "pretend"
WITHOUT_NUMBERS = torch.device("meta")
ROOT = str(Path(__file__).parents[2]) + "/"
PACKAGES = tuple(f"{ROOT}{package}/" for package in ("agents", "envs", "oracles", "preference_duel", "runners"))
TRANSFER = f"{ROOT}preference_duel/transfer.py"
"""Copies for others, whose lines are counted."""


# --- What a run costs ---------------------------------------------------------------------------------------------


@dataclass
class Costs:
    """Counts by line of the project, "agents/sppo.py:80"; what other code does for itself is "elsewhere"."""

    waits: Counter[str] = field(default_factory=Counter)
    """The host needs a value, or a size that depends on values, or copies to the device without `non_blocking`: it
    waits for all that was launched."""
    copies: Counter[str] = field(default_factory=Counter)
    """Copies from the host to the device."""
    launches: Counter[str] = field(default_factory=Counter)
    """Operations on the device."""
    by_line: bool = False
    """Whether lines are looked for, for which the stack is read at every operation; if not, all are "anywhere"."""

    def clear(self) -> None:
        """Counts from zero."""
        for counter in (self.waits, self.copies, self.launches):
            counter.clear()


COSTS = Costs()
_NEEDS_VALUES = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_consecutive", "equal"}
_UNORDERED = {"cumsum", "histc", "nll_loss_forward", "put_", "median"}
"""Operations that CUDA refuses under torch's deterministic algorithms."""
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}


def _count(name: str, flat: list[Any], to_device: bool, to_host: bool, blocks: bool) -> None:
    place = _place() if COSTS.by_line else "anywhere"
    if to_device:
        COSTS.copies[place] += 1
        COSTS.waits[place] += blocks
        return
    if to_host or name in _NEEDS_VALUES or (name == "repeat_interleave" and blocks):
        COSTS.waits[place] += 1
    if name in _INDEXING:
        indices = _tensors(flat[1:])
        up = sum(not isinstance(x, DeviceTensor) for x in indices)
        COSTS.copies[place] += up
        COSTS.waits[place] += up
        COSTS.waits[place] += any(isinstance(x, DeviceTensor) and x.dtype == torch.bool for x in indices)
    COSTS.launches[place] += 1


def _tensors(flat: list[Any]) -> list[Tensor]:
    return [x for x in flat if isinstance(x, Tensor)]


def _place() -> str:
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = _file(frame.f_code.co_filename)
        if file is not None:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


@cache
def _file(path: str) -> str | None:
    """Returns the path of a file of the project from its root, None of others."""
    return path.removeprefix(ROOT) if path.startswith(PACKAGES) and path != TRANSFER else None


# --- The tensors --------------------------------------------------------------------------------------------------


class DeviceTensor(Tensor):
    """A tensor on the device; `held` has its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> DeviceTensor:
        size, stride, offset = held.shape, held.stride(), held.storage_offset()
        made = Tensor._make_wrapper_subclass(
            cls, size, strides=stride, storage_offset=offset, dtype=held.dtype, layout=held.layout,
            device=torch.device(NAME, 0), requires_grad=requires_grad,
        )  # fmt: skip
        made.held = held.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, DeviceTensor):
            raise RuntimeError("incompatible tensor type: `data` of a device tensor is on the device")
        Tensor.data.__set__(self, new)
        self.held = new.held

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            twin: Any = DeviceTensor(self.held.clone(), self.requires_grad)
            twin.__dict__.update({name: value for name, value in self.__dict__.items() if name not in ("held", "grad")})
            memo[id(self)] = twin
        return memo[id(self)]

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.held!r})"

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy; use Tensor.cpu() to copy it first")

    __array__ = numpy

    def untyped_storage(self) -> Any:
        return self.held.untyped_storage()

    def data_ptr(self) -> int:
        return self.held.data_ptr()


# --- Running an operation -----------------------------------------------------------------------------------------

_memory = torch.device("cpu")
"""Storage of the device's numbers: the CPU's memory, or torch's device meta, which has none."""
_COPIES = {"_to_copy", "copy_", "lift", "lift_fresh"}
_CHANGE_SHAPE = {"resize_", "resize_as_", "set_", "squeeze_", "unsqueeze_", "t_", "transpose_", "as_strided_"}
_ELEMENTWISE = {"where", "lerp", "lerp_", "fill_", "masked_fill", "masked_fill_", "clamp"}
"""Operations that take single host numbers though torch does not mark them as elementwise."""


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Runs an operation on the numbers held, if CUDA would, and puts the results where CUDA would."""
    flat = [*_leaves(args), *_leaves(tuple(kwargs.values()))]
    name = func._overloadpacket.__name__
    tensors = _tensors(flat)
    ours = [x for x in tensors if isinstance(x, DeviceTensor)]
    asked = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    here = asked.type == NAME if asked is not None else bool(ours)
    if not here and not ours:
        return func(*args, **kwargs)
    if name in _CHANGE_SHAPE:
        raise NotImplementedError(f"the pretend device has no {func}; add it to tests/accelerator/device.py")
    if name == "copy_":
        here = isinstance(tensors[0], DeviceTensor)
    if len(ours) < len(tensors) and name not in _COPIES:
        _require_one_device(func, name, tensors)
    _require_order(name, tensors)
    moves = name in ("_to_copy", "copy_")
    goes_on = kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,)) or "output_size" in kwargs
    _count(name, flat, moves and here and len(ours) < len(tensors), moves and not here, not goes_on)

    args_held, kwargs_held = _mapped(args, _held), {key: _mapped(value, _held) for key, value in kwargs.items()}
    if asked is not None and here:
        kwargs_held["device"] = _memory
    kwargs_held.pop("pin_memory", None)
    to_host = not here or name == "_local_scalar_dense"
    result = _computed(func, args_held, kwargs_held, to_host)
    if name.startswith("_foreach") and name.endswith("_"):
        torch.autograd.graph.increment_version([x for x in args[0] if isinstance(x, DeviceTensor)])
    if to_host:
        return result
    same = {id(x.held): x for x in ours}

    def on_device(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return same[id(x)] if id(x) in same else DeviceTensor(x)

    return _mapped(result, on_device)


_NESTED = (list, tuple)


def _computed(func: Any, args: Any, kwargs: Any, to_host: bool) -> Any:
    """Returns an operation's result; the host gets ones of a device without numbers."""
    if not to_host or _memory != WITHOUT_NUMBERS:
        return func(*args, **kwargs)
    if func._overloadpacket.__name__ == "copy_":
        return args[0].fill_(1)
    ones = torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
    return ones if func._overloadpacket.__name__ != "_local_scalar_dense" else ones.item()


def _leaves(values: Any) -> Iterator[Any]:
    """Yields what is in lists and tuples; torch's trees know more, and take a third of a run's time."""
    for value in values:
        if isinstance(value, _NESTED):
            yield from _leaves(value)
        else:
            yield value


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, _NESTED):
        return type(value)([_mapped(x, change) if isinstance(x, _NESTED) else change(x) for x in value])
    return change(value)


def _held(x: Any) -> Any:
    return x.held if isinstance(x, DeviceTensor) else x


def _require_one_device(func: Any, name: str, tensors: list[Tensor]) -> None:
    host = [x for x in tensors if not isinstance(x, DeviceTensor)]
    if name.startswith(("_foreach", "_fused")):
        return  # an optimiser counts its steps on the host
    if name in _INDEXING and isinstance(tensors[0], DeviceTensor):
        written = tensors[-1] if "put" in name else tensors[0]
        if isinstance(written, DeviceTensor) or written.dim() == 0:
            return
    elementwise = torch.Tag.pointwise in func.tags or name in _ELEMENTWISE
    writes_host = name.endswith("_") and not isinstance(tensors[0], DeviceTensor)
    if elementwise and all(x.dim() == 0 for x in host) and not writes_host:
        return
    shapes = ", ".join(f"{'device' if isinstance(x, DeviceTensor) else 'host'} {tuple(x.shape)}" for x in tensors)
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and cpu! "
        f"{func} of {shapes}, called in {_place()}"
    )


def _require_order(name: str, tensors: list[Tensor]) -> None:
    """Raises for an operation on floats that CUDA does in any order, if torch is to repeat itself."""
    if name in _UNORDERED and tensors[0].is_floating_point() and torch.are_deterministic_algorithms_enabled():
        raise RuntimeError(
            f"{name}_cuda_kernel does not have a deterministic implementation, but you set "
            f"'torch.use_deterministic_algorithms(True)'. Called in {_place()}"
        )


class _Attached(TorchDispatchMode):
    """Sees what is made for the device from no tensor, or from host tensors alone."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


# --- What torch does out of sight of dispatch ---------------------------------------------------------------------

_torch_attention, _torch_norm = nn.functional.scaled_dot_product_attention, nn.functional.rms_norm
_torch_tensor, _module_to = torch.tensor, nn.Module.to


class _Attention(torch.autograd.Function):
    """One operation forward and one back, as CUDA's kernels are, of shapes alone."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return torch.ops.pretend.attention(query, key, value, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        return *torch.ops.pretend.attention_backward(grad, query, key, value), None


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """Returns attention in single operations, in float32; raises on mixed dtypes as CUDA's kernels do."""
    if not isinstance(query, DeviceTensor):
        more = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        return _torch_attention(query, key, value, attn_mask, **more)
    floats = [query, key, value]
    if attn_mask is not None and attn_mask.is_floating_point():
        floats.append(attn_mask)
    if torch.is_autocast_enabled(NAME):
        floats = [x.to(torch.get_autocast_dtype(NAME)) for x in floats]
    if len({x.dtype for x in floats}) > 1:
        raise RuntimeError(f"attention expects one dtype, got {[str(x.dtype) for x in floats]}")
    if _memory == WITHOUT_NUMBERS:
        return _Attention.apply(*floats[:3], attn_mask)
    query, key, value, *bias = floats
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    with torch.autocast(NAME, enabled=False):
        scores = (query.float() @ key.float().mT) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
            scores = scores.masked_fill(~seen, -torch.inf)
        if bias:
            scores = scores + bias[0].float()
        elif attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        return (scores.softmax(-1).nan_to_num() @ value.float()).to(query.dtype)  # rows that see nothing are 0


class _Norm(torch.autograd.Function):
    """One operation forward and one back, as CUDA's kernels are, of shapes alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        normed, scale = torch.ops.pretend.rms_norm(x)
        ctx.save_for_backward(x, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return torch.ops.pretend.rms_norm_backward(grad, *ctx.saved_tensors)


def _rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """Returns torch's, of shapes alone in a single operation."""
    if isinstance(x, DeviceTensor) and weight is None and _memory == WITHOUT_NUMBERS:
        return _Norm.apply(x)
    return _torch_norm(x, shape, weight, eps)


def _tensor(data: Any, *, device: Any = None, **named: Any) -> Tensor:
    made = _torch_tensor(data, **named)
    return made if device is None else made.to(device)


def _to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Moves a module; parameters stay the same objects, which optimisers and tied layers hold."""
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    if device is None or device.type != NAME:
        return _module_to(self, *args, **kwargs)

    def moved(one: Tensor) -> Tensor:
        return one.detach().to(device, dtype if one.is_floating_point() else None)

    for parameter in self.parameters():
        torch.utils.swap_tensors(parameter, nn.Parameter(moved(parameter), parameter.requires_grad))
    for module in self.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = moved(buffer)
    return self


# --- Autocast, and the device itself ------------------------------------------------------------------------------

_LOW = "linear matmul mm addmm bmm baddbmm addbmm conv1d conv2d conv3d prelu addmv addr mv dot"
_HIGH = (
    "pow.Tensor_Scalar pow.Tensor_Tensor exp log log10 log2 log1p rsqrt softmax.int log_softmax.int cumsum cumprod "
    "norm.Scalar sum sum.dim_IntList"
)
"""The part of CUDA's lists (ATen/autocast_mode.h) that the project's networks use."""


class _Module(backend_registration._DummyBackendModule):
    """`torch.pretend`."""

    total_memory = 2**33
    """Bytes, of which nothing is used up."""

    def get_device_properties(self, *_: Any) -> _Module:
        return self

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, *_: Any) -> Tensor:
        return torch.empty(0, dtype=torch.uint8)

    def set_rng_state(self, *_: Any) -> None:
        pass

    def _lazy_init(self) -> None:
        pass


_kept_casts: dict[int, Tensor] = {}
"""Weights that learn as autocast has rounded them, by id, until its outermost block ends."""
_clear_autocast_cache = torch.clear_autocast_cache


def _forget_casts() -> None:
    _kept_casts.clear()
    _clear_autocast_cache()


def _cast(library: torch.library.Library, name: str, dtype: torch.dtype | None) -> None:
    """Has autocast cast the floats of an operation; dtype None: to autocast's own."""
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def cast(x: Any) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype == torch.float64:
            return x
        to = dtype or torch.get_autocast_dtype(NAME)
        keeps = dtype is None and x.dtype == torch.float32 and x.requires_grad and x.is_leaf and not x._is_view()
        if not (keeps and torch.is_autocast_cache_enabled()):
            return x.to(to)
        if id(x) not in _kept_casts:
            _kept_casts[id(x)] = x.to(to)
        return _kept_casts[id(x)]

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(key):
            return operation(*tree_map(cast, args), **tree_map(cast, kwargs))

    library.impl(name, kernel, "AutocastPrivateUse1")


def _has_kernel(*_: Any) -> Any:
    raise AssertionError("device tensors are run above")


def _register() -> list[torch.library.Library]:
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    torch.inference_mode = lambda mode=True: torch.no_grad()  # pyright: ignore[reportAttributeAccessIssue]
    ours, rest = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    own = torch.library.Library(NAME, "DEF")
    own.define("attention(Tensor query, Tensor key, Tensor value, Tensor? mask) -> Tensor")
    own.define("attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value) -> (Tensor, Tensor, Tensor)")
    own.impl("attention", lambda query, key, value, mask: torch.empty_like(query), "Meta")
    own.impl("attention_backward", lambda grad, *inputs: tuple(map(torch.empty_like, inputs)), "Meta")
    own.define("rms_norm(Tensor x) -> (Tensor, Tensor)")
    own.define("rms_norm_backward(Tensor grad, Tensor x, Tensor scale) -> Tensor")
    own.impl("rms_norm", lambda x: (torch.empty_like(x), x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)), "Meta")
    own.impl("rms_norm_backward", lambda grad, x, scale: torch.empty_like(x), "Meta")
    for names, dtype in ((_LOW, None), (_HIGH, torch.float32)):
        for name in names.split():
            _cast(ours, name, dtype)
    ours.impl("silu_backward", _has_kernel, "PrivateUse1")  # else it is written out in single operations
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return [ours, rest, own]


_KEPT = _register()
"""The registrations, which last as long as these objects."""


@contextmanager
def attached(by_line: bool = False, numbers: bool = True) -> Iterator[Costs]:
    """Has the device be there inside the block, and counts from zero.

    Args:
        by_line: whether costs are counted by line of the project.
        numbers: whether it computes; without, tensors have shapes alone, the host reads ones, and attention and norms
            are single operations.
    """
    global _memory
    COSTS.clear()
    COSTS.by_line = by_line
    kinds = [Tensor, nn.Parameter, DeviceTensor]
    lifts = torch._C._only_lift_cpu_tensors()
    with ExitStack() as stack:
        stack.enter_context(mock.patch("torch.nn.functional.scaled_dot_product_attention", _attention))
        stack.enter_context(mock.patch("torch.nn.functional.rms_norm", _rms_norm))
        stack.enter_context(mock.patch("torch.tensor", _tensor))
        stack.enter_context(mock.patch("torch.clear_autocast_cache", _forget_casts))
        stack.enter_context(mock.patch.object(nn.Module, "to", _to))
        for module in (sys.modules["torch.optim.optimizer"], _foreach_utils):
            stack.enter_context(mock.patch.object(module, "_foreach_supported_types", kinds))
        _memory, before = torch.device("cpu") if numbers else WITHOUT_NUMBERS, _memory
        stack.callback(lambda: globals().update(_memory=before))
        torch._C._set_only_lift_cpu_tensors(True)  # lists as indices are host tensors
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        stack.enter_context(_Attached())
        yield COSTS
