"""Tiny random models of many architectures, each with a batch that it answers."""

import re
from collections.abc import Callable
from typing import Any

import timm
import torch
import transformers
from torch import Tensor, nn

Made = tuple[nn.Module, Any]

WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
IMAGE = {"image_size": 32, "patch_size": 8}
VOCABULARY = 60
NARROW = {"embed_dim": 48, "depth": 2, "num_heads": 4}
STAGES = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
# name in timm -> what makes it small
TIMM: dict[str, dict[str, Any]] = {
    "test_vit": {"img_size": 32, "patch_size": 8},
    "test_vit2": {"img_size": 32, "patch_size": 8},
    "test_vit4": {"img_size": 32, "patch_size": 8},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2},
    "vit_small_patch14_dinov2": {"img_size": 28, **NARROW, "init_values": 0.1},
    "vit_small_patch14_reg4_dinov2": {"img_size": 28, **NARROW, "init_values": 0.1},
    "vit_base_patch16_clip_224": {"img_size": 32, **NARROW},
    "vit_base_patch16_siglip_224": {"img_size": 32, **NARROW},
    "deit3_small_patch16_224": {"img_size": 32, **NARROW},
    "deit_tiny_distilled_patch16_224": {"img_size": 32, **NARROW},
    "beit_base_patch16_224": {"img_size": 32, **NARROW},
    "eva02_tiny_patch14_224": {"img_size": 28, **NARROW},
    "cait_xxs24_224": {"img_size": 32, **NARROW, "init_values": 0.1},
    "swin_tiny_patch4_window7_224": {"img_size": 32, "window_size": 4, **STAGES},
    "swinv2_tiny_window8_256": {"img_size": 32, "window_size": 4, **STAGES},
    "convnext_atto": {"depths": (1, 1, 1, 1), "dims": (16, 16, 32, 32), "conv_mlp": False},
    "convnextv2_atto": {"depths": (1, 1, 1, 1), "dims": (16, 16, 32, 32), "conv_mlp": False},
    "mixer_s16_224": {"img_size": 32},
    "gmlp_ti16_224": {"img_size": 32},
    "pvt_v2_b0": {"depths": (1, 1, 1, 1), "embed_dims": (16, 16, 32, 32), "num_heads": (1, 2, 2, 4)},
    "twins_svt_small": {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dims": (16, 32, 32, 32), "num_heads": (2,) * 4},
    "tnt_s_legacy_patch16_224": {"img_size": 32, "embed_dim": 48, "depth": 2},
}  # fmt: skip


def of_timm(name: str) -> Made:
    """A classifier of timm."""
    settings = TIMM[name]
    model = timm.create_model(name, pretrained=False, num_classes=3, **settings)
    for module in model.modules():
        # some start norms or the head at zero, behind which nothing is learned while they are frozen
        if isinstance(module, nn.LayerNorm | nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight)
    size = settings.get("img_size", 64)
    return model, torch.randn(2, 3, size, size)


def _ids(**more: Any) -> dict[str, Any]:
    ids = torch.randint(5, VOCABULARY, (2, 6))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}


def _language(name: str, **settings: Any) -> Callable[[], Made]:
    def make() -> Made:
        config = getattr(transformers, f"{name}Config")(
            **{**WIDTHS, "vocab_size": VOCABULARY, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
            | {"bos_token_id": 1, "eos_token_id": 2}
            | settings
        )
        batch = _ids()
        return getattr(transformers, f"{name}ForCausalLM")(config), {**batch, "labels": batch["input_ids"]}

    return make


def _encoder(name: str, **settings: Any) -> Callable[[], Made]:
    def make() -> Made:
        config = getattr(transformers, f"{name}Config")(
            **{**WIDTHS, "vocab_size": VOCABULARY, "num_labels": 3} | settings
        )
        model = getattr(transformers, f"{name}ForSequenceClassification")(config)
        return model, _ids(labels=torch.tensor([0, 2]))

    return make


def _image(name: str, **settings: Any) -> Callable[[], Made]:
    def make() -> Made:
        config = getattr(transformers, f"{name}Config")(**{**WIDTHS, **IMAGE, "num_labels": 3} | settings)
        model = getattr(transformers, f"{name}ForImageClassification")(config)
        size = settings.get("image_size", 32)
        return model, {"pixel_values": torch.randn(2, 3, size, size), "labels": torch.tensor([0, 2])}

    return make


def _t5(name: str) -> Callable[[], Made]:
    def make() -> Made:
        config = getattr(transformers, f"{name}Config")(
            vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
        batch = _ids()
        return getattr(transformers, f"{name}ForConditionalGeneration")(config), {**batch, "labels": batch["input_ids"]}

    return make


def _bart() -> Made:
    config = transformers.BartConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=32,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    batch = _ids()
    return transformers.BartForConditionalGeneration(config), {**batch, "labels": batch["input_ids"]}


def _contrastive(name: str) -> Callable[[], Made]:
    def make() -> Made:
        text = {**WIDTHS, "vocab_size": VOCABULARY, "max_position_embeddings": 16, "eos_token_id": 2, "pad_token_id": 0}
        config = getattr(transformers, f"{name}Config")(
            text_config=text, vision_config={**WIDTHS, **IMAGE}, **({"projection_dim": 16} if name == "CLIP" else {})
        )
        model = getattr(transformers, f"{name}Model")(config)
        return model, {**_ids(), "pixel_values": torch.randn(2, 3, 32, 32), "return_loss": True}

    return make


def _llava() -> Made:
    vision = transformers.CLIPVisionConfig(**WIDTHS, **IMAGE, projection_dim=16)
    text = transformers.LlamaConfig(**WIDTHS, vocab_size=VOCABULARY)
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-1
    )
    ids = torch.cat([torch.full((2, 16), 3), torch.randint(5, VOCABULARY, (2, 4))], 1)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    return transformers.LlavaForConditionalGeneration(config), {**batch, "pixel_values": torch.randn(2, 3, 32, 32)}


def _whisper() -> Made:
    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=20,
        max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    labels = torch.randint(5, VOCABULARY, (2, 6))
    return transformers.WhisperForConditionalGeneration(config), {
        "input_features": torch.randn(2, 8, 40), "labels": labels,
    }  # fmt: skip


def _segformer() -> Made:
    config = transformers.SegformerConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 32], num_attention_heads=[1, 2, 2, 4], num_labels=3,
        decoder_hidden_size=16, mlp_ratios=[2, 2, 2, 2],
    )  # fmt: skip
    model = transformers.SegformerForImageClassification(config)
    return model, {"pixel_values": torch.randn(2, 3, 64, 64), "labels": torch.tensor([0, 2])}


def _swin() -> Made:
    config = transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=3
    )
    model = transformers.SwinForImageClassification(config)
    return model, {"pixel_values": torch.randn(2, 3, 32, 32), "labels": torch.tensor([0, 2])}


TRANSFORMERS: dict[str, Callable[[], Made]] = {
    "vit": _image("ViT"),
    "deit": _image("DeiT"),
    "beit": _image("Beit"),
    "dinov2": _image("Dinov2", mlp_ratio=2),
    "dinov2_with_registers": _image("Dinov2WithRegisters", mlp_ratio=2),
    "siglip_vision": _image("Siglip", vision_config={**WIDTHS, **IMAGE}),
    "clip_vision": _image("CLIP", vision_config={**WIDTHS, **IMAGE}),
    "segformer": _segformer,
    "swin": _swin,
    "llama": _language("Llama"),
    "mistral": _language("Mistral"),
    "qwen2": _language("Qwen2"),
    "qwen3": _language("Qwen3"),
    "gemma": _language("Gemma"),
    "gemma2": _language("Gemma2"),
    "phi": _language("Phi"),
    "phi3": _language("Phi3"),
    "olmo": _language("Olmo"),
    "olmo2": _language("Olmo2"),
    "cohere": _language("Cohere"),
    "starcoder2": _language("Starcoder2"),
    "stablelm": _language("StableLm"),
    "gpt_neox": _language("GPTNeoX"),
    "granite": _language("Granite"),
    "opt": _language("OPT", ffn_dim=48, word_embed_proj_dim=32, max_position_embeddings=32),
    "bert": _encoder("Bert"),
    "roberta": _encoder("Roberta", max_position_embeddings=32),
    "distilbert": _encoder("DistilBert", dim=32, n_layers=2, n_heads=4, hidden_dim=48),
    "electra": _encoder("Electra", embedding_size=32),
    "deberta_v2": _encoder("DebertaV2"),
    "modernbert": _encoder("ModernBert", pad_token_id=0),
    "albert": _encoder("Albert", embedding_size=32),
    "t5": _t5("T5"),
    "bart": _bart,
    "whisper": _whisper,
    "clip": _contrastive("CLIP"),
    "siglip": _contrastive("Siglip"),
    "llava": _llava,
}


def make(name: str) -> Made:
    """A model and a batch; `timm/NAME` or `transformers/NAME`."""
    torch.manual_seed(0)
    library, _, name = name.partition("/")
    return of_timm(name) if library == "timm" else TRANSFORMERS[name]()


NAMES = [f"timm/{name}" for name in TIMM] + [f"transformers/{name}" for name in TRANSFORMERS]
# a handful for the quick suite: an image, two ways of a text, and both together
QUICK = ["timm/swin_tiny_patch4_window7_224", "transformers/qwen3", "transformers/t5", "transformers/clip"]


# what reads the weight of its projection, and never calls it
READS_WEIGHTS = ("timm/beit", "timm/eva02", "timm/swinv2")


def targets(name: str, model: nn.Module) -> list[str]:
    """The linear layers in numbered blocks that are called, and have room for a rank of 2."""
    unsuitable = "qkv" if name.startswith(READS_WEIGHTS) else "-"
    return [
        path
        for path, module in model.named_modules()
        if type(module) is nn.Linear
        and re.search(r"\.\d+\.", path)
        and min(module.weight.shape) > 2
        and unsuitable not in path
    ]


def loss(model: nn.Module, batch: Any) -> Tensor:
    """The model's own loss, or that of a classifier of timm."""
    if isinstance(batch, Tensor):
        return nn.functional.cross_entropy(model(batch), torch.tensor([0, 2]))
    return model(**batch).loss
