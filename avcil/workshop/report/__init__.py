"""The report, `python -m avcil.workshop.report`: notebooks, figures and tables as one site that is read offline.

paper.md     what the first page says; every number in it is read from params.yaml or metrics/
page.html    the frame of every page, style.css its looks
markup       Markdown and LaTeX to HTML and MathML, so that no script of equations is fetched
lock         which stage made a file, from what: dvc.lock
notebooks    a page for each executed notebook
reference    the API reference, from docstrings
"""
