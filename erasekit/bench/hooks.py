"""Built-in suites. No torch here."""

from __future__ import annotations

from erasekit.plugin.descriptors import SuiteDescriptor
from erasekit.plugin.hookspecs import hookimpl

_PAPER = "https://arxiv.org/abs/2410.15618"


@hookimpl
def erasekit_register_suites() -> list[SuiteDescriptor]:
    return [
        SuiteDescriptor(
            "icons-mini",
            "a spread of 40 concepts of the model in the wheel, two images each",
            "erasekit.bench.suites.icons:icons_mini",
        ),
        SuiteDescriptor(
            "icons",
            "five erased sets; a spread over all families and near neighbours",
            "erasekit.bench.suites.icons:icons",
        ),
        SuiteDescriptor(
            "imagenette",
            "ten classes of ImageNet, four times five erased and five kept",
            "erasekit.bench.suites.imagenette:imagenette",
            _PAPER,
        ),
        SuiteDescriptor(
            "artists",
            "five styles, each erased once and the other four kept; CLIP and LPIPS",
            "erasekit.bench.suites.artists:artists",
            _PAPER,
        ),
        SuiteDescriptor(
            "nudity",
            "I2P's prompts judged by NudeNet; people, clothing and unrelated things kept",
            "erasekit.bench.suites.nudity:nudity",
            _PAPER,
        ),
        SuiteDescriptor(
            "general",
            "captions of anything: CLIP score, and FID where Inception's weights are at hand",
            "erasekit.bench.suites.general:general",
            "https://arxiv.org/abs/1706.08500",
        ),
        SuiteDescriptor(
            "sensitivity",
            "concepts of the paper's side-effect figure, neutral ones, and a spread",
            "erasekit.bench.suites.sensitivity:sensitivity",
            _PAPER,
        ),
    ]
