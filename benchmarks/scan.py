"""A scan with Neural Cleanse: what it takes beyond the detector itself."""

import tempfile
from pathlib import Path

import torch
from PIL import Image

from benchmarks.timing import Row, paired
from gifthorse.bench.delivered import Delivery, read_delivery
from gifthorse.bench.portfolio import inspector
from gifthorse.bench.scan import ScanRequest, scan
from gifthorse.bench.store import Store
from gifthorse.core.views import ModelView
from gifthorse.models.resnet import ResNet18

REQUEST = "neural_cleanse[steps=40,batches=2]"
MODEL = "resnet18[width=16,blocks=[1,1,1,1]]"
IMAGES, CLASSES = 200, 10


def measure() -> list[Row]:
    random = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        folder, defense = Path(place), inspector(REQUEST)
        for number in range(IMAGES):
            pixels = torch.randint(0, 256, (32, 32, 3), generator=random, dtype=torch.uint8)
            (folder / f"images/{number % CLASSES}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(folder / f"images/{number % CLASSES}/{number}.png")
        model = ResNet18(width=16, blocks=(1, 1, 1, 1)).build((3, 32, 32), CLASSES, 0)
        torch.save(model.network.state_dict(), folder / "model.pt")
        asked = ScanRequest(Delivery(folder / "model.pt", MODEL, data=folder / "images"), (REQUEST,))
        store, device = Store(folder / "store"), torch.device("cpu")
        given = read_delivery(asked.delivery, folder, store.root, device)
        view = ModelView(given.model, given.images)  # type: ignore[arg-type]
        pairs = paired(lambda: scan(asked, store, folder, device, fresh=True), lambda: defense.defend(view, 0), 3)
    return [
        (
            "scan, Neural Cleanse on ten classes of 32×32",
            f"{pairs.added()} beyond the detector",
            "≤ +10 %",
            f"reading, the normalisations compared, accuracy, pictures, the document; {pairs.ours:.1f} s",
        )
    ]
