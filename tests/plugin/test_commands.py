"""Commands of third parties, and the command line beside a plugin that is broken."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from erasekit.cli.app import build_app, main
from erasekit.plugin.registry import Registry

Install = Callable[..., None]

HELLO = """
@hookimpl
def erasekit_register_commands(app):
    @app.command("hello")
    def hello(name: str = "you"):
        print("hello", name)
"""


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def test_a_plugin_adds_a_command(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("acme", HELLO)
    assert run("hello", "--name", "world") == 0
    assert capsys.readouterr().out == "hello world\n"
    assert run("--help") == 0
    assert "hello" in capsys.readouterr().out.partition("─ Of plugins ─")[2]


def test_a_plugin_adds_a_group(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(
        "acme",
        """
import typer

@hookimpl
def erasekit_register_commands(app):
    group = typer.Typer()
    group.command("on")(lambda: print("on"))
    group.command("off")(lambda: print("off"))
    app.add_typer(group, name="switch")
""",
    )
    assert run("switch", "off") == 0
    assert capsys.readouterr().out == "off\n"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("app.command('methods')(lambda: None)", "ValueError: command methods is taken"),
        ("app.command('hello')(lambda: None)", "ValueError: command hello is taken"),
        ("app.command('odd')(odd)", "MultipleTyperAnnotationsError: "),
        ("app.command('half')(lambda: None); raise KeyError", "KeyError"),
    ],
)
def test_a_plugin_whose_commands_can_not_be_added_breaks_nothing(
    install: Install, capsys: pytest.CaptureFixture[str], body: str, error: str
) -> None:
    install("acme", HELLO)
    install(
        "bad",
        f"""
import typer
from typing import Annotated

def odd(x: Annotated[int, typer.Option(), typer.Argument()] = 1):
    pass

@hookimpl
def erasekit_register_commands(app):
    {body}
""",
    )
    assert run("hello") == 0
    captured = capsys.readouterr()
    assert captured.out == "hello you\n"
    assert f"The plugin 'bad:main' is broken and was skipped: {error}" in captured.err
    assert run("half") == 2
    capsys.readouterr()
    assert run("methods", "--json") == 0


LOUD = """
import os
os.system("echo noise")
print("noise")

@hookimpl
def erasekit_register_methods():
    print("noise")
    return iter([])

@hookimpl
def erasekit_register_metrics():
    yield print("noise")

@hookimpl
def erasekit_register_commands(app):
    print("noise")
"""


def test_what_a_plugin_prints_never_stands_among_results(
    install: Install, capfd: pytest.CaptureFixture[str]
) -> None:
    install("acme", LOUD)
    assert run("methods", "--json") == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["methods"]
    assert captured.err.count("noise") == 3
    assert run("plugins", "--json") == 0
    (own,) = (p for p in json.loads(capfd.readouterr().out)["plugins"] if p["module"] == "acme")
    assert own["error"] == "TypeError: erasekit_register_metrics gave None, not a MetricDescriptor"


@pytest.mark.parametrize("body", ["raise SystemExit(0)", "raise KeyboardInterrupt"])
def test_a_hook_that_ends_the_program_is_a_fault_of_its_plugin(
    install: Install, capfd: pytest.CaptureFixture[str], body: str
) -> None:
    install("acme", f"@hookimpl\ndef erasekit_register_methods(): {body}")
    assert run("plugins", "--json") == 0
    listing = json.loads(capfd.readouterr().out)
    (own,) = (p for p in listing["plugins"] if p["module"] == "acme")
    assert body.split()[1].startswith(str(own["error"]).split(":")[0])
    assert run("methods", "--json") == 0
    assert "gumbel" in [m["name"] for m in json.loads(capfd.readouterr().out)["methods"]]


def test_the_words_of_a_broken_plugin_reach_no_terminal_as_they_are(
    install: Install, capfd: pytest.CaptureFixture[str]
) -> None:
    install("bad", "raise RuntimeError('\\x1b]0;owned\\x07 [red]x[/nope] run:fire:1')")
    assert run("plugins") == 0
    captured = capfd.readouterr()
    for text in (captured.out, captured.err):
        assert "\x1b]" not in text
        assert "\x07" not in text
    assert r"\x1b]0;owned\x07 [red]x[/nope] run:fire:1" in captured.err


def test_a_broken_plugin_is_listed_with_its_error(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("bad", "import no_such_module")
    assert run("plugins", "--json") == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing["schema"] == 1
    entry = next(p for p in listing["plugins"] if p["name"] == "bad:main")
    assert entry == {
        "name": "bad:main",
        "distribution": "bad",
        "version": "1.2",
        "module": "bad",
        "error": "ModuleNotFoundError: No module named 'no_such_module'",
    }
    assert run("plugins") == 0
    assert "broken: ModuleNotFoundError" in " ".join(capsys.readouterr().out.split())


def test_collisions_are_listed_and_named_when_asked_for(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
@hookimpl
def erasekit_register_methods():
    return [MethodDescriptor("fold", "", "a:B")]
"""
    install("acme", source)
    install("bolt", source)
    sentence = "The method 'fold' is claimed by 'acme:main' and 'bolt:main'; uninstall one of them."
    assert run("plugins", "--json") == 0
    assert json.loads(capsys.readouterr().out)["collisions"] == [sentence]
    assert run("methods", "show", "fold") == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == f"Error: {sentence}"


def test_applications_share_nothing(install: Install) -> None:
    first = build_app(Registry())
    install("acme", HELLO)
    second = build_app(Registry())
    assert len(second.registered_commands) == len(first.registered_commands) + 1
