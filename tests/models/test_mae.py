"""The masked autoencoder: transformers' answers, a sound start, its own masks, pictures, and encoders on disk."""

import math
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ViTMAEForPreTraining

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.summary import get_lora_stats
from eomt.losses.morph import mae_loss
from eomt.models.mae import MAEPrediction, MaskedAutoencoder
from eomt.models.masking import block_noise, mask_by_noise, random_noise
from eomt.verification.audit import loaded_names
from tests.tiny_morph import (
    DECODER,
    NUM_PATCHES,
    PATCH,
    SIDE,
    SIZES,
    enlarge_weights,
    make_encoder,
    make_image,
    make_mae,
    tiny_model,
)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def sines(side: int, width: int) -> Tensor:
    """Positions of the paper's code: half of the width for the column, half for the row, sines before cosines."""
    rows = []
    for y in range(side):
        for x in range(side):
            row: list[float] = []
            for place in (x, y):
                angles = [place / 10000 ** (4 * i / width) for i in range(width // 4)]
                row += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            rows.append(row)
    return torch.tensor([[0.0] * width, *rows])[None]


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masking", ["random", "block"])
def test_masks_are_those_of_the_masking_module_and_repeatable(masking: Any) -> None:
    network, image = make_mae(masking=masking, mask_ratio=0.6), make_image()
    noise = (
        block_noise(2, (4, 4), image.device, seeded())
        if masking == "block"
        else random_noise(2, NUM_PATCHES, image.device, seeded())
    )
    expected = mask_by_noise(torch.zeros(2, NUM_PATCHES, 1), noise, 0.6)[1]
    first, again = network(image, seeded()), network(image, seeded())
    assert torch.equal(first.mask, expected)
    assert torch.equal(first.reconstruction, again.reconstruction)
    assert not torch.equal(network(image).mask, network(image).mask)


def test_removed_patches_cannot_be_seen() -> None:
    network, image = make_mae().eval(), make_image()
    enlarge_weights(network)
    expected = network(image, seeded())
    hidden = expected.mask.unflatten(1, (4, 4)).repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)[:, None] > 0
    found = network(torch.where(hidden, 255 - image, image), seeded())
    assert torch.equal(found.reconstruction, expected.reconstruction)
    found = network(torch.where(hidden, image, 255 - image), seeded())
    assert not torch.allclose(found.reconstruction, expected.reconstruction, atol=0.01)


def test_the_target_is_each_patch_in_order_normalized_on_its_own() -> None:
    image = make_image()
    network = make_mae(norm_pix_loss=False)
    pixels = network.normalize(image)
    patch = pixels[1, :, PATCH : 2 * PATCH, 2 * PATCH : 3 * PATCH].permute(1, 2, 0).flatten()
    torch.testing.assert_close(network.target(image)[1, 4 + 2], patch)
    normalized = make_mae().target(image)[1, 6]
    torch.testing.assert_close(normalized, (patch - patch.mean()) / patch.std(), rtol=1e-4, atol=1e-4)
    # without a deviation to divide by
    flat = network.normalize.mean.expand(1, -1, SIDE, SIDE)
    assert (make_mae().target(flat) == 0).all()


def test_uint8_and_unit_interval_are_the_same_image() -> None:
    network = make_mae()
    for one, other in zip(network(make_image(), seeded()), network(make_image() / 255, seeded()), strict=True):
        torch.testing.assert_close(one, other)


def test_it_learns_to_predict_what_it_does_not_see() -> None:
    torch.manual_seed(0)
    network = make_mae(norm_pix_loss=False)
    # each image of one colour: to be read off any patch
    image = torch.randint(0, 256, (32, 3, 1, 1), dtype=torch.uint8).expand(-1, -1, SIDE, SIDE)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        prediction = network(image)
        loss = mae_loss(prediction.reconstruction, network.target(image), prediction.mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # the mean of all colors would leave two thirds
    assert losses[-1] < 0.4 * losses[0]


# -- start and gradients ---------------------------------------------------------------------------------------------


def test_transformers_still_leaves_positions_and_tokens_at_zero() -> None:
    """Once this fails, `initialize_mae` need not set them: take that and this test out."""
    model = ViTMAEForPreTraining(tiny_model().config)
    left = [name for name, value in model.named_parameters() if "position" in name or "pos_embed" in name]
    left += ["vit.embeddings.cls_token", "decoder.mask_token"]
    assert len(left) == 4
    zero = [name for name in left if not model.get_parameter(name).any()]
    assert zero == left, f"transformers now initialises {sorted(set(left) - set(zero))}"


def test_a_start_from_scratch_has_positions_and_tokens() -> None:
    model = make_mae().model
    torch.testing.assert_close(model.vit.embeddings.position_embeddings.data, sines(4, 32))
    torch.testing.assert_close(model.decoder.decoder_pos_embed.data, sines(4, 16))
    torch.testing.assert_close(make_encoder().model.embeddings.position_embeddings.data, sines(4, 32))
    for token in (model.vit.embeddings.cls_token, model.decoder.mask_token, make_encoder().model.embeddings.cls_token):
        assert 0.005 < token.std() < 0.05
    projection = model.vit.embeddings.patch_embeddings.projection.weight
    # Xavier's uniform distribution: its bound is its deviation times the root of 3
    assert 1.6 < projection.abs().max() / projection.std() < 1.8


def test_everything_but_the_positions_is_trained_and_gets_a_gradient() -> None:
    network, image = make_mae(), make_image()
    prediction = network(image)
    mae_loss(prediction.reconstruction, network.target(image), prediction.mask).backward()
    for name, parameter in network.named_parameters():
        frozen = name in network.frozen_modules
        assert parameter.requires_grad != frozen
        assert (parameter.grad is None) == frozen, name
    # the positions are known, not random
    assert set(network.frozen_modules) == loaded_names(network)


@pytest.mark.parametrize("lora_config", [None, LoRAConfig(target_modules=["query"], exclude_modules=["decoder"])])
def test_checkpointing_changes_no_gradient(lora_config: LoRAConfig | None) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = apply_lora(make_mae(checkpointing=checkpointing), lora_config)
        prediction = network(make_image(), seeded())
        mae_loss(prediction.reconstruction, network.target(make_image()), prediction.mask).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_checkpointing_recomputes_the_blocks() -> None:
    network, called = make_mae(checkpointing=True), []
    for layer in (network.model.vit.layers[0], network.model.decoder.decoder_layers[0]):
        layer.get_submodule("mlp").register_forward_pre_hook(lambda module, _: called.append(module))
    network(make_image()).reconstruction.sum().backward()
    assert len(called) == 4
    assert len(set(called)) == 2


def test_without_the_decoder_lora_adapts_the_encoder_only() -> None:
    config = LoRAConfig(target_modules=["attention"], exclude_modules=["decoder"])
    paths = get_lora_stats(apply_lora(make_mae(), config))["adapted_modules"]
    assert len(paths) == 2 * 4
    assert all(path.startswith("model.vit.layers.") for path in paths)


def test_a_network_in_bf16_predicts() -> None:
    network = make_mae().bfloat16()
    prediction = network(make_image())
    assert prediction.reconstruction.dtype == torch.bfloat16
    assert mae_loss(prediction.reconstruction, network.target(make_image()), prediction.mask).isfinite()


# -- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_a_perfect_prediction_gives_the_image_back(norm_pix_loss: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = make_mae(norm_pix_loss=norm_pix_loss), make_image()
    mask = network(image, seeded()).mask
    monkeypatch.setattr(MaskedAutoencoder, "forward", lambda *_: MAEPrediction(network.target(image), mask))
    pictures = network.reconstruct(image)
    assert torch.equal(pictures.image, image)
    assert torch.equal(pictures.reconstruction, image)


def test_pictures_show_what_was_removed() -> None:
    network, image = make_mae(), make_image()
    pictures = network.reconstruct(image, seeded())
    mask = network(image, seeded()).mask
    removed = mask.unflatten(1, (4, 4)).repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2)[:, None] > 0
    mean = torch.tensor([124, 116, 104], dtype=torch.uint8).view(1, 3, 1, 1)  # ImageNet's, times 255
    assert torch.equal(pictures.masked, torch.where(removed, mean, image))
    assert torch.equal(pictures.reconstruction.where(~removed, image), image)
    assert not torch.equal(pictures.reconstruction, image)
    assert not pictures.reconstruction.requires_grad


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_ratio": 0.0}, "mask_ratio: 0.0; must be above 0"),
        ({"mask_ratio": 1.0}, "mask_ratio: 1.0; must be above 0"),
        ({"mask_ratio": 0.99}, "mask_ratio: 0.99 keeps 0 of 16 patches"),
        ({"masking": "rows"}, "masking: 'rows'; must be random or block"),
        ({"img_size": (32, 40)}, r"img_size: \[32, 40\]; must be a square .*; \[32, 32\] would do"),
        ({"img_size": (36, 36)}, r"img_size: \[36, 36\]; .* patch size 8; \[32, 32\] would do"),
        ({"img_size": (4, 4)}, r"img_size: \[4, 4\]; .*; \[8, 8\] would do"),
        ({"decoder_depth": 0}, "decoder_depth: 0; must be at least 1"),
        ({"depth": 0}, "depth: 0; must be at least 1"),
        ({"patch_size": 0}, "patch_size: 0; must be at least 1"),
        ({"num_heads": 0}, "num_heads: 0; must be at least 1"),
        ({"hidden_size": 30}, "hidden_size: 30; must be a multiple of 4 and of the 2 heads"),
        ({"decoder_num_heads": 3}, "decoder_hidden_size: 16; must be a multiple of 4 and of the 3 heads"),
    ],
)
def test_values_that_cannot_be_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_mae(**arguments)


def test_images_of_another_size_are_refused() -> None:
    for call in (make_mae(), make_mae().target, make_mae().reconstruct):
        with pytest.raises(UserError, match="image: 32 x 40 pixels, the network takes 32 x 32"):
            call(make_image(1, 32, 40))


def test_sizes_of_the_tests_are_small() -> None:
    assert sum(p.numel() for p in MaskedAutoencoder(False, **SIZES, **DECODER).parameters()) < 300_000


@pytest.mark.parametrize("ratio", [0, 1, 0.0, 1.0, -1, 2])
def test_a_ratio_that_masks_all_or_nothing_is_refused(ratio: float) -> None:
    with pytest.raises(UserError, match="mask_ratio"):
        MaskedAutoencoder(pretrained=False, mask_ratio=ratio)


def authors_state(model: ViTMAEForPreTraining, with_decoder: bool) -> dict[str, torch.Tensor]:
    """The state dict of the same model in the code of its authors."""
    found: dict[str, torch.Tensor] = {}
    plain = {"layernorm_before": "norm1", "layernorm_after": "norm2", "attention.o_proj": "attn.proj"}
    for name, value in model.state_dict().items():
        if name.startswith("decoder.") and not with_decoder:
            continue
        name = name.removeprefix("vit.").removeprefix("decoder.").replace("decoder_layers.", "decoder_blocks.")
        name = re.sub(r"^layers\.", "blocks.", name).replace(
            "embeddings.patch_embeddings.projection", "patch_embed.proj"
        )
        name = name.replace("embeddings.cls_token", "cls_token").replace("embeddings.position_embeddings", "pos_embed")
        name = re.sub(r"^layernorm\.", "norm.", name)
        for theirs, authors in plain.items():
            name = name.replace(f".{theirs}.", f".{authors}.")
        if part := re.fullmatch(r"(.*)\.attention\.([qkv])_proj\.(\w+)", name):
            fused = f"{part[1]}.attn.qkv.{part[3]}"
            found[fused] = torch.cat((found[fused], value)) if fused in found else value
        else:
            found[name] = value
    return found


@pytest.mark.parametrize("with_decoder", [False, True])
def test_the_authors_file_is_read(tmp_path: Path, with_decoder: bool) -> None:
    """15.27: Meta's .pth, with settings beside the weights, whole or of the encoder alone."""
    model = tiny_model()
    content = {"model": authors_state(model, with_decoder), "epoch": 1, "args": Namespace(lr=1e-3)}
    torch.save(content, tmp_path / "mae_pretrain.pth")
    network = make_mae(pretrained=str(tmp_path / "mae_pretrain.pth"))
    for name, value in model.state_dict().items():
        if with_decoder or not name.startswith("decoder."):
            torch.testing.assert_close(network.model.state_dict()[name], value, rtol=0, atol=0)


def test_the_authors_file_of_a_fine_tuned_encoder_says_what_would_do(tmp_path: Path) -> None:
    """15.27: `lacks 'layernorm.bias'; copy it again`, which could never succeed."""
    state = authors_state(tiny_model(), False)
    state = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: v for name, v in state.items()}
    torch.save({"model": state | {"head.weight": torch.zeros(3, 32)}}, tmp_path / "mae_finetuned.pth")
    with pytest.raises(UserError, match=r"was fine-tuned for classification, .* give the weights of the pre-training"):
        make_encoder(pretrained=str(tmp_path / "mae_finetuned.pth"))


@pytest.mark.parametrize("is_old", [False, True])
def test_a_file_with_the_names_of_transformers_is_read(tmp_path: Path, is_old: bool) -> None:
    """15.27: `has no names of a ViT-MAE`."""
    model = tiny_model()
    state = dict(model.state_dict())
    if is_old:
        # before transformers 5
        state = {name.replace("vit.layers.", "vit.encoder.layer."): value for name, value in state.items()}
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "mae.PTH")
    network = make_mae(pretrained=str(tmp_path / "mae.PTH"))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(network.model.state_dict()[name], value, rtol=0, atol=0)
    with pytest.raises(UserError, match=r"does not fit, .*; give it patch_size: 8, hidden_size: 32, depth: 2"):
        make_encoder(pretrained=str(tmp_path / "mae.PTH"), depth=1)
    model.config.hidden_act = "relu"
    model.config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="hidden_act 'relu'; must be 'gelu'"):
        make_encoder(pretrained=str(tmp_path / "mae.PTH"))
