"""Ten clean models and sixty mistakes: one line of a model replaced by what people write in its place."""

import textwrap

import torch


def normal(*shape):
    return lambda batch: torch.randn(batch, *shape)


def words(batch):
    return torch.randint(1, 50, (batch, 7))


# Each a body of `__init__`, of `forward`, and the inputs.
MODELS = {
    "convolutions": (
        """
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        """,
        """
        def forward(self, x):
            h = self.conv(x)
            h = self.norm(h)
            h = h.relu()
            h = h.mean(dim=(2, 3), keepdim=True)
            h = h.squeeze(-1).squeeze(-1)
            return self.head(h)
        """,
        normal(3, 8, 6),
    ),
    "recurrent": (
        """
        self.embed = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.gru = nn.GRU(6, 6, batch_first=True)
        self.head = nn.Linear(6, 1)
        """,
        """
        def forward(self, ids):
            h = self.embed(ids)
            h = self.lstm(h)[0]
            h = self.gru(h)[0]
            last = h[:, -1]
            score = self.head(last)
            return score.squeeze(-1)
        """,
        words,
    ),
    "attention": (
        """
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, 8)
        """,
        """
        def forward(self, x):
            b, t, c = x.shape
            q = self.q(x).view(b, t, 2, 4).transpose(1, 2)
            k = self.k(x).view(b, t, 2, 4).transpose(1, 2)
            v = self.v(x).view(b, t, 2, 4).transpose(1, 2)
            scores = q @ k.transpose(-2, -1)
            weights = scores.softmax(dim=-1)
            h = weights @ v
            h = h.transpose(1, 2)
            h = h.reshape(b, t, c)
            return self.out(h)
        """,
        normal(6, 8),
    ),
    "encoder": (
        """
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)
        """,
        """
        def forward(self, x):
            h = self.attention(x, x, x, need_weights=False)[0]
            h = self.norm(x + h)
            pooled = h.mean(dim=1)
            logits = self.head(pooled)
            return logits.log_softmax(dim=-1)
        """,
        normal(6, 8),
    ),
    "skip": (
        """
        self.down = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2)
        self.last = nn.Conv2d(4, 2, 1)
        """,
        """
        def forward(self, x):
            h = self.down(x)
            h = self.up(h)
            h = torch.cat([x, h], dim=1)
            h = self.last(h)
            mask = h.softmax(dim=1)
            return mask.flatten(2)
        """,
        normal(2, 8, 6),
    ),
    "regression": (
        """
        self.hidden = nn.Linear(6, 8)
        self.head = nn.Linear(8, 1)
        """,
        """
        def forward(self, x, y):
            h = self.hidden(x).tanh()
            p = self.head(h).squeeze(-1)
            error = p - y
            weight = y.abs() + 1
            loss = F.smooth_l1_loss(p, y, reduction="none")
            return loss * weight + error.abs()
        """,
        lambda batch: (torch.randn(batch, 6), torch.randn(batch)),
    ),
    "pairs": (
        """
        self.encode = nn.Linear(6, 8)
        """,
        """
        def forward(self, a, b):
            a = self.encode(a)
            b = self.encode(b)
            a = a / a.norm(dim=-1, keepdim=True)
            b = b / b.norm(dim=-1, keepdim=True)
            similarity = (a * b).sum(dim=-1)
            return similarity.unsqueeze(-1)
        """,
        lambda batch: (torch.randn(batch, 6), torch.randn(batch, 6)),
    ),
    "detection": (
        """
        self.conv = nn.Conv2d(3, 2 * 4, 1)
        """,
        """
        def forward(self, x):
            b = x.shape[0]
            h = self.conv(x)
            h = h.view(b, 2, 4, 8, 6)
            h = h.permute(0, 3, 4, 1, 2)
            h = h.reshape(b, -1, 4)
            best = h.max(dim=-1).values
            order = best.argsort(dim=1)
            return h.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
        """,
        normal(3, 8, 6),
    ),
    "experts": (
        """
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 4) for _ in range(3))
        """,
        """
        def forward(self, x):
            gates = self.gate(x).softmax(dim=-1)
            out = torch.stack([expert(x) for expert in self.experts], dim=1)
            mixed = gates.unsqueeze(-1) * out
            h = mixed.sum(dim=1)
            top = gates.max(dim=-1, keepdim=True).values
            return h * top
        """,
        normal(6),
    ),
    "series": (
        """
        self.conv = nn.Conv1d(2, 4, 3, padding=1)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)
        """,
        """
        def forward(self, x):
            mean = x.mean(dim=1, keepdim=True)
            std = x.std(dim=1, keepdim=True) + 1e-5
            x = (x - mean) / std
            h = self.conv(x.transpose(1, 2)).transpose(1, 2)
            h = self.norm(h)
            total = h.cumsum(dim=1)
            last = total[:, -1, :]
            return self.head(last)
        """,
        normal(9, 2),
    ),
}

# (model, the line as it is, the line as it is written by mistake)
MUTATIONS = [
    ("convolutions", "h = h.squeeze(-1).squeeze(-1)", "h = h.squeeze()"),
    ("convolutions", "h = h.mean(dim=(2, 3), keepdim=True)", "h = h.mean(dim=(0, 2, 3), keepdim=True)"),
    ("convolutions", "h = h.squeeze(-1).squeeze(-1)", "h = h.view(-1, 4)"),
    ("convolutions", "h = h.squeeze(-1).squeeze(-1)", "h = h.squeeze(-1).squeeze(1)"),
    ("convolutions", "h = self.norm(h)", "h = (h - h.mean()) / h.std()"),
    ("convolutions", "h = self.norm(h)", "h = self.norm(h) if len(h) > 1 else h"),
    ("convolutions", "h = self.norm(h)", "h = F.batch_norm(h, None, None, training=True)"),
    ("convolutions", "h = h.relu()", "h = h.relu() / h.max()"),
    ("recurrent", "h = self.lstm(h)[0]", "h = self.lstm(h.transpose(0, 1).reshape(h.shape))[0]"),
    ("recurrent", "h = self.lstm(h)[0]", "self.lstm.batch_first = False; h = self.lstm(h)[0]"),
    ("recurrent", "h = self.gru(h)[0]", "self.gru.batch_first = False; h = self.gru(h)[0]"),
    ("recurrent", "last = h[:, -1]", "last = h[-1]"),
    ("recurrent", "last = h[:, -1]", "last = h[-1:].expand(len(h), -1, -1)[:, -1]"),
    ("recurrent", "return score.squeeze(-1)", "return score.squeeze()"),
    ("recurrent", "return score.squeeze(-1)", "return score.softmax(dim=0)"),
    ("recurrent", "return score.squeeze(-1)", "return score.mean()"),
    ("attention", "weights = scores.softmax(dim=-1)", "weights = scores.softmax(dim=0)"),
    ("attention", "weights = scores.softmax(dim=-1)", "weights = (scores - scores.max()).exp()"),
    ("attention", "h = h.transpose(1, 2)", "h = h.transpose(0, 2)"),
    ("attention", "h = h.reshape(b, t, c)", "h = h.view(b, t, c)"),
    ("attention", "h = h.reshape(b, t, c)", "h = h.reshape(2, -1, c)"),
    ("attention", "h = h.reshape(b, t, c)", "h = h.reshape(t, b, c)"),
    ("attention", "q = self.q(x).view(b, t, 2, 4).transpose(1, 2)",
     "q = self.q(x).transpose(0, 1).reshape(b, t, 2, 4).transpose(1, 2)"),
    ("attention", "return self.out(h)", "return self.out(h.squeeze())"),
    ("encoder", "h = self.attention(x, x, x, need_weights=False)[0]",
     "self.attention.batch_first = False; h = self.attention(x, x, x, need_weights=False)[0]"),
    ("encoder", "pooled = h.mean(dim=1)", "pooled = h.mean(dim=0)"),
    ("encoder", "h = self.norm(x + h)", "h = self.norm(x + h.flip(0))"),
    ("encoder", "return logits.log_softmax(dim=-1)", "return logits.log_softmax(dim=0)"),
    ("encoder", "return logits.log_softmax(dim=-1)", "return logits.view(-1)"),
    ("encoder", "h = self.norm(x + h)", "h = F.layer_norm(x + h, h.shape)"),
    ("encoder", "pooled = h.mean(dim=1)", "pooled = h.sum(dim=1).squeeze()"),
    ("skip", "h = torch.cat([x, h], dim=1)", "h = torch.cat([x, h], dim=0).reshape(x.shape[0], 4, 8, 6)"),
    ("skip", "mask = h.softmax(dim=1)", "mask = h.softmax(dim=0)"),
    ("skip", "return mask.flatten(2)", "return mask.flatten(0, 1)"),
    ("skip", "return mask.flatten(2)", "return mask.squeeze(1).flatten(2)"),
    ("skip", "return mask.flatten(2)", "return mask.transpose(2, 3).view(mask.shape[0], 2, -1)"),
    ("skip", "h = self.up(h)", "h = self.up(h) if x.shape[0] != 1 else x"),
    ("regression", "p = self.head(h).squeeze(-1)", "p = self.head(h).squeeze()"),
    ("regression", "error = p - y", "error = (p - y.unsqueeze(-1)).mean(dim=1)"),
    ("regression", "error = p - y", "error = (p.unsqueeze(-1) - y).mean(dim=1)"),
    ("regression", 'loss = F.smooth_l1_loss(p, y, reduction="none")', "loss = F.smooth_l1_loss(p, y)"),
    ("regression", 'loss = F.smooth_l1_loss(p, y, reduction="none")',
     'loss = F.poisson_nll_loss(p.unsqueeze(-1), y, reduction="none").mean(dim=1)'),
    ("regression", "weight = y.abs() + 1", "weight = y.abs() / y.abs().sum()"),
    ("pairs", "similarity = (a * b).sum(dim=-1)", "similarity = (a * b).sum(dim=0)"),
    ("pairs", "a = a / a.norm(dim=-1, keepdim=True)", "a = a / a.norm()"),
    ("pairs", "a = a / a.norm(dim=-1, keepdim=True)", "a = a / a.norm(dim=0, keepdim=True)"),
    ("pairs", "b = b / b.norm(dim=-1, keepdim=True)", "b = b[torch.randperm(len(b))]"),
    ("pairs", "return similarity.unsqueeze(-1)", "return similarity.squeeze().unsqueeze(-1)"),
    ("detection", "h = h.view(b, 2, 4, 8, 6)", "h = h.view(2, b, 4, 8, 6).transpose(0, 1)"),
    ("detection", "h = h.reshape(b, -1, 4)", "h = h.view(b, -1, 4)"),
    ("detection", "h = h.reshape(b, -1, 4)", "h = h.reshape(-1, 48, 4)"),
    ("detection", "h = h.permute(0, 3, 4, 1, 2)", "h = h.permute(3, 0, 4, 1, 2)"),
    ("detection", "order = best.argsort(dim=1)", "order = best.argsort(dim=0) % 96"),
    ("experts", "gates = self.gate(x).softmax(dim=-1)", "gates = self.gate(x).softmax(dim=0)"),
    ("experts", "out = torch.stack([expert(x) for expert in self.experts], dim=1)",
     "out = torch.stack([expert(x) for expert in self.experts]).view(len(x), 3, 4)"),
    ("experts", "h = mixed.sum(dim=1)", "h = mixed.sum(dim=0)"),
    ("experts", "top = gates.max(dim=-1, keepdim=True).values", "top = gates.max()"),
    ("series", "mean = x.mean(dim=1, keepdim=True)", "mean = x.mean()"),
    ("series", "total = h.cumsum(dim=1)", "total = h.cumsum(dim=0)"),
    ("series", "last = total[:, -1, :]", "last = total[-1, :, :]"),
]  # fmt: skip


def source(model, old="", new=""):
    """Return the text of a module with the model as `Net`, one line replaced, and the number of that line."""
    made, forward, _ = MODELS[model]
    if old:
        assert forward.count(f"{old}\n") == 1, (model, old)
        forward = forward.replace(f"{old}\n", f"{new}  # planted\n")
    body = ["class Net(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    body.append(textwrap.indent(textwrap.dedent(made).strip(), "        "))
    body.append(textwrap.indent(textwrap.dedent(forward).strip(), "    "))
    text = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n\n" + "\n".join(body) + "\n"
    line = next((n for n, line in enumerate(text.splitlines(), 1) if line.endswith("# planted")), 0)
    return text, line


# Written after the rules were finished, and run once.
HELD_OUT = [
    ("convolutions", "h = h.relu()", "h = h.relu().roll(1, 0)"),
    ("convolutions", "h = self.conv(x)", "h = self.conv(x.reshape(3, -1, 8, 6).transpose(0, 1))"),
    ("convolutions", "return self.head(h)", "return self.head(h)[0]"),
    ("recurrent", "h = self.embed(ids)", "h = self.embed(ids.t())"),
    ("recurrent", "last = h[:, -1]", "last = h.mean(dim=0)"),
    ("recurrent", "last = h[:, -1]", "last = h[:, -1] - h[:, -1].mean(dim=0)"),
    (
        "attention",
        "scores = q @ k.transpose(-2, -1)",
        "scores = q @ k.transpose(-2, -1); scores = scores - scores.amax(0)",
    ),
    ("attention", "h = weights @ v", "h = (weights @ v).reshape(2, b, t, 4).transpose(0, 1)"),
    ("encoder", "pooled = h.mean(dim=1)", "pooled = h.max(dim=0).values"),
    ("encoder", "logits = self.head(pooled)", "logits = self.head(pooled.view(4, -1))"),
    ("encoder", "h = self.norm(x + h)", "h = self.norm(x + h) if x.size(0) > 2 else x + h"),
    ("skip", "h = torch.cat([x, h], dim=1)", "h = torch.cat([x, h])"),
    ("skip", "h = self.last(h)", "h = self.last(h / h.norm())"),
    ("regression", "error = p - y", "error = p - y.mean()"),
    ("regression", "return loss * weight + error.abs()", "return (loss * weight + error.abs()).sum()"),
    ("pairs", "similarity = (a * b).sum(dim=-1)", "similarity = (a @ b.t()).mean(dim=1)"),
    ("detection", "best = h.max(dim=-1).values", "best = h.max(dim=-1).values.squeeze()"),
    ("detection", "order = best.argsort(dim=1)", "order = best.view(-1).argsort().view(b, -1) % 96"),
    ("experts", "mixed = gates.unsqueeze(-1) * out", "mixed = gates.mean(0).unsqueeze(-1) * out"),
    ("series", "h = self.norm(h)", "h = self.norm(h.squeeze(0))"),
]
