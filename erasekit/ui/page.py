"""The page: choose a concept and a method, erase, compare before and after, export."""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd

from erasekit.attacks.run import attack
from erasekit.bench.measure import measure
from erasekit.bench.records import Measured, MeasuredConcept
from erasekit.concepts import slug
from erasekit.diffusion.sampling import generate
from erasekit.edits import Edit
from erasekit.errors import ErasekitError
from erasekit.exports.formats import FORMATS, ExportOptions, export
from erasekit.models.loading import LoadedModel
from erasekit.reporting.attack_table import attack_sheet, attack_table
from erasekit.reporting.run_table import measures_tables
from erasekit.training.erase import erase
from erasekit.training.trainer import Callback

ONE_AT_A_TIME: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
"""All that touches the model waits in one queue, whichever tab asked for it."""
CONTROLS = ("random", "seed-search")
SHOWN_EVERY = 5
"""Steps between two updates of the curve."""


@dataclass(frozen=True)
class Result:
    """What one tab has made: an edit, and what it does."""

    edit: Edit
    measured: Measured


class _LeftError(Exception):
    """The tab was closed, or Stop was pressed."""


class _Listener(Callback):
    """Hands what a run says to the tab, and stops the run when nobody listens."""

    def __init__(self) -> None:
        self.said: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.left = threading.Event()

    def on_status(self, text: str) -> None:
        self._say("status", text)

    def on_start(self, step: int, total_steps: int) -> None:
        self._say("total", total_steps)

    def on_step(self, record: dict[str, Any]) -> None:
        self._say("step", record)

    def _say(self, what: str, value: Any) -> None:
        if self.left.is_set():
            raise _LeftError
        self.said.put((what, value))


class Page:
    """The page for one model.

    Args:
        model: what is erased from; it is left as it was.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.folder = Path(tempfile.mkdtemp(prefix="erasekit-ui-"))
        """Exports for downloading; it goes with the page."""
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self.blocks = self._build()

    def serve(self, host: str, port: int) -> str:
        """Listen, and return the address. Nothing is fetched from, or shared with, elsewhere.

        Raises:
            OSError: the port is taken.
        """
        self.blocks.queue(default_concurrency_limit=1)
        _, url, _ = self.blocks.launch(
            server_name=host,
            server_port=port or None,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            allowed_paths=[str(self.folder)],
            footer_links=[],
            theme=gr.themes.Default(font=["system-ui"], font_mono=["monospace"]),
        )
        return str(url)

    def wait(self) -> None:
        """Serve until Ctrl-C."""
        try:
            self.blocks.block_thread()
        finally:
            self.blocks.close()

    def _build(self) -> gr.Blocks:
        names = [concept.name for concept in self.model.concepts]
        methods = list(self.model.registry.methods())
        attacks = [a.name for a in self.model.registry.attacks().values() if a.name not in CONTROLS]
        attacks = [
            name for name in attacks if "prompts" not in self.model.registry.attack(name).needs
        ]
        forms = [name for name, form in FORMATS.items() if form.file_stem]
        with gr.Blocks(title="erasekit", analytics_enabled=False) as blocks:
            gr.Markdown(
                f"# erasekit\nErase a concept from `{self.model.id}`, and see what it costs."
            )
            result = gr.State(None)
            with gr.Row():
                concept = gr.Dropdown(names, label="Concept", allow_custom_value=True)
                method = gr.Dropdown(methods, value="gumbel", label="Method")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            with gr.Row():
                start = gr.Button("Erase", variant="primary")
                stop = gr.Button("Stop")
            status = gr.Markdown("")
            loss = gr.LinePlot(x="step", y="loss", color="term", title="Loss", height=220)
            with gr.Row():
                slider = gr.ImageSlider(label="Before and after, at the same noise", format="png")
                table = gr.Markdown("")
            wall = gr.Gallery(
                label="Side effects, most harmed first: before beside after",
                columns=2,
                height="auto",
                object_fit="contain",
            )
            with gr.Row():
                prompt = gr.Textbox(label="Prompt", placeholder="a church")
                noise = gr.Number(0, label="Noise", precision=0, minimum=0)
                draw = gr.Button("Draw before and after")
            with gr.Row():
                attack = gr.Dropdown(attacks, value="unlearndiffatk", label="Attack")
                fight = gr.Button("Attack it")
            attacked = gr.Markdown("")
            proof = gr.Image(label="What attacks drew", visible=False, interactive=False)
            with gr.Row():
                form = gr.Dropdown(forms, value=forms[0], label="Form")
                save = gr.Button("Export")
                file = gr.File(label="Exported", interactive=False)
            run = start.click(
                self.erase,
                [concept, method, seed],
                [status, loss, slider, table, wall, result],
                **ONE_AT_A_TIME,
            )
            stop.click(None, cancels=[run])
            draw.click(self.draw, [result, prompt, noise], [slider, status], **ONE_AT_A_TIME)
            fight.click(self.attack, [result, attack], [attacked, proof], **ONE_AT_A_TIME)
            save.click(self.export, [result, form], [file, status], **ONE_AT_A_TIME)
        return blocks

    def erase(self, concept: str, method: str, seed: float) -> Iterator[tuple[Any, ...]]:
        """Erase and measure; yields what the page shows, as it comes."""
        same = gr.skip()
        if not (concept or "").strip():
            yield "Choose a concept first.", same, same, same, same, same
            return
        listener, found = _Listener(), queue.Queue[Result | Exception]()
        worker = threading.Thread(
            target=self._work,
            args=(concept.strip(), method, int(seed), listener, found),
            daemon=True,
        )
        worker.start()
        try:
            rows: list[dict[str, Any]] = []
            total = 0
            while worker.is_alive() or not listener.said.empty():
                try:
                    what, value = listener.said.get(timeout=0.5)
                except queue.Empty:
                    continue
                if what == "total":
                    total = value
                elif what == "status":
                    yield value, same, same, same, same, same
                else:
                    rows += _losses(value)
                    if value["step"] % SHOWN_EVERY == 0:
                        shown = pd.DataFrame(rows) if rows else same
                        yield _progress(value, total), shown, same, same, same, same
            outcome = found.get()
        finally:
            listener.left.set()
            worker.join()
        if isinstance(outcome, Exception):
            yield str(outcome), same, same, same, same, same
            return
        erased = outcome.measured.erased[0]
        yield (
            _summary(outcome),
            pd.DataFrame(rows) if rows else same,
            (erased.images_before[0], erased.images_after[0]),
            "\n\n".join(t.markdown() for t in measures_tables(outcome.measured.as_dict())),
            [_pair(kept) for kept in _most_harmed_first(outcome.measured)],
            outcome,
        )

    def _work(
        self,
        concept: str,
        method: str,
        seed: int,
        listener: _Listener,
        found: queue.Queue[Result | Exception],
    ) -> None:
        try:
            edit = erase(self.model, concept, method, seed=seed, callbacks=[listener])
            listener.on_status("Drawing before and after")
            found.put(Result(edit, measure(self.model, edit)))
        except Exception as error:  # told in the tab, whichever it is
            found.put(error)

    def draw(self, result: Result | None, prompt: str, noise: float) -> tuple[Any, str]:
        """A prompt of the user's before and after, from one starting noise."""
        if result is None:
            return gr.skip(), "Erase something first."
        try:
            before = generate(self.model, [prompt], [int(noise)])[0]
            with result.edit.applied(self.model):
                after = generate(self.model, [prompt], [int(noise)])[0]
        except ErasekitError as error:
            return gr.skip(), str(error)
        return (before, after), f"{prompt!r} from noise {int(noise)}."

    def attack(self, result: Result | None, name: str) -> Iterator[tuple[str, Any]]:
        """Try to draw the erased concept again, with the controls beside."""
        if result is None:
            yield "Erase something first.", gr.skip()
            return
        yield f"Attacking by {name} ...", gr.skip()
        try:
            found = attack(self.model, result.edit, [*CONTROLS, name])
        except ErasekitError as error:
            yield str(error), gr.skip()
            return
        table = attack_table([one.result for one in found])
        yield table.markdown(), gr.Image(attack_sheet(found), visible=True)

    def export(self, result: Result | None, form: str) -> tuple[str | None, str]:
        """Write the edit as one file for downloading."""
        if result is None:
            return None, "Erase something first."
        name = f"{slug(result.edit.info['concepts'][0])}-{form}.safetensors"
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        try:
            written = export(result.edit, self.model, form, folder / name, ExportOptions())
        except ErasekitError as error:
            return None, str(error)
        return str(written.path), " ".join([written.load_with, *written.notes])


def _losses(record: dict[str, Any]) -> list[dict[str, Any]]:
    terms = {"erase": record.get("erase_loss"), "keep": record.get("preserve_loss")}
    return [
        {"step": record["step"], "loss": value, "term": term}
        for term, value in terms.items()
        if value is not None
    ]


def _progress(record: dict[str, Any], total: int) -> str:
    kept = ", ".join(row["concept"] or row["nearest"] or "" for row in record["adversary"] or ())
    return f"Step {record['step'] + 1} of {total}" + (f", keeping {kept}" if kept else "")


def _summary(result: Result) -> str:
    measured, seconds = result.measured, result.edit.info["seconds"]["total"]
    gone = 100 * measured.esr1.value
    return (
        f"Done in {seconds:.0f} s. {gone:.0f} % of the pictures no longer show the concept; the "
        f"others lost {measured.delta.value:.2f} of alignment in the mean. "
        + " ".join(measured.remarks)
    )


def _most_harmed_first(measured: Measured) -> list[MeasuredConcept]:
    return sorted(measured.kept, key=lambda kept: -np.nan_to_num(kept.delta.value))


def _pair(kept: MeasuredConcept) -> tuple[np.ndarray, str]:
    both = np.concatenate([kept.images_before[0], kept.images_after[0]], axis=1)
    low, high = kept.delta.low, kept.delta.high
    return both, f"{kept.paired.concept}: delta {kept.delta.value:+.1f} [{low:.1f}, {high:.1f}]"
