"""LoRA in five examples, each runnable in seconds on a CPU without a download: `python -m eomt.lora_examples`.

The network is a tiny EoMT with random weights, so that nothing is downloaded. In real work the encoder may be
`ViT("vit_base_patch14_reg4_dinov2", (518, 518))`, whose weights come from the hub.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.files import load_adapter, save_adapter
from eomt.lora.layers import merge_lora_weights
from eomt.lora.summary import get_lora_stats, print_lora_summary
from eomt.models.eomt import EoMT, class_scores
from eomt.models.vit import ViT

CONFIG = """
lora_config:
  class_path: eomt.models.lora_integration.LoRAConfig
  init_args:
    rank: 4
    lora_alpha: 8
    target_modules: [attention]
    layers: last:2
    freeze_base_model: true
    trainable_modules: [class_head]
"""


def make_network(lora_config: LoRAConfig | None = None) -> EoMT:
    """Return a tiny EoMT for 2 classes and images of 32 x 48 pixels, the same at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ViT("test_vit", (32, 48), pretrained=False, patch_size=8)
        return EoMT(encoder, num_classes=2, num_q=4, num_blocks=2, lora_config=lora_config).eval()


def make_batch() -> tuple[Tensor, Tensor]:
    """Return two images that are bright on one side, uint8 (2, 3, 32, 48), and masks of that side, int64 (2, 8, 12)."""
    image = torch.full((2, 3, 32, 48), 40, dtype=torch.uint8)
    mask = torch.zeros(2, 8, 12, dtype=torch.int64)
    image[0, :, :, 24:], mask[0, :, 6:] = 200, 1
    image[1, :, :, :16], mask[1, :, :4] = 200, 1
    return image, mask


def create_dummy_lora_config() -> LoRAConfig:
    """Return a config with adapters on every linear layer of blocks and mask head; nothing else is trained."""
    return LoRAConfig(
        rank=4,
        lora_alpha=8,
        lora_dropout=0.0,
        target_modules=["attention", "mlp", "mask_head"],
        freeze_base_model=True,
    )


def example_basic_usage() -> dict[str, Any]:
    """Adapt a network and print what was done, before anything is trained.

    Returns:
        The counts of `get_lora_stats`, and `difference`, the largest one between adapted and base answers.
    """
    image, _ = make_batch()
    base = make_network()
    network = apply_lora(make_network(), create_dummy_lora_config())
    print_lora_summary(network)
    with torch.no_grad():
        # B is zero at the start: the adapted network must answer as the base does
        difference = (network(image)[-1].class_logits - base(image)[-1].class_logits).abs().max()
    print(f"difference to the base before training: {float(difference):.1e}")
    return {**get_lora_stats(network), "difference": float(difference)}


def example_with_config_file() -> EoMT:
    """Adapt a network as a YAML file says, which has the form of this package's configs.

    Returns:
        The network, with adapted attention in the last 2 blocks and a class head that is trained in full.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lora.yaml"
        path.write_text(CONFIG)
        fields = yaml.safe_load(path.read_text())["lora_config"]["init_args"]
    network = make_network(LoRAConfig(**fields))
    print_lora_summary(network)
    return network


def example_parameter_comparison() -> dict[str, int]:
    """Count the trained parameters for some ranks and targets, and for full fine-tuning.

    Returns:
        Name of the choice -> number of trained parameters.
    """
    counts = {"full fine-tuning": get_lora_stats(make_network())["trainable_parameters"]}
    for targets in (["attention"], ["attention", "mlp"]):
        for rank in (2, 4, 8):
            config = LoRAConfig(rank=rank, lora_alpha=2 * rank, target_modules=targets, freeze_base_model=True)
            stats = get_lora_stats(make_network(config))
            counts[f"rank {rank} on {' + '.join(targets)}"] = stats["trainable_parameters"]
    for name, count in counts.items():
        print(f"{name:28} {count:9,} ({100 * count / counts['full fine-tuning']:.1f} %)")
    return counts


def example_training_loop(steps: int = 40) -> dict[str, Any]:
    """Train, save, load into a new base and merge, and measure what each step changes.

    Args:
        steps: Number of training steps.

    Returns:
        `losses` of the steps; `changed`, the names of the tensors that training changed; `loaded_difference` and
        `merged_difference`, the largest ones between the answers of the reloaded or merged network and the trained one.
    """
    image, mask = make_batch()
    network = apply_lora(make_network(), create_dummy_lora_config())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    # an optimizer over trainable parameters alone: it keeps two numbers for each parameter
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=5e-3)
    losses = []
    for _ in range(steps):
        scores = class_scores(network(image)[-1])
        loss = F.nll_loss((scores / scores.sum(1, keepdim=True)).clamp_min(1e-6).log(), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, before[name])]
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        answer = class_scores(network(image)[-1])
        save_adapter(network, Path(folder) / "adapter")
        loaded = load_adapter(make_network(), Path(folder) / "adapter")
        loaded_difference = float((class_scores(loaded(image)[-1]) - answer).abs().max())
        merged = merge_lora_weights(loaded)
        merged_difference = float((class_scores(merged(image)[-1]) - answer).abs().max())
    print(f"loss: {losses[0]:.3f} at the first step, {losses[-1]:.3f} at the last; {len(changed)} tensors changed")
    print(f"difference after loading: {loaded_difference:.1e}, after merging: {merged_difference:.1e}")
    return {
        "losses": losses,
        "changed": changed,
        "loaded_difference": loaded_difference,
        "merged_difference": merged_difference,
    }


if __name__ == "__main__":
    # on layers this small, a second thread costs more than it saves
    torch.set_num_threads(1)
    for example in (
        create_dummy_lora_config,
        example_basic_usage,
        example_with_config_file,
        example_parameter_comparison,
        example_training_loop,
    ):
        print(f"\n--- {example.__name__}")
        result = example()
        if isinstance(result, LoRAConfig):
            print(result)
