"""The three classes that the published models.py takes from timm, for a machine without timm.

They have the same arguments (those that DiT passes), parameter names and computation as timm's;
`test_peer.py` compares them. timm is at https://github.com/huggingface/pytorch-image-models.
"""

import sys
import types

import torch
from torch import nn
from torch.nn import functional


class PatchEmbed(nn.Module):
    """Patches [B, N, D] of images [B, C, H, W], in raster order."""

    def __init__(self, img_size, patch_size, in_chans, embed_dim, bias=True):
        super().__init__()
        self.patch_size = (patch_size, patch_size)
        self.num_patches = (img_size // patch_size) ** 2
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size, bias=bias)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Self-attention over tokens [B, N, D], by PyTorch's fused kernel."""

    def __init__(self, dim, num_heads, qkv_bias=False):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, d // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, N, D/H]
        heads = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(heads.transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, in_features, hidden_features, act_layer, drop=0.0):
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, in_features)
        self.drop = nn.Dropout(drop)

    def forward(self, x):
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


def stand_in() -> str:
    """Install this module in place of timm if timm is missing; return whose classes are used."""
    try:
        from timm.models.vision_transformer import Attention, Mlp, PatchEmbed  # noqa: F401
    except ImportError:
        for name in ("timm", "timm.models"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["timm.models.vision_transformer"] = sys.modules[__name__]
        return f"stand-ins for timm's three classes (torch {torch.__version__})"
    import timm

    return f"timm {timm.__version__}"
