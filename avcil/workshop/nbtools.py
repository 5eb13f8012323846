"""Notebooks whose bytes depend on their code alone.

`python -m avcil.workshop.nbtools notebooks/*.ipynb` executes source notebooks in place and drops all that differs
between two runs (times, durations, random cell ids). avcil/workshop/papermill_engine.py does the same for the stages of
the pipeline.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def normalise(notebook):
    """Keep cells, tags and outputs; drop everything that a clock or a random generator wrote."""
    language = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": language, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if cell.cell_type == "code":
            cell.outputs = _whole_streams(cell.outputs)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    return notebook


def _whole_streams(outputs: list) -> list:
    """Text that came in pieces, which fall differently each time, as one."""
    found: list = []
    for output in outputs:
        if found and output.output_type == found[-1].output_type == "stream" and output.name == found[-1].name:
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def execute(path: Path) -> None:
    """Run a notebook in its own folder and store its normalised outputs in place."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        record_timing=False,
        timeout=None,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    nbformat.write(normalise(notebook), path)


if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"
    for name in sys.argv[1:]:
        execute(Path(name))
        print(name)
