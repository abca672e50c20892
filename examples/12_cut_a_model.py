"""Features from a trained network: take its head off, keep what its forward does, and find digits that look alike.

    pip install linkboy scikit-learn
    python examples/12_cut_a_model.py

`nn.Sequential(*list(model.children())[:-1])` runs as well, and computes something else: it loses the residual sums.
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import linkboy as lb


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Linear(64, 48), nn.Linear(48, 48), nn.Linear(48, 48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.one(x).relu()
        return self.head(x + self.two(x).relu())


torch.manual_seed(0)
images, digits = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(digits)
train, test = torch.randperm(len(x)).split([1200, 597])
model = Residual()
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
for _ in range(40):
    optimizer.zero_grad()
    F.cross_entropy(model(x[train]), y[train]).backward()
    optimizer.step()

model.eval()
copied = nn.Sequential(*list(model.children())[:-1])
weight, bias = model.head.weight, model.head.bias
with torch.no_grad():
    answers, wrong = model(x[test]), copied(x[test])
report = lb.replace_layer(model, "head", nn.Identity(), example=x[:2])
print(report)
with torch.no_grad():
    features = model(x)
    print(f"the features give the same answers: {torch.allclose(F.linear(features[test], weight, bias), answers)}")
    print(f"those of the snippet do: {torch.allclose(F.linear(wrong, weight, bias), answers)}")

neighbours = KNeighborsClassifier(5).fit(features[train], y[train])
print(f"5 nearest neighbours on the features: {100 * neighbours.score(features[test], y[test]):.1f}% right")
