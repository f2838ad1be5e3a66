"""15 B: freshly made parameters start as those of the reference do, whatever form a layer was written in."""

from pathlib import Path

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn
from transformers import AutoConfig, BartForConditionalGeneration, Dinov2Model, EomtConfig, EomtForUniversalSegmentation

from eomt.models import SAM2, MaskedAutoencoder
from eomt.models.weights.eomt.names import BACKBONE, eomt_to_hugging_face
from tests.models.weights.eomt_pairs import DEPTH, NUM_BLOCKS, NUM_CLASSES, NUM_HEADS, NUM_QUERIES, WIDTH, make_network
from tests.tiny_sam2 import tiny_config
from tests.tiny_vqa import BART, TYPES, VISION, make_vqa

# a tensor of another distribution has a p-value many orders below this; of the same one, one in ten thousand has
P_VALUE = 1e-4


def differing(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """Names of the tensors whose values do not look drawn from one distribution (Kolmogorov and Smirnov)."""
    assert found.keys() >= expected.keys()
    return [
        name
        for name, value in expected.items()
        if ks_2samp(found[name].flatten().numpy(), value.flatten().numpy()).pvalue < P_VALUE
    ]


@pytest.fixture(scope="module")
def reference() -> EomtForUniversalSegmentation:
    torch.manual_seed(1)
    config = EomtConfig(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=NUM_HEADS, image_size=48, patch_size=16,
        num_blocks=NUM_BLOCKS, num_queries=NUM_QUERIES, num_labels=NUM_CLASSES,
    )  # fmt: skip
    return EomtForUniversalSegmentation(config)


def test_queries_heads_and_upscaling_of_eomt(reference: EomtForUniversalSegmentation) -> None:
    state = {name: value for name, value in make_network().state_dict().items() if not name.startswith(BACKBONE)}
    state.pop("attn_mask_probs")
    pixels = ("encoder.normalize.mean", "encoder.normalize.std")
    found = eomt_to_hugging_face({name: value for name, value in state.items() if name not in pixels}, {}, False)
    theirs = reference.state_dict()
    expected = {name: theirs[name] for name in found}
    assert len(found) > 15
    assert differing(found, expected) == []


def test_another_start_is_seen(reference: EomtForUniversalSegmentation) -> None:
    weight = {"weight": reference.upscale_block.block[0].conv1.weight.detach()}
    assert differing({"weight": 2 * weight["weight"]}, weight) == ["weight"]
    bias = {"bias": reference.upscale_block.block[0].conv1.bias.detach()}
    assert differing({"bias": torch.zeros(WIDTH)}, bias) == ["bias"]


def test_encoder_and_decoder_of_the_masked_autoencoder() -> None:
    """As in the authors' code: Glorot's uniform rule, query, key and value as one layer; tokens of deviation .02."""
    network = MaskedAutoencoder(
        False, (32, 32), 8, hidden_size=64, depth=2, num_heads=4, decoder_hidden_size=32, decoder_depth=2,
        decoder_num_heads=4,
    )  # fmt: skip
    found = {name: value for name, value in network.model.state_dict().items() if "pos" not in name}
    expected = {name: authors_start(name, value.shape) for name, value in found.items()}
    assert len(found) > 60
    assert differing(found, expected) == []


def authors_start(name: str, shape: torch.Size) -> Tensor:
    if "norm" in name or name.endswith("bias"):
        return torch.full(shape, float("norm" in name and name.endswith("weight")))
    if name.endswith("token"):
        return nn.init.normal_(torch.empty(shape), std=0.02)
    fused = 3 if any(part in name for part in ("q_proj", "k_proj", "v_proj")) else 1
    return nn.init.xavier_uniform_(torch.empty(fused * shape[0], shape[1:].numel()))


def pooled(networks: list[nn.Module]) -> dict[str, Tensor]:
    """The values of each parameter in several networks: a small tensor alone tells little."""
    states = [dict(network.named_parameters()) for network in networks]
    return {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}


def pytorchs_start(network: nn.Module, number: int) -> dict[str, Tensor]:
    """How PyTorch starts layers, `number` times: uniform by the number of inputs, embeddings normal, norms neutral."""
    found: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        for kind, value in module.named_parameters(name, recurse=False):
            shape = (number, *value.shape)
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                found[kind] = torch.empty(shape).uniform_(-1, 1) / module.weight.shape[1:].numel() ** 0.5
            elif isinstance(module, nn.Embedding):
                found[kind] = torch.randn(shape)
            elif "norm" in type(module).__name__.lower():
                found[kind] = torch.full(shape, float(kind.endswith("weight")))
    return found


def test_sam2_starts_as_in_its_authors_code(tmp_path: Path) -> None:
    """15 B: the embedding of "no memory" was zero; theirs is normal, of deviation .02 (`SAM2Base.__init__`)."""
    torch.manual_seed(2)
    tiny_config().save_pretrained(tmp_path)
    networks: list[nn.Module] = [SAM2(False, size=str(tmp_path)).model for _ in range(16)]
    expected = pytorchs_start(networks[0], 16)
    apart = {"no_memory_embedding": 0.02, "vision_encoder.backbone.pos_embed": 0.0}
    apart["vision_encoder.backbone.pos_embed_window"] = 0.0
    found = pooled(networks)
    assert found.keys() - expected.keys() == set(apart)
    expected |= {name: deviation * torch.randn(found[name].shape) for name, deviation in apart.items()}
    assert differing(found, expected) == []
    buffers = torch.stack([network.get_buffer("shared_image_embedding.positional_embedding") for network in networks])
    assert differing({"": buffers}, {"": torch.randn(buffers.shape)}) == []


def test_question_answering_starts_as_its_layers_do() -> None:
    """15 B: both models as in transformers, and what joins them, which has no reference, as PyTorch's layers."""
    torch.manual_seed(3)
    networks: list[nn.Module] = [make_vqa(question_types=TYPES, answer_head="generative") for _ in range(8)]
    texts: list[nn.Module] = [BartForConditionalGeneration(AutoConfig.for_model(**BART)) for _ in range(8)]
    visions: list[nn.Module] = [Dinov2Model(AutoConfig.for_model(**VISION)) for _ in range(8)]
    expected = {f"text_model.{name}": value for name, value in pooled(texts).items()}
    expected |= {f"vision_encoder.model.{name}": value for name, value in pooled(visions).items()}
    expected = pytorchs_start(networks[0], 8) | expected
    found = pooled(networks)
    assert found.keys() <= expected.keys()
    assert differing(found, {name: expected[name] for name in found}) == []
