"""Calls made again: what a call allocates and launches is recorded, and made again from the record.

The first calls of a kind go through the forms, and the second is recorded. A later one, on other tensors, costs its
allocations and its launches, through the handles of the compiled kernels. Two calls are of one kind if they agree in
everything but what their tensors contain and where these are; whether addresses are multiples of 16 bytes counts too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import configs, runtime

MOST_RECORDED = 1_024
"""More kinds than that do not come again and again. The records are dropped, and made anew."""

_ALIGNMENT = 256  # of the tensors in a workspace, in bytes; the allocator's own is not smaller

Fill = int | float | None
"""What a tensor is filled with; None leaves it unwritten."""


def allocated(shape: Sequence[int], dtype: torch.dtype, device: torch.device, fill: Fill) -> Tensor:
    """A new tensor."""
    if fill is None:
        return torch.empty(shape, dtype=dtype, device=device)
    if fill == 0:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.full(shape, fill, dtype=dtype, device=device)


class Recorder:
    """What a call does, while it does it.

    Args:
        inputs: the tensors of the call, by the names of the kernels' arguments.
    """

    def __init__(self, inputs: dict[str, Tensor]) -> None:
        self.inputs = inputs
        self.outputs: dict[str, tuple[tuple[int, ...], torch.dtype, Fill]] = {}
        self.workspaces: list[tuple[Tensor, Fill]] = []
        self.launches: list[tuple[Any, Any, int, dict[str, Any]]] | None = []

    def output(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, fill: Fill) -> None:
        """Notes a tensor of the result."""
        self.outputs[name] = shape, dtype, fill

    def workspace(self, tensor: Tensor, fill: Fill) -> Tensor:
        """Notes a workspace. It lives as long as the record, so that no other takes its place."""
        self.workspaces.append((tensor, fill))
        return tensor

    def launch(self, compiled: Any, kernel: Any, programs: int, given: dict[str, Any]) -> None:
        """Notes a launch. Without a compiled kernel, as in the interpreter, the call cannot be made again."""
        moved = any(given.get(name, tensor).data_ptr() != tensor.data_ptr() for name, tensor in self.inputs.items())
        if compiled is None or moved:  # a tensor of another layout was copied
            self.launches = None
        elif self.launches is not None:
            self.launches.append((compiled, kernel, programs, given))

    def recorded(self) -> RecordedCall | None:
        """The call, to be made again; None if it cannot be."""
        return RecordedCall(self) if self.launches else None


class RecordedCall:
    """A recorded call, without its tensors."""

    def __init__(self, recorder: Recorder) -> None:
        launches = recorder.launches or []
        self.outputs = tuple(recorder.outputs.values())
        names = [*recorder.inputs, *recorder.outputs]
        # After the addresses of inputs and outputs come those of all workspaces with one value, then of the others.
        slots: dict[int, tuple[int, int]] = {}
        self.sizes: dict[tuple[Fill, torch.dtype], int] = {}
        groups: list[tuple[Fill, torch.dtype]] = []
        for tensor, fill in recorder.workspaces:
            group = (fill, tensor.dtype if fill else torch.uint8)
            if group not in self.sizes:
                self.sizes[group] = 0
                groups.append(group)
            unit = group[1].itemsize
            slots[id(tensor)] = len(names) + groups.index(group), self.sizes[group] * unit
            self.sizes[group] += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT // unit
        self.launches = []
        for compiled, kernel, programs, given in launches:
            arguments, addresses = [], []
            for position, name in enumerate(kernel.arg_names):
                value = given[name]
                if isinstance(value, Tensor):
                    slot, offset = (names.index(name), 0) if name in names else slots[id(value)]
                    addresses.append((position, slot, offset))
                    value = 0
                arguments.append(value)
            handle = (compiled.run, compiled.function, compiled.packed_metadata)
            self.launches.append((*handle, programs, arguments, addresses))

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Makes the call on other tensors of its kind. Returns the tensors of the result."""
        device = inputs[0].device
        results = [allocated(shape, dtype, device, fill) for shape, dtype, fill in self.outputs]
        workspaces = [allocated((size,), dtype, device, fill) for (fill, dtype), size in self.sizes.items()]
        bases = [tensor.data_ptr() for tensor in (*inputs, *results, *workspaces)]
        stream = runtime.current_stream(device)
        for run, function, metadata, programs, template, addresses in self.launches:
            arguments = template.copy()
            for position, slot, offset in addresses:
                arguments[position] = bases[slot] + offset
            run(programs, 1, 1, stream, function, metadata, None, None, None, *arguments)
        return results


_NEW, _ONCE = "new", "made once"
_recorded: dict[tuple[Any, ...], RecordedCall | str | None] = {}
"""By kind. None is a call that cannot be made again."""

_recorded_under: tuple[Any, ...] = ()


def call(kind: tuple[Any, ...], inputs: dict[str, Tensor], make: Callable[[Recorder | None], Any]) -> Any:
    """Makes a call: from its record if there is one.

    Args:
        kind: what the call is beside its tensors.
        inputs: its tensors, by the names of the kernels' arguments.
        make: makes the call through the forms, and notes what it does.
    """
    global _recorded_under
    if not runtime.is_recordable():
        return make(None)
    # Tests and tuning replace these. What was recorded with others is dropped.
    under = (runtime.current(), runtime._compiled, *_replaceable())
    if not _recorded_under or not all(map(operator.is_, under, _recorded_under)):
        _recorded.clear()
        _recorded_under = under
    tensors = tuple(inputs.values())
    key = (*kind, *[(t.shape, t.stride(), t.dtype, t.data_ptr() % 16 == 0) for t in tensors], tensors[0].device)
    found = _recorded.get(key, _NEW)
    if found is None:
        return make(None)
    if isinstance(found, RecordedCall):
        with runtime.on_device(tensors[0]):
            results = found(tensors)
        return results[0] if len(results) == 1 else tuple(results)
    if found is _NEW:
        # Many kinds come once: recording them would cost more than it saves.
        if len(_recorded) >= MOST_RECORDED:
            _recorded.clear()
        _recorded[key] = _ONCE
        return make(None)
    recorder = Recorder(inputs)
    result = make(recorder)
    _recorded[key] = recorder.recorded()
    return result


def _replaceable() -> tuple[Any, ...]:
    return (
        runtime.launch,
        runtime.multiprocessors,
        runtime.cooperative_grid,
        runtime.architecture,
        configs.similarity_config,
        configs.lazy_greedy_config,
        configs.lazy_greedy_wins,
        configs.split_k,
        configs.LARGEST_COUNT,
        configs.SIMILARITY,
        configs.GREEDY,
        configs.LAZY_GREEDY,
        configs.DPP,
        configs.CANDIDATE_COUNTS,
    )
