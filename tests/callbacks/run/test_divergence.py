"""16.7: a run whose numbers are not finite ends before they reach its weights or its files."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import DivergenceGuard
from callbacks.run.divergence import DivergenceError, check_finite
from tests.cli_runs import Workspace, make_workspace, refusal


class Spoiled(LightningModule):
    """A line whose loss or gradient is not finite at a step."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.step, self.what = step, what

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.layer(batch).square().mean()
        if self.global_step == self.step - 1 and self.what == "loss":
            loss = loss * torch.nan
        if self.global_step == self.step - 1 and self.what == "gradient":
            # finite, with a slope that is not
            loss = loss + (self.layer.weight.sum() * 0.0).abs().sqrt()
        return loss

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.randn(80, 2), batch_size=4)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_the_step_is_named_and_the_weights_are_those_before_it(tmp_path: Path, what: str) -> None:
    torch.manual_seed(0)
    task = Spoiled(7, what)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_steps=20,
        log_every_n_steps=5,
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        callbacks=[DivergenceGuard()],
        **quiet,
    )
    with pytest.raises(DivergenceError, match=r"not finite at step 7 \(rate 1.0e-02\).*lower --model.lr"):
        trainer.fit(task)
    assert trainer.global_step == 6
    check_finite(task, 6)


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    task = Spoiled(1, "loss")
    with torch.no_grad():
        task.layer.bias.fill_(torch.inf)
    with pytest.raises(DivergenceError, match=r"layer\.bias: is not finite at step 3"):
        check_finite(task, 3)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("divergence"))


def test_the_good_checkpoint_stays(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """The latest file was replaced by one full of NaN."""
    workspace.fit("good", "--trainer.max_epochs", "1")
    args = ("fit", "--run_name", "good", "--ckpt_path", "latest", "--model.lr", "1e12")
    assert "the training diverged" in refusal(capsys, workspace, *args)
    (latest,) = (workspace.runs / "good").glob("latest_lora_step*.ckpt")
    saved = torch.load(latest, weights_only=True)
    assert saved["global_step"] == 4
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())


def test_what_a_run_without_checkpoints_wrote_stays(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    """Log and figures say why it diverged; they went with the folder."""
    args = ("--run_name", "unsaved", "--trainer.enable_checkpointing", "false", "--trainer.callbacks", "null")
    error = refusal(capsys, workspace, "fit", *args, "--model.lr", "1e12", "--trainer.max_epochs", "3")
    assert "the training diverged" in error
    assert (workspace.runs / "unsaved" / "training.log").is_file()
