"""A training step of SAM 2 against transformers with PEFT. `python -m benchmarks.sam2_step [ROUNDS [SIDE]]`.

A SAM 2 of the tiny size (Hiera-T) with random weights is written in Hugging Face's layout, and opened as transformers'
`Sam2Model`. First the answers of both to the same boxes are compared, and their losses. Then both train LoRA of rank 8
at batch 2, one box an image, fp32, one thread, on images of SIDE pixels (256):

- encoder and decoder: attention and MLP of every block of the image encoder, and attention of the mask decoder.
- decoder alone: attention of the mask decoder.

A step is forward, loss and backward, without the optimizer. The loss is the same: focal, Dice, predicted IoU and
object score at the size of the image. transformers has none for SAM 2, so that its masks get it in plain operations;
its images are normalized before, which is not timed.

Time is CPU time of the process, which other processes on the machine disturb less than wall-clock time. Both networks
take turns in every round, so that both see the same disturbances. Each turn has two runs, of which the second is timed.
Kept memory is read from the graph, each storage once, without parameters and buffers. The floor is what a step takes
and keeps where the network is frozen and the gradient goes to the image.
"""

import copy
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import Sam2Model

from benchmarks.eomt_step import keep_freed_memory, medians
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.losses import PromptedMaskLoss
from eomt.models import SAM2
from eomt.models.parts.sam2_outputs import SAM2Prediction
from eomt.utils.hub import quiet
from eomt.verification.kept import kept_bytes

SIZE, SIDE, BATCH, RANK, ALPHA = "tiny", 256, 2, 8, 16
IN_ENCODER = r"vision_encoder\.backbone\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(proj_in|proj_out))"
IN_DECODER = r"mask_decoder\.transformer\..*\.(q_proj|k_proj|v_proj|o_proj)"


class Batch(NamedTuple):
    """Images with one object each, and its box."""

    image: Tensor  # (B, 3, H, W), uint8 for this package, normalized for transformers
    boxes: Tensor  # (B, 1, 4)
    targets: Tensor  # bool (B, 1, H, W)


def make_pair(side: int) -> tuple[SAM2, Sam2Model]:
    """Return both networks with the same weights."""
    torch.manual_seed(0)
    ours = SAM2(pretrained=False, size=SIZE, img_size=side)
    with tempfile.TemporaryDirectory() as folder, quiet():
        ours.write(Path(folder))
        return ours, Sam2Model.from_pretrained(folder)


def make_batches(ours: SAM2, side: int) -> tuple[Batch, Batch]:
    """Return a batch for this package, and the same for transformers."""
    image = torch.randint(0, 256, (BATCH, 3, side, side), dtype=torch.uint8)
    targets = torch.zeros(BATCH, 1, side, side, dtype=torch.bool)
    targets[:, :, side // 4 : side // 2, side // 8 : side // 2] = True
    boxes = torch.tensor([side // 8, side // 4, side // 2 - 1, side // 2 - 1]).float().expand(BATCH, 1, 4)
    return Batch(image, boxes, targets), Batch(ours.normalize(image), boxes, targets)


def adapt_ours(network: SAM2, dropout: float, encoder: bool) -> SAM2:
    """Return a copy with this package's adapters."""
    config = LoRAConfig(
        rank=RANK,
        lora_alpha=ALPHA,
        lora_dropout=dropout,
        target_modules=[rf"re:model\.({IN_ENCODER}|{IN_DECODER})" if encoder else rf"re:model\.{IN_DECODER}"],
        freeze_base_model=True,
    )
    network = copy.deepcopy(network)
    apply_lora(network, config)
    return _with_updates(network)


def adapt_theirs(network: Sam2Model, dropout: float, encoder: bool) -> Sam2Model:
    """Return a copy with PEFT's adapters, injected by PEFT."""
    targets = f"({IN_ENCODER}|{IN_DECODER})" if encoder else IN_DECODER
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=dropout, target_modules=targets)
    return _with_updates(inject_adapter_in_model(config, copy.deepcopy(network)))


def _with_updates(network: Any) -> Any:
    """Draw every B, equally in both networks, so that it is not zero, as after some steps."""
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if "lora_" in name.lower():
            nn.init.normal_(parameter, std=0.01)
    return network.train()


def frozen(network: Any) -> Any:
    """Return a frozen copy."""
    return copy.deepcopy(network).requires_grad_(False).train()


def our_loss(network: SAM2, batch: Batch) -> Tensor:
    """Return the loss of a batch."""
    return PromptedMaskLoss()(*_our_answer(network, batch), batch.targets, _all(batch))["loss"]


def their_loss(network: Sam2Model, batch: Batch) -> Tensor:
    """Return the loss of a batch, in plain operations."""
    logits, scores, object_logits = _their_answer(network, batch)
    logits = F.interpolate(logits[:, :, 0], batch.targets.shape[-2:], mode="bilinear")
    truth = batch.targets.to(logits.dtype)
    area = (2, 3)
    probability = logits.sigmoid()
    right = probability * truth + (1 - probability) * (1 - truth)
    alpha = 0.25 * truth + 0.75 * (1 - truth)
    focal = alpha * (1 - right) ** 2 * F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    overlap = (probability * truth).sum(area)
    dice = 1 - (2 * overlap + 1) / (probability.sum(area) + truth.sum(area) + 1)
    found = logits > 0
    iou = (found & batch.targets).sum(area) / (found | batch.targets).sum(area)
    iou_error = (scores[:, :, 0] - iou).abs()
    object_error = F.binary_cross_entropy_with_logits(object_logits, torch.ones_like(object_logits))
    return 20 * focal.mean() + dice.mean() + iou_error.mean() + object_error


def _our_answer(network: SAM2, batch: Batch) -> SAM2Prediction:
    return network(batch.image, boxes=batch.boxes, multimask=False)


def _their_answer(network: Sam2Model, batch: Batch) -> SAM2Prediction:
    output = network(batch.image, input_boxes=batch.boxes, multimask_output=False)
    return SAM2Prediction(output.pred_masks, output.iou_scores, output.object_score_logits)


def _all(batch: Batch) -> Tensor:
    return torch.ones(batch.targets.shape[:2], dtype=torch.bool)


def step(loss: Tensor, network: nn.Module) -> None:
    """Run the backward pass of a loss, and remove the gradients."""
    loss.backward()
    network.zero_grad(set_to_none=True)


def kept(network: nn.Module, loss: Tensor) -> float:
    """Return the MiB that the graph of a loss keeps."""
    return kept_bytes(network, loss).total / 2**20


def check_same(ours: SAM2, theirs: Sam2Model, one: Batch, other: Batch) -> None:
    """Check that both networks give the same masks, scores and loss."""
    with torch.no_grad():
        for name, found, expected in zip(
            SAM2Prediction._fields, _our_answer(ours, one), _their_answer(theirs, other), strict=True
        ):
            difference = (found - expected).abs().max() / expected.abs().max()
            print(f"Largest difference of {name}: {difference:.1e} of the largest, {expected.abs().max():.3g}.")
            assert difference < 1e-4
        torch.testing.assert_close(our_loss(ours, one), their_loss(theirs, other), rtol=1e-4, atol=1e-5)
    print()


def main() -> None:
    """Measure, and print the table."""
    keep_freed_memory()
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    side = int(sys.argv[2]) if len(sys.argv) > 2 else SIDE
    ours, theirs = make_pair(side)
    one, other = make_batches(ours, side)
    check_same(ours.train(), theirs.train(), one, other)

    print(f"| {side} px | this package, ms | transformers and PEFT, ms | ratio | kept MiB, this package | the other |")
    print("|---|---|---|---|---|---|")
    for where, encoder in (("encoder and decoder", True), ("decoder alone", False)):
        for dropout in (0.0, 0.1):
            mine, peft = adapt_ours(ours, dropout, encoder), adapt_theirs(theirs, dropout, encoder)
            if not dropout:
                check = our_loss(mine, one), their_loss(peft, other)
                torch.testing.assert_close(*check, rtol=1e-4, atol=1e-5)
            first, second = medians(
                (
                    lambda mine=mine: step(our_loss(mine, one), mine),  # type: ignore[misc]
                    lambda peft=peft: step(their_loss(peft, other), peft),  # type: ignore[misc]
                ),
                rounds,
            )
            memory = kept(mine, our_loss(mine, one)), kept(peft, their_loss(peft, other))
            print(
                f"| {where}, dropout {dropout:.1g} | {first:.0f} | {second:.0f} | {first / second:.2f} "
                f"| {memory[0]:.0f} | {memory[1]:.0f} |",
                flush=True,
            )
    lean, plain = frozen(ours), frozen(theirs)
    pixels = one._replace(image=(one.image / 255).requires_grad_())
    their_pixels = other._replace(image=other.image.clone().requires_grad_())
    floors = kept(lean, our_loss(lean, pixels)), kept(plain, their_loss(plain, their_pixels))
    first, second = medians(
        (
            lambda: step(our_loss(lean, pixels), lean),
            lambda: step(their_loss(plain, their_pixels), plain),
        ),
        rounds,
    )
    print(
        f"| floor: frozen, gradient to the image | {first:.0f} | {second:.0f} | {first / second:.2f} "
        f"| {floors[0]:.0f} | {floors[1]:.0f} |"
    )


if __name__ == "__main__":
    main()
