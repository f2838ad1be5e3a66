"""Visual question answering: the states of a question attend to the patch tokens of an image and give an answer."""

import unicodedata
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from eomt.errors import UserError
from eomt.lora.adapter_layer import require_merged
from eomt.lora.apply import apply_lora
from eomt.lora.config import LoRAConfig
from eomt.lora.summary import print_lora_summary
from eomt.models.frozen_features import is_frozen, weights_of
from eomt.models.parts.answer_heads import check_heads, make_classifier, make_type_head
from eomt.models.parts.freezing import freeze_models
from eomt.models.parts.gated_fusion import GatedFusion
from eomt.models.parts.recomputing import RecomputingNetwork
from eomt.models.parts.text_states import decoder_tokens, encoder_arguments, kept_question_states, masked_mean
from eomt.models.parts.text_tower import decoder_of, encoder_of, load_tokenizer_for, make_text_tower
from eomt.models.parts.vision_lora import ALPHA, DROPOUT, RANK, vision_lora_config
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
from eomt.utils.modes import evaluation_mode
from eomt.utils.paths import PathOrName, expand_source
from eomt.utils.tokenizer import usable_positions


class VQAOutput(NamedTuple):
    """The network's answer to B questions."""

    # generative: (B, L, number of tokens in the vocabulary); classification: (B, number of answers)
    logits: Tensor
    # (B, number of types); None without a type head
    type_logits: Tensor | None


class DeterministicVQA(RecomputingNetwork):
    """A network that answers questions about images.

    The vision encoder's patch tokens are projected to the width of the text model, and the states of the question
    attend to them through a gate (`fusion`). With the generative head, the decoder of a BART or mBART writes the answer
    from the encoder states [projected vision tokens; fused question states]. With the classification head, a small MLP
    chooses from `answers`, given the mean of the fused states over the question's tokens. The type head gets the same
    mean, so that its loss also trains the fusion.

    Args:
        vision_model: A repository on the hub, a local folder, or a Hugging Face configuration: a dict with a
            `model_type`, which has no weights, so that the model is random. See `vision_tower.CLASSES`.
        text_model: The same for a BART or mBART; for classification, any text encoder.
        pretrained: True reads the weights of both, False only their configurations. A text is a folder that `write`
            filled; its models, vocabulary and sizes override the other arguments.
        answer_head: Generative or classification.
        answers: Vocabulary of the training split, which classification chooses from. With a config it comes from the
            data.
        question_types: Types that the type head predicts; None for no type head.
        tokenizer: A folder or repository; None takes the tokenizer of `text_model`.
        img_size: Height and width in pixels of the images, multiples of the patch size.
        fusion_layers: Number of layers of gated cross-attention.
        checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        lora_config: Settings of LoRA; None adds no adapters.
        use_vision_lora: Short for a `lora_config` with query, key and value of the vision encoder, all else frozen but
            the new parts.
        vision_lora_r: Rank of it; without `use_vision_lora` neither this nor the next two may be given.
        vision_lora_alpha: Alpha of it.
        vision_lora_dropout: Dropout of it.

    Attributes:
        tokenizer: Tokenizer of the text model; None if there is none.
        tokenizer_source: Where the tokenizer was read; None if there is none.

    Raises:
        UserError: If models are not available or do not fit, or a value is not allowed.
    """

    # adapters have the names of the Hugging Face models
    inner_models = ("vision_encoder.model", "text_model")
    files = RecomputingNetwork.files | {CONFIG_FILE, TOKENIZER}

    answers_hash: Tensor

    def __init__(
        self,
        # dict comes first: jsonargparse would write it into a run's config as a text
        vision_model: dict[str, Any] | PathOrName = "facebook/dinov2-base",
        text_model: dict[str, Any] | PathOrName = "vinai/bartpho-syllable",
        pretrained: bool | PathOrName = True,
        answer_head: AnswerHead = "generative",
        answers: list[str] | None = None,
        question_types: list[str] | None = None,
        tokenizer: PathOrName | None = None,
        img_size: tuple[int, int] = (224, 224),
        fusion_layers: int = 2,
        checkpointing: bool = False,
        lora_config: LoRAConfig | None = None,
        use_vision_lora: bool = False,
        vision_lora_r: int = RANK,
        vision_lora_alpha: float = ALPHA,
        vision_lora_dropout: float = DROPOUT,
    ) -> None:
        super().__init__()
        if use_vision_lora and lora_config is not None:
            raise UserError("use_vision_lora, lora_config: both are given; give one of them")
        vision_lora = vision_lora_config(use_vision_lora, vision_lora_r, vision_lora_alpha, vision_lora_dropout)
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
        check_heads(answer_head, answers, question_types)
        if fusion_layers < 1:
            raise UserError(f"fusion_layers: {fusion_layers}; must be at least 1")
        self.answer_head, self.answers, self.question_types = answer_head, answers, question_types
        self.vision_encoder = make_vision_tower(vision_model, pretrained is True, img_size, colors)
        self.img_size = self.vision_encoder.img_size
        self.text_model: Any = make_text_tower(text_model, pretrained is True, answer_head)
        width, num_heads = self.text_model.config.hidden_size, self.text_model.config.num_attention_heads
        self.vision_projection = nn.Linear(self.vision_encoder.embed_dim, width)
        self.fusion = GatedFusion(width, num_heads, fusion_layers)
        if answer_head == "classification":
            self.classifier = make_classifier(width, len(answers or ()))
        if question_types is not None:
            self.type_head = make_type_head(width, len(question_types))
        self.register_buffer("answers_hash", answers_hash(answers))
        if isinstance(pretrained, str):
            fill_vqa(self, pretrained)
            if answer_head == "generative":
                # a decoder can write any answer, so that it may be trained on those of other data
                self.answers_hash.copy_(answers_hash(answers))
            self.check_vocabulary()
        source, apart = self.tokenizer_source, tokenizer is not None
        self.tokenizer: Any = load_tokenizer_for(self.text_model, source, apart) if source else None
        if checkpointing:
            for model in self.recomputing_models:
                if not model.supports_gradient_checkpointing:
                    raise UserError(f"checkpointing: {type(model).__name__} cannot recompute; set it to false")
            self.checkpointing = True
        apply_lora(self, lora_config or vision_lora)
        self.train()

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def base(self) -> str:
        """Origin of the weights in words: of the whole network, or of both models."""
        return self._base

    @property
    def recomputing_models(self) -> tuple[PreTrainedModel, ...]:
        """Both models."""
        return (self.vision_encoder.model, self.text_model)

    @property
    def new_modules(self) -> tuple[str, ...]:
        """Everything beside the two models: it is trained in full beside the adapters."""
        parts = ("vision_projection", "fusion", "classifier", "type_head")
        return tuple(name for name in parts if hasattr(self, name))

    def depth_of(self, parameter: str) -> int | None:
        """Return 0 for embeddings, i + 1 for block i of the vision encoder; None outside of it."""
        inner = parameter.removeprefix("vision_encoder.model.")
        return None if inner == parameter else self.vision_encoder.depth_of(inner)

    def compile_blocks(self) -> None:
        """Compile each block of the vision encoder in place."""
        for block in self.vision_encoder.blocks:
            block.compile()

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except in frozen towers, where dropout would only add noise."""
        super().train(mode)
        towers = (self.vision_encoder, encoder_of(self.text_model), decoder_of(self.text_model))
        for tower in towers:
            if mode and tower is not None and is_frozen(tower.parameters()):
                tower.eval()
        return self

    def check_vocabulary(self) -> None:
        """Check that the weights of a classification head belong to `answers`.

        Raises:
            UserError: If weights of another vocabulary were loaded.
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
        """Return patch tokens of images, (I, N, Dv); those of a frozen encoder are kept in `feature_cache`.

        Args:
            images: RGB images, uint8 (0 to 255) or floating point (0 to 1), (I, 3, H, W).
        """
        encoder = self.vision_encoder
        below = weights_of(encoder)
        (tokens,) = self.frozen_features("vision encoder", images, encoder, below, lambda x: (encoder(x),))
        return tokens

    def forward(
        self,
        images: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        image_index: Tensor | None = None,
        vision_tokens: Tensor | None = None,
    ) -> VQAOutput:
        """Return logits for B questions about I images.

        Args:
            images: Images as in `encode_images`; None with `vision_tokens`.
            input_ids: Tokens of the questions, (B, T).
            attention_mask: Mask (B, T), not 0 where there is a token.
            labels: Tokens of the answers, (B, L), -100 where there is none; each is predicted from those before it.
                Without labels the generative head predicts only the first token (L = 1): that with which its tokenizer
                begins every text, such as BART's <s>, or else the first of the answer.
            image_index: Image of each question, (B,); None for one question per image.
            vision_tokens: Output of `encode_images`, (I, N, Dv), in place of `images`.

        Raises:
            UserError: If a question is longer than the text model can take.
        """
        vision, states, mask, image_index = self.fuse(images, input_ids, attention_mask, image_index, vision_tokens)
        pooled = masked_mean(states, mask)
        type_logits = self.type_head(pooled) if self.question_types is not None else None
        if self.answer_head == "classification":
            return VQAOutput(self.classifier(pooled), type_logits)
        output = self.text_model(
            **encoder_arguments(vision, states, mask, image_index),
            decoder_input_ids=decoder_tokens(self.text_model.config, labels, len(states), states.device),
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
        """Return the tokens of the answers, (B, L), found by beam search; shorter answers are padded.

        Args:
            images: As in `forward`.
            input_ids: As in `forward`.
            attention_mask: As in `forward`.
            image_index: As in `forward`.
            vision_tokens: As in `forward`.
            num_beams: Number of beams; 1 takes the most likely token each time.
            max_new_tokens: Largest number of tokens of an answer.

        Raises:
            UserError: As in `forward`.
        """
        assert self.answer_head == "generative", "the classification head generates nothing: see `answer`"
        with evaluation_mode(self):
            fused = self.fuse(images, input_ids, attention_mask, image_index, vision_tokens)
            settings = GenerationConfig(num_beams=num_beams, max_new_tokens=max_new_tokens, do_sample=False)
            tokens = self.text_model.generate(**encoder_arguments(*fused), generation_config=settings)
        # without the start token
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
        """Return the answers as text, with either head; arguments as in `generate`.

        Raises:
            UserError: As in `forward`, or if the generative head has no tokenizer.
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

    def fuse(
        self,
        images: Tensor | None,
        input_ids: Tensor,
        attention_mask: Tensor,
        image_index: Tensor | None,
        vision_tokens: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return projected vision tokens (I, N, D), fused states (B, T, D), their mask (B, T) and image index (B,).

        Arguments as in `forward`.

        Raises:
            UserError: As in `forward`.
        """
        positions = usable_positions(self.text_model.config)
        if positions is not None and input_ids.shape[1] > positions:
            raise UserError(
                f"input_ids: a question of {input_ids.shape[1]} tokens, the text model takes {positions}; cut it off"
            )
        if vision_tokens is None:
            assert images is not None, "either images or vision_tokens"
            vision_tokens = self.encode_images(images)
        if image_index is None:
            count = input_ids.shape[0]
            assert vision_tokens.shape[0] == count, "without image_index there is one question per image"
            image_index = torch.arange(count, device=input_ids.device)
        mask = (attention_mask != 0).long()
        vision = self.vision_projection(vision_tokens.to(self.vision_projection.weight.dtype))
        cache, training = self.feature_cache, self.training
        states = kept_question_states(cache, encoder_of(self.text_model), input_ids, mask, training)
        return vision, self.fusion(states, vision, image_index), mask, image_index

    # -- training and files ------------------------------------------------------------------------------------------

    def freeze_pretrained(self, unfreeze_encoder_layers: int = 0, unfreeze_decoder: bool = True) -> None:
        """Freeze both models, but not adapters, fusion, projection and heads; print a summary.

        Weights under an adapter stay frozen in any case. The record of the adaptation is updated.

        Args:
            unfreeze_encoder_layers: Number of the last blocks of the vision encoder that are trained in full.
            unfreeze_decoder: Train the decoder, if there is one, and all weights that are tied to it.

        Raises:
            UserError: If there are fewer blocks.
        """
        freeze_models(self, self.vision_encoder, self.text_model, unfreeze_encoder_layers, unfreeze_decoder)
        self.train(self.training)
        print_lora_summary(self)

    @classmethod
    def opens(cls, folder: Path) -> bool:
        """Return whether `folder` holds a config.json, as `write` makes it."""
        return (folder / CONFIG_FILE).is_file()

    def write(self, folder: Path) -> None:
        """Write config.json, model.safetensors and tokenizer/ into a folder that exists; `pretrained` opens it.

        Raises:
            UserError: If the network holds adapters.
        """
        require_merged(self)
        tower = self.vision_encoder
        layout = VQALayout(
            self.answer_head, self.answers, self.question_types, self.img_size, len(self.fusion.layers),
            tower.normalize.colors,
            *(model.config.to_dict() | {"_name_or_path": ""} for model in (tower.model, self.text_model)),
        )  # fmt: skip
        write_vqa(self, layout, self.tokenizer, folder)
