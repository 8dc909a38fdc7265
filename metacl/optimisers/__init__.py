"""Optimisers with torch's interface, which any network can be trained with: one file for each idea.

`projected` and `badam` are optimisers of their own, `muon` puts torch's beside AdamW. All others stand around another one:

    from metacl.optimisers.arrow import Arrow, blocks_of
    from metacl.optimisers.pulls import L2

    base = torch.optim.AdamW(network.named_parameters(), 1e-3)
    optimiser = Arrow(L2(base, 1e-4), blocks_of(network, ["blocks.*.attn"]))
    optimiser.step()    # in a training loop, in the place of the base's
"""
