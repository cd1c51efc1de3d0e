"""One thin script per stage of dvc.yaml: read, call, write, log."""
