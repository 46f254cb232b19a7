"""The workshop: `nox -s tests` is the whole suite; `nox -l` lists the rest.

Environments are made by `venv` and filled by pip, from package indexes alone.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import nox
from nox.project import dependency_groups, load_toml

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "tests", "types"]

ROOT = Path(__file__).parent
PROJECT = load_toml(ROOT / "pyproject.toml")
PACKAGE = "erasekit"
TESTS_PYTHON = ROOT / ".nox" / "tests" / "bin" / "python"

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Two test processes on two cores must not start four threads."""

NEWEST = {"torch", "torchvision"}
"""Too large to keep in two versions: the minimums session takes the newest of these."""


@nox.session
def tests(session: nox.Session) -> None:
    """The whole test suite, on the installed package."""
    session.install(".", *dependency_groups(PROJECT, "test"))
    session.run("pytest", "-n", "2", "--dist", "loadfile", *session.posargs, env=ONE_THREAD)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and format."""
    session.install(*dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types, against the libraries of the tests' environment where there is one."""
    session.install(*dependency_groups(PROJECT, "types"))
    if TESTS_PYTHON.exists():
        session.install("pydantic")
        session.run("mypy", "--python-executable", str(TESTS_PYTHON))
    else:
        session.install(".")
        session.run("mypy")


@nox.session
def minimums(session: nox.Session) -> None:
    """The test suite on the lowest versions that pyproject.toml allows."""
    constraints = Path(session.create_tmp()) / "minimums.txt"
    constraints.write_text("\n".join(_minimums()) + "\n", encoding="utf-8")
    session.log(constraints.read_text(encoding="utf-8"))
    session.install(".", *dependency_groups(PROJECT, "test"), "-c", str(constraints))
    # What an old library warns of in a new Python is not this project's to mend.
    quiet = ["-W", "default", "-p", "no:cacheprovider"]
    session.run("pytest", "-n", "2", "--dist", "loadfile", *quiet, *session.posargs, env=ONE_THREAD)


@nox.session
def eight_bit(session: nox.Session) -> None:
    """Training with 8-bit Adam, which is an extra that the other sessions do without."""
    session.install(".[8bit]", *dependency_groups(PROJECT, "test"))
    session.run("pytest", "tests/training/test_eight_bit.py", *session.posargs, env=ONE_THREAD)


@nox.session
def plugins(session: nox.Session) -> None:
    """Every package in plugins/, alone and then all together, in a clean environment.

    Each brings its methods, with origin and version, and takes them away when it is uninstalled.
    """
    folders = sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))
    session.install(".")
    bare = _origins(session)
    for folder in folders:
        session.install(str(folder))
        alone = _origins(session) - bare
        if {origin.split(":")[0] for origin, _ in alone} != {folder.name}:
            session.error(f"{folder.name} alone brings {sorted(alone)}")
        session.run("python", "-m", "pip", "uninstall", "--quiet", "--yes", folder.name)
        if left := _origins(session) - bare:
            session.error(f"{folder.name} was uninstalled and leaves {sorted(left)}")
    session.install(*map(str, folders), *dependency_groups(PROJECT, "test"))
    together = {origin.split(":")[0] for origin, _ in _origins(session) - bare}
    if together != {folder.name for folder in folders}:
        session.error(f"together they bring {sorted(together)}")
    session.run("erasekit", "methods")
    session.run("erasekit", "plugins")
    for folder in folders:
        session.run("pytest", str(folder), *session.posargs, env=ONE_THREAD)
    run = Path(session.create_tmp()) / "run"
    shutil.rmtree(run, ignore_errors=True)
    session.run(
        *("erasekit", "erase", "--method", "template-closed-form"),
        *("--concept", "garbage truck", "--output", str(run)),
    )
    session.run("erasekit", "trace", str(run))


@nox.session
def results(session: nox.Session) -> None:
    """The suite icons and all that is made of it, into benchmarks/results/icons: hours of a CPU.

    `--store FOLDER` holds the records (runs/bench-icons), `--to FOLDER` the results; what else
    follows `--` goes to `erasekit bench`. What is in the store is not computed again, so a session
    that was interrupted goes on. `--no-venv` takes the erasekit that is installed.
    """
    parser = argparse.ArgumentParser("nox -s results --", allow_abbrev=False)
    parser.add_argument("--store", type=Path, default=ROOT / "runs" / "bench-icons")
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks" / "results" / "icons")
    options, bench = parser.parse_known_args(session.posargs)
    store, to = options.store.resolve(), options.to.resolve()
    if session.virtualenv.venv_backend != "none":
        session.install(".")
    env = {**ONE_THREAD, "MPLBACKEND": "Agg"}
    erasekit = ("python", "-m", "erasekit")
    session.run(*erasekit, "bench", "--suite", "icons", "--output", str(store), *bench, env=env)
    to.mkdir(parents=True, exist_ok=True)
    for form, table, name in (
        ("markdown", "methods", "methods.md"),
        ("csv", "methods", "methods.csv"),
        ("csv", "concepts", "concepts.csv"),
        ("csv", "comparisons", "comparisons.csv"),
    ):
        what = ("--to", form, "--table", table, "--output", str(to / name), "--overwrite")
        session.run(*erasekit, "bench", "export", str(store), *what, env=env)
    shutil.copyfile(store / "pareto.png", to / "pareto.png")
    session.run(*erasekit, "report", str(store), "--output", str(to / "report.html"), env=env)
    session.run("python", "-m", "benchmarks.recompute", str(store), env=env)


@nox.session
def browser(session: nox.Session) -> None:
    """Pages in headless Chromium: Debian's, which is never downloaded from here."""
    session.install(".", *dependency_groups(PROJECT, "browser"))
    session.run("pytest", "tests/reporting/test_page_in_browser.py", "tests/ui", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The site, into site/: strictly, so that a link that leads nowhere is an error.

    The notebook is run first, in a folder of its own.
    """
    session.install(".", *dependency_groups(PROJECT, "docs"))
    notebook = Path(session.create_tmp()) / "first-steps.ipynb"
    shutil.copyfile(ROOT / "docs" / "first-steps.ipynb", notebook)
    session.run("jupyter", "execute", "--inplace", str(notebook), env=ONE_THREAD)
    session.run("mkdocs", "build", "--strict", *session.posargs, env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def readme(session: nox.Session) -> None:
    """Every command of the README, in a clean clone and a fresh environment."""
    clone = Path(session.create_tmp()) / "clone"
    shutil.rmtree(clone, ignore_errors=True)
    session.run("git", "clone", "--quiet", str(ROOT), str(clone), external=True)
    with session.chdir(clone):
        for command in _readme_commands(clone / "README.md"):
            session.log(command)
            session.run("bash", "-euc", command, external=True, silent=False)


def _origins(session: nox.Session) -> set[tuple[str, str]]:
    """Origin and version of every method that is listed, each once."""
    listing = session.run("erasekit", "methods", "--json", silent=True)
    return {(m["plugin"], m["version"]) for m in json.loads(str(listing))["methods"]}


def _minimums() -> list[str]:
    """A pin to its lowest allowed version for every direct dependency but the `NEWEST`."""
    requirements = [*PROJECT["project"]["dependencies"], *dependency_groups(PROJECT, "test")]
    pins = []
    for requirement in requirements:
        name, _, version = requirement.partition(">=")
        if name not in NEWEST:
            pins.append(f"{name}=={version}")
    return pins


def _readme_commands(path: Path) -> list[str]:
    """The commands in the README's `sh` blocks, one a line; a backslash goes on in the next.

    The test suite has a session of its own, so the line that runs it is left out.
    """
    blocks = re.findall(r"^```sh\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.endswith("nox -s tests")]
