"""A forecast judged by NWRMSLE, the weighted logarithmic error of sales competitions, beside scikit-learn.

The table is the diabetes set that comes with scikit-learn, a positive target and ten columns, in place of sales that would
have to be downloaded. The weights are invented: every fourth row counts 1.25, as perishable goods do there.

    python examples/sales_forecast.py
"""

import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from sklearn.metrics import root_mean_squared_log_error

import linkboy as lb

generator = torch.Generator().manual_seed(0)
table, amount = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
table = (table - table.mean(0)) / table.std(0)
weight = torch.where(torch.arange(len(amount)) % 4 == 0, 1.25, 1.0)
train, test = torch.randperm(len(amount), generator=generator).split([342, 100])


def nwrmsle(predicted: torch.Tensor) -> float:
    """The score of the test rows, by scikit-learn, from predictions on the log scale."""
    return root_mean_squared_log_error(amount[test], predicted.expm1(), sample_weight=weight[test])


mean = lb.weighted_mean(amount[train].log1p(), weight[train])
plain = LinearRegression().fit(table[train], amount[train], sample_weight=weight[train])
on_log = LinearRegression().fit(table[train], amount[train].log1p(), sample_weight=weight[train])

# The loss compares log(1 + amount), so the model predicts that, starts at its mean, and can never leave the domain.
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Dropout(0.2), torch.nn.Linear(32, 1))
torch.nn.init.constant_(model[-1].bias, mean.item())
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.3)
for _ in range(150):
    optimizer.zero_grad()
    loss = lb.rmsle_loss(model(table[train]).squeeze(1), amount[train], sample_weight=weight[train], log_input=True)
    loss.backward()
    optimizer.step()

model.eval()
with torch.no_grad():
    ours = model(table[test]).squeeze(1)
same = lb.rmsle_loss(ours, amount[test], sample_weight=weight[test], log_input=True).item()
assert abs(same - nwrmsle(ours)) < 1e-5, "the loss is the score"

print("NWRMSLE of 100 test rows (lower is better)")
print(f"  constant                         {nwrmsle(mean.expand(100)):.4f}")
print(
    f"  LinearRegression                 {nwrmsle(torch.tensor(plain.predict(table[test])).clamp(min=0).log1p()):.4f}"
)
print(f"  LinearRegression on the log      {nwrmsle(torch.tensor(on_log.predict(table[test]))):.4f}")
print(f"  small network under rmsle_loss   {nwrmsle(ours):.4f}")
