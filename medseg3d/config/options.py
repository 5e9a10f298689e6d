"""What all option models share: how a field is marked, a model built and its problems told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, TypeGuard, TypeVar, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from medseg3d.errors import ConfigError

M = TypeVar("M", bound=BaseModel)

FLAG: dict[str, Any] = {"cli": True}
ARGUMENT: dict[str, Any] = {"cli": True, "positional": True}
NO_BOOLEANS = {"yes", "no", "on", "off", "true", "false"}
"""What YAML 1.2 reads as texts, the last two in quotation marks, and any text counts as true."""

PART = {"name", "options"}
"""Fields of :class:`Part`."""


def flag(*names: str) -> dict[str, Any]:
    """Mark a field as a command-line flag with these short names."""
    return {"cli": True, "names": list(names)}


class Options(BaseModel):
    """Common behavior: unknown keys are errors, numbers finite, values stay after construction."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _at_home(cls, values: Any) -> Any:
        """Paths that begin with ``~/``, as a shell reads them."""
        if not isinstance(values, Mapping):
            return values
        return {
            name: _expanded(value) if name in cls.model_fields and _is_path(cls, name) else value
            for name, value in values.items()
        }


class Part(Options):
    """A network or loss by name, with options for its constructor."""

    name: str = Field(description="Registered name.")
    options: dict[str, Any] = Field(default_factory=dict, description="Constructor options.")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, Part):  # of another kind
            return value.model_dump(exclude_unset=True)
        return {"name": value} if isinstance(value, str) else value

    @field_validator("options")
    @classmethod
    def _booleans(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, inner in value.items():
            if isinstance(inner, dict):
                cls._booleans(inner)
            if isinstance(inner, str) and inner.strip().lower() in NO_BOOLEANS:
                raise ValueError(f"{name} is the text {inner!r}; expected true or false, unquoted")
        return value


class NetworkPart(Part):
    """The network, by its options alone too; ``name`` is then not among the fields set."""

    name: str = Field("unet3d", description="Registered name.")


class Dotted(dict[str, Any]):
    """Options that were named one by one, as ``loss.options.x``: others beside them stay."""


def laid_over(model: type[BaseModel], name: str, below: Any, above: Any) -> Any:
    """The value of an option that is given where it has one already.

    Options of a part or of a nested model go on top of those that are there, unless they are of
    another part; whatever else replaces what is there.

    Args:
        model: Whose option it is.
        name: Of the option.
        below: The value that it has.
        above: The value that is given; unless something is kept, this object is returned.
    """
    field = model.model_fields.get(name)
    kind = plain_type(field.annotation) if field else None
    if is_model(kind) and "name" in kind.model_fields and isinstance(below, str):
        below = {"name": below}
    return over(below, above) if is_model(kind) or isinstance(above, Dotted) else above


def over(below: Any, above: Any) -> Any:
    """Options on top of those that are there, if they are of the same part."""
    if isinstance(below, str) and isinstance(above, dict) and above.keys() <= PART:
        below = {"name": below}
    if isinstance(above, str) and isinstance(below, dict) and below and below.keys() <= PART:
        return below | {"name": above} if below.get("name", above) == above else above
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    if above.get("name", below.get("name")) != below.get("name"):
        return above
    # what is named as a whole, as loss.options={}, is meant as a whole
    merges = not isinstance(above, Dotted)
    inside = {
        name: over(below.get(name), value) if merges or isinstance(value, Dotted | str) else value
        for name, value in above.items()
    }
    return below | inside


def default_part(model: type[BaseModel], name: str) -> Any:
    """What options of a part or nested model are put on where nothing is given."""
    field = model.model_fields.get(name)
    default = field.get_default(call_default_factory=True) if field else None
    return default.model_dump(exclude_unset=True) if isinstance(default, BaseModel) else None


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


def given(model: type[M], first: str, value: object, options: Mapping[str, Any]) -> M:
    """The options of a verb: all in one object, or its first argument and the others by name.

    Args:
        model: The model of the options.
        first: Field that the first argument stands for.
        value: The first argument.
        options: The others, by field.

    Raises:
        ConfigError: If a key is unknown or a value does not fit.
    """
    if isinstance(value, model):
        return value
    return validated(model, {first: value} | dict(options))


def _problem(model: type[BaseModel], item: dict[str, Any]) -> str:
    place = ".".join(str(step) for step in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(model, item["loc"][:-1])
        close = get_close_matches(str(item["loc"][-1]), known, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"
        parts = [path for path in _options_at(model, item["loc"][:-1]) if not close]
        if parts:
            hint += "; perhaps " + " or ".join(f"{path}.{item['loc'][-1]}" for path in parts)
        return f"unknown key {place!r}{hint if known else ''}"
    if item["type"] == "missing":
        return f"{place} is missing"
    if item["type"] == "string_pattern_mismatch" and place in model.model_fields:
        expected = (model.model_fields[place].description or "").removesuffix(".")
        return f"{place}: {item['input']!r} does not fit ({expected})"
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"{place}: {message}, got {item['input']!r}" if place else message


def _fields_at(model: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """The keys that are known there; nothing if that cannot be told."""
    kind: Any = model
    for step in place:
        if is_model(kind):
            field = kind.model_fields.get(str(step))
            kind = plain_type(field.annotation) if field else None
        else:
            inside = get_args(kind) or (None,)
            kind = plain_type(inside[-1] if get_origin(kind) is dict else inside[0])
    return list(kind.model_fields) if is_model(kind) else []


def _options_at(model: type[BaseModel], place: tuple[Any, ...]) -> list[str]:
    """Where options of networks and losses are given: of the part there, or of the parts in it."""
    keys, here = _fields_at(model, place), [str(step) for step in place]
    found = [(*here, "options")] if {"name", "options"} <= set(keys) else []
    found += [
        (*here, key, "options") for key in keys if "options" in _fields_at(model, (*place, key))
    ]
    return [".".join(path) for path in found]


def one_by_one(value: Any) -> Any:
    """Names, of which some are given with commas between them; whatever else stays.

    Examples:
        >>> one_by_one(["dice, iou", {"name": "hd95"}])
        ['dice', 'iou', {'name': 'hd95'}]
    """
    items = [value] if isinstance(value, str | dict) else value
    if not isinstance(items, list | tuple):
        return value
    split = [item.split(",") if isinstance(item, str) else [item] for item in items]
    return [name.strip() if isinstance(name, str) else name for names in split for name in names]


def is_model(kind: Any) -> TypeGuard[type[BaseModel]]:
    """Whether a type is a model of options."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def plain_type(annotation: Any) -> Any:
    """The annotation without its ``None``."""
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else annotation
    return annotation


def _is_path(model: type[BaseModel], name: str) -> bool:
    def holds(kind: Any) -> bool:
        return kind is Path or any(map(holds, get_args(kind)))

    return holds(model.model_fields[name].annotation)


def _expanded(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("~/"):
        return os.path.expanduser(value)  # noqa: PTH111 # the other raises where there is no home
    return [_expanded(item) for item in value] if isinstance(value, list | tuple) else value


def is_on(value: Any) -> bool:
    """Whether a switch is on; what is none is left to its field."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return False
