"""Weights of SAM 2 in and out: strictness, and files that are not what they should be."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Sam2Model, Sam2VideoConfig, Sam2VideoModel

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.layers import merge_lora_weights
from eomt.models import SAM2
from eomt.models.sam2 import default_lora
from eomt.models.weights import download as download_module
from eomt.models.weights.sam2.config import HIERA, Size
from eomt.models.weights.sam2.load import original_shapes, read_original
from eomt.models.weights.sam2.names import POSITIONS, POSITIONS_TWICE, is_memory, sam2_to_hugging_face, sam2_to_official
from eomt.models.weights.sam2.save import save_hugging_face, save_original
from eomt.utils import hub
from eomt.verification.audit import loaded_names
from tests.tiny_sam2 import make_image, make_points, make_sam2, original_state, tiny_config, tiny_folder


def write(path: Path, state: dict[str, Any]) -> str:
    torch.save({"model": state}, path)
    return str(path)


def with_memory(network: SAM2) -> SAM2:
    shapes = original_shapes("tiny")[1]
    network.memory = {name: torch.randn(shape) for name, shape in shapes.items()}
    return network


@pytest.mark.parametrize("version", ["2", "2.1"])
@pytest.mark.parametrize("size", HIERA)
def test_an_original_file_of_any_size_loads_and_its_size_is_inferred(tmp_path: Path, size: Size, version: str) -> None:
    state = original_state(size, version)
    weights = read_original(write(tmp_path / "any_name.pt", state))
    hiera = HIERA[size]
    backbone = weights.config.vision_config.backbone_config
    assert (backbone.hidden_size, tuple(backbone.blocks_per_stage)) == (hiera.width, hiera.blocks)
    back = sam2_to_official(weights.state) | weights.memory
    assert set(back) == set(state)
    assert all(back[name].flatten()[0] == value.flatten()[0] for name, value in state.items())


def test_a_network_of_an_original_file_is_loaded_to_the_last_tensor(tmp_path: Path) -> None:
    state = original_state("tiny")
    network = SAM2(write(tmp_path / "sam.pt", state), size="large")
    assert loaded_names(network) >= set(network.state_dict())
    assert not any(value.is_meta for value in network.state_dict().values())
    assert set(network.memory) == {name for name in state if is_memory(name)}
    pairs = {
        "vision_encoder.backbone.blocks.11.mlp.proj_out.bias": "image_encoder.trunk.blocks.11.mlp.layers.1.bias",
        "mask_decoder.iou_prediction_head.layers.0.bias": "sam_mask_decoder.iou_prediction_head.layers.1.bias",
        "mask_decoder.transformer.layers.1.layer_norm4.bias": "sam_mask_decoder.transformer.layers.1.norm4.bias",
        "shared_image_embedding.positional_embedding": POSITIONS,
    }
    for ours, theirs in pairs.items():
        assert torch.equal(network.model.state_dict()[ours], state[theirs])
    points = network.model.prompt_encoder.point_embed.weight[:, 0].tolist()
    assert points == [state[f"sam_prompt_encoder.point_embeddings.{label}.weight"][0, 0].item() for label in range(4)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sam_mask_decoder.iou_token.weight": None}, "lacks 'sam_mask_decoder.iou_token.weight' of SAM 2"),
        ({"sam_prompt_encoder.point_embeddings.2.weight": None}, r"lacks 'sam_prompt_encoder.point_embeddings.2"),
        ({"maskmem_tpos_enc": None, "no_obj_ptr": None}, "lacks 'maskmem_tpos_enc' and 1 more tensors"),
        ({"obj_ptr_tpos_proj.bias": None}, "lacks 'obj_ptr_tpos_proj.bias'"),
        ({"sam_mask_decoder.head.weight": torch.zeros(1)}, "holds 'sam_mask_decoder.head.weight', which SAM 2"),
        ({"memory_attention.norm.weight": torch.zeros(3)}, r"has shape \[3\], SAM 2 \(tiny\) has \[256\]"),
        ({"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(80, 3, 7, 7)}, "80 wide with 12 blocks is no"),
        ({"image_encoder.trunk.patch_embed.proj.weight": None}, "so it is no original checkpoint"),
    ],
)
def test_original_files_with_other_tensors_are_refused(
    tmp_path: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    state = original_state("tiny") | changes
    path = write(tmp_path / "sam.pt", {name: value for name, value in state.items() if value is not None})
    with pytest.raises(UserError, match=message) as caught:
        SAM2(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    state = {"image_encoder.trunk.pos_embed": torch.zeros(1), "trap": Trap(tmp_path / "run")}
    with pytest.raises(UserError, match="cannot be read as plain tensors") as caught:
        SAM2(write(tmp_path / "sam.pt", state))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["sam2_hiera_large.pt", "weights/sam2_hiera_large.pt", "/no/such/folder", "./sam2"])
def test_paths_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"pretrained: {name!r} is no file or folder"):
        SAM2(name)


def test_hugging_face_folders_hold_the_same_network(tmp_path: Path) -> None:
    network = apply_lora(make_sam2(prompt_free=True, num_classes=3), default_lora(prompt_free=True)).eval()
    torch.manual_seed(7)
    for parameter in network.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    points, labels = make_points()
    expected = network(make_image(), points, labels)
    classes = network.decode_classes(network.encode(make_image()))
    with pytest.raises(UserError, match=r"42 adapters .* merge them first"):
        save_hugging_face(network, tmp_path / "merged")
    with pytest.raises(UserError, match=r"42 adapters .* merge them first"):
        save_original(network, tmp_path / "merged.pt")
    save_hugging_face(merge_lora_weights(network), tmp_path / "merged")
    assert list(tmp_path.iterdir()) == [tmp_path / "merged"]
    again = make_sam2(pretrained=str(tmp_path / "merged"), prompt_free=True, num_classes=3).eval()
    torch.testing.assert_close(again(make_image(), points, labels), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again.decode_classes(again.encode(make_image())), classes, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="prompts of 3 classes, but the data has 2"):
        make_sam2(pretrained=str(tmp_path / "merged"), prompt_free=True, num_classes=2)
    theirs, report = Sam2Model.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(report.values())
    pixels = (make_image() / 255 - network.normalize.mean) / network.normalize.std
    output = theirs.eval()(pixels, input_points=points, input_labels=labels)
    torch.testing.assert_close(output.pred_masks, expected.mask_logits, rtol=1e-4, atol=1e-4)


def test_a_merged_original_file_has_official_names_and_the_memory_as_it_was(tmp_path: Path) -> None:
    network = with_memory(make_sam2())
    path = save_original(network, tmp_path / "new" / "merged.pt")
    state = torch.load(path, weights_only=True)
    assert list(state) == ["model"]
    image, memory = original_shapes("tiny")
    of_this_depth = {name for name in image if not re.search(r"blocks\.([5-9]|1\d)\.|blocks\.3\.proj", name)}
    shortcuts = {f"image_encoder.trunk.blocks.{block}.proj.{part}" for block in (2, 4) for part in ("weight", "bias")}
    assert set(state["model"]) == of_this_depth | shortcuts | set(memory)
    assert all(torch.equal(state["model"][name], value) for name, value in network.memory.items())
    image_part = {name: value for name, value in state["model"].items() if not is_memory(name)}
    renamed = sam2_to_hugging_face(image_part)
    assert set(renamed) == set(network.model.state_dict())
    assert all(torch.equal(renamed[name], value) for name, value in network.model.state_dict().items())
    assert [file.name for file in path.parent.iterdir()] == ["merged.pt"]
    with pytest.raises(UserError, match="exists; choose another name"):
        save_original(network, path)


def test_two_position_matrices_do_not_become_one(tmp_path: Path) -> None:
    network = make_sam2()
    network.model.shared_image_embedding.positional_embedding.add_(1)
    with pytest.raises(UserError, match="cannot hold two position matrices"):
        save_original(network, tmp_path / "merged.pt")


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space"):
        save_original(make_sam2(), tmp_path / "merged.pt")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_the_video_model_opens_and_its_memory_is_kept(tmp_path: Path) -> None:
    config = tiny_config()
    parts = {"vision_config": config.vision_config, "prompt_encoder_config": config.prompt_encoder_config}
    video = Sam2VideoModel(Sam2VideoConfig(**parts, mask_decoder_config=config.mask_decoder_config))
    video.save_pretrained(tmp_path)
    network = make_sam2(pretrained=str(tmp_path))
    own = video.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in network.model.state_dict().items())
    assert set(network.memory) == set(original_shapes("tiny")[1])
    assert torch.equal(network.memory["no_obj_ptr"], own["no_object_pointer"])


def copy_of_folder(tmp_path: Path, drop: tuple[str, ...] = (), **changes: Tensor) -> str:
    state = load_file(Path(tiny_folder()) / "model.safetensors") | changes
    save_file({name: value for name, value in state.items() if name not in drop}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((Path(tiny_folder()) / "config.json").read_text())
    return str(tmp_path)


@pytest.mark.parametrize("name", POSITIONS_TWICE)
def test_a_position_matrix_that_is_written_once_is_read_twice(tmp_path: Path, name: str) -> None:
    network = make_sam2(pretrained=copy_of_folder(tmp_path, drop=(name,)))
    assert torch.equal(*(network.model.get_buffer(name) for name in POSITIONS_TWICE))


def test_folders_with_other_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks 'no_memory_embedding' of the model of its config\.json"):
        make_sam2(pretrained=copy_of_folder(tmp_path, drop=("no_memory_embedding",)))
    with pytest.raises(UserError, match=r"holds 'head', which the model of its config\.json has not"):
        make_sam2(pretrained=copy_of_folder(tmp_path, head=torch.zeros(1)))
    with pytest.raises(UserError, match=r"'no_memory_embedding' has shape \[2\]"):
        make_sam2(pretrained=copy_of_folder(tmp_path, no_memory_embedding=torch.zeros(2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields | {"model_type": "sam"}, "model_type 'sam'; must be sam2 or sam2_video"),
        (lambda fields: {}, "has no model_type; copy it again"),
        (lambda fields: fields | {"mask_decoder_config": {"mlp_dim": "many"}}, "is no configuration of SAM 2"),
    ],
)
def test_configurations_of_other_models_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    folder = copy_of_folder(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(UserError, match=message) as caught:
        make_sam2(pretrained=folder)
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match=r"holds no config\.json"):
        make_sam2(pretrained=folder)


@pytest.mark.parametrize(
    ("arguments", "repository"),
    [
        ({"pretrained": True, "size": "base_plus"}, "facebook/sam2.1-hiera-base-plus"),
        ({"pretrained": True, "size": "large"}, "facebook/sam2.1-hiera-large"),
        ({"pretrained": "somebody/sam2"}, "somebody/sam2"),
    ],
)
def test_the_hub_is_asked_for_the_repository_of_the_size(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], repository: str
) -> None:
    asked = []

    def download(name: str, file: str) -> str:
        asked.append((name, file))
        return str(Path(tiny_folder()) / file)

    monkeypatch.setattr(hub, "require_hub", lambda name, wanted: None)
    monkeypatch.setattr(download_module, "hf_hub_download", download)
    network = make_sam2(**arguments)
    assert asked == [(repository, "model.safetensors"), (repository, "config.json")]
    assert network.base == repository


def test_weights_that_the_hub_does_not_give_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, file: str) -> str:
        raise OSError("404 Client Error.\nNot found")

    monkeypatch.setattr(hub, "require_hub", lambda name, wanted: None)
    monkeypatch.setattr(download_module, "hf_hub_download", download)
    with pytest.raises(UserError, match=r"'weights/sam2' is no local .* \(404 Client Error\.\); give") as caught:
        SAM2("weights/sam2")
    assert "\n" not in str(caught.value)
