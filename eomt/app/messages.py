"""From the exceptions of libraries and the machine to the one line that a user can act on."""

import errno

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors import SafetensorError

from eomt.errors import UserError

# what jsonargparse says around the mistake itself
NOISE = (
    "Does not validate against any of the Union subtypes",
    "Subtypes: ",
    "Errors:",
    "Expected a <class 'NoneType'>",
    "Given value",
    "Subclass types expect one of:",
    "a class path (str)",
    "a dict with",
)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_PERMISSION = (errno.EROFS, errno.EACCES, errno.EPERM)


def mistake(error: BaseException) -> UserError | None:
    """What the user can mend, or None for an error of the program."""
    return user_error(error) or lack_of_resources(error) or wrong_setting(error)


def wrong_setting(error: BaseException) -> UserError | None:
    """What Lightning says of a Trainer that cannot run so."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    of_lightning = isinstance(error, ValueError) and raised_in.startswith("lightning.pytorch.")
    if isinstance(error, MisconfigurationException) or of_lightning:
        return UserError(f"trainer: {one_line(error)}")
    return None


def user_error(error: BaseException | None) -> UserError | None:
    """The user's mistake that libraries wrapped into other exceptions, if there is one."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, UserError):
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None


def one_line(error: BaseException) -> str:
    """A message without line breaks; of a data loader's worker, which sends a traceback, the last line."""
    if found := user_error(error):
        return str(found).strip().splitlines()[-1].removeprefix("eomt.errors.UserError: ")
    lines = [line.strip(" -") for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(NOISE)]
    return " ".join(telling or lines)


def lack_of_resources(error: BaseException) -> UserError | None:
    """What the machine lacks, told with what would do."""
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return UserError(
            f"out of memory ({str(error).splitlines()[0]}); what helps: a smaller --data.batch_size with "
            "--trainer.accumulate_grad_batches, --model.network.encoder.checkpointing true, a smaller img_size, "
            "--model.lora_config.layers last:4"
        )
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return UserError(f"{error.filename or 'the run folder'}: cannot be written ({error.strerror}); make room there")
    if isinstance(error, OSError) and error.errno in NO_PERMISSION:
        return UserError(f"{error.filename or 'the run folder'}: {error.strerror}; change its permissions")
    if isinstance(error, SafetensorError) and "os error" in str(error):
        return UserError(f"the run folder cannot be written ({error}); make room there")
    return None
