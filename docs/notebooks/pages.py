"""Shows each notebook of this folder as a page of the site, with the outputs that are saved in it: a hook of mkdocs."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files


def on_files(files: Files, *, config: Any) -> Files:
    """Adds a page beside each notebook, which stays on the site as a file to download."""
    for path in sorted(Path(__file__).parent.glob("*.ipynb")):
        place = path.relative_to(config.docs_dir).with_suffix(".md").as_posix()
        files.append(
            File.generated(config, place, content=page(json.loads(path.read_text(encoding="utf-8")), path.name))
        )
    return files


def page(notebook: Mapping[str, Any], name: str) -> str:
    """Returns a notebook as Markdown."""
    title, *cells = (part for cell in notebook["cells"] for part in _parts(cell))
    return "\n\n".join([title, f"[Download the notebook]({name})", *cells]) + "\n"


def _parts(cell: Mapping[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            yield f"![output](data:image/png;base64,{''.join(data['image/png']).strip()})"
        else:
            yield f"```\n{''.join(output.get('text', data.get('text/plain', ''))).rstrip()}\n```"
