"""One thin script per stage of dvc.yaml: read, call, write, log."""

import os

PARENT = os.getppid()  # here, as a stage's imports may take seconds, in which its dvc can be killed
