"""Entry point of `python -m fedmq` and of the script `fedmq`."""

from __future__ import annotations

from typing import NoReturn

from fedmq.runtime.search_path import move_user_folders_last


def main() -> NoReturn:
    """Run the command line. Ctrl-C during its import ends the process without a traceback."""
    move_user_folders_last()  # before any import that could find a file of the user, such as random.py
    import signal

    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from fedmq.cli.main import main as run

    signal.signal(signal.SIGINT, handler)
    run()


if __name__ == "__main__":
    main()
