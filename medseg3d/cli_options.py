"""Command-line parameters made from the option models of :mod:`medseg3d.config`.

Three layers are merged, each above the one before: the YAML file of ``--config``, the flags,
and ``--set KEY=VALUE``. Only what was given enters the model, so that it still knows which of
its values are defaults.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from rich.markup import escape

from medseg3d.config import read_yaml, validated
from medseg3d.config.options import (
    PART,
    Dotted,
    default_part,
    is_model,
    is_on,
    laid_over,
    over,
    plain_type,
)
from medseg3d.errors import ConfigError
from medseg3d.progress import LOGGER

M = TypeVar("M", bound=BaseModel)
Command = Callable[..., None]

FLAGS = "command line"
SETTINGS = "--set"


class UsageError(ConfigError):
    """What was typed is refused, whatever a file says; exit code 2."""


def _louder(given: bool) -> bool:
    if given:
        LOGGER.setLevel(logging.DEBUG)
    return given


def _quieter(given: bool) -> bool:
    if given:
        LOGGER.setLevel(logging.WARNING)
    return given


ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="YAML file with options; flags go above it."),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_louder, help="Say more.", show_default=False)
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=_quieter, help="Say nothing but warnings and errors."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any option by name, dotted where nested; repeatable "
        "(all of them: medseg3d list options).",
    ),
]


def command(model: type[M], run: Callable[[M], None]) -> Command:
    """A function for typer whose parameters are the model's command-line fields.

    Args:
        model: Options of the command. A field takes part if its ``json_schema_extra`` has
            ``cli``; ``positional`` makes it an argument, ``names`` adds short spellings,
            ``flag`` replaces the usual one and ``implies`` says what else the flag sets.
        run: What to do with the validated options; its docstring is the command's help.
    """

    def invoke(
        context: typer.Context,
        config: Path | None,
        settings: list[str] | None,
        _verbose: bool,
        _quiet: bool,
        **flags: Any,
    ) -> None:
        for name, value in flags.items():
            if "" in (value if isinstance(value, (list, tuple)) else (value,)):
                context.fail(f"'{name.upper()}' is an empty text; is a variable unset?")
        layers = given_options(flags, file=config, settings=settings or ())
        layers[FLAGS] |= implied(model, layers)
        for name, field in arguments(model):
            if field.is_required() and not any(name in layer for layer in layers.values()):
                context.fail(f"Missing argument '{name.upper()}'.")
        run(merged(model, layers))

    parameters = [
        _keyword("context", typer.Context, inspect.Parameter.empty),
        *(_parameter(name, field) for name, field in _command_line_fields(model)),
        _keyword("config", ConfigFile),
        _keyword("settings", Settings),
        _keyword("_verbose", Verbose, default=False),
        _keyword("_quiet", Quiet, default=False),
    ]
    paragraphs = inspect.cleandoc(run.__doc__ or "").split("\n\n")
    invoke.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    invoke.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(invoke)["__signature__"] = inspect.Signature(parameters)
    return invoke


def arguments(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """The fields that stand on the command line without a flag."""
    for name, field in _command_line_fields(model):
        if _marks(field).get("positional"):
            yield name, field


def given_options(
    flags: Mapping[str, Any],
    *,
    file: Path | None = None,
    settings: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """What the user said, by source, in the order in which it is merged.

    Args:
        flags: Values by field; ``None`` and empty lists were not given.
        file: YAML file.
        settings: ``KEY=VALUE`` texts.

    Raises:
        ConfigError: If the file cannot be read.
        UsageError: If a setting is no such text, or a flag and a setting are about one option.
    """
    from_flags = {name: value for name, value in flags.items() if value not in (None, [], ())}
    from_settings: dict[str, Any] = {}
    for text in settings:
        key, value = _setting(text)
        if key in from_flags:
            raise UsageError(f"{key} is given twice, as a flag and with --set")
        _place(from_settings, key.split("."), value)
    from_file = read_yaml(file) if file is not None else {}
    return {str(file): from_file, FLAGS: from_flags, SETTINGS: from_settings}


def implied(model: type[BaseModel], layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What flags stand for beside their own option, unless that is typed too."""
    typed = layers[FLAGS].keys() | layers[SETTINGS].keys()
    return {
        other: value
        for name, field in _command_line_fields(model)
        if name in layers[FLAGS]
        for other, value in _marks(field).get("implies", {}).items()
        if other not in typed
    }


def merged(model: type[M], layers: Mapping[str, Mapping[str, Any]]) -> M:
    """One validated model from the layers, the last one on top.

    Raises:
        ConfigError: If a key is unknown or a value does not fit; the message begins with
            the source of the value, a file with its line.
        UsageError: Likewise, if what was typed is wrong without the file too.
    """
    values, origins = _combined(model, layers)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        wrong = [str(problem["loc"][0]) for problem in error.errors() if problem["loc"]]
        sources = [_spelled(each, name) for name in wrong for each in origins.get(name, ())]
    try:
        return validated(model, values, source=", ".join(dict.fromkeys(sources)) or "options")
    except ConfigError as error:
        if _is_wrong_as_typed(model, layers):
            raise UsageError(str(error)) from None
        raise


def _combined(
    model: type[BaseModel], layers: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """The values of all layers, and the sources of each."""
    values: dict[str, Any] = {}
    origins: dict[str, list[str]] = {}
    for source, layer in layers.items():
        given = {name for name, value in layer.items() if not _is_off(model, name, value)}
        for group in getattr(model, "exclusive", ()):
            for name in group - given if group & given else ():
                values.pop(name, None)
        for name, value in layer.items():
            below = values[name] if name in values else default_part(model, name)
            values[name] = laid_over(model, name, below, value)
            kept = origins.get(name, []) if values[name] is not value else []
            origins[name] = [*kept, source]
    return values, origins


def _is_off(model: type[BaseModel], name: str, value: Any) -> bool:
    """Whether a value says nothing, or that a switch is off."""
    field = model.model_fields.get(name)
    is_switch = field is not None and plain_type(field.annotation) is bool
    return value is None or (is_switch and not is_on(value))


def _is_wrong_as_typed(model: type[BaseModel], layers: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the values would be refused without the file too."""
    typed = {source: layers[source] for source in (FLAGS, SETTINGS) if source in layers}
    try:
        model.model_validate(_combined(model, typed)[0])
    except ValidationError as error:  # what only the file has is missing
        return any(each["type"] != "missing" or each["loc"][1:] for each in error.errors())
    return False


def option_rows(model: type[BaseModel], prefix: str = "") -> Iterator[dict[str, str]]:
    """Name, flag, type, default and description of every option, nested ones with dots."""
    for name, field in model.model_fields.items():
        inner = plain_type(field.annotation)
        if is_model(inner) and "name" not in inner.model_fields:
            yield from option_rows(inner, f"{prefix}{name}.")
            continue
        is_flag = _marks(field).get("cli") and not _marks(field).get("positional")
        yield {
            "name": prefix + name,
            "flag": _spelling(name, field).partition("/")[0] if is_flag else "",
            "type": _type_text(field.annotation),
            "default": _default_text(field) or "",
            "description": field.description or "",
        }


def _command_line_fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    return ((n, field) for n, field in model.model_fields.items() if _marks(field).get("cli"))


def _marks(field: FieldInfo) -> Mapping[str, Any]:
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def _keyword(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """Not given is ``None`` here, whatever the default of the field."""
    kind = plain_type(field.annotation)
    default = _default_text(field)
    text = escape(field.description or "")
    if default not in (None, "false"):
        text += f" [dim]{escape(f'[default: {default}]')}[/dim]"
    facts: dict[str, Any] = {"help": text, "show_default": False}
    if _marks(field).get("positional"):
        info = typer.Argument(metavar=name.upper(), **facts)
    else:
        if is_model(kind):
            facts["metavar"] = "NAME"
        elif kind is Path:
            facts["metavar"] = "PATH"
        info = typer.Option(_spelling(name, field), *_marks(field).get("names", ()), **facts)
    return _keyword(name, Annotated[_flag_type(kind) | None, info])


def _spelling(name: str, field: FieldInfo) -> str:
    """The flag, with its opposite of what is switched on and off."""
    dashed = _dashed(name)
    is_switch = plain_type(field.annotation) is bool
    usual = f"--{dashed}/--no-{dashed}" if is_switch else f"--{dashed}"
    return str(_marks(field).get("flag", usual))


def _flag_type(kind: Any) -> Any:
    """The type that typer parses; pydantic checks the rest."""
    if is_model(kind) or kind is Path:  # as a path, an empty text would be the current folder
        return str
    if get_origin(kind) in (Union, UnionType):  # such as a number or a name
        return str
    if get_origin(kind) in (tuple, list):
        items = get_args(kind)
        inner = _flag_type(items[0])
        return list[inner] if items[1:] in ((), (...,)) else kind  # type: ignore[valid-type]
    return kind


def _type_text(annotation: Any) -> str:
    """A type as a newcomer reads it: ``float, float, float`` or ``auto | cpu``."""
    kind, items = get_origin(annotation), get_args(annotation)
    if kind in (Union, UnionType):
        return " | ".join("null" if i is type(None) else _type_text(i) for i in items)
    if kind is Literal:
        return " | ".join(map(str, items))
    if kind in (tuple, list):
        inside = ["..." if item is ... else _type_text(item) for item in items]
        return f"[{', '.join(inside)}]"
    if kind is dict:
        return f"{{{': '.join(map(_type_text, items))}}}"
    if is_model(annotation):
        return "name" if "name" in annotation.model_fields else "options"
    names = {str: "text", Path: "path", bool: "true | false"}
    return names.get(annotation) or str(getattr(annotation, "__name__", annotation))


def _default_text(field: FieldInfo) -> str | None:
    """The default as one writes it, or None if there is nothing to say."""
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    if value is None:
        return None
    if isinstance(value, BaseModel):
        return str(getattr(value, "name", "")) or None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _setting(text: str) -> tuple[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    key, equals, value = text.partition("=")
    if not (key and equals):
        raise UsageError(f"--set expects KEY=VALUE, such as batch_size=2, got {text!r}")
    if not value.strip():
        raise UsageError(f"--set {key}= is empty; is a variable unset? null takes a value back")
    try:
        return key, YAML(typ="safe").load(value)
    except (YAMLError, ValueError):
        raise UsageError(f"--set {key}: {value!r} is not a YAML value; quote texts") from None


def _place(values: dict[str, Any], steps: Sequence[str], value: Any) -> None:
    for step in steps[:-1]:
        inner = values.setdefault(step, Dotted())
        if not isinstance(inner, dict):
            inner = values[step] = Dotted(name=inner)
        values = inner
    last = steps[-1]
    is_mapping = isinstance(value, dict) and not value.keys() <= PART  # which replaces all of it
    values[last] = over(values[last], value) if last in values and not is_mapping else value


def _spelled(source: str, name: str) -> str:
    """Where the user finds the value; of a file, the line too where that can be told."""
    if source in (FLAGS, SETTINGS):
        return source
    from ruamel.yaml import YAML

    try:
        place = YAML().load(Path(source).read_text(encoding="utf-8")).lc.key(name)
        return f"{source}:{place[0] + 1}"
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return source  # a key of a merge, or one that is no text, or a file that is read once
