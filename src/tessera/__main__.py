"""`python -m tessera`, and so `torchrun -m tessera`."""

from tessera.cli import main

if __name__ == "__main__":
    main()
