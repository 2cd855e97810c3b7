"""The decoder by its definition, in numpy: what a token computes of what it attends to.

Nothing here is shared with `livecc_jax.model`. Arrays are float64; keys are kept before rotation.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Memory:
    """What one layer attends to: keys [n, K, D] not rotated, values [n, K, D], positions [n, 3]."""

    keys: list = field(default_factory=list)
    values: list = field(default_factory=list)
    positions: list = field(default_factory=list)


def rotated(config, x, positions):
    """[n, H, D] at positions [n, 3], by the definition of multimodal rotary embedding."""
    half = config.head_dim // 2
    axis = np.repeat([0, 1, 2], config.mrope_section)
    angle = positions[:, axis] * config.rope_theta ** (-np.arange(half) * 2.0 / config.head_dim)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def normed(config, x, scale):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + config.norm_eps) * scale


def layers_of(params):
    """Every layer's weights."""
    stacked = params["text"]["layers"]
    count = len(stacked["input_norm"])

    def one(tree, i):
        if isinstance(tree, dict):
            return {name: one(x, i) for name, x in tree.items()}
        return np.asarray(tree[i], np.float64)

    return [one(stacked, i) for i in range(count)]


def run_tokens(config, layers, x, positions, memories):
    """Tokens through every layer, each after all in the memories and those before it.

    Args:
        config: of the decoder.
        layers: from `layers_of`.
        x: [n, D] embeddings.
        positions: [n, 3].
        memories: one for each layer; the tokens are added to them.

    Returns:
        ([n, D] hidden states, what each token leaves behind: [n] of a (key, value) for each layer).
    """
    x, positions = np.asarray(x, np.float64), np.asarray(positions, np.float64)
    count, left = len(x), []
    for w, memory in zip(layers, memories):
        a, m = w["attn"], w["mlp"]
        h = normed(config, x, w["input_norm"])
        q, k, v = (np.einsum("nd,dhe->nhe", h, a[i]["kernel"]) + a[i]["bias"] for i in "qkv")
        memory.keys.extend(k)
        memory.values.extend(v)
        memory.positions.extend(positions)
        left.append(list(zip(k, v)))
        keys = rotated(config, np.stack(memory.keys), np.stack(memory.positions))
        values, q = np.stack(memory.values), rotated(config, q, positions)
        seen = np.arange(len(keys)) <= np.arange(len(keys) - count, len(keys))[:, None]
        group = q.shape[1] // keys.shape[1]
        out = np.zeros_like(q)
        for head in range(q.shape[1]):
            scores = q[:, head] @ keys[:, head // group].T / np.sqrt(config.head_dim)
            scores = np.where(seen, scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ values[:, head // group]
        x = x + np.einsum("nhe,hed->nd", out, a["o"]["kernel"])
        h = normed(config, x, w["post_norm"])
        gate = h @ m["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ m["up"]["kernel"])) @ m["down"]["kernel"]
    return x, list(zip(*left))


def answer(config, params, layers, x, positions, following, ids, memories, *, limit, penalty, ends):
    """What is said greedily after a prompt.

    Args:
        config: of the decoder.
        params: the parameter tree.
        layers: from `layers_of`.
        x: [n, D], the prompt's embeddings.
        positions: [n, 3] of the prompt.
        following: position of the first token said.
        ids: set of the ids so far, the prompt's included; what is said is added.
        memories: as in `run_tokens`.
        limit: most tokens.
        penalty: of repetition.
        ends: ids that end a turn.

    Returns:
        (ids said, what the prompt leaves behind, what the answer does).
    """
    text = params["text"]
    head = np.asarray(text["embed"], np.float64).T if "head" not in text else text["head"]
    head, scale = np.asarray(head, np.float64), np.asarray(text["norm"], np.float64)
    hidden, left = run_tokens(config, layers, x, positions, memories)
    hidden, said, leaves = hidden[-1], [], []
    while True:
        scores = normed(config, hidden, scale) @ head
        for i in ids:
            scores[i] = scores[i] / penalty if scores[i] > 0 else scores[i] * penalty
        best = int(scores.argmax())
        if best in ends:
            break
        said.append(best)
        if len(said) == limit:
            break
        ids.add(best)
        at = np.full((1, 3), following + len(said) - 1)
        (hidden,), (leaf,) = run_tokens(config, layers, text["embed"][best][None], at, memories)
        leaves.append(leaf)
    return said, left, leaves
