"""`papermill --engine plain`: papermill's own engine, then normalised.

Repeating a stage repeats its executed notebook byte for byte and leaves dvc.lock as it was: `git status` is the check
that the results were reproduced.
"""

from papermill.engines import NBClientEngine

from avcil.workshop.nbtools import normalise


class PlainEngine(NBClientEngine):
    """The engine behind `papermill --engine plain`."""

    @classmethod
    def execute_notebook(cls, nb, kernel_name, **kwargs):
        nb = super().execute_notebook(nb, kernel_name, **kwargs)
        # a failed run keeps papermill's marks: it needs them to report the failing cell
        return nb if nb.metadata.papermill.get("exception") else normalise(nb)
