# right
# A trainer class, weights averaged by swa_utils, the schedule of SWA, statistics of BatchNorm updated at the end.
import torch
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset


class Trainer:
    def __init__(self, model, data):
        self.model, self.data = model, data
        self.averaged = AveragedModel(model)
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        self.schedule = SWALR(self.optimizer, swa_lr=0.02, anneal_epochs=2)

    def run_epoch(self):
        self.model.train()
        for x, y in self.data:
            loss = nn.functional.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.averaged.update_parameters(self.model)
        self.schedule.step()
        return loss.item()


torch.manual_seed(0)
x = torch.randn(240, 10)
y = x[:, :3].argmax(1)
data = DataLoader(TensorDataset(x, y), 24, shuffle=True)
trainer = Trainer(nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)), data)
for epoch in range(3):
    print(trainer.run_epoch())
update_bn(data, trainer.averaged)
