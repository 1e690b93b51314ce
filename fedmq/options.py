"""The options that several commands share, and where their values come from.

Command line over environment (`FEDMQ_<OPTION>`) over file (`--config FILE.toml`) over default.
"""

from __future__ import annotations

import logging
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fedmq.address import DEFAULT_ADDRESS
from fedmq.errors import BadConfiguration
from fedmq.topics import NAME_PATTERN

Command = TypeVar("Command", bound=Callable[..., Any])


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """A click option that also listens to `FEDMQ_<ITS LONG NAME>` and shows its default."""
    long_name = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "FEDMQ_" + long_name.removeprefix("--").replace("-", "_").upper()
    settings.setdefault("show_default", settings.get("default") is not None and not settings.get("is_flag"))
    return click.option(*names, envvar=variable, show_envvar=False, **settings)


def _read_config(ctx: click.Context, _param: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{path}: cannot be read ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise BadConfiguration(f"{path}: expected TOML, got {error}") from error
    known = {config_key(param): param.name for param in ctx.command.params if isinstance(param, click.Option)}
    settings = {}
    for key, value in values.items():
        if key not in known or key == "config":
            raise BadConfiguration(f"{path}: unknown setting {key!r}; known are {', '.join(sorted(known))}")
        # As text, like the environment: click takes a number for a path's descriptor, and fails at dates.
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if isinstance(value, dict | list) or "\0" in text:
            raise BadConfiguration(f"{path}: {key}: expected one value, got {text!r:.80}; write {key} = VALUE")
        settings[str(known[key])] = text
    ctx.default_map = {**(ctx.default_map or {}), **settings}


def config_key(param: click.Option) -> str:
    """The option's long name, as a TOML key: `--min-trainers` is `min_trainers`."""
    return max(param.opts, key=len).removeprefix("--").replace("-", "_")


def _set_up_log(_ctx: click.Context, _param: click.Parameter, level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)


def log_options(command: Command) -> Command:
    """--log-level and --debug."""
    level = option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="warning",
        callback=_set_up_log,
        expose_value=False,
        help="What to log on stderr.",
    )
    debug = click.option("--debug", is_flag=True, expose_value=False, help="Show a traceback when something fails.")
    return level(debug(command))


def service_options(command: Command) -> Command:
    """--config, --log-level and --debug."""
    config = option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        callback=_read_config,
        is_eager=True,
        expose_value=False,
        help="TOML file with the long names of options as keys (min_trainers = 2).",
    )
    return config(log_options(command))


def keys_folder_option(command: Command) -> Command:
    """--keys, of the commands that make and keep them."""
    return option(
        "--keys",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("keys"),
        metavar="DIR",
        help="Folder of keys.",
    )(command)


def keys_option(command: Command) -> Command:
    """--keys."""
    return option(
        "--keys",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Folder of keys, made by fedmq keys init or fedmq trainer join. [default: no keys, this machine alone]",
    )(command)


def broker_option(command: Command) -> Command:
    """--broker and --keys."""
    broker = option(
        "--broker",
        metavar="ADDRESS",
        help=f"Where the broker is. [default: {DEFAULT_ADDRESS}; with keys where they say]",
    )
    return broker(keys_option(command))


def timeout_option(command: Command) -> Command:
    """--connect-timeout."""
    return option(
        "--connect-timeout",
        type=click.FloatRange(min=0, min_open=True),
        metavar="SECONDS",
        help="Give up (exit code 69) when the broker has not answered by then. [default: keep trying]",
    )(command)


def edge_options(command: Command) -> Command:
    """--broker, --keys and --connect-timeout."""
    return broker_option(timeout_option(command))


def check_name(_ctx: click.Context, _param: click.Parameter, name: str | None) -> str | None:
    """A name of a run or trainer, or a usage error."""
    if name is not None and not re.match(NAME_PATTERN, name):
        raise click.BadParameter(f"expected letters, digits and . _ - (at most 64), got {name!r}")
    return name


def one_thread_for_arrays() -> None:
    """Keep numpy's library from starting a thread a core: its matrices are small here. Call before importing numpy."""
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
