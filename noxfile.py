"""The checks, by name: `nox` runs them all, `nox -s lint` one of them."""

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests", "docs"]


def install(session: nox.Session) -> None:
    """Pellucid and its tools, where nox made an environment; with `--no-venv` the one at hand is used as it is."""
    if session.venv_backend not in (None, "none"):
        session.install("-e", ".[dev]")


@nox.session
def lint(session: nox.Session) -> None:
    """Rules, format, layers, spelling, dependencies."""
    install(session)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")
    session.run("codespell")
    session.run("deptry", "src")


@nox.session
def types(session: nox.Session) -> None:
    """Static types, strict."""
    install(session)
    session.run("mypy", *session.posargs)  # strict by pyproject.toml; the flag would undo the exceptions made there


@nox.session
def tests(session: nox.Session) -> None:
    """The quick tests, with branch coverage."""
    install(session)
    session.run("pytest", "--cov", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """The tests that take more than some seconds."""
    install(session)
    session.run("pytest", "-m", "slow", *session.posargs, success_codes=[0, 5])  # 5: there is none


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, into save/docs, with the notebooks executed on a network trained for them."""
    install(session)
    session.run("python", "docs/execute.py", "save/walkthrough")
    session.run("python", "docs/build.py", "save/docs", "save/walkthrough")


@nox.session
def gallery(session: nox.Session) -> None:
    """The pictures of README and docs; what follows `--` goes to the training, such as `--mirror FOLDER`."""
    install(session)
    if "--only" not in session.posargs:
        session.run("python", "docs/run_pictures.py", *session.posargs)
    session.run("python", "docs/pictures.py", *session.posargs)
