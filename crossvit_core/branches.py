"""What an ablation asks of a network beyond its accuracy: paired initial weights, and what each branch can do alone."""

from __future__ import annotations

import torch
from torch import nn

from crossvit_core.config import ArchConfig
from crossvit_core.device_info import autocast
from crossvit_core.heads import ClassTokenHead
from crossvit_core.model import CrossViT, build_model
from crossvit_core.random_stream import seeded
from crossvit_core.train import Split

_BATCH_SIZE = 512


@torch.no_grad()
def share_initial_weights(model: nn.Module, donor: ArchConfig, seed: int) -> list[str]:
    """Give ``model`` the initial weights that ``donor`` has under ``seed`` wherever name and shape agree.

    Two networks that are treated so with one seed differ at the start only where they must. Returns the names that
    were shared. Buffers are left alone; torch's random stream goes on as if nothing had happened.
    """
    with seeded(seed):
        drawn = dict(build_model(donor).named_parameters())
    shared = [name for name, own in model.named_parameters() if name in drawn and drawn[name].shape == own.shape]
    own = dict(model.named_parameters())
    for name in shared:
        own[name].copy_(drawn[name])
    return shared


@torch.inference_mode()
def score_branches(model: CrossViT, split: Split, *, device: torch.device | str, amp: bool = True) -> list[float]:
    """Top-1 accuracy (a fraction) of each branch's class token and head alone, as in the paper's Table 6.

    The network runs whole, fusion included; only the vote is left out. Empty for a head that is no vote of branches.
    """
    if not isinstance(model.head, ClassTokenHead):
        return []
    model.eval()
    correct = torch.zeros(len(model.head), dtype=torch.int64, device=device)
    for rows in split.rows.split(_BATCH_SIZE):
        images, labels = split.batch(rows)
        with autocast(device, amp):
            votes = [linear(x) for linear, x in zip(model.head, model.forward_features(images))]
        correct += torch.stack([(vote.float().argmax(1) == labels).sum() for vote in votes])
    return [count / len(split) for count in correct.tolist()]
