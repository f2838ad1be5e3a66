"""`fit --launcher ray`: the same command in each process of a Ray cluster; a process that dies is begun anew."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from eomt.app.arguments import CONFIG_OPTIONS, option_value
from eomt.app.launching import RayLaunch
from eomt.app.messages import as_user_error, one_line
from eomt.app.runs import newest_checkpoint
from eomt.errors import UserError
from eomt.utils.ray_cluster import cluster

# how often processes that died are begun anew
MAX_FAILURES = 3
# below the folder of all runs: what Ray notes of a training
RAY_FOLDER = ".ray"
ERROR = "error.txt"


def fit_on_ray(args: list[str], launch: RayLaunch) -> None:
    """Train on a Ray cluster; all its machines must see the folders of data and runs under the same paths.

    Args:
        args: The command line of a fit, without the options of launchers.
        launch: What these say.

    Raises:
        UserError: If Ray is not there, the command line is wrong, or processes died more often than they may.
    """
    with cluster(launch.num_workers) as ray:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        root = Path(option_value(args, "--trainer.default_root_dir") or "runs").absolute()
        name = option_value(args, "--run_name")
        if name is None:
            # made up here, so that a process that is begun anew finds its run
            stem = Path(option_value(args, *CONFIG_OPTIONS) or "run").stem
            name = f"{stem}_ray_{datetime.now():%Y%m%d-%H%M%S}"
            args = [*args, "--run_name", name]
        notes = root / RAY_FOLDER / f"{name}_{os.getpid()}"
        notes.mkdir(parents=True)
        trainer = TorchTrainer(
            _fit,
            train_loop_config={"args": args, "folder": os.getcwd(), "run": str(root / name), "notes": str(notes)},
            scaling_config=ScalingConfig(
                num_workers=launch.num_workers, use_gpu=bool(ray.cluster_resources().get("GPU"))
            ),
            run_config=RunConfig(
                name=notes.name, storage_path=str(root / RAY_FOLDER), failure_config=FailureConfig(MAX_FAILURES)
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            if (notes / ERROR).is_file():
                raise UserError((notes / ERROR).read_text()) from error
            raise UserError(
                f"launcher: ray: processes failed more than {MAX_FAILURES} times: {one_line(error)}; "
                f"--ckpt_path latest --run_name {name} goes on"
            ) from error


def _fit(settings: dict[str, Any]) -> None:
    """Run the command in this process of the cluster; behind a failure it goes on from the run's last checkpoint.

    A mistake of the user is noted, so that it is not made again at each new beginning.

    Raises:
        UserError: The mistake.
    """
    os.chdir(settings["folder"])
    error_file = Path(settings["notes"]) / ERROR
    if error_file.is_file():
        raise UserError(error_file.read_text())
    import ray.train

    from eomt.app.ray_cli import RayCLI

    args, run = list(settings["args"]), Path(settings["run"])
    begun = Path(settings["notes"]) / f"begun_{ray.train.get_context().get_world_rank()}"
    if begun.exists() and run.is_dir() and newest_checkpoint(run, "latest") is not None:
        args += ["--ckpt_path", "latest"]
    begun.touch()
    try:
        RayCLI(args)
    except Exception as error:
        found = as_user_error(error)
        # the end of a peer is no mistake
        if found is not None and found.status == 2:
            error_file.write_text(one_line(found))
        raise
