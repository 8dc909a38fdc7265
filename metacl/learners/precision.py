"""Whether bf16 pays on a device."""

import torch


def fast_bf16(device: str) -> bool:
    """The device multiplies bf16 matrices in hardware. Without that, bf16 on a CPU is slower than fp32.

    Arguments:
        device: its type, as of `torch.device`. Of others than `cpu` and `cuda` nothing is known: False.
    """
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
