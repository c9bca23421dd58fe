"""ELANRes-MSCA-UNet (Song, Wu, Wu 2025, doi 10.20944/preprints202501.1547.v1), Figures 2 to 4.

A 3D U-Net whose blocks may be re-parameterizable ELAN residual blocks and whose encoder may carry
multi-scale convolutional attention. `deploy()` folds every parallel branch and BatchNorm3d into
single convolutions; the function computed stays the same.

Not given by the paper, so chosen (the paper prints neither channels nor block drawings in text):
  - five resolutions of 32 to 512 channels, so that four decoder levels give its four losses;
  - ELANResBlock: the ELAN wiring of YOLOv7-tiny (two splits, two chained units, a four-way
    concatenation, a fusing 1x1x1) with each 3x3x3 re-parameterizable, plus a residual;
  - MSCA after the encoder blocks of levels 1 to 4, on axial slices, wired as in SegNeXt's MSCAN,
    whose strip kernels 7, 11 and 21 after a 5x5 it uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from LiverTumorSegLib.networks.blocks import check_input


def fold_batch_norm(conv: nn.Conv3d, norm: nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """Weight and bias, in float64, of the one convolution equal to `norm(conv(x))` in evaluation.

    Args:
        conv: any Conv3d, with or without bias.
        norm: the BatchNorm3d that follows it, with affine parameters and running statistics.

    Returns:
        weight `(out, in, *kernel)` and bias `(out,)`.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    weight = conv.weight.double() * scale[:, None, None, None, None]
    bias = norm.bias.double() - scale * norm.running_mean.double()
    if conv.bias is not None:
        bias = bias + scale * conv.bias.double()
    return weight, bias


def single_conv(weight: Tensor, bias: Tensor, like: nn.Conv3d) -> nn.Conv3d:
    """A Conv3d of this float64 weight and bias, in the precision and place of `like`."""
    conv = nn.Conv3d(
        weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2
    ).to(like.weight)
    conv.weight.data.copy_(weight)
    assert conv.bias is not None
    conv.bias.data.copy_(bias)
    return conv


class ConvNorm(nn.Module):
    """A bias-free convolution and its BatchNorm3d; one convolution once deployed."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, D, H, W)` to `(B, out_channels, D, H, W)`."""
        return self.norm(self.conv(x))

    def deploy(self) -> nn.Conv3d:
        """The single convolution that computes the same in evaluation mode."""
        return single_conv(*fold_batch_norm(self.conv, self.norm), like=self.conv)


class RepUnit(nn.Module):
    """Two parallel 3x3x3 convolutions fused by a 1x1x1; one 3x3x3 once deployed (Figure 3).

    Nothing non-linear stands between the branches and the fusion, and only the first operator is
    padded: the collapse is exact, borders included.
    """

    def __init__(self, channels: int, branches: int = 2) -> None:
        super().__init__()
        self.branches = nn.ModuleList(ConvNorm(channels, channels, 3) for _ in range(branches))
        self.fuse = ConvNorm(branches * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, D, H, W)` to the same shape."""
        return F.relu(self.fuse(torch.cat([branch(x) for branch in self.branches], dim=1)))

    def deploy(self) -> nn.Sequential:
        """Compose fusion and branches in float64: W = sum_m V[o, m] W_m, b = V b_cat + v."""
        branches = [branch for branch in self.branches if isinstance(branch, ConvNorm)]
        folded = [fold_batch_norm(branch.conv, branch.norm) for branch in branches]
        weights = torch.cat([weight for weight, _ in folded])
        biases = torch.cat([bias for _, bias in folded])
        fusion, fusion_bias = fold_batch_norm(self.fuse.conv, self.fuse.norm)
        fusion = fusion.flatten(1)
        weight = torch.einsum("om,midhw->oidhw", fusion, weights)
        bias = fusion @ biases + fusion_bias
        return nn.Sequential(single_conv(weight, bias, like=self.fuse.conv), nn.ReLU())


class ELANResBlock(nn.Module):
    """ELAN block with re-parameterizable units and a residual (Figure 3).

    Args:
        in_channels: channels in.
        out_channels: channels out, even.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.split_a = ConvNorm(in_channels, half, 1)
        self.split_b = ConvNorm(in_channels, half, 1)
        self.unit_1: nn.Module = RepUnit(half)
        self.unit_2: nn.Module = RepUnit(half)
        self.fuse = ConvNorm(4 * half, out_channels, 1)
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else ConvNorm(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, D, H, W)` to `(B, out_channels, D, H, W)`."""
        a = F.relu(self.split_a(x))
        b = F.relu(self.split_b(x))
        u = self.unit_1(b)
        v = self.unit_2(u)
        return F.relu(self.fuse(torch.cat([a, b, u, v], dim=1)) + self.shortcut(x))


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """The plain block of the paper's baseline, twice 3x3x3 convolution, BatchNorm3d, ReLU.

    Nothing in it is re-parameterized, so deploying leaves it as it is.
    """
    return nn.Sequential(
        nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(),
        nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm3d(out_channels),
        nn.ReLU(),
    )


BLOCKS = {"elanres": ELANResBlock, "double": double_conv}


class MSCA(nn.Module):
    """Multi-scale convolutional attention on axial slices (Figure 4).

    A 5x5 depthwise convolution and strip pairs of 7, 11 and 21 taps give an attention map that
    multiplies the features; an MLP of ratio 4 follows. Both sit on residuals scaled per channel.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()

        def depthwise(kernel: tuple[int, int], features: int) -> nn.Conv2d:
            padding = (kernel[0] // 2, kernel[1] // 2)
            return nn.Conv2d(features, features, kernel, padding=padding, groups=features)

        self.norm_1 = nn.BatchNorm2d(channels)
        self.project_in = nn.Conv2d(channels, channels, 1)
        self.square = depthwise((5, 5), channels)
        self.strips = nn.ModuleList(
            nn.Sequential(depthwise((1, taps), channels), depthwise((taps, 1), channels))
            for taps in (7, 11, 21)
        )
        self.mix = nn.Conv2d(channels, channels, 1)
        self.project_out = nn.Conv2d(channels, channels, 1)
        self.scale_1 = nn.Parameter(torch.full((channels, 1, 1), 1e-2))
        self.norm_2 = nn.BatchNorm2d(channels)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, 4 * channels, 1),
            depthwise((3, 3), 4 * channels),
            nn.GELU(),
            nn.Conv2d(4 * channels, channels, 1),
        )
        self.scale_2 = nn.Parameter(torch.full((channels, 1, 1), 1e-2))

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, D, H, W)` to the same shape; slices do not mix."""
        batch, channels, depth, height, width = x.shape
        y = x.transpose(1, 2).reshape(batch * depth, channels, height, width)
        z = self.norm_1(y)
        q = F.gelu(self.project_in(z))
        t = self.square(q)
        t = t + sum(strip(t) for strip in self.strips)
        y = y + self.scale_1 * (self.project_out(self.mix(t) * q) + z)
        y = y + self.scale_2 * self.mlp(self.norm_2(y))
        return y.reshape(batch, depth, channels, height, width).transpose(1, 2)


class ELANResMSCAUNet(nn.Module):
    """The whole network (Figure 2) and, by its arguments, the three ablations of Tables 1 and 2.

    Args:
        in_channels: channels of the input.
        out_channels: logits a voxel; the paper trains one binary network a stage.
        width: channels at full resolution; each of the four poolings doubles them.
        block: "elanres" or "double" (the baseline's plain block).
        msca_levels: encoder levels (0 to 4) that end with MSCA; () for none.
        head_scale: upsampling (z, y, x) of the finest output beyond the input's grid; (1, 2, 2)
            undoes the paper's halving in the plane.
    """

    dimensions = 3
    levels = 5

    def __init__(
        self,
        *,
        in_channels: int = 1,
        out_channels: int = 1,
        width: int = 32,
        block: str = "elanres",
        msca_levels: Sequence[int] = (1, 2, 3, 4),
        head_scale: Sequence[int] = (1, 2, 2),
    ) -> None:
        super().__init__()
        if block not in BLOCKS:
            raise ValueError(f"Unknown block {block!r}; choose one of {sorted(BLOCKS)}.")
        channels = [width * 2**level for level in range(self.levels)]
        make = BLOCKS[block]
        self.in_channels = in_channels
        self.head_scale = tuple(head_scale)
        self.divisor = 2 ** (self.levels - 1)
        self.encoders = nn.ModuleList(
            make(ci, co) for ci, co in zip([in_channels, *channels[:-1]], channels, strict=True)
        )
        self.attentions = nn.ModuleList(
            MSCA(co) if level in msca_levels else nn.Identity() for level, co in enumerate(channels)
        )
        pairs = list(zip(channels[1:], channels[:-1], strict=True))
        self.ups = nn.ModuleList(nn.ConvTranspose3d(ci, co, 2, stride=2) for ci, co in pairs)
        self.decoders = nn.ModuleList(make(2 * co, co) for _, co in pairs)
        self.heads = nn.ModuleList(nn.Conv3d(co, out_channels, 1) for _, co in pairs)
        self.deployed = False
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=(2 * module.groups / fan_out) ** 0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor | dict[str, list[Tensor]]:
        """`(B, in_channels, D, H, W)` to logits `(B, out_channels, *(size * head_scale))`.

        In training mode all four outputs on that grid, finest first: the paper's loss3 to loss0.

        Raises:
            ValueError: a size is no multiple of 16.
        """
        check_input(x, self.in_channels, self.divisor)
        features: list[Tensor] = []
        for level, (encoder, attention) in enumerate(
            zip(self.encoders, self.attentions, strict=True)
        ):
            x = attention(encoder(F.max_pool3d(x, 2) if level else x))
            features.append(x)
        for level in reversed(range(self.levels - 1)):
            x = self.decoders[level](torch.cat([self.ups[level](x), features[level]], dim=1))
            features[level] = x
        if not self.training:
            return self._output(features[0], 0)
        return {"heads": [self._output(features[i], i) for i in range(self.levels - 1)]}

    def _output(self, features: Tensor, level: int) -> Tensor:
        """1x1x1 convolution, then trilinear upsampling to the grid of the finest output."""
        logits = self.heads[level](features)
        scale = tuple(float(s * 2**level) for s in self.head_scale)
        if all(s == 1 for s in scale):
            return logits
        return F.interpolate(logits, scale_factor=scale, mode="trilinear", align_corners=False)

    def train(self, mode: bool = True) -> ELANResMSCAUNet:
        """Switch modes.

        Raises:
            RuntimeError: training is asked of a deployed network.
        """
        if mode and getattr(self, "deployed", False):
            raise RuntimeError(
                "A deployed ELANRes-MSCA-UNet has no BatchNorm left and cannot be trained; "
                "train from a checkpoint of the training form."
            )
        super().train(mode)
        return self

    def deploy(self) -> ELANResMSCAUNet:
        """Fold, in place and for good, the RepUnits and 1x1x1 convolutions of all ELANResBlocks.

        Returns the network itself, in evaluation mode. A second call changes nothing.
        """
        self.eval()
        if not self.deployed:
            _deploy_children(self)
            self.deployed = True
        return self


def _deploy_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, (RepUnit, ConvNorm)):
            setattr(module, name, child.deploy().eval())
        else:
            _deploy_children(child)
