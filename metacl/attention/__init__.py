"""Attention mechanisms behind one interface, and in `naive.py` each of them as a loop over tokens, their oracle."""

from metacl.attention.interface import Attention
from metacl.attention.linear import LinearAttention
from metacl.attention.softmax import SoftmaxAttention

ATTENTION: dict[str, type[Attention]] = {"softmax": SoftmaxAttention, "linear": LinearAttention}

__all__ = ["ATTENTION", "Attention", "LinearAttention", "SoftmaxAttention"]
