"""A second device that is simulated: its numbers lie in host memory, and yet it is a device of its own.

As with CUDA, an operation over tensors of both devices is an error (but for scalars and for indices), and every value
that reaches the host is a read, which makes the host wait. So a run on it shows, without a GPU, that a run on one would
find every tensor where it must be, and how often host and device meet. What it does not show: CUDA's own kernels, their
speed and their memory.

To be entered before the first backward of a process: torch's autograd counts the devices then, once.
"""

from __future__ import annotations

import traceback
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, cast
from unittest.mock import patch

import safetensors.torch
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "simulated"
_READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
_LITERALS = (torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor)
_INDEXED = (Tensor.__getitem__, Tensor.__setitem__)
_HERE = torch.device("cpu")


class _Module(backend_registration._DummyBackendModule):
    """`torch.simulated`."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def is_autocast_enabled(self) -> bool:
        return False


cast(Any, backend_registration)._setup_privateuseone_for_python_backend(NAME, _Module())
DEVICE = torch.device(NAME, 0)


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


class OnDevice(Tensor):
    """A tensor on the simulated device; `inner` has its numbers."""

    inner: Any  # torch's stubs know another of that name

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        make = cast(Any, Tensor)._make_wrapper_subclass
        with torch.inference_mode(False):  # a view of a normal tensor is one, in inference mode too
            made = make(
                cls,
                inner.size(),
                strides=inner.stride(),
                storage_offset=inner.storage_offset(),
                dtype=inner.dtype,
                layout=inner.layout,
                device=DEVICE,
            )
        made.inner = inner
        return cast(OnDevice, made)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"OnDevice({self.inner!r})"

    @property
    def data(self) -> Tensor:
        """Assigned to, it takes over the numbers, too."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        cast(Any, Tensor.data).__set__(self, value)
        self.inner = cast(OnDevice, value).inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """In other threads (autograd has one for the device), which are in no mode."""
        assert Simulation.entered is not None, f"{func} of the simulated device outside a simulation"
        return Simulation.entered.compute(func, args, dict(kwargs or {}))


class Simulation(TorchDispatchMode):
    """While it is entered the device is there; `reads` counts by the functions that read it."""

    entered: ClassVar[Simulation | None] = None

    def __init__(self) -> None:
        cast(Any, super()).__init__()
        self.reads: Counter[str] = Counter()
        self._entered = ExitStack()

    def __enter__(self) -> Simulation:
        self._entered.enter_context(patch("peft.peft_model.safe_save_file", _save))
        self._entered.enter_context(patch("peft.utils.save_and_load.safe_load_file", _load))
        for name in ("storage_ptr", "storage_size"):
            self._entered.enter_context(patch(f"peft.utils.other.{name}", _of_storage(name)))
        self._entered.enter_context(cast(Any, _Literals(self)))
        Simulation.entered = self
        return cast(Simulation, cast(Any, super()).__enter__())

    def __exit__(self, *error: Any) -> None:
        cast(Any, super()).__exit__(*error)
        self._entered.close()
        Simulation.entered = None

    def read(self, what: str) -> None:
        """Note that the host waits for the device."""
        stack = [frame for frame in traceback.extract_stack() if "/torch/" not in frame.filename]
        outside = [frame for frame in stack if not frame.filename.endswith("simulated/device.py")]
        places = (f"{Path(frame.filename).stem}.{frame.name}" for frame in reversed(outside[-3:]))
        self.reads[f"{what} {' < '.join(places)}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.compute(func, args, dict(kwargs or {}))

    def compute(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The operation over the numbers in host memory, after what a second device would say of it."""
        name, device = func.overloadpacket.__name__, kwargs.get("device")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        theirs = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        if name in ("_to_copy", "copy_"):
            to = args[0].device if name == "copy_" or device is None else device
            if isinstance(args[-1], OnDevice) and not _is_there(to):
                self.read(name)
        elif theirs and name not in _INDEXING:
            _check_alike(func, tensors)
        if theirs and name in _READS:
            self.read(name)
        if "device" in kwargs and _is_there(device):
            kwargs |= {"device": _HERE}
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if not (_is_there(device) or (theirs and device is None)):
            return result
        known = {id(tensor.inner): tensor for tensor in theirs} if func._schema.is_mutable else {}
        return tree_map(lambda one: _wrapped(one, known) if isinstance(one, Tensor) else one, result)


class _Literals(TorchFunctionMode):
    """What torch does below every dispatch mode: tensors made of Python's numbers, or indexed by them."""

    def __init__(self, simulation: Simulation) -> None:
        cast(Any, super()).__init__()
        self._simulation = simulation

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist and isinstance(args[0], OnDevice):
            self._simulation.read("tolist")
            return args[0].inner.tolist()
        if func in _LITERALS and _is_there(kwargs.get("device")):
            return func(*args, **kwargs | {"device": _HERE}).to(DEVICE)
        if func is Tensor.new_tensor and isinstance(args[0], OnDevice):
            return torch.tensor(args[1], dtype=args[0].dtype).to(DEVICE)
        if func in _INDEXED:
            args = args[0], _index(args[1]), *args[2:]
        return func(*args, **kwargs)


def _check_alike(func: Any, tensors: list[Tensor]) -> None:
    """As CUDA: all on one device, but for scalars."""
    other = next((one for one in tensors if not isinstance(one, OnDevice) and one.dim() > 0), None)
    if other is not None:
        raise RuntimeError(f"{func}: tensors on {DEVICE} and on {other.device}, {tuple(other.shape)}")


def _wrapped(result: Tensor, known: dict[int, OnDevice]) -> OnDevice:
    """What an operation has changed in place comes out as it went in."""
    return known[id(result)] if id(result) in known else OnDevice(result)


def _index(index: Any) -> Any:
    """Lists of numbers become tensors."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return torch.tensor(index) if isinstance(index, list) else index


def _inner(value: Any) -> Any:
    if isinstance(value, OnDevice):
        return value.inner
    return _HERE if isinstance(value, torch.device) and value.type == NAME else value


def _save(tensors: dict[str, Tensor], *rest: Any, **options: Any) -> None:
    """safetensors brings what lies on a device to the host by itself, and asks for its address before."""
    save_file({key: _inner(tensor) for key, tensor in tensors.items()}, *rest, **options)


def _load(path: Any, device: Any = "cpu") -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in load_file(path).items()}


def _of_storage(name: str) -> Any:
    ask = getattr(safetensors.torch, name)
    return lambda tensor: ask(_inner(tensor))
