"""What an erasure method is, and what it is given.

To write a method, subclass `ErasureMethod` and register it; to change only what is preserved,
subclass `PreservationStrategy` (see `erasekit.methods.gradient`).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from erasekit.concepts import Erasure
from erasekit.config import Settings
from erasekit.diffusion.concept_space import ConceptSpace, concept_space
from erasekit.diffusion.inference_parts import InferenceRecord
from erasekit.diffusion.scope import FrozenWeights, ParameterScope
from erasekit.errors import ConfigError
from erasekit.models.families import FamilyAdapter
from erasekit.models.loading import LoadedModel
from erasekit.plugin.registry import Registry


@dataclass
class ErasureContext:
    """What a method works on.

    Attributes:
        model: the model that is edited; its UNet holds the trained weights theta'.
        erasure: what goes, towards what, what stays.
        registry: everything that is registered.
        seed: of the run; take random numbers from `generator` alone.
        parameters: what the method trains, by name: the UNet's parameters in scope, unless its
            `trained_parameters` says otherwise. Only these may change.
        on_status: tells the user what is being prepared.
        steps: outer steps of the whole run.
        accelerator: of the run, which may be shared by several processes; None: one process.
    """

    model: LoadedModel
    erasure: Erasure
    registry: Registry
    seed: int
    parameters: Mapping[str, nn.Parameter]
    on_status: Callable[[str], None] = field(default=lambda text: None)
    steps: int = 1000
    accelerator: Any = None

    @property
    def family(self) -> FamilyAdapter:
        """The adapter: `predict_noise`, `embed_prompts`."""
        return self.model.family

    @cached_property
    def frozen(self) -> FrozenWeights:
        """The original weights of the scope; `with context.frozen.swapped(): ...` is theta."""
        return FrozenWeights(self.model.unet, self.parameters)

    @cached_property
    def erased_embeds(self) -> Tensor:
        """tau(c_e) of the erased concepts, [E, L, D]."""
        return self.family.embed_prompts([concept.text for concept in self.erasure.erased])

    @cached_property
    def erased_features(self) -> Tensor:
        """Unit vectors of the erased concepts, [E, F], as `ConceptSpace.features`."""
        return self.family.word_features([concept.text for concept in self.erasure.erased])

    @cached_property
    def neutral_embeds(self) -> Tensor:
        """tau(c_n), [1, L, D]; of the empty prompt, what guidance works against."""
        if not self.erasure.neutral:
            return self.family.unconditional_embeds()
        return self.family.embed_prompts([self.erasure.neutral])

    def concept_space(self, source: str = "") -> ConceptSpace:
        """R, without the erased concepts. See `erasekit.diffusion.concept_space`."""
        return concept_space(self.model, self.erasure, source)

    def generator(self, step: int, purpose: str) -> torch.Generator:
        """Random numbers of one step for one purpose; they follow from seed, step and purpose."""
        return step_generator(self.seed, step, purpose)

    def own_rows(self, rows: int) -> slice:
        """Which of a step's rows this process trains; all, where it is alone.

        Every process draws the same rows, since random numbers follow from seed and step.

        Raises:
            ConfigError: the processes can't share them evenly.
        """
        count, index = 1, 0
        if self.accelerator:
            count, index = self.accelerator.num_processes, self.accelerator.process_index
        if rows % count:
            raise ConfigError(
                f"{count} processes can't share the {rows} rows of a step evenly; use a batch_size "
                f"that is a multiple of {count}, or fewer processes."
            )
        return slice(rows // count * index, rows // count * (index + 1))

    def mean(self, tensor: Tensor) -> Tensor:
        """A tensor's mean over all processes, such as of a gradient that a method uses itself."""
        if self.accelerator is None or self.accelerator.num_processes == 1:
            return tensor
        average: Tensor = self.accelerator.reduce(tensor, "mean")
        return average


def step_generator(seed: int, step: int, purpose: str) -> torch.Generator:
    """Random numbers of one step of a run for one purpose; see `ErasureContext.generator`."""
    digest = hashlib.sha256(f"{seed}|{step}|{purpose}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass
class StepOutput:
    """What one training step gives the Trainer.

    Attributes:
        loss: scalar to be minimised by the Trainer.
        record: what the history keeps: `erase_loss`, `preserve_loss`, `timestep`, `adversary`.
    """

    loss: Tensor
    record: dict[str, Any]


@dataclass(frozen=True)
class MemoryUse:
    """What a method takes beside weights, their gradients and their moments.

    Attributes:
        rows: rows of a batch that goes through the UNet with a gradient.
        kept: bytes that it keeps all along, such as trajectories.
    """

    rows: int = 1
    kept: int = 0


class ErasureMethod(ABC):
    """An erasure method: how the weights in scope change so that concepts are no longer drawn.

    A gradient method returns a loss from every step. A closed-form method changes the parameters
    itself (under `torch.no_grad()`) and returns None: such a step is not back-propagated.

    A method may leave the weights as they are, and give its edits an inference part instead or as
    well (`inference`): adapters that it trains (`trained_parameters`), or a hook.

    Class attributes:
        Config: its hyperparameters, a `Settings` subclass with help on each field.
        training_defaults: training hyperparameters (steps, learning_rate, ...) it needs changed,
            such as `{"steps": 1}` for a closed form.
        data_parallel: whether `training_step` trains `context.own_rows` of its batch alone, so
            that several processes can share a run.
    """

    Config: ClassVar[type[Settings]] = Settings
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    data_parallel: ClassVar[bool] = False

    def __init__(self, config: Settings) -> None:
        self.config = config

    @classmethod
    def uses_concept_space(cls, settings: Mapping[str, Any]) -> bool:
        """Whether a run with these hyperparameters may keep words of its concept space on purpose.

        A benchmark counts these words as pool, not as held out. Override it in a method whose
        setting `concept_space` serves something else.
        """
        return "concept_space" in settings and settings.get("num_concepts") != 0

    def expected_passes(self, context: ErasureContext, steps: int) -> float | None:
        """Forward passes of a run of so many steps; a backward pass counts as two.

        Asked before `prepare`, for forecasts of a benchmark. None: the method doesn't say.
        """
        return None

    def expected_memory(self, context: ErasureContext) -> MemoryUse:
        """What a run takes beside weights; asked before `prepare`, for `--max-memory`."""
        return MemoryUse()

    @contextmanager
    def trained_parameters(
        self, context: ErasureContext, scope: ParameterScope
    ) -> Iterator[dict[str, nn.Parameter]]:
        """For the run, the parameters that it trains, by their names in the UNet.

        A method of adapters adds them to the UNet here, as submodules that change nothing yet, and
        takes them out again. Those that are no parameters of the UNet as it was go into the edit's
        inference part. {} trains nothing.

        Raises:
            ScopeError: the scope selects nothing that can be trained.
        """
        yield scope.select(context.model.unet)

    def inference(self) -> InferenceRecord | None:
        """The inference part of the edit, without what was trained; None: it has none.

        Asked once, after the last step.
        """
        return None

    def edited(self, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What an edit holds, made from the trained values as they are now: by default these.

        A method that trains factors and leaves weights, as by fusing adapters, gives the UNet's new
        weights here, by name. Called with the UNet being theta but for what is trained.
        """
        return dict(trained)

    @abstractmethod
    def prepare(self, context: ErasureContext) -> None:
        """Called once before the first step, with the UNet still being theta."""

    def begin_step(self, step: int) -> None:
        """Called before `training_step`; what is due before any step's work."""

    @abstractmethod
    def training_step(self, step: int) -> StepOutput | None:
        """One outer step, from 0. None: nothing to back-propagate."""

    @property
    def adversarial(self) -> bool:
        """Whether what it keeps is searched for as what the erasure harms most."""
        return False

    def adversaries(self) -> Tensor | None:
        """Embeddings of the adversarial concepts now, [E, L, D], or None."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must keep beside weights and optimiser."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave; called after `prepare`."""


def rows_per_step(batch_size: int, erased: int) -> int:
    """Rows of the erase term per step: `batch_size`, where that is 0 one per erased concept."""
    return batch_size or erased
