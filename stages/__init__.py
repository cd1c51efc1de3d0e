"""One thin script per stage of dvc.yaml: read, call, write, log."""

import os

# transformers draws a bar over each load of weights. Set before anything imports tqdm; bars that say themselves whether
# they are shown, as ours and those of downloads do, stay.
os.environ.setdefault("TQDM_DISABLE", "1")
# Tensors of 2 MB and more lie in huge pages, where Linux gives them on request: ten thousand page faults a step of the
# default's training become one thousand, and the step takes four fifths of the time. torch reads it at its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
PARENT = os.getppid()  # here, as a stage's imports may take seconds, in which its dvc can be killed
