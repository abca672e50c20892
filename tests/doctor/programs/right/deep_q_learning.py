# right
# Q-learning with replay and a target network that is copied from time to time.
import collections
import copy
import random
import torch
from torch import nn

random.seed(0)
torch.manual_seed(0)
q = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
target = copy.deepcopy(q)
opt = torch.optim.Adam(q.parameters(), lr=1e-3)
memory = collections.deque(maxlen=500)
state = torch.randn(4)
for step in range(90):
    with torch.no_grad():
        action = random.randrange(3) if random.random() < 0.2 else q(state[None]).argmax(1).item()
    after = (0.8 * state + 0.2 * torch.randn(4)).clone()
    reward = after[action].item()
    memory.append((state, action, reward, after))
    state = after
    if len(memory) < 32:
        continue
    batch = random.sample(memory, 32)
    s, a = torch.stack([b[0] for b in batch]), torch.tensor([b[1] for b in batch])
    r, s2 = torch.tensor([b[2] for b in batch]), torch.stack([b[3] for b in batch])
    with torch.no_grad():
        wanted = r + 0.9 * target(s2).max(1).values
    loss = nn.functional.smooth_l1_loss(q(s).gather(1, a[:, None])[:, 0], wanted)
    opt.zero_grad()
    loss.backward()
    nn.utils.clip_grad_value_(q.parameters(), 1.0)
    opt.step()
    if step % 20 == 0:
        target.load_state_dict(q.state_dict())
print(loss.item())
