"""Crop, flip and normalise at 32×32: images per second and core."""

import torch
from torchvision import transforms

from benchmarks.timing import Row, paired, spread
from gifthorse.core.classifier import Normalise
from gifthorse.core.images import to_floats
from gifthorse.training.augment import shift_and_flip

IMAGES, BATCH = 20_480, 128


def measure() -> list[Row]:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=random, dtype=torch.uint8)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    normalise = Normalise([0.5] * 3, [0.25] * 3)
    order = torch.randperm(IMAGES, generator=random)

    def ours() -> None:
        for index in order.split(BATCH):
            normalise(to_floats(shift_and_flip(pixels[index], 4, True, random)))

    per_image = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(32, 4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )
    few = pixels[:1024].contiguous()

    def one_by_one() -> None:
        torch.stack([per_image(image) for image in few])

    pairs = paired(ours, one_by_one, rounds=5)
    share = IMAGES / len(few)
    return [
        (
            "data preparation",
            f"{IMAGES / pairs.ours:,.0f} images/s/core",
            "≥ 30,000",
            "crop + flip + normalise, 32×32 colour",
        ),
        (
            "… against torchvision, image by image",
            f"{spread((share * other / mine for mine, other in pairs.rounds), '.1f')}×",
            "",
            "ToPILImage … Normalize, one core",
        ),
    ]
