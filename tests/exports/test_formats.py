"""The table of forms: what each takes, and where it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from erasekit.errors import ConfigError, OutputError, UnknownNameError
from erasekit.exports.formats import (
    FORMATS,
    ExportOptions,
    Layout,
    Precision,
    export,
    format_named,
)


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_every_form_has_its_function_and_known_options(form) -> None:
    assert callable(form.load())
    assert form.options <= set(ExportOptions.__dataclass_fields__)
    assert form.help


def test_an_unknown_form_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'diffusers'"):
        format_named("difusers")
    with pytest.raises(UnknownNameError, match="export form 'ckpt'"):
        export(None, None, "ckpt", "x", ExportOptions())  # type: ignore[arg-type]


def test_an_option_that_a_form_would_ignore_is_refused() -> None:
    with pytest.raises(ConfigError, match="--dtype has no meaning for --to weights"):
        format_named("weights").check(ExportOptions(dtype=Precision.FP16))
    with pytest.raises(ConfigError, match="--rank has no meaning for --to diffusers"):
        format_named("diffusers").check(ExportOptions(rank=4))
    format_named("weights").check(ExportOptions(force=True))
    assert format_named("delta") is format_named("weights")  # its former name


@pytest.mark.parametrize("energy", [0, -0.5, 1.01])
def test_energy_is_a_share(energy: float) -> None:
    with pytest.raises(ConfigError, match=f"The energy {energy} is not a share"):
        ExportOptions(energy=energy)


def test_rank_is_at_least_one() -> None:
    with pytest.raises(ConfigError, match="The rank 0 is too small"):
        ExportOptions(rank=0)


def test_a_file_goes_into_a_folder_under_its_usual_name_or_where_it_is_named(
    tmp_path: Path,
) -> None:
    form, options = format_named("delta"), ExportOptions()
    assert form.destination(tmp_path, options, overwrite=False) == tmp_path / "edit.safetensors"
    named = tmp_path / "deep" / "mine.safetensors"
    assert form.destination(named, options, overwrite=False) == named
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_replaced_unasked(tmp_path: Path) -> None:
    form, options = format_named("delta"), ExportOptions()
    (tmp_path / "edit.safetensors").write_text("mine")
    with pytest.raises(OutputError, match="exists; name another file or add --overwrite"):
        form.destination(tmp_path, options, overwrite=False)
    with pytest.raises(OutputError, match="erasekit did not make the file"):
        form.destination(tmp_path, options, overwrite=True)
    assert (tmp_path / "edit.safetensors").read_text() == "mine"
    with pytest.raises(OutputError, match="not empty"):
        format_named("diffusers").destination(tmp_path, options, overwrite=False)
    with pytest.raises(OutputError, match=r"no erasekit.json, so erasekit did not make it"):
        format_named("diffusers").destination(tmp_path, options, overwrite=True)
    (tmp_path / "odd.safetensors").mkdir()
    with pytest.raises(OutputError, match="is a folder; name a file"):
        form.destination(tmp_path / "odd.safetensors", options, overwrite=True)


def test_given_options_are_those_that_differ() -> None:
    assert ExportOptions().given() == set()
    given = ExportOptions(layout=Layout.KOHYA, images=0).given()
    assert given == {"layout", "images"}
