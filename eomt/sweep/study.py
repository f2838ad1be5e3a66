"""The record of a sweep: an Optuna study, whose storage is one file that other programs can open."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from eomt.errors import UserError, shortened
from eomt.sweep.jobs import Job, Report

if TYPE_CHECKING:
    from optuna import Study, Trial

STORAGE, STUDY = "study.log", "sweep"
# what of a study must be equal for it to go on
IDENTITY = "identity"
# of trainings whose place in the ranking of their rivals keeps them; the others are pruned
KEPT_SHARE = 0.5


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("sweep: needs Optuna; run pip install -e '.[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def kept(scores: Mapping[str, float | None], mode: Literal["min", "max"]) -> list[str]:
    """Return the names of the better half, at least one, best first; None is the worst score.

    Of equal ones the first is better.
    """
    sign = -1 if mode == "max" else 1
    known = [name for name, score in scores.items() if score is not None and math.isfinite(score)]
    ranked = sorted(known, key=lambda name: sign * (scores[name] or 0.0))
    return ranked[: math.ceil(len(scores) * KEPT_SHARE)]


class Record:
    """The record of a sweep.

    Args:
        folder: Of the sweep; a study there goes on.
        identity: What the study is of, as text by name; that of a study that goes on must be equal.
        mode: Whether the best score is the highest or the lowest.

    Raises:
        UserError: The study in the folder is of something else, or Optuna is not installed.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str], mode: Literal["min", "max"]) -> None:
        optuna = _optuna()
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / STORAGE)))
        direction: Literal["maximize", "minimize"] = "maximize" if mode == "max" else "minimize"
        self.study: Study = optuna.create_study(
            storage=storage, study_name=STUDY, direction=direction, load_if_exists=True, sampler=None
        )
        known = self.study.user_attrs.get(IDENTITY)
        if known is None:
            self.study.set_user_attr(IDENTITY, dict(identity))
        elif known != dict(identity):
            differing = [name for name in {**known, **identity} if known.get(name) != identity.get(name)]
            name = differing[0]
            was, now = (shortened(found.get(name, "not there"), 60) for found in (known, identity))
            raise UserError(
                f"run_name: {folder} holds a sweep of another configuration: {name} was {was}, and is {now} now; "
                "choose another name"
            )
        self._trials: dict[str, Trial] = {}
        self._reported: dict[str, set[int]] = {}
        states = optuna.trial.TrialState
        for frozen in self.study.get_trials(deepcopy=False, states=(states.RUNNING,)):
            self._trials[frozen.user_attrs["run"]] = optuna.trial.Trial(self.study, frozen._trial_id)
            self._reported[frozen.user_attrs["run"]] = set(frozen.intermediate_values)
        self._ended = {
            frozen.user_attrs["run"]
            for frozen in self.study.get_trials(deepcopy=False)
            if frozen.state.is_finished() and "run" in frozen.user_attrs
        }

    def begin(self, job: Job) -> None:
        """Note that a training begins; one that is known goes on."""
        if job.command != "fit" or job.name in self._trials or job.name in self._ended:
            return
        optuna = _optuna()
        # values of a grid are texts: those of one field may be of several kinds
        facts = {
            name: value if name == "lr" or isinstance(value, str) else json.dumps(value, default=str)
            for name, value in job.facts.items()
        }
        distributions: dict[str, Any] = {}
        for name, value in facts.items():
            distributions[name] = (
                optuna.distributions.FloatDistribution(1e-12, 1e12, log=True)
                if isinstance(value, float)
                else optuna.distributions.CategoricalDistribution((value,))
            )
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING,
            params=facts,
            distributions=distributions,
            user_attrs={"run": job.name},
        )
        self.study.add_trial(trial)
        frozen = self.study.get_trials(deepcopy=False)[-1]
        self._trials[job.name] = optuna.trial.Trial(self.study, frozen._trial_id)

    def add(self, job: Job, report: Report) -> None:
        """Note what a training has come to; its end, if it has ended."""
        trial = self._trials.get(job.name)
        if trial is None:
            return
        states = _optuna().trial.TrialState
        for name in ("seconds", "memory", "trained", "file_bytes", "error", "step"):
            trial.set_user_attr(name, getattr(report, name))
        reported, percent = self._reported.setdefault(job.name, set()), round(100 * report.reached)
        if report.score is not None and percent not in reported:
            reported.add(percent)
            trial.report(report.score, step=percent)
        if report.error is not None or (report.reached >= 1 and report.score is None):
            self._end(job.name, None, states.FAIL)
        elif report.reached >= 1:
            self._end(job.name, report.score, states.COMPLETE)

    def prune(self, names: Sequence[str]) -> None:
        """Note that trainings are not gone on with."""
        for name in names:
            if name in self._trials:
                self._end(name, None, _optuna().trial.TrialState.PRUNED)

    def _end(self, name: str, score: float | None, state: Any) -> None:
        trial = self._trials.pop(name)
        # the last reported value stands for a pruned one
        self.study.tell(trial, score if state == _optuna().trial.TrialState.COMPLETE else None, state=state)
        self._ended.add(name)
