"""Concept ablation for erasekit: erased concepts are drawn as an anchor concept."""
