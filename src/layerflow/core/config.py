"""Typed configuration: a YAML file read into dataclasses, checked before any heavy work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from .errors import FieldError, UserError

T = TypeVar("T")
NOT_A_KEY = {"key": False}
"""Metadata of a field that a file may not set."""


class ConfigError(UserError):
    """A configuration that cannot be used; the message names the file, the key, its value and the way out.

    `field` is the key, with those that it is nested in before it, such as `noise.pure`; None where no key is at fault.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


def load_config(kind: type[T], path: str | Path, overrides: Mapping[str, Any] | None = None) -> T:
    """Read a YAML file into a dataclass; a `name` that the file does not give is the file's own.

    `extends: other.yaml` adds the keys of a file in the same folder that this one does not give itself.

    Raises:
        ConfigError: the file cannot be read, or a key is unknown, missing or of another type.
    """
    values = read_yaml(Path(path))
    name = {"name": Path(path).stem} if any(f.name == "name" for f in fields(kind)) else {}  # type: ignore[arg-type]
    return read_dataclass(kind, {**name, **values, **(overrides or {})}, str(path))  # type: ignore[no-any-return]


def read_yaml(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read the keys and values of a YAML file, with those of the file that it extends."""
    if path in above:
        raise ConfigError(f"recipe {path} extends itself, by way of {', '.join(p.name for p in above)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"recipe {path} does not exist; those of this package are in recipes/") from None
    except OSError as error:
        raise ConfigError(f"recipe {path} cannot be opened: {error.strerror}; give a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} is not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"recipe {path} must hold keys and values, see recipes/mini.yaml")
    other = values.pop("extends", None)
    if other is None:
        return values
    if not isinstance(other, str) or other in ("", "..") or Path(other).name != other:
        raise ConfigError(
            f"{path}: extends is {other!r}, but must be the name of a recipe in the same folder", "extends"
        )
    return {**read_yaml(path.with_name(other), (*above, path)), **values}


def read_dataclass(kind: type, values: Mapping[str, Any], where: str, key: str | None = None) -> Any:
    """Read a (nested) dataclass from plain values, with errors that name the key; `key` is that of the dataclass."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: expected keys and values, got {values!r}", key)
    read = read_values(kind, values, where, key)
    for f in fields(kind):
        if f.name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise ConfigError(f"{where}: key {f.name!r} is missing", _nested(key, f.name))
    try:
        return kind(**read)
    except ConfigError:
        raise
    except FieldError as error:
        raise ConfigError(f"{where}: {error}", _nested(key, error.field)) from None
    except ValueError as error:
        raise ConfigError(f"{where}: {error}", key) from None


def config_keys(kind: type) -> list[Field[Any]]:
    """Return the fields of a dataclass that a file may set."""
    return [field for field in fields(kind) if field.metadata.get("key", True)]


def read_values(kind: type, values: Mapping[str, Any], where: str, key: str | None = None) -> dict[str, Any]:
    """Return some values of a dataclass, checked against its fields.

    Args:
        kind: the dataclass.
        values: plain values by key.
        where: start of error messages.
        key: key of the whole.

    Raises:
        ConfigError: a key is unknown or of another type.
    """
    hints, known = field_types(kind), {f.name for f in config_keys(kind)}
    for name in values:
        if name not in known:
            text = f"{where}: unknown key {name!r}; known are {', '.join(sorted(known))}"
            raise ConfigError(text, _nested(key, name))
    return {
        name: _read_value(hints[name], value, f"{where}: {name}", _nested(key, name)) for name, value in values.items()
    }


def field_types(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name.

    A class that is known only at run time is returned by a function, `class` in the field's metadata.
    """
    return get_type_hints(kind) | {f.name: f.metadata["class"]() for f in fields(kind) if "class" in f.metadata}


def _nested(key: str | None, name: object) -> str:
    return f"{name}" if key is None else f"{key}.{name}"


def _read_value(hint: Any, value: Any, where: str, key: str) -> Any:
    if is_dataclass(hint):
        return read_dataclass(hint, value, where, key)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        if not isinstance(value, list) or (kinds[-1] is not ... and len(value) != len(kinds)):
            size = "" if kinds[-1] is ... else f" of {len(kinds)}"
            raise ConfigError(f"{where}: expected a list{size}, got {value!r}", key)
        return tuple(
            _read_value(kinds[0] if kinds[-1] is ... else kinds[i], item, f"{where}[{i}]", f"{key}[{i}]")
            for i, item in enumerate(value)
        )
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    plain = hint in (int, str, bool)
    if (plain and type(value) is not hint) or (hint is float and not isinstance(value, float)):
        # YAML reads 1e-3 as text and 1.0e-3 as a number; say so instead of guessing.
        raise ConfigError(f"{where}: expected {hint.__name__}, got {value!r}", key)
    return value
