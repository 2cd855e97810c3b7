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


def reference(seed, more=()):
    """The reference run: clean streaming text, 8x data. Several arms compare with it."""
    return Job(0, "reference", seed, ((Stage(), (Test("reference"), *more)),))


def first_arms(seed):
    """Arms 1 to 4 and 7, the most important first."""
    quality = () if seed else (
        Test("last four frames", memory=4), Test("grey pictures", blind=True),
        Test("fp8", precision="fp8"), Test("int8 cache", cache="int8"),
    )  # fmt: skip
    yield reference(seed, quality)
    caption = Stage(form="caption")
    yield Job(1, "caption", seed, (
        (caption, (Test("caption format, at the end", "caption"), Test("caption format, streamed"))),
    ))  # fmt: skip
    contexts = ("none", "title", "previous", "both", "title or previous")
    for context in contexts:
        yield Job(2, context, seed, (
            (Stage(CLUB, context=context), (Test(context, text=CLUB, context=context),)),
        ))  # fmt: skip
    for times in (1, 2, 4, 16):
        yield Job(3, f"{times}x", seed, ((Stage(times=times), (Test(f"{times}x, equal steps"),)),))
    asked = Test("with questions, answers", "questions")
    yield Job(4, "noisy then clean", seed, (
        (Stage(NOISY, times=16), (Test("noisy only"), Test("noisy only, answers", "questions"))),
        (Stage(CLEAN, times=2, share=0.5, rate=0.5), (Test("noisy then clean"),)),
    ), cost=1.5)  # fmt: skip
    yield Job(4, "clean only", seed, ((Stage(CLEAN, times=2), (Test("clean only"),)),))
    yield Job(4, "noisy then clean and questions", seed, (
        (Stage(NOISY, times=16), ()),
        (
            Stage(CLEAN, times=2, questions=16, repeat=6, share=0.5, rate=0.5),
            (Test("noisy then clean and questions"), asked),
        ),
    ), cost=1.5)  # fmt: skip
    for tail in (0, 3, 8):
        yield Job(7, f"tail {tail}", seed, (
            (Stage(cut=True, tail=tail), (Test(f"clips cut at silences, {tail} silent seconds kept"),)),
        ))  # fmt: skip


def later_arms(seed):
    """Arms 3 (equal epochs), 5, 6, 8 to 11."""
    yield Job(0, "text only", seed, ((Stage(blind=True), (Test("text-only model", blind=True),)),))
    for times, share in ((1, 1 / 8), (4, 1 / 2), (16, 2.0)):
        yield Job(3, f"{times}x, equal epochs", seed, (
            (Stage(times=times, share=share), (Test(f"{times}x, equal epochs"),)),
        ), cost=share)  # fmt: skip
    yield Job(5, "sequential", seed, ((Stage(positions="sequential"), (
        Test("trained sequential, streamed sequential", positions="sequential"),
        Test("trained sequential, streamed hybrid", positions="hybrid"),
    )),))  # fmt: skip
    for pack, weighting in ((True, "token"), (False, "token"), (True, "example")):
        name = f"{'packed' if pack else 'one example a row'}, {weighting} weighting"
        stage = Stage(cut=True, tail=8, pack=pack, weighting=weighting)
        yield Job(6, name, seed, ((stage, (Test(name),)),))
    yield Job(6, "split", seed, ((Stage(split=1152), (Test("matches split in two"),)),))
    for rank in (0, 4, 16, 64):
        name = f"LoRA of rank {rank}" if rank else "full training"
        before = () if rank else (Test("noisy model, new style", text=RADIO),)
        yield Job(11, name, seed, (
            (Stage(NOISY, times=16), before),
            (
                Stage(RADIO, times=1, share=0.25, lora=rank, rate=1.0 if rank else 0.5),
                (Test(f"{name}, new style", text=RADIO),),
            ),
        ), cost=1.3)  # fmt: skip


def long_streams(seed):
    """Arm 9: streams of half an hour, with a full context to its limit and with rolling ones."""
    windows = [Test(f"rolling, {n} turns", "long", window=n) for n in (8, 16, 32)]
    return Job(9, "long", seed, ((Stage(), (Test("full", "long"), *windows)),), cost=3.0)


def all_jobs():
    """Every job, in the order in which they are worth their time."""
    jobs = [*first_arms(0), *later_arms(0), long_streams(0)]
    for seed in (1, 2):
        jobs += first_arms(seed)
    return jobs
