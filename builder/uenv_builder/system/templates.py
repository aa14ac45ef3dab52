"""The templates that travel with the package, read with Jinja2."""

from __future__ import annotations

from pathlib import Path

import jinja2

from uenv_builder.model.errors import BuildError
from uenv_builder.system.resources import resource_folder


class _PlacedTemplate(jinja2.Template):
    """A template whose errors while rendering name its file and line."""

    def render(self, *args: object, **kwargs: object) -> str:
        try:
            return super().render(*args, **kwargs)
        except jinja2.TemplateError as error:
            raise _placed(error, _line_of(error, self.filename), self.name or "template") from error


def load_template(name: str) -> jinja2.Template:
    """The template file `name` (such as sbatch.sh.j2); a name that a template uses and nobody gives is an error.

    Errors of the template, when it is read or rendered, are BuildErrors that start with `NAME:LINE:`.
    """
    return read_template(resource_folder("templates"), name)


def read_template(folder: Path, name: str) -> jinja2.Template:
    """As `load_template`, for a template in `folder`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder, encoding="utf-8"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701  (shell and TOML, not HTML)
    )
    environment.template_class = _PlacedTemplate
    try:
        return environment.get_template(name)
    except jinja2.TemplateNotFound as error:
        raise BuildError(f"there is no template {name}", rule="template", hint="install the package again") from error
    except jinja2.TemplateSyntaxError as error:
        raise _placed(error, error.lineno, error.name or name) from error


def _line_of(error: jinja2.TemplateError, filename: str | None) -> int:
    """The last line of the template on the way to the error: Jinja puts its own lines into the traceback."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    line, frame = 0, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == filename:
            line = frame.tb_lineno
        frame = frame.tb_next
    return line


def _placed(error: jinja2.TemplateError, line: int, name: str) -> BuildError:
    return BuildError(f"{name}:{line}: {error.message or type(error).__name__}", rule="template")
