"""Translates state dicts of the original implementation to ours and back, exactly, by one table."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

State = dict[str, torch.Tensor]


class CheckpointMismatchError(ValueError):
    """A checkpoint does not fit the model. The message counts the differences and names the first ones."""


@dataclass(frozen=True)
class Layout:
    """Rearranges original tensors to one tensor of ours, and that to the tuple of the original ones."""

    to_ours: Callable[..., torch.Tensor]
    to_original: Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


SAME = Layout(lambda tensor: tensor, lambda tensor: (tensor,))
# A 1 x 1 convolution is a linear map: only the weight's two trailing axes of length one differ. A bias stays as it is.
POINTWISE = Layout(
    lambda tensor: tensor[..., 0, 0] if tensor.ndim == 4 else tensor,
    lambda tensor: (tensor[..., None, None] if tensor.ndim == 2 else tensor,),
)
# Query, key and value projections, one after the other along the output axis.
STACKED = Layout(
    lambda *tensors: torch.cat(tensors),
    # Copies, because safetensors does not write tensors that share memory.
    lambda tensor: tuple(part.clone() for part in tensor.chunk(3)),
)
# A leading axis for the batch.
BATCHED = Layout(lambda tensor: tensor[0], lambda tensor: (tensor[None],))
# Flax writes a convolution's kernel as (height, width, in, out), PyTorch as (out, in, height, width).
FLAX_KERNEL = Layout(lambda tensor: tensor.permute(3, 2, 0, 1), lambda tensor: (tensor.permute(2, 3, 1, 0),))


@dataclass(frozen=True)
class Original:
    """The original names of one of our tensors, or of a module whose parameters have equal names on both sides."""

    names: tuple[str, ...]
    layout: Layout = SAME


KeyMap = dict[str, Original]
"""Our name of a tensor or module -> its original."""


class StateDictAdapter:
    """
    Translates whole state dicts of one architecture.

    Args:
        key_map: our names of tensors and modules, with the original's.
        ours: our state dict; a model on the meta device is enough.
        ignored: names in a checkpoint that are not used.

    Raises:
        KeyError: a tensor of ours that is not in the table.
    """

    def __init__(self, key_map: KeyMap, ours: Mapping[str, torch.Tensor], ignored: Iterable[str] = ()) -> None:
        self.ignored = frozenset(ignored)
        self.originals = {name: self._original(key_map, name) for name in ours}
        self.expected_shapes: dict[str, tuple[int, ...]] = {}
        for name, original in self.originals.items():
            parts = original.layout.to_original(ours[name].to("meta"))
            self.expected_shapes.update(
                (key, tuple(part.shape)) for key, part in zip(original.names, parts, strict=True)
            )

    @staticmethod
    def _original(key_map: KeyMap, name: str) -> Original:
        """The table's entry for a tensor, or that of its module with the tensor's name appended."""
        if name in key_map:
            return key_map[name]
        module, _, leaf = name.rpartition(".")
        original = key_map[module]
        return Original(tuple(f"{key}.{leaf}" for key in original.names), original.layout)

    def check(self, state_dict: Mapping[str, torch.Tensor], source: object = "The checkpoint") -> None:
        """CheckpointMismatchError for missing or unexpected tensors, another shape, or tensors that are not float."""
        given = {name: tensor for name, tensor in state_dict.items() if name not in self.ignored}
        shared = [name for name in self.expected_shapes if name in given]
        differences = {
            "missing": [name for name in self.expected_shapes if name not in given],
            "unexpected": [name for name in given if name not in self.expected_shapes],
            "of another shape": [
                f"{name} {tuple(given[name].shape)} for {self.expected_shapes[name]}"
                for name in shared
                if tuple(given[name].shape) != self.expected_shapes[name]
            ],
            "not floating point": [
                f"{name} {given[name].dtype}" for name in shared if not given[name].is_floating_point()
            ],
        }
        if any(differences.values()):
            raise CheckpointMismatchError(
                f"{source} does not fit this model: {describe(differences)}. "
                "Is it the checkpoint of another variant, or a damaged file?"
            )

    def to_ours(self, state_dict: Mapping[str, torch.Tensor], source: object = "The checkpoint") -> State:
        """Our state dict, in our order, sharing memory with the original's if possible; errors as `check`."""
        self.check(state_dict, source)
        return {
            name: original.layout.to_ours(*(state_dict[key] for key in original.names)).contiguous()
            for name, original in self.originals.items()
        }

    def to_original(self, state_dict: Mapping[str, torch.Tensor]) -> State:
        """The original state dict of ours, the inverse of [`StateDictAdapter.to_ours`]."""
        tensors: State = {}
        for name, original in self.originals.items():
            parts = original.layout.to_original(state_dict[name])
            tensors.update((key, part.contiguous()) for key, part in zip(original.names, parts, strict=True))
        return tensors


def describe(differences: Mapping[str, list[str]], shown: int = 3) -> str:
    """`"2 missing (a, b); 40 unexpected (c, d, e, ...)"`: the count and the first names of each kind."""
    kinds = []
    for kind, names in differences.items():
        if names:
            examples = ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
            kinds.append(f"{len(names)} {kind} ({examples})")
    return "; ".join(kinds)
