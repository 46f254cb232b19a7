"""Parameter scopes, beside a listing that walks modules instead of reading names."""

from __future__ import annotations

import pytest
from diffusers.models.attention_processor import Attention

from erasekit.concepts import Concept
from erasekit.diffusion.scope import ParameterScope
from erasekit.errors import ScopeError, UnknownNameError


def under(unet, found) -> set[str]:
    """Names of all parameters below the modules for which `found(name, module)` holds."""
    return {
        f"{name}.{parameter}"
        for name, module in unet.named_modules()
        if found(name, module)
        for parameter, _ in module.named_parameters()
    }


def listing(unet) -> dict[str, set[str]]:
    everything = {name for name, _ in unet.named_parameters()}
    context = unet.config.cross_attention_dim
    cross = under(
        unet,
        lambda name, m: (
            isinstance(m, Attention) and (name.endswith("attn2")) and m.to_k.in_features == context
        ),
    )
    own = under(unet, lambda name, m: isinstance(m, Attention) and name.endswith("attn1"))
    keys_values = {n for n in cross if n.split(".")[-2] in ("to_k", "to_v")}
    ends = {n for n in everything if n.split(".")[0] in ("time_embedding", "conv_out")}
    ends |= {n for n in everything if n.split(".")[0] == "conv_norm_out"}
    return {
        "xattn": cross,
        "xattn-kv": keys_values,
        "selfattn": own,
        "noxattn": everything - cross - ends,
        "full": everything,
    }


@pytest.mark.parametrize("name", sorted(ParameterScope.names()))
def test_each_scope_selects_what_it_says(tiny_model, name: str) -> None:
    selected = ParameterScope(name).select(tiny_model.unet)
    assert set(selected) == listing(tiny_model.unet)[name]
    everything = dict(tiny_model.unet.named_parameters())
    assert all(parameter is everything[key] for key, parameter in selected.items())
    assert list(selected) == [key for key in everything if key in selected]


def test_a_pattern_selects_by_name(tiny_model) -> None:
    selected = ParameterScope("re:attn2.*to_(k|v)").select(tiny_model.unet)
    assert set(selected) == listing(tiny_model.unet)["xattn-kv"]


def test_an_empty_match_is_an_error(tiny_model) -> None:
    with pytest.raises(ScopeError, match=r"'re:no-such-layer' selects no parameter"):
        ParameterScope("re:no-such-layer").select(tiny_model.unet)


def test_a_pattern_that_is_no_expression_is_an_error() -> None:
    with pytest.raises(ScopeError, match=r"'re:\(' is not a regular expression"):
        ParameterScope("re:(")


def test_an_unknown_scope_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown scope 'xatn'; did you mean 'xattn'\?"):
        ParameterScope("xatn")


def test_the_default_follows_the_kinds_of_the_concepts() -> None:
    thing, nudity = Concept("church"), Concept("nudity", "explicit")
    assert ParameterScope.for_concepts([thing, Concept("Van Gogh", "style")]).name == "xattn"
    assert ParameterScope.for_concepts([thing, nudity]).name == "noxattn"
