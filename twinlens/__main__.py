"""`python -m twinlens`: the same as the command `twinlens`."""

from twinlens.apps.cli import main

main()
