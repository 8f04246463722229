"""`python -m dayfly` is the command `dayfly`."""

from ._cli import main

if __name__ == "__main__":
    main()
