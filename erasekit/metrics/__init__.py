"""Judges, scores and statistics. Registers the built-in scorers and metrics, without torch."""

from __future__ import annotations

from erasekit.plugin.descriptors import MetricDescriptor, ScorerDescriptor
from erasekit.plugin.hookspecs import hookimpl

_CLIP = "https://arxiv.org/abs/2103.00020"
_PAPER = "https://arxiv.org/abs/2410.15618"
_VIT_L, _VIT_B = ({"model": model, "pretrained": "openai"} for model in ("ViT-L-14", "ViT-B-32"))
_ICONS = {"folder": "erasekit.models.catalog:icons_clip", "name": "icons-clip"}


@hookimpl
def erasekit_register_scorers() -> list[ScorerDescriptor]:
    home = "erasekit.metrics.judges"
    distance = "measure: distance to the base model's image by"
    return [
        ScorerDescriptor(
            "icons-clip",
            "small CLIP in the wheel, trained on icons that the model icons never saw",
            f"{home}.open_clip:open_clip_folder",
            options=_ICONS,
        ),
        ScorerDescriptor(
            "open_clip",
            "CLIP ViT-L/14 with OpenAI's weights, by open_clip",
            f"{home}.open_clip:OpenClipScorer",
            _CLIP,
            _VIT_L,
        ),
        ScorerDescriptor(
            "clip-vit-b-32",
            "CLIP ViT-B/32 with OpenAI's weights, by open_clip",
            f"{home}.open_clip:OpenClipScorer",
            _CLIP,
            _VIT_B,
        ),
        ScorerDescriptor(
            "resnet50",
            "classifier: torchvision's ResNet-50 over ImageNet's 1,000 classes (--weights)",
            f"{home}.resnet50:ResNet50",
            "https://arxiv.org/abs/1512.03385",
        ),
        ScorerDescriptor(
            "lpips",
            "measure: LPIPS to the base model's image, on AlexNet (--weights)",
            f"{home}.lpips:LPIPS",
            "https://arxiv.org/abs/1801.03924",
        ),
        ScorerDescriptor(
            "clip-distance",
            f"{distance} CLIP ViT-L/14's image encoder",
            f"{home}.open_clip:clip_distance",
            _CLIP,
            _VIT_L,
        ),
        ScorerDescriptor(
            "icons-distance",
            f"{distance} icons-clip's image encoder",
            f"{home}.open_clip:clip_distance_folder",
            options=_ICONS,
        ),
        ScorerDescriptor(
            "fid",
            "measure: FID of captions' images, on TensorFlow's Inception of 2015 (--weights)",
            f"{home}.fid:FID",
            "https://arxiv.org/abs/1706.08500",
        ),
        ScorerDescriptor(
            "nudenet",
            "measure: exposed body parts by NudeNet, at four thresholds",
            f"{home}.nudenet:NudeNet",
            "https://github.com/notAI-tech/NudeNet",
        ),
    ]


@hookimpl
def erasekit_register_metrics() -> list[MetricDescriptor]:
    lost = "mean loss of CLIP alignment of held-out concepts at the same noise"
    align = "CLIP alignment of the erased concepts after the erasure, 100 * cosine"
    rates = (
        ("esr", "share of erased images whose class is not", "ErasingSuccessRate"),
        ("psr", "share of held-out images whose class is", "PreservingSuccessRate"),
    )
    return [
        MetricDescriptor("alignment", align, "erasekit.metrics.alignment:Alignment", _PAPER),
        MetricDescriptor("delta", lost, "erasekit.metrics.delta:Delta", _PAPER),
        *(
            MetricDescriptor(
                f"{name}-{k}",
                f"{what} in the top {k}",
                f"erasekit.metrics.success_rates:{target}",
                _PAPER,
                {"k": k},
            )
            for name, what, target in rates
            for k in (1, 5)
        ),
    ]
