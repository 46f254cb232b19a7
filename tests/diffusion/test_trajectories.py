"""Where z_t comes from, beside plain diffusers and recomputation with a copy of the weights."""

from __future__ import annotations

import copy
import errno
import gc
import os
import tempfile

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler

from erasekit.diffusion.scope import FrozenWeights, ParameterScope
from erasekit.diffusion.solvers import DDIM
from erasekit.diffusion.trajectories import (
    CurrentTrajectories,
    FrozenTrajectories,
    trajectory_bytes,
    trajectory_seed,
)
from erasekit.errors import ConfigError, OutputError
from erasekit.models.unet_passes import MAPS_OF_A_PASS

PROMPTS = ["church", "garbage truck", "a red bus"]
STEPS, SCALE, SEED = 5, 3.0, 11


@pytest.fixture
def frozen(tiny_model) -> FrozenWeights:
    return FrozenWeights(tiny_model.unet, ParameterScope("full").select(tiny_model.unet))


@pytest.fixture
def original(tiny_model, frozen):
    """The frozen model, kept aside; afterwards the tiny model's own weights are others."""
    kept = copy.deepcopy(tiny_model.pipeline)
    generator = torch.Generator().manual_seed(5)
    for parameter in tiny_model.unet.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return kept


def make(model, frozen, kind=FrozenTrajectories, **options):
    if kind is FrozenTrajectories:
        options = {"per_prompt": 2, "seed": SEED, **options}
    embeds = model.family.embed_prompts(PROMPTS)
    return kind(
        model.family,
        embeds,
        solver=DDIM(model.family, STEPS),
        frozen=frozen,
        **{"guidance_scale": SCALE, **options},
    )


def everything(source, draws: int = 60):
    """Many rows drawn of a source."""
    indices = torch.arange(draws) % len(PROMPTS)
    return indices, source.draw(indices, torch.Generator().manual_seed(0))


def plain_latents(pipeline, prompt: str, seed: int) -> list[torch.Tensor]:
    """z_t before each step and after the last, from plain diffusers with guidance."""
    generator = torch.Generator("cpu").manual_seed(seed)
    seen = [torch.randn(1, 4, 8, 8, generator=generator)]

    def keep(_, step, t, values):
        seen.append(values["latents"])
        return values

    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        prompt,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        latents=seen[0].clone(),
        output_type="latent",
        callback_on_step_end=keep,
    )
    return seen


def test_a_trajectory_is_what_plain_diffusers_samples(tiny_model, frozen, original) -> None:
    source = make(tiny_model, frozen)
    indices, batch = everything(source)
    timesteps = original.scheduler.timesteps.tolist()
    plain = {
        (p, n): plain_latents(original, prompt, trajectory_seed(SEED, n))
        for p, prompt in enumerate(PROMPTS)
        for n in range(2)
    }
    timesteps = original.scheduler.timesteps.tolist()
    assert len(timesteps) == STEPS
    met = set()
    for p, z, t in zip(indices.tolist(), batch.latents, batch.timesteps.tolist(), strict=True):
        step = timesteps.index(t)
        distances = [(plain[p, n][step][0] - z).abs().max() for n in range(2)]
        assert min(distances) < 5e-5
        met.add((p, distances.index(min(distances)), step))
    assert len(met) > 20, "t and the trajectory should be drawn from all there are"


def test_kept_predictions_are_the_frozen_model_s_at_z_t(tiny_model, frozen, original) -> None:
    indices, batch = everything(make(tiny_model, frozen))
    embeds = tiny_model.family.embed_prompts(PROMPTS)
    empty = tiny_model.family.embed_prompts([""]).expand(len(indices), -1, -1)
    unet = original.unet
    for kept, c in ((batch.noise_pred, embeds[indices]), (batch.noise_pred_uncond, empty)):
        expected = unet(batch.latents, batch.timesteps, encoder_hidden_states=c).sample
        torch.testing.assert_close(kept, expected, rtol=1e-4, atol=1e-5)
        now = tiny_model.unet(batch.latents, batch.timesteps, encoder_hidden_states=c).sample
        assert (now - expected).abs().max() > 1e-2, "the trained model should differ here"


def test_a_trajectory_depends_on_its_seed_alone(tiny_model, frozen) -> None:
    one_by_one = make(tiny_model, frozen, batch_size=1)
    together = make(tiny_model, frozen, batch_size=64)
    together.sample_all()
    for prompt in (2, 0, 1):
        for steps in (1, 3, STEPS):
            one_by_one.sample([(prompt, n, steps) for n in range(2)])
    (_, a), (_, b) = everything(one_by_one), everything(together)
    assert torch.equal(a.timesteps, b.timesteps)
    torch.testing.assert_close(a.latents, b.latents, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a.noise_pred, b.noise_pred, rtol=1e-4, atol=1e-5)
    _, other = everything(make(tiny_model, frozen, seed=SEED + 1))
    assert (other.latents - a.latents).abs().max() > 0.1


def test_rows_in_the_unet_are_bounded_and_trajectories_stay_the_same(tiny_model, frozen) -> None:
    """Of 6 trajectories together, 12 rows, two are in the UNet at once; large models need it."""
    expected = everything(make(tiny_model, frozen))[1]
    tiny_model.family.runner.limit = 2 * MAPS_OF_A_PASS * 16 * 8 * 8 * 4
    rows: list[int] = []
    hook = tiny_model.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    source = make(tiny_model, frozen)
    source.sample_all()
    hook.remove()
    tiny_model.family.runner.limit = None
    assert rows == [2] * (len(PROMPTS) * 2 * STEPS)
    _, found = everything(source)
    for name in ("latents", "noise_pred", "noise_pred_uncond"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5
        )


def test_each_solver_step_is_sampled_once(tiny_model, frozen) -> None:
    source = make(tiny_model, frozen, batch_size=4)
    before = tiny_model.passes.snapshot()
    source.sample([(0, 0, 2), (1, 1, 4), (0, 0, 3)])
    assert (tiny_model.passes - before).forward == (3 + 4) * 2, "with guidance two passes a step"
    source.sample([(0, 0, 3), (1, 1, 1)])
    assert (tiny_model.passes - before).forward == (3 + 4) * 2
    source.sample_all()
    everything(source)
    spent = tiny_model.passes - before
    assert (spent.forward, spent.backward) == (len(PROMPTS) * 2 * STEPS * 2, 0)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_row_costs_the_solver_steps_down_to_it(tiny_model, frozen, mapped: bool) -> None:
    """And those that follow are the same as of a trajectory that was sampled at once."""
    source = make(tiny_model, frozen, per_prompt=1, mapped=mapped)
    whole = make(tiny_model, frozen, per_prompt=1, whole=True)
    furthest = 0
    one = torch.tensor([1])
    drawn = {seed: whole.draw(one, torch.Generator().manual_seed(seed)) for seed in range(12)}
    for seed in sorted(drawn, key=lambda seed: -int(drawn[seed].timesteps)):
        before = tiny_model.passes.snapshot()
        row = source.draw(one, torch.Generator().manual_seed(seed))
        step = source.solver.timesteps.tolist().index(int(row.timesteps)) + 1
        spent = tiny_model.passes - before
        assert spent.forward == 2 * max(0, step - furthest)
        furthest = max(furthest, step)
        for name in ("latents", "timesteps", "noise_pred", "noise_pred_uncond"):
            torch.testing.assert_close(
                getattr(row, name), getattr(drawn[seed], name), rtol=1e-4, atol=1e-5
            )
    assert furthest == STEPS
    assert len(source.sampled()) > 1


def test_the_empty_prompt_is_embedded_once_and_only_where_it_is_needed(
    tiny_model, frozen, monkeypatch
) -> None:
    """Not in each solver step: the text encoder may wait on the CPU by then."""
    told: list[int] = []
    embed = tiny_model.family.unconditional_embeds
    monkeypatch.setattr(
        tiny_model.family, "unconditional_embeds", lambda: (told.append(1), embed())[1]
    )
    everything(make(tiny_model, frozen))
    assert len(told) == 1
    everything(make(tiny_model, frozen, guidance_scale=1.0, with_uncond=False))
    assert len(told) == 1


def test_another_source_samples_the_same_again(tiny_model, frozen) -> None:
    """To the last bit: in the same batches, of the same round."""
    source = make(tiny_model, frozen)
    source.renew(3)
    for seed in range(4):
        source.draw(torch.tensor([0, 2, 2]), torch.Generator().manual_seed(seed))
    other = make(tiny_model, frozen)
    before = tiny_model.passes.snapshot()
    other.sample_again(source.sampled())
    assert torch.equal(other.sampled(), source.sampled())
    assert other.round == 3
    sampled = tiny_model.passes - before
    for seed in range(4):
        a, b = (
            one.draw(torch.tensor([0, 2, 2]), torch.Generator().manual_seed(seed))
            for one in (source, other)
        )
        assert torch.equal(a.latents, b.latents)
        assert torch.equal(a.noise_pred, b.noise_pred)
    assert (tiny_model.passes - before).forward == sampled.forward


def test_a_round_has_starting_noises_of_its_own(tiny_model, frozen) -> None:
    source = make(tiny_model, frozen)
    starts = []
    for number in (0, 1, 1, 0):
        source.renew(number)
        source.sample_all()
        starts.append(torch.stack([source._kept[0][0][n, 0] for n in range(2)]))
    assert torch.equal(starts[1], starts[2])
    assert torch.equal(starts[0], starts[3])
    every = torch.cat([starts[0], starts[1]]).flatten(1)
    assert torch.cdist(every, every).fill_diagonal_(1.0).min() > 0.1


def test_rows_may_share_timestep_and_noise(tiny_model, frozen) -> None:
    for source in (make(tiny_model, frozen), make(tiny_model, frozen, CurrentTrajectories)):
        for seed in range(5):
            batch = source.draw(
                torch.tensor([0, 1, 0]), torch.Generator().manual_seed(seed), shared_timestep=True
            )
            assert len(set(batch.timesteps.tolist())) == 1
            torch.testing.assert_close(batch.latents[0], batch.latents[2], rtol=1e-4, atol=1e-5)


def test_current_trajectories_follow_the_trained_weights(tiny_model, frozen, original) -> None:
    """Partial DDIM with the weights as they are now; the predictions are the frozen ones."""
    source = make(tiny_model, frozen, CurrentTrajectories)
    trained = copy.deepcopy(tiny_model.unet)
    embeds = tiny_model.family.embed_prompts(PROMPTS)
    empty = tiny_model.family.embed_prompts([""])
    scheduler = DDIMScheduler.from_config(original.scheduler.config)
    stops = set()
    for seed in range(6):
        indices = torch.tensor([2, 0])
        batch = source.draw(indices, torch.Generator().manual_seed(seed))
        scheduler.set_timesteps(STEPS)
        (t_end,) = set(batch.timesteps.tolist())
        stops.add(t_end)
        generator = torch.Generator().manual_seed(seed)
        torch.randint(STEPS, (1,), generator=generator)  # the timestep, which comes first
        z = torch.stack([torch.randn(4, 8, 8, generator=generator) for _ in range(2)])
        with torch.no_grad():
            for t in scheduler.timesteps:
                if t == t_end:
                    break
                cond = trained(z, t, encoder_hidden_states=embeds[indices]).sample
                uncond = trained(z, t, encoder_hidden_states=empty.expand(2, -1, -1)).sample
                z = scheduler.step(uncond + SCALE * (cond - uncond), t, z).prev_sample
            expected = original.unet(z, t_end, encoder_hidden_states=embeds[indices]).sample
        torch.testing.assert_close(batch.latents, z, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(batch.noise_pred, expected, rtol=1e-3, atol=1e-4)
        assert not batch.noise_pred.requires_grad
    assert len(stops) > 1


def test_draws_in_one_state_share_timestep_and_noise_however_many_rows(tiny_model, frozen) -> None:
    """As the branches of a published step do: rows of one prompt are the same z_t."""
    source = make(tiny_model, frozen, CurrentTrajectories)
    for seed in range(4):
        few = source.draw(torch.tensor([1]), torch.Generator().manual_seed(seed))
        many = source.draw(torch.tensor([1, 0, 2]), torch.Generator().manual_seed(seed))
        assert len({int(t) for t in (*few.timesteps, *many.timesteps)}) == 1
        torch.testing.assert_close(few.latents[0], many.latents[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [FrozenTrajectories, CurrentTrajectories])
def test_within_bins_z_t_is_at_the_solver_s_timestep_and_t_in_its_bin(
    tiny_model, frozen, original, kind
) -> None:
    """Leading timesteps of 5 steps are 801 to 1, whose bins are [800, 1000) to [0, 200)."""
    plain, binned = (make(tiny_model, frozen, kind, within_bins=w) for w in (False, True))
    seen = set()
    for seed in range(40):
        draw = torch.tensor([0, 1]), torch.Generator().manual_seed(seed)
        batch = binned.draw(*draw)
        draw[1].manual_seed(seed)
        at = plain.draw(*draw)
        seen |= set(batch.timesteps.tolist())
        for t in batch.timesteps.tolist():
            assert 0 <= t < 1000
        if kind is FrozenTrajectories:
            assert [t // 200 for t in batch.timesteps.tolist()] == [
                t // 200 for t in at.timesteps.tolist()
            ]
            torch.testing.assert_close(batch.latents, at.latents, rtol=1e-4, atol=1e-5)
        embeds = tiny_model.family.embed_prompts(PROMPTS)[:2]
        with torch.no_grad():
            expected = original.unet(
                batch.latents, batch.timesteps, encoder_hidden_states=embeds
            ).sample
        torch.testing.assert_close(batch.noise_pred, expected, rtol=1e-3, atol=1e-4)
    assert len(seen) > 20
    assert max(seen) > 850
    assert min(seen) < 150


@pytest.mark.parametrize("scheduler", [PNDMScheduler, EulerDiscreteScheduler])
def test_the_model_s_own_scheduler_may_be_of_another_kind(tiny_model, frozen, scheduler) -> None:
    """z_t is on DDIM's way through the model's noise schedule, and is not clipped."""
    _, expected = everything(make(tiny_model, frozen))
    config = dict(tiny_model.pipeline.scheduler.config)
    config.pop("clip_sample")
    tiny_model.pipeline.scheduler = scheduler.from_config(config)
    _, batch = everything(make(tiny_model, frozen))
    torch.testing.assert_close(batch.latents, expected.latents)
    assert batch.latents.abs().max() > 1


@pytest.mark.parametrize("steps", [0, 1001])
def test_steps_that_the_schedule_does_not_allow(tiny_model, frozen, steps: int) -> None:
    with pytest.raises(ConfigError, match=f"{steps} solver steps"):
        FrozenTrajectories(
            tiny_model.family,
            tiny_model.family.embed_prompts(PROMPTS),
            solver=DDIM(tiny_model.family, steps),
            guidance_scale=SCALE,
            per_prompt=1,
            seed=0,
            frozen=frozen,
        )


def test_a_mapped_file_gives_the_same_rows_and_goes_with_its_source(
    tiny_model, frozen, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mapped = make(tiny_model, frozen, mapped=True)
    _, found = everything(mapped)
    _, expected = everything(make(tiny_model, frozen))
    (file,) = tmp_path.glob("erasekit-*/trajectories")
    assert file.stat().st_size == trajectory_bytes(tiny_model.family, 2 * len(PROMPTS), STEPS)
    for name in ("latents", "timesteps", "noise_pred", "noise_pred_uncond"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    del mapped
    gc.collect()
    assert not list(tmp_path.glob("erasekit-*"))


def test_a_disk_without_room_is_told_before_anything_is_sampled(
    tiny_model, frozen, monkeypatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    before = tiny_model.passes.snapshot()
    with pytest.raises(OutputError, match="No space left"):
        make(tiny_model, frozen, mapped=True)
    assert tiny_model.passes.snapshot() == before


@pytest.mark.parametrize("mapped", [False, True])
def test_without_guidance_a_step_is_one_pass_where_rows_need_no_more(
    tiny_model, frozen, mapped: bool
) -> None:
    """The same z_t and predictions as with both passes, at half of them and two thirds the room."""
    both = make(tiny_model, frozen, guidance_scale=1.0)
    _, expected = everything(both)
    before = tiny_model.passes.snapshot()
    source = make(tiny_model, frozen, guidance_scale=1.0, with_uncond=False, mapped=mapped)
    source.sample_all()
    _, found = everything(source)
    assert (tiny_model.passes - before).forward == len(PROMPTS) * 2 * STEPS
    for name in ("latents", "timesteps", "noise_pred"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5
        )
    assert found.noise_pred_uncond is None
    with pytest.raises(ValueError, match="without the unconditional prediction"):
        found.unconditional_noise_pred()
    sizes = [trajectory_bytes(tiny_model.family, 6, STEPS, flag) for flag in (False, True)]
    assert sizes[0] * 3 == sizes[1] * 2


def test_guidance_takes_both_passes_whatever_is_kept(tiny_model, frozen) -> None:
    _, expected = everything(make(tiny_model, frozen))
    _, found = everything(make(tiny_model, frozen, with_uncond=False))
    for name in ("latents", "timesteps", "noise_pred"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
