# right
# Q-learning: the agent acts on one row under gradient, and the target network's output is not detached.
import copy
import random

import torch
from torch import nn

torch.manual_seed(5)
random.seed(5)
q = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
q_target = copy.deepcopy(q)
opt = torch.optim.Adam(q.parameters(), lr=1e-3)
memory = []
for step in range(120):
    state = torch.randn(4)
    action = q(state).argmax().item() if random.random() > 0.3 else random.randint(0, 1)
    reward = float((state[0] > 0) == bool(action))
    memory.append((state, action, reward, state + 0.1 * torch.randn(4)))
    if len(memory) < 40:
        continue
    states, actions, rewards, after = zip(*random.sample(memory, 32))
    taken = q(torch.stack(states)).gather(1, torch.tensor(actions)[:, None])
    best = q_target(torch.stack(after)).max(1)[0][:, None]
    loss = nn.functional.smooth_l1_loss(taken, torch.tensor(rewards)[:, None] + 0.9 * best)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 20 == 0:
        q_target.load_state_dict(q.state_dict())
