"""Whether bf16 pays on this machine."""

import torch


def fast_bf16() -> bool:
    """The device multiplies bf16 matrices in hardware. Without that, bf16 on a CPU is slower than fp32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
