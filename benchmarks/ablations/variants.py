"""The arms: what is varied in each, everything else being the recipe's."""

from dataclasses import dataclass, field

BASE_MATCHES = 64  # 1x
CLEAN, NOISY, CLUB, RADIO = "calm", "noisy", "club", "radio"

# Commentaries of every match: (kind, style, seed, whether the players are introduced before).
TEXTS = (
    ("calm", ("clean", "calm", 0, False)),
    ("calm 2", ("clean", "calm", 1, False)),
    ("noisy", ("noisy", "calm", 2, False)),
    ("club", ("clean", "club", 0, True)),
    ("club 2", ("clean", "club", 1, True)),
    ("radio", ("clean", "radio", 0, False)),
    ("radio 2", ("clean", "radio", 1, False)),
)
# Of half an hour: no scores and counts, which have no words beyond twenty.
LONG_TEXTS = (("plain", ("clean", "plain", 0, False)),)


@dataclass(frozen=True)
class Stage:
    """One training, from the parameters of the stage before if there is one.

    Attributes:
        text: Which commentary is trained on; "" for questions alone.
        times: How many times `BASE_MATCHES` matches.
        questions: How many times `BASE_MATCHES` matches questions are asked about, in the mixture.
        repeat: How often an epoch of a mixture holds each commentary.
        form: `stream` or `caption`.
        context: One of `examples.CONTEXTS`.
        positions: Position mode.
        cut: Whether matches are cut at silences.
        tail: Seconds of silence that are kept at the end of a clip.
        pack: Whether several examples share a row.
        weighting: `token` or `example`.
        split: Tokens at which examples are split; 0 does not.
        share: Share of the recipe's steps.
        blind: Whether all pictures are grey.
        lora: Rank of adapters; 0 trains everything.
        rate: Multiplies the recipe's learning rate.
    """

    text: str = CLEAN
    times: int = 8
    questions: int = 0
    repeat: int = 1
    form: str = "stream"
    context: str = "title or previous"
    positions: str = "mrope"
    cut: bool = False
    tail: int = 0
    pack: bool = True
    weighting: str = "token"
    split: int = 0
    share: float = 1.0
    blind: bool = False
    lora: int = 0
    rate: float = 1.0


@dataclass(frozen=True)
class Test:
    """One evaluation of trained parameters.

    Attributes:
        variant: Name of the result.
        kind: `stream`, `caption` (all words at the end), `questions`, `long` (half an hour).
        text: Reference commentary; its second draw is the ceiling.
        context: Form of context.
        positions: Position mode.
        memory: Frames that each turn sees, without memory; 0 streams.
        blind: Whether all pictures are grey.
        precision: Of matrix products.
        cache: Precision of keys and values.
        window: Turns that a rolling cache keeps; 0 keeps all.
    """

    variant: str
    kind: str = "stream"
    text: str = CLEAN
    context: str = "title or previous"
    positions: str = "mrope"
    memory: int = 0
    blind: bool = False
    precision: str = "weights"
    cache: str = "weights"
    window: int = 0


@dataclass(frozen=True)
class Job:
    """Trainings one after the other, with evaluations after each.

    Attributes:
        arm: Number of the arm; 0 is the reference that several arms share.
        name: Name of the job.
        seed: Seed of parameters and packing.
        stages: (stage, evaluations after it).
        cost: Estimate, in units of one reference run.
    """

    arm: int
    name: str
    seed: int
    stages: tuple = field(default_factory=tuple)
    cost: float = 1.0

    @property
    def key(self):
        return f"{self.arm}/{self.name}/{self.seed}"


REFERENCE = Stage()
NOISY_FIRST = Stage(NOISY, times=16)
CLEAN_AFTER = Stage(CLEAN, times=2, share=0.5, rate=0.5)
ASKED_AFTER = Stage(CLEAN, times=2, questions=16, repeat=6, share=0.5, rate=0.5)


def main_arms(seed):
    """The reference and arms 1 to 4 and 7, the most important first."""
    yield Job(0, "reference", seed, ((REFERENCE, (Test("reference"),)),))
    caption = (Test("caption format, at the end", "caption"), Test("caption format, streamed"))
    yield Job(1, "caption", seed, ((Stage(form="caption"), caption),), cost=1.5)
    for context in ("none", "title or previous", "previous", "title", "both"):
        yield Job(2, context, seed, (
            (Stage(CLUB, context=context), (Test(context, text=CLUB, context=context),)),
        ))  # fmt: skip
    for times in (1, 16, 4, 2):
        yield Job(3, f"{times}x", seed, ((Stage(times=times), (Test(f"{times}x, equal steps"),)),))
    yield Job(4, "noisy then clean", seed, (
        (NOISY_FIRST, (Test("noisy only"),)), (CLEAN_AFTER, (Test("noisy then clean"),)),
    ), cost=1.5)  # fmt: skip
    yield Job(4, "clean only", seed, ((Stage(times=2), (Test("clean only"),)),), cost=0.2)
    for tail in (0, 8, 3):
        name = f"clips cut at silences, {tail} silent seconds kept"
        yield Job(7, f"tail {tail}", seed, ((Stage(cut=True, tail=tail), (Test(name),)),))
    yield Job(4, "noisy then clean and questions", seed, (
        (NOISY_FIRST, ()), (ASKED_AFTER, (Test("noisy then clean and questions"),)),
    ), cost=0.6)  # fmt: skip


def other_arms(seed):
    """The text-only model, arms 3 (equal epochs), 5, 6 and 9 to 11, and answers to questions."""
    yield Job(0, "text only", seed, ((Stage(blind=True), (Test("text-only model", blind=True),)),))
    yield Job(0, "without memory", seed, (
        (REFERENCE, (Test("last four frames", memory=4), Test("grey pictures", blind=True))),
    ), cost=0.5)  # fmt: skip
    for times, share in ((1, 1 / 8), (4, 1 / 2)):
        yield Job(3, f"{times}x, equal epochs", seed, (
            (Stage(times=times, share=share), (Test(f"{times}x, equal epochs"),)),
        ), cost=0.2 + share)  # fmt: skip
    yield Job(5, "sequential", seed, ((Stage(positions="sequential"), (
        Test("trained sequential, streamed sequential", positions="sequential"),
        Test("trained sequential, streamed hybrid", positions="hybrid"),
    )),), cost=1.3)  # fmt: skip
    for rank in (0, 16, 4, 64):
        name = f"LoRA of rank {rank}" if rank else "full training"
        before = () if rank else (Test("noisy model, new commentator", text=RADIO),)
        adapted = Stage(RADIO, times=1, share=0.25, lora=rank, rate=2.0 if rank else 0.5)
        yield Job(11, name, seed, (
            (NOISY_FIRST, before), (adapted, (Test(f"{name}, new commentator", text=RADIO),)),
        ), cost=0.8)  # fmt: skip
    for pack, weighting in ((True, "token"), (False, "token"), (True, "example")):
        name = f"{'packed' if pack else 'one example a row'}, {weighting} weighting"
        stage = Stage(cut=True, tail=8, pack=pack, weighting=weighting)
        yield Job(6, name, seed, ((stage, (Test(name),)),))
    yield Job(10, "eight bits", seed, (
        (REFERENCE, (Test("fp8", precision="fp8"), Test("int8 cache", cache="int8"))),
    ))  # fmt: skip
    yield Job(4, "answers", seed, (
        (NOISY_FIRST, (Test("noisy only, answers", "questions"),)),
        (ASKED_AFTER, (Test("noisy then clean and questions, answers", "questions"),)),
    ))  # fmt: skip
    windows = [Test(f"rolling, {n} turns", "long", "plain", window=n) for n in (16, 8, 32)]
    yield Job(9, "long", seed, ((REFERENCE, (Test("full", "long", "plain"), *windows)),), cost=4.0)
    yield Job(6, "split", seed, ((Stage(split=1152), (Test("matches split in two"),)),))
    yield Job(3, "16x, equal epochs", seed, (
        (Stage(times=16, share=2.0), (Test("16x, equal epochs"),)),
    ), cost=2.2)  # fmt: skip


def all_jobs():
    """Every job, in the order in which they are worth their time."""
    return [*main_arms(0), *other_arms(0), *main_arms(1), *main_arms(2)]
