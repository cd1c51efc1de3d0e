"""`python -m twinlens`: the same as the command `twinlens`."""

from twinlens.cli import main

main()
