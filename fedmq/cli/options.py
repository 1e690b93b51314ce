"""Options that several commands share.

An option is set by command line over environment (`FEDMQ_<OPTION>`) over file (`--config FILE.toml`) over default.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fedmq.cli.renamed import renamed_to, variable_of
from fedmq.cli.settings import values_of
from fedmq.errors import BadConfiguration
from fedmq.names import NAME_PATTERN
from fedmq.observe.log_format import LogFormatter
from fedmq.runtime.journal import JournalHandler, is_journal
from fedmq.transport.address import DEFAULT_ADDRESS, full_address

if TYPE_CHECKING:
    from fedmq.observe.metrics import Metrics
    from fedmq.runtime.loop import Pulse

STDERR = 2
LOOPBACK = "127.0.0.1"
LABELS_MAX, LABEL_MAX = 8, 64  # as in `fedmq.protocol.messages.Labels`, which imports numpy
SECONDS_MAX = 10**9  # as in `fedmq.protocol.messages`
COUNT = click.IntRange(1, 2**53)  # exact in JSON and in the store
Command = TypeVar("Command", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A range that excludes NaN: click compares, and every comparison with NaN is false."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{number} is not in the range {self._describe_range()}.", param, ctx)
        return number


SECONDS = FiniteRange(0, SECONDS_MAX, min_open=True)


def _with_home(text: str | Path) -> str:
    return os.path.expanduser(text)  # noqa: PTH111 - a Path would drop the ./ of a file that begins with ~


class UserPath(click.Path):
    """A path; `~` is the home folder also in a file and in the environment, where no shell replaces it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(_with_home(value), param, ctx)


class UserText(click.types.StringParamType):
    """A name, or else a path that may begin with `~`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _with_home(super().convert(value, param, ctx))


FILE = UserPath(path_type=Path, dir_okay=False)
FOLDER = UserPath(path_type=Path, file_okay=False)
NAME_OR_PATH = UserText()


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A click option that `FEDMQ_<LONG_NAME>` also sets, and that shows its default; its old names are refused."""
    long_name = next(name for name in names if name.startswith("--")).split("/")[0]
    settings.setdefault("show_default", settings.get("default") is not None and not settings.get("is_flag"))
    decorate = click.option(*names, envvar=variable_of(long_name), show_envvar=False, **settings)

    def add(command: Command) -> Command:
        decorated = decorate(command)
        params: list[click.Parameter] = decorated.__click_params__  # type: ignore[attr-defined]
        params += renamed_to(long_name)
        return decorated

    return add


def together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Return one decorator for several options, in this order."""

    def add(command: Command) -> Command:
        for one in reversed(options):
            command = one(command)
        return command

    return add


def read_text(path: Path) -> str:
    """Return the text of a file of settings."""
    try:
        return path.read_text(encoding="utf-8-sig")  # editors of Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise BadConfiguration(f"{path}: expected text in UTF-8, got {error}: save it as UTF-8") from error
    except OSError as error:
        raise BadConfiguration(f"{path}: cannot be read ({error})") from error


def _read_config(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    values, faults = values_of(ctx.command, read_text(path))
    if faults:
        more = f" (and {len(faults) - 1} more: see fedmq config check)" if len(faults) > 1 else ""
        raise BadConfiguration(f"{path}, line {faults[0].line}: {faults[0].text}{more}")
    ctx.default_map = {**(ctx.default_map or {}), **values}


def _set_up_log(_ctx: click.Context, _param: click.Parameter, level: str) -> None:
    to_journal = is_journal(STDERR)
    handler = JournalHandler() if to_journal else logging.StreamHandler()
    # The journal adds time, level and logger itself.
    form = "%(message)s" if to_journal else "%(asctime)s %(levelname)s %(name)s: %(message)s"
    handler.setFormatter(LogFormatter(form))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _keys_from_systemd() -> str | None:
    """Return the credentials folder of systemd, if it has keys in it."""
    from fedmq.security.keyring import FEDERATION

    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder if folder and (Path(folder) / FEDERATION).is_file() else None


log_options = together(
    option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default=lambda: "info" if is_journal(STDERR) else "warning",
        show_default="warning; info when stderr is the journal",
        callback=_set_up_log,
        expose_value=False,
        help="Lowest level of log lines on stderr.",
    ),
    click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback on errors."),
)


def _parse_host_and_port(_ctx: click.Context, _param: click.Parameter, text: str | None) -> tuple[str, int] | None:
    """Parse PORT or HOST:PORT."""
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise click.BadParameter(f"expected PORT or HOST:PORT, such as 9100, got {text!r:.80}")
    return host.strip("[]") or LOOPBACK, int(port)


metrics_option = option(
    "--metrics",
    metavar="PORT",
    callback=_parse_host_and_port,
    help=f"Serve /metrics for Prometheus, /healthz and /readyz, on {LOOPBACK} or HOST:PORT.",
)


def optional_metrics(
    at: tuple[str, int] | None, measure: Callable[[Metrics], None], ready: Callable[[], str]
) -> AbstractContextManager[Pulse | None]:
    """Serve metrics at the address of --metrics, see `serve_metrics`; without one, load and do nothing."""
    if at is None:
        return nullcontext()
    require("prometheus_client", "metrics")
    from fedmq.observe.metrics_server import serve_metrics

    return serve_metrics(at, measure, ready)


service_options = together(
    option(
        "--config",
        type=FILE,
        callback=_read_config,
        is_eager=True,
        expose_value=False,
        help="TOML file with the long names of options as keys (min_trainers = 2).",
    ),
    log_options,
)
# For commands that create or change keys.
keys_folder_option = option("--keys", type=FOLDER, default=Path("keys"), metavar="DIR", help="Folder of keys.")
keys_option = option(
    "--keys",
    type=FOLDER,
    metavar="DIR",
    default=_keys_from_systemd,
    show_default="$CREDENTIALS_DIRECTORY if it has keys; else no keys, for this machine only",
    help="Folder of keys, from fedmq keys init or fedmq trainer join.",
)


def check_address(_ctx: click.Context, _param: click.Parameter, address: str | None) -> str | None:
    """Check a broker's address, and return it in its full form."""
    return None if address is None else full_address(address)


broker_option = together(
    option(
        "--broker",
        metavar="ADDRESS",
        callback=check_address,
        help=f"Address of the broker. [default: {DEFAULT_ADDRESS}; with keys the federation's]",
    ),
    keys_option,
)
timeout_option = option(
    "--connect-timeout",
    type=SECONDS,
    metavar="SECONDS",
    help="End with exit code 69 if the broker does not answer within this time. [default: keep trying]",
)
edge_options = together(broker_option, timeout_option)


def check_labels(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    """Check labels separated by commas."""
    if text is None:
        return None
    labels = [label.strip() for label in text.split(",") if label.strip()]
    if len(labels) > LABELS_MAX or any(len(one) > LABEL_MAX or not one.isprintable() for one in labels):
        raise click.BadParameter(
            f"expected up to {LABELS_MAX} labels of up to {LABEL_MAX} characters, got {text!r:.80}"
        )
    return ",".join(labels)


def check_name(_ctx: click.Context, _param: click.Parameter, name: str | None) -> str | None:
    """Check the name of a run or a trainer."""
    if name is not None and not re.match(NAME_PATTERN, name):
        raise click.BadParameter(f"expected at most 64 letters, digits and . _ -, got {name!r}")
    return name


def require(module: str, extra: str) -> None:
    """Raise BadConfiguration if an optional dependency is not installed."""
    if find_spec(module) is None:
        raise BadConfiguration(f"expected {module} to be installed: pip install 'fedmq[{extra}]'")


def one_thread_for_arrays() -> None:
    """Limit numpy's BLAS to one thread: the matrices are small. Call before importing numpy."""
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
