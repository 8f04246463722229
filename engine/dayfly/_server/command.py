"""The command line of the server: `dayfly serve`, with a flag for every setting, and
`dayfly serve key new`.

The flags are made from the settings themselves, so that no setting can lack one. `dayfly._cli`
hands its arguments over when somebody asks to serve, and not before: a plain run need not load a
web framework.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from . import keys
from .config import ConfigError, Setting, load, settings

WRONG = 2
"""The exit code for a configuration that cannot be used."""


def main(arguments: Sequence[str]) -> None:
    """Run the command. It ends the process."""
    app(list(arguments), prog_name="dayfly serve")


def _option(setting: Setting) -> click.Option:
    if isinstance(setting.default, bool):
        return click.Option([f"{setting.flag}/--no-{setting.flag[2:]}"], default=None, help=setting.help)
    default = "" if setting.default is None or setting.default == [] else f" Default: {setting.default}."
    return click.Option([setting.flag], metavar="VALUE", help=setting.help + default)


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    params=[_option(setting) for setting in settings()],
)
@click.option("--config", metavar="FILE", envvar="DAYFLY_CONFIG", help="A TOML file with settings.")
@click.option("--check-config", is_flag=True, help="Check every setting, print them as JSON, and exit.")
@click.pass_context
def app(context: click.Context, /, config: str | None, check_config: bool, **given: Any) -> None:
    """Serve runs over HTTP, with keys, limits and metrics.

    Every option can also be set in the file (`port = 8000`; limits in the table `limits`), and in
    the environment (DAYFLY_SERVE_PORT). A flag is stronger than the environment, and that is
    stronger than the file.
    """
    if context.invoked_subcommand is not None:
        return
    try:
        from . import process  # noqa: PLC0415 - the framework takes its time, and `key new` has no use for it
    except ModuleNotFoundError as missing:
        sys.exit(f"dayfly: the server needs {missing.name}, which is not installed: pip install 'dayfly[server]'")
    try:
        loaded = load(config, os.environ, {name: value for name, value in given.items() if value is not None})
        if check_config:
            process.check(loaded)
            sys.stdout.write(msgspec.json.format(msgspec.json.encode(loaded.shown()), indent=2).decode() + "\n")
        else:
            process.serve(loaded)
    except ConfigError as error:
        sys.exit(_refused(error))


def _refused(error: Exception) -> int:
    sys.stderr.write(f"dayfly: {error}\n")
    return WRONG


@app.group("key")
def key_commands() -> None:
    """API keys."""


@key_commands.command("new")
@click.argument("name")
@click.option("--file", metavar="FILE", help="Add its hash to this file of keys.")
def key_new(name: str, file: str | None) -> None:
    """Make a key for NAME, which appears in logs and metrics, and print it, this once: only its
    hash is kept.

    Without --file, the line for a file of keys (or for DAYFLY_SERVE_KEYS) goes to stderr.
    """
    key = keys.new()
    try:
        entry = keys.line(name, key)
        if file is not None:
            keys.append(file, entry)
    except (OSError, ValueError) as error:
        sys.exit(_refused(error))
    if file is None:
        sys.stderr.write(f"dayfly: the line to keep is\n{entry}\n")
    else:
        sys.stderr.write(f"dayfly: its hash is in {Path(file)}\n")
    sys.stdout.write(key + "\n")
