"""One thin script per stage of dvc.yaml: read, call, write, log."""

import os

# transformers draws a bar over each load of weights. Set before anything imports tqdm; bars that say themselves whether
# they are shown, as ours and those of downloads do, stay.
os.environ.setdefault("TQDM_DISABLE", "1")
# torch asks for huge pages for its tensors of 2 MB and more, and not for thousands of small ones: exact neighbours on a
# CPU take .9 of the time, a training no longer than before. It reads this at its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
PARENT = os.getppid()  # here, as a stage's imports may take seconds, in which its dvc can be killed
