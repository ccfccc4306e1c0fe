"""The pages of reports, from the templates beside this module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2


def rendered(template: str, **values: Any) -> str:
    """The page that a template gives with some values; a value that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)
