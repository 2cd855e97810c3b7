"""The model and the recipe that all arms share."""

import dataclasses
from dataclasses import dataclass

from livecc_jax.model.config import ModelConfig, TextConfig, VisionConfig
from livecc_jax.model.presets import fit_vocabulary
from livecc_jax.train.config import ComputeConfig, OptimConfig


@dataclass(frozen=True)
class Recipe:
    """Sizes and steps.

    Attributes:
        name: Name of the recipe.
        width: Width of the decoder.
        layers: Layers of the decoder.
        heads: Attention heads of the decoder.
        mlp: Hidden width of its feed-forward layers.
        vision: Depth, width, heads and hidden width of the tower.
        tokens: Tokens of a row.
        targets: Supervised tokens of a row.
        rows_per_step: Rows of a step.
        steps: Steps of a run.
        learning_rate: Highest learning rate.
        size: Height and width of frames in pixels.
        seconds: Length of a match.
        test_matches: Number of matches that are tested on.
        test_batch: Number of test matches that are streamed together.
        long_matches: Number of long matches.
        long_seconds: Length of a long match.
        unroll: Whether training compiles layer by layer.
        drill: Whether matches are drills, two against two before a still camera.
    """

    name: str
    width: int
    layers: int
    heads: int
    mlp: int
    vision: tuple
    tokens: int
    targets: int
    rows_per_step: int
    steps: int
    learning_rate: float
    size: tuple = (84, 112)
    seconds: float = 60.0
    test_matches: int = 64
    test_batch: int = 64
    long_matches: int = 8
    long_seconds: float = 1800.0
    unroll: bool = False
    drill: bool = False

    @property
    def windows(self):
        """Vision windows of a row: as many as its tokens can hold, beside the text of each second."""
        return self.tokens // (self.budget + 22)

    @property
    def context(self):
        """Tokens of a stream's context."""
        return 512 * -(-(self.tokens + 512) // 512)

    @property
    def budget(self):
        return (self.size[0] // 28) * (self.size[1] // 28)

    def model(self, tokenizer):
        half = self.width // self.heads // 2
        section = (half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8)
        text = TextConfig(
            vocab_size=151936, width=self.width, layers=self.layers, heads=self.heads,
            kv_heads=self.heads // 2, mlp=self.mlp, mrope_section=section, tied=True,
            rope_theta=10_000.0,
        )  # fmt: skip
        return fit_vocabulary(ModelConfig(text, VisionConfig(*self.vision)), tokenizer)

    def optim(self, **changes):
        return dataclasses.replace(
            OptimConfig(
                learning_rate=self.learning_rate, warmup_ratio=0.05, weight_decay=0.05, b2=0.95
            ),
            **changes,
        )

    def compute(self, **changes):
        import jax

        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        return ComputeConfig(
            dtype=dtype, remat="none", freeze=(), head_chunk=512, unroll=self.unroll, **changes
        )


RECIPES = {
    "drill": Recipe(
        "drill",
        384,
        6,
        6,
        1024,
        (4, 192, 4, 768),
        1408,
        256,
        8,
        500,
        1e-3,
        (56, 84),
        seconds=24.0,
        drill=True,
    ),
    "drill-fast": Recipe(
        "drill-fast",
        384,
        6,
        6,
        1024,
        (4, 192, 4, 768),
        1408,
        256,
        8,
        500,
        2e-3,
        (56, 84),
        seconds=24.0,
        drill=True,
    ),
    "drill-little": Recipe(
        "drill-little",
        128,
        3,
        4,
        384,
        (3, 96, 4, 384),
        1408,
        256,
        8,
        800,
        3e-3,
        (56, 84),
        seconds=24.0,
        drill=True,
    ),
    # Whether everything runs; nothing is learned.
    "smoke": Recipe(
        "smoke",
        32,
        1,
        2,
        64,
        (1, 32, 2, 64),
        640,
        160,
        1,
        10,
        1e-3,
        (56, 84),
        seconds=16.0,
        test_matches=2,
        test_batch=2,
        long_matches=2,
        long_seconds=120.0,
    ),
    # For a look on a CPU.
    "cpu": Recipe("cpu", 128, 3, 4, 384, (2, 64, 2, 256), 2304, 384, 2, 150, 2e-3),
    # 12 million parameters.
    "small": Recipe("small", 384, 6, 6, 1024, (4, 192, 4, 768), 2240, 320, 8, 700, 1e-3),
}
