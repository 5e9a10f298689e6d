"""How a command that fails ends: one sentence on stderr and an exit code."""

import logging
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from medseg3d.cli_options import UsageError
from medseg3d.errors import Terminated, TimeIsUp
from medseg3d.process import FAILED, MISUSED, PIPE_CLOSED, drop_output, exit_code, sentence
from medseg3d.progress import LOGGER


class Program(TyperGroup):
    """The group of commands; an error becomes one line on stderr and an exit code."""

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
            code, message = told(error)
            if code == FAILED and LOGGER.isEnabledFor(logging.DEBUG):
                traceback.print_exc()
            typer.echo(f"medseg3d {ctx.invoked_subcommand}: {message}", err=True)
            raise typer.Exit(code) from None


def told(error: BaseException) -> tuple[int, str]:
    """Exit code and sentence of an error."""
    if isinstance(error, KeyboardInterrupt):
        return exit_code(type(error)), _ended_by(error)
    return MISUSED if isinstance(error, UsageError) else FAILED, sentence(error)


def _ended_by(error: KeyboardInterrupt) -> str:
    if isinstance(error, TimeIsUp):
        return "stopped, because the time of this job is nearly up"
    return "terminated" if isinstance(error, Terminated) else "interrupted"
