"""The U-Net of `bigjax.models.diffusion` in PyTorch, with our names for its parts; for `bigjax.bench` and its tests alone."""
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """A residual block [B, C, H, W] -> [B, F, H, W]."""

    def __init__(self, channels, features, groups, width):
        super().__init__()
        self.norm_0, self.norm_1 = nn.GroupNorm(groups, channels, 1e-6), nn.GroupNorm(groups, features, 1e-6)
        self.conv_0, self.conv_1 = nn.Conv2d(channels, features, 3, padding=1), nn.Conv2d(features, features, 3, padding=1)
        self.condition = nn.Linear(4 * width, features)
        self.shortcut = nn.Conv2d(channels, features, 1) if channels != features else nn.Identity()

    def forward(self, x, condition):
        h = self.conv_0(F.silu(self.norm_0(x))) + self.condition(condition)[:, :, None, None]
        return self.shortcut(x) + self.conv_1(F.silu(self.norm_1(h)))


class Attention(nn.Module):
    """Attention over the places of an image, added to it."""

    def __init__(self, features, groups, heads):
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(groups, features, 1e-6), heads
        self.attn = nn.ModuleDict({name: nn.Linear(features, features) for name in ('query', 'key', 'value', 'out')})

    def forward(self, x):
        h = self.norm(x).flatten(2).transpose(1, 2)
        q, k, v = (self.attn[name](h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ('query', 'key', 'value'))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.attn['out'](y).transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    """Images [B, C, H, W], times and classes [B] -> [B, C, H, W]; `ours` is the linen module that it is a twin of."""

    def __init__(self, ours, side, channels):
        super().__init__()
        self.ours, width, places = ours, ours.width, ours.patch ** 2 * channels
        self.time_0, self.time_1 = nn.Linear(width, 4 * width), nn.Linear(4 * width, 4 * width)
        if ours.num_classes:
            self.label_embed = nn.Embedding(ours.num_classes + 1, 4 * width)
        self.conv_in, parts = nn.Conv2d(places, width, 3, padding=1), {}
        widths, kept, features, at = [m * width for m in ours.multipliers], [width], width, side // ours.patch

        def add(name, given, made):
            parts[name] = Block(given, made, ours.groups, width)
            if at in ours.attention:
                parts[f'{name}_attn'] = Attention(made, ours.groups, ours.heads)
            return made

        for level, made in enumerate(widths):
            for i in range(ours.blocks):
                features = add(f'down_{level}_{i}', features, made)
                kept.append(features)
            if level < len(widths) - 1:
                parts[f'down_{level}_pool'] = nn.Conv2d(made, made, 3, stride=2)
                kept.append(made)
                at //= 2
        parts['middle_0'], parts['middle_1'] = (Block(features, features, ours.groups, width) for _ in range(2))
        parts['middle_attn'] = Attention(features, ours.groups, ours.heads)
        for level, made in reversed(list(enumerate(widths))):
            for i in range(ours.blocks + 1):
                features = add(f'up_{level}_{i}', features + kept.pop(), made)
            if level:
                parts[f'up_{level}_grow'] = nn.Conv2d(made, made, 3, padding=1)
                at *= 2
        for name, part in parts.items():
            self.add_module(name, part)
        self.norm_out, self.conv_out = nn.GroupNorm(ours.groups, width, 1e-6), nn.Conv2d(width, places, 3, padding=1)

    def forward(self, x, time, label=None):
        ours, half = self.ours, self.ours.width // 2
        parts = dict(self.named_children())
        angle = time[:, None] * torch.exp(-math.log(10_000) * torch.arange(half, device=x.device) / (half - 1))
        c = self.time_1(F.silu(self.time_0(torch.cat([angle.sin(), angle.cos()], 1))))
        c = F.silu(c + self.label_embed(label) if ours.num_classes else c)

        def block(x, name):
            x = parts[name](x, c)
            return parts[f'{name}_attn'](x) if f'{name}_attn' in parts else x

        x = self.conv_in(self._places(x))
        kept = [x]
        for level in range(len(ours.multipliers)):
            for i in range(ours.blocks):
                x = block(x, f'down_{level}_{i}')
                kept.append(x)
            if f'down_{level}_pool' in parts:
                x = parts[f'down_{level}_pool'](F.pad(x, (0, 1, 0, 1)))  # TensorFlow's 'SAME' of an even side
                kept.append(x)
        x = parts['middle_1'](parts['middle_attn'](parts['middle_0'](x, c)), c)
        for level in reversed(range(len(ours.multipliers))):
            for i in range(ours.blocks + 1):
                x = block(torch.cat([x, kept.pop()], 1), f'up_{level}_{i}')
            if level:
                x = parts[f'up_{level}_grow'](F.interpolate(x, scale_factor=2, mode='nearest'))
        x = self.conv_out(F.silu(self.norm_out(x)))
        return x if ours.patch == 1 else self._pixels(x)

    def _places(self, x):
        """The channels of a place in our order: row, column, channel."""
        if self.ours.patch == 1:
            return x
        B, C, H, W = x.shape
        p = self.ours.patch
        x = x.reshape(B, C, H // p, p, W // p, p).permute(0, 3, 5, 1, 2, 4)
        return x.reshape(B, p * p * C, H // p, W // p)

    def _pixels(self, x):
        B, F_, h, w = x.shape
        p = self.ours.patch
        x = x.reshape(B, p, p, F_ // p ** 2, h, w).permute(0, 3, 4, 1, 5, 2)
        return x.reshape(B, F_ // p ** 2, h * p, w * p)

    def load(self, params):
        """Takes over parameters of ours, a tree of arrays."""
        with torch.no_grad():
            for name, target in self.named_parameters():
                *place, leaf = name.split('.')
                leaves = params
                for part in place:
                    leaves = leaves[part]
                value = np.asarray(next(leaves[key] for key in ('kernel', 'scale', 'embedding') if key in leaves)
                                   if leaf == 'weight' else leaves['bias'])
                if value.ndim == 4:
                    value = value.transpose(3, 2, 0, 1)
                elif value.ndim == 2 and place[-1] != 'label_embed':
                    value = value.T
                target.copy_(torch.tensor(value.copy()).reshape(target.shape))
        return self


def training_stepper(ours, images: np.ndarray, table: np.ndarray):
    """`run(n)`: n steps of Ho et al. 2020, algorithm 1, by Adam of 2e-4 on one batch [B, H, W, C]; `table` [T + 1, 2] has the
    signal and the noise after each number of steps."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    net = UNet(ours, images.shape[1], images.shape[-1]).to(device)
    forward = torch.compile(net) if device == 'cuda' else net
    adam = torch.optim.Adam(net.parameters(), 2e-4)
    x = torch.tensor(images.transpose(0, 3, 1, 2).copy(), device=device)
    levels = torch.tensor(table, dtype=torch.float32, device=device)

    def run(n: int) -> float:
        for _ in range(n):
            step = torch.randint(1, len(levels), (len(x),), device=device)
            a, s = levels[step].T[..., None, None, None]
            noise = torch.randn_like(x)
            adam.zero_grad()
            loss = F.mse_loss(forward(a * x + s * noise, (step - 1).float()), noise)
            loss.backward()
            adam.step()
        return loss.item()

    return run


def sampler(ours, shape, count: int, grid):
    """`run(n)`: n times `count` images by DDIM along `grid`, (model time, a, s, next a, next s) of each step."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    net = UNet(ours, shape[0], shape[-1]).to(device).eval()
    forward = torch.compile(net) if device == 'cuda' else net
    label = torch.arange(count, device=device) % ours.num_classes if ours.num_classes else None

    @torch.no_grad()
    def run(n: int) -> float:
        for _ in range(n):
            x_t = torch.randn(count, shape[-1], *shape[:2], device=device)
            for time, a, s, next_a, next_s in grid:
                noise = forward(x_t, torch.full((count,), time, device=device), label)
                x = ((x_t - s * noise) / a).clamp(-1, 1)
                x_t = next_a * x + next_s * (x_t - a * x) / s
        return x_t.sum().item()

    return run
