"""What all option models share: how a field is marked, a model built and its problems told."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from medseg3d.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

FLAG: dict[str, Any] = {"cli": True}
ARGUMENT: dict[str, Any] = {"cli": True, "positional": True}


def flag(*names: str) -> dict[str, Any]:
    """Mark a field as a command-line flag with these short names."""
    return {"cli": True, "names": list(names)}


class Options(BaseModel):
    """Common behavior: unknown keys are errors, values do not change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Part(Options):
    """A network or loss by name, with options for its constructor."""

    name: str = Field(description="Registered name.")
    options: dict[str, Any] = Field(default_factory=dict, description="Constructor options.")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


def validated(model: type[M], values: Mapping[str, Any], *, source: str = "options") -> M:
    """Build a model, or say in one sentence per problem what is wrong.

    Args:
        model: The model to build.
        values: Its fields.
        source: Where the values come from, to begin the message with: a file or "options".

    Raises:
        ConfigError: If a key is unknown or a value does not fit.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(_problem(model, dict(item)) for item in error.errors())
        raise ConfigError(f"{source}: {problems}") from None


def _problem(model: type[BaseModel], item: dict[str, Any]) -> str:
    place = ".".join(str(step) for step in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, item["loc"][:-1])
        close = get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
        return f"unknown key {place!r}; {hint}"
    if item["type"] == "missing":
        return f"{place} is missing"
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{place}: {message}, got {item['input']!r}" if place else message


def _fields_at(model: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    for step in place:
        field = model.model_fields.get(str(step))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return list(model.model_fields)
        model = inner
    return list(model.model_fields)
