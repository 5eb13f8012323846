"""Compute kernels: need torch alone, import nothing of avcil."""

from avcil.kernels.reference import Attended, guided_attention

__all__ = ["Attended", "guided_attention"]
