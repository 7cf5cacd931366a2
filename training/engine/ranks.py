"""One run on several GPUs or hosts: who does which packs, what all must agree on, and models sharded over the ranks.

Started by torchrun, every rank runs the same program on the same plan: the packs of a batch are dealt out in turn, sums
are added up, and what was sampled or scored is gathered, so that every rank knows the same numbers and takes the same
decisions. Models in training are sharded layer by layer (FSDP2: Zhao et al. 2023; `torch.distributed.fsdp`), frozen
ones are whole on each rank. Rank 0 writes the files. Alone, every function here does nothing.

W ranks.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from training.engine.errors import ConfigError, Diverged, ModelError, SnapshotError
from training.engine.models import trunk

T = TypeVar("T")
R = TypeVar("R")
PATIENCE = datetime.timedelta(minutes=30)
"""How long a rank waits for the others: the first one may be writing a checkpoint, or sampling the longest text."""


class Root(nn.Module):
    """The outermost sharded module: whatever is called through it finds the weights outside the layers whole."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[], Any]) -> Any:
        return function()


def join(device: torch.device) -> None:
    """Meet the other ranks, if torchrun started several: its variables say how many and where. Safe to repeat."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)


def local_device() -> int:
    """The number of this rank's GPU on its host."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    return rank() == 0


def wait_for_all() -> None:
    """Until every rank is here."""
    if world() > 1:
        dist.barrier()


# --- sharing work -----------------------------------------------------------------------------------------------------


def own_share(items: Sequence[T]) -> list[tuple[T, bool]]:
    """This rank's part of a list dealt out in turn, as long on every rank: filled up with an item that does not count.

    Sharded layers are gathered by all ranks at once, so all must make the same number of passes.
    """
    own = [(item, True) for item in items[rank() :: world()]]
    missing = -(-len(items) // world()) - len(own)
    return own + [(items[0], False)] * missing


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of every rank's tensor, on the host; the same on all of them."""
    if world() == 1:
        return values
    moved = values.to(_meeting_device())
    dist.all_reduce(moved)
    return moved.to(values.device)


def any_rank(flag: bool) -> bool:
    """True where any rank says so."""
    return flag if world() == 1 else bool(sum_over_ranks(torch.tensor([float(flag)]))[0] > 0)


def share_out(items: Sequence[T], work: Callable[[list[T]], list[R]]) -> list[R]:
    """`work` on this rank's part of the items; the results of all ranks in the order of the items, on each of them.

    An expected failure of one rank is raised on all, so all end alike.
    """
    if world() == 1:
        return work(list(items))
    own: list[R] | Exception
    try:
        own = work(list(items[rank() :: world()]))
    except (ConfigError, SnapshotError, ModelError, Diverged) as error:  # the others wait for an answer
        own = error
    found: list[list[R] | Exception] = [[] for _ in range(world())]
    dist.all_gather_object(found, own)
    parts = []
    for part in found:
        if isinstance(part, Exception):
            raise part
        parts.append(part)
    return [parts[place % world()][place // world()] for place in range(len(items))]


def gather_dict(own: dict[int, R]) -> dict[int, R]:
    """The entries of all ranks."""
    if world() == 1:
        return own
    found: list[dict[int, R]] = [{} for _ in range(world())]
    dist.all_gather_object(found, own)
    return {key: value for part in found for key, value in part.items()}


def _meeting_device() -> torch.device:
    return torch.device("cuda", local_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


# --- sharded models ---------------------------------------------------------------------------------------------------


def shard(model: Any) -> Root | None:
    """Spread a model's weights over the ranks, layer by layer; None when there is one rank."""
    if world() == 1:
        return None
    mesh = init_device_mesh(_meeting_device().type, (world(),))
    for layer in trunk(model).layers:
        fully_shard(layer, mesh=mesh)
    root = Root(model)
    fully_shard(root, mesh=mesh)
    return root


def call(roots: Sequence[Root | None], function: Callable[[], T]) -> T:
    """`function()` with the weights outside the layers of these models whole, and ready for a backward pass."""
    for root in roots:
        if root is not None:
            function = _through(root, function)
    return function()


def _through(root: Any, function: Callable[[], T]) -> Callable[[], T]:
    def inside() -> T:
        found: T = root(function)
        if not torch.is_grad_enabled():
            # No backward pass will do it, and whoever asks for the parameters next must find the sharded ones.
            root.reshard()
        return found

    return inside


@contextlib.contextmanager
def whole(root: Root | None) -> Iterator[None]:
    """Inside, every weight is whole on every rank, for a decoder that reads the weights without calling the layers."""
    if root is None:
        yield
        return
    layers = [layer for layer in trunk(root.model).layers if isinstance(layer, FSDPModule)]
    sharded = [module for module in root.modules() if isinstance(module, FSDPModule)]
    for layer in layers:
        layer.set_reshard_after_forward(False, recurse=False)
    for module in sharded:
        module.unshard()
    try:
        yield
    finally:
        for layer in layers:
            layer.set_reshard_after_forward(True, recurse=False)
        for module in sharded:
            module.reshard()


def full(tensor: Tensor) -> Tensor:
    """A sharded tensor whole, on the host; all ranks must ask."""
    found: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found.detach().cpu().contiguous()


def full_state(model: Any) -> dict[str, Tensor]:
    """A model's state whole, on the host; a tensor under two names (a tied head) is one tensor again."""
    found: dict[int, Tensor] = {}
    state = model.state_dict(keep_vars=True)
    for tensor in state.values():
        if id(tensor) not in found:
            found[id(tensor)] = full(tensor)
    return {name: found[id(tensor)] for name, tensor in state.items()}


def as_sharded(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut as another one is."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements)


def clip(parameters: Sequence[Tensor], *, limit: float) -> float:
    """Scale the gradients down to a global norm of `limit`; returns the norm before, the same on every rank.

    Parameters that are not sharded have their gradients added up here first: sharded ones were in the backward pass.
    """
    if world() == 1:
        return float(nn.utils.clip_grad_norm_(parameters, limit))
    sharded = [p for p in parameters if isinstance(p, DTensor) and p.grad is not None]
    others = [p for p in parameters if not isinstance(p, DTensor) and p.grad is not None]
    for parameter in others:
        assert parameter.grad is not None
        parameter.grad.copy_(sum_over_ranks(parameter.grad) / world())
    squares = [
        full(nn.utils.get_total_norm([p.grad for p in part if p.grad is not None])) ** 2
        for part in (sharded, others)
        if part
    ]
    norm = float(torch.stack(squares).sum().sqrt())
    factor = min(1.0, limit / (norm + 1e-6))  # the constant is that of torch's own clipping
    for parameter in [*sharded, *others]:
        assert parameter.grad is not None
        parameter.grad.mul_(factor)
    return norm
