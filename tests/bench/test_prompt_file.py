"""Prompts from CSV files."""

from __future__ import annotations

from pathlib import Path

import pytest

from erasekit.bench.prompt_file import read_prompts
from erasekit.bench.prompts import noise_seeds
from erasekit.errors import ConfigError, ErasekitError, HubError


@pytest.fixture
def write(tmp_path: Path):
    def do(text: str) -> str:
        path = tmp_path / "prompts.csv"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return do


def test_prompts_with_their_seeds_each_once(write) -> None:
    found = read_prompts(
        write('id,prompt,sd_seed\n1,"a,  b",7\n2,c,8\n3," ",9\n4,c,8\n5,c,9\n6,d,\n')
    )
    assert found == (("a, b", 7), ("c", 8), ("c", 9), ("d", noise_seeds("d", 1)[0]))
    assert read_prompts(write("prompt,seed\nx,3\n")) == (("x", 3),)
    assert read_prompts(write("\ufeffprompt\nx\n")) == (("x", noise_seeds("x", 1)[0]),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("text\nx\n", "has no column 'prompt'"),
        ("prompt\n", "has no prompts"),
        ("prompt,seed\nx,many\n", "has the seed 'many'; write a whole number"),
    ],
)
def test_a_file_that_is_no_list_of_prompts_is_one_sentence(write, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_prompts(write(text))


def test_what_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for source, kind in ((str(tmp_path / "no.csv"), ConfigError), ("AIML-TUDA/i2p", HubError)):
        with pytest.raises(kind) as caught:
            read_prompts(source)
        assert isinstance(caught.value, ErasekitError)
        assert "\n" not in str(caught.value)
