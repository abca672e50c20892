"""`python -m linkboy`, which is also what `torchrun -m linkboy` starts."""

from linkboy.cli import main

if __name__ == "__main__":
    main()
