"""`python -m fedmq` and the script `fedmq` are the command of `cli`; Ctrl-C while that is imported ends it quietly."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line."""
    acked_request = signal.getsignal(signal.SIGINT)
    if acked_request is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from fedmq.cli.main import main as run

    signal.signal(signal.SIGINT, acked_request)
    run()


if __name__ == "__main__":
    main()
