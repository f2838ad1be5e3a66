"""Visual question answering: patch tokens of an image, question states that look at them, and an answer."""

import unicodedata
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from eomt.errors import UserError
from eomt.lora.adapter_layer import require_merged
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.summary import print_lora_summary
from eomt.models.mae_encoder import enable_checkpointing
from eomt.models.network import Network
from eomt.models.parts.freezing import freeze_models
from eomt.models.parts.gated_fusion import DROPOUT, GatedFusion
from eomt.models.parts.text_tower import decoder_of, encoder_of, load_tokenizer_for, make_text_tower
from eomt.models.parts.vision_tower import make_vision_tower
from eomt.models.weights.transformers import describe_source
from eomt.models.weights.vqa import (
    TOKENIZER,
    AnswerHead,
    VQALayout,
    answers_hash,
    fill_vqa,
    open_vqa_layout,
    tokenizer_source,
    write_vqa,
)
from eomt.utils.hub import CONFIG_FILE
from eomt.utils.labels import IGNORED_TOKEN
from eomt.utils.modes import evaluation_mode
from eomt.utils.paths import PathOrName, expand_source
from eomt.utils.tokenizer import usable_positions


class VQAOutput(NamedTuple):
    """What the network says of B questions."""

    # generative: (B, L, vocabulary of tokens); classification: (B, A)
    logits: Tensor
    # (B, types), None without a type head
    type_logits: Tensor | None


class DeterministicVQA(Network):
    """Answers questions about images.

    The vision encoder's patch tokens are projected to the width of the text model; the states of the question attend to
    them through a gate (`fusion`). The generative head lets the decoder of a BART or mBART write the answer, its
    encoder states being [projected vision tokens; fused question states]. Classification chooses from `answers`: the
    mean of the fused states over the question's tokens, and a small MLP. The type head sees that same mean, so that its
    loss also teaches the fusion.

    Args:
        vision_model: a repository on the hub, a local folder, or a Hugging Face configuration as a dict with a
            `model_type`, which has no weights: the model is random. One of `vision_tower.CLASSES`.
        text_model: the same of a BART or mBART, for classification of any text encoder.
        pretrained: true reads the weights of both; false reads only their configurations; a text is a folder that
            `write` filled, whose models, vocabulary and sizes go before the other arguments.
        answer_head: generative or classification.
        answers: vocabulary of the training split, which classification chooses from; from a config it is filled in from
            the data.
        question_types: what the type head tells apart; None: there is no type head.
        tokenizer: a folder or repository; None takes that of `text_model`.
        img_size: height and width in pixels of the images, multiples of the patch.
        fusion_layers: layers of gated cross-attention.
        checkpointing: recompute activations in the backward pass: less memory, about a third more time.
        lora_config: adapts the network; None leaves it as it is.

    Attributes:
        tokenizer: None if there is none beside the text model.
        tokenizer_source: where it was read.

    Raises:
        UserError: for models that cannot be had or do not fit, or values that cannot be.
    """

    # adapters are named as in the Hugging Face models
    inner_models = ("vision_encoder.model", "text_model")
    files = Network.files | {CONFIG_FILE, TOKENIZER}

    answers_hash: Tensor

    def __init__(
        self,
        vision_model: PathOrName | dict[str, Any] = "facebook/dinov2-base",
        text_model: PathOrName | dict[str, Any] = "vinai/bartpho-syllable",
        pretrained: bool | PathOrName = True,
        answer_head: AnswerHead = "generative",
        answers: list[str] | None = None,
        question_types: list[str] | None = None,
        tokenizer: PathOrName | None = None,
        img_size: tuple[int, int] = (224, 224),
        fusion_layers: int = 2,
        checkpointing: bool = False,
        lora_config: LoRAConfig | None = None,
    ) -> None:
        super().__init__()
        pretrained = expand_source(pretrained)
        vision_model, text_model = expand_source(vision_model), expand_source(text_model)
        tokenizer = expand_source(tokenizer)
        models = f"{describe_source(vision_model)} + {describe_source(text_model)}"
        self._base = pretrained if isinstance(pretrained, str) else models if pretrained else f"{models} (random)"
        self.tokenizer_source = tokenizer_source(pretrained, text_model, tokenizer)
        colors = None
        if isinstance(pretrained, str):
            stored = open_vqa_layout(pretrained, answer_head, answers, question_types, img_size, fusion_layers)
            vision_model, text_model, colors = stored.vision_config, stored.text_config, stored.colors
            answer_head, answers, question_types = stored.answer_head, stored.answers, stored.question_types
            img_size, fusion_layers = stored.img_size, stored.fusion_layers
        _check_values(answer_head, answers, question_types, fusion_layers)
        self.answer_head, self.answers, self.question_types = answer_head, answers, question_types
        self.vision_encoder = make_vision_tower(vision_model, pretrained is True, img_size, colors)
        self.img_size = self.vision_encoder.img_size
        self.text_model: Any = make_text_tower(text_model, pretrained is True, answer_head)
        width, num_heads = self.text_model.config.hidden_size, self.text_model.config.num_attention_heads
        self.vision_projection = nn.Linear(self.vision_encoder.embed_dim, width)
        self.fusion = GatedFusion(width, num_heads, fusion_layers)
        if answer_head == "classification":
            self.classifier = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(DROPOUT),
                nn.Linear(width, len(answers or ())),
            )  # fmt: skip
        if question_types is not None:
            self.type_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(question_types)))
        self.register_buffer("answers_hash", answers_hash(answers))
        if isinstance(pretrained, str):
            fill_vqa(self, pretrained)
            if answer_head == "generative":
                # a decoder writes any answer: it may be taught those of other data
                self.answers_hash.copy_(answers_hash(answers))
            self.check_vocabulary()
        source, apart = self.tokenizer_source, tokenizer is not None
        self.tokenizer: Any = load_tokenizer_for(self.text_model, source, apart) if source else None
        if checkpointing:
            for model in (self.vision_encoder.model, self.text_model):
                if not model.supports_gradient_checkpointing:
                    raise UserError(f"checkpointing: {type(model).__name__} cannot recompute; set it to false")
                enable_checkpointing(model)
        apply_lora(self, lora_config)
        self.train()

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def base(self) -> str:
        return self._base

    @property
    def new_modules(self) -> tuple[str, ...]:
        """What no file of the two models fills: trained in full wherever adapters are."""
        parts = ("vision_projection", "fusion", "classifier", "type_head")
        return tuple(name for name in parts if hasattr(self, name))

    @property
    def vision_is_frozen(self) -> bool:
        """Whether nothing of the vision encoder is trained: then its features of an image never change."""
        return not any(parameter.requires_grad for parameter in self.vision_encoder.parameters())

    def depth_of(self, parameter: str) -> int | None:
        """Layer of a parameter for layer-wise learning-rate decay: 0 embeddings, i + 1 block i; None: not of vision."""
        inner = parameter.removeprefix("vision_encoder.model.")
        return None if inner == parameter else self.vision_encoder.depth_of(inner)

    def compile_blocks(self) -> None:
        """Compiles each block of the vision encoder in place."""
        for block in self.vision_encoder.blocks:
            block.compile()

    def train(self, mode: bool = True) -> Self:
        """Training mode, but for towers of which nothing is trained: their dropout would only be noise."""
        super().train(mode)
        towers = (self.vision_encoder, encoder_of(self.text_model), decoder_of(self.text_model))
        for tower in towers:
            if mode and tower is not None and not any(p.requires_grad for p in tower.parameters()):
                tower.eval()
        return self

    def check_vocabulary(self) -> None:
        """That the weights belong to `answers`; a decoder writes any.

        Raises:
            UserError: if weights of another vocabulary were loaded.
        """
        if self.answer_head == "generative":
            return
        own = answers_hash(self.answers).to(self.answers_hash.device)
        if self.answers is not None and self.answers_hash.any() and not torch.equal(own, self.answers_hash):
            raise UserError(
                f"answers: the weights were trained on another vocabulary than these {len(self.answers)} answers; "
                "give the training data of the run, or its own config.yaml"
            )

    # -- answers -----------------------------------------------------------------------------------------------------

    def encode_images(self, images: Tensor) -> Tensor:
        """Patch tokens of images, (I, N, Dv).

        Args:
            images: uint8 (0 to 255) or floating point (0 to 1) RGB, (I, 3, H, W).
        """
        return self.vision_encoder(images)

    def forward(
        self,
        images: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        image_index: Tensor | None = None,
        vision_tokens: Tensor | None = None,
    ) -> VQAOutput:
        """Logits of B questions about I images.

        Args:
            images: as in `encode_images`; None with `vision_tokens`.
            input_ids: tokens of the questions, (B, T).
            attention_mask: (B, T), not 0 where there is a token.
            labels: tokens of the answers, (B, L), -100 where there is none: those before a place predict it. Without
                them the generative head predicts the first token alone (L = 1).
            image_index: which image a question is about, (B,); None: one question an image.
            vision_tokens: what `encode_images` answered, (I, N, Dv).

        Raises:
            UserError: for questions longer than the text model can take.
        """
        vision, states, mask, image_index = self._fuse(images, input_ids, attention_mask, image_index, vision_tokens)
        pooled = _masked_mean(states, mask)
        type_logits = self.type_head(pooled) if self.question_types is not None else None
        if self.answer_head == "classification":
            return VQAOutput(self.classifier(pooled), type_logits)
        output = self.text_model(
            **self._for_decoder(vision, states, mask, image_index),
            decoder_input_ids=self._shifted(labels, len(states), states.device),
            use_cache=False,
        )
        return VQAOutput(output.logits, type_logits)

    @torch.no_grad()
    def generate(
        self,
        images: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_index: Tensor | None = None,
        vision_tokens: Tensor | None = None,
        num_beams: int = 1,
        max_new_tokens: int = 16,
    ) -> list[list[int]]:
        """Tokens of the answers by beam search, (B, L), shorter ones padded; other arguments as in `forward`.

        Args:
            num_beams: answers that are followed at once; 1 takes the likeliest token each time.
            max_new_tokens: that an answer may have.

        Raises:
            UserError: as in `forward`.
        """
        assert self.answer_head == "generative", "the classification head chooses answers: see `answer`"
        with evaluation_mode(self):
            fused = self._fuse(images, input_ids, attention_mask, image_index, vision_tokens)
            settings = GenerationConfig(num_beams=num_beams, max_new_tokens=max_new_tokens, do_sample=False)
            tokens = self.text_model.generate(**self._for_decoder(*fused), generation_config=settings)
        # the first one starts the decoder
        return tokens[:, 1:].tolist()

    @torch.no_grad()
    def answer(
        self,
        images: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_index: Tensor | None = None,
        vision_tokens: Tensor | None = None,
        num_beams: int = 1,
        max_new_tokens: int = 16,
    ) -> list[str]:
        """Answers as text, with either head; arguments as in `generate`.

        Raises:
            UserError: as in `forward`, or if the generative head has no tokenizer.
        """
        if self.answer_head == "classification":
            assert self.answers is not None
            with evaluation_mode(self):
                logits = self(images, input_ids, attention_mask, None, image_index, vision_tokens).logits
            return [self.answers[index] for index in logits.argmax(1).tolist()]
        if self.tokenizer is None:
            raise UserError("tokenizer: null, and there is none beside text_model; give the folder of its tokenizer")
        tokens = self.generate(images, input_ids, attention_mask, image_index, vision_tokens, num_beams, max_new_tokens)
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [unicodedata.normalize("NFC", text.strip()) for text in texts]

    def _fuse(
        self,
        images: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_index: Tensor | None,
        vision_tokens: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Projected vision tokens (I, N, D), fused states (B, T, D), their mask (B, T) int64, and the index (B,)."""
        positions = usable_positions(self.text_model.config)
        if positions is not None and input_ids.shape[1] > positions:
            raise UserError(
                f"input_ids: a question of {input_ids.shape[1]} tokens, the text model takes {positions}; cut it off"
            )
        if vision_tokens is None:
            assert images is not None, "either images or vision_tokens"
            vision_tokens = self.encode_images(images)
        if image_index is None:
            assert len(vision_tokens) == len(input_ids), "without image_index there is one question an image"
            image_index = torch.arange(len(input_ids), device=input_ids.device)
        mask = (attention_mask != 0).long()
        vision = self.vision_projection(vision_tokens.to(self.vision_projection.weight.dtype))
        states = self._question_states(input_ids, mask)
        return vision, self.fusion(states, vision, image_index), mask, image_index

    def _question_states(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """States of the questions, (B, T, D); without dropout equal questions are read once, as templates repeat."""
        encoder, inverse = encoder_of(self.text_model), None
        if not encoder.training:
            pairs, inverse = torch.unique(torch.cat((input_ids, mask), dim=1), dim=0, return_inverse=True)
            input_ids, mask = pairs.chunk(2, dim=1)
        states = encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return states if inverse is None else states[inverse]

    def _for_decoder(self, vision: Tensor, states: Tensor, mask: Tensor, image_index: Tensor) -> dict[str, Any]:
        """Encoder states [vision; question], (B, N + T, D), and their mask, as the text model takes them."""
        seen = mask.new_ones(len(states), vision.shape[1])
        encoded = torch.cat((vision[image_index], states), dim=1)
        return {
            "encoder_outputs": BaseModelOutput(last_hidden_state=encoded),
            "attention_mask": torch.cat((seen, mask), dim=1),
        }

    def _shifted(self, labels: Tensor | None, batch: int, device: torch.device) -> Tensor:
        """What the decoder sees, (B, L): its start, then the answers' tokens but the last; as in `generate`."""
        config = self.text_model.config
        start = torch.full((batch, 1), config.decoder_start_token_id, device=device)
        if labels is None:
            return start
        return torch.cat(
            (start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED_TOKEN, config.pad_token_id)), dim=1
        )

    # -- what is trained, and files ----------------------------------------------------------------------------------

    def freeze_pretrained(self, unfreeze_encoder_layers: int = 0, unfreeze_decoder: bool = True) -> None:
        """Freezes both models; adapters, the fusion, the projection and the heads stay trained. Prints what is.

        Weights under an adapter stay frozen in any case. The record of the adaptation says the same afterwards.

        Args:
            unfreeze_encoder_layers: so many of the last blocks of the vision encoder are trained in full.
            unfreeze_decoder: train the decoder, where there is one, and all weights that are tied to it.

        Raises:
            UserError: for more blocks than there are.
        """
        freeze_models(self, self.vision_encoder, self.text_model, unfreeze_encoder_layers, unfreeze_decoder)
        self.train(self.training)
        print_lora_summary(self)

    @classmethod
    def opens(cls, folder: Path) -> bool:
        return (folder / CONFIG_FILE).is_file()

    def write(self, folder: Path) -> None:
        """Write config.json, model.safetensors and tokenizer/ into a folder that exists; `pretrained` opens it.

        Raises:
            UserError: if the network holds adapters.
        """
        require_merged(self)
        tower = self.vision_encoder
        layout = VQALayout(
            self.answer_head, self.answers, self.question_types, self.img_size, len(self.fusion.layers),
            tower.normalize.colors,
            *(model.config.to_dict() | {"_name_or_path": ""} for model in (tower.model, self.text_model)),
        )  # fmt: skip
        write_vqa(self, layout, self.tokenizer, folder)


def _masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of states (B, T, D) where the mask (B, T) is 1, (B, D)."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _check_values(
    answer_head: str, answers: list[str] | None, question_types: list[str] | None, fusion_layers: int
) -> None:
    if answer_head not in ("generative", "classification"):
        raise UserError(f"answer_head: {answer_head!r}, must be generative or classification")
    if answer_head == "classification" and not answers:
        raise UserError(f"answers: {answers!r}, the classification head needs some; a config gets them from the data")
    if question_types is not None and not question_types:
        raise UserError("question_types: [], must be at least one, or null for no type head")
    if fusion_layers < 1:
        raise UserError(f"fusion_layers: {fusion_layers}, must be at least 1")
