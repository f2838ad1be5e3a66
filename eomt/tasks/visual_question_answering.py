"""Answering questions about images."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor, nn
from torchmetrics import MeanMetric

from eomt.errors import UserError
from eomt.lora.config import LoRAConfig
from eomt.losses.answers import AnswerLoss
from eomt.metrics.answer_scores import soft_accuracy
from eomt.metrics.vqa import VQAMetric
from eomt.models.vqa import DeterministicVQA, VQAOutput
from eomt.models.weights.vqa import TOKENIZER, longest_question, tokenizer_source
from eomt.tasks.base import AdaptationTask
from eomt.tasks.configuration import Configuration
from eomt.tasks.data import QuestionData, TrainingAnswers, data_of
from eomt.utils.reading import checked

# value of the blank image in every channel
GRAY = 128
# number of tokens of a synthetic question and answer
SYNTHETIC_TOKENS = 8
# of a checkpoint
ANSWERS: TypeAdapter[Any] = TypeAdapter(list[str] | None)

# figures that validation and test log
HEADLINE = ("accuracy", "exact_match", "f1", "accuracy_macro", "oov_rate")


class VisualQuestionAnswering(AdaptationTask):
    """Training and evaluation of a DeterministicVQA on questions about images.

    Batches:

    - `image`, uint8 `(I, 3, H, W)`, each image once, and `image_name`, I strings.
    - `image_index`, int64 `(B,)`: the image of each question.
    - `input_ids` and `attention_mask`, int64 `(B, T)`.
    - `labels`, int64 `(B, L)`: tokens of the answer, padded with -100.
    - `answer_index`, int64 `(B,)`: -1 if the answer is not in the vocabulary.
    - `weight`, `(B,)`: in training only.
    - `name`, `question`, `answer` and `question_type`, lists of B strings; `answers`, B lists of strings.

    Metrics:

    - `val_accuracy` is the soft accuracy of VQAv2, which with one reference is exact match.
    - `val_blank_accuracy` is the accuracy on gray images. A network that ignores the image is equally good on them.
    - `val_oov_rate` is the share of answers that do not occur in training.
    - `val_ceiling` is the highest accuracy that a network can reach which chooses from the answers of training.
    - Losses of evaluation are never weighted.

    Args:
        network: A DeterministicVQA.
        lora_config: Adapters and trained modules; None trains every parameter (full fine-tuning).
        lr: See AdaptationTask.
        label_smoothing: Share of the target's probability that training spreads over all tokens or answers.
        type_head_weight: Weight of the loss of the question type in training. Above 0 it needs the network's type head,
            which the command line then adds.
        num_beams: Width of beam search, for networks that write their answers.
        max_answer_tokens: Highest number of tokens of such an answer.
        language: Language whose rules decide whether two answers are equal; None takes that of the data.
        **training: Further arguments of AdaptationTask: head_lr, weight_decay, schedule, warmup, compile, memory,
            feature_cache, feature_folder.

    Raises:
        UserError: For a value that is not allowed.
    """

    monitor = "val_accuracy"
    file_metrics = ("accuracy", "f1")
    network_class = DeterministicVQA
    network: DeterministicVQA

    def __init__(
        self,
        network: DeterministicVQA,
        lora_config: LoRAConfig | None = None,
        lr: float = 1e-4,
        label_smoothing: float = 0.0,
        type_head_weight: float = 0.0,
        num_beams: int = 1,
        max_answer_tokens: int = 16,
        language: str | None = None,
        **training: Any,
    ) -> None:
        self.check_network(network)
        for name, value, least in (
            ("type_head_weight", type_head_weight, 0),
            ("num_beams", num_beams, 1),
            ("max_answer_tokens", max_answer_tokens, 1),
        ):
            if not value >= least:
                raise UserError(f"{name}: {value}; must be at least {least}")
        if (type_head_weight > 0) != (network.question_types is not None):
            given = "null" if network.question_types is None else network.question_types
            raise UserError(
                f"type_head_weight: {type_head_weight}, but network.question_types: {given}; give a weight "
                "above 0 and question types, or neither"
            )
        _check_trained_decoder(network, lora_config)
        super().__init__(network, lora_config, lr=lr, **training)
        # the network keeps frozen encoders in evaluation mode, and only now knows which are frozen
        network.train()
        self.type_head_weight, self.num_beams, self.max_answer_tokens = type_head_weight, num_beams, max_answer_tokens
        self.language = language or "en"
        self.criterion, self.evaluation_criterion = AnswerLoss(label_smoothing), AnswerLoss()
        self.train_accuracy, self.evaluation_loss = MeanMetric(), MeanMetric()
        self.val_metric, self.test_metric = VQAMetric(network.answers), VQAMetric(network.answers)
        self.blank_accuracy = MeanMetric()

    def setup(self, stage: str) -> None:
        """Check the vocabulary of the weights, and count answers that are too long to be written.

        Raises:
            UserError: If the weights belong to another vocabulary.
        """
        super().setup(stage)
        self.network.check_vocabulary()
        data = data_of(self.trainer)
        if stage == "fit" and self.network.answer_head == "generative" and isinstance(data, QuestionData):
            data.count_long_answers(self.max_answer_tokens)

    # -- configuration -----------------------------------------------------------------------------------------------

    @classmethod
    def configure(cls, configuration: Configuration) -> None:
        """Fill in image size, tokenizer, language, the answers of training and, for a type head, the question types.

        Raises:
            UserError: If the configured answers or language are not those of the training data.
        """
        super().configure(configuration)
        if configuration.data is None:
            return
        task, network = configuration.task, configuration.network
        pretrained, text_model = network["pretrained"], network["text_model"]
        configuration.fill_data("tokenizer", lambda: tokenizer_source(pretrained, text_model, network["tokenizer"]))
        opened = str(configuration.merged) if configuration.merged else pretrained
        configuration.fill_data("max_tokens", lambda: longest_question(opened, text_model))
        if task["language"] is None:
            task["language"] = configuration.data.get("language")
        elif configuration.data.get("language", "") is None:
            # training tells by the same rules which answers are equal
            configuration.data["language"] = task["language"]
        elif configuration.data.get("language", task["language"]) != task["language"]:
            raise UserError(
                f"model.language: {task['language']!r}, but data.language is {configuration.data['language']!r}, and "
                "one rule decides which answers are equal; leave model.language out: it is filled in"
            )
        datamodule = cast(TrainingAnswers, configuration.datamodule())
        if task["type_head_weight"] and network["question_types"] is None:
            network["question_types"] = datamodule.question_types
        if network["answer_head"] == "generative":
            # they only tell which answers do not occur in training; a decoder may learn from other data, too
            if network["answers"] is None and configuration.trains:
                network["answers"] = datamodule.answers
            return
        found, given = datamodule.answers, network["answers"]
        if given not in (None, found):
            raise UserError(
                f"model.network.answers: {len(given)} answers, but the training data has {len(found)}, and they are "
                "not the same; leave it out: it is filled in"
            )
        network["answers"] = found
        configuration.keep_found(datamodule)

    @classmethod
    def open_merged(cls, configuration: Configuration, folder: Path) -> None:
        """Also take the tokenizer in the folder, if there is one."""
        super().open_merged(configuration, folder)
        if configuration.data is not None and (folder / TOKENIZER).is_dir():
            configuration.data["tokenizer"] = str(folder / TOKENIZER)

    # -- training ----------------------------------------------------------------------------------------------------

    def losses(self, batch: dict[str, Any]) -> tuple[dict[str, Tensor], VQAOutput]:
        """Return the weighted loss of the answers, with that of the question types if there is a type head."""
        output = self._forward(self.network, batch)
        answer = self.criterion(output.logits, self._target(batch), batch.get("weight"))
        if output.type_logits is None:
            return {"loss": answer}, output
        type_loss = F.cross_entropy(output.type_logits.float(), self._types(batch))
        return {"loss": answer + self.type_head_weight * type_loss, "answer": answer, "type": type_loss}, output

    def synthetic_batch(self, batch_size: int) -> dict[str, Any]:
        """Return random images of the network's size, with random tokens."""
        generator = torch.Generator().manual_seed(0)
        vocabulary, answers = self.network.text_model.config.vocab_size, self.network.answers or ["synthetic"]
        index = torch.arange(batch_size) % len(answers)
        types = self.network.question_types or ["synthetic"]
        tokens = torch.randint(0, vocabulary, (2, batch_size, SYNTHETIC_TOKENS), generator=generator)
        size = (batch_size, 3, *self.network.img_size)
        names = [f"synthetic {number}" for number in range(batch_size)]
        return {
            "image": torch.randint(0, 256, size, dtype=torch.uint8, generator=generator),
            "image_name": names,
            "image_index": torch.arange(batch_size),
            "input_ids": tokens[0],
            "attention_mask": torch.ones_like(tokens[0]),
            "labels": tokens[1],
            "answer_index": index,
            "weight": torch.ones(batch_size),
            "name": names,
            "question": names,
            "answer": [answers[number] for number in index.tolist()],
            "answers": [[answers[number]] for number in index.tolist()],
            "question_type": [types[number % len(types)] for number in range(batch_size)],
        }

    def first_samples(self, batch: dict[str, Any], size: int) -> dict[str, Any]:
        """Return the first `size` images with as many questions as images have on average, rounded up."""
        images, questions = len(batch["image"]), len(batch["name"])
        kept = min(size * math.ceil(questions / images), questions)
        cut = {key: value[:kept] if len(value) == questions else value[:size] for key, value in batch.items()}
        return cut | {"image_index": torch.arange(kept, device=batch["image"].device) * size // kept}

    def outputs(self, network: nn.Module, batch: dict[str, Any]) -> Tensor:
        """Return logits: of the answers' tokens, `(B, L, V)`, or of the answers, `(B, A)`."""
        assert isinstance(network, DeterministicVQA)
        return self._forward(network, batch).logits

    @torch.no_grad()
    def training_metrics(self, batch: dict[str, Any], output: VQAOutput) -> None:
        """Log `train_accuracy`.

        A written answer is right if each of its tokens is the most likely one after the true tokens before it.
        """
        target = self._target(batch)
        hits = (output.logits.argmax(-1) == target) | (target < 0)
        real = (target >= 0).view(len(target), -1).any(1)
        self.train_accuracy.update(hits.view(len(target), -1).all(1)[real].float())
        if self.ends_logged_step():
            self.log("train_accuracy", self.train_accuracy.compute(), prog_bar=True)
            self.train_accuracy.reset()

    def _forward(self, network: DeterministicVQA, batch: dict[str, Any]) -> VQAOutput:
        return network(
            batch["image"],
            batch["input_ids"],
            batch["attention_mask"],
            batch["labels"] if network.answer_head == "generative" else None,
            batch["image_index"],
        )

    def _target(self, batch: dict[str, Any]) -> Tensor:
        return batch["labels"] if self.network.answer_head == "generative" else batch["answer_index"]

    def _types(self, batch: dict[str, Any]) -> Tensor:
        known = self.network.question_types or []
        return torch.tensor([known.index(name) for name in batch["question_type"]], device=batch["input_ids"].device)

    # -- evaluation --------------------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, list[str]]:
        """Add a batch to the metrics; return the answers, `predicted`, and those to gray images, `blank`."""
        return self._evaluate(batch, self.val_metric)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_metric(self.val_metric, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, list[str]]:
        """Add a batch to the metrics; return the answers, `predicted`, and those to gray images, `blank`."""
        return self._evaluate(batch, self.test_metric)

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_metric(self.test_metric, "test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, list[str]]:
        """Return `predicted`, B answers."""
        return {"predicted": self._answers(batch, self._tokens(batch))}

    def _evaluate(self, batch: dict[str, Any], metric: VQAMetric) -> dict[str, list[str]]:
        tokens = self._tokens(batch)
        predicted = self._answers(batch, tokens)
        blank = self._answers(batch, self._blank_tokens(batch).expand_as(tokens))
        columns = (batch["answers"], batch["answer"], batch["question_type"], batch["name"])
        metric.update(predicted, *columns, language=self.language)
        # questions without a name only complete the last step of a rank, and do not count
        real = [index for index, name in enumerate(batch["name"]) if name]
        if real:
            self.blank_accuracy.update(self._accuracies(batch, blank, real))
            labels = batch["labels"] if self.network.answer_head == "generative" else None
            logits = self.network(
                None, batch["input_ids"], batch["attention_mask"], labels, batch["image_index"], tokens
            ).logits
            losses = self.evaluation_criterion.per_sample(logits, self._target(batch))[real]
            # an answer that is not in the vocabulary has no loss
            known = (self._target(batch)[real] >= 0).view(len(real), -1).any(1)
            if known.any():
                self.evaluation_loss.update(losses[known])
        return {"predicted": predicted, "blank": blank}

    def _accuracies(self, batch: dict[str, Any], answers: Sequence[str], places: Sequence[int]) -> Tensor:
        return torch.tensor([soft_accuracy(answers[i], batch["answers"][i], self.language) for i in places])

    def _tokens(self, batch: dict[str, Any]) -> Tensor:
        """Return the features of the images, `(I, N, Dv)`, to be computed once per batch."""
        return self.network.encode_images(batch["image"])

    def _blank_tokens(self, batch: dict[str, Any]) -> Tensor:
        """Return the features of a gray image, `(1, N, Dv)`."""
        return self.network.encode_images(torch.full_like(batch["image"][:1], GRAY))

    def _answers(self, batch: dict[str, Any], tokens: Tensor) -> list[str]:
        return self.network.answer(
            None,
            batch["input_ids"],
            batch["attention_mask"],
            batch["image_index"],
            tokens,
            self.num_beams,
            self.max_answer_tokens,
        )

    def _log_metric(self, metric: VQAMetric, stage: str) -> None:
        figures: dict[str, float] = metric.compute()
        # the metrics have gathered from all ranks already; sync_dist only tells Lightning so
        self.log(f"{stage}_loss", self.evaluation_loss.compute(), sync_dist=True)
        shown = {name: figures[name] for name in HEADLINE if name in figures}
        shown |= {name: value for name, value in figures.items() if name.startswith("accuracy/")}
        # a decoder can also write other answers than those of training, so it has no ceiling
        if "ceiling" in figures and self.network.answer_head == "classification":
            shown["ceiling"] = figures["ceiling"]
        shown["blank_accuracy"] = float(self.blank_accuracy.compute())
        for name, value in shown.items():
            self.log(f"{stage}_{name}", value, prog_bar=name == "accuracy", sync_dist=True)
        metric.reset()
        self.evaluation_loss.reset()
        self.blank_accuracy.reset()

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also keep the vocabulary of answers."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["answers"] = self.network.answers

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also check the vocabulary of answers.

        A network that writes its answers takes the vocabulary of the checkpoint, which only counts unknown answers.

        Raises:
            UserError: If the network chooses from another vocabulary than the checkpoint's.
        """
        super().on_load_checkpoint(checkpoint)
        theirs = checked(checkpoint.get("answers"), ANSWERS, "ckpt_path: its answers", "give another checkpoint")
        ours = self.network.answers
        if self.network.answer_head == "generative":
            known = ours if theirs is None else theirs
            self.network.answers = self.val_metric.vocabulary = self.test_metric.vocabulary = known
        elif theirs != ours:
            raise UserError(
                f"ckpt_path: was trained on {len(theirs or [])} answers, the data has {len(ours or [])}, and they are "
                "not the same; leave --config out to use the run's own vocabulary"
            )


def _check_trained_decoder(network: DeterministicVQA, lora_config: LoRAConfig | None) -> None:
    named = lora_config.trainable_modules if lora_config is not None and network.answer_head == "classification" else []
    if decoders := [name for name in named if name.rpartition(".")[2] in ("decoder", "lm_head")]:
        raise UserError(
            f"lora_config.trainable_modules: {decoders[0]!r}: the classification head has no decoder; leave it out, as "
            "with --model.lora_config.trainable_modules '[]'"
        )
