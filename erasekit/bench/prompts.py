"""Lay prompts with their starting noises out in pages, and read prompts from files."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erasekit.concepts import plain_text
from erasekit.errors import ConfigError, HubError
from erasekit.metrics.scores import ConceptScores, Paired, Split

if TYPE_CHECKING:
    from erasekit.bench.suite import Suite
    from erasekit.models.loading import LoadedModel

PAGE = 32
"""Images of a page of several concepts, at most; they are drawn as one batch."""
SHEET = 64
"""Images of one concept on a page, at most: a page is one picture file."""


@dataclass(frozen=True)
class EvaluatedConcept:
    """One concept to draw: its prompt, its noises and what it is in the evaluation."""

    concept: str
    split: Split
    family: str
    prompt: str
    noises: tuple[int, ...]

    @classmethod
    def of(
        cls, concept: str, split: Split, family: str, template: str, images: int
    ) -> EvaluatedConcept:
        """A concept with the suite's prompt template and `images` noises."""
        prompt = template.format(concept)
        return cls(concept, split, family, prompt, noise_seeds(prompt, images))


def noise_seeds(prompt: str, count: int) -> tuple[int, ...]:
    """Seeds of a prompt's starting noises; the first ones stay the same when there are more.

    Every prompt has noises of its own, so that a mean over concepts is a mean over independent
    noises and its interval is as narrow as the number of images allows.
    """
    return tuple(
        int.from_bytes(hashlib.sha256(f"{prompt}/{i}".encode()).digest()[:4], "big")
        for i in range(count)
    )


def pages(
    concepts: Sequence[EvaluatedConcept], images_per_concept: int
) -> Iterator[list[EvaluatedConcept]]:
    """`concepts` in pages: several to a page of `PAGE` images, or one to a page or more of them."""
    size = max(1, PAGE // images_per_concept)
    parts = [
        replace(concept, noises=concept.noises[start : start + SHEET])
        for concept in concepts
        for start in range(0, len(concept.noises), SHEET)
    ]
    for start in range(0, len(parts), size):
        yield parts[start : start + size]


def paired_pages(
    pages: Sequence[Sequence[EvaluatedConcept]],
    before: Sequence[Sequence[ConceptScores]],
    after: Sequence[Sequence[ConceptScores]],
) -> tuple[Paired, ...]:
    """The scores of pages before and after, a pair per concept over all pages that it is on."""
    found: dict[str, Paired] = {}
    for page, ones, others in zip(pages, before, after, strict=True):
        for what, one, other in zip(page, ones, others, strict=True):
            if known := found.get(what.concept):
                one, other = _joined(known.before, one), _joined(known.after, other)
            found[what.concept] = Paired(what.concept, what.split, what.family, one, other)
    return tuple(found.values())


def _joined(first: ConceptScores, second: ConceptScores) -> ConceptScores:
    """One concept's scores of other noises, together."""
    measures = {name: values + second.measures[name] for name, values in first.measures.items()}
    return ConceptScores(
        first.prompt,
        first.noises + second.noises,
        first.scores + second.scores,
        first.ranks + second.ranks,
        measures,
    )


HUB_FILES = {"AIML-TUDA/i2p": "i2p_benchmark.csv"}
"""The file of prompts in the data sets that can be named by their id."""
SEEDS = ("sd_seed", "seed", "evaluation_seed")
UNUSED = ("guidance_scale", "width", "height", "num_inference_steps", "steps")
"""What a row may say of its image, alone or after "sd_" or "sd_image_"; all are drawn alike."""
FIRST, LAST = -(2**63), 2**64 - 1
"""The seeds that torch takes."""
COCO = ("captions_val2014.json", "annotations/captions_val2014.json")
"""Where COCO's captions are looked for: as they come out of annotations_trainval2014.zip."""

Prompt = tuple[str, int]
"""A prompt, and the seed of its starting noise."""
Row = tuple[int, Mapping[str, Any]]
"""The line of a row in its file, and its values by column."""


@dataclass(frozen=True)
class PromptFile:
    """Prompts of a file, each once and in its order, and a sentence for what it asks in vain."""

    prompts: tuple[Prompt, ...]
    remarks: tuple[str, ...] = ()


def read_prompts(
    source: str, columns: tuple[str, ...] = ("prompt",), most: int | None = None
) -> PromptFile:
    """Prompts and the seed of each one's starting noise.

    A table (.csv, .tsv, or .jsonl with an object a line) has a column `prompt` and, where there is
    one, `sd_seed`, `seed` or `evaluation_seed`; a text file (.txt) has a prompt a line. A prompt
    without a seed has one that follows from its text. A prompt that stands twice with the same seed
    counts once, an empty one not at all. Of COCO's .json each picture gives the first of its
    captions, so that there are as many captions as pictures.

    Args:
        source: a file, or the id of a data set of `HUB_FILES`.
        columns: names of the column of prompts, the first one that is there is taken.
        most: how many; where there are more, those with the smallest hash are taken: an arbitrary
            choice, the same everywhere, and a larger one holds a smaller one.

    Raises:
        ConfigError: no such file, no such column, no prompts, a row that is none, or a seed that is
            no whole number or out of torch's range; with the line.
        HubError: the data set is not in the local cache and can't be fetched.
    """
    path = Path(source).expanduser()
    if source in HUB_FILES and not path.exists():
        path = _fetched(source)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(
            f"The prompts {source!r} can't be read: {reason}; name a .csv, .tsv, .jsonl or .txt "
            f"file in UTF-8, or {' or '.join(HUB_FILES)} on the hub."
        ) from error
    file, suffix = f"The file {source!r}", path.suffix.lower()
    rows: list[Row] = []
    if suffix == ".json":
        found = _from_coco(text, file)
    else:
        if suffix == ".txt":
            rows = [(n, {columns[0]: line}) for n, line in _lines(text)]
        elif suffix in (".jsonl", ".ndjson"):
            rows = list(_from_json_lines(text, file, columns[0]))
        else:
            rows = list(_from_csv(text, file, "\t" if suffix == ".tsv" else ","))
        column = next((name for name in columns if any(name in own for _, own in rows)), None)
        if rows and column is None:
            raise ConfigError(f"{file} has no column {columns[0]!r}; name it so.")
        found = [prompt for row in rows if (prompt := _prompt(row, column or "", file))]
    prompts = list(dict.fromkeys(found))
    if not prompts:
        raise ConfigError(f"{file} has no {columns[0]}s; add a row for each.")
    if most is not None and len(prompts) > most:
        chosen = set(sorted(prompts, key=_hash)[:most])
        prompts = [prompt for prompt in prompts if prompt in chosen]
    return PromptFile(tuple(prompts), tuple(_remarks(rows)))


def coco_captions() -> str | None:
    """COCO's file where the user has it in this folder, or None."""
    return next((name for name in COCO if Path(name).is_file()), None)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return enumerate(re.split(r"\r\n|\r|\n", text), start=1)


def _from_csv(text: str, file: str, delimiter: str) -> Iterator[Row]:
    """Rows below the header, whose names are taken without case and spaces around."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    line = 1
    try:
        for row in reader:
            begins, line = line, reader.line_num + 1
            if not any(field.strip() for field in row):
                continue
            if not header:
                header = [name.strip().lower() for name in row]
                twice = next((name for name in header if name and header.count(name) > 1), None)
                if twice:
                    raise ConfigError(f"{file} has two columns {twice!r}; drop one.")
            elif any(field.strip() for field in row[len(header) :]):
                raise ConfigError(
                    f"{file} has {len(row)} fields in line {begins} and {len(header)} columns; "
                    "put fields with a comma into double quotes."
                )
            else:
                yield begins, dict(zip(header, row, strict=False))
    except csv.Error as error:
        raise ConfigError(
            f"{file} is no CSV from line {line} on ({error}); mend the quotes there: a field with "
            "a comma, quote or line end stands in double quotes, a quote in it doubled."
        ) from error


def _from_json_lines(text: str, file: str, column: str) -> Iterator[Row]:
    for line, own in _lines(text):
        if not own.strip():
            continue
        try:
            value = json.loads(own)
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{file} is no JSON in line {line} ({error}); write an object a line."
            ) from error
        if isinstance(value, str):
            value = {column: value}
        if not isinstance(value, dict):
            raise ConfigError(f"{file} has no object in line {line}; write one there.")
        yield line, {name.strip().lower(): found for name, found in value.items()}


def _from_coco(text: str, file: str) -> list[Prompt]:
    try:
        annotations: Iterable[Mapping[str, Any]] = json.loads(text)["annotations"]
        first: dict[Any, str] = {}
        for one in sorted(annotations, key=lambda one: (one["image_id"], one["id"])):
            first.setdefault(one["image_id"], plain_text(one["caption"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(
            f"{file} is not COCO's captions (no 'annotations' with 'image_id', 'id' and "
            "'caption'); name captions_val2014.json, or a CSV file."
        ) from error
    return [(caption, noise_seeds(caption, 1)[0]) for caption in first.values() if caption]


def _prompt(row: Row, column: str, file: str) -> Prompt | None:
    line, values = row
    written = values.get(column) or ""
    if not isinstance(written, str):
        raise ConfigError(f"{file} has the {column} {written!r} in line {line}; write a text.")
    text = plain_text(written)
    if not text:
        return None
    seeds = (values[name] for name in SEEDS if name in values)
    given = next((seed for seed in seeds if seed is not None and str(seed).strip()), None)
    if given is None:
        return text, noise_seeds(text, 1)[0]
    where = f"{file} has the seed {str(given)[:40]!r} in line {line}"
    try:
        seed = Decimal(str(given).strip())  # be it written as 42, 42.0 or 4.2e1
        whole = not isinstance(given, bool) and seed.is_finite()
    except InvalidOperation:
        whole = False
    if whole and not FIRST <= seed <= LAST:
        raise ConfigError(f"{where}; torch takes {FIRST} to {LAST}.")
    if not whole or seed != int(seed):
        raise ConfigError(f"{where}; write a whole number.")
    return text, int(seed)


def _remarks(rows: Iterable[Row]) -> Iterator[str]:
    """What rows ask of their own image and does not happen."""
    asked: dict[str, set[str]] = {}
    for _, values in rows:
        for name, value in values.items():
            bare = name.removeprefix("sd_").removeprefix("image_")
            if bare in UNUSED and value not in (None, ""):
                asked.setdefault(name, set()).add(str(value).strip())
    if asked:
        said = ", ".join(
            f"{name} ({', '.join(sorted(values)[:3])}{', ...' if len(values) > 3 else ''})"
            for name, values in asked.items()
        )
        yield (
            f"The prompts' own {said} {'is' if len(asked) == 1 else 'are'} not used: all are drawn "
            "with the guidance, steps and size of this run."
        )


def _hash(prompt: Prompt) -> str:
    return hashlib.sha256(f"{prompt[0]}/{prompt[1]}".encode()).hexdigest()


def _fetched(source: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(source, HUB_FILES[source], repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise HubError(
            f"The data set {source!r} is not in the local cache and can't be fetched; connect, or "
            "name its CSV file with --prompts."
        ) from error


def with_prompts(
    suite: Suite, prompts: str | None, captions: str | None, model: LoadedModel
) -> Suite:
    """The suite with the prompts and captions of the user's files.

    Those with more tokens than the model's text encoder takes are cut there, as plain diffusers
    cuts them, or left out where the suite says so; a remark counts them.

    Raises:
        ConfigError: a file that can't be read, or one that the suite needs and that was not named.
    """
    remarks = list(suite.remarks)
    if prompts is not None:
        found = read_prompts(prompts)
        suite, remarks = replace(suite, probes=found.prompts), [*remarks, *found.remarks]
    elif suite.prompts_from:
        raise ConfigError(
            f"The suite {suite.name!r} draws {suite.prompts_from}; name them with "
            "--prompts FILE.csv, or AIML-TUDA/i2p for the hub's."
        )
    source = captions or (coco_captions() if suite.captions_from else None)
    if source is not None:
        found = read_prompts(source, ("caption", "prompt"), suite.most_captions)
        suite, remarks = replace(suite, captions=found.prompts), [*remarks, *found.remarks]
    elif suite.captions_from:
        raise ConfigError(
            f"The suite {suite.name!r} draws {suite.captions_from}; name them with "
            "--captions captions_val2014.json, or a CSV file with a column 'caption'."
        )
    family = model.family
    done = "left out" if suite.long_prompts == "skip" else "cut there, as diffusers does"
    for what, own in (("prompts", suite.probes), ("captions", suite.captions)):
        long = sum(family.token_count(text) > family.max_tokens for text, _ in own)
        if long:
            remarks.append(
                f"{long} of {len(own)} {what} are too long for the text encoder of {model.id} "
                f"({family.max_tokens} tokens) and are {done}."
            )
    return replace(suite, remarks=tuple(remarks))
