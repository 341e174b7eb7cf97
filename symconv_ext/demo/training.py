"""The demo's training: one row of the table, seeded, with a progress bar."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median

import torch
from torch.nn import functional as F
from tqdm import tqdm

from .data import Digits
from .model import VARIANTS, DigitNet

BATCH_SIZE = 64
LEARNING_RATE = 5e-3  # the highest of the one-cycle schedule


@dataclass
class Row:
    """One trained network and how it got there, epoch by epoch."""

    name: str
    model: DigitNet
    loss: list[float] = field(default_factory=list)  # mean cross entropy over the epoch's training batches
    accuracy: list[float] = field(default_factory=list)  # fraction of the test images that are recognised
    seconds: list[float] = field(default_factory=list)  # training time, testing not counted

    @property
    def seconds_per_epoch(self) -> float:
        """Median over the epochs."""
        return median(self.seconds)


def train(name: str, data: Digits, epochs: int, seed: int) -> Row:
    """Trains the variant ``name`` for ``epochs`` passes over the training images.

    Every variant starts from the same ``seed``, which decides initial weights, batches and dropout. The
    random state of torch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        row = Row(name, DigitNet(VARIANTS[name]))
        batches = -(-len(data.train_images) // BATCH_SIZE)
        optimizer = torch.optim.AdamW(row.model.parameters(), weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, epochs * batches)
        with tqdm(total=epochs * batches, desc=f"{name:>21}", unit="batch", mininterval=0.2) as bar:
            for _ in range(epochs):
                _train_epoch(row, data, optimizer, schedule, bar)
                row.accuracy.append(accuracy(row.model, data))
                bar.set_postfix_str(f"loss {row.loss[-1]:.3f}, test accuracy {row.accuracy[-1]:.1%}")
    return row


def accuracy(model: DigitNet, data: Digits) -> float:
    """The fraction of the test images that ``model`` recognises, without dropout."""
    model.eval()
    with torch.no_grad():
        hits = model(data.test_images).argmax(1) == data.test_labels
    return hits.float().mean().item()


def _train_epoch(
    row: Row,
    data: Digits,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    bar: tqdm,
) -> None:
    row.model.train()
    total = 0.0
    start = time.perf_counter()
    for batch in torch.randperm(len(data.train_images)).split(BATCH_SIZE):
        loss = F.cross_entropy(row.model(data.train_images[batch]), data.train_labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * len(batch)
        bar.update()
    row.seconds.append(time.perf_counter() - start)
    row.loss.append(total / len(data.train_images))
