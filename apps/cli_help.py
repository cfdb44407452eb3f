"""What `--help` of a command shows: options by what they are for, without words from Python."""

import argparse

from jsonargparse import ArgumentParser, DefaultHelpFormatter

# Options of all commands by what they are for; those of one command alone come before these.
_GROUPS = {
    "what is read": ("labels", "field", "classes", "bounds", "mask", "sensor"),
    "the model": (
        *("model", "weights", "engine", "encoder", "lora_rank", "freeze", "full", "adapters", "clusters", "recipe", "seed"),
    ),
    "what is written": ("out", "overwrite", "probabilities", "quicklook", "report", "vectorize", "pca"),
    "the run": (
        *("plan", "max_memory", "resume", "dask", "device", "precision", "config", "from_card"),
        *("print_config", "debug", "help"),
    ),
}


class Formatter(DefaultHelpFormatter):
    """Says what an option is by default, if that is anything, and leaves types of Python out."""

    def _get_type_str(self, action: argparse.Action) -> None:
        return None

    def _get_help_string(self, action: argparse.Action) -> str:
        told = str(super()._get_help_string(action)).replace(" (required)", "")
        if action.default is None or action.default is False or "Default:" in told:
            told = told.replace(" (default: %(default)s)", "").replace("(default: %(default)s, ", "(")
        return told


def arrange(parser: ArgumentParser) -> None:
    """Make a parser, which is to print its help and nothing else after that, ready for readers.

    Settings of a recipe, which --recipe.help shows, and what only Python can give are left out; options are grouped.
    """
    hidden = 0
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to see what was added
        if action.dest.startswith("recipe."):
            action.help, hidden = argparse.SUPPRESS, hidden + 1
        elif "--data.help" in action.option_strings:
            action.help = argparse.SUPPRESS
    if hidden:
        parser.epilog = f"--recipe has {hidden} settings, each an option of its own: --recipe.help shows them."
    _group(parser)


def _group(parser: ArgumentParser) -> None:
    flat = [action for action in parser._actions if "." not in action.dest]  # noqa: SLF001
    nested = {action.dest.partition(".")[0] for action in parser._actions if "." in action.dest} - {"recipe"}  # noqa: SLF001
    parser.usage = " ".join([parser.prog, "[options]", *(action.dest for action in flat if not action.option_strings)])
    groups = {name: parser.add_argument_group(name) for name in _GROUPS}
    places = {dest: groups[name] for name, dests in _GROUPS.items() for dest in dests if dest not in nested}
    for action in flat:
        if action.option_strings and action.dest in places:
            for group in parser._action_groups:  # noqa: SLF001
                if action in group._group_actions:  # noqa: SLF001
                    group._group_actions.remove(action)  # noqa: SLF001
                    if action.dest == "recipe":
                        action.help = group.title
            places[action.dest]._group_actions.append(action)  # noqa: SLF001
        if action.dest not in {*nested, "print_config"}:
            action.option_strings = [name.replace("_", "-") for name in action.option_strings]
        if getattr(action, "_typehint", None) is bool:
            action.nargs = 0
