"""Pages from templates, which may include those beside this module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

HERE = Path(__file__).parent
"""The directory of the templates of reports, and of the style that all pages share"""


def rendered(template: Path, **values: Any) -> str:
    """The page that a template gives with some values; a value that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template.name).render(**values)
