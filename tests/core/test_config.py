"""Configuration is read with its types checked, and a mistake is named with its file, key and value."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from layerflow.core.config import NOT_A_KEY, ConfigError, config_keys, load_config, read_values
from layerflow.core.errors import FieldError


@dataclass(frozen=True)
class Part:
    weight: float
    label: str = "plain"


@dataclass(frozen=True)
class Whole:
    name: str
    count: int
    rate: float = 0.5
    fast: bool = False
    size: tuple[int, int] = (1, 1)
    parts: tuple[Part, ...] = ()
    main: Part = field(default_factory=lambda: Part(1.0))

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"count is {self.count}, but must not be negative")
        if self.rate < 0:
            raise FieldError("rate", f"is {self.rate}, but must not be negative")


@dataclass(frozen=True)
class Nameless:
    count: int = 0
    place: str = field(default=".", metadata=NOT_A_KEY)


def read(tmp_path: Path, text: str, **overrides: Any) -> Whole:
    path = tmp_path / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return load_config(Whole, path, overrides)


def test_values_are_read_with_defaults_and_the_name_of_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, "count: 3\nrate: 2\nfast: true") == Whole("some", 3, rate=2.0, fast=True)
    assert isinstance(read(tmp_path, "count: 3\nrate: 2").rate, float)
    assert read(tmp_path, "name: Überblick\ncount: 3").name == "Überblick"


def test_field_that_is_no_key_is_refused() -> None:
    assert [one.name for one in config_keys(Nameless)] == ["count"]
    with pytest.raises(ConfigError, match="unknown key 'place'; known are count"):
        read_values(Nameless, {"place": "x"}, "some.yaml")


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    assert read(tmp_path, "name: own\ncount: 3", count=4, name="other") == Whole("other", 4)


def test_a_kind_without_a_name_is_given_none(tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text("count: 2")
    assert load_config(Nameless, tmp_path / "some.yaml") == Nameless(2)


def test_nested_values_and_tuples_are_read(tmp_path: Path) -> None:
    text = "count: 1\nsize: [4, 6]\nparts: [{weight: 1}, {weight: 0.5, label: x}]\nmain: {weight: 2}"
    whole = read(tmp_path, text)
    assert (whole.size, whole.main) == ((4, 6), Part(2.0))
    assert whole.parts == (Part(1.0), Part(0.5, "x"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "count: 1\nspeed: 2",
            r"some\.yaml: unknown key 'speed'; known are count, fast, main, name,",
        ),
        ("count: 1\nlike: other.yaml", r"some\.yaml: unknown key 'like'; known are"),
        ("rate: 1.0", r"some\.yaml: key 'count' is missing"),
        ("count: 1.5", r"some\.yaml: count: expected int, got 1\.5"),
        ("count: true", "count: expected int, got True"),
        ("count: 1\nrate: true", "rate: expected float, got True"),
        ("count: 1\nrate: 1e-3", "rate: expected float, got '1e-3'"),
        ("count: 1\nfast: 1", "fast: expected bool, got 1"),
        ("count: 1\nname: 7", "name: expected str, got 7"),
        ("count: 1\nsize: 4", "size: expected a list of 2, got 4"),
        ("count: 1\nsize: [4]", r"size: expected a list of 2, got \[4\]"),
        ("count: 1\nsize: [4, x]", r"size\[1\]: expected int, got 'x'"),
        ("count: 1\nparts: {weight: 1}", "parts: expected a list, got {'weight': 1}"),
        ("count: 1\nparts: [{weight: 1}, {label: x}]", r"parts\[1\]: key 'weight' is missing"),
        ("count: 1\nmain: 3", "main: expected keys and values, got 3"),
        ("count: 1\nmain: {weight: 1, colour: red}", "main: unknown key 'colour'; known are label, weight"),
        ("count: -1", r"some\.yaml: count is -1, but must not be negative"),
        ("- count", r"some\.yaml must hold keys and values"),
        ("", r"some\.yaml must hold keys and values"),
        ("count: [1", r"some\.yaml is not readable as YAML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)


def test_a_file_that_is_not_there_or_no_text_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist"):
        load_config(Whole, tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=r"binary\.yaml is not readable as YAML"):
        load_config(Whole, tmp_path / "binary.yaml")
    with pytest.raises(ConfigError, match="cannot be opened: Is a directory; give a YAML file"):
        load_config(Whole, tmp_path)


def test_some_values_alone_are_checked_and_none_need_be_there() -> None:
    assert read_values(Whole, {"rate": 1}, "here") == {"rate": 1.0}
    with pytest.raises(ConfigError, match="here: unknown key 'speed'"):
        read_values(Whole, {"speed": 1}, "here")


def test_a_recipe_extends_others_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("count: 1\nrate: 0.1\nsize: [2, 2]")
    (tmp_path / "second.yaml").write_text("extends: first.yaml\nrate: 0.2\ncount: 2")
    assert read(tmp_path, "extends: second.yaml\ncount: 3") == Whole("some", 3, rate=0.2, size=(2, 2))
    with pytest.raises(ConfigError, match=r"none\.yaml does not exist"):
        read(tmp_path, "extends: none.yaml")


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "trip.yaml").write_text("extends: some.yaml")
    with pytest.raises(ConfigError, match=r"recipe .*some\.yaml extends itself, by way of some\.yaml, trip\.yaml"):
        read(tmp_path, "extends: trip.yaml")


@pytest.mark.parametrize("other", ["../first.yaml", "sub/first.yaml", "/first.yaml", "..", "''", "3", "[a.yaml]"])
def test_a_recipe_extends_none_outside_its_folder(tmp_path: Path, other: str) -> None:
    message = r"some\.yaml: extends is .*, but must be the name of a recipe in the same folder"
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, f"count: 1\nextends: {other}")


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("count: many", "count"),
        ("count: 1\ncolour: red", "colour"),
        ("rate: 1", "count"),
        ("count: 1\nmain: {weight: heavy}", "main.weight"),
        ("count: 1\nmain: {label: other}", "main.weight"),
        ("count: 1\nparts: [{weight: 1}, {weight: heavy}]", "parts[1].weight"),
        ("count: 1\nsize: 3", "size"),
        ("count: 1\nrate: -1", "rate"),
        ("extends: ../other.yaml", "extends"),
        ("count: -1", None),
    ],
)
def test_error_carries_the_key(tmp_path: Path, text: str, field: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert caught.value.field == field


def test_error_of_a_file_has_no_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Whole, tmp_path / "none.yaml")
    assert caught.value.field is None
