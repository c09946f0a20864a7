"""The fast tests on every Python that is here: ``make matrix``, or ``nox -s tests-3.12`` for one.

Each gets an environment of its own, of several GB, in ``.nox``; one that is not installed is left out with a line.
"""

import nox

nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "venv"


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """Installs everything and runs what is not slow; arguments after ``--`` go to pytest."""
    session.install("--quiet", "--editable", ".[all]")
    session.run(
        "pytest",
        "-n",
        "auto",
        "--maxprocesses",
        "8",
        "--dist",
        "loadfile",
        "-m",
        "not slow",
        *session.posargs,
        env={"OMP_NUM_THREADS": "1"},
    )
