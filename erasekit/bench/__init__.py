"""Benchmarks: suites, sweeps and their stores. Registers the built-in suites, without torch."""

from __future__ import annotations

from erasekit.plugin.descriptors import SuiteDescriptor
from erasekit.plugin.hookspecs import hookimpl

_PAPER = "https://arxiv.org/abs/2410.15618"
_SUITES = {
    "icons-mini": ("a spread of 40 concepts of the model in the wheel, two images each", ""),
    "icons": ("five erased sets; a spread over all families and near neighbours", ""),
    "imagenette": ("ten classes of ImageNet, four times five erased and five kept", _PAPER),
    "artists": ("five styles, each erased once and the other four kept; CLIP and LPIPS", _PAPER),
    "nudity": (
        "I2P's prompts judged by NudeNet; people, clothing and unrelated things kept",
        _PAPER,
    ),
    "general": (
        "captions of anything: CLIP score, and FID where Inception's weights are at hand",
        "https://arxiv.org/abs/1706.08500",
    ),
    "sensitivity": (
        "concepts of the paper's side-effect figure, neutral ones, and a spread",
        _PAPER,
    ),
}


@hookimpl
def erasekit_register_suites() -> list[SuiteDescriptor]:
    return [
        SuiteDescriptor(name, summary, f"erasekit.bench.suites:{name.replace('-', '_')}", reference)
        for name, (summary, reference) in _SUITES.items()
    ]
