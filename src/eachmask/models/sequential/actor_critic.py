"""Actor and critic: drawing an object is an action; what it adds to the Dice score is its reward.

Araslanov, Rothkopf, Roth: "Actor-Critic Instance Segmentation", CVPR 2019, arXiv 1904.05126.

The idea: a choice made early decides what is left for later, which a loss per step does not see. So segmentation is
played as a game. The actor looks at the image and at the canvas of what was drawn, and chooses an action: a few
numbers, which a mask decoder turns into a mask. The decoder belongs to a conditional variational auto-encoder that has
learnt how objects look, hence a space of 16 dimensions is enough to act in. The reward is the gain in Dice, over the
best matching of all masks so far; the critic learns what an action will earn until the end, and the actor follows the
critic's slope. Sequences grow during training (5, 10, 15 ... steps in the paper).

Where we differ from the paper: the stages are learnt at once, so that one run is enough. The auto-encoder's prior is
the actor itself, which learns from the posterior of the object that its action fits best; the actor's reward joins in
over ``warmup_steps``. The critic learns from the returns of whole sequences. That an object is left is learnt by
cross-entropy. The encoder is EfficientNet-Lite0 with a ladder.

Shapes: B images, (h, w) cells of the grid, T steps, N objects, D dimensions of an action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.func import functional_call
from torch.nn import functional as F

from eachmask.models.config import changed
from eachmask.models.sequential.recurrent_attention import DIRECTIONS, PreNetwork, State, next_object, painted, seen_by
from eachmask.models.sequential.sequence import GridTargets, Raw, Said, SequenceConfig, Sequential, convolutions
from eachmask.ops.losses import dice
from eachmask.ops.matching_losses import best_matching, soft_iou
from eachmask.structures import Instances

CELLS = 4
"""Side of the grid that actor, critic and posterior see."""


@dataclass(frozen=True)
class Config(SequenceConfig):
    """What a variant may change."""

    dimensions: int = 16
    """D."""
    hidden: int = 64
    prior_weight: float = 0.01
    """Of the divergence between posterior and actor."""
    actor_weight: float = 0.1
    critic_weight: float = 1.0
    score_weight: float = 1.0
    discount: float = 0.9
    """Of rewards, from step to step."""
    warmup_steps: int = 200
    """The actor's reward counts fully after so many steps of training."""


class Played(NamedTuple):
    """One step of all images."""

    scores: Tensor  # (B,) logits
    masks: Tensor  # (B, h, w) logits of the sampled action
    values: Tensor  # (B,) what the critic expects of it
    slopes: Tensor  # (B,) the same, to be followed by the actor alone
    learnt: Tensor  # (2,) reconstruction and divergence, mean over the images


class Gaussian(nn.Module):
    """What is seen (B, C, h, w) -> a normal distribution over actions, and what it was read from (B, S)."""

    def __init__(self, channels: int, width: int, dimensions: int) -> None:
        super().__init__()
        self.look = convolutions(channels, width, width, stride=2)
        self.say = nn.Linear(width * CELLS * CELLS, 2 * dimensions)
        with torch.no_grad():
            self.say.bias[
                dimensions:
            ] = -2.0  # in the beginning what is said shall not drown in what is drawn at random

    def forward(self, seen: Tensor) -> tuple[Normal, Tensor]:
        """Standard deviations stay within e^-4 and e."""
        read = F.adaptive_avg_pool2d(self.look(seen), CELLS).flatten(1)
        mean, logarithm = self.say(read).float().chunk(2, 1)
        return Normal(mean, logarithm.clamp(-4, 1).exp()), read


class MaskDecoder(nn.Module):
    """An action (B, D) and what is seen (B, C, h, w) -> (B, h, w) logits."""

    def __init__(self, channels: int, width: int, dimensions: int) -> None:
        super().__init__()
        self.see = nn.Conv2d(channels, width, 3, padding=1)
        self.hear = nn.Linear(dimensions, width)
        self.mix = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=2, dilation=2), nn.ReLU())
        self.weigh = nn.Linear(dimensions, width)

    def forward(self, action: Tensor, seen: Tensor) -> Tensor:
        """The action shifts what is seen, and weighs what becomes of it."""
        x = self.mix(self.see(seen) + self.hear(action)[..., None, None])
        return torch.einsum("bchw,bc->bhw", x.float(), self.weigh(action).float())


class ActorCritic(Sequential[State]):
    """A pre-network, an actor, a mask decoder and a critic."""

    config: Config

    def __init__(self, num_classes: int, config: Config) -> None:
        super().__init__(num_classes, config)
        seen, width, dimensions = self.width + 1 + DIRECTIONS + 1, config.hidden, config.dimensions
        self.pre = PreNetwork(self.width)
        self.actor = Gaussian(seen, width, dimensions)
        self.posterior = Gaussian(seen + 1, width, dimensions)
        self.decoder = MaskDecoder(seen, width, dimensions)
        read = width * CELLS * CELLS
        self.score = nn.Linear(read, 1)
        self.critic = nn.Sequential(nn.Linear(read + dimensions, width), nn.ReLU(), nn.Linear(width, 1))

    def begin(self, raw: Raw) -> State:
        canvas = raw.features.new_zeros(len(raw.features), *raw.features.shape[-2:])
        return State(self.pre.context(raw.features), canvas)

    def next_object(self, raw: Raw, state: State) -> tuple[Said, State]:
        """The likeliest action."""
        seen = seen_by(state)
        actions, read = self.actor(seen)
        masks = self.decoder(actions.mean, seen)
        return Said(masks, self.score(read)[:, 0]), painted(state, masks.sigmoid())

    def losses(self, raw: Raw, targets: list[Instances]) -> dict[str, Tensor]:
        """Auto-encoder, actor, critic, scores and pre-network; a mean over images and steps."""
        grids = self.targets_of(raw, targets)
        played = self._play(raw, grids)
        masks = torch.stack([one.masks for one in played], 1).detach().sigmoid()
        values, slopes, scores = (
            torch.stack(column, 1).float()
            for column in zip(*((one.values, one.slopes, one.scores) for one in played), strict=True)
        )
        returns = torch.stack([self._returns(*pair) for pair in zip(masks, grids, strict=True)])
        steps = torch.arange(scores.shape[1], device=scores.device)
        left = torch.stack([(steps < len(grid.masks)).float() for grid in grids])
        reconstruction, divergence = torch.stack([one.learnt for one in played]).mean(0)
        ramp = min(1.0, int(self.training_steps) / self.config.warmup_steps) if self.training else 1.0
        return {
            "pre": self.pre.loss(raw.features, grids),
            "reconstruction": reconstruction,
            "prior": self.config.prior_weight * divergence,
            "actor": -ramp * self.config.actor_weight * slopes.mean(),
            "critic": self.config.critic_weight * F.mse_loss(values, returns),
            "score": self.config.score_weight * F.binary_cross_entropy_with_logits(scores, left),
        }

    def _play(self, raw: Raw, grids: Sequence[GridTargets]) -> list[Played]:
        """One sequence of sampled actions for each image."""
        state, played = self.begin(raw), []
        taken = [torch.zeros(len(grid.masks), dtype=torch.bool, device=raw.valid.device) for grid in grids]
        fixed = {name: value.detach() for name, value in self.critic.named_parameters()}
        for _ in range(self.length(grids)):
            seen = seen_by(state)
            actions, read = self.actor(seen)
            action = actions.rsample()
            masks = self.decoder(action.detach(), seen)
            known = read.detach()
            values = self.critic(torch.cat([known, action.detach()], 1))[:, 0]
            slopes = functional_call(self.critic, fixed, torch.cat([known, action], 1))[:, 0]
            learnt = self._imitate(seen, actions, masks, grids, taken)
            played.append(Played(self.score(read)[:, 0], masks, values, slopes, learnt))
            state = painted(state, masks.sigmoid())
        return played

    def _imitate(
        self, seen: Tensor, actions: Normal, masks: Tensor, grids: Sequence[GridTargets], taken: Sequence[Tensor]
    ) -> Tensor:
        """(2,) how badly the auto-encoder draws the object that is meant, and how far the actor is from its action."""
        meant, counts = [], []
        for mask, grid, some in zip(masks.detach().sigmoid(), grids, taken, strict=True):
            counts.append(float(not bool(some.all())))
            meant.append(next_object(mask, grid, some))
        target, weight = torch.stack(meant), masks.new_tensor(counts)
        posterior, _ = self.posterior(torch.cat([seen, target[:, None].to(seen)], 1))
        drawn = self.decoder(posterior.rsample(), seen)
        counted = torch.stack([grid.weight for grid in grids])
        away = F.binary_cross_entropy_with_logits(drawn, target, reduction="none")
        entropy = (away * counted).mean((1, 2)) + dice(drawn.sigmoid(), target, form="plain", eps=1.0, weight=counted)
        divergence = kl_divergence(posterior, actions).sum(1)
        return torch.stack([(entropy * weight).mean(), (divergence * weight).mean()])

    def _returns(self, masks: Tensor, grid: GridTargets) -> Tensor:
        """(T,) what each step of one image still earned."""
        iou = soft_iou(masks * grid.weight, grid.masks * grid.weight)
        rewards, total = dice_gains(2 * iou / (1 + iou)), iou.new_zeros(())
        returns = []
        for reward in rewards.flip(0):
            total = reward + self.config.discount * total
            returns.append(total)
        return torch.stack(returns[::-1])


def dice_gains(overlaps: Tensor) -> Tensor:
    """(T,) by how much each mask raises the sum of the best matching of all masks so far.

    Args:
        overlaps: (T, N) Dice of masks and objects, 0..1.

    >>> dice_gains(torch.tensor([[0.8, 0.0], [0.9, 0.0], [0.1, 0.5]]))
    tensor([0.8000, 0.1000, 0.5000])
    """
    totals = [overlaps.new_zeros(())]
    for t in range(1, len(overlaps) + 1):
        totals.append(overlaps[best_matching(overlaps[:t])].sum())
    return torch.stack(totals).diff()


# Variants -------------------------------------------------------------------------------------------------------------


def actor_critic_lite0(num_classes: int = 1, **config: Any) -> ActorCritic:
    """EfficientNet-Lite0, a ladder to stride 4, actions of 16 dimensions."""
    return ActorCritic(num_classes, changed(Config(), config))
