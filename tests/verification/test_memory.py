"""The estimate of training memory, against the allocator's own record of real training."""

import gc

import torch
from torch.utils.data import DataLoader

from eomt.app.trainer import Trainer
from eomt.lora.config import LoRAConfig
from eomt.models.memory import SETTINGS, memory_of, memory_set
from eomt.tasks import SemanticSegmentation
from eomt.utils.modes import isolated_randomness
from eomt.verification.memory import (
    LiveBytes,
    first_samples,
    step_memory,
    step_peaks,
)
from tests.tiny import make_eomt

LORA = LoRAConfig(target_modules=["attention", "mlp"], trainable_modules=["class_head"], freeze_base_model=True)


def make_trainer(steps: int = 1) -> Trainer:
    return Trainer(
        accelerator="cpu",
        precision="32-true",
        logger=False,
        max_steps=steps,
        max_epochs=-1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def make_task(config: LoRAConfig | None) -> SemanticSegmentation:
    torch.manual_seed(0)
    task = SemanticSegmentation(make_eomt(), config, num_points=512)
    task.trainer = trainer = make_trainer()
    trainer.optimizers = [task.configure_optimizers()["optimizer"]]
    return task


def allocated_peak(task: SemanticSegmentation, batch_size: int) -> int:
    """Most bytes that training allocated at once, as the profiler heard it from the allocator."""
    batches = [task.synthetic_batch(batch_size)] * 3
    # what other tests left would be freed meanwhile
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        make_trainer(3).fit(task, DataLoader(batches, batch_size=None))
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def test_the_estimate_is_near_what_the_allocator_saw_in_training() -> None:
    for config in (LORA, LoRAConfig(enabled=False, trainable_modules=["class_head"], freeze_base_model=True), None):
        for setting in SETTINGS:
            task = make_task(config)
            with memory_set(task.network, setting):
                memory = step_memory(task, task.unlogged_step, task.synthetic_batch(2), 5).at(5)
                measured = allocated_peak(task, 5)
            # the weights were there before the profiler
            estimate = memory.total - memory.weights
            assert abs(estimate / measured - 1) < 0.03, (config, setting, estimate, measured)


def test_what_autograd_keeps_lives_and_what_nobody_holds_does_not() -> None:
    x = torch.randn(250, 1000, requires_grad=True)
    with LiveBytes() as meter:
        y = x.exp()
        z = y.tanh()
        assert meter.live == 2_000_000
        loss = z.sum()
        del y, z
        # both are kept for the backward pass
        assert meter.live == 2_000_004
        loss.backward()
        # the gradient
        assert meter.live == 1_000_004
        x.grad = None
        assert meter.live == 4
        assert meter.peak >= 3_000_000
        meter.restart()
        assert meter.peak == 4


def test_views_and_changes_in_place_are_no_memory() -> None:
    x = torch.randn(100, 10)
    with LiveBytes() as meter:
        x.t().reshape(2, 500)[0].add_(1)
        assert meter.live == 0 or meter.peak == 4000  # reshape of a transpose copies
        x.mul_(2).view(10, 100)
        assert meter.live == 0


def test_gradients_and_adamw_are_12_bytes_a_trained_number() -> None:
    for config in (LORA, None):
        task = make_task(config)
        trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
        memory = step_memory(task, task.unlogged_step, task.synthetic_batch(2), 2).at(2)
        assert memory.gradients == 4 * trained
        assert memory.optimizer_states == 8 * trained
        assert memory.total - memory.activations - memory.weights == 12 * trained


def test_a_straight_line_through_one_and_two_samples_meets_six() -> None:
    task = make_task(LORA)
    batch = task.synthetic_batch(6)
    gradients = sum(4 * p.numel() for p in task.parameters() if p.requires_grad)
    inputs = sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))
    with isolated_randomness():
        direct = max(step_peaks(task, task.unlogged_step, batch, torch.enable_grad)) - gradients + inputs
    assert abs(step_memory(task, task.unlogged_step, batch, 6).at(6).activations / direct - 1) < 0.03


def test_each_setting_needs_less_and_is_set_back() -> None:
    task = make_task(LORA)
    found = []
    for setting in SETTINGS:
        with memory_set(task.network, setting):
            assert memory_of(task.network) == setting
            found.append(step_memory(task, task.unlogged_step, task.synthetic_batch(2), 8).at(8).activations)
    assert found[0] > found[1] > found[2]
    assert found[2] < 0.8 * found[0]
    assert memory_of(task.network) == "floor"


def test_the_largest_batch_fits_and_the_next_does_not() -> None:
    task = make_task(LORA)
    found = step_memory(task, task.unlogged_step, task.synthetic_batch(2), 2)
    limit = 3 * found.at(8).total
    size = found.largest_batch(limit)
    assert size is not None
    assert size > 8
    assert found.at(size).total <= limit < found.at(size + 1).total
    assert found.largest_batch(found.weights) == 0
    alone = step_memory(task, task.unlogged_step, task.synthetic_batch(1), 1)
    assert alone.largest_batch(limit) is None


def test_nothing_is_left_changed() -> None:
    task = make_task(LORA)
    batch = task.synthetic_batch(3)
    task.eval()
    given = next(parameter for parameter in task.parameters() if parameter.requires_grad)
    given.grad = torch.ones_like(given)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    random = torch.get_rng_state()
    step_memory(task, task.unlogged_step, batch, 3)
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(given.grad, torch.ones_like(given))
    assert [name for name, p in task.named_parameters() if p.grad is not None and p is not given] == []
    assert not any(module.training for module in task.modules())
    assert int(task.train_metric.confusion.sum()) == 0
    assert "log" not in vars(task)


def test_first_samples_cuts_tensors_and_lists_and_leaves_the_rest() -> None:
    batch = {"image": torch.zeros(3, 2), "name": ["a", "b", "c"], "scale": 2.0, "other": torch.zeros(5)}
    cut = first_samples(batch, 2)
    assert cut["image"].shape == (2, 2)
    assert cut["name"] == ["a", "b"]
    assert cut["scale"] == 2.0
    assert len(cut["other"]) == 5
