"""The command line of the server: `dayfly serve`, with a flag for every setting, and `dayfly serve key new`.

The flags are made from the settings themselves, so that no setting can lack one. `dayfly._cli` hands its arguments over when somebody asks
to serve, and not before: a plain run need not load a web framework.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from . import keys
from .config import ConfigError, Setting, load, settings

WRONG = 2
"""The exit code for a configuration that cannot be used."""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
key_commands = typer.Typer(no_args_is_help=True, help="API keys.")
app.add_typer(key_commands, name="key")


def main(arguments: Sequence[str]) -> None:
    """Run the command. It ends the process."""
    app(list(arguments), prog_name="dayfly serve")


def _serve(context: typer.Context, config: str | None, check_config: bool, **given: Any) -> None:
    """Serve runs over HTTP, with keys, limits and metrics.

    Every option can also be set in the file (`port = 8000`; limits in the table `limits`), and in the environment (DAYFLY_SERVE_PORT). A
    flag is stronger than the environment, and that is stronger than the file.
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
        sys.stderr.write(f"dayfly: {error}\n")
        raise typer.Exit(WRONG) from None


def _option(setting: Setting) -> inspect.Parameter:
    switch = isinstance(setting.default, bool)
    default = "" if setting.default is None or setting.default == [] or switch else f" Default: {setting.default}."
    panel = "Limits of a program" if setting.name.startswith("limits_") else "Settings"
    names = [f"{setting.flag}/--no-{setting.flag[2:]}"] if switch else [setting.flag]
    option = typer.Option(
        *names, help=setting.help + default, show_default=False, rich_help_panel=panel, metavar=None if switch else "VALUE"
    )
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[bool | None if switch else str | None, option]
    )


def _with_flags() -> None:
    """Give `_serve` one parameter for each setting, where Typer looks for them."""
    context, config, check_config, _ = inspect.signature(_serve).parameters.values()
    own = [
        context.replace(annotation=typer.Context),
        config.replace(
            kind=inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None, typer.Option(metavar="FILE", help="A TOML file with settings.", envvar="DAYFLY_CONFIG", show_default=False)
            ],
        ),
        check_config.replace(
            kind=inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option("--check-config", help="Check every setting, print them as JSON, and exit.")],
        ),
    ]
    parameters = own + [_option(setting) for setting in settings()]
    _serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    _serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


_with_flags()
app.callback()(_serve)


@key_commands.command("new")
def key_new(
    name: Annotated[str, typer.Argument(help="Whose key it is; it appears in logs and metrics.")],
    file: Annotated[str | None, typer.Option(metavar="FILE", help="Add its hash to this file of keys.", show_default=False)] = None,
) -> None:
    """Make a key, and print it, this once: only its hash is kept.

    Without --file, the line for a file of keys (or for DAYFLY_SERVE_KEYS) goes to stderr.
    """
    key = keys.new()
    try:
        entry = keys.line(name, key)
        if file is not None:
            keys.append(file, entry)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"dayfly: {error}\n")
        raise typer.Exit(WRONG) from None
    if file is None:
        sys.stderr.write(f"dayfly: the line to keep is\n{entry}\n")
    else:
        sys.stderr.write(f"dayfly: its hash is in {Path(file)}\n")
    sys.stdout.write(key + "\n")
