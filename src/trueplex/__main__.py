"""`python -m trueplex`, for torchrun and wherever the console script is not on the path."""

from trueplex.cli.main import main

main()
