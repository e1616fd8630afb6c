"""Lower precision where the machine computes it natively."""

from contextlib import AbstractContextManager, nullcontext

import torch


def has_native_bfloat16(device: torch.device) -> bool:
    """Say whether bfloat16 convolutions are faster than float32 on this device, not emulated."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
    return False


def fast_arithmetic(device: torch.device) -> AbstractContextManager[object]:
    """Return an autocast to bfloat16 where that is native, and a context that does nothing elsewhere."""
    return torch.autocast(device.type, torch.bfloat16) if has_native_bfloat16(device) else nullcontext()


def fast_on_gpu(device: torch.device) -> AbstractContextManager[object]:
    """Return the same on a GPU alone, for whoever depends on a CPU's last digits."""
    return fast_arithmetic(device) if device.type == "cuda" else nullcontext()
