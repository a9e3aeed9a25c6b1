"""`python -m lifecycle` is `likewise`."""

from lifecycle.cli import main

main()
