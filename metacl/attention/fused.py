"""fla's kernels for mechanisms that are not one recurrence: what runs them, and how it takes tensors (see `backends.py`)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metacl.attention.backends import Kernel, Run, choose, filled, obstacle_of, too_wide

GSA = Kernel("fla-core", "fla.ops.gsa", "chunk_gsa")
PRECONDITIONED = Kernel("fla-core", "fla.ops.precond_gated_delta_rule", "chunk_precond_gated_delta_rule")
"""Of fla-core 0.6 and newer."""
FAR = 1e4
"""How far below 0 the score of a slot lies that is not there: nothing of it is read."""


def slots(v: Tensor, backend: str = "auto") -> Run | None:
    """The kernel for gated slot attention; None: PyTorch is to do it.

    Raises:
        UserError: `backend` is asked for by name and is not installed or cannot take the tensors.
    """
    return choose("gated slot attention", backend, [(GSA, obstacle_of(v))])


def slots_by_fla(run: Run, tokens: Sequence[Tensor], keys_BHEM: Tensor, values_BHMF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs and both states after `SlotTokens`. Slots that fill up the width score -FAR, by a key feature more."""
    (E, M), width = keys_BHEM.shape[2:], values_BHMF.shape[3]
    q, k, v, write, log_decay = (t.transpose(1, 2) for t in tokens)
    if M % 16:
        q, k, keys_BHEM = F.pad(q, (0, 1), value=1.0), F.pad(k, (0, 1)), filled(F.pad(keys_BHEM, (0, 0, 0, 1)), 16)
        far = torch.arange(keys_BHEM.shape[3], device=q.device) >= M
        keys_BHEM = torch.cat([keys_BHEM[:, :, :E], (-FAR * far).to(keys_BHEM).expand_as(keys_BHEM[:, :, E:])], dim=2)
    q, k, v, write, log_decay = (filled(t, 16) for t in (q, k, v, write.to(v), log_decay))
    start = filled(keys_BHEM.mT, 16).mT.contiguous(), filled(filled(values_BHMF, 16).mT, 16).mT.contiguous()
    with torch.autocast(q.device.type, enabled=False):
        out, (keys, values) = run(q, k, v, write, log_decay, scale=1.0, initial_state=start, output_final_state=True)
    return out[..., :width].transpose(1, 2), keys[:, :, :E, :M].contiguous(), values[:, :, :M, :width].contiguous()


def preconditioned(v: Tensor, width: int, backend: str = "auto") -> Run | None:
    """The kernel for the preconditioned delta rule with keys of `width` features; None: PyTorch is to do it.

    Raises:
        UserError: `backend` is asked for by name and is not installed or cannot take the tensors.
    """
    obstacle = obstacle_of(v) or too_wide(width, 256)
    return choose("preconditioned delta rule", backend, [(PRECONDITIONED, obstacle)])


def preconditioned_by_fla(
    run: Run, tokens: Sequence[Tensor], sums_BHEF: Tensor, moment_BHE: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """The outputs and both states after `PreconditionedTokens`."""
    E, width = sums_BHEF.shape[2:]
    q, k, v = (filled(t.transpose(1, 2), 16) for t in tokens[:3])
    gates = dict(zip(("g", "beta", "g_atk", "beta_atk"), (t.transpose(1, 2).contiguous() for t in tokens[3:]), strict=True))
    start = {"initial_state": filled(filled(sums_BHEF, 16).mT, 16).mT.contiguous(), "initial_A_state": filled(moment_BHE, 16)}
    asked = {"scale": 1.0, "output_final_state": True, "use_qk_l2norm_in_kernel": False}
    with torch.autocast(v.device.type, enabled=False):
        out_BNHF, sums, moment = run(q, k, v, **gates, **start, **asked, **options)
    return out_BNHF[..., :width].transpose(1, 2), sums[:, :, :E, :width].contiguous(), moment[..., :E].contiguous()
