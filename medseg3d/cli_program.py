"""How a command that fails ends: one sentence on stderr and an exit code."""

import logging
import re
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from medseg3d.cli_options import UsageError
from medseg3d.errors import ConfigError, Terminated, TimeIsUp
from medseg3d.process import FAILED, MISUSED, PIPE_CLOSED, drop_output, exit_code, sentence
from medseg3d.progress import LOGGER

TYPED = "medseg3d.typed"
"""The words of the command line, in the context of the group."""


class Program(TyperGroup):
    """The group of commands; an error becomes one line on stderr and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Remember what was typed."""
        ctx.meta[TYPED] = tuple(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            drop_output()
            raise typer.Exit(PIPE_CLOSED) from None
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, typer.Abort) or hasattr(error, "exit_code"):
                raise  # typer's own: help, misuse, a wanted end
            code, message = told(error, ctx.meta[TYPED])
            if code == FAILED and LOGGER.isEnabledFor(logging.DEBUG):
                traceback.print_exc()
            typer.echo(f"medseg3d {ctx.invoked_subcommand}: {message}", err=True)
            raise typer.Exit(code) from None


def told(error: BaseException, typed: Sequence[str] = ()) -> tuple[int, str]:
    """Exit code and sentence of an error, given the words of the command line."""
    if isinstance(error, KeyboardInterrupt):
        return exit_code(type(error)), _ended_by(error)
    is_typed = isinstance(error, ConfigError) and _is_among(error.given, typed)
    return MISUSED if is_typed or isinstance(error, UsageError) else FAILED, sentence(error)


def _is_among(name: str, words: Sequence[str]) -> bool:
    """Whether a name is one of the words, or a whole part of one, but not of a file's name.

    Examples:
        >>> _is_among("vne", ["--networks", "unet3d,vne"]), _is_among("vne", ["vnet.yaml"])
        (True, False)
        >>> _is_among("dic", ["loss=dic+0.5*focal"]), _is_among("unet4", ["runs/unet4.yaml"])
        (True, False)
        >>> _is_among("vne", ["own.vne.batch_size=2"])
        True
    """
    part = re.compile(rf"(?<![\w./-]){re.escape(name)}(?![\w./-])")
    keys = [word.partition("=")[0].split(".") for word in words if "=" in word]
    return bool(name) and (any(map(part.search, words)) or any(name in key for key in keys))


def _ended_by(error: KeyboardInterrupt) -> str:
    if isinstance(error, TimeIsUp):
        return "stopped, because the time of this job is nearly up"
    return "terminated" if isinstance(error, Terminated) else "interrupted"
