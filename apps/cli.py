"""The command line: a verb for what a user does, `fit APP` and `evaluate APP` for training and measuring.

Each command is a function with typed parameters; jsonargparse makes options, help and configuration files of its signature and
docstring. What it returns knows how to print itself (rich), or is an exit code. A command's module is imported when it is
called: `geovit --help` is quick.
"""

import inspect
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .. import __version__

# What a user can cause: wrong input, missing or unwritable files, an extra that is not installed.
_USER_ERRORS = (ValueError, OSError, ImportError)


@dataclass(frozen=True)
class Command:
    """A function, as module:name below geovit.apps, and what `geovit --help` says about it."""

    target: str
    summary: str


COMMANDS = {
    "classify": Command(".hyperspectral:classify", "map the land cover of a hyperspectral scene"),
    "fit hyperspectral": Command(".hyperspectral:fit_model", "fit a classifier to a labelled scene"),
    "evaluate hyperspectral": Command(".hyperspectral:evaluate", "measure classifiers on a labelled scene"),
    "demo": Command(".demo:demo", "make a scene, map it, and measure the map"),
    "doctor": Command(".doctor:doctor", "show what is installed and test it"),
    "bench": Command(".bench:bench", "time the ops on this machine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, or 2 after a one-line error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"geovit {__version__}")  # noqa: T201
        return 0
    name = next((n for n in (" ".join(arguments[:2]), *arguments[:1]) if n in COMMANDS), None)
    if name is None:
        return _usage(arguments)
    _show_messages(debug)
    try:
        return _run(name, arguments[len(name.split()) :])
    except _USER_ERRORS as error:
        if debug:
            raise
        return _fail(str(error) or type(error).__name__)
    except KeyboardInterrupt:
        return _fail("interrupted, nothing was written", code=130)


def _run(name: str, arguments: list[str]) -> int:
    from jsonargparse import ArgumentError, ArgumentParser

    module, _, attribute = COMMANDS[name].target.partition(":")
    function: Callable[..., Any] = getattr(import_module(module, __package__), attribute)
    parameters = inspect.signature(function).parameters
    text = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:")[0]
    parser = ArgumentParser(prog=f"geovit {name}", exit_on_error=False, description=text)
    parser.add_argument("--config", action="config", help="YAML file with any of these options")
    # The terminal decides about progress bars.
    parser.add_function_arguments(function, as_positional=True, as_group=False, skip={"progress"}, sub_configs=True)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    try:
        parsed = parser.instantiate_classes(parser.parse_args(_complete(function, arguments)))
    except ArgumentError as error:
        return _fail(f"{error} (see geovit {name} --help)")
    options = {key: value for key, value in vars(parsed).items() if key in parameters}
    if "progress" in parameters:
        options["progress"] = sys.stderr.isatty()
    result = function(**options)
    if isinstance(result, int):
        return result
    if result is not None:
        from rich.console import Console

        Console().print(result)
    return 0


def _complete(function: Callable[..., Any], arguments: list[str]) -> list[str]:
    """Write `--flag` as `--flag=true`, and the name of a recipe as its file."""
    parameters = inspect.signature(function).parameters
    flags = {f"--{name}" for name, parameter in parameters.items() if parameter.annotation is bool}
    completed = []
    for argument, after in zip(arguments, [*arguments, ""][1:], strict=True):
        completed.append(f"{argument}=true" if argument in flags and after not in ("true", "false") else argument)
    if "recipe" in parameters:
        from .hyperspectral.recipe import recipe_files

        files = recipe_files()
        for i, argument in enumerate(completed):
            key, _, value = argument.partition("=")
            if key == "--recipe" and value in files:
                completed[i] = f"--recipe={files[value]}"
            elif i and completed[i - 1] == "--recipe" and argument in files:
                completed[i] = str(files[argument])
    return completed


def _usage(arguments: list[str]) -> int:
    if arguments and arguments[0] not in ("-h", "--help"):
        return _fail(f"no command {' '.join(arguments[:2])!r}, there are: {', '.join(COMMANDS)}")
    width = max(map(len, COMMANDS))
    lines = ["usage: geovit COMMAND [OPTIONS]", ""]
    lines += [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "geovit COMMAND --help shows the options; every command takes --config FILE.yaml and --print_config."]
    print("\n".join(lines))  # noqa: T201
    return 0


def _fail(message: str, code: int = 2) -> int:
    print(f"geovit: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return code


def _show_messages(debug: bool) -> None:
    """Send our own messages to standard error, one line each, and keep quiet what libraries say to their developers."""
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False, markup=False, highlighter=None)
    own = logging.getLogger("geovit")
    own.handlers[:] = [handler]
    own.propagate = False
    own.setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:
        logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
        for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):
            logging.getLogger(name).setLevel(logging.ERROR)
