"""The same models in PyTorch, for `bigjax.bench` alone: eager on a CPU, `torch.compile` on a GPU.

This and torch_images.py are the modules of the package that import torch; nothing but the bench imports them.
"""
import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bigjax.bench import torch_images


class ResNet(nn.Module):
    """Stem and three basic blocks of 64 channels, batch norm throughout, global average."""

    def __init__(self, width=64, blocks=3, classes=10):
        super().__init__()
        conv = lambda cin: nn.Conv2d(cin, width, 3, padding=1, bias=False)
        self.convs = nn.ModuleList([conv(3), *(conv(width) for _ in range(2 * blocks))])
        self.norms = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(2 * blocks + 1)])
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = F.relu(self.norms[0](self.convs[0](x)))
        for i in range(1, len(self.convs), 2):
            h = F.relu(self.norms[i](self.convs[i](x)))
            x = F.relu(x + self.norms[i + 1](self.convs[i + 1](h)))
        return self.head(x.mean((2, 3)))


class LSTM(nn.Module):
    """Two layers of 256, the last output classified."""

    def __init__(self, width=256, classes=10):
        super().__init__()
        self.rnn, self.head = nn.LSTM(width, width, 2, batch_first=True), nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class GRU(nn.Module):
    """The GRU of MNIST-1D: six features in each direction, all outputs classified."""

    def __init__(self, width=6, length=40, classes=10):
        super().__init__()
        self.rnn, self.head = nn.GRU(1, width, bidirectional=True, batch_first=True), nn.Linear(2 * width * length, classes)

    def forward(self, x):
        return self.head(self.rnn(x[..., None])[0].flatten(1))


class GPT(nn.Module):
    """GPT-2's blocks without biases, fused attention, the head tied to the embedding."""

    def __init__(self, layers, heads, width, length, vocab=65):
        super().__init__()
        self.heads = heads
        self.token, self.position = nn.Embedding(vocab, width), nn.Embedding(length, width)
        norm = lambda: nn.LayerNorm(width, bias=False)
        dense = lambda a, b: nn.Linear(a, b, bias=False)
        self.blocks = nn.ModuleList([nn.ModuleList([norm(), dense(width, 3 * width), dense(width, width), norm(),
                                                    dense(width, 4 * width), dense(4 * width, width)]) for _ in range(layers)])
        self.norm = norm()
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens):
        B, T = tokens.shape
        x = self.token(tokens) + self.position.weight[:T]
        for norm_1, qkv, out, norm_2, up, down in self.blocks:
            q, k, v = (y.view(B, T, self.heads, -1).transpose(1, 2) for y in qkv(norm_1(x)).chunk(3, dim=-1))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + out(y.transpose(1, 2).reshape(B, T, -1))
            x = x + down(F.gelu(up(norm_2(x)), approximate='tanh'))
        return F.linear(self.norm(x), self.token.weight).flatten(0, 1)


def dcgan(latent=100, width=64, channels=3):
    """(generator, discriminator) of 64 x 64 images."""
    up = lambda a, b, stride, pad: nn.ConvTranspose2d(a, b, 4, stride, pad, bias=False)
    down = lambda a, b: nn.Conv2d(a, b, 4, 2, 1, bias=False)
    generator, discriminator = [up(latent, 8 * width, 1, 0)], [down(channels, width), nn.LeakyReLU(0.2)]
    for wide in (8 * width, 4 * width, 2 * width):
        generator += [nn.BatchNorm2d(wide), nn.ReLU(), up(wide, wide // 2, 2, 1)]
    generator += [nn.BatchNorm2d(width), nn.ReLU(), up(width, channels, 2, 1), nn.Tanh()]
    for wide in (width, 2 * width, 4 * width):
        discriminator += [down(wide, 2 * wide), nn.BatchNorm2d(2 * wide), nn.LeakyReLU(0.2)]
    discriminator += [nn.Conv2d(8 * width, 1, 4, bias=False), nn.Flatten(0)]
    return nn.Sequential(*generator), nn.Sequential(*discriminator)


def adversarial_stepper(images: np.ndarray, latent=100):
    """`run(n)`: n steps of DCGAN (Adam of 2e-4, b1 = 0.5), each one update of both networks; the losses are read at the end."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    nets = [net.to(device) for net in dcgan(latent)]
    generator, discriminator = [torch.compile(net) for net in nets] if device == 'cuda' else nets
    g_adam, d_adam = (torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in nets)
    real = torch.tensor(images.transpose(0, 3, 1, 2).copy(), device=device)

    def run(n: int) -> float:
        for _ in range(n):
            fake = generator(torch.randn(len(real), latent, 1, 1, device=device))
            d_adam.zero_grad()
            d_loss = F.softplus(-discriminator(real)).mean() + F.softplus(discriminator(fake.detach())).mean()
            d_loss.backward()
            d_adam.step()
            g_adam.zero_grad()
            g_loss = F.softplus(-discriminator(fake)).mean()
            g_loss.backward()
            g_adam.step()
        return d_loss.item() + g_loss.item()

    return run


def _mlp():
    sizes = (784, 1024, 1024, 1024)
    layers = [m for a, b in itertools.pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(1024, 10))


def _lenet5():
    return nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(),
                         nn.AvgPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(),
                         nn.Linear(84, 10))


def _lenet():
    return nn.Sequential(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5, padding=2),
                         nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 49, 1024), nn.ReLU(), nn.Linear(1024, 10))


MODELS = {'mlp': _mlp, 'lenet5': _lenet5, 'lenet': _lenet, 'resnet': ResNet, 'lstm': LSTM, 'gru': GRU,
          'gpt_small': lambda: GPT(4, 4, 128, 64), 'gpt': lambda: GPT(6, 6, 384, 256), 'gpt_long': lambda: GPT(6, 6, 384, 1024),
          'resnet50': torch_images.resnet50, 'vit_s16': torch_images.ViT}


def parameters(case: str) -> int:
    """The number of parameters of the peer's model."""
    return sum(p.numel() for p in MODELS[case]().parameters())


def stepper(case: str, x: np.ndarray, label: np.ndarray):
    """`run(n)`: n training steps (SGD with momentum 0.9, mean cross entropy) on one batch; the loss is read at the end."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = MODELS[case]().to(device)
    if x.ndim == 4:
        x = x.transpose(0, 3, 1, 2).copy()
    x, label = torch.tensor(x, device=device), torch.tensor(label, device=device).long().flatten()
    x = x if x.is_floating_point() else x.long()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    forward = torch.compile(model) if device == 'cuda' else model

    def run(n: int) -> float:
        for _ in range(n):
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(x), label)
            loss.backward()
            optimizer.step()
        return loss.item()

    return run


def version() -> str:
    """PyTorch's."""
    return torch.__version__
