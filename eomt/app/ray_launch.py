"""`fit --launcher ray`: the same command in each process of a Ray cluster; a process that dies is begun anew."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from eomt.app.arguments import CONFIG_OPTIONS, option_value
from eomt.app.launching import RayLaunch
from eomt.app.log import show
from eomt.app.messages import as_user_error, one_line
from eomt.app.runs import newest_checkpoint
from eomt.errors import UserError
from eomt.utils.ray_cluster import cluster, ray_module

# how often processes that died are begun anew
MAX_FAILURES = 3
# below the folder of all runs: what Ray notes of a training
RAY_FOLDER = ".ray"
# seconds between two looks whether it has ended
INTERVAL = 0.5
ERROR = "error.txt"


def fit_on_ray(args: list[str], launch: RayLaunch) -> None:
    """Train on a Ray cluster; all its machines must see the folders of data and runs under the same paths.

    Args:
        args: The command line of a fit, without the options of launchers.
        launch: What these say.

    Raises:
        UserError: If Ray is not there, the command line is wrong, or processes died more often than they may.
    """
    ray_module()
    if option_value(args, "--run_name") is None and option_value(args, "--ckpt_path") is None:
        stem = Path(option_value(args, *CONFIG_OPTIONS) or "run").stem
        args = [*args, "--run_name", f"{stem}_ray_{datetime.now():%Y%m%d-%H%M%S}"]
    # the processes would find a mistake, too, but a minute later
    from eomt.app.ray_check import check_fit

    run = check_fit(args)
    if option_value(args, "--run_name") is None:
        # a process that is begun anew must find it
        args = [*args, "--run_name", run.name]
    with cluster(launch.num_workers) as ray:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        notes = run.parent / RAY_FOLDER / f"{run.name}_{os.getpid()}"
        notes.mkdir(parents=True)
        trainer = TorchTrainer(
            _fit,
            train_loop_config={"args": args, "folder": os.getcwd(), "run": str(run), "notes": str(notes)},
            scaling_config=ScalingConfig(
                num_workers=launch.num_workers, use_gpu=bool(ray.cluster_resources().get("GPU"))
            ),
            run_config=RunConfig(
                name=notes.name, storage_path=str(notes.parent), failure_config=FailureConfig(MAX_FAILURES)
            ),
        )
        try:
            _in_thread(trainer.fit, run.name)
        except Exception as error:
            if (notes / ERROR).is_file():
                raise UserError((notes / ERROR).read_text()) from error
            raise UserError(
                f"launcher: ray: processes failed more than {MAX_FAILURES} times: {one_line(error)}; "
                f"--ckpt_path latest --run_name {run.name} goes on"
            ) from error


def _in_thread(work: Callable[[], object], name: str) -> None:
    """Do work in a thread of its own: in the main one, Ray would answer Ctrl-C in our place, and exit with 1.

    A signal ends this process where it stands: what is left would crash while the thread waits for the cluster. That
    ends with it if it was begun here, and else the cluster ends what this process has begun.

    Args:
        work: What to do.
        name: Of the run, for the message.

    Raises:
        Exception: What the work raises.
    """
    failed: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True, name="fit-on-ray")
    thread.start()
    try:
        while thread.is_alive():
            # for ever, it would not hear of signals everywhere
            thread.join(INTERVAL)
    except BaseException as signalled:
        show(f"Stopped; --ckpt_path latest --run_name {name} goes on from the last checkpoint, if there is one")
        sys.stdout.flush()
        os._exit(128 + (signal.SIGINT if isinstance(signalled, KeyboardInterrupt) else signal.SIGTERM))
    if failed:
        raise failed[0]


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
