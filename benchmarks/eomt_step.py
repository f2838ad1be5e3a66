"""The cost of a training step of EoMT, against transformers with PEFT. `python -m benchmarks.eomt_step [ROUNDS]`.

`EomtForUniversalSegmentation` with random weights is saved, and opened here as `EoMT(pretrained=folder)`. First their
logits are compared. The networks are DINOv2 with registers, 192 wide, 8 blocks, 100 queries in the last 4, 19 classes,
at batch 2, 192 px, fp32, one thread. Both train LoRA of rank 8 (dropout 0.1) on query, key, value, output projection
and MLP of every block, and queries and heads in full. The rows are:

- training step: forward with masked attention, loss of all 5 layers at 12,544 points, backward; without the optimizer.
  transformers gets prepared binary masks and normalized images, which are not timed.
- the same with this package's default adapters: one pair on the fused query, key and value instead of three.
- loss alone: from given predictions to their gradients.
- annealed evaluation: forward with masked attention switched off, without adapters.

Kept is what autograd holds after the forward pass and the loss of a training step, read from the graph: each storage
counts once, and parameters and buffers do not.

Time is CPU time of the process, which other processes on the machine disturb less than wall-clock time. Both networks
take turns in every round, so that both see the same disturbances. Each turn has two runs, of which the second is timed.
"""

import copy
import ctypes
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import EomtConfig, EomtForUniversalSegmentation

from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.losses import MaskClassificationLoss
from eomt.models import EoMT, ViT
from eomt.models.weights.backbone.names import Backbone
from eomt.utils.hub import quiet
from eomt.verification.kept import kept_bytes

WIDTH, DEPTH, NUM_HEADS, NUM_BLOCKS, NUM_QUERIES, NUM_CLASSES = 192, 8, 3, 4, 100, 19
BATCH, PIXELS, RANK, ALPHA, DROPOUT = 2, 192, 8, 16, 0.1
PEFT_TARGETS = r"layers\.\d+\.(attention\.(q_proj|k_proj|v_proj|out_proj)|mlp\.(fc1|fc2))"
THEIR_HEADS = ("query", "class_predictor", "mask_head", "upscale_block")
OUR_HEADS = ("q", "class_head", "mask_head", "upscale")
Run = Callable[[], object]


class NarrowViT(ViT):
    """DINOv2 with registers in the size of the benchmark."""

    def _create(self, from_hub: bool, **arguments: Any) -> Backbone:
        return super()._create(from_hub, embed_dim=WIDTH, depth=DEPTH, num_heads=NUM_HEADS, **arguments)


def make_pair() -> tuple[EoMT, EomtForUniversalSegmentation]:
    """Return both networks with the same weights."""
    torch.manual_seed(0)
    fields: dict[str, Any] = {"num_labels": NUM_CLASSES}
    config = EomtConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=NUM_HEADS,
        image_size=PIXELS,
        num_blocks=NUM_BLOCKS,
        num_queries=NUM_QUERIES,
        **fields,
    )
    theirs = EomtForUniversalSegmentation(config)
    encoder = NarrowViT("vit_small_patch14_reg4_dinov2", (PIXELS, PIXELS), pretrained=False, patch_size=16)
    with tempfile.TemporaryDirectory() as folder, quiet():
        theirs.save_pretrained(folder)
        ours = EoMT(encoder, NUM_CLASSES, NUM_QUERIES, NUM_BLOCKS, pretrained=folder)
    return ours, theirs


def make_batch(ours: EoMT) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return images, uint8 `(B, 3, H, W)`, masks of 16 blocks, `(B, H, W)`, and both in transformers' form."""
    image = torch.randint(0, 256, (BATCH, 3, PIXELS, PIXELS), dtype=torch.uint8)
    side = PIXELS // 4
    mask = torch.randint(0, NUM_CLASSES, (BATCH, 4, 4)).repeat_interleave(side, 1).repeat_interleave(side, 2)
    class_labels = [labels.unique() for labels in mask]
    mask_labels = [(m == labels[:, None, None]).float() for m, labels in zip(mask, class_labels, strict=True)]
    pixels = (image / 255 - ours.encoder.normalize.mean) / ours.encoder.normalize.std
    return image, mask, {"pixel_values": pixels, "mask_labels": mask_labels, "class_labels": class_labels}


def adapt_ours(network: EoMT, targets: tuple[str, ...]) -> EoMT:
    """Return a copy with this package's adapters, whose B is not zero, as after some steps."""
    config = LoRAConfig(
        rank=RANK,
        lora_alpha=ALPHA,
        lora_dropout=DROPOUT,
        target_modules=list(targets),
        freeze_base_model=True,
        trainable_modules=list(OUR_HEADS),
    )
    network = copy.deepcopy(network)
    apply_lora(network, config)
    return _with_updates(network)


def adapt_theirs(network: EomtForUniversalSegmentation) -> EomtForUniversalSegmentation:
    """Return a copy with PEFT's adapters, injected by PEFT."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules=PEFT_TARGETS)
    adapted = inject_adapter_in_model(config, copy.deepcopy(network))
    for name in THEIR_HEADS:
        adapted.get_submodule(name).requires_grad_(True)
    return _with_updates(adapted)


def _with_updates(network: Any) -> Any:
    for name, parameter in network.named_parameters():
        if "lora_b" in name.lower():
            nn.init.normal_(parameter, std=0.01)
    return network.train()


def forward_and_loss(network: EoMT, criterion: MaskClassificationLoss, image: Tensor, mask: Tensor) -> Tensor:
    """Return the loss of a training step."""
    return criterion([tuple(prediction) for prediction in network(image)], mask)["loss"]


def step(network: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Run forward, loss and backward, and remove the gradients."""
    loss().backward()
    network.zero_grad(set_to_none=True)


def our_loss(criterion: MaskClassificationLoss, predictions: list[tuple[Tensor, Tensor]], mask: Tensor) -> None:
    """Compute the loss of predictions and its gradients."""
    leaves = [tuple(tensor.detach().requires_grad_() for tensor in layer) for layer in predictions]
    criterion(leaves, mask)["loss"].backward()


def their_loss(network: Any, predictions: list[tuple[Tensor, Tensor]], batch: dict[str, Any]) -> None:
    """Compute the loss of predictions, summed as in the network's forward, and its gradients."""
    total = torch.zeros(())
    for layer in predictions:
        masks, classes = (tensor.detach().requires_grad_() for tensor in layer)
        losses = network.get_loss_dict(masks, classes, batch["mask_labels"], batch["class_labels"], None)
        total = total + network.get_loss(losses)
    total.backward()


@torch.no_grad()
def evaluate(network: nn.Module, image: Tensor) -> object:
    """Return the output of a forward pass."""
    return network(image)


def annealed(network: Any) -> Any:
    """Return a copy in evaluation mode with masked attention switched off."""
    network = copy.deepcopy(network).eval()
    network.attn_mask_probs.zero_()
    return network


def medians(runs: tuple[Run, ...], rounds: int) -> list[float]:
    """Return the median CPU milliseconds of each function; the functions take turns."""
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for times, run in zip(seconds, runs, strict=True):
            run()
            start = time.process_time()
            run()
            times.append(1000 * (time.process_time() - start))
    return [statistics.median(times) for times in seconds]


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, since page faults in every run would be counted as time of the networks."""
    mmap_threshold, trim_threshold = -3, -1
    libc = ctypes.CDLL("libc.so.6")
    assert libc.mallopt(mmap_threshold, 1 << 30)
    assert libc.mallopt(trim_threshold, (1 << 31) - 1)


def main() -> None:
    """Measure, and print the table."""
    keep_freed_memory()
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    ours, theirs = make_pair()
    image, mask, batch = make_batch(ours)
    plain, their_plain = annealed(ours), annealed(theirs)
    expected = evaluate(their_plain, batch["pixel_values"]).masks_queries_logits  # type: ignore[attr-defined]
    difference = (evaluate(plain, image)[-1].mask_logits - expected).abs().max() / expected.abs().max()  # type: ignore[index]
    print(f"Largest difference of mask logits: {difference:.1e} of the largest, {expected.abs().max():.3g}.\n")
    assert difference < 1e-4

    criterion = MaskClassificationLoss(NUM_CLASSES)
    sliced = adapt_ours(ours, ("query", "key", "value", "proj", "mlp"))
    fused, adapted = adapt_ours(ours, ("attention", "mlp")), adapt_theirs(theirs)
    predictions = [(p.mask_logits, p.class_logits) for p in ours.train()(image)]
    losses: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "training step": (sliced, lambda: forward_and_loss(sliced, criterion, image, mask)),
        "training step, one pair on qkv": (fused, lambda: forward_and_loss(fused, criterion, image, mask)),
    }

    def their_step_loss() -> Tensor:
        return adapted(**batch).loss

    rows: dict[str, tuple[Run, Run]] = {
        name: (partial(step, *of_ours), partial(step, adapted, their_step_loss)) for name, of_ours in losses.items()
    }
    rows |= {
        "loss alone": (
            lambda: our_loss(criterion, predictions, mask),
            lambda: their_loss(theirs, predictions, batch),
        ),
        "annealed evaluation": (
            lambda: evaluate(plain, image),
            lambda: evaluate(their_plain, batch["pixel_values"]),
        ),
    }
    print("| | this package, ms | transformers and PEFT, ms | ratio |")
    print("|---|---|---|---|")
    for name, runs in rows.items():
        one, other = medians(runs, rounds)
        print(f"| {name} | {one:.0f} | {other:.0f} | {one / other:.2f} |", flush=True)

    print("\n| kept | this package, MiB | transformers and PEFT, MiB | ratio |")
    print("|---|---|---|---|")
    other = kept_bytes(adapted, their_step_loss()).total / 2**20
    for name, (network, loss) in losses.items():
        one = kept_bytes(network, loss()).total / 2**20
        print(f"| {name} | {one:.0f} | {other:.0f} | {one / other:.2f} |")


if __name__ == "__main__":
    main()
