"""Names to objects: one decorator registers a network, loss, metric or reader.

The folder is the list: on the first lookup every module of the registry's package is
imported, so adding a part touches its own file only.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from medseg3d.errors import ConfigError, MedSeg3DError, UnknownNameError

T = TypeVar("T", bound=Callable[..., Any])


class Registry(Generic[T]):
    """A named collection of parts of one kind.

    Args:
        kind: What is registered, in words for messages: ``"network"``.
        package: Dotted name of the package whose modules register the parts.

    Examples:
        >>> shapes: Registry[Callable[..., float]] = Registry("shape", "medseg3d.metrics")
        >>> @shapes.register("square", unit="mm^2")
        ... def square(side: float) -> float:
        ...     return side * side
        >>> shapes.build("square", 3.0)
        9.0
        >>> shapes.facts("square")["unit"]
        'mm^2'
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._parts: dict[str, T] = {}
        self._facts: dict[str, dict[str, Any]] = {}
        self._walked = False

    def register(self, name: str, **facts: Any) -> Callable[[T], T]:
        """Decorate a class or function with its name and the facts to list about it."""

        def add(part: T) -> T:
            if name in self._parts:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._parts[name] = part
            self._facts[name] = facts
            return part

        return add

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._walk()
        return sorted(self._parts)

    def facts(self, name: str) -> dict[str, Any]:
        """What was said about the part when it was registered."""
        self[name]
        return dict(self._facts[name])

    def build(self, name: str, *args: Any, **options: Any) -> Any:
        """Call the part of that name.

        Raises:
            ConfigError: If the name or an option is unknown, or a value is of a wrong kind or size.
        """
        self.expect_options(name, options, taken=len(args))
        try:
            return self[name](*args, **options)
        except MedSeg3DError:
            raise
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            given = ", ".join(f"{key}={value!r}" for key, value in options.items())
            raise ConfigError(
                f"{self.kind} {name!r} cannot be built with {given}: {error}"
            ) from error

    def expect_options(self, name: str, options: Iterable[str], *, taken: int = 0) -> None:
        """Refuse options that the part of that name does not have, as far as it tells.

        Args:
            name: Of the part.
            options: Their names.
            taken: Parameters before them, which are not options.

        Raises:
            UnknownNameError: If the name or an option is unknown.
        """
        parameters = list(inspect.signature(self[name]).parameters.values())
        if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters):
            return
        known = [each.name for each in parameters[taken:]]
        for option in options:
            if option not in known:
                close = get_close_matches(option, known, n=1)
                hint = f"did you mean {close[0]}? " if close else ""
                raise UnknownNameError(
                    f"{self.kind} {name!r} has no option {option!r}; {hint}"
                    f"valid options: {', '.join(known) or 'none'}"
                )

    def __getitem__(self, name: str) -> T:
        self._walk()
        if name not in self._parts:
            close = get_close_matches(name, self._parts, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(self.names())}"
            raise UnknownNameError(f"unknown {self.kind} {name!r}{hint}")
        return self._parts[name]

    def __contains__(self, name: object) -> bool:
        self._walk()
        return name in self._parts

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _walk(self) -> None:
        if self._walked:
            return
        self._walked = True
        package = importlib.import_module(self._package)
        for module in pkgutil.walk_packages(package.__path__, prefix=f"{self._package}."):
            importlib.import_module(module.name)
