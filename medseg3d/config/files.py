"""Option models from YAML and to YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medseg3d.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """Keys and values of a YAML 1.2 file (``1e-3`` is a number, ``no`` is a text).

    Raises:
        ConfigError: If the file is missing, not YAML or not a mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the name") from None
    except (YAMLError, ValueError) as error:  # such as a date that there is not
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML: {detail}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, found a {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def to_yaml(model: BaseModel, *, title: str) -> str:
    """The model as YAML text, each key under its description."""
    import io

    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return CommentedMap({key: plain(item) for key, item in value.items()})
        if isinstance(value, list):
            sequence = CommentedSeq(plain(item) for item in value)
            if not any(isinstance(item, dict) for item in value):
                sequence.fa.set_flow_style()
            return sequence
        return value

    dumped = model.model_dump(mode="json")
    document = CommentedMap()
    for key, value in dumped.items():
        document[key] = plain(value)
        description = type(model).model_fields[key].description
        if description:
            document.yaml_set_comment_before_after_key(key, before=description)
    document.yaml_set_start_comment(title)
    yaml = YAML()
    yaml.width = 4096
    text = io.StringIO()
    yaml.dump(document, text)
    return text.getvalue()
