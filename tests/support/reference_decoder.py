"""The decoder by its definition, in numpy: what a token computes from the tokens it attends to.

Nothing here is shared with `livecc_jax.model`. Arrays are float64; keys are stored before rotation.
"""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class ReferenceCache:
    """What one layer attends to: keys [n, K, D] not rotated, values [n, K, D], positions [n, 3]."""

    keys: list = field(default_factory=list)
    values: list = field(default_factory=list)
    positions: list = field(default_factory=list)


def rotate(config, x, positions):
    """[n, H, D] at positions [n, 3], by the definition of multimodal rotary embedding."""
    half = config.head_dim // 2
    axis = np.repeat([0, 1, 2], config.mrope_section)
    angle = positions[:, axis] * config.rope_theta ** (-np.arange(half) * 2.0 / config.head_dim)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def rms_norm(config, x, scale):
    """RMSNorm of the last axis."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + config.norm_eps) * scale


def unstack_layers(params):
    """Returns the weights of every decoder layer, in float64."""
    stacked = params["text"]["layers"]
    count = len(stacked["input_norm"])

    def layer(tree, i):
        if isinstance(tree, dict):
            return {name: layer(x, i) for name, x in tree.items()}
        return np.asarray(tree[i], np.float64)

    return [layer(stacked, i) for i in range(count)]


def run_layers(config, layers, x, positions, caches):
    """Runs tokens through every layer; each attends to the caches and to the tokens before it.

    Args:
        config: Config of the decoder.
        layers: Weights from `unstack_layers`.
        x: [n, D] embeddings.
        positions: [n, 3].
        caches: One `ReferenceCache` for each layer; the tokens are added to them.

    Returns:
        ([n, D] hidden states, keys and values of the tokens: for each token a (key, value) per layer).
    """
    x, positions = np.asarray(x, np.float64), np.asarray(positions, np.float64)
    count, new_kv = len(x), []
    for w, cache in zip(layers, caches):
        a, m = w["attn"], w["mlp"]
        h = rms_norm(config, x, w["input_norm"])
        q, k, v = (np.einsum("nd,dhe->nhe", h, a[i]["kernel"]) + a[i]["bias"] for i in "qkv")
        cache.keys.extend(k)
        cache.values.extend(v)
        cache.positions.extend(positions)
        new_kv.append(list(zip(k, v)))
        keys = rotate(config, np.stack(cache.keys), np.stack(cache.positions))
        values, q = np.stack(cache.values), rotate(config, q, positions)
        visible = np.arange(len(keys)) <= np.arange(len(keys) - count, len(keys))[:, None]
        group = q.shape[1] // keys.shape[1]
        out = np.zeros_like(q)
        for head in range(q.shape[1]):
            scores = q[:, head] @ keys[:, head // group].T / np.sqrt(config.head_dim)
            scores = np.where(visible, scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ values[:, head // group]
        x = x + np.einsum("nhe,hed->nd", out, a["o"]["kernel"])
        h = rms_norm(config, x, w["post_norm"])
        gate = h @ m["gate"]["kernel"]
        x = x + (gate / (1 + np.exp(-gate)) * (h @ m["up"]["kernel"])) @ m["down"]["kernel"]
    return x, list(zip(*new_kv))


def generate(config, params, layers, x, positions, next_position, ids, caches, *, limit, penalty, ends):
    """Generates greedily after a prompt.

    Args:
        config: Config of the decoder.
        params: The parameter tree.
        layers: Weights from `unstack_layers`.
        x: [n, D], embeddings of the prompt.
        positions: [n, 3], positions of the prompt.
        next_position: Position of the first generated token.
        ids: Set of the token ids so far, with those of the prompt; generated ids are added.
        caches: As in `run_layers`.
        limit: Largest number of tokens.
        penalty: Repetition penalty.
        ends: Token ids that end a turn.

    Returns:
        (generated ids, keys and values of the prompt, keys and values of the generated tokens).
    """
    text = params["text"]
    head = np.asarray(text["embed"], np.float64).T if "head" not in text else text["head"]
    head, scale = np.asarray(head, np.float64), np.asarray(text["norm"], np.float64)
    hidden, prompt_kv = run_layers(config, layers, x, positions, caches)
    hidden, generated, generated_kv = hidden[-1], [], []
    while True:
        scores = rms_norm(config, hidden, scale) @ head
        for i in ids:
            scores[i] = scores[i] / penalty if scores[i] > 0 else scores[i] * penalty
        best = int(scores.argmax())
        if best in ends:
            break
        generated.append(best)
        if len(generated) == limit:
            break
        ids.add(best)
        at = np.full((1, 3), next_position + len(generated) - 1)
        (hidden,), (kv,) = run_layers(config, layers, text["embed"][best][None], at, caches)
        generated_kv.append(kv)
    return generated, prompt_kv, generated_kv
