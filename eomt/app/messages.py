"""Exceptions of libraries and of the machine, turned into one line that a user can act on.

The libraries are imported where they are looked at: a mistake in the arguments is told before they are loaded.
"""

import errno

from eomt.errors import UserError, shortened
from eomt.utils.files import DISK_FULL

# lines that jsonargparse puts around the error itself
BOILERPLATE = (
    "Does not validate against any of the Union subtypes",
    "Subtypes: ",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value",
    "Subclass types expect one of:",
    "a class path (str)",
    "a dict with",
)

# error numbers of the operating system
NO_PERMISSION = (errno.EROFS, errno.EACCES, errno.EPERM)


def as_user_error(error: BaseException) -> UserError | None:
    """Return the error that the user can correct, or None for an error of the program."""
    return find_user_error(error) or resource_error(error) or checkpoint_error(error) or trainer_error(error)


def checkpoint_error(error: BaseException) -> UserError | None:
    """Return what fails while a trainer goes on from a checkpoint as a UserError; None for any other exception."""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        is_connector = code.co_filename.endswith("checkpoint_connector.py")
        if is_connector and code.co_name.lstrip("_").startswith(("restore", "resume_start")):
            reason = f"{type(error).__name__}: {one_line(error)}"
            return UserError(
                f"ckpt_path: a run cannot go on from it ({shortened(reason, 120)}); give another checkpoint"
            )
        trace = trace.tb_next
    return None


def trainer_error(error: BaseException) -> UserError | None:
    """Return Lightning's refusal of the trainer's settings as a UserError; None for any other exception."""
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    modules = _modules_of(error)
    for part in ("loggers", "callbacks"):
        # a logger's service may fail in a package of its own; of a callback, only its own complaint is meant
        places = modules if part == "loggers" else modules[-1:]
        if any(module.startswith(f"lightning.pytorch.{part}.") for module in places):
            return UserError(f"trainer.{part}: {one_line(error) or type(error).__name__}")
    of_lightning = isinstance(error, ValueError) and modules[-1:] and modules[-1].startswith("lightning.pytorch.")
    if isinstance(error, MisconfigurationException) or of_lightning:
        return UserError(f"trainer: {one_line(error)}")
    return None


def _modules_of(error: BaseException) -> list[str]:
    """Return the modules whose functions an exception went through, the one that raised it last."""
    found = []
    trace = error.__traceback__
    while trace is not None:
        found.append(trace.tb_frame.f_globals.get("__name__", ""))
        trace = trace.tb_next
    return found


def find_user_error(error: BaseException | None) -> UserError | None:
    """Return the UserError that libraries may have wrapped into other exceptions; None if there is none."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, UserError):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def root_of(error: BaseException) -> BaseException:
    """Return the exception that was raised first; jsonargparse wraps it into a long one of its own."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return error


def constructor_of(error: BaseException) -> str:
    """Return the name of the class whose constructor raised an exception, or "config" where none did."""
    trace = root_of(error).__traceback__
    name = "config"
    while trace is not None:
        frame = trace.tb_frame
        made = frame.f_locals.get("self")
        ours = frame.f_globals.get("__name__", "").startswith(
            ("jsonargparse", "lightning.pytorch.cli", "eomt.app.command_line")
        )
        if frame.f_code.co_name == "__init__" and made is not None and not ours:
            return type(made).__name__
        trace = trace.tb_next
    return name


def one_line(error: BaseException) -> str:
    """Return the message of an error without line breaks."""
    if found := find_user_error(error):
        return str(found)
    lines = [line.strip(" -") for line in str(error).splitlines()]
    informative = [line for line in lines if line and not line.startswith(BOILERPLATE)]
    return " ".join(informative or lines)


def resource_error(error: BaseException) -> UserError | None:
    """Return the lack of memory, disk space or permission, with a remedy; None for any other exception."""
    import torch
    from safetensors import SafetensorError

    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return UserError(
            f"memory: the device is out of memory ({str(error).splitlines()[0][:80]}); try a smaller "
            "--data.batch_size with --trainer.accumulate_grad_batches, --model.memory least, "
            "a smaller img_size or --model.lora_config.layers last:4"
        )
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return UserError(f"{error.filename or 'run folder'}: cannot be written ({error.strerror}); make room there")
    if isinstance(error, OSError) and error.errno in NO_PERMISSION:
        return UserError(f"{error.filename or 'run folder'}: {error.strerror}; change its permissions")
    if isinstance(error, OSError) and error.filename and error.strerror:
        return UserError(f"{error.filename}: {error.strerror}; check that path")
    if isinstance(error, SafetensorError) and "os error" in str(error):
        return UserError(f"run folder: cannot be written ({error}); make room there")
    return None
