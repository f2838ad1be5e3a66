"""The base of all tasks: adaptation, optimizer, schedule, and checkpoints that hold only what was trained."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import Metric

from eomt.errors import UserError, shortened
from eomt.lora.adapter_layer import adapter_parameters
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig, adaptation
from eomt.lora.files import fill, trained_state
from eomt.lora.fingerprint import same_base
from eomt.lora.record import RECORD, adaptation_record, record_difference
from eomt.lora.trainable import check_trainable
from eomt.models.memory import Memory, memory_of, set_memory
from eomt.models.network import Network
from eomt.tasks.audited import AuditedTask
from eomt.tasks.configuration import Configuration
from eomt.tasks.data import DataTarget
from eomt.tasks.kept_features import forget_features, forget_random_images, keep_features
from eomt.tasks.schedule import Schedule, schedule_factor
from eomt.utils.distributed import seed_by_rank
from eomt.utils.reading import checked
from eomt.utils.sharded import whole
from eomt.utils.trainer import steps_between_logs
from eomt.verification.memory import first_samples

log = logging.getLogger("eomt")

# before the names of the network's tensors in a checkpoint
NETWORK = "network."


class AdaptationTask(AuditedTask):
    """A network with its LoRAConfig, and the training of what is trainable in it.

    Args:
        network: The network of the task, which is adapted here.
        lora_config: Adapters and trained modules; None trains every parameter (full fine-tuning).
        lr: Learning rate of the adapters; in full fine-tuning, of everything.
        head_lr: Learning rate of the modules trained in full and of new parameters outside the backbone; None takes
            `lr`.
        weight_decay: Weight decay of matrices; vectors and biases are not decayed.
        layer_decay: Factor between the learning rates of neighboring blocks of an unfrozen backbone: the last block has
            the full rate, and each block before it a rate lower by this factor.
        schedule: Shape in which the learning rate falls to 0 after the warm-up: half a cosine, or a polynomial of power
            0.9.
        warmup: Share of the run in which the learning rate rises from 0.
        compile: Compile the network (torch.compile); the first steps are slow then.
        memory: What is kept for the backward pass: "floor" (what a frozen network keeps), "less" or "least" (next to
            nothing, for more time), see `inspect`; None leaves the network's own `checkpointing`.
        feature_cache: Memory in GiB, shared by the processes of a node, for outputs of frozen parts at the start of the
            network, which are kept from one epoch to the next where images are the same again; 0 keeps none. Parts
            without adapters are meant: an image encoder, or its blocks below `layers: last:k`.
        feature_folder: Folder where these are also written, for other processes and later runs on the same weights and
            images; None writes none.

    Attributes:
        network_class: Class of the networks that the task trains.
        monitor: Metric that selects the best checkpoint.
        mode: Whether the best value of `monitor` is the highest ("max") or the lowest ("min").
        file_metrics: Metrics in the name of the best checkpoint, without their "val_".
        data_target: What batches of data with objects hold for the task, see `DataTarget`; None where any will do.
        has_background: Whether 0 means no class in pictures and files, so that class ids start at 1.
        can_shard: Whether `--trainer.strategy sharded` trains it.
        weights: Path of the opened checkpoint, for people; None if none was opened.
        all_figures: Figures of the last test that are too many to show on a screen.
    """

    network_class: ClassVar[type[Network]]
    monitor: str
    mode: ClassVar[Literal["min", "max"]] = "max"
    file_metrics: tuple[str, ...]
    data_target: ClassVar[DataTarget | None] = None
    has_background: ClassVar[bool] = False
    can_shard: ClassVar[bool] = True

    def __init__(
        self,
        network: Network,
        lora_config: LoRAConfig | None = None,
        lr: float = 1e-3,
        head_lr: float | None = None,
        weight_decay: float = 0.05,
        layer_decay: float = 1.0,
        schedule: Schedule = "cosine",
        warmup: float = 0.1,
        compile: bool = False,
        memory: Memory | None = None,
        feature_cache: float = 4.0,
        feature_folder: Path | None = None,
    ) -> None:
        super().__init__()
        for name in ("network_class", "monitor", "file_metrics"):
            if not hasattr(type(self), name):
                raise UserError(f"{type(self).__name__}.{name}: is not set; a task names it, see AdaptationTask")
        self.check_network(network)
        for name, value, good, allowed in (
            ("lr", lr, lr >= 0, "at least 0"),
            ("head_lr", head_lr, head_lr is None or head_lr >= 0, "at least 0"),
            ("weight_decay", weight_decay, weight_decay >= 0, "at least 0"),
            ("layer_decay", layer_decay, 0 < layer_decay <= 1, "above 0 and at most 1"),
            ("warmup", warmup, 0 <= warmup < 1, "at least 0 and below 1"),
            ("feature_cache", feature_cache, 0 <= feature_cache < math.inf, "at least 0"),
        ):
            if not good:
                raise UserError(f"{name}: {shortened(str(value))}; must be {allowed}")
        if lora_config is not None and adaptation(network) is not None:
            raise UserError(
                "lora_config: this network is adapted already; give lora_config once, to the task or to the network"
            )
        apply_lora(network, lora_config)
        self.network = network
        self.lr, self.head_lr, self.weight_decay, self.layer_decay = lr, head_lr, weight_decay, layer_decay
        self.schedule, self.warmup = schedule, warmup
        if memory is not None:
            if memory != "least" and memory_of(network) != "floor":
                raise UserError(f"memory: {memory}, but checkpointing of the network is true; leave one of them out")
            set_memory(network, memory)
        if compile:
            network.compile_blocks()
        self.feature_cache = feature_cache
        self.feature_folder = None if feature_folder is None else Path(feature_folder).expanduser()
        self.weights: str | None = None
        self.all_figures: dict[str, float] = {}

    @classmethod
    def check_network(cls, network: Network) -> None:
        """Check that a network is of the class that the task trains.

        Raises:
            UserError: If it is not.
        """
        if not isinstance(network, cls.network_class):
            package = cls.network_class.__module__
            package = "eomt.models" if package.startswith("eomt.models.") else package
            raise UserError(
                f"network: {type(network).__name__}; {cls.__name__} takes {package}.{cls.network_class.__name__}"
            )

    # -- configuration, before anything is built ---------------------------------------------------------------------

    @classmethod
    def configure(cls, configuration: Configuration) -> None:
        """Fill in what the data and the network determine for each other.

        By default these are what batches hold, image sizes, channels and the number of classes, if the network or the
        data have them. A task with more to fill in overrides this method.

        Raises:
            UserError: For a value in the configuration that contradicts the data.
        """
        configuration.fill_target(cls.data_target)
        configuration.fill_sizes()
        configuration.fill_channels()
        configuration.fill_classes()

    @classmethod
    def open_merged(cls, configuration: Configuration, folder: Path) -> None:
        """Set a configuration to a merged folder, which holds every weight: nothing is adapted or downloaded."""
        configuration.task["lora_config"] = None
        configuration.network_class.without_weights(configuration.network)
        if configuration.network_class.opens(folder):
            configuration.network["pretrained"] = str(folder)

    def synthetic_batch(self, batch_size: int) -> dict[str, Any]:
        """Return a training batch of random values, for commands that run without data.

        Raises:
            UserError: If the task has no synthetic batch.
        """
        raise UserError(f"data: null, and {type(self).__name__} has no synthetic batch; give a datamodule")

    def first_samples(self, batch: dict[str, Any], size: int) -> dict[str, Any]:
        """Return the first `size` images of a training batch with all that belongs to them."""
        return first_samples(batch, size)

    def unlogged_step(self, batch: dict[str, Any]) -> Tensor:
        """Return the loss of a training step outside of a fit, without a trace in logs and metrics."""

        def drop(*_: Any, **__: Any) -> None:
            return None

        vars(self).update(log=drop, log_dict=drop)
        try:
            return self.training_step(batch, 0)
        finally:
            del self.log, self.log_dict
            for module in self.modules():
                if isinstance(module, Metric):
                    module.reset()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Return AdamW over the trainable parameters, with a schedule of warm-up and decay per step.

        Raises:
            UserError: If nothing is trainable, or something else than the configuration says.
        """
        check_trainable(self.network)
        groups = self.parameter_groups()
        if not groups:
            raise UserError(
                "lora_config: there is nothing to train: freeze_base_model is true, and there are neither adapters "
                "(enabled: false) nor trainable_modules; `validate` measures the base as it is"
            )
        optimizer = torch.optim.AdamW(groups, lr=self.lr)
        factor = schedule_factor(self.trainer, self.schedule, self.warmup)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the optimizer's groups: adapters, adapters_b (LoRA+), heads, backbone_<layer>.

        Parameters without weight decay have a group of their own, <name>_no_decay. Layer decay does not apply to
        adapters, or those of the first blocks would hardly learn (block 0 of a ViT-B: 0.086 of the rate).
        """
        done = adaptation(self.network)
        adapters = adapter_parameters(self.network)
        ratio = done.config.loraplus_lr_ratio if done else 1.0
        depth_of = self.network.depth_of
        depths = [depth for name, _ in self.network.named_parameters() if (depth := depth_of(name)) is not None]
        groups: dict[tuple[str, bool], dict[str, Any]] = {}
        for name, parameter in self.network.named_parameters():
            if not parameter.requires_grad:
                continue
            depth = depth_of(name)
            if adapters.get(name) == "lora_B" and ratio != 1:
                kind, lr = "adapters_b", self.lr * ratio
            elif name in adapters:
                kind, lr = "adapters", self.lr
            elif depth is not None:
                kind, lr = f"backbone_{depth}", self.lr * self.layer_decay ** (max(depths) - depth)
            else:
                kind, lr = "heads", self.lr if self.head_lr is None else self.head_lr
            decayed = parameter.dim() > 1
            # names of their own, which LearningRateMonitor asks for
            name = kind if decayed else f"{kind}_no_decay"
            group = groups.setdefault(
                (kind, decayed),
                {"name": name, "params": [], "lr": lr, "weight_decay": self.weight_decay if decayed else 0.0},
            )
            group["params"].append(parameter)
        return list(groups.values())

    def setup(self, stage: str) -> None:
        """Give weights the run's precision before a checkpoint fills them, and each process random numbers of its own.

        The latter in training; a checkpoint's states are put back later.
        """
        self.trainer.precision_plugin.convert_module(self)
        if stage == "fit":
            seed_by_rank(self.global_rank)
        # other commands see each image once
        limit = self.feature_cache if stage == "fit" else 0.0
        keep_features(self.network, limit, self.feature_folder, self.trainer)

    def on_train_start(self) -> None:
        """Set learning rates and weight decays of a resumed run to those of its configuration.

        Without it, the values in the checkpoint would apply.
        """
        if not self.trainer.ckpt_path:
            return
        (optimizer,), (config,) = self.trainer.optimizers, self.trainer.lr_scheduler_configs
        scheduler = config.scheduler
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        scheduler.base_lrs = [group["lr"] for group in self.parameter_groups()]
        for group, wanted in zip(optimizer.param_groups, self.parameter_groups(), strict=True):
            factor = scheduler.lr_lambdas[0](scheduler.last_epoch)
            group |= {"initial_lr": wanted["lr"], "lr": wanted["lr"] * factor, "weight_decay": wanted["weight_decay"]}
            group["name"] = wanted["name"]

    def teardown(self, stage: str) -> None:
        """Keep no features longer than the run."""
        forget_features(self.network)

    def on_train_epoch_end(self) -> None:
        """No longer keep features of training images where these differ each time."""
        forget_random_images(self.network, self.current_epoch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a batch; log it, its parts, the learning rate and the task's training metrics."""
        losses, output = self.losses(batch)
        size = len(batch["image"])
        self.log("train_loss", losses["loss"], prog_bar=True, batch_size=size)
        self.log_dict({f"train_{name}": value for name, value in losses.items() if name != "loss"}, batch_size=size)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=size)
        self.training_metrics(batch, output)
        return losses["loss"]

    def training_metrics(self, batch: dict[str, Any], output: Any) -> None:
        """Log metrics of the training batches: their distance to those of validation shows overfitting."""

    def ends_logged_step(self) -> bool:
        """Return whether the current batch is the last one of an optimizer step whose metrics are logged."""
        every: int = steps_between_logs(self.trainer)
        return (self.global_step + 1) % every == 0 and not self.trainer.fit_loop._should_accumulate()

    def notes(self, figures: Mapping[str, float], stage: str) -> list[str]:
        """Return what must be known beside the figures: the log, the summary and the closing table show it.

        Args:
            figures: Those of the test, or of the last validation; the one that selects a step is that of the best.
            stage: "val" or "test", with which their names begin.

        Returns:
            Sentences; none by default.
        """
        return []

    # -- checkpoints: trained tensors only ------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only the trained tensors, and add a record of the adapters."""
        checkpoint["state_dict"] = {NETWORK + name: whole(value) for name, value in trained_state(self.network).items()}
        done = adaptation(self.network)
        if done:
            checkpoint["adaptation"] = adaptation_record(done)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the adapters of a checkpoint are those of the configuration, trained on the same base.

        Raises:
            UserError: If they are not.
        """
        done, record = adaptation(self.network), checkpoint.get("adaptation")
        if done is None or record is None:
            if (done is None) != (record is None):
                state = "with" if record else "without"
                raise UserError(f"ckpt_path: was trained {state} a lora_config; leave --config out")
            return
        record = checked(record, RECORD, "ckpt_path: its record of the adapters", "give another checkpoint")
        if difference := record_difference(adaptation_record(done), record):
            raise UserError(f"ckpt_path: {difference}; leave --config out to use the run's own")
        if (kind := record.get("quantize")) != done.config.quantize:
            if self._trains:
                raise UserError(
                    f"ckpt_path: quantize is {kind or 'null'} in the checkpoint, {done.config.quantize or 'null'} in "
                    "lora_config; leave it out to use the run's own"
                )
            here = done.config.quantize or "null"
            log.info("ckpt_path: trained with quantize: %s, and opened with quantize: %s", kind or "null", here)
        if difference := same_base(done.fingerprint, record["fingerprint"]):
            raise UserError(f"ckpt_path: was trained on another base: {difference}; load that base")

    @property
    def _trains(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Fill in the trained tensors; only frozen ones may be missing, whatever `strict` says.

        Without `strict`, frozen ones are left as they are: Lightning gives all tensors back so where ranks were forked.

        Raises:
            UserError: If a tensor is missing, unexpected or of another shape.
        """
        state = {name.removeprefix(NETWORK): value for name, value in state_dict.items()}
        if not strict:
            frozen = state.keys() & set(self.network.state_dict()) - set(trained_state(self.network))
            state = {name: value for name, value in state.items() if name not in frozen}
        fill(self.network, state, "ckpt_path")
        return nn.modules.module._IncompatibleKeys([], [])
