"""One thin script per stage of dvc.yaml: read, call, write, log."""

import os
import sys
from types import TracebackType

# transformers draws a bar over each load of weights. Set before anything imports tqdm; bars that say themselves whether
# they are shown, as ours and those of downloads do, stay.
os.environ.setdefault("TQDM_DISABLE", "1")
# torch asks for huge pages for its tensors of 2 MB and more, and not for thousands of small ones: exact neighbours on a
# CPU take .9 of the time, a training no longer than before. It reads this at its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
PARENT = os.getppid()  # here, as a stage's imports may take seconds, in which its dvc can be killed
INTERRUPTED = "interrupted; finished parts are kept, run again to go on"


def _explain_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in a sentence that the stage was interrupted while it imported, and everything else as ever."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write(f"{INTERRUPTED}\n")
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _explain_interrupt
