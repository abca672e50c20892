"""Further architectures: networks of monai, configurations of transformers, and nets as people write them by hand."""

import itertools

import torch
import torch.nn.functional as F
from tests.shapes.architectures import words
from torch import nn

# --- monai ---------------------------------------------------------------------------------------------------------------


def volume(*shape):
    return lambda batch: torch.randn(batch, *shape)


def net(name, inputs, *args, **options):
    def build():
        import monai.networks.nets as nets

        return getattr(nets, name)(*args, **options), inputs

    return build


FLAT = volume(1, 32, 32)
SIZES = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
MONAI = {
    "unet": net("UNet", FLAT, **SIZES, channels=(4, 8, 16), strides=(2, 2), num_res_units=1),
    "basic unet": net("BasicUNet", FLAT, **SIZES, features=(4, 4, 8, 8, 8, 4)),
    "basic unet++": net("BasicUNetPlusPlus", FLAT, **SIZES, features=(4, 4, 8, 8, 8, 4)),
    "attention unet": net("AttentionUnet", FLAT, **SIZES, channels=(4, 8, 16), strides=(2, 2)),
    "dynunet": net("DynUNet", FLAT, **SIZES, kernel_size=[3, 3, 3], strides=[1, 2, 2], upsample_kernel_size=[2, 2],
        filters=[4, 8, 16]),
    "segresnet": net("SegResNet", FLAT, **SIZES, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)),
    "segresnet ds": net("SegResNetDS", FLAT, **SIZES, init_filters=8, blocks_down=(1, 1)),
    "highresnet": net("HighResNet", volume(1, 16, 16), **SIZES),
    "densenet": net("DenseNet", FLAT, **SIZES, init_features=8, growth_rate=4, block_config=(2, 2)),
    "senet": net("SEResNet50", volume(1, 33, 33), spatial_dims=2, in_channels=1, num_classes=2),
    "resnet 3d": net("ResNet", volume(1, 16, 16, 16), "basic", [1, 1, 1, 1], [4, 8, 8, 8], n_input_channels=1,
        num_classes=2),
    "efficientnet": net("EfficientNetBN", FLAT, "efficientnet-b0", pretrained=False, spatial_dims=2, in_channels=1,
        num_classes=2),
    "autoencoder": net("AutoEncoder", FLAT, **SIZES, channels=(4, 8), strides=(2, 2)),
    "regressor": net("Regressor", FLAT, (1, 32, 32), (2,), channels=(4, 8), strides=(2, 2)),
    "classifier": net("Classifier", FLAT, (1, 32, 32), 3, channels=(4, 8), strides=(2, 2)),
    "discriminator": net("Discriminator", FLAT, (1, 32, 32), channels=(4, 8), strides=(2, 2)),
    "critic": net("Critic", FLAT, (1, 32, 32), channels=(4, 8), strides=(2, 2)),
    "generator": net("Generator", volume(6), (6,), (4, 4, 4), channels=(4, 1), strides=(2, 2)),
    "fully connected": net("FullyConnectedNet", volume(10), 10, 3, (8, 8)),
    "mednext": net("MedNeXt", FLAT, spatial_dims=2, init_filters=4, in_channels=1, out_channels=2, blocks_down=(1, 1),
        blocks_bottleneck=1, blocks_up=(1, 1)),
    "globalnet": net("GlobalNet", FLAT, image_size=(32, 32), spatial_dims=2, in_channels=1, num_channel_initial=4, depth=2),
    "localnet": net("LocalNet", FLAT, spatial_dims=2, in_channels=1, out_channels=2, num_channel_initial=4,
        extract_levels=(0, 1)),
    "vqvae": net("VQVAE", FLAT, spatial_dims=2, in_channels=1, out_channels=1, channels=(4, 4), num_res_channels=4,
        num_res_layers=1, downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)), upsample_parameters=((2, 4, 1, 1, 0),
        (2, 4, 1, 1, 0)), num_embeddings=8, embedding_dim=4),
    "patch discriminator": net("PatchDiscriminator", FLAT, spatial_dims=2, channels=4, in_channels=1, num_layers_d=2),
}  # fmt: skip


# --- transformers --------------------------------------------------------------------------------------------------------
TRANSFORMERS = {
    "camembert": words("CamembertModel", "CamembertConfig", pad_token_id=0),
    "xlm_roberta": words("XLMRobertaForSequenceClassification", "XLMRobertaConfig", pad_token_id=0),
    "mpnet": words("MPNetModel", "MPNetConfig", pad_token_id=0),
    "ernie": words("ErnieModel", "ErnieConfig"),
    "convbert": words("ConvBertModel", "ConvBertConfig", embedding_size=16, conv_kernel_size=3),
    "nystromformer": words("NystromformerModel", "NystromformerConfig", num_landmarks=1, segment_means_seq_len=11),
    "roformer": words("RoFormerModel", "RoFormerConfig", embedding_size=16),
    "qwen3": words("Qwen3ForCausalLM", "Qwen3Config", num_key_value_heads=1, head_dim=8),
    "gemma2": words("Gemma2ForCausalLM", "Gemma2Config", num_key_value_heads=1, head_dim=8, sliding_window=4),
}  # fmt: skip


# --- by hand -------------------------------------------------------------------------------------------------------------
class Net(nn.Module):
    """A module from a function and layers."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *args):
        return self.function(self, *args)


def mixer(net, x):  # (B, 6, 8)
    x = x + net.tokens(x.transpose(1, 2)).transpose(1, 2)
    return (x + net.channels(x)).mean(1)


def graph(net, x, links):  # (B, 5, 4), (B, 5, 5)
    near = links.softmax(-1)
    return net.b(near @ F.relu(net.a(near @ x))).amax(1)


def causal(net, x):  # (B, 3, 20)
    for conv, dilation in ((net.a, 1), (net.b, 2)):
        x = x + torch.tanh(conv(F.pad(x, (2 * dilation, 0))))
    return x


def squeeze_excite(net, x):
    y = net.conv(x)
    return y * torch.sigmoid(net.gate(y.mean((2, 3))))[:, :, None, None]


def points(net, x):  # (B, 30, 3)
    return net.head(net.local(x).max(dim=1).values)


def siamese(net, a, b):
    return F.cosine_similarity(net.encode(a), net.encode(b))


def factorisation(net, ids):  # (B, 4)
    e = net.embed(ids)
    pairwise = 0.5 * (e.sum(1) ** 2 - (e**2).sum(1)).sum(1)
    return pairwise + net.linear(ids).sum((1, 2))


def text_cnn(net, ids):
    e = net.embed(ids).transpose(1, 2)
    return net.head(torch.cat([F.relu(conv(e)).amax(2) for conv in (net.two, net.three)], 1))


def sequence_to_sequence(net, source, target):
    memory, state = net.encoder(net.embed(source))
    out = net.decoder(net.embed(target), state)[0]
    scores = torch.einsum("btd,bsd->bts", out, memory).softmax(-1)
    return net.head(torch.cat([out, scores @ memory], -1))


def pointer(net, x):
    h = net.encoder(x)[0]
    return torch.bmm(h, net.query(h[:, -1]).unsqueeze(2)).squeeze(2).log_softmax(1)


def experts(net, x):
    gates = net.gate(x).softmax(-1)
    every = torch.stack([expert(x) for expert in net.experts], 1)
    return (gates.unsqueeze(-1) * every).sum(1)


def best_expert(net, x):
    best = net.gate(x).argmax(-1)
    out = torch.zeros_like(x)
    for number, expert in enumerate(net.experts):
        rows = (best == number).nonzero()[:, 0]
        out = out.index_copy(0, rows, expert(x[rows]))
    return out


def film(net, x, condition):
    scale, shift = net.condition(condition).chunk(2, -1)
    return net.conv(x) * scale[:, :, None, None] + shift[:, :, None, None]


def hyper(net, x, condition):
    weight = net.condition(condition).view(-1, 4, 6)
    return torch.einsum("boi,bi->bo", weight, x)


def spatial_transformer(net, x):
    theta = net.locate(x.flatten(1)).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)


def super_resolution(net, x):
    return F.pixel_shuffle(net.b(F.relu(net.a(x))), 2)


def variational(net, x):
    mean, spread = net.encode(x).chunk(2, -1)
    noise = torch.randn_like(mean) if net.training else torch.zeros_like(mean)
    return net.decode(mean + noise * (spread / 2).exp()), mean, spread


def euler(net, x):
    for _ in range(5):
        x = x + 0.1 * torch.tanh(net.field(x))
    return x


def capsules(net, x):
    votes = torch.einsum("bni,njoi->bnjo", x, net.weight)
    logits = torch.zeros(x.size(0), 6, 3)
    for _ in range(2):
        out = (logits.softmax(2).unsqueeze(-1) * votes).sum(1)
        logits = logits + (votes * out.unsqueeze(1)).sum(-1)
    return out.norm(dim=-1)


def perceiver(net, x):
    latent = net.latent.expand(x.size(0), -1, -1)
    return net.head(net.attention(latent, x, x)[0].mean(1))


def highway(net, x):
    gate = torch.sigmoid(net.gate(x))
    return gate * F.relu(net.plain(x)) + (1 - gate) * x


def recurrent_convolution(net, frames):  # (B, T, 2, 8, 8)
    state = frames.new_zeros(frames.size(0), 3, 8, 8)
    for frame in frames.unbind(1):
        state = torch.tanh(net.cell(torch.cat([frame, state], 1)))
    return state


def per_frame(net, frames):
    b, t = frames.shape[:2]
    return net.conv(frames.flatten(0, 1)).mean((2, 3)).view(b, t, -1).mean(1)


def masked_mean(net, x, lengths):
    mask = torch.arange(x.size(1))[None] < lengths[:, None]
    return net.head((net.encoder(x)[0] * mask[..., None]).sum(1) / lengths[:, None])


def packed(net, x, lengths):
    rows = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    return net.head(net.encoder(rows)[1][0][-1])


def relative(net, x):
    q, k = net.q(x), net.k(x)
    place = torch.arange(x.size(1))
    bias = net.bias((place[:, None] - place[None] + 10).clamp(0, 20)).squeeze(-1)
    return (q @ k.transpose(1, 2) / 8**0.5 + bias).softmax(-1) @ x


def windows(net, x):  # (B, 3, 8, 8)
    tiles = F.unfold(x, 4, stride=4).transpose(1, 2)
    return F.fold(net.mix(tiles).transpose(1, 2), 8, 4, stride=4)


def spectral(net, x):  # (B, 16)
    return torch.fft.irfft(torch.fft.rfft(x) * torch.view_as_complex(net.filter), n=16)


def retention(net, x):
    q, k, v = net.qkv(x).view(*x.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
    time, decay = torch.arange(x.size(1)), torch.tensor([0.9, 0.97])[:, None, None]
    weights = torch.where(time[:, None] >= time, decay ** (time[:, None] - time).clamp(min=0), 0.0)
    return net.out(((q @ k.transpose(-1, -2) * weights) @ v).transpose(1, 2).flatten(2))


def selective_scan(net, x):
    step = F.softplus(net.step(x))
    decay, write = torch.exp(-step[..., None] * net.rate.exp()), (step * x)[..., None] * net.write(x)[:, :, None]
    state, out = x.new_zeros(len(x), 8, 4), []
    for t in range(x.size(1)):
        state = decay[:, t] * state + write[:, t]
        out.append((state * net.read(x[:, t])[:, None]).sum(-1))
    return torch.stack(out, 1)


def set_prediction(net, x):
    memory = net.backbone(x).flatten(2).permute(2, 0, 1)
    out = net.transformer(memory, net.queries.unsqueeze(1).repeat(1, len(x), 1)).transpose(0, 1)
    return {"logits": net.head(out), "boxes": net.head(out).sigmoid()}


def acoustic(net, x, lengths):
    y, lengths = F.relu(net.conv(x)).transpose(1, 2), (lengths - 1) // 2 + 1
    packed = nn.utils.rnn.pack_padded_sequence(y, lengths, batch_first=True, enforce_sorted=False)
    return net.head(nn.utils.rnn.pad_packed_sequence(net.encoder(packed)[0])[0]).log_softmax(-1), lengths


def nested_unet(net, x):
    a = net.a(x)
    b = net.b(F.max_pool2d(a, 2))
    c = net.c(torch.cat([a, F.interpolate(b, scale_factor=2.0)], 1))
    return [c, net.d(torch.cat([a, c], 1))]


def codebook(net, x):
    z = net.encode(x).permute(0, 2, 3, 1)
    nearest = torch.cdist(z.flatten(0, 2), net.codes.weight).argmin(1).view(z.shape[:3])
    return net.decode(net.codes(nearest).permute(0, 3, 1, 2)), nearest


def sounds(batch):
    return torch.randn(batch, 8, 20), torch.randint(6, 21, (batch,))


def real(*shapes):
    return lambda batch: tuple(torch.randn(batch, *shape) for shape in shapes)


def numbers(*lengths):
    return lambda batch: tuple(torch.randint(1, 50, (batch, length)) for length in lengths)


def with_lengths(batch):
    return torch.randn(batch, 7, 6), torch.randint(1, 8, (batch,))


def hand(forward, inputs, **layers):
    return lambda: (Net(forward, **{name: make() for name, make in layers.items()}), inputs)


def linear(*sizes):
    return lambda: nn.Sequential(
        *[part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())][:-1]
    )


HAND = {
    "retention": hand(retention, real((6, 8)), qkv=linear(8, 24), out=linear(8, 8)),
    "selective scan": hand(selective_scan, real((5, 8)), rate=lambda: nn.Parameter(torch.randn(8, 4)), step=linear(8, 8),
                           write=linear(8, 4), read=linear(8, 4)),
    "set prediction": hand(set_prediction, real((3, 16, 16)), backbone=lambda: nn.Conv2d(3, 8, 8, 8), head=linear(8, 4),
                           transformer=lambda: nn.Transformer(8, 2, 1, 1, 16), queries=lambda: nn.Parameter(torch.rand(5, 8))),
    "acoustic": hand(acoustic, sounds, conv=lambda: nn.Conv1d(8, 6, 3, 2, 1), head=linear(10, 7),
                     encoder=lambda: nn.GRU(6, 5, bidirectional=True, batch_first=True)),
    "nested unet": hand(nested_unet, real((3, 16, 16)), a=lambda: nn.Conv2d(3, 4, 3, padding=1), b=lambda: nn.Conv2d(4, 4, 3,
        padding=1), c=lambda: nn.Conv2d(8, 4, 3, padding=1), d=lambda: nn.Conv2d(8, 2, 1)),
    "codebook": hand(codebook, real((1, 8, 8)), encode=lambda: nn.Conv2d(1, 6, 4, 2, 1), codes=lambda: nn.Embedding(8, 6),
                     decode=lambda: nn.ConvTranspose2d(6, 1, 4, 2, 1)),
    "mixer": hand(mixer, real((6, 8)), tokens=linear(6, 12, 6), channels=linear(8, 16, 8)),
    "graph": hand(graph, real((5, 4), (5, 5)), a=linear(4, 8), b=linear(8, 3)),
    "causal": hand(causal, real((3, 20)), a=lambda: nn.Conv1d(3, 3, 3), b=lambda: nn.Conv1d(3, 3, 3, dilation=2)),
    "squeeze and excite": hand(squeeze_excite, real((3, 8, 8)), conv=lambda: nn.Conv2d(3, 6, 3), gate=linear(6, 3, 6)),
    "points": hand(points, real((30, 3)), local=linear(3, 8, 16), head=linear(16, 4)),
    "siamese": hand(siamese, real((6,), (6,)), encode=linear(6, 12, 8)),
    "factorisation": hand(factorisation, numbers(4), embed=lambda: nn.Embedding(50, 6), linear=lambda: nn.Embedding(50, 1)),
    "text cnn": hand(text_cnn, numbers(9), embed=lambda: nn.Embedding(50, 6), two=lambda: nn.Conv1d(6, 4, 2),
                     three=lambda: nn.Conv1d(6, 4, 3), head=linear(8, 3)),
    "sequence to sequence": hand(sequence_to_sequence, numbers(7, 5), embed=lambda: nn.Embedding(50, 6), head=linear(16, 50),
                                 encoder=lambda: nn.GRU(6, 8, batch_first=True), decoder=lambda: nn.GRU(6, 8, batch_first=True)),
    "pointer": hand(pointer, real((7, 6)), encoder=lambda: nn.LSTM(6, 8, batch_first=True), query=linear(8, 8)),
    "experts": hand(experts, real((6,)), gate=linear(6, 3), experts=lambda: nn.ModuleList([nn.Linear(6,
        6) for _ in range(3)])),
    "best expert": hand(best_expert, real((6,)), gate=linear(6, 2), experts=lambda: nn.ModuleList([nn.Linear(6,
        6) for _ in range(2)])),
    "film": hand(film, real((3, 8, 8), (5,)), conv=lambda: nn.Conv2d(3, 4, 3), condition=linear(5, 8)),
    "hyper": hand(hyper, real((6,), (5,)), condition=linear(5, 24)),
    "spatial transformer": hand(spatial_transformer, real((1, 8, 8)), locate=linear(64, 8, 6)),
    "super resolution": hand(super_resolution, real((3, 8, 8)), a=lambda: nn.Conv2d(3, 8, 3, padding=1),
        b=lambda: nn.Conv2d(8, 12, 3, padding=1)),
    "variational": hand(variational, real((6,)), encode=linear(6, 8, 8), decode=linear(4, 8, 6)),
    "euler": hand(euler, real((6,)), field=linear(6, 12, 6)),
    "capsules": hand(capsules, real((6, 4)), weight=lambda: nn.Parameter(torch.randn(6, 3, 5, 4))),
    "perceiver": hand(perceiver, real((9, 8)), latent=lambda: nn.Parameter(torch.randn(1, 4, 8)), head=linear(8, 3),
                      attention=lambda: nn.MultiheadAttention(8, 2, batch_first=True)),
    "highway": hand(highway, real((6,)), gate=linear(6, 6), plain=linear(6, 6)),
    "recurrent convolution": hand(recurrent_convolution, real((4, 2, 8, 8)), cell=lambda: nn.Conv2d(5, 3, 3, padding=1)),
    "per frame": hand(per_frame, real((4, 3, 8, 8)), conv=lambda: nn.Conv2d(3, 6, 3)),
    "masked mean": hand(masked_mean, with_lengths, encoder=lambda: nn.GRU(6, 8, batch_first=True), head=linear(8, 3)),
    "packed": hand(packed, with_lengths, encoder=lambda: nn.LSTM(6, 8, batch_first=True), head=linear(8, 3)),
    "relative": hand(relative, real((7, 8)), q=linear(8, 8), k=linear(8, 8), bias=lambda: nn.Embedding(21, 1)),
    "windows": hand(windows, real((3, 8, 8)), mix=linear(48, 48)),
    "spectral": hand(spectral, real((16,)), filter=lambda: nn.Parameter(torch.randn(9, 2))),
}  # fmt: skip

FOREIGN = {
    f"{source}: {name}": build
    for source, group in (("monai", MONAI), ("transformers", TRANSFORMERS), ("hand", HAND))
    for name, build in group.items()
}
