"""`python -m fedmq` is the command `fedmq`."""

from fedmq.cli import main

if __name__ == "__main__":
    main()
