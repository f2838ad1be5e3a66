"""ViT-MAE on disk: every layout that transformers ever wrote, other image sizes, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms.v2 import functional as F
from transformers import AutoImageProcessor, ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel

from datamodules.generated.faces.drawing import draw_person, draw_photo, render_face
from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.losses.morph import mae_loss
from eomt.models.mae import MaskedAutoencoder, save_encoder
from eomt.models.masking import random_noise
from eomt.models.weights import download as download_module
from eomt.models.weights.mae import read_mae, resample_positions
from eomt.utils import hub
from eomt.verification.audit import loaded_names
from tests.tiny_morph import (
    NUM_PATCHES,
    PATCH,
    SIDE,
    enlarge_weights,
    make_encoder,
    make_image,
    make_mae,
    tiny_model,
    write_model,
)

NEW_TO_OLD = (
    ("vit.layers.", "vit.encoder.layer."),
    ("attention.q_proj", "attention.attention.query"),
    ("attention.k_proj", "attention.attention.key"),
    ("attention.v_proj", "attention.attention.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)
LAYOUTS = ["as_written", "new_names", "old_names", "pytorch"]


def write_layout(layout: str, folder: Path) -> str:
    """The tiny model as this version of transformers writes it, in its own names, or as its version 4 wrote it."""
    model = tiny_model()
    write_model(model, folder)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    if layout in ("old_names", "pytorch"):
        for new, old in NEW_TO_OLD:
            state = {name.replace(new, old): value for name, value in state.items()}
        assert "vit.encoder.layer.1.attention.attention.query.weight" in state
        assert "decoder.decoder_layers.0.output.dense.bias" in state
    if layout == "pytorch":
        (folder / "model.safetensors").unlink()
        torch.save(state, folder / "pytorch_model.bin")
    elif layout != "as_written":
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_predictions_and_loss_are_those_of_transformers(tmp_path: Path, layout: str) -> None:
    network, model = make_mae(pretrained=write_layout(layout, tmp_path / "mae")), tiny_model()
    image = make_image()
    noise = random_noise(2, NUM_PATCHES, image.device, torch.Generator().manual_seed(3))
    expected = model((image / 255 - network.normalize.mean) / network.normalize.std, noise=noise)
    found = network(image, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found.reconstruction, expected.logits)
    assert torch.equal(found.mask, expected.mask)
    assert found.reconstruction.std() > 0.1
    torch.testing.assert_close(mae_loss(found.reconstruction, network.target(image), found.mask), expected.loss)
    assert set(network.state_dict()) == loaded_names(network)
    # and transformers reads what the test wrote, too
    theirs = ViTMAEForPreTraining.from_pretrained(tmp_path / "mae")
    torch.testing.assert_close(theirs(network.normalize(image), noise=noise).logits, expected.logits)


def test_a_saved_encoder_opens_here_and_in_transformers(tmp_path: Path) -> None:
    network = make_mae()
    enlarge_weights(network)
    folder = save_encoder(network, tmp_path / "encoder")
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("vit_mae", ["ViTMAEModel"])
    image, noise = make_image(), torch.arange(NUM_PATCHES).expand(2, -1)
    theirs, info = ViTMAEModel.from_pretrained(folder, output_loading_info=True, mask_ratio=0.0)
    assert not any(info.values())
    encoder = make_encoder(pretrained=str(folder))
    output = theirs(network.normalize(image), noise=noise).last_hidden_state
    torch.testing.assert_close(encoder(image), output)
    for name, value in network.model.vit.state_dict().items():
        assert torch.equal(encoder.model.state_dict()[name], value), name
    assert encoder.base == str(folder)
    # saved again, it takes its own place
    save_encoder(network, folder)


def test_transformers_sees_every_patch_of_a_face_with_a_saved_encoder(tmp_path: Path) -> None:
    """15.1: the written config said to mask 75 % of the patches at random, and there was no image processor."""
    network = make_mae()
    enlarge_weights(network)
    folder = save_encoder(network, tmp_path / "encoder")
    random = np.random.default_rng(0)
    drawn = [render_face(draw_person(random), draw_photo(random)) for _ in range(3)]
    faces = [Image.fromarray((255 * face).clip(0, 255).astype(np.uint8)) for face in drawn]
    theirs = ViTMAEModel.from_pretrained(folder).eval()
    given = AutoImageProcessor.from_pretrained(folder)(faces, return_tensors="pt")
    with torch.no_grad():
        found = theirs(**given).last_hidden_state
        images = torch.stack([F.resize(F.pil_to_tensor(face), [SIDE, SIDE], antialias=True) for face in faces])
        expected = make_encoder(pretrained=str(folder)).eval()(images)
    assert found.shape == expected.shape
    # patches come in a random order there; the class token has seen them all; resized pixels are rounded to 1 of 255
    scale = float(expected.abs().max())
    torch.testing.assert_close(found[:, 0], expected[:, 0], rtol=0, atol=0.02 * scale)
    assert float((expected[0, 0] - expected[1, 0]).abs().max()) > 0.05 * scale


def test_an_encoder_is_saved_over_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"mine: exists and is not what would be written there"):
        save_encoder(make_mae(), tmp_path / "mine")


def test_an_encoder_with_adapters_is_not_saved(tmp_path: Path) -> None:
    network = apply_lora(make_mae(), LoRAConfig(target_modules=["query"], exclude_modules=["decoder"]))
    with pytest.raises(UserError, match=r"network: holds 2 adapters \(layers.0.attention.q_proj, ...\).*merge"):
        save_encoder(network, tmp_path / "encoder")  # type: ignore[arg-type]
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize("case", ["depth", "width", "encoder_only"])
def test_a_decoder_that_does_not_fit_starts_anew(tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    folder = write_model(model.vit if case == "encoder_only" else model, tmp_path / "mae")
    other = {"depth": {"decoder_depth": 2}, "width": {"decoder_hidden_size": 32}, "encoder_only": {}}[case]
    caplog.set_level("INFO", "eomt")
    network = make_mae(pretrained=folder, **other)
    assert "mae: holds no decoder of these sizes; a new one is initialized" in caplog.text
    loaded = loaded_names(network)
    trained = {name for name in network.state_dict() if name not in network.frozen_modules}
    assert {name for name in trained if name in loaded} == {name for name in trained if name.startswith("model.vit.")}
    assert network.model.decoder.mask_token.any()


@pytest.mark.parametrize("side", [24, 48])
def test_positions_of_another_size_are_those_that_transformers_interpolates(tmp_path: Path, side: int) -> None:
    model, image = tiny_model(), make_image(2, side, side)
    folder = write_model(model, tmp_path / "mae")
    network = make_mae(pretrained=folder, img_size=(side, side))
    noise = torch.rand(2, (side // PATCH) ** 2)
    expected = model.vit(network.normalize(image), noise=noise, interpolate_pos_encoding=True).last_hidden_state
    found = network.model.vit(network.normalize(image), noise=noise).last_hidden_state
    torch.testing.assert_close(found, expected)
    assert network(image).reconstruction.shape == (2, (side // PATCH) ** 2, 3 * PATCH**2)
    torch.testing.assert_close(
        network.model.decoder.decoder_pos_embed.data,
        resample_positions(model.decoder.decoder_pos_embed.data, side // PATCH),
    )


def test_positions_are_resampled_in_two_dimensions() -> None:
    # a slope in each direction, which bicubic interpolation nearly keeps away from the edges
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    positions = torch.cat((torch.tensor([[[9.0, 9.0]]]), torch.stack((y, x), -1).flatten(0, 1)[None]), dim=1)
    found = resample_positions(positions, 16)
    assert found[0, 0].tolist() == [9, 9]
    grid = found[0, 1:].unflatten(0, (16, 16))[4:12, 4:12]
    places = (torch.arange(16.0) + 0.5)[4:12] / 2 - 0.5
    torch.testing.assert_close(grid[..., 0], places[:, None].expand(8, 8), rtol=0, atol=0.05)
    torch.testing.assert_close(grid[..., 1], places[None].expand(8, 8), rtol=0, atol=0.05)
    assert resample_positions(positions, 8) is positions


def test_other_sizes_than_the_folders_are_refused_naming_those_that_fit(tmp_path: Path) -> None:
    folder = write_model(tiny_model(), tmp_path / "mae")
    with pytest.raises(
        UserError, match=r"mae: does not fit, .*; give it patch_size: 8, hidden_size: 32, depth: 2, num_"
    ):
        make_mae(pretrained=folder, depth=3)
    with pytest.raises(UserError, match=r"does not fit, the network has patch_size: 16.* give it patch_size: 8"):
        make_encoder(pretrained=folder, patch_size=16)


def test_a_folder_of_another_activation_is_refused(tmp_path: Path) -> None:
    config = tiny_model().config
    config.hidden_act = "relu"
    folder = write_model(ViTMAEModel(config), tmp_path / "mae")
    with pytest.raises(UserError, match=r"config.json: hidden_act 'relu'; must be 'gelu'"):
        make_encoder(pretrained=folder)


def test_folders_that_hold_no_whole_vit_mae_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mae"
    write_model(tiny_model(), folder)
    state = load_file(folder / "model.safetensors")
    lacking = {name: value for name, value in state.items() if name != "vit.layernorm.bias"}
    save_file(lacking, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"mae: lacks 'layernorm.bias' of the network; copy it again"):
        make_encoder(pretrained=str(folder))
    save_file(state | {"vit.pooler.weight": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"mae: holds 'pooler.weight', which the network has not"):
        make_encoder(pretrained=str(folder))
    save_file(state | {"decoder.decoder_norm.bias": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"mae: 'decoder_norm.bias' has shape \[3\], the decoder has \[16\]"):
        make_mae(pretrained=str(folder))
    make_encoder(pretrained=str(folder))
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match=r"config.json: model_type 'vit'; must be vit_mae"):
        make_encoder(pretrained=str(folder))
    (folder / "config.json").write_text("[")
    with pytest.raises(UserError, match=r"config.json: cannot be read as JSON"):
        make_encoder(pretrained=str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"mae: holds no config.json; give one in Hugging Face layout, or the file"):
        make_encoder(pretrained=str(folder))


def test_a_name_that_is_neither_folder_nor_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("no/such/folder", str(tmp_path / "file")):
        with pytest.raises(UserError, match=r"pretrained: .* is no folder; give one in Hugging Face layout"):
            make_encoder(pretrained=name)


def test_a_repository_without_safetensors_is_read_in_the_older_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(write_layout("pytorch", tmp_path / "mae"))
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append((repository, name))
        if not (folder / name).is_file():
            raise EntryNotFoundError(name)
        return str(folder / name)

    monkeypatch.setattr(download_module, "hf_hub_download", download)
    monkeypatch.setattr(hub, "require_hub", lambda repository, wanted: None)
    checkpoint = read_mae(True)
    assert checkpoint.folder == folder
    assert asked == [
        ("facebook/vit-mae-base", name) for name in ("model.safetensors", "pytorch_model.bin", "config.json")
    ]
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"'someone/nothing' is no local folder and cannot be had from the hub"):
        read_mae("someone/nothing")


def test_released_sizes_read_their_own_configuration() -> None:
    """The defaults are those of facebook/vit-mae-base, whose configuration is transformers' default."""
    with torch.device("meta"):
        network = MaskedAutoencoder(pretrained=False, decoder_depth=8, norm_pix_loss=False)
    own, theirs = network.model.config.to_dict(), ViTMAEConfig().to_dict()
    assert {name for name in theirs if own[name] != theirs[name]} <= {"dtype", "transformers_version"}
