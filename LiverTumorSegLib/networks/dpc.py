"""DPC-Net (Zhang et al. 2022, doi 10.1002/mp.15723), Figures 2 and 3, and what it is compared with.

A 3D U-Net gives a pyramid of features F_0 (full resolution) to F_4 (1/16). SpaCor refines a level's
features in space, guided by the finer level below; SemCor refines its channels, guided by the
coarser level above. All three sets of features are supervised; the finest of SemCor's predict, and
what cannot reach those is left out in evaluation. SemCor pools over the whole input, so windows
must be of the size that training had. 17,578,083 parameters.

Read where the paper's text contradicts itself or its own numbers:
  - the five levels are the four decoder outputs and the bottleneck, as Figure 5 and the sums need;
  - "3-layer" networks have an input, a hidden layer and an output, as equations 5 and 8;
  - equations 5 and 8 exchange their merging: as printed, the modules would have 1.10 M parameters,
    not 0.43 M + 0.09 M. With mean and maximum concatenated in SpaCor and added in SemCor, a hidden
    layer of a quarter of the channels in SemCor, and the "identity branch" of the text before
    equation 9 in place of g_sem, all printed digits come out. profile="counted" is that reading,
    "literal" the printed equations. SpaCor's is the only one that fits; SemCor's the simplest of
    several;
  - g_sem keeps C_i channels: aligned with F_{i+1}, as the text also says, they would not fit the
    C_i factors of equation 9;
  - the map of equation 4 lives on the grid of F_{i-1}, to which the text upsamples F_i; back down
    goes the mean of 2x2x2 voxels, to which trilinear interpolation amounts;
  - the modules read what equations 4 and 7 say, raw F and F^spa: nothing is recursive in them;
  - 22.58 M, the size Table 4 gives the baseline, is that of 512 channels at the lowest level; the
    cap of 320 belongs to the PFE.

Not given by the paper, so chosen:
  - strided convolutions keep the channels and have norm and activation, as they replace poolings;
  - SpaCor alone leaves no refined features at level 0, so the mean of two probabilities predicts:
    of F_0's and of the upsampled F_1^spa's;
  - attention gates (AG): the published layout, one gating signal of 8 widths for the skips of
    levels 1 to 3; it adds the 1.02 M of Table 4;
  - deep attentive features (DAF): the published layout with halved widths, on the four decoder
    outputs; it adds the 0.68 M of Table 4. It works at half resolution, the finest features
    averaged down to it: at full resolution a window of 128 voxels a side would take 37 GiB;
  - He's normal weights, the biases 0.
The final softmax lives in the loss and in the predictor: the network returns logits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.networks.blocks import check_input, initialize_he

SLOPE = 0.01
"""Of every LeakyReLU."""


def doubled(x: Tensor) -> Tensor:
    """`(B, C, D, H, W)` to `(B, C, 2D, 2H, 2W)`, trilinear between voxel centers."""
    return F.interpolate(x, scale_factor=2.0, mode="trilinear", align_corners=False)


def leaky_relu() -> nn.Module:
    """In place: what stands before it needs only its own input in the backward pass."""
    return nn.LeakyReLU(SLOPE, inplace=True)


def instance_unit(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1
) -> nn.Sequential:
    """Convolution, InstanceNorm, LeakyReLU: the PFE's unit, which bears small batches."""
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, kernel, stride, padding=(kernel - 1) // 2),
        nn.InstanceNorm3d(out_channels, affine=True),
        leaky_relu(),
    )


def batch_unit(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3x3 convolution, BatchNorm, ReLU: the baseline's unit."""
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, 3, padding=1), nn.BatchNorm3d(out_channels), nn.ReLU()
    )


@dataclass(frozen=True)
class Backbone:
    """What the paper's two encoders differ in.

    Attributes:
        widths: channels of levels 0 to 4 in multiples of the first level's.
        unit: makes a unit from channels in and channels out.
        down: makes what halves the resolution of so many channels.
    """

    widths: tuple[int, ...]
    unit: Callable[[int, int], nn.Module]
    down: Callable[[int], nn.Module]


ENCODERS = {
    "pfe": Backbone(
        (1, 2, 4, 8, 10), instance_unit, lambda channels: instance_unit(channels, channels, 2, 2)
    ),
    "baseline": Backbone((1, 2, 4, 8, 16), batch_unit, lambda channels: nn.MaxPool3d(2)),
}


class AttentionGate(nn.Module):
    """A skip times a map in (0, 1) computed from it and a gating signal (Schlemper et al. 2019).

    Args:
        channels: of the skip.
        gating_channels: of the gating signal.
        scale: how much finer the grid of half the skip's resolution is than the signal's.
    """

    def __init__(self, channels: int, gating_channels: int, scale: int) -> None:
        super().__init__()
        self.scale = float(scale)
        self.theta = nn.Conv3d(channels, channels, 2, stride=2, bias=False)
        self.phi = nn.Conv3d(gating_channels, channels, 1)
        self.psi = nn.Conv3d(channels, 1, 1)
        self.out = nn.Sequential(nn.Conv3d(channels, channels, 1), nn.BatchNorm3d(channels))

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        """`(B, C, D, H, W)` and the signal on a grid `2 * scale` coarser to the skip's shape."""
        wanted = F.interpolate(
            self.phi(signal), scale_factor=self.scale, mode="trilinear", align_corners=False
        )
        gate = torch.sigmoid(self.psi(F.relu(self.theta(skip) + wanted)))
        return self.out(doubled(gate) * skip)


class AttentionGates(nn.Module):
    """The gates of a U-Net of five levels: on the skips of levels 1 to 3, one signal for all.

    Args:
        channels: of levels 0 to 4. The signal has as many as level 3.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        _, *gated, gating, bottleneck = channels
        self.signal = nn.Sequential(
            nn.Conv3d(bottleneck, gating, 1), nn.BatchNorm3d(gating), nn.ReLU()
        )
        self.gates = nn.ModuleList(
            AttentionGate(c, gating, scale)
            for c, scale in zip((*gated, gating), (4, 2, 1), strict=True)
        )

    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        """The encoder's features, finest first, to the same with levels 1 to 3 gated."""
        finest, *gated, bottleneck = skips
        signal = self.signal(bottleneck)
        pairs = zip(self.gates, gated, strict=True)
        return [finest, *(gate(skip, signal) for gate, skip in pairs), bottleneck]


class PyramidFeatureEncoder(nn.Module):
    """A 3D U-Net of five levels that gives the features of each (section III.C).

    Args:
        in_channels: channels of the input.
        channels: of levels 0 to 4.
        backbone: units and downsampling.
        skips: what the encoder's features pass on their way to the decoder.
    """

    def __init__(
        self, in_channels: int, channels: Sequence[int], backbone: Backbone, skips: nn.Module
    ) -> None:
        super().__init__()

        def block(ci: int, co: int) -> nn.Sequential:
            return nn.Sequential(backbone.unit(ci, co), backbone.unit(co, co))

        inputs = (in_channels, *channels[:-1])
        pairs = list(zip(channels[1:], channels[:-1], strict=True))
        self.encoders = nn.ModuleList(
            block(ci, co) for ci, co in zip(inputs, channels, strict=True)
        )
        self.downs = nn.ModuleList(backbone.down(co) for _, co in pairs)
        self.skips = skips
        self.ups = nn.ModuleList(nn.ConvTranspose3d(ci, co, 2, stride=2) for ci, co in pairs)
        self.decoders = nn.ModuleList(block(2 * co, co) for _, co in pairs)

    def forward(self, x: Tensor) -> list[Tensor]:
        """`(B, in_channels, D, H, W)` to F_0 to F_4, `(B, C_i, D/2^i, H/2^i, W/2^i)`."""
        features: list[Tensor] = []
        for level, encoder in enumerate(self.encoders):
            x = encoder(self.downs[level - 1](x) if level else x)
            features.append(x)
        features = self.skips(features)
        for level in reversed(range(len(self.decoders))):
            joined = torch.cat([self.ups[level](features[level + 1]), features[level]], dim=1)
            features[level] = self.decoders[level](joined)
        return features


def merge(pooled: list[Tensor], concat: bool) -> Tensor:
    """Poolings of the same features `(B, N, ...)` side by side along axis 1, or added."""
    return torch.cat(pooled, dim=1) if concat else torch.stack(pooled).sum(0)


class SpaCor(nn.Module):
    """Spatial correlation: features times a map in (0, 1) (Figure 3 top, equations 4 to 6).

    Args:
        channels: of the features.
        pool: how channels become maps: "avg", "max" or "both".
        concat: the two poolings are two maps; else one, their sum.
    """

    def __init__(self, channels: int, pool: str, concat: bool) -> None:
        super().__init__()
        self.pool = pool
        self.concat = concat
        self.attention = nn.Sequential(
            nn.Conv3d(2 if concat and pool == "both" else 1, channels, 3, padding=1),
            leaky_relu(),
            nn.Conv3d(channels, 1, 3, padding=1),
        )
        self.recalibrate = nn.Conv3d(channels, channels, 1)

    def squeeze(self, high: Tensor, low: Tensor) -> Tensor:
        """T: mean and maximum over the channels of `high`, upsampled, and `low` together.

        The two are not concatenated, which would take 800 MB at the finest level of a window of
        128 voxels a side.
        """
        pooled = []
        if self.pool != "max":
            total = doubled(high.sum(1, keepdim=True)) + low.sum(1, keepdim=True)
            pooled.append(total / (high.shape[1] + low.shape[1]))
        if self.pool != "avg":
            # max, unlike amax, keeps only places and not its input for the backward pass.
            maxima = [x.max(1, keepdim=True).values for x in (doubled(high), low)]
            pooled.append(torch.maximum(*maxima))
        return merge(pooled, self.concat)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """F_i `(B, C_i, D, H, W)`, F_{i-1} `(B, C_{i-1}, 2D, 2H, 2W)` to F_i^spa, F_i's shape."""
        gate = torch.sigmoid(self.attention(self.squeeze(high, low)))
        # A 1x1x1 convolution and an interpolation commute; in this order it is an eighth of work.
        return F.avg_pool3d(gate * doubled(self.recalibrate(high)), 2)


class SemCor(nn.Module):
    """Semantic correlation: each channel times a factor in (0, 1) (Figure 3 bottom, eqs. 7 to 9).

    Args:
        channels: of the features.
        high_channels: of the features one level up.
        pool: how voxels become one value: "avg", "max" or "both".
        concat: the two poolings are two values a channel; else one, their sum.
        reduction: channels over hidden neurons.
        recalibrate: whether a fully connected layer acts on the features; else nothing does.
    """

    def __init__(
        self,
        channels: int,
        high_channels: int,
        pool: str,
        concat: bool,
        reduction: int,
        recalibrate: bool,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.concat = concat
        values = (channels + high_channels) * (2 if concat and pool == "both" else 1)
        hidden = channels // reduction
        self.attention = nn.Sequential(
            nn.Linear(values, hidden), leaky_relu(), nn.Linear(hidden, channels)
        )
        self.recalibrate = nn.Conv3d(channels, channels, 1) if recalibrate else nn.Identity()

    def squeeze(self, low: Tensor, high: Tensor) -> Tensor:
        """T: mean and maximum over the voxels of every channel of both, `low` first."""
        pooled = []
        if self.pool != "max":
            pooled.append(torch.cat([x.mean((2, 3, 4)) for x in (low, high)], dim=1))
        if self.pool != "avg":
            pooled.append(torch.cat([x.amax((2, 3, 4)) for x in (low, high)], dim=1))
        return merge(pooled, self.concat)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """F_i `(B, C_i, D, H, W)` and the coarser F_{i+1} of any grid to F_i^sem, F_i's shape."""
        gate = torch.sigmoid(self.attention(self.squeeze(low, high)))
        return gate[:, :, None, None, None] * self.recalibrate(low)


class DAF(nn.Module):
    """Deep attentive features (Wang et al. 2019), half as wide as published.

    Every level's features are reduced, brought to half resolution and fused; each level then takes
    from the fused ones what a map in (0, 1) lets pass; an atrous pyramid joins the levels.

    Args:
        channels: of the four decoder outputs, finest first.
        width: channels inside; reduced features have twice as many.
        out_channels: logits a voxel.
    """

    rates = (1, 6, 12, 18)

    def __init__(self, channels: Sequence[int], width: int, out_channels: int) -> None:
        super().__init__()
        wide, levels = 2 * width, len(channels)

        def conv_norm(ci: int, co: int, kernel: int, rate: int = 1) -> nn.Sequential:
            dilation = (1, rate, rate)
            padding = dilation if kernel == 3 else 0
            conv = nn.Conv3d(ci, co, kernel, padding=padding, dilation=dilation)
            return nn.Sequential(conv, nn.GroupNorm(width, co))

        def unit(ci: int, co: int, kernel: int) -> nn.Sequential:
            return nn.Sequential(*conv_norm(ci, co, kernel), nn.PReLU())

        def narrow(ci: int) -> nn.Sequential:
            return nn.Sequential(unit(ci, width, 1), unit(width, width, 3))

        def gate() -> nn.Sequential:
            last = nn.Conv3d(width, width, 3, padding=1)
            return nn.Sequential(narrow(wide + width), last, nn.Sigmoid())

        def heads(ci: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv3d(ci, out_channels, 1) for _ in range(levels))

        self.reduce = nn.ModuleList(unit(ci, wide, 1) for ci in channels)
        self.fuse = nn.Sequential(narrow(levels * wide), unit(width, width, 3))
        self.gates = nn.ModuleList(gate() for _ in range(levels))
        self.refine = nn.ModuleList(
            nn.Sequential(narrow(wide + width), unit(width, width, 3)) for _ in range(levels)
        )
        self.merge = unit(levels * width, width, 1)
        self.pyramid = nn.ModuleList(conv_norm(width, width, 3, rate) for rate in self.rates)
        self.project = conv_norm(len(self.rates) * width, width, 1)
        self.reduced_heads = heads(wide)
        self.refined_heads = heads(width)
        self.head = nn.Conv3d(width, out_channels, 1)

    def forward(self, features: list[Tensor]) -> Tensor | dict[str, list[Tensor]]:
        """The four decoder outputs, finest first, to logits on the finest one's grid.

        In training mode also those of the refined and of the reduced features, at half resolution
        and coarser.
        """
        reduced = self._top_down([F.avg_pool3d(features[0], 2), *features[1:]])
        levels = [_resized(x, like=reduced[0]) for x in reduced]
        fused = self.fuse(torch.cat(levels, dim=1))
        refined = []
        for x, gate, refine in zip(levels, self.gates, self.refine, strict=True):
            passed = gate(torch.cat([x, fused], dim=1)) * fused
            refined.append(refine(torch.cat([x, passed], dim=1)))
        merged = self.merge(torch.cat(refined, dim=1))
        atrous = torch.cat([branch(merged) for branch in self.pyramid], dim=1)
        logits = doubled(self.head(self.project(atrous)))
        if not self.training:
            return logits
        return {
            "daf": [logits],
            "refined": [h(x) for h, x in zip(self.refined_heads, refined, strict=True)],
            "reduced": [h(x) for h, x in zip(self.reduced_heads, reduced, strict=True)],
        }

    def _top_down(self, features: list[Tensor]) -> list[Tensor]:
        """Each level's reduced features plus the sum of the level above, upsampled."""
        reduced: list[Tensor] = []
        for unit, x in reversed(list(zip(self.reduce, features, strict=True))):
            y = unit(x)
            reduced.insert(0, y + _resized(reduced[0], like=y) if reduced else y)
        return reduced


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="trilinear", align_corners=False)


def log_mean_probability(fine: Tensor, coarse: Tensor) -> Tensor:
    """Log of the mean of two softmaxes, the second upsampled; its softmax is that mean.

    Args:
        fine: logits `(B, C, 2D, 2H, 2W)`.
        coarse: logits `(B, C, D, H, W)`.
    """
    mean = (fine.softmax(1) + doubled(coarse.softmax(1))) / 2
    return mean.clamp(min=torch.finfo(mean.dtype).tiny).log()


ATTENTIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    "spa": ("spa",),
    "sem": ("sem",),
    "spa+sem": ("spa", "sem"),
    "sem+spa": ("sem", "spa"),
    "ag": (),
    "daf": (),
}
"""The correlation modules of each kind of attention, in order."""

POOLS = ("avg", "both", "max")
PROFILES = ("counted", "literal")


class DPCNet(nn.Module):
    """The whole network (Figure 2) and, by its arguments, all that Tables 1 to 4 compare.

    Args:
        in_channels: channels of the input.
        out_channels: logits a voxel: background, liver, tumor; at least 2.
        width: channels at full resolution, a multiple of 4.
        encoder: "pfe" or "baseline", a 3D U-Net with BatchNorm, ReLU and poolings.
        attention: "none", "spa" or "sem" for one module, "spa+sem" or "sem+spa" for both in that
            order, "ag" or "daf" for the methods compared with.
        profile: "counted" or "literal", see the top of this file.
        spa_pool: how SpaCor squeezes channels: "avg", "max" or "both".
        sem_pool: how SemCor squeezes voxels: "avg", "max" or "both".

    Raises:
        ValueError: an argument is none of its choices, or too few channels.
    """

    dimensions = 3
    divisor = 16

    def __init__(
        self,
        *,
        in_channels: int = 1,
        out_channels: int = 3,
        width: int = 32,
        encoder: str = "pfe",
        attention: str = "spa+sem",
        profile: str = "counted",
        spa_pool: str = "both",
        sem_pool: str = "both",
    ) -> None:
        super().__init__()
        _check("encoder", encoder, ENCODERS)
        _check("attention", attention, ATTENTIONS)
        _check("profile", profile, PROFILES)
        _check("spa_pool", spa_pool, POOLS)
        _check("sem_pool", sem_pool, POOLS)
        if out_channels < 2:
            raise ValueError(f"Expected 2 or more out_channels for a softmax, got {out_channels}.")
        self.in_channels = in_channels
        self.stages = ATTENTIONS[attention]
        literal = profile == "literal"
        reduction = 1 if literal else 4
        backbone = ENCODERS[encoder]
        channels = [width * times for times in backbone.widths]
        spa_channels = channels[1:] if "spa" in self.stages else []
        sem_channels = channels[:-1] if "sem" in self.stages else []

        def heads(inputs: Sequence[int]) -> nn.ModuleList:
            return nn.ModuleList(nn.Conv3d(ci, out_channels, 1) for ci in inputs)

        skips = AttentionGates(channels) if attention == "ag" else nn.Identity()
        self.encoder = PyramidFeatureEncoder(in_channels, channels, backbone, skips)
        self.spa = nn.ModuleList(SpaCor(c, spa_pool, concat=not literal) for c in spa_channels)
        self.sem = nn.ModuleList(
            SemCor(c, high, sem_pool, concat=literal, reduction=reduction, recalibrate=literal)
            for c, high in zip(sem_channels, channels[1:], strict=False)
        )
        self.daf = DAF(channels[:-1], width, out_channels) if attention == "daf" else None
        self.pyramid_heads = heads(channels)
        self.spa_heads = heads(spa_channels)
        self.sem_heads = heads(sem_channels)
        initialize_he(self, SLOPE)

    def forward(self, x: Tensor) -> Tensor | dict[str, list[Tensor]]:
        """`(B, in_channels, D, H, W)` to logits `(B, out_channels, D, H, W)`.

        In training mode lists of logits, each at its features' resolution: "pyramid" of levels 0 to
        4, "spa" of 1 to 4, "sem" of 0 to 3. The list that predicts comes first.

        Raises:
            ValueError: a size is no multiple of 16.
        """
        check_input(x, self.in_channels, self.divisor)
        pyramid = self.encoder(x)
        if not self.training:
            return self._predict(pyramid)
        refined, levels = {}, pyramid
        for stage in self.stages:
            levels = self._refine(stage, levels)
            refined[stage] = levels
        outputs: dict[str, list[Tensor]] = self.daf(pyramid[:-1]) if self.daf is not None else {}
        if "sem" in refined:
            outputs["sem"] = _apply(self.sem_heads, refined["sem"][:-1])
        outputs["pyramid"] = _apply(self.pyramid_heads, pyramid)
        if "spa" in refined:
            outputs["spa"] = _apply(self.spa_heads, refined["spa"][1:])
        return outputs

    def _predict(self, pyramid: list[Tensor]) -> Tensor:
        """Refine no more than can reach the output: two levels, and nothing after SemCor."""
        if self.daf is not None:
            return self.daf(pyramid[:-1])
        levels = pyramid[:2]
        for stage in self.stages:
            levels = self._refine(stage, levels)
            if stage == "sem":
                return self.sem_heads[0](levels[0])
        fine = self.pyramid_heads[0](levels[0])
        return log_mean_probability(fine, self.spa_heads[0](levels[1])) if self.spa else fine

    def _refine(self, stage: str, levels: list[Tensor]) -> list[Tensor]:
        """The levels, finest first, after one stage; the first few levels are enough.

        SpaCor leaves level 0 as it is, and SemCor the last.
        """
        if stage == "spa":
            pairs = zip(self.spa, levels[1:], levels, strict=False)
            return [levels[0], *(spa(high, low) for spa, high, low in pairs)]
        pairs = zip(self.sem, levels, levels[1:], strict=False)
        return [*(sem(low, high) for sem, low, high in pairs), levels[-1]]


def _apply(heads: nn.ModuleList, levels: list[Tensor]) -> list[Tensor]:
    return [head(features) for head, features in zip(heads, levels, strict=True)]


def _check(argument: str, value: str, choices: Collection[str]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise ValueError(f"Unknown {argument} {value!r}; choose one of {sorted(choices)}.")
