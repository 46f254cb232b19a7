"""Built-in scorers and metrics. No torch here."""

from __future__ import annotations

from erasekit.plugin.descriptors import MetricDescriptor, ScorerDescriptor
from erasekit.plugin.hookspecs import hookimpl

_CLIP = "https://arxiv.org/abs/2103.00020"
_PAPER = "https://arxiv.org/abs/2410.15618"


@hookimpl
def erasekit_register_scorers() -> list[ScorerDescriptor]:
    home = "erasekit.metrics.judges.open_clip"
    return [
        ScorerDescriptor(
            "icons-clip",
            "small CLIP in the wheel, trained on icons that the model icons never saw",
            f"{home}:open_clip_folder",
            options={"folder": "erasekit.models.catalog:icons_clip", "name": "icons-clip"},
        ),
        ScorerDescriptor(
            "open_clip",
            "CLIP ViT-L/14 with OpenAI's weights, by open_clip",
            f"{home}:OpenClipScorer",
            _CLIP,
            {"model": "ViT-L-14", "pretrained": "openai"},
        ),
        ScorerDescriptor(
            "clip-vit-b-32",
            "CLIP ViT-B/32 with OpenAI's weights, by open_clip",
            f"{home}:OpenClipScorer",
            _CLIP,
            {"model": "ViT-B-32", "pretrained": "openai"},
        ),
        ScorerDescriptor(
            "resnet50",
            "classifier: torchvision's ResNet-50 over ImageNet's 1,000 classes (--weights)",
            "erasekit.metrics.judges.resnet50:ResNet50",
            "https://arxiv.org/abs/1512.03385",
        ),
        ScorerDescriptor(
            "lpips",
            "measure: LPIPS to the base model's image, on AlexNet (--weights)",
            "erasekit.metrics.judges.lpips:LPIPS",
            "https://arxiv.org/abs/1801.03924",
        ),
        ScorerDescriptor(
            "clip-distance",
            "measure: distance to the base model's image by CLIP ViT-L/14's image encoder",
            "erasekit.metrics.judges.clip_distance:clip_distance",
            _CLIP,
            {"model": "ViT-L-14", "pretrained": "openai"},
        ),
        ScorerDescriptor(
            "icons-distance",
            "measure: distance to the base model's image by icons-clip's image encoder",
            "erasekit.metrics.judges.clip_distance:clip_distance_folder",
            options={"folder": "erasekit.models.catalog:icons_clip", "name": "icons-clip"},
        ),
        ScorerDescriptor(
            "fid",
            "measure: FID of captions' images, on TensorFlow's Inception of 2015 (--weights)",
            "erasekit.metrics.judges.fid:FID",
            "https://arxiv.org/abs/1706.08500",
        ),
        ScorerDescriptor(
            "nudenet",
            "measure: exposed body parts by NudeNet, at four thresholds",
            "erasekit.metrics.judges.nudenet:NudeNet",
            "https://github.com/notAI-tech/NudeNet",
        ),
    ]


@hookimpl
def erasekit_register_metrics() -> list[MetricDescriptor]:
    rates = "erasekit.metrics.success_rates"
    erased, kept = f"{rates}:ErasingSuccessRate", f"{rates}:PreservingSuccessRate"
    gone = "share of erased images whose class is not"
    there = "share of held-out images whose class is"
    lost = "mean loss of CLIP alignment of held-out concepts at the same noise"
    align = "CLIP alignment of the erased concepts after the erasure, 100 * cosine"
    return [
        MetricDescriptor("alignment", align, "erasekit.metrics.alignment:Alignment", _PAPER),
        MetricDescriptor("delta", lost, "erasekit.metrics.delta:Delta", _PAPER),
        *(
            MetricDescriptor(f"{name}-{k}", f"{what} in the top {k}", target, _PAPER, {"k": k})
            for name, what, target in (("esr", gone, erased), ("psr", there, kept))
            for k in (1, 5)
        ),
    ]
