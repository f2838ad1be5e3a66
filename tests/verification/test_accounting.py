"""Steps without values are counted as steps with them."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.accounting import WAYS, Classifier, classification, gpu_attention, make_batch, peaks_of, without_values
from eomt.lora.config import LoRAConfig
from eomt.models.memory import set_memory
from eomt.verification.kept import kept_bytes

SIDE = 32


@pytest.mark.parametrize(
    ("way", "narrow"),
    [
        ("full fine-tuning", False),
        ("PEFT LoRA, dropout 0.1", True),
        ("native LoRA, floor", True),
        ("native LoRA, less", False),
        ("native LoRA, least", True),
    ],
)
def test_a_step_without_values_takes_the_bytes_and_operations_of_a_real_one(way: str, narrow: bool) -> None:
    fields = WAYS[way].lora
    usual = {"target_modules": ["attention", "mlp"], "trainable_modules": ["head"], "freeze_base_model": True}
    lora = None if fields is None else LoRAConfig(**usual | fields)

    def count(network: Classifier) -> tuple[tuple[int, int, int], dict[str, int]]:
        peaks = peaks_of(network, step, make_batch(SIDE, 2), narrow)
        with FlopCounterMode(display=False) as counter:
            peaks_of(network, step, make_batch(SIDE, 2), narrow)
        return peaks, {str(name): number for name, number in counter.get_flop_counts()["Global"].items()}

    network = Classifier("test_vit", SIDE)
    step = classification(network.train(), lora)
    set_memory(network, WAYS[way].memory)
    real = count(network)
    with without_values():
        network.to_empty(device="cpu")
        assert count(network) == real
    assert min(real[0]) > 0


@pytest.mark.parametrize(("dtype", "masked"), [(torch.bfloat16, False), (torch.float32, False), (torch.bfloat16, True)])
def test_attention_of_a_gpu_keeps_no_square_matrix_but_the_mask(dtype: torch.dtype, masked: bool) -> None:
    batch, heads, tokens, width = 2, 3, 96, 32
    with without_values():
        shape = (batch, heads, tokens, width)
        inputs = [torch.zeros(shape, dtype=dtype, requires_grad=True) * 1 for _ in range(3)]
        mask = torch.ones(batch, 1, tokens, tokens, dtype=torch.bool) if masked else None
        output = gpu_attention(*inputs, attn_mask=mask)
        assert output.shape == F.scaled_dot_product_attention(*inputs).shape
        kept = kept_bytes(torch.nn.Identity(), output).total
    of_mask = batch * tokens * tokens * dtype.itemsize if masked else 0
    rows = batch * heads * tokens
    # query, key, value, output, and the logarithm of a sum for each row
    expected = 4 * rows * width * dtype.itemsize + 4 * rows + of_mask
    # beside these the random state of dropout, which is a few bytes
    assert expected <= kept <= expected + 64
