"""Prompts from files, as their author meant them, or one sentence with the line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from erasekit.bench.prompts import FIRST, LAST, noise_seeds, read_prompts, with_prompts
from erasekit.errors import ConfigError, ErasekitError, HubError


@pytest.fixture
def write(tmp_path: Path):
    def do(text: str | bytes, name: str = "prompts.csv") -> str:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return do


def own(text: str) -> tuple[str, int]:
    return text, noise_seeds(text, 1)[0]


def test_prompts_with_their_seeds_each_once(write) -> None:
    found = read_prompts(
        write('id,prompt,sd_seed\n1,"a,  b",7\n2,c,8\n3," ",9\n4,c,8\n5,c,9\n6,d,\n')
    )
    assert found.prompts == (("a, b", 7), ("c", 8), ("c", 9), own("d"))
    assert found.remarks == ()
    assert read_prompts(write("prompt,seed\nx,3\n")).prompts == (("x", 3),)


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("\ufeffprompt\nx\n", "a.csv", [own("x")]),
        ("prompt\r\nx\r\ny\r\n", "a.csv", [own("x"), own("y")]),
        ("prompt\rx\ry", "a.csv", [own("x"), own("y")]),
        (" Prompt , seed\nx,3\n", "a.csv", [("x", 3)]),
        ("prompt\tseed\na, b\t3\n", "a.tsv", [("a, b", 3)]),
        ('prompt,seed\n"a ""b"", c",3\n', "a.csv", [('a "b", c', 3)]),
        ("prompt,seed,\nx,3,\n\n", "a.csv", [("x", 3)]),
        ("a church, at night\n\nbus\r\n", "a.txt", [own("a church, at night"), own("bus")]),
        ("a\u2028b\x0bc\n", "a.txt", [own("a b c")]),
        ('{"prompt": "x", "seed": 3}\n\n"y"\n', "a.jsonl", [("x", 3), own("y")]),
        ('{"prompt": "x", "seed": 42.0}\n', "a.jsonl", [("x", 42)]),
        ("prompt\ncafe\u0301\ncaf\u00e9\n", "a.csv", [own("caf\u00e9")]),
        ("prompt\na\x1b[2Jbus\u200b\n", "a.csv", [own("a [2Jbus")]),
        ("prompt,seed\nx,42.0\ny,4.2e1\nz, 42 \n", "a.csv", [("x", 42), ("y", 42), ("z", 42)]),
        (f"prompt,seed\nx,{LAST}\ny,{FIRST}\n", "a.csv", [("x", LAST), ("y", FIRST)]),
    ],
)
def test_every_form_is_read(write, text: str, name: str, expected: list) -> None:
    assert list(read_prompts(write(text, name)).prompts) == expected


def test_the_seeds_that_are_read_are_those_that_torch_takes() -> None:
    for seed in (FIRST, LAST):
        torch.Generator("cpu").manual_seed(seed)
    for seed in (FIRST - 1, LAST + 1):
        with pytest.raises((RuntimeError, ValueError, OverflowError)):
            torch.Generator("cpu").manual_seed(seed)


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("text\nx\n", "a.csv", "has no column 'prompt'"),
        ("prompt;seed\nx;3\n", "a.csv", "has no column 'prompt'"),
        ("prompt,prompt\nx,y\n", "a.csv", "two columns 'prompt'"),
        ("prompt\n", "a.csv", "has no prompts"),
        ("", "a.csv", "has no prompts"),
        ("prompt,seed\nx,many\n", "a.csv", "the seed 'many' in line 2; write a whole number"),
        ("prompt,seed\nx,1\ny,4.5\n", "a.csv", "the seed '4.5' in line 3"),
        ("prompt,seed\nx,nan\n", "a.csv", "the seed 'nan' in line 2"),
        ("prompt,seed\nx,1e999999999\n", "a.csv", "torch takes"),
        (f"prompt,seed\nx,{LAST + 1}\n", "a.csv", "in line 2; torch takes"),
        (f"prompt,seed\nx,{'9' * 5000}\n", "a.csv", "in line 2; torch takes"),
        ("seed,prompt\n12,a church, at night\n", "a.csv", "3 fields in line 2 and 2 columns"),
        ('prompt,seed\nx,1\n"a church,2\ny,3\n', "a.csv", "no CSV from line 3 on"),
        ('prompt\nx\n"a" church\n', "a.csv", "no CSV from line 3 on"),
        ('{"prompt": "x"}\n{"prompt": \n', "a.jsonl", "no JSON in line 2"),
        ('{"prompt": "x"}\n[1]\n', "a.jsonl", "no object in line 2"),
        ('{"prompt": 3}\n', "a.jsonl", "the prompt 3 in line 1"),
        ('{"prompt": "x", "seed": true}\n', "a.jsonl", "the seed 'True'"),
        ("[" * 100_000 + "\n", "a.jsonl", "no JSON in line 1"),
        (b"prompt\nca\xff\n", "a.csv", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_list_of_prompts_is_one_sentence(write, text, name, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        read_prompts(write(text, name))
    assert "\n" not in str(caught.value)


def test_what_rows_ask_of_their_images_is_said_not_to_happen(write) -> None:
    found = read_prompts(
        write("prompt,sd_guidance_scale,sd_image_width,sd_model\nx,7,512,a\ny,12,512,a\n")
    )
    (remark,) = found.remarks
    assert "sd_guidance_scale (12, 7), sd_image_width (512) are not used" in remark


def test_long_prompts_are_cut_and_counted_or_skipped(write, world_model, suite) -> None:
    source = write(f"prompt,seed\n{'church ' * 99},1\nbus,2\n")
    cut = with_prompts(suite, source, None, world_model)
    assert "1 of 2 prompts are too long" in cut.remarks[0]
    assert "are cut there, as diffusers does" in cut.remarks[0]
    assert len(cut.fitting(world_model.family.check_prompt).probes) == 2
    skip = with_prompts(replace(suite, long_prompts="skip"), source, None, world_model)
    assert "are left out" in skip.remarks[0]
    assert skip.fitting(world_model.family.check_prompt).probes == (("bus", 2),)


def test_what_is_not_there_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    sources = [(str(tmp_path / name), ConfigError) for name in ("no.csv", "no.txt", ".", "a\0b")]
    for source, kind in (*sources, ("AIML-TUDA/i2p", HubError)):
        with pytest.raises(kind) as caught:
            read_prompts(source)
        assert isinstance(caught.value, ErasekitError)
        assert "\n" not in str(caught.value)
