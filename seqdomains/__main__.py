"""`python -m seqdomains` is the command `seqdomains`."""

from seqdomains.cli import main

if __name__ == "__main__":
    main()
