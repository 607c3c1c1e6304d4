"""`python -m pillion` is the command line."""

from pillion.cli import main

main()
