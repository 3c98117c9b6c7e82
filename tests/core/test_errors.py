"""The tree of errors: what a user can resolve is a `UserError`, and what is not is listed."""

import importlib
import inspect
import pickle
import pkgutil

import layerflow
from layerflow.core.config import ConfigError
from layerflow.core.errors import FieldError, UserError

INTERNAL = {
    "layerflow.studio.access_control._MalformedError",
    "layerflow.studio.access_control._TooLargeError",
    "layerflow.studio.jobs.QueueFullError",
    "layerflow.studio.jobs.UnknownJobError",
    "layerflow.studio.sandbox.ChildError",
    "layerflow.studio.sandbox.ChildRefusedError",
    "layerflow.studio.worker.CancelledError",
}
"""Errors that are caught inside the package and never reach a user as they are."""


def exception_classes() -> dict[str, type[BaseException]]:
    """Return all exception classes that modules of the package define."""
    classes = {}
    for module in pkgutil.walk_packages(layerflow.__path__, "layerflow."):
        if module.name.endswith("__main__"):
            continue
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(kind, BaseException) and kind.__module__.startswith("layerflow."):
                classes[f"{kind.__module__}.{kind.__qualname__}"] = kind
    return classes


def test_exceptions_are_user_errors_or_listed_as_internal() -> None:
    classes = exception_classes()
    assert "layerflow.media.video.MediaError" in classes
    others = {name for name, kind in classes.items() if not issubclass(kind, UserError)}
    assert others == INTERNAL


def test_field_error_carries_field_and_message() -> None:
    error = FieldError("steps", "is 0: it must be at least 1")
    assert str(error) == "steps is 0: it must be at least 1"
    assert (error.field, error.message) == ("steps", "is 0: it must be at least 1")
    assert isinstance(error, ValueError)


def test_config_error_keeps_its_key_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ConfigError("a.yaml: rate: expected float", "rate")))
    assert (str(error), error.field) == ("a.yaml: rate: expected float", "rate")
