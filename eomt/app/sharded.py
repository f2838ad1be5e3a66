"""`--trainer.strategy sharded`: every process holds a part of each weight (FSDP2), for bases too large for one GPU."""

from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from eomt.errors import UserError
from eomt.utils.sharded import parted, whole

NAME = "sharded"
# of a task; what a network computes is computed within one of these
STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class ShardedStrategy(DDPStrategy):
    """Data-parallel training in which weights, gradients and optimizer states are divided among the processes.

    A block is whole only while it computes. Checkpoints are filled in before the weights are divided and are gathered
    before they are written, so that they are the same files as those of one process. Lightning's ModelParallelStrategy
    has files of its own, with the frozen weights in them, and reads a checkpoint after the division.
    """

    strategy_name = NAME

    def model_to_device(self) -> None:
        """Divide each transformer block, and then all other weights; whole ones are on the device one block a time.

        Raises:
            UserError: If the task cannot be, or a parameter is part of two blocks, or of one and the rest.
        """
        task = self.lightning_module
        assert task is not None
        if not getattr(task, "can_shard", True):
            raise UserError(f"trainer.strategy: sharded, but {type(task).__name__} is not trained in parts; give ddp")
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        blocks = blocks_of(task)
        refuse_shared(task, blocks)
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(task, mesh=mesh)
        for name in STEPS:
            register_fsdp_forward_method(task, name)
        super().model_to_device()

    def setup(self, trainer: Any) -> None:
        """Divide the weights, and build the optimizers over the parts.

        Raises:
            UserError: If the task cannot be, or a parameter is part of two blocks, or of one and the rest.
        """
        assert self.accelerator is not None
        assert self.model is not None
        self.accelerator.setup(trainer)
        self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the state of an optimizer with whole tensors, as one process has it; every process must call this."""
        state: dict[str, Any] = dict(super().optimizer_state(optimizer))
        moments = {
            index: {name: whole(value) if isinstance(value, torch.Tensor) else value for name, value in own.items()}
            for index, own in state["state"].items()
        }
        return state | {"state": moments}

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Give each process its parts of the states in a checkpoint."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)
            for parameter, own in optimizer.state.items():
                for name, value in own.items():
                    if isinstance(value, torch.Tensor) and value.shape == parameter.shape and name != "step":
                        own[name] = parted(value, parameter)


def register_sharded() -> None:
    """Let Lightning know the strategy under its short name."""
    if NAME not in StrategyRegistry:
        StrategyRegistry.register(NAME, ShardedStrategy, description=ShardedStrategy.__doc__ or "")


def is_sharded_strategy(strategy: Any) -> bool:
    """Return whether a strategy, as the trainer takes it, is this one."""
    return strategy == NAME or isinstance(strategy, ShardedStrategy)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks of a model: the outermost lists of two or more modules of one class."""
    blocks: list[nn.Module] = []

    def search(module: nn.Module) -> None:
        for child in module.children():
            inner = list(child.children())
            is_list = isinstance(child, nn.ModuleList | nn.Sequential) and len(inner) > 1
            if is_list and len({type(one) for one in inner}) == 1 and _holds_weights(inner):
                blocks.extend(inner)
            else:
                search(child)

    search(model)
    return blocks


def _holds_weights(modules: list[nn.Module]) -> bool:
    return all(any(parameter.dim() > 1 for parameter in module.parameters()) for module in modules)


def refuse_shared(model: nn.Module, blocks: list[nn.Module]) -> None:
    """Check that no weight is in two blocks, or in one and outside.

    Raises:
        UserError: If one is.
    """
    chosen = {id(block) for block in blocks}
    paths = [f"{path}." for path, module in model.named_modules(remove_duplicate=False) if id(module) in chosen]
    owners: dict[int, tuple[str, str | None]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owner = next((path for path in paths if name.startswith(path)), None)
        first, known = owners.setdefault(id(parameter), (name, owner))
        if known != owner:
            raise UserError(
                f"trainer.strategy: sharded, but {first!r} and {name!r} are one weight in different blocks; give ddp"
            )
