"""What ships with the program: SQL, sample files, the decision tree, and in which form its core is.

It stands apart from the configuration, whose parser takes a fifth of a second to import: a back-test without a
configuration need not wait for it.
"""

from pathlib import Path
from typing import Literal

from esp_ingestd.core import tree
from esp_ingestd.core.tree import Tree, TreeError
from esp_ingestd.errors import ConfigurationError


def shipped(folder: Literal["sql", "config"]) -> Path:
    """The folder of SQL or sample files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    beside = package.parent / folder
    return beside if (package.parent / "pyproject.toml").exists() else package / folder


def core_form() -> Literal["compiled", "interpreted"]:
    """Whether the core was compiled when the package was built; it then takes a half to a third of the time."""
    return "interpreted" if str(tree.__file__).endswith(".py") else "compiled"


def load_tree(path: Path | None) -> Tree:
    """The decision tree in `path`, or the one that ships with the program.

    Raises:
        ConfigurationError: with every fault of the file.
    """
    path = path or shipped("config") / "decision_tree.toml"
    try:
        return Tree.parse(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"{path}: is no UTF-8: {error}"]) from None
    except TreeError as error:
        raise ConfigurationError([f"{path}: {fault}" for fault in error.faults]) from None
