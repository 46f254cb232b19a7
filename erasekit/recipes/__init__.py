"""Recipes: hyperparameters in TOML files, the user's and those of the package.

Neither torch nor pydantic here: defaults of models are read when names are listed.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from erasekit.errors import ConfigError

_LONG_KEY = re.compile(r"""(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){64}""")
"""A dotted key of more than 64 parts."""
RECIPES = Path(__file__).parent
"""The recipes in the package, NAME.toml each."""


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes in the package."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def read_recipe(path: Path) -> dict[str, Any]:
    """Read a TOML recipe: flat hyperparameters at the top level.

    Raises:
        ConfigError: it can't be read, is not TOML, or is nested too deep.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8")
        if _LONG_KEY.search(text):  # takes tomllib minutes
            raise RecursionError
        return tomllib.loads(text)
    except OSError as error:
        raise ConfigError(
            f"The recipe {str(path)!r} can't be read: {error.strerror}. Shipped ones are "
            f"{', '.join(shipped_recipes())}."
        ) from error
    except RecursionError as error:
        raise ConfigError(f"The recipe {str(path)!r} is nested too deep; flatten it.") from error
    except (ValueError, RuntimeError) as error:  # not UTF-8, ~nouser, a number of 5,000 digits
        raise ConfigError(f"The recipe {str(path)!r} is not valid TOML: {error}.") from error


def shipped_recipe(name: str, model: str = "") -> dict[str, Any]:
    """Hyperparameters of a recipe in the package, with what its table of `model` says.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in shipped_recipes():
        raise ConfigError(
            f"Unknown recipe {name!r}; shipped are {', '.join(shipped_recipes())}. Another is "
            "read from a path."
        )
    recipe = read_recipe(RECIPES / f"{name}.toml")
    general = {key: value for key, value in recipe.items() if not isinstance(value, dict)}
    return {**general, **recipe.get(model, {})}
