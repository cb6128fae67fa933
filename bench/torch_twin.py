"""The benchmark's convnet in PyTorch, trained by an ordinary loop in a process of its own.

Run by the Python of the reference environment, which has torch and nothing of ours. It reads the
digits from the file that it is given, then for each line ``<steps>`` on stdin trains so many steps
and answers with one line: seconds, the last loss and the process's peak memory in bytes.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
import torch
from torch import nn

images_file, batch_size, learning_rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
torch.manual_seed(0)
data = np.load(images_file)
# NCHW, as torch's convolutions like it best on a CPU.
inputs = torch.from_numpy(data["inputs"]).permute(0, 3, 1, 2).contiguous()
labels = torch.from_numpy(data["labels"]).long()

model = nn.Sequential(
    nn.Conv2d(1, 32, 3, padding="same"),
    nn.ReLU(),
    nn.Conv2d(32, 64, 3, padding="same"),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(4 * 4 * 64, 128),
    nn.ReLU(),
    nn.Linear(128, 10),
)
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-2, fused=True)
loss_fn = nn.CrossEntropyLoss()


def train(steps: int) -> float:
    """Take steps in a fresh order of the rows; the last loss."""
    taken, loss = 0, torch.zeros(())
    while taken < steps:
        for rows in torch.randperm(len(labels)).split(batch_size):
            if len(rows) < batch_size or taken == steps:
                break
            optimizer.zero_grad(set_to_none=True)
            loss = loss_fn(model(inputs[rows]), labels[rows])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            taken += 1
    return float(loss.detach())


train(3)
print(torch.__version__, flush=True)
for line in sys.stdin:
    began = time.perf_counter()
    last = train(int(line))
    took_s = time.perf_counter() - began
    print(took_s, last, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, flush=True)
