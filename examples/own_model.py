"""A model of your own, inspected without any of gifthorse's training: wrap it, give it clean images, ask.

Run:  python examples/own_model.py
"""

from pathlib import Path

import torch
from torch import nn

from gifthorse import DATASETS, Classifier, Images, ModelView
from gifthorse.defenses.inspection.neural_cleanse import NeuralCleanse


def train_your_network(images: Images) -> nn.Module:
    """Train any network; a bare one here, on inputs from -1 to 1."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(150):
        loss = nn.functional.cross_entropy(network(images.floats() * 2 - 1), images.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def main() -> None:
    """Wrap the network and let Neural Cleanse look at it."""
    splits = DATASETS.build("digits").load(Path("data"))
    network = train_your_network(splits.train)
    model = Classifier.wrap(network, mean=[0.5], std=[0.5], example_shape=splits.train.shape).eval()
    verdict = NeuralCleanse(steps=100, batches=1).defend(ModelView(model, splits.holdout), seed=0)
    print(f"found the head '{model.head_name}' and the stages {', '.join(model.stage_names)}")
    print(f"anomaly index {verdict.anomaly_index:.2f}, suspect class: {verdict.suspect}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
