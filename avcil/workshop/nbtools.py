"""Notebooks whose bytes depend on their code alone.

`python -m avcil.workshop.nbtools notebooks/*.ipynb` executes source notebooks in place and drops all that differs
between two runs (times, durations, random cell ids). avcil/workshop/papermill_engine.py does the same for the stages of
the pipeline.
"""

import atexit
import base64
import io
import os
import shutil
import sys
from pathlib import Path
from tempfile import mkdtemp

import nbformat
from nbclient import NotebookClient
from PIL import Image

_INLINE = "module://matplotlib_inline.backend_inline"


def ignore_settings() -> None:
    """Kernels that are started from now on find no settings of IPython and matplotlib in a person's home, and none that
    a machine has for all programs: outputs and figures would be others."""
    os.environ |= {"IPYTHONDIR": mkdtemp(), "MATPLOTLIBRC": os.devnull, "MPLBACKEND": _INLINE}
    atexit.register(shutil.rmtree, os.environ["IPYTHONDIR"], ignore_errors=True)
    # `portable` leaves what is set, as it is in many jobs of a cluster
    if os.environ.get("AVCIL_PORTABLE") != "0":
        os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def normalise(notebook):
    """Keep cells, tags and outputs; drop everything that a clock or a random generator wrote."""
    # a kernel would write its version of Python here
    language = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": language, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        # tags stay, since papermill finds the parameters by theirs
        tags = cell.metadata.get("tags", [])
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            # it names a widget by a random id, and the widget ended with its kernel; a panel's picture stands beside it
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    return notebook


def lighten(notebook):
    """Store each PNG with 256 colours, or as JPEG, whichever is smaller: notebooks are in git, each version of them.

    For notebooks that are stored alone: the pipeline's executed copies, and the report made of them, keep every pixel.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                # JPEG has no transparency
                picture = Image.open(io.BytesIO(base64.b64decode(data.pop("image/png")))).convert("RGB")
                png, jpeg = io.BytesIO(), io.BytesIO()
                picture.quantize(256).save(png, "png", optimize=True)
                picture.save(jpeg, "jpeg", quality=70)
                kind, smaller = min(("png", png), ("jpeg", jpeg), key=lambda way: len(way[1].getvalue()))
                data[f"image/{kind}"] = base64.b64encode(smaller.getvalue()).decode()
    return notebook


def execute(path: Path) -> None:
    """Run a notebook in its own folder and store its normalised outputs in place."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        kernel_name="python3",
        record_timing=False,
        # cells may train
        timeout=None,
        # text comes in pieces, which fall differently each time
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    nbformat.write(lighten(normalise(notebook)), path)


if __name__ == "__main__":
    # only here, for every stage of the pipeline imports this module, and would wait a second for these
    from avcil.params.project import root
    from avcil.workshop.smoke import FROM_INPUTS, build

    ignore_settings()
    # progress bars tell of seconds, which differ each time
    os.environ["TQDM_DISABLE"] = "1"
    notebooks = [Path(name) for name in sys.argv[1:]]
    # all of them before the first, which may take minutes
    for notebook in notebooks:
        try:
            nbformat.read(notebook, as_version=4)
        except (OSError, ValueError, nbformat.ValidationError) as error:
            reason = getattr(error, "strerror", None) or "it is not Jupyter's JSON"
            sys.exit(f"{notebook}: no notebook ({reason}); name those to run, such as notebooks/*.ipynb")
    # what the building of a small project says would be an output of the first cell that needs one
    if any("build/smoke/" in path.read_text() and path.stem not in FROM_INPUTS for path in notebooks):
        build(root())
    for notebook in notebooks:
        execute(notebook)
        print(notebook)
