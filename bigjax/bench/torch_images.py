"""ResNet-50 and ViT-S/16 in PyTorch, for `bigjax.bench.torch_peer`."""
import torch
from torch import nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """Three convolutions with batch norms, the stride in the middle one, and a projected shortcut where the shape changes."""

    def __init__(self, channels, width, stride):
        super().__init__()
        conv = lambda a, b, size, by=1: nn.Sequential(nn.Conv2d(a, b, size, by, size // 2, bias=False), nn.BatchNorm2d(b))
        self.layers = nn.ModuleList([conv(channels, width, 1), conv(width, width, 3, stride), conv(width, 4 * width, 1)])
        self.shortcut = conv(channels, 4 * width, 1, stride) if channels != 4 * width or stride > 1 else nn.Identity()

    def forward(self, x):
        first, second, third = self.layers
        return F.relu(self.shortcut(x) + third(F.relu(second(F.relu(first(x))))))


def resnet50(classes=1000):
    """Stem, 3 + 4 + 6 + 3 blocks, global average."""
    blocks, channels = [], 64
    for stage, number in enumerate((3, 4, 6, 3)):
        for i in range(number):
            blocks.append(Bottleneck(channels, 64 << stage, 2 if i == 0 and stage else 1))
            channels = 4 * (64 << stage)
    return nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks,
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class ViT(nn.Module):
    """Pre-norm blocks with fused attention, learned positions, a class token."""

    def __init__(self, width=384, layers=12, heads=6, patch=16, patches=196, classes=1000):
        super().__init__()
        self.heads = heads
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.token, self.position = (nn.Parameter(torch.zeros(1, n, width)) for n in (1, patches + 1))
        norm = lambda: nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList([nn.ModuleList([
            norm(), nn.Linear(width, 3 * width), nn.Linear(width, width), norm(), nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width)]) for _ in range(layers)])
        self.norm, self.head = norm(), nn.Linear(width, classes)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        B, T, _ = x.shape
        for norm_1, qkv, out, norm_2, up, down in self.blocks:
            q, k, v = (y.view(B, T, self.heads, -1).transpose(1, 2) for y in qkv(norm_1(x)).chunk(3, dim=-1))
            x = x + out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, T, -1))
            x = x + down(F.gelu(up(norm_2(x))))
        return self.head(self.norm(x)[:, 0])
