"""Settings of the documentation site.

    sphinx-build -W --keep-going -b html docs build/site

The build needs no network: no inventories of other projects and no fonts or scripts of others.
"""

import importlib
import os
import pathlib
import pkgutil
import re
import sys
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# The notebooks run in processes of their own, which import the package from this clone.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")])
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

project = "hvi_tf"
copyright = author = ""
html_show_copyright = False
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
default_role = "code"

# API reference.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # `Attributes:` documents the fields of a record, which have no docstring
napoleon_use_rtype = False
napoleon_attr_annotations = False  # the signature has the types of the fields
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# Pages and notebooks. Formulas are written in Unicode, so no page loads MathJax.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# Not "cache": its key is the code of a notebook and not that of the package.
nb_execution_mode = os.environ.get("HVI_DOCS_EXECUTION", "force")
suppress_warnings = ["myst-nb.lexer"] if nb_execution_mode == "off" else []
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_output_stderr = "remove"
nb_merge_streams = True

html_theme = "furo"
html_title = "hvi_tf"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
copybutton_exclude = ".linenos, .gp, .go"


def _as_restructured_text(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Escapes what the docstrings write as plain text, and keeps their formulas as they are.

    The docstrings mark code with single backticks, name things such as ELBO* and |w|, and set
    formulas as indented blocks.
    """
    lines[:] = _literal_blocks([_escaped(line) for line in lines])


def _escaped(line: str) -> str:
    if re.match(r"\s*\.\. |\s*:\w", line):
        head, colon, rest = line.partition(": ")
        return head + colon + _escaped_text(rest)
    return _escaped_text(line)


def _escaped_text(text: str) -> str:
    parts = re.split(r"(``.+?``|`.+?`|\*\*.+?\*\*)", text)
    return "".join(
        part if i % 2 else re.sub(r"(?<!\\)([*|]|_(?=\W|$))", r"\\\1", part)
        for i, part in enumerate(parts)
    )


def _literal_blocks(lines: list[str]) -> list[str]:
    """Puts `::` before each indented block of a text, unless it belongs to a field or a list."""
    result: list[str] = []
    previous = ""  # the last line with text before a blank line
    inside = False
    for i, line in enumerate(lines):
        after_blank = i > 0 and not lines[i - 1].strip()
        if line.strip():
            if inside and _indent(line) <= _indent(previous):
                inside = False
            deeper = _indent(line) > _indent(previous)
            plain = not re.match(r"\s*(\.\. |:\w|[*-] )", previous)
            if not inside and after_blank and previous and deeper and plain:
                result += [" " * _indent(previous) + "::", ""]
                inside = True
            if not inside:
                previous = line
            else:
                line = line.replace("\\*", "*").replace("\\|", "|").replace("\\_", "_")
        result.append(line)
    return result


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _skip_field(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leaves out the fields of a NamedTuple, which `Attributes:` or the signature has."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _public(module: str) -> list[str]:
    """Returns the names of a module that the page has documented as names of the package."""
    package, members = importlib.import_module("hvi_tf"), vars(importlib.import_module(module))
    return [n for n in package.__all__ if n in members and getattr(package, n) is members[n]]


class PackageModules(SphinxDirective):
    """`.. package-modules:: NAME` documents a package and every module in its folder."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Returns a section for each module, in alphabetical order."""
        package = self.arguments[0]
        folder = ROOT.joinpath(*package.split("."))
        modules = sorted(m.name for m in pkgutil.iter_modules([str(folder)]))
        lines = [".. automodule:: " + package, "   :no-members:", ""]
        for module in modules:
            title = f"{package}.{module}".removeprefix("hvi_tf.")
            lines += [title, "~" * len(title), "", f".. automodule:: {package}.{module}"]
            lines += ["   :members:", "   :show-inheritance:"]
            lines += [f"   :exclude-members: {', '.join(_public(f'{package}.{module}'))}", ""]
        return self.parse_text_to_nodes(StringList(lines, package), allow_section_headings=True)


def setup(app: Any) -> None:
    """Connects the handler behind napoleon, which runs at priority 500."""
    app.add_directive("package-modules", PackageModules)
    app.connect("autodoc-skip-member", _skip_field)
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=600)
