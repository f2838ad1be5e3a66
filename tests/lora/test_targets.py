"""Names in a config reach exactly what they say, or are refused."""

import pytest
import timm
import torch
from torch import nn

from eomt.errors import UserError
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.summary import get_lora_stats
from eomt.lora.targets import resolve_modules, resolve_targets
from tests.tiny import make_eomt


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return make_eomt()


def paths(model: nn.Module, *targets: str, **arguments: object) -> list[str]:
    return list(resolve_targets(model, targets, **arguments)[0])  # type: ignore[arg-type]


def test_heads_of_the_guide_are_four_linear_layers(model: nn.Module) -> None:
    assert paths(model, "class_head", "mask_head") == ["class_head", "mask_head.0", "mask_head.2", "mask_head.4"]


def test_upscale_reaches_its_convolutions_and_says_which_it_leaves(model: nn.Module) -> None:
    found, skipped = resolve_targets(model, ["upscale"])
    assert list(found) == ["upscale.0.conv1"]
    assert list(skipped) == ["upscale.0.conv2"]
    assert "groups=64" in skipped["upscale.0.conv2"]


def test_grouped_convolution_named_itself_is_refused(model: nn.Module) -> None:
    with pytest.raises(UserError, match=r"conv2.*groups=64"):
        resolve_targets(model, ["conv2"])


@pytest.mark.parametrize(
    ("target", "inside"),
    [("attention", ["attn.qkv", "attn.proj"]), ("mlp", ["mlp.fc1", "mlp.fc2"]), ("qkv", ["attn.qkv"])],
)
def test_words_of_the_family_reach_every_block(model: nn.Module, target: str, inside: list[str]) -> None:
    expected = [f"encoder.backbone.blocks.{block}.{name}" for block in range(6) for name in inside]
    assert paths(model, target) == expected


def test_query_and_value_are_slices_of_a_fused_qkv(model: nn.Module) -> None:
    found, _ = resolve_targets(model, ["value", "query"])
    assert set(found.values()) == {("query", "value")}
    assert all(path.endswith("qkv") for path in found)


@pytest.mark.parametrize("targets", [("query", "qkv"), ("qkv", "query"), ("attention", "key")])
def test_the_whole_layer_includes_its_slices(model: nn.Module, targets: tuple[str, ...]) -> None:
    found, _ = resolve_targets(model, targets)
    assert set(found.values()) == {()}


def test_all_linear_leaves_out_what_is_trained_in_full(model: nn.Module) -> None:
    every = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert paths(model, "all-linear") == every
    rest = paths(model, "all-linear", trained_in_full=["mask_head"])
    assert rest == [name for name in every if not name.startswith("mask_head")]


def test_a_name_is_a_whole_dotted_part(model: nn.Module) -> None:
    with pytest.raises(UserError, match="matches no module"):
        resolve_targets(model, ["fc"])
    assert paths(model, "attn.qkv") == paths(model, "qkv")


def test_regular_expression_is_on_the_full_path(model: nn.Module) -> None:
    assert paths(model, r"re:.*blocks\.[01]\.mlp\.fc1") == [f"encoder.backbone.blocks.{i}.mlp.fc1" for i in (0, 1)]
    with pytest.raises(UserError, match="matches no module"):
        resolve_targets(model, ["re:fc1"])
    with pytest.raises(UserError, match="no regular expression"):
        resolve_targets(model, ["re:("])


def test_one_typo_among_valid_names_is_an_error_with_the_nearest(model: nn.Module) -> None:
    with pytest.raises(UserError, match=r"'clas_head' matches no module; nearest: .*class_head"):
        resolve_targets(model, ["mask_head", "clas_head"])


def test_what_is_no_layer_is_refused_by_kind(model: nn.Module) -> None:
    with pytest.raises(UserError, match="'q' matches 'q' \\(Embedding\\)"):
        resolve_targets(model, ["q"])


def test_target_trained_in_full_is_refused(model: nn.Module) -> None:
    with pytest.raises(UserError, match="trains in full"):
        resolve_targets(model, ["class_head"], trained_in_full=["class_head"])


def test_exclusion(model: nn.Module) -> None:
    assert paths(model, "mask_head", exclude=["re:mask_head.0"]) == ["mask_head.2", "mask_head.4"]
    with pytest.raises(UserError, match="exclude_modules: 'prij'"):
        resolve_targets(model, ["attention"], exclude=["prij"])
    with pytest.raises(UserError, match="nothing to adapt"):
        resolve_targets(model, ["mlp"], exclude=["mlp"])


@pytest.mark.parametrize(
    ("targets", "exclude", "slices"),
    [
        (["qkv"], ["key"], ("query", "value")),
        (["attention"], ["key", "query"], ("value",)),
        (["query", "value"], ["key"], ("query", "value")),
        (["query", "value"], ["value"], ("query",)),
    ],
)
def test_exclusion_of_a_slice_leaves_the_others(
    model: nn.Module, targets: list[str], exclude: list[str], slices: tuple[str, ...]
) -> None:
    found, _ = resolve_targets(model, targets, exclude)
    assert {chosen for path, chosen in found.items() if path.endswith("qkv")} == {slices}
    assert sum(path.endswith("qkv") for path in found) == 6


def test_exclusion_of_every_slice_leaves_nothing(model: nn.Module) -> None:
    assert not any(path.endswith("qkv") for path in paths(model, "attention", exclude=["query", "key", "value"]))
    with pytest.raises(UserError, match="nothing to adapt"):
        resolve_targets(model, ["qkv"], ["qkv"])


@pytest.mark.parametrize(("layers", "blocks"), [([0, 3], [0, 3]), ("last:2", [4, 5])])
def test_layers_choose_blocks_and_leave_the_heads(model: nn.Module, layers: object, blocks: list[int]) -> None:
    found = paths(model, "qkv", "class_head", layers=layers)
    assert found == [f"encoder.backbone.blocks.{i}.attn.qkv" for i in blocks] + ["class_head"]


def test_more_last_blocks_than_there_are_is_refused(model: nn.Module) -> None:
    assert len(paths(model, "qkv", layers="last:6")) == 6
    with pytest.raises(UserError, match="layers: 'last:7', but there are 6 blocks"):
        resolve_targets(model, ["qkv"], layers="last:7")


def test_layer_beyond_the_last_block_is_refused(model: nn.Module) -> None:
    with pytest.raises(UserError, match="layers: 6 is not there; the model's blocks are 0 to 5"):
        resolve_targets(model, ["qkv"], layers=[6])


@pytest.mark.parametrize(
    ("module", "target"),
    [
        (nn.TransformerEncoderLayer(8, 2, 16), "linear1"),
        (nn.MultiheadAttention(8, 2), "out_proj"),
        (nn.TransformerEncoderLayer(8, 2, 16), "all-linear"),
        (timm.create_model("test_vit", num_classes=0), None),
        (timm.create_model("eva02_tiny_patch14_224", num_classes=0), "qkv"),
        (timm.create_model("beit_base_patch16_224", num_classes=0), "qkv"),
    ],
)
def test_bypassed_places_are_refused_by_name(module: nn.Module, target: str | None) -> None:
    if target is None:
        assert resolve_targets(module, ["qkv"])[0]
        return
    if target not in {name.rpartition(".")[2] for name, _ in module.named_modules()} | {"all-linear"}:
        pytest.skip("this timm names it otherwise")
    with pytest.raises(UserError, match="cannot be adapted"):
        resolve_targets(module, [target])


def test_modules_trained_in_full_are_resolved_strictly(model: nn.Module) -> None:
    assert resolve_modules(model, ["q", "upscale"]) == ["q", "upscale"]
    with pytest.raises(UserError, match=r"'upscal' matches no module; nearest: .*upscale"):
        resolve_modules(model, ["upscal"])
    with pytest.raises(UserError, match="without parameters"):
        resolve_modules(model, ["act"])


@pytest.mark.parametrize(
    ("targets", "rank", "expected"),
    [
        (["query", "key", "value"], 4, 221_184),
        (["query", "key", "value"], 8, 442_368),
        (["query"], 8, 147_456),
        (["qkv"], 8, 294_912),
        (["qkv"], 16, 589_824),
    ],
)
def test_counts_of_the_table_on_dinov2_base(targets: list[str], rank: int, expected: int) -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch14_dinov2", num_classes=0)
    apply_lora(model, LoRAConfig(rank=rank, target_modules=targets, freeze_base_model=True))
    stats = get_lora_stats(model)
    assert stats["lora_parameters"] == stats["trainable_parameters"] == expected
