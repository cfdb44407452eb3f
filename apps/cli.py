"""The command line: a verb for what a user does, `fit APP` and `evaluate APP` for training and measuring.

Each command is a function with typed parameters; jsonargparse makes options, help and configuration files of its signature and
docstring. What it returns knows how to print itself (rich) and may have an ``exit_code``, or is one. A command's module is
imported when it is called: `geovit --help` is quick.
"""

import inspect
import json
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from .repeating import Repeated

# What a user can cause: wrong input, missing or unwritable files, an extra that is not installed.
_USER_ERRORS = (ValueError, OSError, ImportError)


@dataclass(frozen=True)
class Command:
    """A function, as module:name below geovit.apps, and what `geovit --help` says about it."""

    target: str
    summary: str
    configs: str = ""  # folder of the configurations that come with the package, below geovit/configs
    cards: bool = False  # whether it writes run cards, and repeats them with --from-card


COMMANDS = {
    "classify": Command(".hyperspectral:classify", "map the land cover of a hyperspectral scene", cards=True),
    "restore": Command(".restoration.files:restore_files", "enlarge, sharpen or clean images", cards=True),
    "segment": Command(".medical.files:segment_files", "label the voxels of CT and MR volumes", cards=True),
    "pretrain": Command(".foundation.pretraining.training:pretrain", "train an encoder on images of many sensors", "foundation"),
    "embed": Command(".foundation.embedding_files:embed_files", "turn scenes of any sensor into rasters of features", cards=True),
    "probe": Command(".foundation.probing.probe:probe", "measure what features of an encoder tell of land cover"),
    "fit hyperspectral": Command(".hyperspectral:fit_model", "fit a classifier to a labelled scene"),
    "evaluate hyperspectral": Command(".hyperspectral:evaluate", "measure classifiers on a labelled scene"),
    "fit restoration": Command(
        ".restoration.training:fit", "fit a network to images, for super-resolution, denoising, deblurring", "restoration"
    ),
    "fit medical": Command(".medical.training:fit", "fit a segmentation network to volumes with label maps", "medical"),
    "evaluate restoration": Command(".restoration.evaluation:evaluate", "measure restoration networks on images"),
    "evaluate medical": Command(".medical.evaluation:evaluate", "measure segmentations: Dice, HD95, surface Dice"),
    "export": Command(".export:export", "write a model as a file for other programs: ONNX, OpenVINO, pt2"),
    "bundle": Command(".medical.bundle:write_bundle", "write a MONAI bundle of Swin UNETR, to be run by MONAI"),
    "demo": Command(".demo:demo", "make a scene, map it, and measure the map"),
    "doctor": Command(".doctor:doctor", "show what is installed and test it"),
    "bench": Command(".bench:bench", "time the ops on this machine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, or 2 after a one-line error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    # Torch reads this when it is loaded. Threads that wait by spinning are half as fast again on an idle machine, but many times
    # slower as soon as another program wants the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Likewise. Memory for large tensors comes in large pages where Linux has them: fresh ones take the system a third less time
    # or better to hand out, which is a good part of what a network without large products takes on a CPU.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if arguments[:1] in (["--version"], ["-V"]):
        print(f"geovit {__version__}")  # noqa: T201
        return 0
    name = next((n for n in (" ".join(arguments[:2]), *arguments[:1]) if n in COMMANDS), None)
    if name is None:
        return _usage(arguments)
    try:
        with _heeding_sigterm(), warnings.catch_warnings():
            if not (debug or sys.warnoptions):
                warnings.simplefilter("ignore")  # what libraries tell developers; we tell users by messages
            return _run(name, arguments[len(name.split()) :], debug)
    except _USER_ERRORS as error:
        if debug:
            raise
        hint = " (geovit doctor shows which extra holds it)" if isinstance(error, ModuleNotFoundError) else ""
        message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else _refused(str(error))
        return _fail((message or type(error).__name__) + hint)
    except _Terminated:
        return _fail("terminated", code=143)
    except KeyboardInterrupt:
        return _fail("interrupted", code=130)
    except SystemExit as stop:
        if stop.code is None:  # what Lightning makes of SIGTERM: Python would call it success
            return _fail("terminated", code=143)
        raise


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which whatever heeds Ctrl-C heeds as well."""


def _terminate(*_: object) -> None:
    raise _Terminated


@contextmanager
def _heeding_sigterm() -> Iterator[None]:
    """Have SIGTERM end a run as Ctrl-C does: in order, with a line on how to go on. Whoever heeds it already goes on doing so."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def console() -> "Console":
    """Return where results are printed: text as it is, and a line broken only by the terminal, never in a pipe or file."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 1000
    return Console(width=width, soft_wrap=True, markup=False, emoji=False, highlight=False)


def _run(name: str, arguments: list[str], debug: bool) -> int:
    from jsonargparse import ArgumentError, ArgumentParser

    from .cli_help import Formatter, arrange

    module, _, attribute = COMMANDS[name].target.partition(":")
    function: Callable[..., Any] = getattr(import_module(module, __package__), attribute)
    _show_messages(debug)
    parameters = inspect.signature(function).parameters
    text = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:")[0].replace("``", "")
    parser = ArgumentParser(prog=f"geovit {name}", exit_on_error=False, description=text, formatter_class=Formatter)
    configs = _configurations(COMMANDS[name].configs)
    also = f", or one that comes along: {', '.join(configs)}" if configs else ""
    parser.add_argument("--config", action="config", help=f"YAML file with any of these options{also}")
    if COMMANDS[name].cards:
        parser.add_argument("--from-card", metavar="FILE", help="repeat the run of a card (NAME_run.json); other options win")
    # The terminal decides about progress bars.
    parser.add_function_arguments(function, as_positional=True, as_group=False, skip={"progress"}, sub_configs=True)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if "--recipe.help" in arguments:
        arguments = ["--help"]
    elif {"-h", "--help"} & set(arguments):  # and then alone: what is not in the help is not in --print_config either
        arrange(parser)
    card, arguments = _card(name, arguments, parameters)
    arguments = _complete(function, _with_named_configs(arguments, configs))
    if card is not None:  # first, so that whatever else is given wins
        arguments = [f"--config={json.dumps(dict(card.parameters))}", *arguments]
    try:
        parsed = parser.instantiate(parser.parse_args(arguments))
    except ArgumentError as error:
        if debug:
            raise
        return _fail(f"{_plain(str(error))} (see geovit {name} --help)")
    options = {key: value for key, value in vars(parsed).items() if key in parameters}
    if "progress" in parameters:
        options["progress"] = sys.stderr.isatty()
    if card is not None:
        card.check(options)
    if "hardware" in parameters and signal.getsignal(signal.SIGTERM) is _terminate:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Lightning heeds it in these trainings, and knows what SLURM means by it
    result = function(**options)
    if isinstance(result, int):
        return result
    # A training runs the same command once for each device, started by Lightning or by SLURM: one of them speaks.
    ranks = ("LOCAL_RANK", "SLURM_PROCID") if "hardware" in parameters else ("LOCAL_RANK",)
    if result is not None and all(os.environ.get(rank, "0") == "0" for rank in ranks):
        console().print(result)
    return int(getattr(result, "exit_code", 0))


def _card(name: str, arguments: list[str], allowed: Collection[str]) -> "tuple[Repeated | None, list[str]]":
    """Take --from-card out of the arguments, and read the card."""
    if not COMMANDS[name].cards or {"-h", "--help"} & set(arguments):
        return None, arguments
    rest, files = [], []
    left = iter(arguments)
    for argument in left:
        key, equals, value = argument.partition("=")
        if key in ("--from-card", "--from_card"):
            files.append(value if equals else next(left, ""))
        else:
            rest.append(argument)
    if not files:
        return None, rest
    from .repeating import read_card

    return read_card(Path(files[-1]), name, allowed), rest


def _complete(function: Callable[..., Any], arguments: list[str]) -> list[str]:
    """Write `--flag` as `--flag=true`, `--list a,b` as `--list=[a,b]`, the name of a recipe as its file, and many words as one.

    The latter where the first parameter is a list: the words that are neither options nor their values are its items.
    """
    parameters = inspect.signature(function).parameters
    kinds = {f"--{name}": parameter.annotation for name, parameter in parameters.items()}
    pairs = {key for key, kind in kinds.items() if "tuple[" in str(kind)}
    gathering = next((parameter.annotation for parameter in parameters.values()), None) == Sequence[str]
    completed: list[str] = []
    words: list[str] = []
    rest = arguments.copy()
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.partition("=")
        underscored = f"--{key[2:].replace('-', '_')}"
        if key.startswith("--") and underscored in kinds:  # --lora-rank is as good as --lora_rank
            key, argument = underscored, f"{underscored}{equals}{value}"
        kind = kinds.get(key)
        if kind is bool and not equals:
            argument = f"{key}={rest.pop(0) if rest[:1] in (['true'], ['false']) else 'true'}"
        elif key in pairs and "," in (value if equals else "".join(rest[:1])):
            argument = f"{key}=[{(value if equals else rest.pop(0)).strip('[]')}]"
        elif (kind == Sequence[str] or (kind is not None and key == "--recipe")) and (equals or rest):
            value = value if equals else rest.pop(0)
            argument = f"{key}={_recipe_file(value) if key == '--recipe' else '[' + value.strip('[]') + ']'}"
        elif kind is not None and not equals and rest and re.match(r"-\.?\d", rest[0]):
            argument = f"{key}={rest.pop(0)}"  # --bounds -70.5,-33.6,-70.4,-33.5 is west and south, and no option
        elif gathering and argument == "--":
            words, rest = words + rest, []
            continue
        elif gathering and not argument.startswith("-"):
            words.append(argument)
            continue
        elif gathering and key.partition(".")[0] in {*kinds, "--config"} and not equals and rest and rest[0] not in kinds:
            argument = f"{key}={rest.pop(0)}"  # so that the value is no item
        completed.append(argument)
    # As JSON, so that no character in a file's name means anything.
    return completed + ([json.dumps(words)] if words else [])


def _configurations(folder: str) -> dict[str, Path]:
    """Files of the configurations that come with the package, by name."""
    if not folder:
        return {}
    return {path.stem: path for path in sorted((Path(__file__).parents[1] / "configs" / folder).glob("*.yaml"))}


def _with_named_configs(arguments: list[str], configs: dict[str, Path]) -> list[str]:
    """Write the name of a configuration that comes along as its file: NAME, NAME.yaml, and their path in the package.

    A file of that name comes first.

    Raises:
        FileNotFoundError: if there is neither.
    """
    written = arguments.copy()
    for at, argument in enumerate(arguments):
        key, equals, value = argument.partition("=")
        if key != "--config" or not (equals or arguments[at + 1 :]):
            continue
        given = Path(value if equals else arguments[at + 1])
        if not configs or given.is_file():
            continue
        file = configs.get(given.stem)
        if file is None or not Path("configs", file.relative_to(file.parents[1])).match(str(given.with_suffix(".yaml"))):
            raise FileNotFoundError(f"no configuration {given}: expected a YAML file, or one of {', '.join(configs)}")
        written[at + (not equals)] = f"{key}={file}" if equals else str(file)
    return written


def _recipe_file(name: str) -> str:
    from .hyperspectral.recipe import named_recipe, recipe_files

    files = recipe_files()
    if name not in files and not Path(name).is_file():
        raise ValueError(f"no recipe {name!r}: allowed are {', '.join(files)} and YAML files")
    named_recipe(name)  # says better than jsonargparse what is wrong in a file
    return str(files.get(name, name))


def _plain(message: str) -> str:
    """Say what jsonargparse says without words from Python."""
    message = re.sub(r'Parser key "([^"]+)"', r"--\1", " ".join(message.split()))
    message = re.sub(r"Literal\[('\w+'(?:, '\w+')*)\]", lambda found: found[1].replace("'", "").replace(", ", " or "), message)
    message = _refused(message)
    either = r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .* Given value: "
    message = re.sub(either, lambda found: f"expected {_alternatives(found[1])}. Got value: ", message)
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message).replace("typing.", "").replace("Expected a ", "expected ")


def _refused(message: str) -> str:
    """Of a group of options with an unknown name or a value that its own check refused, say what that said."""
    refused = r"Does not validate against any of the Union subtypes .* Errors: - ((?!Expected )(?:(?! - ).)*) - Expected a .*"
    message = re.sub(refused, r"\1", " ".join(message.split()))
    return re.sub(r"Problem with given class_path '[\w.]+': ", "", message)


def _alternatives(types: str) -> str:
    """Join types by "or": commas inside brackets stay, None is what an option is if it is left out."""
    kinds = re.split(r", (?![^\[]*\])", types.replace("tuple[", "["))
    return " or ".join(kind for kind in kinds if "NoneType" not in kind)


def _usage(arguments: list[str]) -> int:
    if arguments and not {"-h", "--help"} & set(arguments):
        words = 2 if any(name.startswith(f"{arguments[0]} ") for name in COMMANDS) else 1
        return _fail(f"no command {' '.join(arguments[:words])!r}, there are: {', '.join(COMMANDS)}")
    width = max(map(len, COMMANDS))
    lines = ["usage: geovit COMMAND [OPTIONS]", ""]
    lines += [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    lines += ["", "geovit COMMAND --help shows the options; every command takes --config FILE.yaml and --print_config."]
    print("\n".join(lines))  # noqa: T201
    return 0


def _fail(message: str, code: int = 2) -> int:
    print(f"geovit: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    return code


class _Messages(logging.Handler):
    """Our own messages on standard error, a line each; looked up anew, since progress bars replace it to stay below them."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {' '.join(record.getMessage().split())}", file=sys.stderr)  # noqa: T201


def _show_messages(debug: bool) -> None:
    own = logging.getLogger("geovit")
    own.handlers[:] = [_Messages()]
    own.propagate = False
    own.setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:
        logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
        for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning"):  # which set their levels at import
            logging.getLogger(name).setLevel(logging.ERROR)
