"""`python -m linkboy`, which is also what `torchrun -m linkboy` starts."""

from linkboy.cli import main

main()
