"""Suites from TOML: what a file gives, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import pytest

from erasekit.bench.suite_file import load_suite, read_suite
from erasekit.concepts import Erasure
from erasekit.errors import ConfigError
from erasekit.plugin.descriptors import ModelDescriptor

PLAIN = ModelDescriptor("plain", "", "")
FILE = """
name = "mine"
version = "3"
prompt = "a photo of {}"
images_per_concept = 5
methods = ["none", "gumbel"]
scorer = "open_clip"

[[cases]]
erase = ["church", "castle"]
keep = ["bus"]

[[cases]]
erase = ["bus"]

[[concepts]]
name = "church"
family = "buildings"
aliases = ["chapel"]

[[concepts]]
name = "castle"
family = "buildings"
split = "pool"

[[concepts]]
name = "bus"
"""


@pytest.fixture
def write(tmp_path: Path):
    def do(text: str) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return do


def test_a_file_is_a_suite(write, registry) -> None:
    suite = read_suite(write(FILE), PLAIN, registry)
    assert (suite.name, suite.version, suite.scorer) == ("mine", "3", "open_clip")
    assert suite.cases == ("church+castle", "bus")
    assert suite.kept == {"church+castle": ("bus",)}
    assert suite.methods == ("none", "gumbel")
    assert suite.protocol == "full"
    (erased, more), (kept,) = (
        [p[0] for p in suite.evaluate(Erasure.of("church", "castle"))[:2]],
        [p[0] for p in suite.evaluate(Erasure.of("church", "castle"))[2:]],
    )
    assert (erased.split, more.split, kept.split) == ("erased", "erased", "held-out")
    assert kept.prompt == "a photo of bus"
    assert len(kept.noises) == 5
    assert suite.classes()[0] == ("church", "chapel")


def test_without_concepts_it_draws_those_of_the_model(write, registry) -> None:
    path = write('name = "mine"\nversion = "1"\ncases = [{erase = ["church"]}]')
    assert len(read_suite(path, registry.model("icons"), registry).concepts) == 209
    with pytest.raises(ConfigError, match=r"has no \[\[concepts\]\], and the model 'plain'"):
        read_suite(path, PLAIN, registry)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version", "versoin", "has no 'version'; add it"),
        ("scorer =", "scorrer =", "unknown key 'scorrer'; did you mean 'scorer'? Known: along,"),
        ("keep =", "keeps =", "unknown key 'keeps' in cases[0]; did you mean 'keep'?"),
        ('split = "pool"', 'splitt = "pool"', "'splitt' in concepts[1]; did you mean 'split'?"),
        ('"pool"', '"train"', "has split='train' in concepts[1], which is not valid"),
        ("= 5", "= 0", "has images_per_concept=0, which is not valid"),
        ("= 5", '= "5"', "has images_per_concept='5', which is not valid"),
        ("a photo of {}", "a photo", "write it with one {}"),
        ("a photo of {}", "a {} of {name}", "write it with one {}"),
        ('["bus"]\n\n', '["buss"]\n\n', "names 'buss' under 'keep', which is none of its concepts; "
         "did you mean 'bus'?"),
        ('keep = ["bus"]', 'keep = ["church"]', "is both erased and kept"),
        ('["church", "castle"]', '["church", "church"]', "is to be erased twice"),
        ('["church", "castle"]', "[]", "has erase=[] in cases[0]"),
        ('name = "castle"', 'name = "Church"', "has the concept 'church' twice"),
        ("[[cases]]", "[[cases", "is not valid TOML"),
        ("a photo of {}", "a photo of {}}", "has prompt='a photo of {}}', which is not valid: "
         "write it with one {}"),
        ('erase = ["bus"]', 'erase = ["Castle", "church"]', "has erase=['Castle', 'church'] in "
         "cases[1], which cases[0] erases already; leave one of the two out"),
        ('erase = ["bus"]', 'erase = ["church", "castle"]', "which cases[0] erases already"),
        ('"gumbel"]', '"gumble"]', "names 'gumble' under 'methods', which is no registered "
         "method; did you mean 'gumbel'?"),
        ('"gumbel"]', '"zzz"]', "no registered method; known: "),
        ('"gumbel"]', '"none"]', "names 'none' twice under 'methods'; name it once"),
        ('["none", "gumbel"]', "[]", "has methods=[], which is not valid"),
        ('"open_clip"', '"open_clpi"', "names 'open_clpi' under 'scorer', which is no registered "
         "scorer; did you mean 'open_clip'?"),
        ("scorer =", "classifier = 'resnet5'\nscorer =", "'resnet5' under 'classifier', which is"),
        ("scorer =", "measures = ['nudnet']\nscorer =", "'nudnet' under 'measures', which is no "
         "registered scorer; did you mean 'nudenet'?"),
        ("scorer =", "optional_measures = ['fdi']\nscorer =", "'fdi' under 'optional_measures'"),
        ("scorer =", "metrics = ['esr-2']\nscorer =", "names 'esr-2' under 'metrics', which is no "
         "registered metric; did you mean"),
        ("scorer =", "along = [0.5, 1.0]\nscorer =", "has along[1]=1.0, which is not valid: "
         "Input should be less than 1"),
        ("scorer =", "full = {seeds = 0}\nscorer =", "has seeds=0 in full, which is not valid"),
        ("scorer =", "full = {seed = 1}\nscorer =", "unknown key 'seed' in full; did you mean"),
        ("scorer =", "full = {spread = ['buss']}\nscorer =", "names 'buss' under 'full.spread'"),
        ("scorer =", "full = {methods = ['l3']}\nscorer =", "names 'l3' under 'full.methods'"),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence_that_says_where(
    write, registry, old: str, new: str, words: str
) -> None:
    assert old in FILE
    with pytest.raises(ConfigError) as caught:
        read_suite(write(FILE.replace(old, new, 1)), PLAIN, registry)
    assert words in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_scorer_of_open_clip_is_named_by_model_and_tag(write, registry) -> None:
    path = write(FILE.replace('"open_clip"', '"ViT-B-32/openai"'))
    assert read_suite(path, PLAIN, registry).scorer == "ViT-B-32/openai"


def test_the_full_protocol_is_a_table_of_its_own(write, registry) -> None:
    more = "along = [0.5]\noptional_measures = ['fid']\n"
    more += "full = {images_per_concept = 50, seeds = 5, along = [0.25, 0.75]}\nscorer ="
    path = str(write(FILE.replace("scorer =", more)))
    short = load_suite(path, registry, PLAIN)
    assert (short.protocol, short.images_per_concept, short.seeds) == ("short", 5, 2)
    assert (short.along, short.optional_measures) == ((0.5,), ("fid",))
    full = load_suite(path, registry, PLAIN, full=True)
    assert (full.protocol, full.images_per_concept, full.seeds) == ("full", 50, 5)
    assert (full.along, full.images_per_erased) == ((0.25, 0.75), short.images_per_erased)


def test_a_file_does_not_take_the_name_of_a_registered_suite(write, registry, tmp_path) -> None:
    with pytest.raises(ConfigError, match="another name"):
        load_suite(str(write(FILE.replace('"mine"', '"icons"'))), registry, PLAIN)
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        load_suite(str(tmp_path / "nowhere.toml"), registry, PLAIN)


def test_the_example_in_the_documentation_is_a_suite(write, registry) -> None:
    page = Path(__file__).parents[2] / "docs" / "suites.md"
    if not page.is_file():
        pytest.skip("the documentation is not beside the tests")
    example = page.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    suite = read_suite(write(example), registry.model("icons"), registry)
    assert suite.cases
    assert suite.kept
