"""`python -m coopnet`."""

from coopnet.cli import main

main()
