"""An independent Vision Transformer in PyTorch with DINO's key names, as the oracle of the port.

Written from the published layout, with PyTorch's own attention and bicubic interpolation.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch_small_nets import imagenet


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.heads = width // 64

    def forward(self, x):
        query, key, value = self.qkv(x).chunk(3, -1)
        by_head = [t.unflatten(-1, (self.heads, 64)).transpose(1, 2) for t in (query, key, value)]
        attended = F.scaled_dot_product_attention(*by_head).transpose(1, 2).flatten(2)
        return self.proj(attended), key


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def forward(self, x):
        attended, keys = self.attn(self.norm1(x))
        x = x + attended
        return x + self.mlp(self.norm2(x)), keys


class PatchEmbed(nn.Module):
    def __init__(self, width, patch):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)


class ViT(nn.Module):
    def __init__(self, width=384, depth=12, patch=8, side=224):
        super().__init__()
        self.patch, self.side, self.grid = patch, side, side // patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.patch_embed = PatchEmbed(width, patch)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def positions(self, size, cells):
        if tuple(size) == (self.side, self.side):
            return self.pos_embed
        square = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (self.grid, self.grid))
        factors = tuple((n + 0.1) / self.grid for n in cells)
        scaled = F.interpolate(square, scale_factor=factors, mode="bicubic")
        assert scaled.shape[2:] == cells
        return torch.cat([self.pos_embed[:, :1], scaled.flatten(2).transpose(1, 2)], 1)

    def forward(self, images):
        """name -> [n, c, h, w] for images [n, 3, h, w] in [0, 1]."""
        x = self.patch_embed.proj(imagenet(images))
        cells = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + self.positions(images.shape[2:], cells)
        taps = {}
        for index, block in enumerate(self.blocks):
            x, keys = block(x)
            taps[f"keys{index}"] = keys[:, 1:].transpose(1, 2).unflatten(2, cells)
        taps["class"] = self.norm(x)[:, 0, :, None, None]
        return taps


def random_vit(seed, **sizes):
    """Evaluation mode; every parameter random, so that none is without effect."""
    model, generator = ViT(**sizes), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            spread = value[0].numel() ** -0.5 if value.ndim > 1 and "blocks" in name else 0.2
            value.normal_(
                1.0 if "norm" in name and "weight" in name else 0.0, spread, generator=generator
            )
    return model.eval()
