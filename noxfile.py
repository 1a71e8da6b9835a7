"""Checks by name: `nox` runs the default ones, `nox -s lint` just one."""

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "tests", "docs"]


def install(session: nox.Session) -> None:
    """Install pellucid and its tools, unless nox runs with `--no-venv` in an existing environment."""
    if session.venv_backend not in (None, "none"):
        session.install("-e", ".[dev]")


@nox.session
def lint(session: nox.Session) -> None:
    """Check lint rules, formatting, layers, spelling and dependencies."""
    install(session)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")
    session.run("codespell")
    session.run("deptry", "src")


@nox.session
def types(session: nox.Session) -> None:
    """Check static types in strict mode."""
    install(session)
    session.run("mypy", *session.posargs)  # strict is set in pyproject.toml; the flag would undo exceptions there


@nox.session
def tests(session: nox.Session) -> None:
    """Run the quick tests with branch coverage."""
    install(session)
    session.run("pytest", "--cov", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that take more than a few seconds."""
    install(session)
    # 5: no tests collected
    session.run("pytest", "-m", "slow", "--dist", "loadfile", *session.posargs, success_codes=[0, 5])


@nox.session
def integrations(session: nox.Session) -> None:
    """Run the tests with optional libraries: networks, callbacks, trackers and file formats."""
    if session.venv_backend not in (None, "none"):
        session.install("-e", ".[dev,integrations,parquet]")
    session.run("pytest", "-m", "integrations", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site in save/docs, with notebooks executed on a freshly trained network."""
    install(session)
    session.run("python", "docs/execute.py", "save/walkthrough")
    session.run("python", "docs/build.py", "save/docs", "save/walkthrough")


@nox.session
def gallery(session: nox.Session) -> None:
    """Regenerate the pictures of README and docs; arguments after `--` are passed to the training."""
    install(session)
    if "--only" not in session.posargs:
        session.run("python", "docs/run_pictures.py", *session.posargs)
    session.run("python", "docs/pictures.py", *session.posargs)
