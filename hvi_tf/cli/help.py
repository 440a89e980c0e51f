"""The text of --help: flags grouped by section, as wide as the terminal."""

import io
import shutil
import textwrap

from absl import flags

from hvi_tf.cli import flags as setting_flags

FLAGS = flags.FLAGS

_MIN_WIDTH, _MAX_WIDTH = 40, 100
_MAIN = "Main flags"
_SHORT = ("help", "helpshort", "h", "?")


def requested(arguments: list[str]) -> str:
    """Returns the help flag among the arguments: help, helpfull or helpxml; or an empty string."""
    for argument in arguments:
        if argument == "--":
            break
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or (equals and value.lower() not in ("true", "1", "t")):
            continue
        if name in _SHORT:
            return "help"
        if name in ("helpfull", "helpxml"):
            return name
    return ""


def text(kind: str, doc: str | None, module: str) -> str:
    """Returns the text of a help flag.

    Args:
        kind: help, helpfull or helpxml.
        doc: description of the command.
        module: the name of the command's module, which selects the flags of --help.
    """
    if kind == "helpxml":
        xml = io.StringIO()
        FLAGS.write_help_in_xml_format(xml)
        return xml.getvalue()
    if kind == "helpfull":
        return f"{doc}\nflags:\n{FLAGS.get_help()}\n"
    return f"{doc}\n{_sections(module)}\nTry --helpfull for the flags of the libraries.\n"


def _sections(module: str) -> str:
    """Returns the flags of a command by section, the main flags first."""
    fields = setting_flags.by_name()
    sections: dict[str, list[str]] = {_MAIN: []}
    known = {flag.name: flag for flag in FLAGS.get_key_flags_for_module(module)}
    known["debug"] = FLAGS["debug"]
    for name in sorted(known, key=lambda name: list(fields).index(name) if name in fields else -1):
        field, flag = fields.get(name), known[name]
        section = "Flags"
        if field is not None and len(known) > len(fields):
            section = _MAIN if field.metadata["main"] else field.metadata["section"]
        unit = field.metadata["unit"] if field is not None else ""
        sections.setdefault(section, []).append(_describe(flag, unit))
    sections["Other flags" if sections[_MAIN] else "Flags"] = sections.pop("Flags", [])
    return "\n".join(
        f"{section}:\n{''.join(lines)}" for section, lines in sections.items() if lines
    )


def _describe(flag: flags.Flag, unit: str) -> str:
    """Returns the name, the default and the wrapped help text of a flag."""
    default = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
    shown = str(default).lower() if isinstance(default, bool) else default
    with_unit = f"{shown} {unit}".rstrip()
    head = "" if shown in (None, "", []) else f" (default: {with_unit})"
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    columns = shutil.get_terminal_size((80, 24)).columns
    width = min(max(columns, _MIN_WIDTH), _MAX_WIDTH)
    lines = textwrap.wrap(
        flag.help, width, initial_indent="      ", subsequent_indent="      ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return "\n".join([f"  {name}{head}", *lines]) + "\n"
