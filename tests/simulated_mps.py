"""An Apple GPU on any machine: tensors that say they are on "mps" and refuse float64, computed on the CPU."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

MPS = torch.device("mps")


class SimulatedMPS(TorchFunctionMode):
    """
    While it is on, `.to("mps")` and `device="mps"` give tensors that are marked. What is computed from a marked tensor
    is marked too, unless it is moved to another device. A marked tensor of float64 raises the error of the real one.
    """

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        keywords = dict(keywords or {})
        if function == torch.Tensor.device.__get__:
            return MPS if _is_marked(arguments[0]) else function(*arguments)
        if function == torch.Tensor.data.__set__:  # how nn.Module.to moves a parameter
            function(*arguments)
            return _mark(arguments[0]) if _is_marked(arguments[1]) else _unmark(arguments[0])
        if function in (torch.device, torch._C._nn._parse_to):  # the second is how nn.Module.to reads its arguments
            return function(*arguments, **keywords)
        wanted = [leaf for leaf in tree_leaves((arguments, keywords)) if _names_a_device(leaf)]
        inputs = [leaf for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, torch.Tensor)]
        arguments, keywords = tree_map(lambda leaf: "cpu" if _names_a_device(leaf) else leaf, (arguments, keywords))
        result = function(*arguments, **keywords)
        to_the_cpu = function in (torch.Tensor.cpu, torch.tensor)  # the second reads numbers out of a list
        moved = function is torch.Tensor.to and len(inputs) > 1 and not wanted  # to the place of another tensor
        if wanted:
            marked = torch.device(wanted[-1]).type == "mps"
        elif moved:
            marked = _is_marked(inputs[1])
        else:
            marked = not to_the_cpu and any(_is_marked(each) for each in inputs)
        if not marked and isinstance(result, torch.Tensor) and _is_marked(result):
            return result.detach().clone()  # `.cpu()` of what is a CPU tensor is the tensor itself
        for tensor in tree_leaves(result) if marked else []:
            if isinstance(tensor, torch.Tensor):
                _mark(tensor)
        return result


def _names_a_device(leaf: Any) -> bool:
    return isinstance(leaf, torch.device) or (isinstance(leaf, str) and leaf.split(":")[0] in ("cpu", "mps"))


def _is_marked(tensor: torch.Tensor) -> bool:
    return getattr(tensor, "_is_on_simulated_mps", False)


def _unmark(tensor: torch.Tensor) -> None:
    tensor._is_on_simulated_mps = False


def _mark(tensor: torch.Tensor) -> None:
    with torch._C.DisableTorchFunctionSubclass():
        is_double = tensor.dtype == torch.float64
    if is_double:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    tensor._is_on_simulated_mps = True


__all__ = ["MPS", "SimulatedMPS"]
